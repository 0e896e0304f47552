"""Writers and workers at the same time, each with connections of its own."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from seamark.model import Generation, GenerationKind, Key
    from seamark.testing.workbench import Workbench

KINDS: tuple[GenerationKind, ...] = ("vector", "lexical")
ROUNDS = 150


class Concurrency:
    """What holds step by step holds in a crowd."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_writes_beside_three_workers(self, bench: Workbench, kind: GenerationKind) -> None:
        """The application is never refused a write, and in the end everything is as it should be."""
        source = bench.notes(*(f"text {number}" for number in range(60)))
        generation = bench.generation(source, kind)
        stores = [bench.backend.store() for _ in range(3)]
        written = threading.Event()

        def write() -> None:
            chance = random.Random(7)
            try:
                for step in range(ROUNDS):
                    key, other = chance.randrange(1, 80), chance.randrange(1, 80)
                    bench.app.run("DELETE FROM notes WHERE id = ?", key)
                    bench.app.run("UPDATE notes SET body = ? WHERE id = ?", f"edit {step}|tail", other)
                    bench.app.run("INSERT INTO notes (id, body) VALUES (?, ?)", key, f"insert {step}")
            finally:
                written.set()

        def work(number: int) -> None:
            store = stores[number]
            chance = random.Random(number)
            while not written.is_set():
                lease = store.lease_claim(generation.id, f"w{number}", chance.randint(1, 8), 3600).lease
                if lease is None:
                    continue
                reading = store.lease_read(source, lease, chance.choice([1, 20, 10_000]))
                fate = chance.random()
                if fate < 0.1:
                    store.lease_release(reading.lease)
                elif fate < 0.2:
                    store.lease_renew([reading.lease], -1)
                    bench.settle(source, generation, reading.lease, reading.rows)
                else:
                    store.lease_settle(source, reading.lease, bench.batch(generation, reading.rows), ())
                found = store.coverage(source, [generation.id])[generation.id]
                assert found.live == found.embedded + found.blank + found.missing + found.failed

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(write), *(pool.submit(work, number) for number in range(3))]:
                done.result()
        self.finish(bench, generation)

    def finish(self, bench: Workbench, generation: Generation) -> None:
        """Do what is left, and compare with the table."""
        source = bench.source(generation.source_id)
        bench.drain(source, generation)
        live: dict[Key, str] = {(key,): body for key, body in bench.app.run("SELECT id, body FROM notes")}
        bench.verify(source, generation, live)
        found = bench.coverage_check(source, generation, live)
        assert (found.missing, found.failed, found.leases) == (0, 0, 0)
        assert bench.store.generation_activate(generation.id)
        bench.store.journal_trim(source.id)
        bench.coverage_check(source, generation, live)

    def test_no_row_is_indexed_twice(self, bench: Workbench) -> None:
        """Eight workers and no faults: every row is read under one lease only (I5)."""
        source = bench.notes(*(f"text {number}" for number in range(200)))
        generation = bench.vector(source)
        bench.app.many("INSERT INTO notes (id, body) VALUES (?, 'fresh')", [(number,) for number in range(1000, 1100)])

        def work(number: int) -> list[tuple[Key, int]]:
            read: list[tuple[Key, int]] = []
            while (lease := bench.claim(generation, f"w{number}", limit=9).lease) is not None:
                rows = bench.read(source, lease)
                read += [(row.key, row.seq) for row in rows]
                settled = bench.settle(source, generation, lease, rows)
                assert settled is not None
                assert settled.superseded == 0
            return read

        with ThreadPoolExecutor(8) as pool:
            read = [entry for found in pool.map(work, range(8)) for entry in found]
        assert len(read) == 300
        assert len(set(read)) == 300
        self.finish(bench, generation)
