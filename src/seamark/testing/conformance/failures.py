"""Failures: recorded, retried, parked, forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from seamark.model import FailedRow

if TYPE_CHECKING:
    from seamark.model import FailureKind, Generation, Key, Source
    from seamark.testing.workbench import Workbench

DUE = -1.0
LATER = 3600.0


def broken(bench: Workbench, retry_seconds: float | None, *bodies: str) -> tuple[Source, Generation]:
    """Attach rows that have all failed once."""
    source = bench.notes(*bodies)
    generation = bench.vector(source)
    lease = bench.lease(generation)
    rows = bench.read(source, lease)
    bench.settle(source, generation, lease, rows, [bench.fail(row, retry_seconds) for row in rows])
    return source, generation


def keys(bench: Workbench, source: Source, generation: Generation) -> set[Key]:
    """Return the keys of the recorded failures."""
    return {failure.key for failure in bench.store.failures(source, generation.id, 1000)}


class Failures:
    """`failures`, `failures_retry`, and the retry lane."""

    @pytest.mark.parametrize("kind", ["configuration", "unavailable", "transient", "input"])
    def test_a_failure_says_what_when_and_why(self, bench: Workbench, kind: FailureKind) -> None:
        """Every field of it."""
        source = bench.notes("a")
        generation = bench.vector(source)
        lease = bench.lease(generation)
        [row] = bench.read(source, lease)
        before = bench.store.clock()
        failed = FailedRow(row.key, row.seq, kind, 'it\'s "bad" \u2028 %s', 3, LATER)
        bench.settle(source, generation, lease, [row], [failed])
        [failure] = bench.store.failures(source, generation.id, 10)
        assert (failure.generation_id, failure.key, failure.seq) == (generation.id, (1,), row.seq)
        assert (failure.kind, failure.error, failure.attempts) == (kind, failed.error, 3)
        assert before <= failure.failed_at <= bench.store.clock()
        assert failure.retry_at is not None
        assert abs(failure.retry_at - failure.failed_at - int(LATER * 1e6)) < 60_000_000

    def test_a_failure_that_is_not_due_waits(self, bench: Workbench) -> None:
        """Nobody can claim it; coverage says that it will be retried."""
        source, generation = broken(bench, LATER, "a", "b")
        assert bench.claim(generation).lease is None
        counted = bench.coverage_check(source, generation)
        assert (counted.failed, counted.retrying, counted.missing) == (2, 2, 0)

    def test_a_parked_failure_waits_for_ever(self, bench: Workbench) -> None:
        """Until somebody asks."""
        source, generation = broken(bench, None, "a", "b")
        assert bench.claim(generation).lease is None
        assert {failure.retry_at for failure in bench.store.failures(source, generation.id, 10)} == {None}
        counted = bench.coverage_check(source, generation)
        assert (counted.failed, counted.retrying) == (2, 0)

    def test_a_due_failure_is_read_with_its_attempts(self, bench: Workbench) -> None:
        """And each further failure counts on."""
        source, generation = broken(bench, DUE, "a", "b")
        for attempts in (1, 2, 3):
            lease = bench.lease(generation)
            assert lease.lane == "retry"
            rows = bench.read(source, lease)
            assert [(row.key, row.texts, row.attempts) for row in rows] == [((1,), ("a",), attempts), ((2,), ("b",), attempts)]
            assert bench.claim(generation, "w2").lease is None, "a failure under a lease is not due"
            bench.coverage_check(source, generation)
            bench.settle(source, generation, lease, rows, [bench.fail(row, DUE) for row in rows])
        bench.drain(source, generation)
        assert keys(bench, source, generation) == set()
        bench.verify(source, generation, {(1,): "a", (2,): "b"})
        assert bench.coverage_check(source, generation).failed == 0

    def test_only_due_failures_are_taken_oldest_first(self, bench: Workbench) -> None:
        """`limit` at a time; rows between them that are not due are not read."""
        source = bench.notes(*"abcdef")
        generation = bench.vector(source)
        lease = bench.lease(generation)
        rows = bench.read(source, lease)
        due = {1: -1.0, 2: LATER, 3: -30.0, 4: None, 5: -20.0}
        failed = [bench.fail(row, due[int(str(row.key[0]))]) for row in rows if row.key != (6,)]
        bench.settle(source, generation, lease, rows, failed)
        first, second = bench.lease(generation, limit=2), bench.lease(generation, limit=2)
        assert [row.key for row in bench.read(source, first)] == [(3,), (5,)]
        assert [row.key for row in bench.read(source, second)] == [(1,)]
        assert bench.claim(generation).lease is None
        for lease in (first, second):
            bench.settle(source, generation, lease, bench.read(source, lease))
        assert keys(bench, source, generation) == {(2,), (4,)}
        bench.coverage_check(source, generation)

    def test_an_edit_or_a_delete_is_the_end_of_a_failure(self, bench: Workbench) -> None:
        """It concerned a text that is no more."""
        source, generation = broken(bench, None, *"abc")
        bench.app.run("UPDATE notes SET body = 'A' WHERE id = 1")
        bench.app.run("DELETE FROM notes WHERE id = 2")
        assert keys(bench, source, generation) == {(3,)}
        assert bench.coverage_check(source, generation).missing == 1
        assert bench.store.failures_retry(source, generation.id, [(1,), (2,)]) == 0
        bench.drain(source, generation)
        bench.verify(source, generation, {(1,): "A"})
        counted = bench.coverage_check(source, generation)
        assert (counted.embedded, counted.failed) == (1, 1)

    def test_an_edit_of_a_due_failure_is_done_once(self, bench: Workbench) -> None:
        """It is in the fresh lane, and no longer in that of the retries."""
        source, generation = broken(bench, DUE, "a", "b")
        bench.app.run("UPDATE notes SET body = 'A' WHERE id = 1")
        fresh, retry = bench.lease(generation), bench.lease(generation)
        assert (fresh.lane, retry.lane) == ("fresh", "retry")
        assert [row.key for row in bench.read(source, fresh)] == [(1,)]
        assert [row.key for row in bench.read(source, retry)] == [(2,)]

    def test_an_edit_under_a_retry_supersedes_it(self, bench: Workbench) -> None:
        """The late settle neither writes the row nor records its failure."""
        source, generation = broken(bench, DUE, "a", "b")
        lease = bench.lease(generation)
        rows = bench.read(source, lease)
        bench.app.run("UPDATE notes SET body = body || '!'")
        settled = bench.settle(source, generation, lease, rows, [bench.fail(rows[0])])
        assert settled is not None
        assert (settled.written, settled.superseded, settled.failed) == (0, 2, 0)
        assert keys(bench, source, generation) == set()
        bench.drain(source, generation)
        bench.verify(source, generation, {(1,): "a!", (2,): "b!"})

    @pytest.mark.parametrize("way", ["expired", "released"])
    def test_a_retry_lease_that_comes_to_nothing(self, bench: Workbench, way: str) -> None:
        """The next worker has the same rows; no attempt was spent."""
        source, generation = broken(bench, DUE, "a", "b")
        lease = bench.lease(generation, "w1")
        if way == "expired":
            bench.expire(lease)
        else:
            bench.store.lease_release(lease)
        again = bench.lease(generation, "w2")
        assert again.lane == "retry"
        assert [(row.key, row.attempts) for row in bench.read(source, again)] == [((1,), 1), ((2,), 1)]
        bench.settle(source, generation, again, bench.read(source, again))
        bench.verify(source, generation, {(1,): "a", (2,): "b"})

    def test_rows_left_out_of_a_retrys_settle_stay_failed(self, bench: Workbench) -> None:
        """And do not hang on a lease that is no more."""
        source, generation = broken(bench, DUE, "a", "b")
        lease = bench.lease(generation)
        rows = bench.read(source, lease)
        bench.settle(source, generation, lease, rows[:1])
        assert keys(bench, source, generation) == {rows[1].key}
        assert [row.key for row in bench.read(source, bench.lease(generation))] == [rows[1].key]

    def test_retry_all_spends_no_attempts(self, bench: Workbench) -> None:
        """Parked ones and those that wait are due now, as if they had never failed."""
        source, generation = broken(bench, None, "a", "b")
        assert bench.store.failures_retry(source, generation.id, None) == 2
        rows = bench.read(source, bench.lease(generation))
        assert [(row.key, row.attempts) for row in rows] == [((1,), 0), ((2,), 0)]

    def test_retry_some(self, bench: Workbench) -> None:
        """Those of the keys that have failed, and no others."""
        source, generation = broken(bench, LATER, *"abc")
        assert bench.store.failures_retry(source, generation.id, [(3,), (1,), (99,)]) == 2
        assert bench.store.failures_retry(source, generation.id, []) == 0
        assert [row.key for row in bench.read(source, bench.lease(generation))] == [(1,), (3,)]
        assert bench.claim(generation).lease is None

    def test_failures_are_listed_newest_first_up_to_a_limit(self, bench: Workbench) -> None:
        """By the time they failed."""
        source = bench.notes(*"abcde")
        generation = bench.vector(source)
        for _ in range(5):
            lease = bench.lease(generation, limit=1)
            [row] = bench.read(source, lease)
            now = bench.store.clock()
            while bench.store.clock() == now:
                pass
            bench.settle(source, generation, lease, [row], [bench.fail(row)])
        found = [failure.key for failure in bench.store.failures(source, generation.id, 3)]
        assert found == [(1,), (2,), (3,)]
        assert bench.store.failures(source, generation.id, 0) == bench.store.failures(source, generation.id, 3)[:0]

    def test_failures_belong_to_one_generation(self, bench: Workbench) -> None:
        """What one model refuses another may take."""
        source, generation = broken(bench, None, "a", "b")
        other = bench.vector(source, "oracle-b")
        bench.drain(source, other)
        assert keys(bench, source, other) == set()
        bench.verify(source, other, {(1,): "a", (2,): "b"})
        assert keys(bench, source, generation) == {(1,), (2,)}

    def test_a_generation_with_parked_rows_can_be_activated(self, bench: Workbench) -> None:
        """A failure is known and counted: it is not missing."""
        source, generation = broken(bench, None, "a", "b")
        bench.drain(source, generation)
        assert bench.store.generation_activate(generation.id)
