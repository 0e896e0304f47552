"""One random history on a real database: two writers, four workers, searches, swaps and kills, interleaved from one seed.

One thread takes one step of one of them at a time, so that a seed is the same history every time. What is right is known from
what was committed, and from nothing that Seamark says.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seamark.errors import StoreError
from seamark.model import Condition
from seamark.store.claim import LANES
from seamark.testing.history_writers import OUTSIDE, Writers
from seamark.testing.oracle import TOLERANCE, oracle_vector
from seamark.testing.workbench import CHARACTERS, DIMENSION, LEASE_SECONDS, Workbench

if TYPE_CHECKING:
    from collections.abc import Collection

    from seamark.model import ChunkHit, FailedRow, Generation, GenerationState, Key, Lease, Source, SourceRow
    from seamark.store.contract import Store
    from seamark.testing.backend import Backend

WORKERS = 4
WHERE = Condition("org", "!=", OUTSIDE)
MODELS = ("oracle-a", "oracle-b", "oracle-c")
EVENTS = {
    "begin": 5,
    "write": 18,
    "end": 8,
    "work": 56,
    "expire": 4,
    "kill": 3,
    "release": 1,
    "retry": 2,
    "trim": 2,
    "maintain": 1,
    "swap": 5,
    "rollback": 1.5,
    "retire": 0.3,
    "drop": 2,
    "search": 4,
    "count": 1,
}
"""How often each happens."""
STEPS = (20, 90)
"""The fewest and the most events of a history."""
TURNS = 5_000
"""More than the work at the end of a history takes."""


class WrongError(Exception):
    """A history came to a wrong state."""


@dataclass
class Worker:
    """A worker, and what it has in hand: a lease as it was claimed, then also the rows that it read and embedded."""

    name: str
    store: Store
    generation: Generation | None = None
    lease: Lease | None = None
    rows: tuple[SourceRow, ...] | None = None
    expired: bool = False

    def drop(self) -> None:
        """Have nothing in hand."""
        self.lease, self.rows, self.expired = None, None, False


class History(Writers):
    """One history over a table of its own.

    Args:
        backend: the database, which other histories may have used.
        stores: Seamark as several processes have it open.
        seed: what everything that happens follows from.
    """

    def __init__(self, backend: Backend, stores: Collection[Store], seed: int, *, trace: bool = False) -> None:
        super().__init__(Workbench(backend), backend, random.Random(seed), seed)
        self.dead: list[Lease] = []
        self.gone: set[int] = set()
        self.workers = [Worker(f"w{n}", [*stores][n % len(stores)]) for n in range(WORKERS)]
        self.calls: Counter[tuple[int, Key, int]] = Counter()
        self.excused: Counter[tuple[int, Key, int]] = Counter()
        self._trace = trace
        self.source, self.generations = self._begin()

    def _begin(self) -> tuple[Source, list[Generation]]:
        for _ in range(self.random.randint(0, 12)):
            self.write()
        source = self.bench.attach(self.table, ("body",), WHERE, batch=self.random.randint(1, 5))
        for _ in range(self.random.randint(0, 6)):
            self.random.choice([self.begin, self.write, self.end])()
        begun = [self.bench.lexical(source), self.bench.vector(source, MODELS[0])]
        if self.random.random() < 0.5:
            self.bench.drain(source, *begun)
            for generation in begun:
                self.bench.store.generation_activate(generation.id)
        return source, begun

    # --- the workers ----------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Let one of the workers take its next step."""
        self.step(self.random.choice(self.workers))

    def step(self, worker: Worker) -> bool:
        """Claim, or read and embed, or settle; return whether there was anything to do."""
        if worker.lease is None:
            return self._claim(worker)
        if worker.lease.generation_id in self.gone:
            self._fail(worker)
        elif worker.rows is None:
            self._read(worker)
        else:
            self._settle(worker)
        return True

    def _claim(self, worker: Worker) -> bool:
        again = False
        for generation in self.random.sample(self.generations, len(self.generations)):
            first = self.random.choice(list(LANES))
            claim = worker.store.lease_claim(generation.id, worker.name, self.random.randint(1, 4), LEASE_SECONDS, first=first)
            if claim.lease is not None:
                worker.generation, worker.lease = generation, claim.lease
                self.score[claim.lease.lane] += 1
                self.score["takeover"] += claim.lease.fence > 1
                return True
            again = again or claim.again
        return again

    def _read(self, worker: Worker) -> None:
        """Read; what is embedded of it is counted, and may be so once but for what excuses it (I5)."""
        assert worker.lease is not None
        reading = worker.store.lease_read(self.source, worker.lease, self.random.choice([0, CHARACTERS, CHARACTERS]))
        worker.lease, worker.rows = reading.lease, reading.rows
        if worker.expired:
            self._excuse(worker)
        for row in reading.rows:
            call = (worker.lease.generation_id, row.key, row.seq)
            self.calls[call] += row.live
            if self.calls[call] > 1 + self.excused[call]:
                raise WrongError(f"{call} is embedded {self.calls[call]} times, with {self.excused[call]} excuses")

    def _settle(self, worker: Worker) -> None:
        assert worker.lease is not None
        assert worker.rows is not None
        assert worker.generation is not None
        failed = [self._failed(row) for row in worker.rows if row.live and self.random.random() < 0.1]
        self._excuse(worker, {row.key for row in failed})
        lost = {row.key for row in failed}
        batch = self.bench.batch(worker.generation, [row for row in worker.rows if row.key not in lost])
        settled = worker.store.lease_settle(self.source, worker.lease, batch, failed)
        if (settled is None) != worker.expired:
            raise WrongError(f"{worker.lease} {'has expired' if worker.expired else 'is whole'}, and its settle says {settled}")
        self.score["settled" if settled else "lost"] += 1
        self.score["superseded"] += settled.superseded if settled else 0
        worker.drop()

    def _fail(self, worker: Worker) -> None:
        """Go on with the lease of a generation that was dropped: it fails, or writes nothing."""
        assert worker.lease is not None
        try:
            reading = worker.store.lease_read(self.source, worker.lease, CHARACTERS)
            empty = self.bench.batch(worker.generation, ()) if worker.generation else None
            if reading.rows or (empty and worker.store.lease_settle(self.source, worker.lease, empty, ())):
                raise WrongError(f"generation {worker.lease.generation_id} is dropped, and worked on")
        except StoreError:
            self.score["lost by a drop"] += 1
        worker.drop()

    def _failed(self, row: SourceRow) -> FailedRow:
        return self.bench.fail(row, self.random.choice([None, -1.0, -1.0, 3600.0]))

    def _excuse(self, worker: Worker, keys: Collection[Key] | None = None) -> None:
        """Note that the rows in a worker's hand, or those of them with these keys, may be embedded once more."""
        assert worker.lease is not None
        for row in worker.rows or ():
            if keys is None or row.key in keys:
                self.excused[worker.lease.generation_id, row.key, row.seq] += 1

    def _holding(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.lease is not None]

    def expire(self) -> None:
        """Let the lease of one who is at it expire: it sleeps on, and tries to settle later."""
        if not self._holding():
            return
        worker = self.random.choice(self._holding())
        assert worker.lease is not None
        if worker.store.lease_renew([worker.lease], -1):
            worker.expired = True
            self._excuse(worker)

    def kill(self) -> None:
        """Let a worker die; at once, or a while later, its lease expires."""
        if not self._holding():
            return
        worker = self.random.choice(self._holding())
        assert worker.lease is not None
        self._excuse(worker)
        if self.random.random() < 0.7:
            worker.store.lease_renew([worker.lease], -1)
        else:
            self.dead.append(worker.lease)
        worker.drop()

    def release(self) -> None:
        """Let a worker hand its lease back."""
        if not self._holding():
            return
        worker = self.random.choice(self._holding())
        assert worker.lease is not None
        self._excuse(worker)
        worker.store.lease_release(worker.lease)
        worker.drop()

    # --- upkeep and swaps -----------------------------------------------------------------------------------------

    def retry(self) -> None:
        """Make failed rows due again."""
        self.bench.store.failures_retry(self.source, self.random.choice(self.generations).id, None)

    def trim(self) -> None:
        """Drop tombstones, now and then when the workers have nearly caught up. SQLite's user file has one writer."""
        for _ in range(self.random.choice([0, 40])):
            self.work()
        if self.bench.backend.name == "postgres" or all(writer.pending is None for writer in self.writers):
            self.score["trimmed"] += self.bench.store.journal_trim(self.source.id)

    def maintain(self) -> None:
        """Keep an index up."""
        self.bench.store.generation_maintain(self.random.choice(self.generations).id, idle=self.random.random() < 0.5)

    def swap(self) -> None:
        """Begin a generation of the next model, or activate the one that is being built."""
        building = [one for one in self._now() if one.state == "building"]
        if building:
            chosen = self.random.choice(building)
            if self.bench.store.generation_activate(chosen.id):
                self.score["activated"] += 1
                self._known()
            return
        known = {one.model.name for one in self.generations if one.model is not None}
        model = self.random.choice([name for name in MODELS if name not in known])
        self.generations.append(self.bench.vector(self.source, model))  # a retired one is taken up again

    def rollback(self) -> None:
        """Make a retired generation the active one at once; it catches up as such."""
        if (chosen := self._chosen("retired")) and self.bench.store.generation_activate(chosen.id, back=True):
            self.score["rolled back"] += 1
            self._known()

    def retire(self) -> None:
        """Give up a generation that is being built."""
        if (chosen := self._chosen("building")) and chosen.kind == "vector":
            self.score["given up"] += self.bench.store.generation_retire(chosen.id)
            self._known()

    def drop(self) -> None:
        """Drop a retired generation, whoever still has a lease of it."""
        if chosen := self._chosen("retired"):
            self.score["dropped"] += self.bench.store.generation_drop(chosen.id)
            self.gone.add(chosen.id)

    def _chosen(self, state: GenerationState) -> Generation | None:
        """Return one of the source's generations in that state; a building one only where another is active."""
        every = self.bench.store.generations(self.source.id)
        active = {one.kind for one in every if one.state == "active"}
        found = [one for one in every if one.state == state and one.kind in active]
        return self.random.choice(found) if found else None

    def _known(self) -> None:
        """Let everybody work on what is not retired."""
        self.generations = [one for one in self.bench.store.generations(self.source.id) if one.state != "retired"]

    def _now(self) -> list[Generation]:
        return [one for one in self.bench.store.generations(self.source.id) if one.state != "retired"]

    # --- judgement ------------------------------------------------------------------------------------------------

    def search(self) -> None:
        """Search as everything stands: no row that is not committed, live and in the filter (I2, I13), one model (I9)."""
        generation = self.random.choice([one for one in self.generations if one.kind == "vector"])
        assert generation.model is not None
        query = oracle_vector("a question", generation.model.name, DIMENSION)
        org = self.random.choice([1, 2])
        with self.bench.store.snapshot() as reader:
            hits = reader.chunks_matching(self.source, generation.id, query, Condition("org", "=", org), 100)
            nearest = reader.chunks_nearest(generation.id, query, 100)()
            kept = set(reader.keys_live(self.source, [hit.key for hit in nearest], None))
        allowed = {key for key, (_, found) in self.committed.items() if found == org}
        for hit in hits:
            if hit.key[0] not in allowed:
                raise WrongError(f"row {hit.key} is found, and it is deleted or its org is not {org}")
        for hit in [*hits, *(hit for hit in nearest if hit.key in kept)]:
            self._proved(hit, generation.model.name)
        if not {key[0] for key in kept} <= self.live().keys():
            raise WrongError(f"{kept} are said to live, and {self.live()} do")
        self.score["hits"] += len(hits)

    def _proved(self, hit: ChunkHit, model: str) -> None:
        """Check that a hit's similarity is that of a passage which its row has, or once had, under this model."""
        [key] = hit.key
        query = oracle_vector("a question", model, DIMENSION)
        found = (text[hit.start : hit.stop] for text in self.ever[int(key)])
        if not any(abs(float(oracle_vector(text, model, DIMENSION) @ query) - hit.similarity) < TOLERANCE for text in found):
            raise WrongError(f"row {hit.key} is found with a vector of none of its texts under {model}")

    def count(self) -> None:
        """Compare what status says with a recount (I15)."""
        live: dict[Key, str] = {(key,): body for key, body in self.live().items()}
        for generation in self.generations:
            self.bench.coverage_check(self.source, generation, live)

    def run(self) -> Counter[str]:
        """Run the history to its end and judge it."""
        for _ in range(self.random.randint(*STEPS)):
            [event] = self.random.choices(list(EVENTS), list(EVENTS.values()))
            self.score[event] += 1
            if self._trace:
                sys.stderr.write(f"{event}: {self.committed}\n")
            getattr(self, event)()
        self.finish()
        self.judge()
        if self.random.random() < 0.5 and self._chosen("retired"):
            self.rollback()
            self.finish()
            self.judge()
        return self.score

    def finish(self) -> None:
        """Let every fault stop, and the workers work until nothing is left (I7)."""
        while any(writer.transaction is not None for writer in self.writers):
            self.end()
        for lease in (lease for lease in self.dead if lease.generation_id not in self.gone):
            self.bench.store.lease_renew([lease], -1)
        idle = 0
        for turn in range(TURNS):
            worker = self.workers[turn % WORKERS]
            idle = 0 if self.step(worker) else idle + 1
            due = idle > WORKERS and sum(self.bench.store.failures_retry(self.source, one.id, None) for one in self.generations)
            if idle > WORKERS and not due and not self._holding():
                break
        else:
            raise WrongError("the work does not end")
        for generation in self._now():
            # A rollback leaves what is being built then to whoever asks for it.
            asked = generation.manual
            if generation.state == "building" and not self.bench.store.generation_activate(generation.id, asked=asked):
                raise WrongError(f"generation {generation.id} has all that it needs, and is not activated")
        self._known()

    def judge(self) -> None:
        """I1, I2 and I15 at rest, before the tombstones are dropped and after."""
        live: dict[Key, str] = {(key,): body for key, body in self.live().items()}
        for _ in range(2):
            journal = self.bench.backend.journal(self.source)
            if {key for key, (_, deleted) in journal.items() if not deleted} != live.keys():
                raise WrongError(f"the journal has {journal}, and {live} is committed")
            for generation in self.generations:
                self.bench.verify(self.source, generation, live)
                found = self.bench.coverage_check(self.source, generation, live)
                if (found.missing, found.failed, found.leases) != (0, 0, 0):
                    raise WrongError(f"at rest with {found}")
            self.score["buried"] += self.bench.store.journal_trim(self.source.id)

    def close(self) -> None:
        """Take the table and all that was kept of it away again."""
        while any(writer.transaction is not None for writer in self.writers):
            self.end(commit=False)
        self.bench.store.source_drop(self.source.id)
        self.bench.app.run(f"DROP TABLE {self.table}")
