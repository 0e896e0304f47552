"""Vectors that exist already become an index with no call to the model, where they belong to a row's present text."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import psycopg
import pytest

import seamark
from seamark.core import adopt
from seamark.core.adopt import digest_is
from seamark.errors import EmbedderUnavailableError, InvalidRequestError, StoreError, TableUnusableError, UnknownColumnError
from seamark.testing.oracle import OracleEmbedder, oracle_proves, oracle_vector

DIMENSION = 32
ROWS = 60


def text(number):
    return f"note {number} about rope"


def vector(body, model="oracle-a"):
    return oracle_vector(body, model, DIMENSION)


def stored(backend, values, kind="float32"):
    """Return a vector as the user's column takes it."""
    if backend.name == "sqlite" or kind == "bytea":
        return np.asarray(values, "<f4").tobytes()
    return "[" + ",".join(map(str, np.asarray(values, np.float32).tolist())) + "]"


@pytest.fixture
def notes(backend):
    """An application with a table of notes, each with its vector and the MD5 of its text."""
    application = backend.application()
    if backend.name == "postgres":
        application.run("CREATE EXTENSION vector")
    column = "BLOB" if backend.name == "sqlite" else f"vector({DIMENSION})"
    integer, words = backend.type("integer"), backend.type("text")
    application.run(f"CREATE TABLE notes (id {integer} PRIMARY KEY, body {words}, embedding {column}, hash {words})")
    rows = [
        (n, text(n), stored(backend, vector(text(n))), hashlib.md5(text(n).encode(), usedforsecurity=False).hexdigest())
        for n in range(1, ROWS + 1)
    ]
    application.many("INSERT INTO notes VALUES (?, ?, ?, ?)", rows)
    return application


def generation_of(service, tracked):
    found = [one for one in service.store.generations(tracked.source.id) if one.kind == "vector"]
    return next(one for one in found if one.state == "active")


def proven(backend, service, tracked, notes):
    """Every row's only chunk is that of its present text, under the active generation."""
    expected = dict(notes.run("SELECT id, body FROM notes"))
    chunks = backend.chunks(tracked.source, generation_of(service, tracked))
    assert sorted(expected) == [chunk.key[0] for chunk in chunks]
    assert all(oracle_proves(chunk.vector, expected[chunk.key[0]], "oracle-a") for chunk in chunks)


def attached(service):
    return service.attach("notes", text="body")


def test_a_column_becomes_the_index_that_search_reads(backend, notes, opened):
    oracle = OracleEmbedder()
    service = opened(oracle)
    tracked = attached(service)
    found = tracked.adopt(column="embedding", trust_text=True)
    assert (ROWS, 0, 0, 0, None, 0) == (
        found.rows, found.edited, found.divided, found.unusable, found.unknown, found.missing
    )  # fmt: skip
    assert "active" == found.generation.state
    assert 0 == service.work(until="current") - ROWS, "the words"
    assert 0 == oracle.calls
    proven(backend, service, tracked, notes)
    best = tracked.search(text(7), mode="vector", limit=3).hits[0]
    assert (7, pytest.approx(1.0, abs=2e-3)) == (best.key, best.score)
    coverage = tracked.coverage()
    assert (ROWS, ROWS, 0) == (coverage.live, coverage.embedded, coverage.missing)
    assert [found.generation.id] == [
        one.id for one in service.store.generations(tracked.source.id) if one.kind == "vector" and one.state != "retired"
    ], "the index that attach began is not embedded beside it"


def test_rows_with_another_text_by_now_are_embedded_and_no_others(backend, notes, opened):
    notes.run("UPDATE notes SET body = 'something else' WHERE id <= 5")
    oracle = OracleEmbedder()
    service = opened(oracle)
    tracked = attached(service)
    notes.run("UPDATE notes SET embedding = NULL WHERE id = 6")
    found = tracked.adopt(column="embedding", text_hash="hash")
    assert (ROWS - 6, 5, 6) == (found.rows, found.edited, found.missing)
    coverage = service.store.coverage(tracked.source, [found.generation.id])[found.generation.id]
    assert (ROWS - 6, 6) == (coverage.embedded, coverage.missing)
    jobs = f"SELECT status, count(*) FROM embedding_jobs WHERE generation = {found.generation.id} GROUP BY status ORDER BY 1"
    assert (("done", ROWS - 6), ("pending", 6)) == service.sql(jobs).rows
    service.work(until="current")
    assert {"something else", text(6)} == set(oracle.texts)
    proven(backend, service, tracked, notes)


def test_many_rows_that_are_missing_can_be_taken_by_several_workers_at_once(backend, notes, opened, monkeypatch):
    monkeypatch.setattr(adopt, "LEASE_ROWS", 10)
    notes.run("UPDATE notes SET embedding = NULL WHERE id > 20")
    service = opened(OracleEmbedder())
    tracked = attached(service)
    found = tracked.adopt(column="embedding", trust_text=True)
    leases = [service.store.lease_claim(found.generation.id, f"w{number}", 10, 60.0).lease for number in range(5)]
    read = [{row.key for row in service.store.lease_read(tracked.source, lease, 10**6).rows} for lease in leases if lease]
    assert [10, 10, 10, 10] == list(map(len, read))
    assert {(key,) for key in range(21, 61)} == set.union(*read)
    for lease in leases:
        if lease:
            service.store.lease_release(lease)
    service.work(until="current")
    proven(backend, service, tracked, notes)


def test_another_table_is_adopted_by_its_key(backend, notes, opened):
    column, integer = backend.type("blob"), backend.type("integer")
    notes.run(f"CREATE TABLE old (note {integer}, half {column}, digest {column})")
    rows = [
        (n, np.asarray(vector(text(n)), "<f2").tobytes(), hashlib.sha256(text(n).encode()).digest()) for n in range(2, ROWS + 1)
    ]
    notes.many("INSERT INTO old VALUES (?, ?, ?)", [*rows, rows[0]])
    oracle = OracleEmbedder()
    service = opened(oracle)
    tracked = attached(service)
    if backend.name == "postgres":
        with pytest.raises(InvalidRequestError, match="CREATE INDEX"):
            tracked.adopt(column="half", table="old", key="note", text_hash="digest")
        assert {"building"} == {one.state for one in service.store.generations(tracked.source.id)}, "nothing was begun"
        notes.run("CREATE INDEX ON old (note)")
    found = tracked.adopt(column="half", table="old", key="note", text_hash="digest")
    assert (ROWS - 1, 1) == (found.rows, found.missing)
    service.work(until="current")
    assert {text(1): 1} == dict(oracle.texts)
    proven(backend, service, tracked, notes)


def test_vectors_that_cannot_be_used_are_left_out(backend, notes, opened):
    bad = [np.zeros(DIMENSION), np.full(DIMENSION, np.nan), np.ones(DIMENSION - 1), np.full(DIMENSION, np.inf)]
    if backend.name == "postgres":  # pgvector takes none of these but zeros
        notes.run("ALTER TABLE notes DROP COLUMN embedding")
        notes.run("ALTER TABLE notes ADD COLUMN embedding bytea")
        for n in range(1, ROWS + 1):
            notes.run("UPDATE notes SET embedding = ? WHERE id = ?", stored(backend, vector(text(n)), "bytea"), n)
    for key, values in enumerate(bad, 1):
        notes.run("UPDATE notes SET embedding = ? WHERE id = ?", stored(backend, values, "bytea"), key)
    service = opened(OracleEmbedder())
    tracked = attached(service)
    found = tracked.adopt(column="embedding", trust_text=True)
    assert (ROWS - 4, 4, 4) == (found.rows, found.unusable, found.missing)
    service.work(until="current")
    proven(backend, service, tracked, notes)


def test_a_row_of_several_passages_is_not_adopted_from_one_vector(backend, notes, opened):
    notes.run("UPDATE notes SET body = ? WHERE id = 1", "a sentence that is longer. " * 6)
    notes.run("UPDATE notes SET body = ' ' WHERE id = 2")
    oracle = OracleEmbedder(token_limit=200)
    notes.run("UPDATE notes SET body = ? WHERE id = 3", "w" * 201)
    service = opened(oracle)
    tracked = attached(service)
    found = tracked.adopt(column="embedding", trust_text=True, chunk=100)
    assert (ROWS - 3, 3) == (found.rows, found.divided)
    service.work(until="current")
    assert 1 == tracked.coverage().blank
    assert all(len(passage) <= 100 for passage in oracle.texts)


def test_vectors_given_with_their_keys(backend, notes, opened):
    keys = np.arange(0, ROWS + 3)
    matrix = np.stack([vector(text(n)) for n in keys.tolist()])
    digests = [hashlib.blake2b(text(n).encode(), digest_size=16).digest() for n in keys.tolist()]
    digests[4] = b"x" * 16
    oracle = OracleEmbedder()
    service = opened(oracle)
    tracked = attached(service)
    with pytest.raises(InvalidRequestError, match="trust_text"):
        tracked.adopt(batches=[(keys.tolist(), matrix, None)])
    batches = [(keys[:40].tolist(), matrix[:40], digests[:40]), (keys[30:].tolist(), matrix[30:], digests[30:])]
    found = tracked.adopt(batches=batches)
    assert (ROWS - 1, 1, 3) == (found.rows, found.edited, found.unknown)
    with pytest.raises(InvalidRequestError, match="dimensions"):
        tracked.adopt(batches=[([1], np.ones((1, 7)), None)], trust_text=True)
    service.work(until="current")
    assert {text(4): 1} == dict(oracle.texts)
    proven(backend, service, tracked, notes)


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_a_sqlite_file_may_have_another_encoding(sqlite_backend, encoding):
    application = sqlite_backend.application()
    application.run(f"PRAGMA encoding = '{encoding}'")
    application.run("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)")
    assert [(encoding,)] == application.run("PRAGMA encoding")
    texts = [f"é {text(n)}" for n in range(1, 9)]
    application.many("INSERT INTO notes VALUES (?, ?)", [(n, f"\n {body}") for n, body in enumerate(texts, 1)])
    with seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as service:
        tracked = attached(service)
        matrix = np.stack([vector(body) for body in texts])
        assert 8 == tracked.adopt(batches=[(list(range(1, 9)), matrix, None)], trust_text=True).rows
        stored = sqlite_backend.chunks(tracked.source, generation_of(service, tracked))
        assert [(2, 2 + len(body)) for body in texts] == [(chunk.start, chunk.stop) for chunk in stored]
        assert all(oracle_proves(chunk.vector, body, "oracle-a") for chunk, body in zip(stored, texts, strict=True))
        service.work(until="current")
        assert tracked.verify().clean


def test_keys_may_be_given_as_text(backend, opened):
    application = backend.application()
    integer, words = backend.type("integer"), backend.type("text")
    uuid = "uuid" if backend.name == "postgres" else words
    application.run(f"CREATE TABLE notes (id {integer} PRIMARY KEY, body {words})")
    application.run(f"CREATE TABLE files (id {uuid}, part {words}, body {words}, PRIMARY KEY (id, part))")
    names = [f"00000000-0000-0000-0000-{n:012}" for n in range(1, 9)]
    application.many("INSERT INTO notes VALUES (?, ?)", [(n, text(n)) for n in range(1, 9)])
    application.many("INSERT INTO files VALUES (?, ?, ?)", [(name, "7", text(n)) for n, name in enumerate(names, 1)])
    oracle = OracleEmbedder()
    service = opened(oracle)
    matrix = np.stack([vector(text(n)) for n in range(1, 9)])
    notes, files = attached(service), service.attach("files", text="body")
    for tracked, keys in ((notes, [str(n) for n in range(1, 9)]), (files, [(name, 7) for name in names])):
        found = tracked.adopt(batches=[(keys, matrix, None)], trust_text=True)
        assert (8, 0, 0) == (found.rows, found.unknown, found.missing), tracked.name
        chunks = backend.chunks(tracked.source, generation_of(service, tracked))
        assert all(oracle_proves(chunk.vector, text(n), "oracle-a") for n, chunk in enumerate(chunks, 1))
    assert 7 == notes.search(text(7), mode="vector").hits[0].key


@pytest.mark.parametrize("keys", [[1.0, 2.0], ["one", "two"], [True, False], [(1, 2), (3, 4)], [None, None]], ids=str)
def test_keys_that_the_table_cannot_have_are_refused(backend, notes, opened, keys):
    """And what was being built is built on."""
    service = opened(OracleEmbedder())
    tracked = attached(service)
    before = service.store.generations(tracked.source.id)
    with pytest.raises(InvalidRequestError, match="key"):
        tracked.adopt(batches=[(keys, np.ones((2, DIMENSION)), None)], trust_text=True, chunk=500)
    assert before == service.store.generations(tracked.source.id)


def unreadable():
    raise OSError("the file with the second batch cannot be read")
    yield


BAD = {
    "another dimension": (lambda: [([2], np.ones((1, 7)), None)], InvalidRequestError, "dimensions"),
    "not as many": (lambda: [([2, 3], np.ones((1, DIMENSION)), None)], InvalidRequestError, "one of each"),
    "no array": (lambda: [([2, 3], [[1.0] * DIMENSION, [1.0]], None)], ValueError, "inhomogeneous"),
    "cannot be read": (unreadable, OSError, "cannot be read"),
}
"""The second batch, and what is raised over it."""


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("chunk", [adopt.WHOLE_ROW_CHARACTERS, 500], ids=["begun by attach", "begun by adopt"])
def test_an_adoption_that_fails_half_way_and_is_not_run_again_leaves_the_rest_to_the_workers(
    bad, chunk, backend, notes, opened
):
    second, error, told = BAD[bad]
    oracle = OracleEmbedder()
    service = opened(oracle)
    tracked = attached(service)
    first = ([1], np.stack([vector(text(1))]), None)
    with pytest.raises(error, match=told):
        tracked.adopt(batches=itertools.chain([first], second()), trust_text=True, chunk=chunk)
    states = [one.state for one in service.store.generations(tracked.source.id) if one.kind == "vector"]
    assert "building" in states
    notes.run("UPDATE notes SET body = 'edited since' WHERE id = 3")
    notes.run("DELETE FROM notes WHERE id = 4")
    service.work(until="current")
    assert {"active"} == {one.state for one in service.store.generations(tracked.source.id) if one.state != "retired"}
    assert (ROWS - 1, 0) == (tracked.coverage().embedded, tracked.coverage().missing)
    assert {text(1), text(4)}.isdisjoint(oracle.texts), "what was adopted is not paid for"
    proven(backend, service, tracked, notes)


def test_an_adoption_whose_embedder_fails_leaves_the_rest_to_the_workers(backend, notes, opened, monkeypatch):
    oracle = OracleEmbedder()
    service = opened(oracle)
    tracked = attached(service)
    with monkeypatch.context() as patched:
        patched.setattr(oracle, "token_excess", failing)
        with pytest.raises(EmbedderUnavailableError):
            tracked.adopt(column="embedding", trust_text=True)
    service.work(until="current")
    assert (ROWS, "active") == (tracked.coverage().embedded, generation_of(service, tracked).state)
    proven(backend, service, tracked, notes)


def failing(_):
    raise EmbedderUnavailableError("out")


def test_the_same_key_twice_is_adopted_once(backend, notes, opened, monkeypatch):
    """Also in pieces that follow one another, of which one is being written while the next is read."""
    monkeypatch.setattr(adopt, "BATCH_ROWS_MAX", 4)
    service = opened(OracleEmbedder())
    tracked = attached(service)
    keys = [1, 2, 3, 3, 3, 4, 5, 6, 1, 7]
    matrix = np.stack([vector(text(n)) for n in keys])
    found = tracked.adopt(batches=[(keys, matrix, None)], trust_text=True)
    assert (7, 0) == (found.rows, found.edited)


def test_whoever_is_killed_goes_on_when_called_again(backend, notes, opened, monkeypatch):
    """And in between no worker embeds what there is a vector of."""
    monkeypatch.setattr(adopt, "BATCH_ROWS_MAX", 64)
    monkeypatch.setattr(adopt, "BATCH_BYTES", 1)
    more = [(n, text(n), stored(backend, vector(text(n))), None) for n in range(ROWS + 1, 301)]
    notes.many("INSERT INTO notes VALUES (?, ?, ?, ?)", more)
    oracle = OracleEmbedder()
    service = opened(oracle)
    tracked = attached(service)
    write, written = service.store.rows_adopt, []

    def dying(*given):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(write(*given))
        return written[-1]

    monkeypatch.setattr(service.store, "rows_adopt", dying)
    with pytest.raises(KeyboardInterrupt):
        tracked.adopt(column="embedding", trust_text=True)
    assert [64, 64] == written
    service.work(until="current")
    assert 0 == oracle.calls
    assert [True] == [status.unsearched for status in service.status()]
    assert any("run it again" in (check.remedy or "") for check in service.doctor())
    monkeypatch.setattr(service.store, "rows_adopt", write)
    found = tracked.adopt(column="embedding", trust_text=True)
    assert (300 - 128, 0, "active") == (found.rows, found.missing, found.generation.state)
    service.work(until="current")
    assert 0 == oracle.calls
    proven(backend, service, tracked, notes)


def test_a_row_that_is_edited_just_then_keeps_no_old_vector(backend, notes, opened, monkeypatch):
    oracle = OracleEmbedder()
    service = opened(oracle)
    tracked = attached(service)
    write = service.store.rows_adopt

    def slow(*given):
        notes.run("UPDATE notes SET body = 'edited meanwhile' WHERE id = 9")
        notes.run("DELETE FROM notes WHERE id = 10")
        return write(*given)

    monkeypatch.setattr(service.store, "rows_adopt", slow)
    found = tracked.adopt(column="embedding", trust_text=True)
    assert ROWS - 2 == found.rows
    service.work(until="current")
    assert {"edited meanwhile": 1} == dict(oracle.texts)
    proven(backend, service, tracked, notes)


def test_it_takes_the_place_of_an_index_of_another_model(backend, notes, opened):
    service = opened(OracleEmbedder("oracle-b"))
    attached(service)
    service.work(until="current")
    oracle = OracleEmbedder()
    second = opened(oracle)
    again = second.source("notes")
    found = again.adopt(column="embedding", trust_text=True, manual=True)
    assert "building" == found.generation.state, "only when it is asked for"
    assert second.store.generation_activate(found.generation.id, asked=True)
    assert 7 == again.search(text(7), mode="vector").hits[0].key
    assert 0 == oracle.calls
    once_more = again.adopt(column="embedding", trust_text=True)
    assert (0, 0, found.generation.id) == (once_more.rows, once_more.missing, once_more.generation.id)


def test_the_newest_word_counts(backend, notes, opened):
    """A swap that was begun before is given up, and one adoption for the next."""
    models = {name: OracleEmbedder(f"oracle-{name}") for name in "abcd"}

    def asked(name):
        return opened(models[name], *(other for other in models.values() if other is not models[name]))

    first, service = asked("b"), asked("a")
    attached(first)
    first.work(until="current")
    tracked = service.source("notes")
    swapped = asked("c").source("notes").swap()
    found = tracked.adopt(column="embedding", trust_text=True)
    assert "active" == found.generation.state
    service.work(until="current")
    assert found.generation.id == generation_of(service, tracked).id
    notes.run("UPDATE notes SET embedding = NULL WHERE id = 1")
    earlier, last = (asked(name).source("notes").adopt(column="embedding", trust_text=True) for name in "bd")
    assert "building" == last.generation.state
    service.work(until="current")
    assert last.generation.id == generation_of(service, tracked).id
    states = {one.id: one.state for one in service.store.generations(tracked.source.id)}
    assert {"retired"} == {states[one.id] for one in (*swapped, earlier.generation)}


def test_where_not_one_vector_can_be_adopted_nothing_changes(backend, notes, opened):
    """Or everything would be embedded, in passages as long as a row."""
    service = opened(OracleEmbedder())
    tracked = attached(service)
    service.work(until="current")
    before = service.store.generations(tracked.source.id)
    other = opened(OracleEmbedder("oracle-b"))
    table = other.source("notes")
    with pytest.raises(InvalidRequestError, match=f"{ROWS} with another text by now"):
        table.adopt(column="embedding", text_hash="body")
    with pytest.raises(InvalidRequestError, match="2 of no row"):
        table.adopt(batches=[([1000, 1001], np.ones((2, DIMENSION)), None)], trust_text=True)
    wide = opened(OracleEmbedder("oracle-w", dimension=3 * DIMENSION))
    with pytest.raises(InvalidRequestError, match=f"no vectors of {3 * DIMENSION} dimensions"):
        wide.source("notes").adopt(column="embedding", trust_text=True)
    assert before == service.store.generations(tracked.source.id)
    assert tracked.verify().clean


def test_bytes_of_another_precision_are_not_taken_for_vectors(backend, notes, opened):
    """A vector in single precision is as long as one of twice the dimension in half precision."""
    if backend.name == "postgres":
        notes.run("ALTER TABLE notes DROP COLUMN embedding")
        notes.run("ALTER TABLE notes ADD COLUMN embedding bytea")
        for n in range(1, ROWS + 1):
            notes.run("UPDATE notes SET embedding = ? WHERE id = ?", stored(backend, vector(text(n)), "bytea"), n)
    tracked = attached(opened(OracleEmbedder("oracle-w", dimension=2 * DIMENSION)))
    with pytest.raises(InvalidRequestError, match="not finite"):
        tracked.adopt(column="embedding", trust_text=True)


def test_a_request_that_cannot_be_meant_changes_nothing(backend, notes, opened):
    service = opened(OracleEmbedder())
    tracked = attached(service)
    before = service.store.generations(tracked.source.id)
    for words, error in (
        ({"column": "embedding"}, InvalidRequestError),
        ({"column": "nothing", "trust_text": True}, UnknownColumnError),
        ({"column": "embedding", "text_hash": "nothing"}, UnknownColumnError),
        ({"trust_text": True}, InvalidRequestError),
        ({"column": "embedding", "table": "notes", "key": (), "trust_text": True}, InvalidRequestError),
        ({"batches": [([1, 2], np.ones((1, DIMENSION)), None)], "trust_text": True}, InvalidRequestError),
    ):
        with pytest.raises(error):
            tracked.adopt(**words)
        assert before == service.store.generations(tracked.source.id), words


def test_what_pgvector_and_postgres_keep(postgres_backend):
    """Vectors, half vectors, arrays and text, each to its last member."""
    with psycopg.connect(postgres_backend.url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(
            "CREATE TABLE notes (id bigint PRIMARY KEY, body text, v vector(32), h halfvec(32), r real[], d double precision[],"
            " t text, j jsonb)"
        )
        for n in range(1, 6):
            told = stored(postgres_backend, vector(text(n)))
            values = vector(text(n)).tolist()
            connection.execute(
                "INSERT INTO notes VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                (n, text(n), told, told, values, values, told, told),
            )
    for column in "vhrdtj":
        oracle = OracleEmbedder()
        with seamark.open(postgres_backend.url, embedder=oracle) as service:
            tracked = service.attach("notes", text="body")
            assert 5 == tracked.adopt(column=column, trust_text=True).rows, column
            chunks = postgres_backend.chunks(tracked.source, generation_of(service, tracked))
            assert all(oracle_proves(chunk.vector, text(chunk.key[0]), "oracle-a") for chunk in chunks), column
            with pytest.raises((InvalidRequestError, StoreError, TableUnusableError)):
                tracked.adopt(column="id", trust_text=True, chunk=500)
            with pytest.raises(TableUnusableError, match=r"'body' of table 'notes' holds what is no vector: .*note 1"):
                tracked.adopt(column="body", trust_text=True, chunk=500)
            service.detach("notes", drop_vectors=True)
        assert 0 == oracle.calls


@pytest.mark.parametrize("name", ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake2b"])
def test_a_digest_is_known_by_its_length(name):
    digest = hashlib.new(name, "é".encode(), usedforsecurity=False)
    assert digest_is("é", digest.digest())
    assert digest_is("é", digest.hexdigest().upper())
    assert not digest_is("e", digest.digest())
    assert not digest_is("é", digest.digest()[:-1])


@pytest.mark.parametrize("digest", ["", b"", "no hex", "ab"])
def test_what_is_no_digest_is_of_no_text(digest):
    assert not digest_is("a", digest)
