"""Rows whose key is text that no program can be given: they are told of, and nobody else is kept waiting."""

import pytest

import seamark
from seamark.errors import InvalidRequestError
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.workbench import Workbench

BAD = "CAST(x'ff41' AS TEXT)"


@pytest.fixture
def bench(sqlite_backend):
    return Workbench(sqlite_backend)


@pytest.fixture
def table(bench):
    """A table of text keys, one of them not well-formed; it sorts last."""
    bench.app.run("CREATE TABLE t (id TEXT PRIMARY KEY, body TEXT)")
    bench.app.many("INSERT INTO t VALUES (?, ?)", [("a", "first dog"), ("b", "second dog"), ("é", "third dog")])
    bench.app.run(f"INSERT INTO t VALUES ({BAD}, 'body')")
    return bench.app


def counts(tracked):
    """Return live, embedded, missing and failed rows of each index."""
    found = tracked.coverage().generations.values()
    return {(one.live, one.embedded, one.missing, one.failed) for one in found}


def keys_found(tracked):
    return {hit.key for mode in ("hybrid", "lexical", "vector") for hit in tracked.search("dog", mode=mode, limit=10)}


def settled(service, tracked):
    """Say whether nothing is left to be claimed, swept up included."""
    generations = service.store.generations(tracked.source.id)
    claims = [service.store.lease_claim(generation.id, "w", 10, 60) for generation in generations]
    return all(claim.lease is None and not claim.again for claim in claims)


def test_a_key_that_is_not_well_formed_is_parked_and_its_neighbours_are_found(bench, table):
    with seamark.open(bench.backend.url, embedder=OracleEmbedder()) as service:
        tracked = service.attach("t", text="body")
        service.work(until="current")
        assert counts(tracked) == {(4, 3, 0, 1)}
        assert keys_found(tracked) == {"a", "b", "é"}
        failures = tracked.failures()
        assert {(failure.key, failure.kind, failure.retry_at) for failure in failures} == {(("\ufffdA",), "input", None)}
        assert all("X'ff41'" in failure.error for failure in failures)
        assert settled(service, tracked)


def test_it_is_parked_again_when_it_is_edited_or_tried_again(bench, table):
    with seamark.open(bench.backend.url, embedder=OracleEmbedder()) as service:
        tracked = service.attach("t", text="body")
        service.work(until="current")
        table.run(f"UPDATE t SET body = 'another' WHERE id = {BAD}")
        table.run("UPDATE t SET body = 'fourth dog' WHERE id = 'a'")
        service.work(until="current")
        assert counts(tracked) == {(4, 3, 0, 1)}
        assert tracked.failures_retry() > 0
        table.run("UPDATE t SET body = 'fifth dog' WHERE id = 'b'")
        service.work(until="current")
        assert counts(tracked) == {(4, 3, 0, 1)}
        assert all(failure.retry_at is None for failure in tracked.failures())
        assert settled(service, tracked)


@pytest.mark.parametrize("statement", ["DELETE FROM t WHERE id = ", "UPDATE t SET id = 'c', body = 'dog' WHERE id = "])
def test_its_tombstone_is_settled_and_dropped(bench, table, statement):
    with seamark.open(bench.backend.url, embedder=OracleEmbedder()) as service:
        tracked = service.attach("t", text="body")
        service.work(until="current")
        table.run(statement + BAD)
        table.run("UPDATE t SET body = 'a dog' WHERE id = 'a'")
        service.work(until="current")
        live = table.run("SELECT count(*) FROM t")[0][0]
        assert counts(tracked) == {(live, live, 0, 0)}
        assert tracked.failures() == ()
        assert settled(service, tracked)
        assert service.store.journal_trim(tracked.source.id) == 1


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_an_enrolment_goes_on_from_such_a_key(bench, table, batch):
    """They are remembered as they are, wherever a batch ends."""
    table.run("INSERT INTO t VALUES (CAST(x'ff' AS TEXT), 'x'), (CAST(x'fffe' AS TEXT), 'y')")
    source = bench.attach("t", ("body",), batch=batch)
    generation = bench.vector(source)
    assert bench.store.coverage(source, [generation.id])[generation.id].live == 6
    bench.drain(source, generation, limit=2)
    found = bench.store.coverage(source, [generation.id])[generation.id]
    assert (found.live, found.embedded, found.missing, found.failed, found.leases) == (6, 3, 0, 3, 0)


def test_one_of_several_columns_is_enough(bench):
    bench.app.run("CREATE TABLE t (org INTEGER, id TEXT, body TEXT, PRIMARY KEY (org, id))")
    bench.app.run(f"INSERT INTO t VALUES (1, {BAD}, 'x'), (1, 'a', 'y'), (2, {BAD}, 'z')")
    source = bench.attach("t", ("body",), batch=1)
    for generation in (bench.vector(source), bench.lexical(source)):
        bench.drain(source, generation, limit=1)
        found = bench.store.coverage(source, [generation.id])[generation.id]
        assert (found.live, found.embedded, found.missing, found.failed) == (3, 1, 0, 2)
        assert sorted(failure.key for failure in bench.store.failures(source, generation.id, 9)) == [
            (1, "\ufffdA"),
            (2, "\ufffdA"),
        ]


def test_it_hides_no_other_row_from_a_query(bench, table):
    """In the views and in the table; U+FFFD stands for what is no text."""
    with seamark.open(bench.backend.url, embedder=OracleEmbedder()) as service:
        service.attach("t", text="body")
        service.work(until="current")
        query = "SELECT key, status AS s FROM embedding_jobs WHERE kind = ? ORDER BY key DESC;"
        found = service.sql(query, ["vector"])
        assert ("key", "s") == found.columns
        assert [('"\ufffdA"', "failed"), ('"é"', "done"), ('"b"', "done"), ('"a"', "done")] == list(found.rows)
        rows = service.sql("WITH x AS (SELECT id, length(body), x'ff' FROM t) SELECT * FROM x -- all of them").rows
        assert {("a", 9, b"\xff"), ("b", 10, b"\xff"), ("é", 9, b"\xff"), ("\ufffdA", 4, b"\xff")} == set(rows)
        with pytest.raises(InvalidRequestError, match="only what reads"):
            service.sql("DELETE FROM t RETURNING id")
