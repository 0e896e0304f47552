"""What a worker knows of its models: opened once, compared beside the work, none waiting for another's server."""

from __future__ import annotations

import threading

import pytest

import seamark
from seamark.core import retry
from seamark.edges import worker, worklist
from seamark.errors import EmbedderUnavailableError, StoreUnavailableError
from seamark.testing.beside import beside, working
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.tables import notes_and_tasks
from seamark.testing.waiting import until

ROWS = 5


class Compared(OracleEmbedder):
    """One whose comparisons are counted, may hang or be in vain, and have something happen meanwhile."""

    def __init__(self, *words, out=0, **options):
        super().__init__(*words, **options)
        self.comparisons, self.out = 0, out
        self.begun, self.answered = threading.Event(), threading.Event()
        self.answered.set()
        self.meanwhile = None

    def embed_documents(self, texts):
        return super().embed_queries(texts)

    def hang(self):
        self.begun.clear()
        self.answered.clear()

    def embed_queries(self, texts):
        self.comparisons += 1
        self.begun.set()
        self.answered.wait(60)
        if self.meanwhile is not None:
            self.meanwhile()
        if self.out:
            self.out -= 1
            raise EmbedderUnavailableError("503: being started")
        return super().embed_queries(texts)


@pytest.fixture
def application(backend):
    return notes_and_tasks(backend, ROWS)


def attach(backend, table, embedder):
    with seamark.open(backend.url, embedder=embedder) as service:
        service.attach(table, text="body")


@pytest.fixture
def opened(backend, application, monkeypatch):
    """Open a service on `notes`, attached with the first embedder, whose worker and comparisons hurry."""
    services = []
    monkeypatch.setattr(retry, "OUTAGE_DELAY_SECONDS", 0.2)
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.05)

    def make(*embedders, interval=3600.0):
        attach(backend, "notes", OracleEmbedder())
        monkeypatch.setenv("SEAMARK_PROBE_INTERVAL_SECONDS", str(interval))
        services.append(seamark.open(backend.url, embedder=list(embedders)))
        return services[-1]

    yield make
    for service in services:
        service.close()


def embedded(service, table):
    return service.source(table).coverage().embedded


def vectors(catalog):
    return [generation for _, generation, _ in catalog.current() if generation.kind == "vector"]


@pytest.fixture
def looking(monkeypatch):
    """Look for work whenever it is asked for."""
    monkeypatch.setattr(worklist, "CATALOG_SECONDS", 0.0)


# --- a model in its own time --------------------------------------------------------------------------------------


def test_while_a_model_is_compared_another_is_opened(backend, opened):
    """The hourly comparison of one that hangs keeps no other from being opened."""
    slow = Compared()
    service = opened(slow, OracleEmbedder("oracle-b"), interval=0.2)
    with working(service, threads=2):
        until(lambda: embedded(service, "notes") == ROWS)
        slow.hang()
        try:
            until(slow.begun.is_set)
            attach(backend, "tasks", OracleEmbedder("oracle-b"))
            until(lambda: embedded(service, "tasks") == ROWS, seconds=20)
            assert not slow.answered.is_set()
        finally:
            slow.answered.set()


def test_work_goes_on_while_its_own_model_is_compared(application, opened):
    slow = Compared(concurrency=2)
    service = opened(slow, interval=0.2)
    with working(service, threads=2):
        until(lambda: embedded(service, "notes") == ROWS)
        slow.hang()
        try:
            until(slow.begun.is_set)
            application.run("INSERT INTO notes VALUES (99, 'meanwhile')")
            until(lambda: embedded(service, "notes") == ROWS + 1, seconds=20)
        finally:
            slow.answered.set()


def test_a_doubt_that_comes_while_a_model_is_compared_is_looked_into(opened, looking):
    embedder = Compared()
    service = opened(embedder)
    catalog = worklist.WorkList(service, strict=False)
    catalog.open()
    catalog.close()
    [generation] = vectors(catalog)
    catalog.doubt(generation)
    embedder.meanwhile = lambda: catalog.doubt(generation)
    catalog.open()
    catalog.close()
    assert (2, []) == (embedder.comparisons, vectors(catalog))
    embedder.meanwhile = None
    catalog.open()
    catalog.close()
    assert (3, [generation.id]) == (embedder.comparisons, [one.id for one in vectors(catalog)])


# --- opened once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_is_opened_once_also_beside_a_look_that_takes_long_or_fails(backend, opened, looking, monkeypatch, fails):
    service = opened(OracleEmbedder(), OracleEmbedder("oracle-b"))
    attach(backend, "tasks", OracleEmbedder("oracle-b"))
    made, held, going_on = [], threading.Event(), threading.Event()
    indexer, generations = service.indexer, service.store.generations
    monkeypatch.setattr(service, "indexer", lambda one, budget=None: made.append(one.id) or indexer(one, budget))
    catalog = worklist.WorkList(service, strict=False)
    catalog.open()
    catalog.close()

    def last(source=None):
        if source == service.source("tasks").source.id and threading.current_thread() is not threading.main_thread():
            held.set()
            going_on.wait(60)
            if fails:
                raise StoreUnavailableError("away")
        return generations(source)

    monkeypatch.setattr(service.store, "generations", last)

    def look(_):
        try:
            catalog.current()
        except StoreUnavailableError:
            assert fails

    with beside(look):
        try:
            until(held.is_set)
            catalog.open()
            catalog.close()
        finally:
            going_on.set()
    monkeypatch.setattr(service.store, "generations", generations)
    catalog.open()
    catalog.close()
    known = [one.id for one in service.store.generations() if one.kind == "vector"]
    assert known == sorted(one.id for one in vectors(catalog))
    assert known == sorted(one for one in made if one in known)


# --- outages ------------------------------------------------------------------------------------------------------


def test_an_outage_of_the_database_lets_no_model_wait_for_another_that_hangs(backend, opened, monkeypatch):
    slow = Compared()
    slow.hang()
    service = opened(slow, OracleEmbedder("oracle-b"))
    begin, away = worklist.WorkList.open, []

    def failing(catalog):
        if slow.begun.is_set() and not away:
            away.append(True)
            raise StoreUnavailableError("away")
        begin(catalog)

    monkeypatch.setattr(worklist.WorkList, "open", failing)
    with working(service, threads=2):
        try:
            until(lambda: away)
            attach(backend, "tasks", OracleEmbedder("oracle-b"))
            until(lambda: embedded(service, "tasks") == ROWS, seconds=20)
            assert not slow.answered.is_set()
        finally:
            slow.answered.set()


def test_an_outage_of_the_database_while_a_model_is_opened_is_raised_to_nobody(opened, looking, monkeypatch):
    service = opened(OracleEmbedder())
    models, away = service.store.models, []

    def failing():
        if not away:
            away.append(True)
            raise StoreUnavailableError("away")
        return models()

    monkeypatch.setattr(service.store, "models", failing)
    catalog = worklist.WorkList(service, strict=True)
    catalog.open()
    catalog.close()
    assert ([True], [], False) == (away, vectors(catalog), catalog.opened())
    catalog.open()
    catalog.close()
    assert (1, True) == (len(vectors(catalog)), catalog.opened())


def test_an_outage_while_a_model_is_opened_is_waited_for_while_other_tables_finish(backend, opened):
    """By who works until all is current."""
    out = Compared(out=3)
    service = opened(out, OracleEmbedder("oracle-b"))
    attach(backend, "tasks", OracleEmbedder("oracle-b"))
    done = []
    out.meanwhile = lambda: out.out > 1 or done.append(until(lambda: embedded(service, "tasks") == ROWS))
    service.work(until="current")
    assert all(done)
    assert [ROWS, ROWS] == [embedded(service, table) for table in ("notes", "tasks")]
    assert (4, 0) == (out.comparisons, out.out)
