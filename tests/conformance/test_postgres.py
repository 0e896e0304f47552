"""What only PostgreSQL has: writers that overlap, roles, schemas, partitions, and statements that change many rows."""

import threading
import uuid
from contextlib import suppress

import psycopg
import pytest

from seamark.errors import InvalidRequestError, StoreUnavailableError, TableUnusableError
from seamark.model import GenerationSpec, SourceSpec, TextColumn
from seamark.testing.workbench import Workbench, at_once


@pytest.fixture
def bench(postgres_backend):
    return Workbench(postgres_backend)


def live(bench, source):
    return {key for key, (_, deleted) in bench.backend.journal(source).items() if not deleted}


# --- commits out of order -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["insert", "update", "delete"])
def test_a_straggler_behind_the_cursor_is_swept_up(bench, change):
    """It takes its seq first and commits last; later rows are not held back by it."""
    source = bench.notes("a", "b", "c")
    generation = bench.vector(source)
    bench.drain(source, generation)
    statements = {
        "insert": "INSERT INTO notes (id, body) VALUES (50, 'slow')",
        "update": "UPDATE notes SET body = 'slow' WHERE id = 1",
        "delete": "DELETE FROM notes WHERE id = 1",
    }
    with psycopg.connect(bench.backend.url) as slow:
        slow.execute(statements[change])
        bench.app.run("INSERT INTO notes (id, body) VALUES (60, 'quick')")
        bench.drain(source, generation)
        assert (60,) in {chunk.key for chunk in bench.backend.chunks(source, generation)}
        now = bench.now(generation)
        assert now.confirmed < now.fresh
        bench.coverage_check(source, generation)
        slow.commit()
    bench.coverage_check(source, generation)
    lease = bench.lease(generation)
    assert lease.lane == "sweep"
    bench.settle(source, generation, lease, bench.read(source, lease))
    bench.drain(source, generation)
    bench.verify(source, generation)
    now = bench.now(generation)
    assert now.confirmed == now.fresh


def test_activation_waits_for_transactions_older_than_the_generation(bench):
    """They may still commit rows below its origin."""
    source = bench.notes("a", "b")
    with psycopg.connect(bench.backend.url) as slow:
        slow.execute("INSERT INTO notes (id, body) VALUES (3, 'slow')")
        bench.app.run("INSERT INTO notes (id, body) VALUES (4, 'quick')")
        generation = bench.vector(source)
        bench.drain(source, generation)
        assert not bench.store.generation_activate(generation.id)
        slow.commit()
    bench.drain(source, generation)
    assert bench.store.generation_activate(generation.id)
    bench.verify(source, generation, {(1,): "a", (2,): "b", (3,): "slow", (4,): "quick"})


def test_a_writer_that_waited_for_another_gets_the_higher_seq(bench):
    """The seq is taken under the row's lock: the last version of a row has its highest."""
    source = bench.notes("a")
    with psycopg.connect(bench.backend.url) as first, psycopg.connect(bench.backend.url) as second:
        first.execute("UPDATE notes SET body = 'first' WHERE id = 1")
        waiting = threading.Thread(target=lambda: second.execute("UPDATE notes SET body = 'second' WHERE id = 1"))
        waiting.start()
        while not bench.app.run("SELECT 1 FROM pg_locks WHERE NOT granted"):
            pass
        bench.app.run("INSERT INTO notes (id, body) VALUES (2, 'between')")
        first.commit()
        waiting.join()
        seen = bench.backend.journal(source)
        second.commit()
    after = bench.backend.journal(source)
    assert after[1,][0] > seen[1,][0]
    assert after[1,][0] > after[2,][0]


def test_a_trim_waits_for_stragglers(bench):
    """A tombstone above a transaction that is still open is kept until the sweep has passed it."""
    source = bench.notes("a", "b")
    generation = bench.vector(source)
    bench.drain(source, generation)
    with psycopg.connect(bench.backend.url) as slow:
        slow.execute("INSERT INTO notes (id, body) VALUES (3, 'slow')")
        bench.app.run("DELETE FROM notes WHERE id = 1")
        bench.drain(source, generation)
        assert bench.store.journal_trim(source.id) == 0
        slow.commit()
    bench.drain(source, generation)
    assert bench.store.journal_trim(source.id) == 1
    bench.verify(source, generation)


# --- statements ---------------------------------------------------------------------------------------------------


def test_truncate_deletes_every_row(bench):
    source = bench.notes(*"abc")
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.app.run("TRUNCATE notes")
    assert live(bench, source) == set()
    bench.app.run("INSERT INTO notes (id, body) VALUES (2, 'new')")
    bench.drain(source, generation)
    bench.verify(source, generation, {(2,): "new"})


def test_copy_enters_every_row(bench):
    source = bench.notes("a")
    with bench.app.connection.cursor() as cursor, cursor.copy("COPY notes (id, body) FROM STDIN") as copy:
        for number in range(2, 500):
            copy.write_row((number, f"text {number}"))
    assert len(live(bench, source)) == 499


def test_cascades_merges_and_writable_queries(bench):
    """Whatever way a row comes and goes."""
    bench.app.run("CREATE TABLE parents (id bigint PRIMARY KEY)")
    bench.app.run(
        "CREATE TABLE children (id bigint PRIMARY KEY, parent bigint REFERENCES parents ON DELETE CASCADE, body text)"
    )
    bench.app.run("INSERT INTO parents VALUES (1), (2)")
    source = bench.attach("children", ("body",))
    bench.app.run("INSERT INTO children SELECT n, 1 + n % 2, 'text' FROM generate_series(1, 6) n")
    bench.app.run("DELETE FROM parents WHERE id = 1")
    assert live(bench, source) == {(1,), (3,), (5,)}
    bench.app.run(
        "WITH gone AS (DELETE FROM children WHERE id = 1 RETURNING *) INSERT INTO children SELECT 10, 2, body FROM gone"
    )
    bench.app.run(
        "MERGE INTO children c USING (VALUES (3, 'merged'), (11, 'new')) v (id, body) ON c.id = v.id"
        " WHEN MATCHED THEN UPDATE SET body = v.body WHEN NOT MATCHED THEN INSERT (id, body) VALUES (v.id, v.body)"
    )
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.verify(source, generation, {(3,): "merged", (5,): "text", (10,): "text", (11,): "new"})


def test_a_partitioned_table(bench):
    """Written through the parent, through a partition, and moved from one to the other."""
    bench.app.run("CREATE TABLE events (id bigint, place text, body text, PRIMARY KEY (id, place)) PARTITION BY LIST (place)")
    bench.app.run("CREATE TABLE events_a PARTITION OF events FOR VALUES IN ('a')")
    bench.app.run("CREATE TABLE events_b PARTITION OF events FOR VALUES IN ('b')")
    bench.app.run("INSERT INTO events VALUES (1, 'a', 'one')")
    source = bench.attach("events", ("body",))
    bench.app.run("INSERT INTO events VALUES (2, 'b', 'two'), (3, 'a', 'three')")
    bench.app.run("INSERT INTO events_a VALUES (4, 'a', 'four')")
    bench.app.run("UPDATE events SET place = 'b' WHERE id = 1")
    bench.app.run("UPDATE events_b SET body = 'TWO' WHERE id = 2")
    bench.app.run("DELETE FROM events_a WHERE id = 3")
    bench.app.run("CREATE TABLE events_c PARTITION OF events FOR VALUES IN ('c')")
    bench.app.run("INSERT INTO events VALUES (5, 'c', 'five')")
    bench.app.run("TRUNCATE events_c")
    bench.app.run("INSERT INTO events VALUES (6, 'c', 'six')")
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.verify(source, generation, {(1, "b"): "one", (2, "b"): "TWO", (4, "a"): "four", (6, "c"): "six"})


# --- names, types, roles, settings --------------------------------------------------------------------------------


def test_a_table_of_another_schema(bench):
    """`schema.table`, unless a table has that very name."""
    bench.app.run('CREATE SCHEMA "my app"')
    bench.app.run('CREATE TABLE "my app".notes (id bigint PRIMARY KEY, body text)')
    table = bench.store.table_inspect("my app.notes")
    assert (table.schema, table.name) == ("my app", "notes")
    bench.app.run("INSERT INTO \"my app\".notes VALUES (1, 'there')")
    bench.notes_table("here")
    before = bench.backend.schema()
    there, here = bench.attach("my app.notes", ("body",)), bench.attach("notes", ("body",))
    for source, text in ((there, "there"), (here, "here")):
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.verify(source, generation, {(1,): text})
    bench.store.source_drop(there.id)
    bench.store.source_drop(here.id)
    assert bench.backend.schema() == before
    bench.app.run('CREATE TABLE "my app.notes" (id bigint PRIMARY KEY, words text)')
    assert bench.store.table_inspect("my app.notes").name == "my app.notes"


@pytest.mark.parametrize(
    ("declared", "keys"),
    [
        ("uuid", [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), uuid.uuid5(uuid.NAMESPACE_DNS, "x")]),
        ("smallint", [-32768, 0, 32767]),
        ("integer", [-(2**31), 0, 2**31 - 1]),
        ("varchar(20)", ["", "a", "A", "é"]),
    ],
)
def test_keys_of_other_types(bench, declared, keys):
    """They come back as they are."""
    bench.app.run(f"CREATE TABLE things (key {declared} PRIMARY KEY, body text)")
    bodies = {(key,): f"text {number}" for number, key in enumerate(keys)}
    bench.app.many("INSERT INTO things VALUES (?, 'old')", [(key,) for key in keys[1:]])
    source = bench.attach("things", ("body",), batch=1)
    bench.app.many("INSERT INTO things VALUES (?, 'new')", [(keys[0],)])
    bench.app.many("UPDATE things SET body = ? WHERE key = ?", [(body, key) for (key,), body in bodies.items()])
    vector, lexical = bench.vector(source), bench.lexical(source)
    bench.drain(source, vector, lexical)
    bench.verify(source, vector, bodies)
    bench.verify(source, lexical, bodies)
    with bench.store.snapshot() as reader:
        found = reader.keys_live(source, list(bodies), None)
    assert list(found) == list(bodies)
    assert [type(key) for (key,) in found] == [type(key) for key in keys]


def test_a_role_without_rights_on_our_schema_writes_as_before(bench):
    """The triggers work with their owner's rights, and with no names that the role could bend."""
    source = bench.notes("a")
    role = f"app_{uuid.uuid4().hex[:8]}"
    bench.app.run(f"CREATE ROLE {role} LOGIN")
    bench.app.run(f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON notes TO {role}")
    bench.app.run(f"GRANT CREATE ON SCHEMA public TO {role}")
    try:
        with psycopg.connect(bench.backend.url, user=role, autocommit=True) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM seamark.journal_{source.id}")
            connection.execute("CREATE FUNCTION public.nextval(regclass) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'")
            connection.execute("SET search_path = public, pg_temp")
            connection.execute("INSERT INTO notes (id, body) VALUES (2, 'b'), (3, 'c')")
            connection.execute("UPDATE notes SET body = 'A' WHERE id = 1")
            connection.execute("DELETE FROM notes WHERE id = 2")
            connection.execute("DROP FUNCTION public.nextval(regclass)")
    finally:
        bench.app.run(f"DROP OWNED BY {role}")
        bench.app.run(f"DROP ROLE {role}")
    assert live(bench, source) == {(1,), (3,)}
    assert len(bench.backend.journal(source)) == 3


@pytest.mark.parametrize(
    "setting",
    [
        "default_transaction_isolation = 'serializable'",
        "search_path = ''",
        "bytea_output = 'escape'",
        "extra_float_digits = 0",
        "DateStyle = 'German'",
        "TimeZone = 'Asia/Kathmandu'",
        "plan_cache_mode = 'force_generic_plan'",
        "enable_seqscan = off",
    ],
)
def test_settings_of_the_database_do_not_matter(bench, setting):
    """What an administrator may have set for everybody."""
    [(name,)] = bench.app.run("SELECT current_database()")
    bench.app.run(f"ALTER DATABASE {name} SET {setting}")
    bench.notes_table("a|b", "", "c")
    other = Workbench(bench.backend)
    source = other.store.source_create(
        "notes",
        SourceSpec("notes", (TextColumn("body"),)),
        other.store.table_inspect("notes" if "search_path" not in setting else "public.notes"),
    )
    assert other.store.source_enroll(source, 10).done
    source = other.source(source.id)
    vector, lexical = other.vector(source), other.lexical(source)
    bench.app.run("UPDATE notes SET body = 'C' WHERE id = 3")
    other.drain(source, vector, lexical)
    for generation in (vector, lexical):
        other.verify(source, generation, {(1,): "a|b", (2,): "", (3,): "C"})
        assert other.store.generation_activate(generation.id)


def test_no_transaction_is_left_open(bench):
    """Between two operations nothing of ours holds a snapshot or a lock."""
    source = bench.notes(*(f"text {number}" for number in range(30)))
    vector, lexical = bench.vector(source), bench.lexical(source)
    bench.drain(source, vector, lexical)
    with bench.store.snapshot() as reader:
        reader.keys_live(source, [(1,)], None)
    bench.store.coverage(source, [vector.id])
    bench.store.journal_trim(source.id)
    states = bench.app.run(
        "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'user'"
    )
    assert states
    assert {state for (state,) in states} == {"idle"}


def test_a_connection_that_was_cut_is_replaced(bench):
    """A store survives a restart of the server or of a pooler: the operation after next at the latest works."""
    source = bench.notes("a", "b")
    generation = bench.vector(source)
    bench.app.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name <> 'user'"
    )
    with suppress(StoreUnavailableError):
        bench.store.sources()
    bench.drain(source, generation)
    bench.verify(source, generation, {(1,): "a", (2,): "b"})


# --- views --------------------------------------------------------------------------------------------------------


def test_rights_granted_on_a_view_stay_when_generations_come(bench):
    """And no others are needed: not on the tables behind it, nor on the user's."""
    source = bench.notes("a", "b")
    role = f"analyst_{uuid.uuid4().hex[:8]}"
    bench.app.run(f"CREATE ROLE {role}")
    try:
        bench.app.run(f"GRANT USAGE ON SCHEMA seamark TO {role}")
        bench.app.run(f"GRANT SELECT ON seamark.notes_embeddings, seamark.embedding_jobs TO {role}")
        bench.drain(source, bench.vector(source), bench.lexical(source))
        with psycopg.connect(bench.backend.url) as connection:
            connection.execute(f"SET ROLE {role}")
            assert connection.execute("SELECT id, current FROM seamark.notes_embeddings ORDER BY id").fetchall() == [
                (1, True),
                (2, True),
            ]
            assert connection.execute("SELECT count(*) FROM seamark.embedding_jobs WHERE status = 'done'").fetchone() == (4,)
    finally:
        bench.app.run(f"DROP OWNED BY {role}")
        bench.app.run(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT set_config('transaction_read_only', 'off', true)",
        "SELECT nextval('numbers')",
        "COPY (SELECT 1) TO STDOUT",
        "SELECT lo_create(0)",
        "SELECT id FROM notes FOR UPDATE",
    ],
)
def test_no_query_gets_out_of_reading(bench, query):
    bench.notes("a")
    bench.app.run("CREATE SEQUENCE numbers")
    with pytest.raises(InvalidRequestError):
        bench.store.sql(query, (), 30.0)


def test_what_a_query_sets_is_not_seen_by_the_next(bench):
    bench.notes("a")
    bench.store.sql("SELECT set_config('search_path', 'nowhere', false), pg_advisory_lock(77)", (), 30.0)
    assert bench.store.sql("SELECT count(*) FROM notes", (), 30.0).rows == ((1,),)
    assert bench.app.run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77") == [(0,)]
    assert len(bench.store.sources()) == 1


def test_many_sources_attached_at_once_are_all_in_the_view_of_jobs(bench):
    names = [f"t{number}" for number in range(6)]
    for name in names:
        bench.app.run(f"CREATE TABLE {name} (id bigint PRIMARY KEY, body text)")
        bench.app.run(f"INSERT INTO {name} VALUES (1, 'a')")

    def attach(name):
        store = bench.backend.store()
        source = store.source_create(name, SourceSpec(name, (TextColumn("body"),)), store.table_inspect(name))
        while not store.source_enroll(source, 10).done:
            pass
        store.generation_create(source, GenerationSpec("lexical", "words", {}))

    assert at_once([lambda name=name: attach(name) for name in names]) == [None] * len(names)
    found = bench.store.sql("SELECT source, status FROM embedding_jobs ORDER BY 1", (), 30.0).rows
    assert found == tuple((name, "pending") for name in names)


# --- stamps -------------------------------------------------------------------------------------------------------

STAMPED = "SELECT id FROM notes WHERE has_embedding ORDER BY id"


def stamped(bench, *bodies):
    bench.notes_table(*bodies)
    return bench.attach("notes", ("body",), stamp=("has_embedding", "embed_gen"))


@pytest.mark.parametrize("edit", ["org = 9", "body = 'new'"])
def test_a_settle_does_not_wait_for_a_writer(bench, edit):
    """The writer's row is owed its stamp, and gets it when the writer has ended, if it is still true."""
    source = stamped(bench, "a", "b")
    generation = bench.vector(source)
    with psycopg.connect(bench.backend.url) as writer:
        writer.execute(f"UPDATE notes SET {edit} WHERE id = 1")
        bench.app.run("SET lock_timeout = '5s'")
        bench.drain(source, generation)
        assert bench.maintain(generation) > 0
        assert bench.app.run(STAMPED) == [(2,)]
        writer.commit()
    bench.maintain(generation)
    assert bench.app.run(STAMPED) == ([(1,), (2,)] if edit == "org = 9" else [(2,)])
    bench.drain(source, generation)
    assert bench.app.run(STAMPED) == [(1,), (2,)]


def test_a_trigger_of_the_users_that_refuses_stamps_loses_no_vectors(bench):
    """Nor the stamps of other rows; the row gets its own when the trigger has gone."""
    source = stamped(bench, "a", "b", "c")
    generation = bench.vector(source)
    bench.app.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF OLD.id = 2 THEN RAISE EXCEPTION 'closed'; END IF; RETURN NEW; END $$"
    )
    bench.app.run("CREATE TRIGGER refuse BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION refuse()")
    bench.drain(source, generation)
    assert len(bench.backend.chunks(source, generation)) == 3
    bench.maintain(generation)
    assert bench.app.run(STAMPED) == [(1,), (3,)]
    bench.app.run("DROP TRIGGER refuse ON notes")
    bench.maintain(generation)
    assert bench.app.run(STAMPED) == [(1,), (2,), (3,)]


def test_a_trigger_of_the_users_that_changes_the_text_is_seen(bench):
    """It fires before ours, whatever its name."""
    source = stamped(bench, "a")
    generation = bench.vector(source)
    bench.app.run(
        "CREATE FUNCTION zz() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.body := NEW.org::text; RETURN NEW; END $$"
    )
    bench.drain(source, generation)
    bench.app.run("CREATE TRIGGER zz BEFORE UPDATE OF org ON notes FOR EACH ROW EXECUTE FUNCTION zz()")
    bench.app.run("UPDATE notes SET org = 5")
    assert bench.app.run(STAMPED) == []


@pytest.mark.parametrize("change", ["RENAME COLUMN has_embedding TO mine", "DROP COLUMN has_embedding CASCADE"])
def test_a_stamp_column_that_has_gone_fails_no_write(bench, change):
    source = stamped(bench, "a", "b")
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.app.run(f"ALTER TABLE notes {change}")
    bench.app.run("UPDATE notes SET body = 'new' WHERE id = 1")
    bench.app.run("INSERT INTO notes (id, body) VALUES (3, 'c')")
    bench.drain(source, generation)
    assert len(bench.backend.chunks(source, generation)) == 3


def test_a_column_of_another_type_is_refused_by_the_database(bench):
    bench.notes_table("a")
    bench.app.run("ALTER TABLE notes ADD COLUMN embedded_at text")
    spec = SourceSpec("notes", (TextColumn("body"),), stamp=("embedded_at",))
    with pytest.raises(TableUnusableError, match="embedded_at"):
        bench.store.source_create("notes", spec, bench.store.table_inspect("notes"))


def test_a_partitioned_table_is_stamped(bench):
    bench.app.run("CREATE TABLE notes (id bigint PRIMARY KEY, body text, org bigint) PARTITION BY RANGE (id)")
    bench.app.run("CREATE TABLE notes_1 PARTITION OF notes FOR VALUES FROM (0) TO (10)")
    bench.app.run("CREATE TABLE notes_2 PARTITION OF notes FOR VALUES FROM (10) TO (20)")
    bench.app.run("INSERT INTO notes (id, body) VALUES (1, 'a'), (11, 'b')")
    source = bench.attach("notes", ("body",), stamp=("has_embedding",))
    generation = bench.vector(source)
    bench.drain(source, generation)
    assert bench.app.run(STAMPED) == [(1,), (11,)]
    bench.app.run("UPDATE notes_1 SET body = 'new'")
    assert bench.app.run(STAMPED) == [(11,)]
