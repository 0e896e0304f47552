"""Following a table of a SQLite file: what is in the user's file, what is beside it, and what becomes of either."""

import apsw
import pytest

from seamark.errors import (
    SourceConflictError,
    StoreIncompatibleError,
    StoreUnavailableError,
    TableUnusableError,
)
from seamark.model import Condition, SourceSpec, TextColumn, Touch
from seamark.store.sqlite.connection import Connection, Connections
from seamark.store.sqlite.schema import MIGRATIONS, schema_migrate
from seamark.store.sqlite.store import SqliteStore
from seamark.testing.beside import beside
from seamark.testing.workbench import Workbench

NOTES = SourceSpec("notes", (TextColumn("body"),))


@pytest.fixture
def bench(sqlite_backend):
    return Workbench(sqlite_backend)


def live(bench, source):
    return {key for key, (_, deleted) in bench.backend.journal(source).items() if not deleted}


def schema_table(bench):
    """The whole of it, places in the file included."""
    return bench.app.run("SELECT rowid, * FROM sqlite_schema ORDER BY rowid")


# --- opening ------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(StoreUnavailableError, match=r"app\.db"):
        SqliteStore(tmp_path / "app.db")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_to_be_made(tmp_path):
    store = SqliteStore(tmp_path / "a ?#%.db", create=True)
    store.collection_create("papers")
    assert store.table_inspect("papers").key == ("path",)
    assert {check.name: check.ok for check in store.checks()}["journal mode"]
    store.close()
    again = SqliteStore(str(tmp_path / "a ?#%.db"))
    assert again.table_inspect("papers").key == ("path",)
    again.close()
    assert {path.name for path in tmp_path.iterdir()} >= {"a ?#%.db", "a ?#%.db-seamark"}


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "app.db"
    path.write_text("dear diary\n" * 1000)
    with pytest.raises(StoreIncompatibleError):
        SqliteStore(path)
    assert path.read_text() == "dear diary\n" * 1000


def test_a_sidecar_that_is_somebody_elses(tmp_path):
    for name in ("app.db", "app.db-seamark"):
        connection = apsw.Connection(str(tmp_path / name))
        connection.execute("CREATE TABLE theirs (a)")
        connection.close()
    with pytest.raises(StoreIncompatibleError, match=r"app\.db-seamark"):
        SqliteStore(tmp_path / "app.db")


def test_a_sidecar_of_a_newer_version(bench):
    with bench.backend._reading(bench.backend.sidecar) as sidecar:
        sidecar.execute("PRAGMA user_version = 9999")
    with pytest.raises(StoreIncompatibleError, match="upgrade"):
        bench.backend.store()


def test_migrations_lead_up_and_down(bench):
    """Each way and from each version they end at the same schema."""

    def schema():
        with bench.backend._reading(bench.backend.sidecar) as sidecar:
            return sidecar.execute("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite%'").fetchall()

    fresh = schema()
    connections = Connections(bench.backend.path, create=False)
    try:
        for version in range(len(MIGRATIONS)):
            schema_migrate(connections, version)
            assert (schema() == []) == (version == 0)
            schema_migrate(connections)
            assert sorted(schema()) == sorted(fresh)
    finally:
        connections.close()


def test_a_database_in_rollback_mode(tmp_path, sqlite_backend):
    sqlite_backend.path.unlink()
    connection = apsw.Connection(str(sqlite_backend.path))
    connection.execute("CREATE TABLE other (a)")
    connection.close()
    bench = Workbench(sqlite_backend)
    source = bench.notes("a", "b")
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.app.run("UPDATE notes SET body = 'B' WHERE id = 2")
    bench.drain(source, generation)
    bench.verify(source, generation, {(1,): "a", (2,): "B"})
    checks = {check.name: check for check in bench.store.checks()}
    assert not checks["journal mode"].ok
    assert not checks["journal mode"].required


# --- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    ["CREATE VIEW seen AS SELECT id, body FROM notes", "CREATE VIRTUAL TABLE seen USING fts5(body)"],
)
def test_what_cannot_have_triggers(bench, statement):
    bench.notes_table()
    bench.app.run(statement)
    with pytest.raises(TableUnusableError, match="seen"):
        bench.store.table_inspect("seen")


def test_a_name_in_other_letters_is_the_same_table(bench):
    bench.notes_table()
    assert bench.store.table_inspect("NOTES").name == "notes"


def test_keys_whose_collation_ignores_case(bench):
    """For the table `A` and `a` are one key; another spelling is a change of the key all the same."""
    bench.app.run("CREATE TABLE pages (slug TEXT COLLATE NOCASE PRIMARY KEY, body TEXT)")
    bench.app.run("INSERT INTO pages VALUES ('Home', 'one'), ('about', 'two')")
    source = bench.attach("pages", ("body",), batch=1)
    bench.app.run("UPDATE pages SET slug = 'HOME' WHERE slug = 'home'")
    assert live(bench, source) == {("HOME",), ("about",)}
    with bench.store.snapshot() as reader:
        assert list(reader.keys_live(source, [("Home",), ("HOME",), ("About",)], None)) == [("HOME",)]
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.verify(source, generation, {("HOME",): "one", ("about",): "two"})


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR REPLACE INTO pages VALUES (1, 'HOME', 'third')",
        "REPLACE INTO pages VALUES (1, 'hoMe', 'third')",
        "UPDATE OR REPLACE pages SET slug = 'home', body = 'third' WHERE slug = 'about' AND org = 1",
        "INSERT INTO pages VALUES (1, 'hOME', 'third') ON CONFLICT DO UPDATE SET slug = excluded.slug, body = excluded.body",
    ],
)
@pytest.mark.parametrize(("key", "option"), [("org, slug", ""), ("slug, org", ""), ("slug, org", "WITHOUT ROWID")])
def test_a_row_replaced_by_another_spelling_of_its_key_is_gone(bench, key, option, statement):
    """SQLite fires no trigger for it; nothing of it stays, and no other row is touched."""
    bench.app.run(f"CREATE TABLE pages (org INTEGER, slug TEXT COLLATE NOCASE, body TEXT, PRIMARY KEY ({key})) {option}")
    bench.app.run("INSERT INTO pages VALUES (1, 'Home', 'one'), (1, 'about', 'two'), (2, 'Home', 'other')")
    before = schema_table(bench)
    source = bench.attach("pages", ("body",))
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.app.run(statement)
    assert live(bench, source) == {tuple(row) for row in bench.app.run(f"SELECT {', '.join(source.table.key)} FROM pages")}
    assert bench.store.coverage(source, [generation.id])[generation.id].missing == 1
    bench.drain(source, generation)
    bench.verify(source, generation)
    bench.coverage_check(source, generation)
    assert list(bench.store.source_faults(source)) == []
    bench.store.source_drop(source.id)
    assert [row[1:3] for row in schema_table(bench)] == [row[1:3] for row in before]


def test_a_key_of_bytes_costs_no_second_index(bench):
    source = bench.notes("a")
    assert source.table.key == ("id",)
    names = {name for (name,) in bench.app.run("SELECT name FROM sqlite_schema WHERE type = 'index'")}
    assert names == {"seamark_key_notes", "seamark_deleted_notes"}


def test_spellings_are_found_by_an_index(bench):
    """What a write costs does not grow with the table."""
    bench.app.run("CREATE TABLE pages (slug TEXT COLLATE NOCASE PRIMARY KEY, body TEXT)")
    bench.attach("pages", ("body",))
    [(sql,)] = bench.app.run("SELECT sql FROM sqlite_schema WHERE name = 'seamark_insert_pages'")
    statement = sql.split("BEGIN", 1)[1].split(";")[0].replace('NEW."slug"', "'a'")
    plan = [row[-1] for row in bench.app.run(f"EXPLAIN QUERY PLAN {statement}")]
    assert any("seamark_alike_pages" in line for line in plan)
    assert not [line for line in plan if line.startswith("SCAN") and "USING" not in line]


def test_a_generated_column_as_text(bench):
    """No statement sets it, and yet it changes."""
    bench.app.run("CREATE TABLE people (id INTEGER PRIMARY KEY, a TEXT, b TEXT, c TEXT AS (a || ' ' || b))")
    bench.app.run("INSERT INTO people VALUES (1, 'x', 'y')")
    source = bench.attach("people", ("c",))
    before = bench.backend.journal(source)
    bench.app.run("UPDATE people SET b = 'z'")
    assert bench.backend.journal(source)[1,] > before[1,]
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.verify(source, generation, {(1,): "x z"})


def test_values_of_related_rows_stand_in_the_order_of_their_key(bench):
    bench.app.run("CREATE TABLE mails (id INTEGER PRIMARY KEY, body TEXT)")
    bench.app.run("CREATE TABLE parts (mail TEXT, place INTEGER, words TEXT, PRIMARY KEY (mail, place)) WITHOUT ROWID")
    bench.app.run("CREATE TABLE tags (mail INTEGER, word TEXT)")
    bench.app.run("INSERT INTO mails VALUES (1, 'mail')")
    bench.app.run("INSERT INTO parts VALUES ('1', 2, 'second'), ('1', 10, 'third'), ('1', 1, 'first'), ('2', 1, 'other')")
    bench.app.run("INSERT INTO tags VALUES (1, 'z'), (1, NULL), (1, 'a')")
    text = (TextColumn("words", "parts"), TextColumn("body"), TextColumn("word", "tags"))
    source = bench.attach("mails", text, None, (Touch("parts", ("mail",)), Touch("tags", ("mail",))))
    generation = bench.vector(source)
    [row] = bench.read(source, bench.lease(generation))
    assert row.texts == ("first\nsecond\nthird", "mail", "z\na")
    before = bench.backend.journal(source)
    bench.app.run("UPDATE parts SET words = 'zero' WHERE place = 1")
    assert bench.backend.journal(source)[1,] > before[1,]


def test_a_condition_on_json_does_not_break_writes_of_what_is_not_json(bench):
    bench.app.run("CREATE TABLE things (id INTEGER PRIMARY KEY, body TEXT, meta JSON)")
    source = bench.attach("things", ("body",), Condition("meta", "=", value=True, path=("on",)))
    values = ["'{\"on\": true}'", "'{\"on\": 1}'", "'not json'", "NULL", "'[1]'", "x'00ff'"]
    for key, value in enumerate(values, 1):
        bench.app.run(f"INSERT INTO things VALUES ({key}, 'x', {value})")
    assert live(bench, source) == {(1,)}


# --- attaching and detaching --------------------------------------------------------------------------------------


def test_detaching_leaves_the_schema_table_as_it_was(bench):
    bench.notes_table("a", "b")
    bench.app.run("CREATE TABLE parts (note INTEGER, words TEXT)")
    before = schema_table(bench)
    text = (TextColumn("body"), TextColumn("words", "parts"))
    source = bench.attach("notes", text, Condition("org", "=", 1), (Touch("parts", ("note",)),))
    assert len(schema_table(bench)) > len(before)
    bench.store.source_drop(source.id)
    assert schema_table(bench) == before


def test_a_call_that_was_killed_between_the_files_is_completed(bench):
    """The sidecar has the source, the user's file nothing of it."""
    bench.notes_table("a", "b")
    fresh = schema_table(bench)
    source = bench.store.source_create("notes", NOTES, bench.store.table_inspect("notes"))
    made = schema_table(bench)
    for kind, name in bench.app.run("SELECT type, name FROM sqlite_schema WHERE name LIKE 'seamark%' AND type <> 'index'"):
        bench.app.run(f'DROP {kind} IF EXISTS "{name}"')
    assert schema_table(bench) == fresh
    assert bench.attach("notes", ("body",)).id == source.id
    assert schema_table(bench) == made
    assert live(bench, source) == {(1,), (2,)}


def test_a_drop_that_was_killed_between_the_files_is_completed(bench):
    source = bench.notes("a")
    bench.vector(source)
    bench.app.run('DROP TRIGGER "seamark_insert_notes"')
    bench.app.run('DROP TABLE "seamark_journal_notes"')
    bench.store.source_drop(source.id)
    assert list(bench.store.sources()) == []
    bench.store.source_drop(source.id)
    assert [name for _, _, name, *_ in schema_table(bench)] == ["notes"]


def test_another_table_or_other_words_under_the_same_name(bench):
    bench.notes("a")
    bench.app.run("CREATE TABLE other (id INTEGER PRIMARY KEY, body TEXT)")
    with pytest.raises(SourceConflictError):
        bench.store.source_create("notes", SourceSpec("other", NOTES.text), bench.store.table_inspect("other"))
    with pytest.raises(SourceConflictError):
        bench.store.source_create("mine", NOTES, bench.store.table_inspect("notes"))
    with pytest.raises(SourceConflictError):
        bench.attach("notes", ("body",), Condition("org", "=", 1))


@pytest.mark.parametrize("where", [None, Condition("org", "=", 1)])
def test_a_lost_sidecar_is_begun_anew(bench, where):
    """The same words find the journal as it stands; with others it is begun anew."""
    source = bench.notes("a", "b", "c", "d")
    bench.drain(source, bench.vector(source))
    bench.app.run("DELETE FROM notes WHERE id = 2")
    journal = bench.backend.journal(source)
    bench.store.close()
    for path in bench.backend.path.parent.glob("*-seamark*"):
        path.unlink()
    bench.store = bench.backend.store()
    source = bench.attach("notes", ("body",), where)
    if where is None:
        assert bench.backend.journal(source) == journal
    assert live(bench, source) == ({(1,), (3,), (4,)} if where is None else {(1,), (4,)})
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.verify(source, generation, {(1,): "a", (4,): "d"} | ({(3,): "c"} if where is None else {}))


# --- the journal --------------------------------------------------------------------------------------------------


def test_a_seq_is_never_given_out_twice(bench):
    """Even when all rows are gone and the tombstones have been trimmed."""
    source = bench.notes("a", "b")
    generation = bench.vector(source)
    seen = set()
    for number in range(5):
        bench.app.run("INSERT INTO notes (id, body) VALUES (?, 'x')", 100 + number)
        bench.app.run("DELETE FROM notes")
        bench.drain(source, generation)
        seqs = {seq for seq, _ in bench.backend.journal(source).values()}
        assert max(seqs) not in seen
        seen |= seqs
        bench.store.journal_trim(source.id)
        assert len(bench.backend.journal(source)) == 1
    assert bench.backend.rows(source, generation).keys() == bench.backend.journal(source).keys()


def test_a_trim_leaves_an_application_at_work_alone(bench):
    """It waits for no lock, and must never need to."""
    source = bench.notes(*(str(number) for number in range(50)))
    generation = bench.vector(source)
    bench.app.run("DELETE FROM notes WHERE id < 40")
    bench.drain(source, generation)
    refused = []

    def write(done):
        try:
            while not done.wait(0.005):
                bench.app.run("UPDATE notes SET org = org + 1 WHERE id = 45")
        except apsw.BusyError as error:
            refused.append(error)

    with beside(write):
        assert bench.store.journal_trim(source.id) == 0
    assert refused == []
    assert bench.store.journal_trim(source.id) == 38, "all but the journal's last entry"


def test_a_trim_of_a_file_that_may_only_be_read_keeps_its_tombstones(bench, monkeypatch):
    """A worker needs no right to write to the user's file, and must not end over it."""
    source = bench.notes("a", "b", "c")
    generation = bench.vector(source)
    bench.app.run("DELETE FROM notes WHERE id < 3")
    bench.drain(source, generation)
    with monkeypatch.context() as patched:
        patched.setattr(Connection, "writable", lambda _: False)
        assert bench.store.journal_trim(source.id) == 0
    assert bench.store.journal_trim(source.id) == 1, "all but the journal's last entry"
