"""Work until all is current: it ends, also beside who never stops writing, and not before its time."""

from __future__ import annotations

import itertools
from contextlib import suppress

import apsw

import seamark
from seamark.core import sync
from seamark.edges import indexed
from seamark.testing.beside import beside
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.tables import ROWS, notes_and_tasks


class Keeper:
    def hold(self, lease): ...

    def drop(self, lease): ...


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
    notes_and_tasks(backend)
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
    application = notes_and_tasks(backend)
    with seamark.open(backend.url, embedder=Fed(application)) as service:
        notes = service.attach("notes", text="body")
        for start in ("backfill", "fresh"):
            before = application.run("SELECT body FROM notes")
            service.work(until="current", threads=1)
            embedder = service.embedders.default()[0]
            assert {body for (body,) in before} <= embedder.texts.keys(), start
            assert len(before) <= notes.coverage().embedded, start


def test_until_current_ends_beside_a_thread_that_never_stops_inserting(backend):
    application = notes_and_tasks(backend)
    numbers = itertools.count(1000)

    def write(stop):
        while not stop.is_set():
            with suppress(apsw.BusyError):
                application.run("INSERT INTO notes VALUES (?, ?)", next(numbers), "one more")

    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        notes = service.attach("notes", text="body")
        with beside(write):
            service.work(until="current")
            assert notes.coverage().embedded >= ROWS
