"""What a worker holds and how many threads it works with, until it is told to stop."""

from __future__ import annotations

import math
import threading

import pytest

import seamark
from seamark.core import sync
from seamark.edges import worker
from seamark.errors import InvalidRequestError, StoreUnavailableError
from seamark.model import Lease
from seamark.store.postgres import upkeep
from seamark.testing.beside import working
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.tables import ROWS, notes_and_tasks
from seamark.testing.waiting import until


def test_a_stop_does_not_wait_for_a_graph_that_is_being_built(postgres_backend, monkeypatch):
    """It is broken off, and the next worker builds it: here it would wait for a writer who does not end."""
    monkeypatch.setattr(upkeep, "INDEX_CHUNKS", 50)
    application, writer = notes_and_tasks(postgres_backend), postgres_backend.application()
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid::regclass::text LIKE '%hnsw'"
    with seamark.open(postgres_backend.url, embedder=OracleEmbedder()) as service:
        tracked = service.attach("notes", text="body")
        generation = service.store.generations(tracked.source.id)[-1]
        with writer.transaction():
            writer.run(f"LOCK TABLE seamark.chunks_{generation.id} IN ROW EXCLUSIVE MODE")
            with working(service, threads=2):
                until(lambda: application.run(valid) == [(False,)])
                assert tracked.coverage().embedded == ROWS
            assert application.run(valid) == [(False,)], "the writer has not ended, so nobody has waited for it"
        service.work(until="current")
        assert application.run(valid) == [(True,)]


def test_a_call_that_outlasts_its_lease_is_settled_after_the_stop(opened, monkeypatch):
    monkeypatch.setattr(sync, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(worker, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(worker, "KEEPER_SECONDS", 0.2)
    monkeypatch.setattr(worker, "KEEPER_LOOK_SECONDS", 0.05)
    gate = threading.Event()
    embedder = OracleEmbedder(gate=gate, batch_items=ROWS)
    service = opened(embedder)
    tracked = service.attach("notes", text="body")
    with working(service, threads=1) as at_work:
        assert embedder.entered.wait(30)
        at_work.stop.set()
        asked_at = service.store.clock()
        until(lambda: service.store.clock() > asked_at + 2_000_000)
        gate.set()
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


def test_there_are_as_many_threads_as_what_is_attached_wants_also_when_it_is_attached_later(opened, application):
    application.many("INSERT INTO notes VALUES (?, ?)", [(n, f"more {n}") for n in range(1000, 1400)])
    gate = threading.Event()
    embedder = OracleEmbedder(gate=gate, concurrency=5, batch_items=64)
    service = opened(embedder)
    with working(service):
        service.attach("notes", text="body")
        until(lambda: embedder.calls == 5)
        gate.set()


def test_of_idle_threads_one_looks_for_work(opened, application, monkeypatch):
    service = opened(OracleEmbedder())
    notes = service.attach("notes", text="body")
    service.work(until="current")
    lookers, claim = [], service.store.lease_claim

    def looked(*args, **options):
        lookers.append(threading.get_ident())
        return claim(*args, **options)

    monkeypatch.setattr(service.store, "lease_claim", looked)
    with working(service, threads=4):
        until(lambda: len(lookers) > 20)
        assert 1 == len(set(lookers))
        application.run("INSERT INTO notes VALUES (1000, 'one more')")
        until(lambda: notes.coverage().embedded == ROWS + 1)


@pytest.mark.parametrize("how", [{"until": "finished"}, {"until": ""}, {"threads": 0}, {"threads": -1}])
def test_work_that_cannot_be_meant_is_refused_and_not_run_for_ever(opened, how):
    with pytest.raises(InvalidRequestError):
        opened(OracleEmbedder()).work(**{"until": "current", **how})
