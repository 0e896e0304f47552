"""What finding work costs, in rows that the database touches: the same at any backlog and any size of the table."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager

import apsw
import psycopg
import pytest

from seamark.testing.workbench import LEASE_SECONDS, Workbench

ROWS = 20_000
LIMIT = 50
BACKLOGS = ("full", "half", "none", "fresh")


# --- how it is measured -------------------------------------------------------------------------------------------


class SqliteMeter:
    """Counts the steps of SQLite's virtual machine, and those of full scans, over all statements of a store."""

    steps_per_row = 20
    """Less than what it takes to look at a row, all its columns and both sides of a join."""

    def __init__(self, backend):
        self.backend = backend
        self.steps = self.scanned = 0
        self.statements = []

    @contextmanager
    def store(self):
        """Open a store whose statements are counted; it is closed at the end."""
        apsw.connection_hooks.append(self._watch)
        store = self.backend.store()
        store.sources()
        self.steps = self.scanned = 0
        self.statements.clear()
        try:
            yield store
        finally:
            apsw.connection_hooks.remove(self._watch)
            store.close()

    def _watch(self, connection):
        connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, self._add)

    def _add(self, event):
        status = event["stmt_status"]
        self.steps += status["SQLITE_STMTSTATUS_VM_STEP"]
        self.scanned += status["SQLITE_STMTSTATUS_FULLSCAN_STEP"]
        self.statements.append((status["SQLITE_STMTSTATUS_FULLSCAN_STEP"], status["SQLITE_STMTSTATUS_VM_STEP"], event["sql"]))

    def rows(self):
        """Return an upper bound of the rows touched."""
        return max(self.scanned, self.steps // self.steps_per_row)


class PostgresMeter:
    """Counts what PostgreSQL's own statistics say was read from tables and indexes, over the life of a store."""

    def __init__(self, backend):
        self.backend = backend
        self.before = self.after = 0

    @contextmanager
    def store(self):
        """Open a store whose reads are counted; it is closed at the end, and its last statistics are then in."""
        others = self._processes()
        self.before = self._read()
        store = self.backend.store()
        try:
            yield store
        finally:
            store.close()
            while self._processes() - others:
                time.sleep(0.01)
            self.after = self._read()

    def _processes(self):
        with psycopg.connect(self.backend.url, autocommit=True, application_name="user") as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'user'"
            ).fetchall()
        return {pid for (pid,) in rows}

    def _read(self):
        with psycopg.connect(self.backend.url, autocommit=True, application_name="user") as connection:
            [(tables,)] = connection.execute(
                "SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint FROM pg_stat_user_tables"
            ).fetchall()
            [(indexes,)] = connection.execute(
                "SELECT coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes"
            ).fetchall()
        return tables + indexes

    def rows(self):
        """Return the rows and index entries read."""
        return self.after - self.before


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def filled(request, backend_open, tmp_path_factory):
    """A table of many rows with one generation for each backlog, and the meter for its database."""
    with ExitStack() as teardown:
        bench = Workbench(backend_open(request.param, tmp_path_factory.mktemp("plans"), teardown))
        source = bench.notes(*(f"text {number}" for number in range(ROWS)))
        generations = {name: bench.vector(source, name) for name in BACKLOGS}
        for name, generation in generations.items():
            if name == "half":
                bench.step(source, generation, limit=ROWS // 2)
            elif name != "full":
                bench.drain(source, generation, limit=ROWS)
        bench.app.run("UPDATE notes SET body = body || '!' WHERE id <= 300")
        assert bench.step(source, generations["half"], limit=300), "the edited rows"
        assert bench.step(source, generations["half"], limit=1), "the sweep over them, and one more row of the backfill"
        bench.drain(source, generations["none"], limit=ROWS)
        meter = SqliteMeter(bench.backend) if request.param == "sqlite" else PostgresMeter(bench.backend)
        yield bench, source, generations, meter


# --- what it may cost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("analyzed", [False, True], ids=["no statistics", "statistics"])
@pytest.mark.parametrize("backlog", BACKLOGS)
def test_a_claim_and_its_reading_touch_few_rows(filled, backlog, analyzed):
    """A small multiple of the rows that it claims, with and without statistics about the tables."""
    bench, source, generations, meter = filled
    if analyzed:
        bench.app.run("ANALYZE")
    with meter.store() as store:
        while (claim := store.lease_claim(generations[backlog].id, "w", LIMIT, LEASE_SECONDS)).again:
            pass
        reading = None if claim.lease is None else store.lease_read(source, claim.lease, 10**6)
    if reading is not None:
        bench.store.lease_release(reading.lease)
    assert (reading is None) == (backlog == "none")
    assert reading is None or len(reading.rows) == LIMIT
    assert meter.rows() < 20 * LIMIT, getattr(meter, "statements", None)


def test_an_idle_claim_touches_next_to_nothing(filled):
    """Whatever the size of the table."""
    _, _, generations, meter = filled
    with meter.store() as store:
        for _ in range(5):
            assert store.lease_claim(generations["none"].id, "w", LIMIT, LEASE_SECONDS).lease is None
    assert meter.rows() < 200, getattr(meter, "statements", None)


def test_a_settle_touches_its_own_rows(filled):
    """A small multiple of what it writes."""
    bench, source, generations, meter = filled
    generation = generations["full"]
    lease = bench.lease(generation, limit=LIMIT)
    rows = bench.read(source, lease)
    assert rows
    batch = bench.batch(generation, rows)
    with meter.store() as store:
        assert store.lease_settle(source, lease, batch, ()) is not None
    assert 0 < meter.rows() < 20 * LIMIT, getattr(meter, "statements", None)


@pytest.mark.parametrize("analyzed", [False, True], ids=["no statistics", "statistics"])
@pytest.mark.parametrize(
    ("condition", "most"),
    [
        ("status = 'running'", 3 * LIMIT),
        ("status = 'failed'", 3 * LIMIT),
        ("status <> 'done' AND model_id = 'none'", 3 * LIMIT),
        ("status = 'pending' AND model_id = 'none' AND model_version = '1'", LIMIT),
        ("source = 'nowhere'", 1),
    ],
)
def test_what_is_running_failed_or_stale_is_found_without_a_scan(filled, condition, most, analyzed):
    """A small multiple of the rows found, whatever is done already: so much that to look up each is better than to read all."""
    bench, _, generations, meter = filled
    lease = bench.lease(generations["half"], limit=LIMIT)
    if analyzed:
        bench.app.run("ANALYZE")
    with meter.store() as store:
        found = store.sql(f"SELECT key FROM embedding_jobs WHERE {condition}", (), 30.0).rows
    bench.store.lease_release(lease)
    assert len(found) <= most
    assert (condition == "status = 'running'") == (len(found) >= LIMIT)
    assert meter.rows() < 20 * max(len(found), LIMIT), getattr(meter, "statements", None)


@pytest.mark.parametrize("analyzed", [False, True], ids=["no statistics", "statistics"])
def test_the_chunks_of_a_model_or_a_row_are_found_without_the_others(filled, analyzed):
    """Of other models nothing is read, and of a row its own chunks only."""
    bench, source, generations, meter = filled
    few = len(bench.backend.chunks(source, generations["full"]))
    holding = sum((7,) in bench.backend.rows(source, generation) for generation in generations.values())
    if analyzed:
        bench.app.run("ANALYZE")
    for condition, expected in (
        ("model_id = 'full' AND model_version = '1'", few),
        ("model_id = 'none' AND model_version = '2'", 0),
        ("id = 7", holding),
    ):
        with meter.store() as store:
            found = store.sql(f"SELECT id, current FROM notes_embeddings WHERE {condition}", (), 30.0).rows
        assert len(found) == expected
        assert meter.rows() < 6 * LIMIT + 12 * few, (condition, getattr(meter, "statements", None))
    with meter.store() as store:
        assert store.sql("SELECT count(*) FROM notes_embeddings WHERE model_id = 'none'", (), 30.0).rows == ((ROWS,),)
    assert meter.rows() < 12 * ROWS, getattr(meter, "statements", None)


def test_the_meter_sees_a_scan(filled):
    """The bound above is not one that everything keeps."""
    _, source, generations, meter = filled
    with meter.store() as store:
        found = store.coverage(source, [generations["full"].id])[generations["full"].id]
    assert found.live == ROWS
    assert meter.rows() > ROWS / 10
