"""A worker process: how it outlives outages, detached tables and its own end, on a real database."""

from __future__ import annotations

import threading
import time

import pytest

import seamark
from seamark.core import sync
from seamark.edges import worker
from seamark.errors import EmbedderConfigurationError, EmbedderUnavailableError, StoreUnavailableError
from seamark.model import Lease, SourceSpec, TextColumn
from seamark.testing.oracle import OracleEmbedder

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

    def start(service, stop):
        raised = []

        def target():
            try:
                service.work(stop=stop, threads=1)
            except BaseException as error:  # noqa: BLE001 raised again below
                raised.append(error)

        thread = threading.Thread(target=target)
        thread.start()

        def end():
            stop.set()
            thread.join()
            if raised:
                raise raised.pop()

        ends.append(end)
        return end

    yield start
    for end in ends:
        end()


def until(reached):
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline, "not reached"
        time.sleep(0.01)


def vector_work(service, tracked):
    generation = next(known for known in service.store.generations(tracked.source.id) if known.kind == "vector")
    return tracked.source, generation, service.indexer(generation)


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

    def renew():
        renewals.append(1)
        if len(renewals) == 1:
            raise StoreUnavailableError("locked")
        one._left.set()

    monkeypatch.setattr(one._keeper, "renew", renew)
    keeping = threading.Thread(target=one._guarded, args=(one._keep, one._left))
    keeping.start()
    keeping.join(5)
    assert (False, 2) == (keeping.is_alive(), len(renewals))


def test_nothing_is_counted_while_a_lease_is_held(opened):
    one = worker.Worker(opened(OracleEmbedder()), until="current", stop=threading.Event())
    one._worked_at = one._count_at = 0.0
    lease = Lease(1, 1, 1, "fresh", 0, 1, one.id, 1, 0)
    assert one._quiet()
    one._keeper.hold(lease)
    assert not one._quiet()
    one._keeper.drop(lease)
    assert one._quiet()


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
    calls = [threading.Thread(target=one._step, args=work) for _ in range(2)]
    for call in calls:
        call.start()
    until(lambda: embedder.calls == 2)
    gate.set()
    for call in calls:
        call.join()
    assert ([], {work[1].id: 1}) == (embedder.errors, one._outages)


def test_an_embedder_that_is_not_to_be_had_is_left_alone_for_a_while_and_words_are_indexed(opened, monkeypatch):
    monkeypatch.setattr(worker, "CATALOG_SECONDS", 0.0)
    opened(OracleEmbedder()).attach("notes", text="body")
    service = opened(OracleEmbedder(model="another"))
    tries = []

    def of(model, locator):
        tries.append(model.name)
        raise EmbedderConfigurationError("no such model here")

    monkeypatch.setattr(service.embedders, "of", of)
    catalog = worker._Catalog(service, strict=False)
    looks = [[generation.kind for _, generation, _ in catalog.current()] for _ in range(5)]
    assert [["lexical"]] * 5 == looks
    assert ["oracle-a"] == tries
    assert "no such model here" in [known.backoff_error for known in service.store.generations()]


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


def test_who_waits_for_an_attach_that_was_cut_short_is_told(opened):
    service = opened(OracleEmbedder())
    spec = SourceSpec("notes", (TextColumn("body"),))
    service.store.source_create("notes", spec, service.store.table_inspect("notes"))
    told = []
    worker.Report(service, told.append).tell()
    assert "'notes' is still being attached" in told[0].problem


def test_who_waits_for_the_store_is_told():
    class Away:
        def status(self):
            raise StoreUnavailableError("the server is away")

    told = []
    worker.Report(Away(), told.append).tell()
    assert "the server is away" == told[0].problem
