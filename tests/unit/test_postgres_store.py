"""What is PostgreSQL's own about the store: its schema, its catalog, its keys, its locks, and its indexes."""

import re
from importlib.resources import files

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from seamark.errors import InvalidRequestError, StoreIncompatibleError, StoreUnavailableError, TableUnusableError
from seamark.model import Condition, GenerationSpec, ModelIdentity, SourceSpec, TextColumn, Touch
from seamark.store.postgres import connection as connection_module
from seamark.store.postgres import schema, source, upkeep
from seamark.store.postgres.connection import Database
from seamark.store.postgres.store import PostgresStore
from seamark.testing.oracle import oracle_vector
from seamark.testing.workbench import DIMENSION, Workbench, at_once


@pytest.fixture
def bench(postgres_backend):
    return Workbench(postgres_backend)


def begun(bench):
    """Have something attached once, so that our schema is there."""
    bench.app.run("CREATE TABLE first (id integer PRIMARY KEY, body text)")
    bench.store.source_drop(bench.attach("first", ("body",)).id)


def live(bench, source_):
    return {key for key, (_, deleted) in bench.backend.journal(source_).items() if not deleted}


# --- opening ------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain_role(postgres_url):
    """The name of a role that may do nothing yet."""
    role = "plain_" + postgres_url.split("test_")[1].split("?")[0]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        yield role
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")


def test_a_database_without_pgvector_says_what_to_run(postgres_url, plain_role):
    """A role that may not add the extension is told who can, and how; doctor knows before anything is attached."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id integer PRIMARY KEY, body text)")
    store = PostgresStore(make_conninfo(postgres_url, user=plain_role))
    try:
        assert [check.remedy for check in store.checks() if check.name == "pgvector"] == [
            "let a superuser run CREATE EXTENSION vector"
        ]
        with pytest.raises(StoreIncompatibleError, match="CREATE EXTENSION vector"):
            store.source_create("t", SourceSpec("t", (TextColumn("body"),)), store.table_inspect("t"))
    finally:
        store.close()


def test_a_newer_schema_is_refused(bench, postgres_backend):
    begun(bench)
    bench.app.run("UPDATE seamark.schema_version SET version = 99")
    with pytest.raises(StoreIncompatibleError, match="upgrade"):
        PostgresStore(postgres_backend.url)


def test_a_schema_of_that_name_that_is_not_ours_is_refused(postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA seamark")
    with pytest.raises(StoreIncompatibleError, match="not Seamark's"):
        PostgresStore(postgres_url)


def test_migrations_go_down_and_up_again(bench, postgres_backend):
    """Down leaves nothing; up gives the schema that a fresh database has."""

    def look():
        return bench.app.run(
            "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
            " WHERE table_schema = 'seamark' ORDER BY 1, ordinal_position"
        )

    begun(bench)
    fresh = look()
    assert fresh
    database = Database(postgres_backend.url)
    with database.single() as connection:
        schema.schema_migrate(database, connection, 0)
        assert look() == []
        schema.schema_migrate(database, connection)
    assert look() == fresh


def test_eight_processes_begin_in_a_fresh_database_at_once(postgres_backend):
    bench = Workbench(postgres_backend)
    stores = [postgres_backend.store() for _ in range(8)]
    for number in range(8):
        bench.app.run(f"CREATE TABLE t{number} (id integer PRIMARY KEY, body text)")

    def begin(number):
        name = f"t{number}"
        spec = SourceSpec(name, (TextColumn("body"),))
        return stores[number].source_create(name, spec, stores[number].table_inspect(name))

    made = at_once([lambda number=number: begin(number) for number in range(8)])
    assert sorted(bench.store.sources(), key=lambda source: source.name) == made


def test_nothing_that_a_transaction_pooler_breaks():
    """No LISTEN, no session-level advisory lock, no prepared statement."""
    statements = (files("seamark.store.postgres") / "queries.sql").read_text()
    assert not re.search(r"\b(LISTEN|NOTIFY|PREPARE)\b|pg_(try_)?advisory_lock\(", statements)


def test_connections_prepare_nothing(bench):
    source_ = bench.notes("a")
    generation = bench.vector(source_)
    with bench.store._database.connection() as connection:
        for _ in range(10):
            bench.store._database.run(connection, "generation_source", {}, {"generation": generation.id})
        assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchall() == [(0,)]


# --- the catalog --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "name", "reason"),
    [
        ("CREATE VIEW v AS SELECT 1 AS id", "v", "a view"),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1 AS id", "v", "a materialized view"),
        ("CREATE TEMPORARY SEQUENCE v", "v", "there is no table"),
        ("CREATE TABLE p (id integer PRIMARY KEY); CREATE TABLE c () INHERITS (p)", "p", "inherit"),
        ("CREATE TABLE t (id integer PRIMARY KEY)", "pg_class", "the database itself"),
        ("CREATE TABLE t (id integer PRIMARY KEY)", "seamark.source", "the database itself"),
    ],
)
def test_what_is_no_table_of_the_users_is_refused(bench, statement, name, reason):
    begun(bench)
    for part in statement.split(";"):
        bench.app.run(part)
    with pytest.raises(TableUnusableError, match=reason):
        bench.store.table_inspect(name)


@pytest.mark.parametrize("type_", ["numeric(10)", "double precision", "date", "boolean"])
def test_a_key_of_another_type_is_refused(bench, type_):
    bench.app.run(f"CREATE TABLE t (id {type_} PRIMARY KEY, body text)")
    with pytest.raises(TableUnusableError, match="key"):
        bench.store.source_create("t", SourceSpec("t", (TextColumn("body"),)), bench.store.table_inspect("t"))


@pytest.mark.parametrize(
    ("type_", "keys"),
    [
        ("character(4)", ["a   ", "b   "]),
        ("short", ["a", "b"]),
        ("small", [1, 2]),
        ('text COLLATE "C"', ["A", "a"]),
        ("bytea", [b"\0\xff", b'{"\\}']),
    ],
)
def test_keys_of_odd_types(bench, type_, keys):
    """Domains, collations and padded text: each comes back as the database gives it, and is found again."""
    bench.app.run("CREATE DOMAIN short AS varchar(4) CHECK (value <> 'no')")
    bench.app.run("CREATE DOMAIN small AS smallint")
    bench.app.run(f"CREATE TABLE t (id {type_} PRIMARY KEY, body text)")
    bench.app.run("INSERT INTO t VALUES (?, 'one')", keys[0])
    source_ = bench.attach("t", ("body",))
    bench.app.run("INSERT INTO t VALUES (?, 'two')", keys[1])
    generation = bench.vector(source_)
    bench.drain(source_, generation)
    bench.verify(source_, generation, {(keys[0],): "one", (keys[1],): "two"})
    with bench.store.snapshot() as reader:
        assert list(reader.keys_live(source_, [(key,) for key in keys], None)) == [(key,) for key in keys]


def test_detach_leaves_the_catalog_as_it_was(bench):
    """Classes, triggers, functions, and dependencies, whatever schema they are in."""
    begun(bench)
    bench.notes_table("a")
    bench.app.run("CREATE TABLE bodies (id integer PRIMARY KEY, note bigint, words text)")

    def look():
        return [
            bench.app.run("SELECT relname, relhastriggers FROM pg_class WHERE relname NOT LIKE 'pg_toast%' ORDER BY 1"),
            bench.app.run("SELECT tgname FROM pg_trigger ORDER BY 1"),
            bench.app.run("SELECT proname, pronamespace FROM pg_proc ORDER BY 1, 2"),
        ]

    before = look()
    spec = SourceSpec("notes", (TextColumn("body"), TextColumn("words", "bodies")), None, (Touch("bodies", ("note",)),))
    source_ = bench.store.source_create("notes", spec, bench.store.table_inspect("notes"))
    assert not bench.store.source_enroll(source_, 1).done
    bench.store.source_drop(source_.id)
    after = look()
    # PostgreSQL clears relhastriggers only when it vacuums.
    assert [[name for name, *_ in part] for part in after] == [[name for name, *_ in part] for part in before]


def test_detach_finds_a_table_that_was_renamed(bench):
    source_ = bench.notes("a")
    bench.app.run("ALTER TABLE notes RENAME TO papers")
    bench.store.source_drop(source_.id)
    assert bench.app.run("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal") == []


# --- triggers -----------------------------------------------------------------------------------------------------


def test_a_deferrable_key_may_move_along(bench):
    """Rows take over each other's keys within a statement; a key may even stand twice for a while."""
    bench.app.run("CREATE TABLE t (id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, body text)")
    bench.app.run("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    source_ = bench.attach("t", ("body",))
    bench.app.run("UPDATE t SET id = id + 1")
    assert live(bench, source_) == {(2,), (3,), (4,)}
    with bench.app.transaction():
        bench.app.run("INSERT INTO t VALUES (7, 'twice'), (7, 'twice')")
        bench.app.run("DELETE FROM t WHERE ctid IN (SELECT min(ctid) FROM t WHERE id = 7)")
        bench.app.run("INSERT INTO t VALUES (8, 'x')")
    assert {(7,), (8,)} <= {key for key, _ in bench.backend.journal(source_).items()}


def test_a_value_that_looks_like_a_quote_in_the_where(bench):
    """The triggers take no parameters: their text holds the value."""
    hostile = "$seamark$ '; DROP TABLE notes; -- \\ %s {k} $1"
    bench.app.run("CREATE TABLE t (id integer PRIMARY KEY, body text, tag text)")
    source_ = bench.attach("t", ("body",), Condition("tag", "=", hostile))
    bench.app.run("INSERT INTO t VALUES (1, 'a', ?), (2, 'b', 'other')", hostile)
    bench.app.run("UPDATE t SET id = 3 WHERE id = 1")
    assert live(bench, source_) == {(3,)}
    bench.app.run("TRUNCATE t")
    assert live(bench, source_) == set()


def test_a_truncated_partition(bench):
    bench.app.run("CREATE TABLE t (id integer PRIMARY KEY, body text) PARTITION BY RANGE (id)")
    bench.app.run("CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (10)")
    bench.app.run("CREATE TABLE high PARTITION OF t FOR VALUES FROM (10) TO (20)")
    source_ = bench.attach("t", ("body",))
    bench.app.run("INSERT INTO t VALUES (1, 'a'), (11, 'b')")
    bench.app.run("TRUNCATE low")
    assert live(bench, source_) == {(11,)}
    bench.app.run("TRUNCATE t")
    assert live(bench, source_) == set()


# --- locks --------------------------------------------------------------------------------------------------------


def test_attach_gives_up_before_a_long_transaction(bench, monkeypatch):
    """Writers queue behind a lock that is waited for, so it is not waited for."""
    monkeypatch.setattr(source, "LOCK_TRIES", 2)
    bench.notes_table("a")
    table = bench.store.table_inspect("notes")
    with psycopg.connect(bench.backend.url) as long:
        long.execute("UPDATE notes SET org = 1")
        with pytest.raises(StoreUnavailableError, match="long transaction"):
            bench.store.source_create("notes", SourceSpec("notes", (TextColumn("body"),)), table)
        long.rollback()
    assert list(bench.store.sources()) == []
    assert bench.store.source_create("notes", SourceSpec("notes", (TextColumn("body"),)), table).state == "enrolling"


def test_enrolment_holds_nobody_up(bench):
    """A writer has an unfinished edit in the middle of a batch: the rows before it enter, and nothing waits in a ring."""
    bench.notes_table(*"abcdefghij")
    spec = SourceSpec("notes", (TextColumn("body"),))
    source_ = bench.store.source_create("notes", spec, bench.store.table_inspect("notes"))
    with psycopg.connect(bench.backend.url) as writer:
        writer.execute("UPDATE notes SET body = 'edited' WHERE id = 5")
        assert bench.store.source_enroll(source_, 100).rows == 1
        while (step := bench.store.source_enroll(source_, 100)).rows:
            assert not step.done
        assert set(bench.backend.journal(source_)) == {(1,), (2,), (3,), (4,)}
        writer.execute("UPDATE notes SET body = 'edited' WHERE id = 2")
        writer.commit()
    while not bench.store.source_enroll(source_, 100).done:
        pass
    assert len(live(bench, source_)) == 10


# --- the vector index ---------------------------------------------------------------------------------------------


def test_too_many_dimensions_for_the_index(bench):
    source_ = bench.notes("a")
    spec = GenerationSpec("vector", "f", {}, ModelIdentity("m", "1", 4001), None)
    with pytest.raises(InvalidRequestError, match="4000"):
        bench.store.generation_create(source_, spec)


def test_the_index_is_built_once_and_a_broken_one_again(bench, monkeypatch):
    monkeypatch.setattr(upkeep, "INDEX_CHUNKS", 50)
    source_ = bench.notes(*(f"text {number}" for number in range(60)))
    generation = bench.vector(source_)
    name = f"chunks_{generation.id}_hnsw"

    def valid():
        return bench.app.run("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(?)", f"seamark.{name}")

    assert not bench.store.generation_maintain(generation.id, idle=True)
    bench.drain(source_, generation)
    assert bench.store.generation_maintain(generation.id, idle=True)
    assert valid() == [(True,)]
    assert not bench.store.generation_maintain(generation.id, idle=True)
    bench.app.run("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(?)", f"seamark.{name}")
    assert bench.store.generation_maintain(generation.id, idle=True)
    assert valid() == [(True,)]
    vector = oracle_vector("text 7", "oracle-a", DIMENSION)
    with bench.store.snapshot() as reader:
        near, exact = (reader.chunks_nearest(generation.id, vector, 5, exact=way)() for way in (False, True))
    assert near == exact
    assert near[0].key == (8,)


def test_one_process_at_a_time_keeps_an_index_up(bench):
    source_ = bench.notes("a")
    generation = bench.lexical(source_)
    with psycopg.connect(bench.backend.url) as other:
        other.execute(f"SELECT pg_advisory_xact_lock({upkeep.UPKEEP_LOCK}, {generation.id})")
        assert not bench.store.generation_maintain(generation.id, idle=True)


def test_upkeep_merges_blocks_and_purges_what_is_dead(bench):
    """In the end each term has a block or a few, and no posting of a version that is no longer current."""
    source_ = bench.notes(*(f"common word{number}" for number in range(60)))
    generation = bench.lexical(source_)
    bench.drain(source_, generation, limit=3)
    bench.app.run("UPDATE notes SET body = body || ' edited' WHERE id <= 40")
    bench.drain(source_, generation, limit=3)

    def common():
        with bench.store.snapshot() as reader:
            [found] = reader.terms_statistics(generation.id, ["common"])
            return found

    before = common()
    assert before.postings == 100
    steps = 0
    while bench.store.generation_maintain(generation.id, idle=True):
        steps += 1
    after = common()
    assert steps >= 2
    assert after.blocks < before.blocks
    assert after.postings == 60
    bench.verify(source_, generation)


def test_a_process_that_sleeps_in_a_transaction_keeps_nobody_waiting(bench, monkeypatch):
    """Its session is ended by the server, its locks are free, and it is told so when it wakes."""
    generation = bench.vector(bench.notes("one"))
    assert "idle_in_transaction_session_timeout = '30s'" in connection_module._KEYED
    monkeypatch.setattr(connection_module, "_KEYED", connection_module._KEYED.replace("'30s'", "'200ms'"))
    locking = "SELECT 1 FROM seamark.generation WHERE id = %s FOR UPDATE"

    def sleep():
        with bench.store._database.keyed() as sleeper:
            sleeper.execute(locking, (generation.id,))
            bench.app.run("SET lock_timeout = '20s'")
            assert [(1,)] == bench.app.run(locking.replace("%s", "?"), generation.id)
            sleeper.execute(locking, (generation.id,))

    with pytest.raises(StoreUnavailableError, match="went away"):
        sleep()
    assert bench.lease(generation)
