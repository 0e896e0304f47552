"""A provider changes the model behind its name under a worker that runs on: nothing of it is settled once that is noticed, an
outage is followed by a look before anything is embedded, and other sources go on."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

import seamark
from seamark.core import registry, sync
from seamark.edges import worker
from seamark.errors import ModelDriftError
from seamark.testing.beside import working
from seamark.testing.embedding_server import EmbeddingServer, Fault
from seamark.testing.waiting import until

SHAPES = ("openai", "tei")


@pytest.fixture(autouse=True)
def leases_short(hurried, monkeypatch):
    """A settle that is refused leaves its lease to expire."""
    for module in (sync, worker):
        monkeypatch.setattr(module, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(worker, "KEEPER_SECONDS", 1.0)
    monkeypatch.setattr(worker, "KEEPER_LOOK_SECONDS", 0.1)


@pytest.fixture
def application(backend):
    application = backend.application()
    for table in ("notes", "others"):
        application.run(f"CREATE TABLE {table}(id {backend.type('integer')} PRIMARY KEY, body {backend.type('text')})")
        application.many(f"INSERT INTO {table} VALUES (?, ?)", [(n, f"{table}: row {n}") for n in range(1, 5)])
    return application


@contextmanager
def worked(backend, server, shape="openai", interval=3600.0):
    """Run a worker on `notes`, embedded by the server, and `others`, embedded here; yield the service once both are whole."""
    base = server.openai_url if shape == "openai" else server.url
    with pytest.MonkeyPatch.context() as patch, ExitStack() as closing:
        patch.setenv("SEAMARK_PROBE_INTERVAL_SECONDS", str(interval))
        service = closing.enter_context(seamark.open(backend.url))
        service.attach("notes", text="body", model=f"{shape}:m?base_url={base}&dimensions=16&timeout_seconds=5")
        service.attach("others", text="body", model="static")
        closing.enter_context(working(service, threads=2))
        until(lambda: states(service) == ["active"] * 4)
        yield service


def states(service):
    return [one.state for one in service.store.generations()]


def vector(service):
    source = service.source("notes").source
    return next(one for one in service.store.generations(source.id) if one.kind == "vector")


def embedded(service, table="notes"):
    return service.source(table).coverage().embedded


def asked(server, text):
    return sum(text in given for call in server.calls for given in call.texts)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_change_under_a_running_worker_is_noticed_and_nothing_of_it_is_settled_from_then_on(backend, application, shape):
    """Also what was under way with the changed model before it was noticed is not settled after it."""
    with EmbeddingServer(dimension=16) as server, worked(backend, server, shape, interval=0.3) as service:
        server.fail(Fault("delay", seconds=2.0, text="under way"))
        server.weights = "another"
        application.run("INSERT INTO notes VALUES (10, 'under way')")
        until(lambda: vector(service).drift is not None)
        assert "has a cosine of" in vector(service).drift
        assert "the last comparison here that was clean began at 20" in vector(service).drift
        assert 1 == asked(server, "under way"), "its call had begun"
        application.run("INSERT INTO notes VALUES (11, 'after it')")
        application.run("INSERT INTO others VALUES (11, 'after it')")
        until(lambda: embedded(service, "others") == 5)
        time.sleep(2.5)
        assert (4, 2) == (embedded(service), service.source("notes").coverage().missing)
        assert 0 == asked(server, "after it")
        server.weights = None
        until(lambda: vector(service).drift is None and embedded(service) == 6)


@pytest.mark.parametrize("shape", SHAPES)
def test_after_an_outage_the_model_is_compared_before_it_is_given_a_text(backend, application, shape):
    with ExitStack() as servers:
        first = EmbeddingServer(dimension=16)
        port = first.server_address[1]
        with ExitStack() as lives:
            lives.enter_context(first)
            service = servers.enter_context(worked(backend, first, shape))
            first.fail(Fault("reset", times=None))  # closing it would leave the connections that it has
            lives.close()
        application.run("INSERT INTO notes VALUES (10, 'while it was out')")
        until(lambda: "cannot be reached" in (vector(service).backoff_error or ""))
        second = EmbeddingServer(dimension=16, port=port)
        second.weights = "another"
        servers.enter_context(second)
        until(lambda: vector(service).drift is not None)
        application.run("INSERT INTO others VALUES (10, 'meanwhile')")
        until(lambda: embedded(service, "others") == 5)
        assert (4, 1) == (embedded(service), service.source("notes").coverage().missing)
        assert 0 == asked(second, "while it was out")
        assert asked(second, registry.PROBES[0]) > 0
        second.weights = None
        until(lambda: vector(service).drift is None and embedded(service) == 5)


def test_a_proxy_that_answers_for_a_server_being_started_again_is_an_outage_too(backend, application):
    with EmbeddingServer(dimension=16) as server, worked(backend, server) as service:
        server.fail(Fault("status", status=502, times=None))
        application.run("INSERT INTO notes VALUES (10, 'while it was out')")
        until(lambda: asked(server, "while it was out") > 0 and "502" in (vector(service).backoff_error or ""))
        tried = asked(server, "while it was out")
        server.weights = "another"
        server.heal()
        until(lambda: vector(service).drift is not None)
        assert (4, tried) == (embedded(service), asked(server, "while it was out"))


def test_while_a_server_takes_its_time_to_be_compared_the_other_sources_go_on(backend, application, monkeypatch):
    asking, answered = threading.Event(), threading.Event()
    with EmbeddingServer(dimension=16) as server, worked(backend, server) as service:
        probe = service.registry._embedded

        def slow(embedder, texts):
            asking.set()
            answered.wait()
            return probe(embedder, texts)

        server.fail(Fault("status", status=502, text="while it was out"))
        monkeypatch.setattr(service.registry, "_embedded", slow)
        try:
            application.run("INSERT INTO notes VALUES (10, 'while it was out')")
            until(asking.is_set)
            application.run("INSERT INTO others VALUES (10, 'meanwhile')")
            until(lambda: embedded(service, "others") == 5)
            assert 4 == embedded(service)
        finally:
            answered.set()
        until(lambda: embedded(service) == 5)


@pytest.mark.parametrize("when", ["a worker begins", "a worker runs"])
def test_while_a_server_takes_its_time_to_be_opened_the_other_sources_go_on(backend, application, monkeypatch, when):
    """For the first time: beside a worker that begins, or for an index that is begun under one."""
    asking, answered = threading.Event(), threading.Event()
    with EmbeddingServer(dimension=16) as server, seamark.open(backend.url) as service:
        tracked = service.attach("others", text="body", model="static")
        if when == "a worker begins":
            service.attach("notes", text="body", model=f"openai:m?base_url={server.openai_url}&dimensions=16")
        compared = service.registry._embedded

        def slow(embedder, texts):
            if embedder.identity.name == "openai:m" and threading.current_thread() is not threading.main_thread():
                asking.set()
                answered.wait()
            return compared(embedder, texts)

        monkeypatch.setattr(service.registry, "_embedded", slow)
        with working(service, threads=2):
            try:
                if when == "a worker runs":
                    until(lambda: tracked.coverage().missing == 0)
                    service.attach("notes", text="body", model=f"openai:m?base_url={server.openai_url}&dimensions=16")
                until(asking.is_set)
                application.run("INSERT INTO others VALUES (10, 'meanwhile')")
                until(lambda: embedded(service, "others") == 5)
                assert 0 == embedded(service)
                answered.set()
                until(lambda: embedded(service) == 4)
            finally:
                answered.set()


@pytest.mark.parametrize(("change", "told"), [("sha", "is now tei:m@"), ("model", "serves other, not m")])
def test_a_tei_that_says_that_it_has_another_model_is_believed(backend, application, change, told):
    """Though its vectors are the same."""
    with EmbeddingServer(dimension=16) as server, worked(backend, server, "tei", interval=0.2) as service:
        setattr(server, change, {"sha": "f" * 40, "model": "other"}[change])
        if change == "model":
            server.weights = "m"
        until(lambda: told in (vector(service).drift or vector(service).backoff_error or ""))
        application.run("INSERT INTO notes VALUES (10, 'after it')")
        application.run("INSERT INTO others VALUES (10, 'after it')")
        until(lambda: embedded(service, "others") == 5)
        assert (4, 0) == (embedded(service), asked(server, "after it"))


def test_a_query_does_not_clear_what_another_process_knows_by_the_server_s_word(backend, application):
    """Its vectors are the same, and the process that asks had compared before."""
    with EmbeddingServer(dimension=16) as server, seamark.open(backend.url) as service:
        tracked = service.attach("notes", text="body", model=f"tei:m?base_url={server.url}&dimensions=16")
        service.work(until="current")
        assert tracked.search("row 1", mode="vector").hits
        server.sha = "f" * 40
        with seamark.open(backend.url) as other, pytest.raises(ModelDriftError):
            other.indexer(vector(other))
        for _ in range(2):
            with pytest.raises(ModelDriftError, match="is now tei:m@"):
                tracked.search("row 1", mode="vector")
            assert "is now tei:m@" in vector(service).drift
