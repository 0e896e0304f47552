"""A worker process: how it outlives outages, detached tables and its own end, on a real database."""

from __future__ import annotations

import itertools
import math
import threading
from contextlib import suppress

import apsw
import pytest

import seamark
from seamark.core import sync
from seamark.edges import indexed, report, worker, worklist
from seamark.errors import (
    EmbedderConfigurationError,
    EmbedderUnavailableError,
    InvalidRequestError,
    SourceUnfinishedError,
    StoreError,
    StoreUnavailableError,
)
from seamark.model import Lease, SourceSpec, TextColumn
from seamark.store.postgres import upkeep
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.waiting import until

ROWS = 100


@pytest.fixture
def application(sqlite_backend):
    return with_tables(sqlite_backend)


@pytest.fixture
def opened(sqlite_backend, application):
    """Open services on a database with two tables, closed at the end."""
    services = []

    def make(embedder):
        services.append(seamark.open(sqlite_backend.url, embedder=embedder))
        return services[-1]

    yield make
    for service in services:
        service.close()


def with_tables(backend):
    application = backend.application()
    for table in ("notes", "tasks"):
        application.run(f"CREATE TABLE {table}(id {backend.type('integer')} PRIMARY KEY, body TEXT)")
        application.many(f"INSERT INTO {table} VALUES (?, ?)", [(n, f"{table} {n}") for n in range(1, ROWS + 1)])
    return application


@pytest.fixture
def working():
    """Let a service work in a thread; what is returned ends it, and raises what it raised."""
    ends = []

    def start(service, stop, threads=1, progress=None):
        raised = []

        def target():
            try:
                service.work(stop=stop, threads=threads, progress=progress)
            except BaseException as error:  # noqa: BLE001 raised again below
                raised.append(error)

        thread = threading.Thread(target=target)
        thread.start()

        def end():
            stop.set()
            thread.join()
            if raised:
                raise raised.pop()

        end.working = thread.is_alive
        ends.append(end)
        return end

    yield start
    for end in ends:
        end()


class Keeper:
    def hold(self, lease): ...

    def drop(self, lease): ...


def vector_work(service, tracked):
    generation = next(known for known in service.store.generations(tracked.source.id) if known.kind == "vector")
    return tracked.source, generation, service.indexer(generation)


def test_a_stop_does_not_wait_for_a_graph_that_is_being_built(postgres_backend, working, monkeypatch):
    """It is broken off, and the next worker builds it: here it would wait for a writer who does not end."""
    monkeypatch.setattr(upkeep, "INDEX_CHUNKS", 50)
    application, writer = with_tables(postgres_backend), postgres_backend.application()
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid::regclass::text LIKE '%hnsw'"
    with seamark.open(postgres_backend.url, embedder=OracleEmbedder()) as service:
        tracked = service.attach("notes", text="body")
        _, generation, _ = vector_work(service, tracked)
        with writer.transaction():
            writer.run(f"LOCK TABLE seamark.chunks_{generation.id} IN ROW EXCLUSIVE MODE")
            end = working(service, threading.Event(), threads=2)
            until(lambda: application.run(valid) == [(False,)])
            assert tracked.coverage().embedded == ROWS
            end()
            assert application.run(valid) == [(False,)], "the writer has not ended, so nobody has waited for it"
        service.work(until="current")
        assert application.run(valid) == [(True,)]


# --- leases -------------------------------------------------------------------------------------------------------


def test_a_call_that_outlasts_its_lease_is_settled_after_the_stop(opened, working, monkeypatch):
    monkeypatch.setattr(sync, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(worker, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(worker, "KEEPER_SECONDS", 0.2)
    monkeypatch.setattr(worker, "KEEPER_LOOK_SECONDS", 0.05)
    gate, stop = threading.Event(), threading.Event()
    embedder = OracleEmbedder(gate=gate, batch_items=ROWS)
    service = opened(embedder)
    tracked = service.attach("notes", text="body")
    end = working(service, stop)
    assert embedder.entered.wait(30)
    stop.set()
    asked_at = service.store.clock()
    until(lambda: service.store.clock() > asked_at + 2_000_000)
    gate.set()
    end()
    assert (1, ROWS, 0) == (embedder.calls, tracked.coverage().embedded, tracked.coverage().missing)


def test_leases_are_renewed_at_once_when_the_store_is_back(opened, monkeypatch):
    monkeypatch.setattr(worker, "KEEPER_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(worker, "STORE_RETRY_SECONDS", 0.01)
    one = worker.Worker(opened(OracleEmbedder()), until=None, stop=threading.Event())
    renewals = []

    def renew(_):
        renewals.append(1)
        if len(renewals) == 1:
            raise StoreUnavailableError("locked")
        one._left.set()

    monkeypatch.setattr(one._keeper, "renew", renew)
    keeping = threading.Thread(target=one._guarded, args=(one._keep, one._left))
    keeping.start()
    keeping.join(5)
    assert (False, 2) == (keeping.is_alive(), len(renewals))


def test_while_a_lease_is_held_the_end_is_looked_for_only_now_and_then(opened):
    one = worker.Worker(opened(OracleEmbedder()), until="current", stop=threading.Event())
    one._worked_at, one._looked_at = 0.0, math.inf
    lease = Lease(1, 1, 1, "fresh", 0, 1, one.id, 1, 0)
    assert one._due()
    one._keeper.hold(lease)
    assert not one._due()
    one._looked_at = 0.0
    assert one._due()


# --- threads ------------------------------------------------------------------------------------------------------


def test_there_are_as_many_threads_as_what_is_attached_wants_also_when_it_is_attached_later(opened, application, working):
    application.many("INSERT INTO notes VALUES (?, ?)", [(n, f"more {n}") for n in range(1000, 1400)])
    gate = threading.Event()
    embedder = OracleEmbedder(gate=gate, concurrency=5, batch_items=64)
    service = opened(embedder)
    end = working(service, threading.Event(), threads=None)
    service.attach("notes", text="body")
    until(lambda: embedder.calls == 5)
    gate.set()
    end()


def test_of_idle_threads_one_looks_for_work(opened, application, working, monkeypatch):
    service = opened(OracleEmbedder())
    notes = service.attach("notes", text="body")
    service.work(until="current")
    lookers, claim = [], service.store.lease_claim

    def looked(*args, **options):
        lookers.append(threading.get_ident())
        return claim(*args, **options)

    monkeypatch.setattr(service.store, "lease_claim", looked)
    end = working(service, threading.Event(), threads=4)
    until(lambda: len(lookers) > 20)
    assert 1 == len(set(lookers))
    application.run("INSERT INTO notes VALUES (1000, 'one more')")
    until(lambda: notes.coverage().embedded == ROWS + 1)
    end()


# --- until current ------------------------------------------------------------------------------------------------


class Fed(OracleEmbedder):
    """An embedder at whose every call a row is inserted, so that there is always a fresh one."""

    def __init__(self, application):
        super().__init__(batch_items=16)
        self._application = application

    def embed_documents(self, texts):
        self._application.run("INSERT INTO notes VALUES (?, ?)", 1000 + self.calls, f"fed {self.calls}")
        return super().embed_documents(texts)


def test_the_end_is_not_come_while_a_first_index_with_failed_rows_is_not_active_yet(backend):
    """There is none that it would take the place of, so that nothing but a worker's next look is waited for."""
    with_tables(backend)
    embedder = OracleEmbedder(refused={"notes 7"})
    with seamark.open(backend.url, embedder=embedder) as service:
        tracked = service.attach("notes", text="body")
        for generation in service.store.generations():
            source, _, indexer = tracked.source, generation, service.indexer(generation)
            while (claim := service.store.lease_claim(generation.id, "w", 100, 30)).again or claim.lease is not None:
                if claim.lease is not None:
                    sync.step(service.store, source, generation, indexer, claim.lease, Keeper(), lambda: False, 0)
        assert tracked.coverage().failed == 1
        assert {generation.state for generation in service.store.generations()} == {"building"}
        waited = indexed.Indexed(service)
        assert not waited.whole()
        assert all(service.store.generation_activate(generation.id) for generation in service.store.generations())
        assert waited.whole()


def test_until_current_ends_under_an_endless_stream_of_inserts(backend):
    """With a backfill to do, and with all of it done: what was there before is indexed, what came later may be missing."""
    application = with_tables(backend)
    with seamark.open(backend.url, embedder=Fed(application)) as service:
        notes = service.attach("notes", text="body")
        for start in ("backfill", "fresh"):
            before = application.run("SELECT body FROM notes")
            service.work(until="current", threads=1)
            embedder = service.embedders.default()[0]
            assert {body for (body,) in before} <= embedder.texts.keys(), start
            assert len(before) <= notes.coverage().embedded, start


def test_until_current_ends_beside_a_thread_that_never_stops_inserting(backend):
    application = with_tables(backend)
    stop, numbers = threading.Event(), itertools.count(1000)

    def write():
        while not stop.is_set():
            with suppress(apsw.BusyError):
                application.run("INSERT INTO notes VALUES (?, ?)", next(numbers), "one more")

    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        notes = service.attach("notes", text="body")
        writing = threading.Thread(target=write)
        writing.start()
        try:
            service.work(until="current")
            assert notes.coverage().embedded >= ROWS
        finally:
            stop.set()
            writing.join()


# --- embedders that are out ---------------------------------------------------------------------------------------


def test_an_outage_that_is_over_is_not_shown_any_more(opened):
    embedder = OracleEmbedder(errors=[EmbedderUnavailableError("503")])
    service = opened(embedder)
    service.attach("notes", text="body")
    service.work(until="current")
    assert embedder.errors == [], "the outage happened"
    assert [None, None] == [each.generation.backoff_error for [status] in [service.status()] for each in status.generations]
    assert [] == [check for check in service.doctor() if check.required and not check.ok]


def test_an_outage_that_is_not_over_goes_on_although_another_call_came_through(opened):
    service = opened(OracleEmbedder())
    source, generation, _ = vector_work(service, service.attach("notes", text="body"))
    service.store.generation_backoff(generation.id, 60, "429")
    worker.Worker(service, until=None, stop=threading.Event())._recovered(source, generation)
    assert "429" in [known.backoff_error for known in service.store.generations()]


def test_calls_that_fail_together_are_one_outage(opened):
    gate = threading.Event()
    embedder = OracleEmbedder(gate=gate, concurrency=2, errors=[EmbedderUnavailableError("503")] * 2)
    service = opened(embedder)
    work = vector_work(service, service.attach("notes", text="body"))
    one = worker.Worker(service, until=None, stop=threading.Event())
    leases = [service.store.lease_claim(work[1].id, one.id, 10, 60).lease for _ in range(2)]
    calls = [threading.Thread(target=one._step, args=(work, lease)) for lease in leases]
    for call in calls:
        call.start()
    until(lambda: embedder.calls == 2)
    gate.set()
    for call in calls:
        call.join()
    assert ([], {work[1].id: 1}) == (embedder.errors, one._outages)


def test_an_embedder_that_is_not_to_be_had_is_left_alone_for_a_while_and_words_are_indexed(opened, monkeypatch):
    monkeypatch.setattr(worklist, "CATALOG_SECONDS", 0.0)
    opened(OracleEmbedder()).attach("notes", text="body")
    service = opened(OracleEmbedder(model="another"))
    tries = []

    def of(model, locator, **_):
        tries.append(model.name)
        raise EmbedderConfigurationError("no such model here")

    monkeypatch.setattr(service.embedders, "of", of)
    catalog = worklist.WorkList(service, strict=False)
    looks = []
    for _ in range(5):
        catalog.open()
        catalog.close()
        looks.append([generation.kind for _, generation, _ in catalog.current()])
    assert [["lexical"]] * 5 == looks
    assert ["oracle-a"] == tries
    assert "no such model here" in [known.backoff_error for known in service.store.generations()]


class Refused(OracleEmbedder):
    """An embedder that cannot work until somebody mends it: asked for what is compared, or for passages only."""

    def __init__(self, *, compared, **options):
        super().__init__(**options)
        self.compared, self.comparisons = compared, 0

    def embed_queries(self, texts):
        self.comparisons += 1
        if self.compared:
            raise EmbedderConfigurationError("401: bad key")
        return super().embed_queries(texts)

    def embed_documents(self, texts):
        self.calls += 1
        raise EmbedderConfigurationError("401: bad key")


class Drifted(OracleEmbedder):
    """Another model under the same name."""

    def __init__(self, **options):
        super().__init__(**options)
        self.comparisons = 0

    def embed_queries(self, texts):
        self.comparisons += 1
        return -super().embed_queries(texts)


MISTAKES = {
    "a refused key": (lambda: Refused(compared=True), "bad key"),
    "a key that is refused for passages": (lambda: Refused(compared=False, concurrency=4), "bad key"),
    "another model": (Drifted, "model_drift"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_model_that_somebody_has_to_mend_is_raised_once_all_else_is_indexed(backend, mistake):
    """Words of the same table are, and other tables; the model is asked no more often than it takes."""
    application, other = with_tables(backend), OracleEmbedder("oracle-b")
    made, told = MISTAKES[mistake]
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        service.attach("notes", text="body")
        service.work(until="current")
    with seamark.open(backend.url, embedder=other) as service:
        service.attach("tasks", text="body")
    application.run("INSERT INTO notes VALUES (1000, 'one more')")
    for _ in range(2):
        broken = made()
        with seamark.open(backend.url, embedder=[broken, other]) as service:
            with pytest.raises(EmbedderConfigurationError, match=told):
                service.work(until="current")
            assert ROWS == service.source("tasks").coverage().embedded
            missing = {one.generation.kind: one.coverage.missing for one in service.source("notes").generations()}
            assert {"lexical": 0, "vector": 1} == missing
            assert broken.comparisons == 1
            assert broken.calls <= 1
    with seamark.open(backend.url, embedder=[OracleEmbedder(), other]) as service:
        for generation in service.store.generations():
            service.store.generation_backoff(generation.id, 0.0, None)
        service.work(until="current")
        assert 0 == service.source("notes").coverage().missing


@pytest.mark.parametrize(("concurrency", "threads"), [(1, None), (4, None), (16, None), (4, 2)])
def test_a_model_that_does_not_answer_leaves_a_thread_for_the_others(backend, working, concurrency, threads):
    """Both have more to do than there are threads; words do not wait either."""
    application, gate = with_tables(backend), threading.Event()
    rows = [(n, f"text {n}") for n in range(1000, 2400)]
    for table in ("notes", "tasks"):
        application.many(f"INSERT INTO {table} VALUES (?, ?)", rows)
    deaf, other = OracleEmbedder(gate=gate, concurrency=concurrency, batch_items=64), OracleEmbedder("oracle-b", batch_items=64)
    with seamark.open(backend.url, embedder=deaf) as service:
        service.attach("notes", text="body")
    with seamark.open(backend.url, embedder=[other, deaf]) as service:
        tasks = service.attach("tasks", text="body")
        end = working(service, threading.Event(), threads)
        try:
            until(lambda: all(one.missing == 0 for one in tasks.coverage().generations.values()))
            missing = {one.generation.kind: one.coverage.missing for one in service.source("notes").generations()}
            assert {"lexical": 0, "vector": ROWS + len(rows)} == missing
        finally:
            gate.set()
        end()


# --- tables that go, and do not come ------------------------------------------------------------------------------


def test_a_worker_goes_on_when_the_table_it_works_on_is_detached(backend, working):
    application = with_tables(backend)
    gate, stop = threading.Event(), threading.Event()
    embedder = OracleEmbedder(gate=gate)
    with seamark.open(backend.url, embedder=embedder) as service:
        service.attach("notes", text="body")
        tasks = service.attach("tasks", text="body")
        end = working(service, stop)
        assert embedder.entered.wait(30)
        service.detach("notes")
        gate.set()
        until(lambda: tasks.coverage().embedded == ROWS)
        application.run("INSERT INTO tasks VALUES (1000, 'one more')")
        until(lambda: tasks.coverage().embedded == ROWS + 1)
        end()


def test_a_worker_that_tells_how_far_it_is_goes_on_with_others_where_a_journal_is_gone(sqlite_backend, working, monkeypatch):
    """As after the restore of a backup from before the attach: the count fails, and goes on failing once that is known."""
    monkeypatch.setattr(worklist, "CATALOG_SECONDS", 0.05)
    monkeypatch.setattr(report, "REPORT_SECONDS", 0.05)
    application = with_tables(sqlite_backend)
    counts, stop = [], threading.Event()
    count = report.Report._count
    monkeypatch.setattr(report.Report, "_count", lambda self: counts.append(self) or count(self))
    with seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as service:
        service.attach("notes", text="body")
        tasks = service.attach("tasks", text="body")
        service.work(until="current")
        end = working(service, stop, progress=lambda _: None)
        until(lambda: counts)
        application.run("DROP TABLE notes")
        application.run("DROP TABLE seamark_journal_notes")
        counts.clear()
        until(lambda: len(counts) > 10 or not end.working())
        application.run("INSERT INTO tasks VALUES (1000, 'one more')")
        until(lambda: tasks.coverage().embedded == ROWS + 1 or not end.working())
        end()
        assert tasks.coverage().embedded == ROWS + 1


def drop(backend, application, name):
    """Drop a table of ours."""
    if backend.name == "postgres":
        application.run(f"DROP TABLE seamark.{name}")
        return
    sidecar = apsw.Connection(str(backend.sidecar))
    sidecar.set_busy_timeout(10_000)
    sidecar.execute(f"DROP TABLE {name}")
    sidecar.close()


@pytest.mark.parametrize("table", ["kept", "owed"])
def test_a_worker_goes_on_with_others_where_a_table_of_ours_goes(backend, working, table):
    """One that is looked into only now and then, so that the worker meets with it unprepared."""
    application = with_tables(backend)
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        notes = service.attach("notes", text="body", stamp="has_embedding")
        tasks = service.attach("tasks", text="body")
        service.work(until="current")
        end = working(service, threading.Event())
        application.run("INSERT INTO notes (id, body) VALUES (1000, 'one more')")
        until(lambda: notes.coverage().embedded == ROWS + 1)
        name = f"{table}_{vector_work(service, notes)[1].id if table == 'kept' else notes.source.id}"
        drop(backend, application, name)
        application.run("UPDATE notes SET body = 'edited' WHERE id > 50")
        until(lambda: not end.working() or any(name in problem for problem in service.status()[0].problems))
        application.run("INSERT INTO tasks VALUES (1000, 'one more')")
        until(lambda: tasks.coverage().embedded == ROWS + 1 or not end.working())
        assert tasks.coverage().embedded == ROWS + 1
        end()


@pytest.mark.parametrize(
    "cut", ["source_enroll", "generations_begin"], ids=["while rows are entered", "before the indexes are made"]
)
def test_an_attach_that_was_cut_short_is_told_by_everyone_and_attaching_again_mends_it(backend, monkeypatch, cut):
    monkeypatch.setattr(indexed, "ATTACH_STALLED_SECONDS", 0.0)
    with_tables(backend)
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        tasks = service.attach("tasks", text="body")
        with monkeypatch.context() as patched:
            patched.setattr(service.store, cut, interrupted)
            with pytest.raises(KeyboardInterrupt):
                service.attach("notes", text="body")
        with pytest.raises(SourceUnfinishedError, match=r"'notes' .* attach it again"):
            service.work(until="current")
        assert (ROWS, 0) == (tasks.coverage().embedded, tasks.coverage().missing), "the others are done all the same"
        assert {"tasks": False, "notes": True} == {status.source.name: status.unfinished for status in service.status()}
        with pytest.raises(InvalidRequestError, match="the attach is under way, or was cut short: run it again"):
            service.source("notes").search("anything")
        notes = service.attach("notes", text="body")
        service.work(until="current")
        assert (ROWS, [False, False]) == (notes.coverage().embedded, [status.unfinished for status in service.status()])


def interrupted(*_):
    raise KeyboardInterrupt


def test_an_attach_that_goes_on_is_waited_for(opened, monkeypatch):
    service = opened(OracleEmbedder())
    spec = SourceSpec("notes", (TextColumn("body"),))
    source = service.store.source_create("notes", spec, service.store.table_inspect("notes"))
    monkeypatch.setattr(indexed, "ATTACH_STALLED_SECONDS", 0.0)
    waited = indexed.Indexed(service)
    assert not waited.whole()
    service.store.source_enroll(source, 10)
    assert not waited.whole()
    with pytest.raises(SourceUnfinishedError, match="attach it again"):
        waited.whole()


def test_who_waits_for_an_attach_that_was_cut_short_is_told(opened):
    service = opened(OracleEmbedder())
    spec = SourceSpec("notes", (TextColumn("body"),))
    service.store.source_create("notes", spec, service.store.table_inspect("notes"))
    told = []
    report.Report(service, told.append).tell()
    assert "'notes' is still being attached" in told[0].problem


def test_a_table_is_looked_at_now_and_then_and_at_once_when_reading_fails(opened, application, monkeypatch):
    service = opened(OracleEmbedder())
    tracked = service.attach("notes", text="body")
    looks = []
    look = service.source_problems
    monkeypatch.setattr(service, "source_problems", lambda source: looks.append(source.name) or look(source))
    monkeypatch.setattr(worklist, "CATALOG_SECONDS", 0.0)
    one = worker.Worker(service, until=None, stop=threading.Event())
    one._catalog.open()
    one._catalog.close()
    work = [[one._catalog.current() for _ in range(5)] for _ in range(2)]
    assert [[2] * 5] * 2 == [[len(each) for each in looked] for looked in work]
    assert ["notes"] == looks
    application.run("ALTER TABLE notes RENAME COLUMN body TO text")
    assert 2 == len(one._catalog.current())
    with one._unless_detached([known.id for known in service.store.generations(tracked.source.id)]):
        raise StoreError("no such column")
    assert () == one._catalog.current()


def test_who_waits_for_an_embedder_is_told(opened):
    service = opened(OracleEmbedder())
    _, generation, _ = vector_work(service, service.attach("notes", text="body"))
    service.store.generation_backoff(generation.id, 60, "503 from the model")
    told = []
    report.Report(service, told.append).tell()
    assert "503 from the model" == told[0].problem


def test_who_waits_for_the_store_is_told():
    class Away:
        def status(self, problems):
            raise StoreUnavailableError("the server is away")

    told = []
    report.Report(Away(), told.append).tell()
    assert "the server is away" == told[0].problem


@pytest.mark.parametrize("how", [{"until": "finished"}, {"until": ""}, {"threads": 0}, {"threads": -1}])
def test_work_that_cannot_be_meant_is_refused_and_not_run_for_ever(opened, how):
    with pytest.raises(InvalidRequestError):
        opened(OracleEmbedder()).work(**{"until": "current", **how})
