"""Embedders that are out, or that somebody has to mend: how a worker outlives them, and who is told."""

from __future__ import annotations

import threading

import pytest

import seamark
from seamark.edges import report, worker, worklist
from seamark.errors import EmbedderConfigurationError, EmbedderUnavailableError, StoreUnavailableError
from seamark.testing.beside import working
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.tables import ROWS, notes_and_tasks
from seamark.testing.waiting import until


def vector_work(service, tracked):
    generation = next(known for known in service.store.generations(tracked.source.id) if known.kind == "vector")
    return tracked.source, generation, service.indexer(generation)


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
    application, other = notes_and_tasks(backend), OracleEmbedder("oracle-b")
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
def test_a_model_that_does_not_answer_leaves_a_thread_for_the_others(backend, concurrency, threads):
    """Both have more to do than there are threads; words do not wait either."""
    application, gate = notes_and_tasks(backend), threading.Event()
    rows = [(n, f"text {n}") for n in range(1000, 2400)]
    for table in ("notes", "tasks"):
        application.many(f"INSERT INTO {table} VALUES (?, ?)", rows)
    deaf, other = OracleEmbedder(gate=gate, concurrency=concurrency, batch_items=64), OracleEmbedder("oracle-b", batch_items=64)
    with seamark.open(backend.url, embedder=deaf) as service:
        service.attach("notes", text="body")
    with seamark.open(backend.url, embedder=[other, deaf]) as service:
        tasks = service.attach("tasks", text="body")
        with working(service, threads):
            try:
                until(lambda: all(one.missing == 0 for one in tasks.coverage().generations.values()))
                missing = {one.generation.kind: one.coverage.missing for one in service.source("notes").generations()}
                assert {"lexical": 0, "vector": ROWS + len(rows)} == missing
            finally:
                gate.set()


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
