"""Claims: the order of the lanes, and who owns a lease."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from seamark.testing.workbench import LEASE_SECONDS, STEPS

if TYPE_CHECKING:
    from seamark.model import Generation, Key, Lane, Lease, Source
    from seamark.testing.workbench import Workbench


def seqs(bench: Workbench, source: Source, *keys: int) -> list[int]:
    """Return the journal's seqs of integer keys."""
    journal = bench.backend.journal(source)
    return [journal[key,][0] for key in keys]


def ranges(leases: list[Lease]) -> list[tuple[int, int]]:
    """Return the ranges of leases in ascending order."""
    return sorted((lease.lo, lease.hi) for lease in leases)


class Claims:
    """`lease_claim`."""

    def test_a_lease_says_whose_and_until_when(self, bench: Workbench) -> None:
        """Every field of it."""
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        before = bench.store.clock()
        lease = bench.lease(generation, "host:1")
        after = bench.store.clock()
        assert (lease.generation_id, lease.source_id) == (generation.id, source.id)
        assert (lease.lane, lease.worker, lease.fence) == ("backfill", "host:1", 1)
        assert before <= lease.expires_at - int(LEASE_SECONDS * 1e6) <= after
        assert lease.lo < min(seqs(bench, source, 1, 2))
        assert lease.hi >= max(seqs(bench, source, 1, 2))

    def test_backfill_comes_newest_first(self, bench: Workbench) -> None:
        """Descending from the origin, `limit` rows at a time, none twice."""
        source = bench.notes(*"abcdefg")
        generation = bench.vector(source)
        leases = [bench.lease(generation, limit=3) for _ in range(3)]
        assert [lease.lane for lease in leases] == ["backfill"] * 3
        assert [sorted(row.key for row in bench.read(source, lease)) for lease in leases] == [
            [(5,), (6,), (7,)],
            [(2,), (3,), (4,)],
            [(1,)],
        ]
        assert bench.claim(generation).lease is None

    def test_fresh_rows_come_oldest_first(self, bench: Workbench) -> None:
        """Ascending from the origin, `limit` rows at a time, each range beginning where the last one ended."""
        source = bench.notes()
        generation = bench.vector(source)
        bench.app.many("INSERT INTO notes (id, body) VALUES (?, 'x')", [(number,) for number in range(1, 6)])
        leases = [bench.lease(generation, limit=2) for _ in range(3)]
        assert [lease.lane for lease in leases] == ["fresh"] * 3
        assert [[row.key for row in bench.read(source, lease)] for lease in leases] == [[(1,), (2,)], [(3,), (4,)], [(5,)]]
        assert [lease.lo for lease in leases] == [generation.origin, leases[0].hi, leases[1].hi]
        assert bench.claim(generation).lease is None

    def test_the_order_of_the_lanes(self, bench: Workbench) -> None:
        """Expired leases, fresh rows, due retries, the backfill."""
        source = bench.notes(*"abcdef")
        generation = bench.vector(source)
        lease, expired = bench.lease(generation, limit=1), bench.lease(generation, limit=1)
        [row] = bench.read(source, lease)
        bench.settle(source, generation, lease, [row], [bench.fail(row, retry_seconds=-1)])
        bench.expire(expired)
        bench.app.run("UPDATE notes SET body = 'edited' WHERE id = 1")
        claimed = [bench.lease(generation, limit=1) for _ in range(4)]
        assert claimed[0].id == expired.id
        assert [lease.lane for lease in claimed] == ["backfill", "fresh", "retry", "backfill"]

    def test_another_lane_may_be_first(self, bench: Workbench) -> None:
        """However much there is in those before it; expired leases still come before all."""
        source = bench.notes(*"abcdef")
        generation = bench.vector(source)
        lease = bench.lease(generation, limit=1)
        [row] = bench.read(source, lease)
        bench.settle(source, generation, lease, [row], [bench.fail(row, retry_seconds=-1)])
        bench.app.run("UPDATE notes SET body = 'edited' WHERE id = 1")
        lanes: list[Lane] = ["retry", "backfill", "fresh"]
        taken = [bench.store.lease_claim(generation.id, "w1", 1, LEASE_SECONDS, first=lane).lease for lane in lanes]
        assert [lease and lease.lane for lease in taken] == lanes
        assert taken[2] is not None
        bench.expire(taken[2])
        again = bench.store.lease_claim(generation.id, "w1", 1, LEASE_SECONDS, first="backfill").lease
        assert again is not None
        assert again.id == taken[2].id

    def test_an_edit_brings_a_row_back(self, bench: Workbench) -> None:
        """Once indexed, edited: it is in the fresh lane."""
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.app.run("UPDATE notes SET body = 'A' WHERE id = 1")
        lease = bench.lease(generation)
        assert lease.lane == "fresh"
        assert [row.key for row in bench.read(source, lease)] == [(1,)]

    def test_nothing_to_do_is_no_lease(self, bench: Workbench) -> None:
        """And no reason to ask again at once."""
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        bench.drain(source, generation)
        claim = bench.store.lease_claim(generation.id, "w1", 10, LEASE_SECONDS)
        assert (claim.lease, claim.again) == (None, False)

    def test_an_idle_claim_writes_nothing(self, bench: Workbench) -> None:
        """Look first, lock after."""
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.app.run("UPDATE notes SET body = 'A'")
        bench.drain(source, generation)
        before = bench.backend.writes()
        for _ in range(3):
            assert bench.store.lease_claim(generation.id, "w1", 10, LEASE_SECONDS).lease is None
        assert bench.backend.writes() == before
        bench.app.run("UPDATE notes SET body = 'B' WHERE id = 1")
        assert bench.backend.writes() != before, "the token that this test trusts does move"

    def test_generations_claim_independently(self, bench: Workbench) -> None:
        """Each has cursors and leases of its own."""
        source = bench.notes("a", "b")
        first, second = bench.vector(source), bench.lexical(source)
        lease, other = bench.lease(first), bench.lease(second)
        assert (lease.lo, lease.hi) == (other.lo, other.hi)
        assert bench.settle(source, first, lease, bench.read(source, lease)) is not None
        assert len(bench.read(source, other)) == 2

    def test_no_range_is_claimed_twice_by_threads(self, bench: Workbench) -> None:
        """Eight at once, half of it fresh: the ranges do not overlap and miss nothing (I6)."""
        source = bench.notes(*(str(number) for number in range(120)))
        generation = bench.vector(source)
        bench.app.many("INSERT INTO notes (id, body) VALUES (?, 'x')", [(number,) for number in range(1000, 1120)])

        def work(worker: int) -> list[Lease]:
            leases: list[Lease] = []
            while (lease := bench.claim(generation, f"w{worker}", limit=7).lease) is not None:
                leases.append(lease)
            return leases

        with ThreadPoolExecutor(8) as pool:
            leases = [lease for found in pool.map(work, range(8)) for lease in found]
        taken = ranges(leases)
        assert all(first[1] <= second[0] for first, second in pairwise(taken))
        assert len({lease.id for lease in leases}) == len(leases)
        keys: list[Key] = [row.key for lease in leases for row in bench.read(source, lease)]
        assert sorted(keys) == bench.all_keys(source)

    def test_workers_of_two_stores_share_the_work(self, bench: Workbench) -> None:
        """As two processes do."""
        source = bench.notes(*(str(number) for number in range(50)))
        generation = bench.vector(source)
        other = bench.backend.store()
        mine = bench.lease(generation, "w1", limit=20)
        theirs = other.lease_claim(generation.id, "w2", 20, LEASE_SECONDS).lease
        assert theirs is not None
        assert theirs.hi <= mine.lo
        assert other.lease_settle(source, mine, bench.batch(generation, bench.read(source, mine)), ()) is not None
        assert len(other.lease_read(source, theirs, 1000).rows) == 20


class Expiry:
    """Takeover, renewal and release."""

    def test_an_expired_lease_is_taken_over(self, bench: Workbench) -> None:
        """The same range, the next fence, the new worker; the old one has lost it."""
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        old = bench.lease(generation, "w1")
        assert bench.claim(generation, "w2").lease is None, "not before it has expired"
        bench.expire(old)
        new = bench.lease(generation, "w2")
        assert (new.id, new.lane, new.lo, new.hi) == (old.id, old.lane, old.lo, old.hi)
        assert (new.worker, new.fence) == ("w2", old.fence + 1)
        assert new.expires_at > bench.store.clock()
        assert list(bench.store.lease_renew([old], LEASE_SECONDS)) == []
        bench.store.lease_release(old)
        assert bench.claim(generation, "w3").lease is None, "a release by who has lost the lease has no effect"
        assert bench.settle(source, generation, new, bench.read(source, new)) is not None

    def test_expired_leases_are_taken_over_oldest_first(self, bench: Workbench) -> None:
        """One by one, and each once."""
        source = bench.notes(*"abcd")
        generation = bench.vector(source)
        leases = [bench.lease(generation, limit=1) for _ in range(3)]
        for lease in reversed(leases):
            bench.expire(lease)
        assert [bench.lease(generation, "w2", limit=1).id for _ in range(3)] == [lease.id for lease in leases]
        assert bench.lease(generation, "w2", limit=1).id not in {lease.id for lease in leases}

    def test_renewal_puts_the_expiry_off(self, bench: Workbench) -> None:
        """Of those that are ours; the others are left out of the answer."""
        source = bench.notes(*"abcd")
        generation = bench.vector(source)
        lost, gone, expired, kept = (bench.lease(generation, limit=1) for _ in range(4))
        bench.expire(lost)
        assert bench.lease(generation, "w2").id == lost.id
        assert bench.settle(source, generation, gone, bench.read(source, gone)) is not None
        bench.expire(expired)
        assert list(bench.store.lease_renew([lost, gone, expired, kept], 2 * LEASE_SECONDS)) == [kept.id]
        assert bench.lease(generation, "w3").id == expired.id
        assert bench.claim(generation, "w4").lease is None
        assert list(bench.store.lease_renew([], LEASE_SECONDS)) == []

    def test_a_short_lease_is_kept_by_renewal(self, bench: Workbench) -> None:
        """Renewed, it can be settled after its first expiry would have passed, but not if it had been renewed too late."""
        source = bench.notes("a")
        generation = bench.vector(source)
        lease = bench.store.lease_claim(generation.id, "w1", 10, 30).lease
        assert lease is not None
        assert list(bench.store.lease_renew([lease], LEASE_SECONDS)) == [lease.id]
        rows = bench.read(source, lease)
        assert bench.settle(source, generation, lease, rows) is not None

    def test_release_gives_it_back_at_once(self, bench: Workbench) -> None:
        """Untouched: nobody's attempt is spent, and the releaser has lost it."""
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        lease = bench.lease(generation, "w1")
        rows = bench.read(source, lease)
        bench.store.lease_release(lease)
        assert bench.settle(source, generation, lease, rows) is None
        again = bench.lease(generation, "w2")
        assert (again.lo, again.hi) == (lease.lo, lease.hi)
        assert [(row.key, row.attempts) for row in bench.read(source, again)] == [((1,), 0), ((2,), 0)]

    @pytest.mark.parametrize("way", ["expired", "released", "taken", "settled", "forged"])
    def test_a_lease_that_is_not_ours_writes_nothing(self, bench: Workbench, way: str) -> None:
        """Whatever way it was lost (I4)."""
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        lease = bench.lease(generation, "w1")
        rows = bench.read(source, lease)
        failed = [bench.fail(rows[0])]
        if way == "released":
            bench.store.lease_release(lease)
        elif way == "settled":
            assert bench.settle(source, generation, lease, rows) is not None
            bench.app.run("UPDATE notes SET body = body || '!'")
            bench.drain(source, generation)
        elif way != "forged":
            bench.expire(lease)
        if way == "taken":
            assert bench.lease(generation, "w2").id == lease.id
        if way == "forged":
            lease = replace(lease, fence=lease.fence + 1)
        before = stored(bench, source, generation)
        assert bench.store.lease_settle(source, lease, bench.batch(generation, rows), ()) is None
        assert bench.store.lease_settle(source, lease, bench.batch(generation, rows[1:]), failed) is None
        assert stored(bench, source, generation) == before

    def test_whoever_settles_first_wins_and_the_other_writes_nothing(self, bench: Workbench) -> None:
        """Two workers that hold the same rows, by way of an expiry."""
        source = bench.notes(*"abcdef")
        generation = bench.vector(source)
        for _ in range(20):
            old = bench.lease(generation, "w1")
            rows = bench.read(source, old)
            bench.expire(old)
            new = bench.lease(generation, "w2")
            with ThreadPoolExecutor(2) as pool:
                attempts = [pool.submit(bench.settle, source, generation, lease, rows) for lease in (old, new)]
            late, right = (attempt.result() for attempt in attempts)
            assert late is None
            assert right is not None
            assert right.written == len(rows)
            bench.verify(source, generation)
            bench.app.run("UPDATE notes SET body = body || 'x'")

    def test_faults_over_and_over_lose_nothing(self, bench: Workbench) -> None:
        """Half of all leases die; the rest of the work is done in the end (I7)."""
        source = bench.notes(*(f"text {number}" for number in range(40)))
        generation = bench.vector(source)
        for number in range(STEPS):
            lease = bench.claim(generation, f"w{number}", limit=3).lease
            if lease is None:
                break
            if number % 2:
                bench.expire(lease)
            else:
                bench.settle(source, generation, lease, bench.read(source, lease))
            bench.coverage_check(source, generation)
        bench.verify(source, generation)
        assert bench.store.generation_activate(generation.id)


def stored(bench: Workbench, source: Source, generation: Generation) -> object:
    """Return all that a settle could have changed."""
    chunks = [(chunk.key, chunk.ordinal, chunk.vector.tobytes()) for chunk in bench.backend.chunks(source, generation)]
    return (
        bench.backend.rows(source, generation),
        chunks,
        bench.store.failures(source, generation.id, STEPS),
        bench.store.coverage(source, [generation.id])[generation.id].leases,
    )
