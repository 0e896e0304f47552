"""What only SQLite has: conflict clauses, text that is not text, another program's library, and a file beside the file."""

import subprocess
import sys
import textwrap

import apsw
import pytest

from seamark.errors import InvalidRequestError, TableUnusableError
from seamark.testing.workbench import Workbench

OLD_LIBRARY = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement)
connection.close()
"""


@pytest.fixture
def bench(sqlite_backend):
    return Workbench(sqlite_backend)


def live(bench, source):
    return {key for key, (_, deleted) in bench.backend.journal(source).items() if not deleted}


def test_triggers_run_in_the_interpreters_own_library(bench):
    """The application is another program, with an older SQLite, no busy timeout and none of our functions."""
    source = bench.notes("a", "b", "c")
    statements = [
        "INSERT INTO notes (id, body) VALUES (4, 'd')",
        "UPDATE notes SET body = 'B' WHERE id = 2",
        "UPDATE notes SET id = 9 WHERE id = 3",
        "DELETE FROM notes WHERE id = 1",
        "REPLACE INTO notes (id, body) VALUES (4, 'D')",
    ]
    command = [sys.executable, "-c", textwrap.dedent(OLD_LIBRARY), str(bench.backend.path), *statements]
    subprocess.run(command, check=True)
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.verify(source, generation, {(2,): "B", (4,): "D", (9,): "c"})


@pytest.mark.parametrize("clause", ["REPLACE", "IGNORE", "ABORT", "FAIL", "ROLLBACK"])
def test_conflict_clauses_of_the_outer_statement(bench, clause):
    """Triggers inherit them, and must mean the same under each."""
    source = bench.notes("a", "b")
    bench.app.run(f"INSERT OR {clause} INTO notes (id, body) VALUES (3, 'c')")
    bench.app.run(f"UPDATE OR {clause} notes SET body = 'A' WHERE id = 1")
    bench.app.run(f"UPDATE OR {clause} notes SET id = 7 WHERE id = 2")
    bench.app.run("DELETE FROM notes WHERE id = 3")
    bench.app.run(f"INSERT OR {clause} INTO notes (id, body) VALUES (3, 'C')")
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.verify(source, generation, {(1,): "A", (7,): "b", (3,): "C"})
    assert len(bench.backend.journal(source)) == 4


def test_replace_of_the_same_key_is_a_change(bench):
    """The displaced row fires no trigger, the new one does."""
    source = bench.notes("a", "b")
    before = bench.backend.journal(source)
    bench.app.run("INSERT OR REPLACE INTO notes (id, body) VALUES (1, 'A')")
    bench.app.run("INSERT OR IGNORE INTO notes (id, body) VALUES (2, 'B')")
    after = bench.backend.journal(source)
    assert after[1,] > max(before.values())
    assert after[2,] == before[2,]


def test_a_key_set_by_the_name_of_the_rowid(bench):
    """An integer primary key has other names."""
    source = bench.notes("a", "b")
    bench.app.run("UPDATE notes SET rowid = 9 WHERE id = 1")
    bench.app.run("UPDATE notes SET _rowid_ = 8, body = 'B' WHERE id = 2")
    assert live(bench, source) == {(9,), (8,)}


def test_tables_without_a_rowid_and_blob_keys(bench):
    bench.app.run("CREATE TABLE things (key BLOB PRIMARY KEY, body TEXT) WITHOUT ROWID")
    keys = [b"", b"\x00", b"\xff\x00", b"abc"]
    bench.app.many("INSERT INTO things VALUES (?, 'text')", [(key,) for key in keys[:2]])
    source = bench.attach("things", ("body",), batch=1)
    bench.app.many("INSERT INTO things VALUES (?, 'text')", [(key,) for key in keys[2:]])
    vector, lexical = bench.vector(source), bench.lexical(source)
    bench.drain(source, vector, lexical)
    bench.verify(source, vector, {(key,): "text" for key in keys})
    bench.verify(source, lexical, {(key,): "text" for key in keys})


def test_text_that_is_not_text(bench):
    """NUL, invalid UTF-8, numbers, BLOBs: read as text, with U+FFFD for what is none; the neighbours do not suffer."""
    source = bench.notes("before")
    values = {
        2: "CAST(x'61ff62' AS TEXT)",
        3: "CAST(x'610062' AS TEXT)",
        4: "x'80e282ac'",
        5: "CAST(x'eda080' AS TEXT)",
        6: "42",
        7: "'after'",
    }
    for key, value in values.items():
        bench.app.run(f"INSERT INTO notes (id, body) VALUES ({key}, {value})")
    bench.app.run("CREATE TABLE loose (id INTEGER PRIMARY KEY, body)")
    bench.app.run("INSERT INTO loose VALUES (1, 1.5), (2, x'61'), (3, NULL)")
    generation = bench.vector(source)
    rows = {row.key[0]: row.texts[0] for row in bench.read(source, bench.lease(generation))}
    assert rows[1] == "before"
    assert rows[2] == "a\ufffdb"
    assert rows[3] == "a\ufffdb"
    assert rows[4].endswith("€")
    assert set(rows[5]) == {"\ufffd"}
    assert (rows[6], rows[7]) == ("42", "after")
    other = bench.attach("loose", ("body",))
    assert [row.texts for row in bench.read(other, bench.lease(bench.vector(other)))] == [("1.5",), ("a",), (None,)]


def test_text_of_a_database_in_utf_16(sqlite_backend):
    """The encoding is the file's business."""
    path = sqlite_backend.path
    path.unlink()
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA encoding = 'UTF-16'; PRAGMA journal_mode = wal; CREATE TABLE t (a)")
    connection.close()
    bench = Workbench(sqlite_backend)
    source = bench.notes("päß 日本 🙂", "plain", "CAST")
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.verify(source, generation, {(1,): "päß 日本 🙂", (2,): "plain", (3,): "CAST"})


def test_work_does_not_touch_the_users_file(bench):
    """A worker reads it, and writes beside it."""
    source = bench.notes(*(f"text {number}" for number in range(50)))
    log = bench.backend.path.with_name(bench.backend.path.name + "-wal")
    before = log.read_bytes()
    vector, lexical = bench.vector(source), bench.lexical(source)
    bench.drain(source, vector, lexical)
    bench.store.generation_activate(vector.id)
    bench.store.worker_forget("nobody")
    assert log.read_bytes() == before
    bench.app.run("UPDATE notes SET body = 'x' WHERE id = 1")
    assert log.read_bytes() != before


def test_work_goes_on_while_the_application_holds_its_write_lock(bench):
    """And the application's transaction commits, whatever was done meanwhile (I12)."""
    source = bench.notes(*"abc")
    generation = bench.vector(source)
    with bench.app.transaction():
        bench.app.run("UPDATE notes SET body = 'A' WHERE id = 1")
        bench.drain(source, generation)
        bench.app.run("UPDATE notes SET body = 'B' WHERE id = 2")
    bench.drain(source, generation)
    bench.verify(source, generation, {(1,): "A", (2,): "B", (3,): "c"})


def test_the_journal_takes_at_most_forty_bytes_a_row(sqlite_backend):
    """Integer keys, the index included."""
    app = sqlite_backend.application()
    app.run("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)")
    app.many("INSERT INTO notes VALUES (?, 'some text')", [(number,) for number in range(1, 50_001)])
    app.run("PRAGMA wal_checkpoint(TRUNCATE)")
    [(before,)] = app.run("PRAGMA page_count")
    bench = Workbench(sqlite_backend)
    bench.attach("notes", ("body",), batch=5000)
    [(after,)] = app.run("PRAGMA page_count")
    [(size,)] = app.run("PRAGMA page_size")
    assert 0 < (after - before) * size <= 40 * 50_000


def test_a_null_key_harms_nobody(bench):
    """SQLite lets a primary key be null; such a row cannot be tracked, its neighbours can."""
    bench.app.run("CREATE TABLE things (key TEXT PRIMARY KEY, body TEXT)")
    bench.app.run("INSERT INTO things VALUES ('a', 'first'), (NULL, 'lost'), (NULL, 'too')")
    source = bench.attach("things", ("body",), batch=1)
    bench.app.run("INSERT INTO things VALUES (NULL, 'later'), ('b', 'second')")
    bench.app.run("UPDATE things SET body = body || '!' WHERE key IS NULL")
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.verify(source, generation, {("a",): "first", ("b",): "second"})
    found = bench.store.coverage(source, [generation.id])[generation.id]
    assert (found.live, found.embedded) == (2, 2)


def test_application_errors_stay_the_applications(bench):
    """A constraint that fails leaves neither the row nor a journal entry."""
    source = bench.notes("a")
    before = bench.backend.journal(source)
    with pytest.raises(apsw.ConstraintError):
        bench.app.run("INSERT INTO notes (id, body) VALUES (2, 'b'), (1, 'twice')")
    assert bench.backend.journal(source) == before


# --- views --------------------------------------------------------------------------------------------------------


def test_a_table_without_its_journal_does_not_keep_others_from_the_views(bench):
    bench.notes("a")
    bench.app.run("CREATE TABLE papers (id INTEGER PRIMARY KEY, body TEXT)")
    bench.app.run("INSERT INTO papers VALUES (7, 'b')")
    papers = bench.attach("papers", ("body",))
    bench.drain(papers, bench.vector(papers))
    for trigger in ("insert", "update", "delete", "rekey"):
        bench.app.run(f"DROP TRIGGER seamark_{trigger}_notes")
    bench.app.run("DROP TABLE seamark_journal_notes")
    assert bench.store.sql("SELECT source, status FROM embedding_jobs", (), 30.0).rows == (("papers", "done"),)


@pytest.mark.parametrize(
    "query",
    [
        "ATTACH 'made.db' AS made",
        "VACUUM INTO 'made.db'",
        "PRAGMA query_only = OFF",
        "DETACH seamark",
        "SELECT load_extension('x')",
    ],
)
def test_no_query_gets_out_of_reading(bench, query, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bench.notes("a")
    with pytest.raises(InvalidRequestError):
        bench.store.sql(query, (), 30.0)
    assert not (tmp_path / "made.db").exists()


def test_what_the_tables_are_may_be_asked(bench):
    bench.notes("a")
    found = bench.store.sql("SELECT name FROM pragma_table_info('notes')", (), 30.0)
    assert found.rows == (("id",), ("body",), ("org",))


# --- stamps -------------------------------------------------------------------------------------------------------

STAMPED = "SELECT id FROM notes WHERE has_embedding ORDER BY id"


def stamped(bench, *bodies):
    bench.notes_table(*bodies)
    return bench.attach("notes", ("body",), stamp=("has_embedding", "embed_gen"))


def test_a_settle_does_not_wait_for_a_writer(bench):
    """All of it is owed then, and written by the next upkeep."""
    source = stamped(bench, "a", "b")
    generation = bench.vector(source)
    with bench.app.transaction():
        bench.app.run("UPDATE notes SET org = 9 WHERE id = 1")
        bench.drain(source, generation)
        assert len(bench.backend.chunks(source, generation)) == 2
    assert bench.app.run(STAMPED) == []
    assert bench.maintain(generation) > 0
    assert bench.app.run(STAMPED) == [(1,), (2,)]


def test_a_row_edited_before_its_stamp_is_written_is_not_stamped(bench):
    source = stamped(bench, "a", "b")
    generation = bench.vector(source)
    with bench.app.transaction():
        bench.app.run("UPDATE notes SET body = 'new' WHERE id = 1")
        bench.drain(source, generation)
    bench.maintain(generation)
    assert bench.app.run(STAMPED) == [(2,)]


def test_who_is_killed_between_settle_and_stamp_leaves_the_row_owed(bench, monkeypatch):
    source = stamped(bench, "a", "b")
    generation = bench.vector(source)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("seamark.store.sqlite.store.stamps_settle", killed)
    with pytest.raises(KeyboardInterrupt):
        bench.step(source, generation)
    assert bench.app.run(STAMPED) == []
    monkeypatch.undo()
    store = bench.backend.store()
    while store.generation_maintain(generation.id, idle=True):
        pass
    assert bench.app.run(STAMPED) == [(1,), (2,)]


@pytest.mark.parametrize("recursive", ["ON", "OFF"])
def test_emptying_a_stamp_sets_nothing_else_off(bench, recursive):
    """Whether the program lets triggers fire triggers or not."""
    source = stamped(bench, "a", "b")
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.app.run(f"PRAGMA recursive_triggers = {recursive}")
    before = bench.backend.journal(source)
    bench.app.run("UPDATE notes SET body = 'new' WHERE id = 1")
    after = bench.backend.journal(source)
    assert bench.app.run(STAMPED) == [(2,)]
    assert after[1,][0] == max(seq for seq, _ in before.values()) + 1
    assert after[2,] == before[2,]
    bench.app.run("INSERT OR REPLACE INTO notes (id, body, has_embedding) VALUES (2, 'b', 1)")
    assert bench.app.run(STAMPED) == []


def test_a_constraint_of_the_users_that_refuses_stamps_keeps_back_no_other_row(bench):
    source = stamped(bench, "a", "b", "c")
    generation = bench.vector(source)
    bench.app.run("CREATE TRIGGER refuse BEFORE UPDATE ON notes WHEN OLD.id = 2 BEGIN SELECT RAISE(ABORT, 'closed'); END")
    bench.drain(source, generation)
    bench.maintain(generation)
    assert bench.app.run(STAMPED) == [(1,), (3,)]
    bench.app.run("DROP TRIGGER refuse")
    bench.maintain(generation)
    assert bench.app.run(STAMPED) == [(1,), (2,), (3,)]


def test_stamps_serve_a_partial_index_which_keeps_them_from_being_dropped(bench):
    source = stamped(bench, "a", "b")
    bench.app.run("CREATE INDEX missing ON notes (org) WHERE NOT has_embedding")
    bench.drain(source, bench.vector(source))
    [plan] = bench.app.run("EXPLAIN QUERY PLAN SELECT org FROM notes WHERE NOT has_embedding ORDER BY org")
    assert "INDEX missing" in plan[3]
    with pytest.raises(TableUnusableError, match="has_embedding"):
        bench.store.source_drop(source.id, stamps=True)
    assert len(bench.store.sources()) == 1
    bench.app.run("DROP INDEX missing")
    bench.store.source_drop(source.id, stamps=True)
    assert list(bench.store.sources()) == []


def test_a_strict_table_without_rowid_is_stamped(bench):
    bench.app.run("CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT) STRICT, WITHOUT ROWID")
    bench.app.run("INSERT INTO notes VALUES ('x', 'a')")
    source = bench.attach("notes", ("body",), stamp=("embedded_at", "has_embedding"))
    bench.drain(source, bench.vector(source))
    assert bench.app.run("SELECT id FROM notes WHERE has_embedding AND embedded_at LIKE '20%Z'") == [("x",)]
    bench.app.run("UPDATE notes SET body = 'new'")
    assert bench.app.run(STAMPED) == []
