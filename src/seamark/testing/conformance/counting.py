"""Coverage, counted again by hand after every step; and the registry of workers."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from seamark.model import Condition, WorkerBeat
from seamark.testing.workbench import STEPS

if TYPE_CHECKING:
    from seamark.model import Generation, GenerationKind, Lease, Source
    from seamark.testing.workbench import Workbench

KINDS: tuple[GenerationKind, ...] = ("vector", "lexical")


class Counting:
    """`coverage`: exact at every instant (I15)."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_life_step_by_step(self, bench: Workbench, kind: GenerationKind) -> None:
        """From the first claim to the last trim, with numbers that were counted by hand."""
        source = bench.notes("a", "", "c", "long " * 100, "e")
        generation = bench.generation(source, kind)

        def counts() -> tuple[int, ...]:
            found = bench.coverage_check(source, generation)
            return (found.live, found.embedded, found.blank, found.missing, found.failed, found.truncated, found.leases)

        assert counts() == (5, 0, 0, 5, 0, 0, 0)
        lease = bench.lease(generation, limit=2)
        assert counts() == (5, 0, 0, 5, 0, 0, 1)
        bench.settle(source, generation, lease, bench.read(source, lease))
        assert counts() == (5, 2, 0, 3, 0, 1, 0)
        lease = bench.lease(generation)
        rows = bench.read(source, lease)
        bench.settle(source, generation, lease, rows, [bench.fail(rows[0])])
        assert counts() == (5, 3, 1, 0, 1, 1, 0)
        bench.app.run("UPDATE notes SET body = '' WHERE id = 3")
        assert counts() == (5, 2, 1, 1, 1, 1, 0)
        bench.app.run("UPDATE notes SET body = 'short' WHERE id = 4")
        assert counts() == (5, 1, 1, 2, 1, 0, 0)
        bench.app.run("DELETE FROM notes WHERE id IN (1, 5)")
        assert counts() == (3, 0, 1, 2, 0, 0, 0)
        bench.app.run("INSERT INTO notes (id, body) VALUES (1, 'again'), (6, NULL)")
        assert counts() == (5, 0, 1, 4, 0, 0, 0)
        bench.drain(source, generation)
        assert counts() == (5, 2, 3, 0, 0, 0, 0)
        assert bench.store.generation_activate(generation.id)
        bench.store.journal_trim(source.id)
        assert counts() == (5, 2, 3, 0, 0, 0, 0)
        bench.app.run("DELETE FROM notes")
        assert counts() == (0, 0, 0, 0, 0, 0, 0)
        bench.drain(source, generation)
        bench.store.journal_trim(source.id)
        assert counts() == (0, 0, 0, 0, 0, 0, 0)

    def test_rows_outside_the_where_do_not_count(self, bench: Workbench) -> None:
        """Nor those that have left it."""
        bench.notes_table(*"abcdef")
        source = bench.attach("notes", ("body",), Condition("org", "=", 1))
        generation = bench.vector(source)
        assert bench.store.coverage(source, [generation.id])[generation.id].live == 2
        bench.drain(source, generation)
        bench.app.run("UPDATE notes SET org = 2 WHERE id = 1")
        found = bench.coverage_check(source, generation, {(4,): "d"})
        assert (found.live, found.embedded) == (1, 1)

    def test_the_age_of_the_oldest_change_that_is_missing(self, bench: Workbench) -> None:
        """There is one when something is missing, and it is no longer than the test has run."""
        started = bench.store.clock()
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        age = bench.store.coverage(source, [generation.id])[generation.id].oldest_missing_seconds
        assert age is not None
        # The journal keeps whole seconds.
        assert 0 <= age <= (bench.store.clock() - started) / 1e6 + 1
        bench.drain(source, generation)
        assert bench.store.coverage(source, [generation.id])[generation.id].oldest_missing_seconds is None

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("seed", range(3))
    def test_a_random_history_is_counted_right_at_every_step(self, bench: Workbench, kind: GenerationKind, seed: int) -> None:
        """Writes, claims, splits, settles, failures, expiries and trims in any order."""
        chance = random.Random(seed)
        source = bench.notes(*(f"t{number}" for number in range(12)))
        generation = bench.generation(source, kind)
        held: list[Lease] = []
        for step in range(80):
            key = chance.randrange(1, 18)
            match chance.choice(
                ["write", "write", "delete", "move", "claim", "claim", "settle", "settle", "fail", "expire", "trim"]
            ):
                case "write":
                    body = chance.choice(["", None, f"s{step}", f"s{step}|two", "long " * 60])
                    statement = "INSERT INTO notes (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
                    bench.app.run(statement, key, body)
                case "delete":
                    bench.app.run("DELETE FROM notes WHERE id = ?", key)
                case "move":
                    free = "NOT EXISTS (SELECT 1 FROM notes WHERE id = ?)"
                    bench.app.run(f"UPDATE notes SET id = ? WHERE id = ? AND {free}", key + 1, key, key + 1)
                case "claim":
                    lease = bench.claim(generation, limit=chance.randint(1, 4)).lease
                    held += [bench.store.lease_read(source, lease, chance.choice([1, 4, 1000])).lease] if lease else []
                case "expire" if held:
                    bench.store.lease_renew([chance.choice(held)], -1)
                case "settle" | "fail" as word if held:
                    lease = held.pop(chance.randrange(len(held)))
                    rows = bench.read(source, lease)
                    failed = (
                        [bench.fail(row, chance.choice([None, -1.0])) for row in rows if row.live] if word == "fail" else []
                    )
                    bench.settle(source, generation, lease, rows, failed)
                case "trim":
                    bench.store.journal_trim(source.id)
                case _:
                    pass
            live = {(number,): str(body or "") for number, body in bench.app.run("SELECT id, body FROM notes")}
            self.pending_check(bench, source, generation, chance.randint(0, bench.store.journal_end(source)))
            bench.coverage_check(source, generation, live)
        for lease in held:
            bench.store.lease_renew([lease], -1)
        bench.store.failures_retry(source, generation.id, None)
        bench.drain(source, generation)
        bench.verify(source, generation)
        assert bench.coverage_check(source, generation).missing == 0
        assert not bench.store.pending(source, generation.id, bench.store.journal_end(source))
        assert len(bench.store.failures(source, generation.id, STEPS)) == 0

    def pending_check(self, bench: Workbench, source: Source, generation: Generation, upto: int) -> None:
        """Check `pending` against the journal, row by row; open leases may make it true besides."""
        journal, rows = bench.backend.journal(source), bench.backend.rows(source, generation)
        failed = {failure.key: failure.retry_at for failure in bench.store.failures(source, generation.id, STEPS)}
        # Nothing was there before the generation: no row that is gone is left to its backfill.
        waiting = any(
            failed[key] is not None if key in failed and not deleted else key not in rows or rows[key].seq != seq
            for key, (seq, deleted) in journal.items()
            if seq <= upto
        )
        leased = bench.store.coverage(source, [generation.id])[generation.id].leases > 0
        pending = bench.store.pending(source, generation.id, upto)
        assert pending if waiting else leased or not pending

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("way", ["DELETE FROM notes WHERE id = 2", "UPDATE notes SET org = 9 WHERE id = 2"])
    def test_a_row_that_is_gone_is_pending_until_that_is_settled(
        self, bench: Workbench, kind: GenerationKind, way: str
    ) -> None:
        """Deleted, or out of the `where`: what was made of it is still there."""
        bench.notes_table("a", "b")
        source = bench.attach("notes", ("body",), Condition("org", "!=", 9))
        generation = bench.generation(source, kind)
        bench.drain(source, generation)
        bench.app.run(way)
        end = bench.store.journal_end(source)
        assert bench.store.coverage(source, [generation.id])[generation.id].missing == 0
        assert bench.store.pending(source, generation.id, end)
        bench.drain(source, generation)
        assert not bench.store.pending(source, generation.id, end)

    def test_the_journals_end_grows_with_each_change(self, bench: Workbench) -> None:
        """And is 0 at first."""
        source = bench.notes()
        assert bench.store.journal_end(source) == 0
        bench.app.run("INSERT INTO notes (id, body) VALUES (1, 'a'), (2, 'b')")
        first = bench.store.journal_end(source)
        bench.app.run("UPDATE notes SET body = 'c' WHERE id = 1")
        assert 0 < first < bench.store.journal_end(source)

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_written_later_is_not_pending_for_who_asks_about_before(
        self, bench: Workbench, kind: GenerationKind
    ) -> None:
        """Nor is the lease that it is under; a lease that begins before is."""
        source = bench.notes("a", "b")
        generation = bench.generation(source, kind)
        end = bench.store.journal_end(source)
        lease = bench.lease(generation)
        assert bench.store.pending(source, generation.id, end)
        bench.settle(source, generation, lease, bench.read(source, lease))
        bench.drain(source, generation)
        bench.app.run("INSERT INTO notes (id, body) VALUES (3, 'c')")
        bench.lease(generation)
        assert not bench.store.pending(source, generation.id, end)
        assert bench.store.pending(source, generation.id, bench.store.journal_end(source))


class Workers:
    """The heartbeat registry."""

    def test_a_beat_is_seen_and_set_by_the_databases_clock(self, bench: Workbench) -> None:
        """Whatever time the worker thinks it is."""
        bench.notes()
        before = bench.store.clock()
        bench.store.worker_beat(WorkerBeat("h:1", "h", 1, started_at=5, beat_at=6, rates={3: 120.5, 4: 0.0}))
        [beat] = bench.store.workers(60)
        assert (beat.id, beat.host, beat.pid, dict(beat.rates)) == ("h:1", "h", 1, {3: 120.5, 4: 0.0})
        assert before <= beat.started_at <= beat.beat_at <= bench.store.clock()

    def test_a_second_beat_keeps_the_start(self, bench: Workbench) -> None:
        """And replaces the rest."""
        bench.notes()
        bench.store.worker_beat(WorkerBeat("h:1", "h", 1, 0, 0, {3: 1.0}))
        [first] = bench.store.workers(60)
        bench.store.worker_beat(WorkerBeat("h:1", "h", 1, 0, 0, {4: 2.0}))
        [second] = bench.store.workers(60)
        assert second.started_at == first.started_at
        assert second.beat_at >= first.beat_at
        assert dict(second.rates) == {4: 2.0}

    def test_workers_are_those_heard_of_lately(self, bench: Workbench) -> None:
        """Those that have stopped are forgotten."""
        bench.notes()
        for number in range(3):
            bench.store.worker_beat(WorkerBeat(f"h:{number}", "h", number, 0, 0))
        assert {beat.id for beat in bench.store.workers(60)} == {"h:0", "h:1", "h:2"}
        assert list(bench.store.workers(-1)) == []
        bench.store.worker_forget("h:1")
        bench.store.worker_forget("nobody")
        assert {beat.id for beat in bench.store.workers(60)} == {"h:0", "h:2"}
