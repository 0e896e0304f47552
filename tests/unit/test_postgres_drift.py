"""Tables altered under the triggers: no write of the user's fails, and what was not entered is told until it is mended."""

import psycopg
import pytest

import seamark
from seamark.errors import SourceDriftError
from seamark.testing.oracle import OracleEmbedder

PLAIN = ["CREATE TABLE notes(id integer PRIMARY KEY, body text, live integer)"]
PARTITIONED = [
    "CREATE TABLE notes(id integer PRIMARY KEY, body text, live integer) PARTITION BY RANGE (id)",
    "CREATE TABLE low PARTITION OF notes FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE high PARTITION OF notes FOR VALUES FROM (10) TO (100)",
]
CHILD = [
    "CREATE TABLE parents(id integer, body text, live integer)",
    "CREATE TABLE notes(PRIMARY KEY (id)) INHERITS (parents)",
]
DEFERRABLE = ["CREATE TABLE notes(id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, body text, live integer)"]
TABLES = {"plain": PLAIN, "partitioned": PARTITIONED, "child": CHILD, "deferrable": DEFERRABLE}
RENAMES = {"key": ("id", "number"), "filtered": ("live", "alive")}


@pytest.fixture
def application(postgres_backend):
    return postgres_backend.application()


@pytest.fixture
def service(postgres_backend, application):
    with seamark.open(postgres_backend.url, embedder=OracleEmbedder()) as service:
        yield service


def attached(service, application, statements):
    for statement in statements:
        application.run(statement)
    application.run("INSERT INTO notes VALUES (1, 'a dog', 1), (2, 'a cat', 1)")
    service.attach("notes", text="body", where={"live": 1})
    service.work(until="current")


def problems(service):
    return "; ".join(problem for status in service.status() for problem in status.problems)


def write(run, key="id"):
    """Every kind of write, more often than a plan stays as it was first made."""
    for number in range(3, 10):
        run(f"INSERT INTO notes VALUES ({number}, 'a horse', 1), ({number + 20}, 'a cow', 0)")
        run(f"UPDATE notes SET body = body || ' edited' WHERE {key} >= {number}")
        run(f"UPDATE notes SET {key} = {number + 40} WHERE {key} = {number}")
        run(f"DELETE FROM notes WHERE {key} IN ({number + 20}, {number + 40})")
    run("TRUNCATE notes")
    run("INSERT INTO notes VALUES (1, 'a snail', 1), (12, 'a snake', 1)")


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("renamed", RENAMES)
@pytest.mark.parametrize("kind", TABLES)
def test_a_renamed_column_fails_no_write_and_is_told_for_good(service, application, kind, renamed, planned):
    attached(service, application, TABLES[kind])
    if planned:
        write(application.run)
    table = "parents" if kind == "child" else "notes"
    old, new = RENAMES[renamed]
    application.run(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")
    write(application.run, new if renamed == "key" else "id")
    assert f"no column '{old}'" in problems(service)
    application.run(f"ALTER TABLE {table} RENAME COLUMN {new} TO {old}")
    write(application.run)
    assert "missing" in problems(service)
    assert [check.ok for check in service.doctor() if check.name == "source notes"] == [False]
    service.detach("notes")
    tracked = service.attach("notes", text="body", where={"live": 1})
    service.work(until="current")
    assert problems(service) == ""
    assert {hit.key for hit in tracked.search("a snake")} == {1, 12}
    write(application.run)
    assert problems(service) == ""


KEYS = {
    "another": ("ADD PRIMARY KEY (live, id)", ["INSERT INTO notes VALUES (20, 'a horse', 0), (20, 'a cow', 1)"]),
    "none": ("ALTER COLUMN id DROP NOT NULL", ["INSERT INTO notes VALUES (NULL, 'a horse', 1)", "UPDATE notes SET id = NULL"]),
}


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("key", KEYS)
def test_a_changed_key_fails_no_write_and_is_told_for_good(service, application, key, planned):
    attached(service, application, PLAIN)
    if planned:
        write(application.run)
    change, writes = KEYS[key]
    application.run(f"ALTER TABLE notes DROP CONSTRAINT notes_pkey, {change}")
    for statement in writes:
        application.run(statement)
    assert "key" in problems(service)
    application.run("DELETE FROM notes WHERE id IS NULL OR id = 20")
    application.run("ALTER TABLE notes DROP CONSTRAINT IF EXISTS notes_pkey, ADD PRIMARY KEY (id)")
    assert "missing" in problems(service)


def test_a_rename_that_nobody_wrote_under_leaves_no_mark(service, application):
    attached(service, application, PLAIN)
    application.run("ALTER TABLE notes RENAME COLUMN id TO number")
    application.run("ALTER TABLE notes RENAME COLUMN number TO id")
    application.run("INSERT INTO notes VALUES (3, 'a horse', 1)")
    assert problems(service) == ""
    service.work(until="current")
    assert service.source("notes").coverage().live == 3


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_another_session_renames_between_two_transactions(service, application, postgres_backend, isolation):
    """Also where a snapshot is older than the rename; what a session has learned under one does not outlast it."""
    attached(service, application, PLAIN)
    with psycopg.connect(postgres_backend.url) as writer:
        writer.execute(f"SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {isolation}")
        writer.commit()
        for old, new in (("id", "number"), ("number", "id")):
            writer.execute("SELECT count(*) FROM pg_class")
            application.run(f"ALTER TABLE notes RENAME COLUMN {old} TO {new}")
            for key in (30, 31) if old == "id" else (40, 41):
                writer.execute(f"INSERT INTO notes VALUES ({key}, 'a horse', 1)")
                writer.execute(f"UPDATE notes SET body = 'a zebra' WHERE {new} = {key}")
                writer.commit()
        assert "missing" in problems(service)
        service.detach("notes")
        service.attach("notes", text="body", where={"live": 1})
        writer.execute("INSERT INTO notes VALUES (50, 'a horse', 1)")
        writer.commit()
    assert problems(service) == ""
    service.work(until="current")
    assert service.source("notes").coverage().embedded == 7


def test_a_rename_within_a_transaction_and_its_rollback(service, application):
    attached(service, application, PLAIN)
    application.run("BEGIN")
    application.run("INSERT INTO notes VALUES (3, 'a horse', 1)")
    application.run("ALTER TABLE notes RENAME COLUMN id TO number")
    application.run("INSERT INTO notes VALUES (4, 'a horse', 1)")
    application.run("ROLLBACK")
    application.run("INSERT INTO notes VALUES (5, 'a snake', 1)")
    assert service.source("notes").coverage().live == 3
    service.detach("notes")
    service.attach("notes", text="body", where={"live": 1})
    with application.transaction():
        application.run("INSERT INTO notes VALUES (6, 'a horse', 1)")
        application.run("ALTER TABLE notes RENAME COLUMN body TO words")
        application.run("INSERT INTO notes VALUES (7, 'a snake', 1)")
        application.run("ALTER TABLE notes RENAME COLUMN words TO body")
    service.work(until="current")
    assert service.source("notes").coverage().embedded == 5


def test_a_column_of_another_type_once_the_trigger_in_its_way_is_gone(service, application):
    attached(service, application, PLAIN)
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        application.run("ALTER TABLE notes ALTER COLUMN id TYPE text")
    [(trigger,)] = application.run("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'seamark%update'")
    application.run(f"DROP TRIGGER {trigger} ON notes")
    application.run("ALTER TABLE notes ALTER COLUMN id TYPE text")
    application.run("INSERT INTO notes VALUES ('three', 'a horse', 1)")
    application.run("DELETE FROM notes WHERE id = 'three'")
    application.run("TRUNCATE notes")
    assert "of type text and was of type integer" in problems(service)


def test_a_renamed_table_goes_on_being_tracked(service, application):
    """It has to be named back before anything is indexed, and nothing is missing then."""
    for kind, statements in TABLES.items():
        attached(service, application, statements)
        application.run("ALTER TABLE notes RENAME TO papers")
        application.run("INSERT INTO papers VALUES (3, 'a horse', 1)")
        application.run("UPDATE papers SET body = 'a zebra' WHERE id = 3")
        assert "no table 'notes'" in problems(service), kind
        application.run("ALTER TABLE papers RENAME TO notes")
        assert problems(service) == "", kind
        service.work(until="current")
        assert service.source("notes").coverage().embedded == 3, kind
        service.detach("notes")
        application.run("DROP TABLE notes")


@pytest.mark.parametrize("kind", TABLES)
def test_triggers_that_are_switched_off_are_told_by_their_names_and_their_table(service, application, kind):
    attached(service, application, TABLES[kind])
    table = "low" if kind == "partitioned" else "notes"
    [(source, insert)] = [(status.source.id, f"seamark_{status.source.id}_insert") for status in service.status()]
    application.run(f"ALTER TABLE {table} DISABLE TRIGGER {insert}")
    assert f"switched off on table {table}: {insert};" in problems(service)
    application.run(f"ALTER TABLE {table} ENABLE TRIGGER {insert}")
    assert problems(service) == ""
    application.run(f"DROP FUNCTION seamark.track_{source}_delete CASCADE")
    application.run(f"DROP TRIGGER {insert} ON notes")
    assert f"gone: {insert}, seamark_{source}_delete;" in problems(service)


PARTITIONS = {
    "dropped": (["DROP TABLE low"], "1 of its partitions were dropped or detached"),
    "detached": (["ALTER TABLE notes DETACH PARTITION low"], "1 of its partitions were dropped or detached"),
    "detached and attached again": (
        [
            "ALTER TABLE notes DETACH PARTITION low",
            "DELETE FROM low WHERE id = 1",
            "INSERT INTO low VALUES (0, 'an elephant', 1)",
            "ALTER TABLE notes ATTACH PARTITION low FOR VALUES FROM (0) TO (10)",
        ],
        "1 of its partitions were dropped or detached",
    ),
    "attached": (
        [
            "CREATE TABLE later(id integer PRIMARY KEY, body text, live integer)",
            "INSERT INTO later VALUES (100, 'a lion', 0), (101, 'a lion', 1)",
            "ALTER TABLE notes ATTACH PARTITION later FOR VALUES FROM (100) TO (200)",
            "INSERT INTO notes VALUES (102, 'a tiger', 1)",
        ],
        "partition later was attached with rows",
    ),
}


@pytest.mark.parametrize("change", PARTITIONS)
def test_partitions_that_came_with_rows_or_went_with_theirs_are_told(service, application, change):
    attached(service, application, PARTITIONED)
    statements, told = PARTITIONS[change]
    assert problems(service) == ""
    for statement in statements:
        application.run(statement)
    assert told in problems(service)
    with pytest.raises(SourceDriftError, match="partition"):
        service.work(until="current")
    service.detach("notes")
    service.attach("notes", text="body", where={"live": 1})
    service.work(until="current")
    assert problems(service) == ""
    [(live,)] = application.run("SELECT count(*) FROM notes WHERE live = 1")
    assert service.source("notes").coverage().embedded == live


def test_a_partition_that_was_made_empty_is_as_good_as_those_before(service, application):
    attached(service, application, PARTITIONED)
    application.run("CREATE TABLE later PARTITION OF notes FOR VALUES FROM (100) TO (200)")
    assert problems(service) == ""
    application.run("INSERT INTO notes VALUES (100, 'a lion', 0), (101, 'a lion', 1)")
    application.run("UPDATE notes SET live = 1 - live WHERE id >= 100")
    service.work(until="current")
    assert service.source("notes").coverage().embedded == 3
    assert problems(service) == ""


TOUCHES = {
    "reference renamed": (
        ["ALTER TABLE bodies RENAME COLUMN note TO about"],
        ["ALTER TABLE bodies RENAME COLUMN about TO note"],
    ),
    "touching table renamed": (["ALTER TABLE bodies RENAME TO words"], ["ALTER TABLE words RENAME TO bodies"]),
    "source's key renamed": (
        ["ALTER TABLE notes RENAME COLUMN id TO number"],
        ["ALTER TABLE notes RENAME COLUMN number TO id"],
    ),
    "source renamed": (["ALTER TABLE notes RENAME TO papers"], ["ALTER TABLE papers RENAME TO notes"]),
    "source dropped": (["DROP TABLE notes"], None),
    "source's filter renamed": (
        ["ALTER TABLE notes RENAME COLUMN live TO alive"],
        ["ALTER TABLE notes RENAME COLUMN alive TO live"],
    ),
}


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("partitioned", [False, True])
@pytest.mark.parametrize("change", TOUCHES)
def test_writes_to_a_touching_table_never_fail(service, application, change, partitioned, planned):
    application.run("CREATE TABLE notes(id integer PRIMARY KEY, live integer)")
    parted = " PARTITION BY RANGE (id)" if partitioned else ""
    application.run(f"CREATE TABLE bodies(id integer PRIMARY KEY, note integer, text text){parted}")
    if partitioned:
        application.run("CREATE TABLE low PARTITION OF bodies FOR VALUES FROM (0) TO (1000)")
    application.run("INSERT INTO notes VALUES (1, 1), (2, 1)")
    service.attach("notes", text="bodies.text", touch={"bodies": "note"}, where={"live": 1})

    def write():
        [(table, column)] = application.run(
            "SELECT relname, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
            " WHERE relkind IN ('r', 'p') AND relname IN ('bodies', 'words') AND attname IN ('note', 'about')"
        )
        application.run(f"TRUNCATE {table}")
        for number in range(1, 8):
            application.run(f"INSERT INTO {table} VALUES ({number}, 1, 'a dog')")
            application.run(f"UPDATE {table} SET text = 'a cat', {column} = 2 WHERE id = {number}")
            application.run(f"DELETE FROM {table} WHERE id < {number}")
        application.run(f"DELETE FROM {table}")
        application.run(f"INSERT INTO {table} VALUES (1, 1, 'a bird')")

    if planned:
        write()
        assert problems(service) == ""
    away, back = TOUCHES[change]
    for statement in away:
        application.run(statement)
    write()
    assert problems(service)
    if back is not None:
        for statement in back:
            application.run(statement)
        write()
        assert "missing" in problems(service)
        service.detach("notes")
        tracked = service.attach("notes", text="bodies.text", touch={"bodies": "note"}, where={"live": 1})
        service.work(until="current")
        assert [hit.key for hit in tracked.search("a bird")] == [1]
