"""The real claim in random histories with PostgreSQL's visibility rules, and proof that they catch what is left out of it.

SEAMARK_PROTOCOL_SEEDS sets how many histories are run (2,000 unless told).
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from seamark.model import Lease
from seamark.store import claim as protocol
from seamark.store.claim import Cursors

SEEDS = int(os.environ.get("SEAMARK_PROTOCOL_SEEDS", "2000"))
KEYS = 8
WORKERS = 3
TRANSACTIONS = 3
FAR = 10**9


class WrongError(Exception):
    """A history came to a wrong state."""


@dataclass
class OpenLease:
    """A lease as the database has it. `locked` while a settle is under way: nobody can take it over then."""

    lease: Lease
    live: bool = True
    locked: bool = False


@dataclass
class Failed:
    seq: int
    due: bool
    lease: int | None = None


@dataclass
class Held:
    """What a worker has in hand, and how far it is with it."""

    lease: Lease
    stage: str = "claimed"
    rows: list[tuple[int, int, bool, str | None]] = field(default_factory=list)
    snapshot: dict[int, tuple[int, bool]] = field(default_factory=dict)


class World:
    """Committed state, open transactions, one generation. What PostgreSQL lets others see, and no more."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seq, self.transaction = 0, 100
        self.open: dict[int, dict[int, tuple[int, bool, str | None]]] = {}
        self.locks: dict[int, int] = {}
        self.source: dict[int, str] = {}
        self.journal: dict[int, tuple[int, bool]] = {}
        self.cursors: Cursors | None = None
        self.leases: dict[int, OpenLease] = {}
        self.lease_ids = 0
        self.rows: dict[int, int] = {}
        self.chunks: dict[int, str] = {}
        self.failures: dict[int, Failed] = {}
        self.workers: dict[int, Held | None] = dict.fromkeys(range(WORKERS))
        self.swept_up = 0
        self.drowsiness = self.random.choice([0, 0.9])
        """How often a worker sleeps on in the middle of a settle while others go on."""

    # --- the application

    def begin(self) -> None:
        if len(self.open) < TRANSACTIONS:
            self.open[self.transaction] = {}
            self.transaction += 1

    def write(self) -> None:
        """The row's lock is taken first, then the seq: so that the seqs of a row grow in the order of its versions."""
        if not self.open:
            return
        writer, key = self.random.choice(list(self.open)), self.random.randrange(KEYS)
        if self.locks.setdefault(key, writer) != writer:
            return
        self.seq += 1
        deleted = self.random.random() < 0.25
        self.open[writer][key] = (self.seq, deleted, None if deleted else f"text {self.seq}")

    def end(self, commit: bool = True) -> None:
        if not self.open:
            return
        for key, (seq, deleted, text) in self.open.pop(self.random.choice(list(self.open))).items():
            del self.locks[key]
            if commit:
                self.journal[key] = (seq, deleted)
                if text is None:
                    self.source.pop(key, None)
                else:
                    self.source[key] = text

    # --- the generation

    def generation(self) -> None:
        origin = max((seq for seq, _ in self.journal.values()), default=0)
        self.cursors = Cursors(origin, origin, origin, origin, None, 0, 0, self.transaction, backing_off=False)

    def done(self, key: int) -> bool:
        return self.rows.get(key, -1) == self.journal[key][0]

    def failed(self, key: int) -> bool:
        return key in self.failures and self.failures[key].seq == self.journal[key][0]

    def open_lease(self, lane: str, lo: int, hi: int, worker: str, live: bool = True) -> Lease:
        self.lease_ids += 1
        lease = Lease(self.lease_ids, 1, 1, lane, lo, hi, worker, 1, 0)
        self.leases[lease.id] = OpenLease(lease, live)
        return lease

    def ours(self, lease: Lease) -> OpenLease | None:
        found = self.leases.get(lease.id)
        return found if found and found.live and found.lease.fence == lease.fence else None

    # --- a worker, one step at a time

    def step(self, worker: int, claiming: type[Claims]) -> bool:
        """Do the worker's next step; return whether there was one."""
        held = self.workers[worker]
        if held is None:
            first = self.random.choice(list(protocol.LANES))
            found = protocol.claim(claiming(self, f"w{worker}"), first=first)
            if found.lease is not None:
                self.swept_up += found.lease.lane == "sweep"
                self.workers[worker] = Held(found.lease)
            return found.lease is not None or found.again
        if held.stage != "settling" or self.random.random() >= self.drowsiness:
            getattr(self, held.stage)(worker, held)
        return True

    def claimed(self, worker: int, held: Held) -> None:
        """Read, in one snapshot; a budget may split the lease."""
        lease = held.lease
        within = [(seq, key) for key, (seq, _) in self.journal.items() if lease.lo < seq <= lease.hi and not self.done(key)]
        if lease.lane == "retry":
            within = [(seq, key) for seq, key in within if self.failed(key) and self.failures[key].lease == lease.id]
        else:
            within = [(seq, key) for seq, key in within if not self.failed(key)]
        within.sort()
        if len(within) > 1 and self.random.random() < 0.2 and lease.lane != "retry":
            if self.ours(lease) is None:
                self.workers[worker] = None
                return
            middle = within[0][0]
            self.open_lease(lease.lane, middle, lease.hi, lease.worker, live=False)
            held.lease = replace(lease, hi=middle)
            self.leases[lease.id].lease = held.lease
            within = within[:1]
        held.rows = [(key, seq, self.journal[key][1], self.source.get(key)) for seq, key in within]
        held.stage = "embedded"

    def embedded(self, worker: int, held: Held) -> None:
        """Settle, first half: the lease is locked and the statement's snapshot is taken."""
        found = self.ours(held.lease)
        if found is None:
            self.workers[worker] = None
            return
        found.locked = True
        held.snapshot = dict(self.journal)
        held.stage = "settling"

    def settling(self, worker: int, held: Held) -> None:
        """Settle, second half: the writes land, after whatever has committed meanwhile."""
        for key, seq, deleted, text in held.rows:
            if held.snapshot.get(key, (None,))[0] != seq or self.rows.get(key, -1) >= seq:
                continue
            if not deleted and self.random.random() < 0.1:
                self.failures[key] = Failed(seq, due=self.random.random() < 0.7)
                continue
            self.rows[key] = seq
            self.failures.pop(key, None)
            self.chunks.pop(key, None)
            if not deleted:
                self.chunks[key] = text
        for failure in self.failures.values():
            if failure.lease == held.lease.id:
                failure.lease = None
        del self.leases[held.lease.id]
        self.workers[worker] = None

    # --- faults and upkeep

    def expire(self) -> None:
        for lease in self.leases.values():
            if not lease.locked and self.random.random() < 0.3:
                lease.live = False

    def crash(self) -> None:
        worker = self.random.choice(list(self.workers))
        held = self.workers[worker]
        if held is not None and held.stage == "settling":
            self.leases[held.lease.id].locked = False
        self.workers[worker] = None

    def release(self) -> None:
        worker = self.random.choice(list(self.workers))
        held = self.workers[worker]
        if held is not None and held.stage != "settling":
            if (found := self.ours(held.lease)) is not None:
                found.live = False
            self.workers[worker] = None

    def back_off(self) -> None:
        self.cursors = replace(self.cursors, backing_off=not self.cursors.backing_off)

    def trim(self, at_once: bool = False) -> None:
        cursors = self.cursors
        lows = [lease.lease.lo for lease in self.leases.values()]
        low = FAR if at_once else min([*lows, cursors.confirmed if cursors.swept >= cursors.origin else -1])
        for key, (seq, deleted) in list(self.journal.items()):
            if deleted and seq <= low and self.done(key):
                del self.journal[key]
                self.rows.pop(key)
                self.failures.pop(key, None)

    # --- judgement

    def check(self) -> None:
        """I3 and I6: what is not indexed is ahead of a cursor, under one lease, in failures, or within the sweep window."""
        cursors = self.cursors
        for key, (seq, _) in self.journal.items():
            reachable = (
                self.done(key)
                or self.failed(key)
                or seq > cursors.confirmed
                or seq <= cursors.backfill
                or cursors.swept < seq <= cursors.origin
                or any(lease.lease.lo < seq <= lease.lease.hi for lease in self.leases.values())
            )
            if not reachable:
                raise WrongError(f"row {key} at {seq} is out of reach: {cursors}")
        ranges = sorted((lease.lease.lo, lease.lease.hi) for lease in self.leases.values() if lease.lease.lane != "retry")
        if any(first[1] > second[0] for first, second in pairwise(ranges)):
            raise WrongError(f"two leases have the same rows: {ranges}")

    def check_end(self) -> None:
        """I1, I2 and I7: exactly the live rows' texts, nothing open, every cursor where it belongs."""
        cursors = self.cursors
        if self.chunks != self.source:
            raise WrongError(f"{self.chunks} is indexed and should be {self.source}")
        if self.leases or cursors.confirmed != cursors.fresh or cursors.backfill or cursors.swept < cursors.origin:
            raise WrongError(f"at rest with {self.leases} and {cursors}")


class Claims:
    """The statements of one claim over the world. Ranges hold few rows, so that a history has many of them."""

    def __init__(self, world: World, worker: str) -> None:
        self.world, self.worker = world, worker
        self.limit = world.random.randint(1, 3)

    def cursors(self) -> Cursors:
        return self.world.cursors

    def cursors_write(self, cursors: Cursors) -> None:
        self.world.cursors = cursors

    def lease_takeover(self) -> Lease | None:
        for identifier, found in sorted(self.world.leases.items()):
            if not found.live and not found.locked:
                lease = replace(found.lease, worker=self.worker, fence=found.lease.fence + 1)
                self.world.leases[identifier] = OpenLease(lease)
                return lease
        return None

    def lease_lowest(self) -> int | None:
        return min((found.lease.lo for found in self.world.leases.values()), default=None)

    def lease_insert(self, lane: str, lo: int, hi: int) -> Lease:
        return self.world.open_lease(lane, lo, hi, self.worker)

    def lease_retry(self) -> Lease | None:
        due = [
            failure
            for key, failure in self.world.failures.items()
            if failure.due and failure.lease is None and key in self.world.journal and self.world.failed(key)
        ][: self.limit]
        if not due:
            return None
        lease = self.lease_insert("retry", min(one.seq for one in due) - 1, max(one.seq for one in due))
        for failure in due:
            failure.lease = lease.id
        return lease

    def _seqs(self) -> list[int]:
        return sorted(seq for seq, _ in self.world.journal.values())

    def journal_ahead(self, seq: int) -> int | None:
        return next(reversed([one for one in self._seqs() if one > seq][: self.limit]), None)

    def journal_behind(self, seq: int) -> int | None:
        return next(reversed([one for one in reversed(self._seqs()) if one <= seq][: self.limit]), None)

    def journal_step(self, lo: int, hi: int) -> int:
        within = [one for one in self._seqs() if lo < one <= hi]
        return within[3] if len(within) > 4 else hi

    def unsettled(self, lo: int, hi: int) -> tuple[int, int] | None:
        world = self.world
        found = sorted(
            seq for key, (seq, _) in world.journal.items() if lo < seq <= hi and not world.done(key) and not world.failed(key)
        )[: self.limit]
        return (found[0], found[-1]) if found else None

    def horizon_now(self) -> int:
        return min(self.world.open, default=self.world.transaction)

    def horizon_next(self) -> int:
        return self.world.transaction


EVENTS = {"begin": 12, "write": 18, "end": 10, "step": 48, "expire": 4, "crash": 3, "release": 1, "back_off": 1, "trim": 3}


def history(seed: int, claiming: type[Claims] = Claims, trim_at_once: bool = False) -> World:
    """Run one random history to its end, judging it at every step."""
    world = World(seed)
    chance = world.random
    for _ in range(chance.randint(0, 25)):
        chance.choice([world.begin, world.write, world.write, world.end])()
    world.generation()
    for _ in range(chance.randint(20, 200)):
        [event] = chance.choices(list(EVENTS), list(EVENTS.values()))
        match event:
            case "end":
                world.end(commit=chance.random() < 0.8)
            case "step":
                world.step(chance.randrange(WORKERS), claiming)
            case "trim":
                world.trim(at_once=trim_at_once)
            case _:
                getattr(world, event)()
        world.check()
    finish(world, claiming)
    world.trim(at_once=trim_at_once)
    world.check()
    world.check_end()
    return world


def finish(world: World, claiming: type[Claims]) -> None:
    """Let every fault stop, and the workers work until there is nothing left to claim."""
    while world.open:
        world.end()
    world.cursors = replace(world.cursors, backing_off=False)
    world.drowsiness = 0
    idle = 0
    for turn in range(20_000):
        for failure in world.failures.values():
            failure.due = True
        held = {found.lease.id for found in world.workers.values() if found}
        for identifier, lease in world.leases.items():
            lease.live = lease.live and identifier in held
        idle = 0 if world.step(turn % WORKERS, claiming) else idle + 1
        world.check()
        if idle > WORKERS and not any(world.workers.values()):
            return
    raise WrongError("the work does not end")


def histories(seeds: int, claiming: type[Claims] = Claims, trim_at_once: bool = False) -> int:
    """Run histories; return how many leases of the sweep they had."""
    return sum(history(seed, claiming, trim_at_once).swept_up for seed in range(seeds))


def test_every_history_ends_right():
    assert histories(SEEDS) > SEEDS / 20, "the histories have rows that only the sweep finds"


def test_histories_in_which_the_sweep_is_always_overdue(monkeypatch):
    """The part of the claim that goes before the fresh lane under an endless stream of writes."""
    monkeypatch.setattr(protocol, "SWEEP_OVERDUE_ROWS", 3)
    assert histories(SEEDS // 4) > SEEDS / 80


class NoFreshHorizon(Claims):
    def cursors_write(self, cursors):
        super().cursors_write(replace(cursors, horizon=0))


class NoOriginHorizon(Claims):
    def cursors(self):
        return replace(super().cursors(), origin_horizon=0)


class NoHorizon(Claims):
    def horizon_now(self):
        return FAR


class LateHorizon(Claims):
    """Remembers the oldest transaction under way in place of the next one to come."""

    def horizon_next(self):
        return self.horizon_now()


class NoLeaseTest(Claims):
    def lease_lowest(self):
        return None


class NoSweep(Claims):
    def unsettled(self, lo, hi):
        return None


class SkippingBehind(Claims):
    """Leaves out one row of every backfill lease."""

    def lease_insert(self, lane, lo, hi):
        return super().lease_insert(lane, lo, hi - (lane == "backfill"))


@pytest.mark.parametrize(
    "mutation", [NoFreshHorizon, NoOriginHorizon, NoHorizon, LateHorizon, NoLeaseTest, NoSweep, SkippingBehind]
)
def test_a_claim_that_leaves_something_out_is_caught(mutation):
    with pytest.raises(WrongError):
        histories(3000, mutation)


def test_a_trim_that_does_not_wait_for_the_sweep_is_caught():
    with pytest.raises(WrongError):
        histories(20_000, trim_at_once=True)
