"""What the indexes have lost, or hold and should not, is found by `verify`, exactly, and mended."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import seamark
from seamark.errors import SourceDriftError, StoreIncompatibleError
from seamark.model.findings import Reason
from seamark.store.postgres import schema as postgres
from seamark.store.sqlite import schema as sqlite
from seamark.testing.audited import LONG, TEXTS, Audited, both
from seamark.testing.oracle import OracleEmbedder


def test_a_hole_behind_the_cursors(database):
    """A row that the generation does not hold, and that no lane will come by (I3)."""
    database.inside("DELETE FROM {rows} WHERE k1 IN (3, 4)")
    database.inside("DELETE FROM {words} WHERE k1 = 4")
    database.service.work(until="current")
    found = database.found()
    assert found == {
        (3, Reason.MISSING, "vector"): 1,
        (4, Reason.MISSING, "vector"): 1,
        (4, Reason.MISSING, "lexical"): 1,
        (3, Reason.ORPHAN, "vector"): 1,
        (4, Reason.ORPHAN, "vector"): 1,
    }
    database.mend()


def test_a_retired_index_that_lost_its_table_does_not_claim_to_be_whole(database):
    """It is searched again after a rollback, and audited only then."""
    retired = database.generation("vector")
    database.tracked.swap(chunk=300)
    database.service.work(until="current")
    assert database.generation("vector").id != retired.id
    schema = "" if database.backend.name == "sqlite" else "seamark."
    database.inside(f"DROP TABLE {schema}chunks_{retired.id}")
    findings = database.tracked.verify(repair=True)
    assert findings.counts == {(Reason.INCOMPLETE, retired.id): len(TEXTS) - 2}
    done = database.tracked.rollback()
    assert (done.generation.id, done.missing) == (retired.id, len(TEXTS) - 2)
    database.service.work(until="current")
    assert database.hits(TEXTS[1]) >= {1}
    assert database.found() == {}


def test_a_version_that_was_never_given_out(database):
    """Whatever the journal gives out would lose against it."""
    database.inside("UPDATE {rows} SET seq = seq + 1000000 WHERE k1 = 9")
    database.inside("UPDATE {words} SET seq = seq + 1000000 WHERE k1 = 10")
    assert database.found() == {(9, Reason.MISSING, "vector"): 1, (10, Reason.MISSING, "lexical"): 1}
    assert database.mend().repaired == 2


def test_an_edit_of_a_row_whose_chunks_are_orphans(database):
    """The worker is not stopped by what stands in its place."""
    database.inside("DELETE FROM {rows} WHERE k1 = 3")
    database.update(3, "another text")
    database.service.work(until="current")
    assert database.hits("another text") == {3}
    assert database.found() == {}


def test_a_vector_table_that_lost_some_rows(database):
    stored = [row[0] for row in database.inside("SELECT k1 FROM {chunks} WHERE ordinal = 0 ORDER BY k1")]
    lost = {stored[0], stored[7]}
    database.inside("DELETE FROM {chunks} WHERE k1 = %d OR k1 = %d" % tuple(lost))  # noqa: UP031
    database.inside(f"DELETE FROM {{chunks}} WHERE k1 = {LONG} AND ordinal = 1")
    assert not database.hits(TEXTS[stored[0]])
    assert database.tracked.coverage().missing == 0
    assert database.found() == {(key, Reason.INCOMPLETE, "vector"): 1 for key in (*lost, LONG)}
    database.mend()
    assert database.hits(TEXTS[stored[0]]) == {stored[0]}


@pytest.mark.parametrize("statement", ["DELETE FROM {chunks}", "DROP TABLE {chunks}"])
def test_a_vector_table_that_was_emptied_or_dropped(database, statement):
    dropped = statement.startswith("DROP")
    database.inside(statement)
    live = [number for number, text in TEXTS.items() if text]
    if dropped:
        [status] = database.service.status()
        assert "gone" in status.problems[0]
        assert "chunks" in status.problems[0]
        findings = database.tracked.verify()
        assert (findings.clean, findings.problems) == (False, status.problems)
    else:
        assert database.found() == {(number, Reason.INCOMPLETE, "vector"): 1 for number in live}
    assert len(database.mend().findings) == len(live)


@pytest.mark.parametrize("table", ["rows", "words", "postings"])
def test_another_table_of_ours_that_was_dropped(database, table):
    name = database.inside("SELECT '{%s}'" % table)[0][0]  # noqa: UP031
    database.inside(f"DROP TABLE {name}")
    assert "gone" in database.service.status()[0].problems[0]
    assert name.removeprefix("seamark.") in database.tracked.verify().problems[0]
    database.mend()
    assert database.hits(TEXTS[1]) >= {1}


@pytest.mark.parametrize("table", ["kept", "owed"])
def test_a_table_of_ours_that_holds_nothing_for_long_and_was_dropped(backend, table):
    """What is put by of rows outside the `where`, and which stamps are owed: nothing has to be indexed anew."""
    database = Audited.of(backend, stamp="has_embedding")
    source = database.tracked.source
    schema = "seamark." if backend.name == "postgres" else ""
    name = f"{schema}{table}_{database.generation('vector').id if table == 'kept' else source.id}"
    database.application.run(f"CREATE TABLE others (id {backend.type('integer')} PRIMARY KEY, body TEXT)")
    others = database.service.attach("others", text="body")
    database.inside(f"DROP TABLE {name}")
    database.application.run("INSERT INTO others VALUES (1, 'goes on')")
    database.update(1, "another text")
    assert (f"tables of ours are gone: {name}",) == database.tracked.verify().problems
    [check] = [check for check in database.service.doctor() if check.required and not check.ok]
    assert ("source notes", True) == (check.name, "seamark verify notes --repair" in check.remedy)
    with pytest.raises(SourceDriftError, match=name):
        database.service.work(until="current")
    assert (1, 0) == (others.coverage().embedded, others.coverage().missing)
    database.service.detach("others", drop_vectors=True)
    mended = database.mend()
    assert ((f"made anew, empty: {name}",), 0) == (mended.mended, mended.repaired)
    assert () == database.service.status()[0].problems
    database.service.close()


def test_a_journal_that_was_dropped(database):
    source = database.tracked.source
    name = '"seamark_journal_notes"' if database.backend.name == "sqlite" else f"seamark.journal_{source.id}"
    database.application.run(f"DROP TABLE {name}" + (" CASCADE" if database.backend.name == "postgres" else ""))
    assert "gone" in database.service.status()[0].problems[0]
    assert not database.tracked.verify().clean
    mended = database.mend()
    assert Counter(one.reason for one in mended.findings)[Reason.UNENTERED] == len(TEXTS)


def test_a_journal_entry_of_a_number_that_is_never_given_out(database):
    """No lane comes by it, and nobody waits for it."""
    name = f"seamark.journal_{database.tracked.source.id}" if database.backend.name == "postgres" else "seamark_journal_notes"
    database.update(3, "another text")
    database.delete(8)
    for key in (3, 8, 9):
        database.application.run(f"UPDATE {name} SET seq = ? WHERE k1 = ?", -key, key)
    database.service.work(until="current")
    missing = both(3, Reason.MISSING) | both(8, Reason.MISSING) | both(9, Reason.MISSING)
    assert database.found() == missing
    assert 3 == database.mend().repaired
    assert database.hits("another text") == {3}


def test_orphan_chunks(database):
    """Of a row that is not held, and beyond those of one that is."""
    columns = "start, stop, digest, embedding"
    number = "id, " if database.backend.name == "sqlite" else ""
    for key, ordinal, identity in ((777, 0, 100_001), (1, 5, 100_002)):
        given = f"{identity}, " if number else ""
        database.inside(
            f"INSERT INTO {{chunks}} ({number}k1, ordinal, {columns}) SELECT {given}{key}, {ordinal}, {columns}"
            " FROM {chunks} WHERE k1 = 1 AND ordinal = 0"
        )
    assert database.found() == {(777, Reason.ORPHAN, "vector"): 1, (1, Reason.ORPHAN, "vector"): 1}
    assert database.mend().repaired == 0


def test_rows_without_a_journal_entry(database):
    for table, more, value in (("rows", "", ""), ("words", ", doc", ", 900001")):
        database.inside(
            f"INSERT INTO {{{table}}} (k1, seq, chunks, truncated, embedded_at, worker{more})"
            f" SELECT 777, seq, chunks, truncated, embedded_at, worker{value} FROM {{{table}}} WHERE k1 = 1"
        )
    assert database.found() == both(777, Reason.ORPHAN)
    database.mend()


def damage(database, key, vector, kind=np.float16):
    if database.backend.name == "sqlite":
        database.inside("UPDATE {chunks} SET embedding = ? WHERE k1 = ?", np.array(vector, kind).tobytes(), key)
    else:
        shown = "[" + ",".join(map(str, vector)) + "]"
        database.inside(f"UPDATE {{chunks}} SET embedding = '{shown}' WHERE k1 = {key}")


def test_vectors_that_are_none(database):
    """Of zeros anywhere; on SQLite also NaN, infinity and another dimension, which pgvector's types refuse."""
    dimension = database.embedder.identity.dimension
    wrong = {1: [0.0] * dimension, LONG: [0.0] * dimension}
    if database.backend.name == "sqlite":
        wrong |= {2: [float("nan")] + [0.5] * (dimension - 1), 3: [0.5] * (dimension - 1) + [float("inf")], 4: [0.5] * 3}
    for key, vector in wrong.items():
        damage(database, key, vector)
    assert database.found() == {(key, Reason.DAMAGED, "vector"): 1 for key in wrong}
    calls = database.embedder.calls
    database.mend()
    assert database.embedder.calls > calls


def test_vectors_of_single_precision_that_are_none(backend):
    """Half of one is of another dimension."""
    database = Audited.of(backend, precision="float32")
    dimension = database.embedder.identity.dimension
    assert database.found() == {}
    wrong = {1: [0.0] * dimension}
    if backend.name == "sqlite":
        wrong |= {
            2: [float("nan")] + [0.5] * (dimension - 1),
            3: [0.5] * (dimension - 1) + [float("inf")],
            4: [0.5] * (dimension // 2),
        }
    for key, vector in wrong.items():
        damage(database, key, vector, np.float32)
    assert database.found() == {(key, Reason.DAMAGED, "vector"): 1 for key in wrong}
    database.mend()
    database.inside("DROP TABLE {chunks}")
    database.mend()
    database.service.close()


def test_vectors_of_another_dimension_in_a_column_that_was_altered(postgres_database_):
    database = postgres_database_
    database.inside("ALTER TABLE {chunks} ALTER COLUMN embedding TYPE public.halfvec")
    damage(database, 3, [0.5, 0.5])
    assert database.found() == {(3, Reason.DAMAGED, "vector"): 1}
    database.mend()


def test_postings_that_are_lost(database):
    """Of some words, and of the empty one that every document has."""
    holders = {number for number, text in TEXTS.items() if text and "owls" in text.split()}
    assert holders
    database.inside("DELETE FROM {postings} WHERE term = 'owl'")
    assert not database.tracked.search("owls", mode="lexical", limit=100).hits
    assert database.found() == {(number, Reason.INCOMPLETE, "lexical"): 1 for number in holders}
    database.mend()
    database.inside("DELETE FROM {postings} WHERE term = ''")
    live = {number for number, text in TEXTS.items() if text}
    assert database.found() == {(number, Reason.INCOMPLETE, "lexical"): 1 for number in live}
    database.mend()


SHARED = sorted(name for name, script in (sqlite.SHARED | postgres.SHARED).items() if script and name != "schema_version")


def drop(database, what, name):
    if database.backend.name == "postgres":
        database.application.run(f"DROP {what} seamark.{name} CASCADE")
    else:
        database.inside(f"DROP {what} {name}")


@pytest.mark.parametrize("name", SHARED)
def test_what_all_tables_share_and_somebody_dropped_is_made_anew_when_the_database_is_opened(name, backend, caplog):
    """It is said so, nothing fails, and an audit finds what went with it."""
    shared = sqlite.SHARED if backend.name == "sqlite" else postgres.SHARED
    if name not in shared:
        name = "lease"
    database = Audited.of(backend, stamp="has_embedding")
    database.update(1, "another text")
    what = next(word for word in ("TABLE", "FUNCTION", "VIEW") if shared[name].startswith(f"CREATE {word}"))
    drop(database, what, name)
    database.service.close()
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        [said] = caplog.messages
        assert name in said.partition("made anew, empty: ")[2].partition(";")[0].split(", ")
        assert all(check.ok for check in service.doctor() if check.required)
        database.update(2, "written since")
        tracked = service.source("notes")
        tracked.verify(repair=True)
        service.work(until="current")
        assert tracked.verify().clean
        assert {tracked.search(text, limit=1).hits[0].key for text in ("another text", "written since")} == {1, 2}
        service.detach("notes")
    caplog.clear()
    backend.store().close()
    assert caplog.messages == []


@pytest.mark.parametrize("name", ["source", "generation", "model"])
def test_what_cannot_be_made_anew_is_named_with_what_to_do(name, backend):
    database = Audited.of(backend)
    drop(database, "TABLE", name)
    database.service.close()
    advice = {"sqlite": "move it away", "postgres": "DROP SCHEMA seamark CASCADE"}[backend.name]
    with pytest.raises(StoreIncompatibleError, match=f"nothing else holds what was in them: {name}; restore .*, or {advice}"):
        backend.store()
    if backend.name == "sqlite":
        backend.sidecar.unlink()
    else:
        database.application.run(advice)
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        service.attach("notes", text="body")
        service.work(until="current")
        assert service.source("notes").verify().clean
