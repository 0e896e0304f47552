"""`lease_settle` and `journal_trim`: nothing old is ever written over something new."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from seamark.model import Settled
from seamark.testing.workbench import CHARACTERS

if TYPE_CHECKING:
    from seamark.model import Generation, GenerationKind, Key, Source
    from seamark.testing.workbench import Workbench

KINDS: tuple[GenerationKind, ...] = ("vector", "lexical")


@pytest.mark.parametrize("kind", KINDS)
class Settles:
    """One transaction, every write conditional."""

    def test_it_writes_the_rows_and_retires_the_lease(self, bench: Workbench, kind: GenerationKind) -> None:
        """Indexed, blank and truncated rows, each with the seq that was read."""
        source = bench.notes("alpha|beta", "", "gamma", None, "long " * 100)
        generation = bench.generation(source, kind)
        lease = bench.lease(generation)
        rows = bench.read(source, lease)
        assert bench.settle(source, generation, lease, rows) == Settled(written=5, superseded=0, failed=0)
        stored = bench.backend.rows(source, generation)
        assert {key: row.seq for key, row in stored.items()} == {row.key: row.seq for row in rows}
        assert [stored[number,].chunks for number in range(1, 6)] == [2 if kind == "vector" else 1, 0, 1, 0, 1]
        assert [key for key, row in stored.items() if row.truncated] == [(5,)]
        bench.verify(source, generation)
        assert bench.store.coverage(source, [generation.id])[generation.id].leases == 0
        assert bench.settle(source, generation, lease, rows) is None

    def test_new_chunks_take_the_place_of_old_ones(self, bench: Workbench, kind: GenerationKind) -> None:
        """More of them, fewer, none, and some again; the neighbour is left alone."""
        source = bench.notes("a|b|c", "neighbour")
        generation = bench.generation(source, kind)
        bench.drain(source, generation)
        for body in ("d|e", "f|g|h|i", "", "j", None, "a|b|c"):
            bench.app.run("UPDATE notes SET body = ? WHERE id = 1", body)
            bench.drain(source, generation)
            bench.verify(source, generation, {(1,): body or "", (2,): "neighbour"})

    def test_a_version_that_was_edited_meanwhile_is_superseded(self, bench: Workbench, kind: GenerationKind) -> None:
        """The edited row is left to the lane that is ahead of it, its neighbours are written."""
        source = bench.notes("a", "b", "c")
        generation = bench.generation(source, kind)
        lease = bench.lease(generation)
        rows = bench.read(source, lease)
        bench.app.run("UPDATE notes SET body = 'B' WHERE id = 2")
        assert bench.settle(source, generation, lease, rows) == Settled(written=2, superseded=1, failed=0)
        assert (2,) not in bench.backend.rows(source, generation)
        bench.coverage_check(source, generation)
        bench.drain(source, generation)
        bench.verify(source, generation, {(1,): "a", (2,): "B", (3,): "c"})

    @pytest.mark.parametrize("change", ["edit", "edit back", "delete", "key", "replace"])
    @pytest.mark.parametrize("trim", [False, True])
    def test_a_late_settle_changes_nothing(self, bench: Workbench, kind: GenerationKind, change: str, *, trim: bool) -> None:
        """The newer version was read and settled by another while this one was held open."""
        source = bench.notes("A")
        generation = bench.generation(source, kind)
        late = bench.lease(generation, "w1")
        rows = bench.read(source, late)
        statements: dict[str, tuple[list[str], dict[Key, str]]] = {
            "edit": (["UPDATE notes SET body = 'B'"], {(1,): "B"}),
            "edit back": (["UPDATE notes SET body = 'B'", "UPDATE notes SET body = 'A'"], {(1,): "A"}),
            "delete": (["DELETE FROM notes"], {}),
            "key": (["UPDATE notes SET id = 2"], {(2,): "A"}),
            "replace": (["DELETE FROM notes", "INSERT INTO notes (id, body) VALUES (1, 'C')"], {(1,): "C"}),
        }
        for statement in statements[change][0]:
            bench.app.run(statement)
        bench.drain(source, generation)
        if trim:
            bench.store.journal_trim(source.id)
        assert bench.settle(source, generation, late, rows) == Settled(written=0, superseded=1, failed=0)
        bench.coverage_check(source, generation)
        bench.drain(source, generation)
        bench.store.journal_trim(source.id)
        bench.coverage_check(source, generation)
        bench.verify(source, generation, statements[change][1])

    def test_the_seq_never_goes_back(self, bench: Workbench, kind: GenerationKind) -> None:
        """Edited between reading and settling, over and over: what is stored only grows."""
        source = bench.notes("v0")
        generation = bench.generation(source, kind)
        held = [(lease := bench.lease(generation), bench.read(source, lease))]
        for number in range(1, 6):
            bench.app.run("UPDATE notes SET body = ?", f"v{number}")
            lease = bench.lease(generation)
            held.append((lease, bench.read(source, lease)))
        lease, rows = held.pop()
        assert bench.settle(source, generation, lease, rows) == Settled(1, 0, 0)
        for lease, rows in held:
            assert bench.settle(source, generation, lease, rows) == Settled(0, 1, 0)
            bench.verify(source, generation, {(1,): "v5"})

    def test_a_deletion_is_settled_as_gone(self, bench: Workbench, kind: GenerationKind) -> None:
        """Its chunks go; a row of its own stays, which a late settle will lose against."""
        source = bench.notes("a|b", "c")
        generation = bench.generation(source, kind)
        bench.drain(source, generation)
        bench.app.run("DELETE FROM notes WHERE id = 1")
        lease = bench.lease(generation)
        rows = bench.read(source, lease)
        assert bench.settle(source, generation, lease, rows) == Settled(1, 0, 0)
        assert bench.backend.rows(source, generation)[1,].chunks == -1
        bench.verify(source, generation, {(2,): "c"})
        bench.coverage_check(source, generation, {(2,): "c"})

    def test_a_row_inserted_and_deleted_before_it_was_indexed(self, bench: Workbench, kind: GenerationKind) -> None:
        """It was never there."""
        source = bench.notes("a")
        generation = bench.generation(source, kind)
        bench.app.run("INSERT INTO notes (id, body) VALUES (2, 'b')")
        bench.app.run("DELETE FROM notes WHERE id = 2")
        bench.drain(source, generation)
        bench.verify(source, generation, {(1,): "a"})
        assert bench.coverage_check(source, generation, {(1,): "a"}).embedded == 1

    def test_failures_are_recorded_beside_the_rest(self, bench: Workbench, kind: GenerationKind) -> None:
        """One bad row hides no other (I8), and one that was edited meanwhile has not failed."""
        source = bench.notes(*"abcd")
        generation = bench.generation(source, kind)
        lease = bench.lease(generation)
        rows = bench.read(source, lease)
        bench.app.run("UPDATE notes SET body = 'B' WHERE id = 2")
        failed = [bench.fail(rows[1]), bench.fail(rows[2], error="too sad")]
        assert bench.settle(source, generation, lease, rows, failed) == Settled(written=2, superseded=1, failed=1)
        [failure] = bench.store.failures(source, generation.id, 10)
        assert (failure.key, failure.error) == ((3,), "too sad")
        counted = bench.coverage_check(source, generation)
        assert (counted.embedded, counted.failed, counted.missing) == (2, 1, 1)

    def test_a_lease_of_which_nothing_is_left_is_retired(self, bench: Workbench, kind: GenerationKind) -> None:
        """With an empty batch."""
        source = bench.notes("a")
        generation = bench.generation(source, kind)
        lease = bench.lease(generation)
        assert bench.settle(source, generation, lease, []) == Settled(0, 0, 0)
        assert bench.store.coverage(source, [generation.id])[generation.id].leases == 0

    def test_rows_left_out_of_a_settle_are_found_again(self, bench: Workbench, kind: GenerationKind) -> None:
        """A worker that forgets fresh rows leaves stragglers, which the sweep finds (I3)."""
        source = bench.notes()
        generation = bench.generation(source, kind)
        bench.app.run("INSERT INTO notes (id, body) VALUES (1, 'a'), (2, 'b'), (3, 'c')")
        lease = bench.lease(generation)
        rows = bench.read(source, lease)
        assert bench.settle(source, generation, lease, rows[:1]) == Settled(1, 0, 0)
        assert bench.coverage_check(source, generation).missing == 2
        again = bench.lease(generation)
        assert again.lane == "sweep"
        bench.settle(source, generation, again, bench.read(source, again))
        bench.drain(source, generation)
        bench.verify(source, generation)

    def test_many_rows_at_once(self, bench: Workbench, kind: GenerationKind) -> None:
        """More than any batch that a statement may be cut into."""
        source = bench.notes(*(f"word{number % 17} w{number}|tail {number}" for number in range(2500)))
        generation = bench.generation(source, kind)
        lease = bench.lease(generation, limit=2500)
        rows = bench.read(source, lease)
        assert bench.settle(source, generation, lease, rows) == Settled(2500, 0, 0)
        bench.verify(source, generation)
        bench.app.run("UPDATE notes SET body = body || '|more' WHERE id % 2 = 0")
        assert bench.drain(source, generation, limit=2500) == 1
        bench.verify(source, generation)


class Trims:
    """`journal_trim`."""

    def tombstones(self, bench: Workbench, source: Source) -> set[Key]:
        """Return the keys of the journal's tombstones."""
        return {key for key, (_, deleted) in bench.backend.journal(source).items() if deleted}

    def ready(self, bench: Workbench, *kinds: GenerationKind) -> tuple[Source, list[Generation]]:
        """Attach a to d with generations that have everything, and a last row so that no tombstone is the last."""
        source = bench.notes(*"abcd")
        generations = [bench.generation(source, kind) for kind in kinds]
        bench.drain(source, *generations)
        bench.app.run("DELETE FROM notes WHERE id IN (1, 2)")
        bench.app.run("UPDATE notes SET body = 'D' WHERE id = 4")
        return source, generations

    def test_a_tombstone_stays_until_every_generation_has_settled_it(self, bench: Workbench) -> None:
        """And then goes, with what each generation kept for it."""
        source, [first, second] = self.ready(bench, "vector", "lexical")
        assert bench.store.journal_trim(source.id) == 0
        bench.drain(source, first)
        assert bench.store.journal_trim(source.id) == 0
        assert self.tombstones(bench, source) == {(1,), (2,)}
        bench.drain(source, second)
        assert bench.store.journal_trim(source.id) == 2
        assert self.tombstones(bench, source) == set()
        for generation in (first, second):
            assert bench.backend.rows(source, generation).keys() == {(3,), (4,)}
            bench.verify(source, generation, {(3,): "c", (4,): "D"})
            bench.coverage_check(source, generation)
        assert bench.store.journal_trim(source.id) == 0

    def test_a_tombstone_stays_while_a_lease_begins_below_it(self, bench: Workbench) -> None:
        """A sleeping worker must still find something newer than what it holds."""
        source = bench.notes(*"abcd")
        generation = bench.vector(source)
        late = bench.lease(generation, limit=1)
        rows = bench.read(source, late)
        bench.drain(source, generation)
        [row] = rows
        bench.app.run("DELETE FROM notes WHERE id = ?", row.key[0])
        bench.app.run("UPDATE notes SET body = 'x' WHERE id = 1")
        bench.drain(source, generation)
        assert bench.store.journal_trim(source.id) == 0
        assert bench.settle(source, generation, late, rows) == Settled(0, 1, 0)
        bench.drain(source, generation)
        assert bench.store.journal_trim(source.id) == 1
        bench.verify(source, generation)

    def test_an_expired_lease_counts_too(self, bench: Workbench) -> None:
        """Its worker may be asleep, not dead, and another will take it over."""
        source = bench.notes(*"abcd")
        generation = bench.vector(source)
        late = bench.lease(generation, limit=1)
        bench.app.run("DELETE FROM notes WHERE id = 4")
        bench.app.run("UPDATE notes SET body = 'x' WHERE id = 1")
        ahead = bench.lease(generation)
        bench.settle(source, generation, ahead, bench.read(source, ahead))
        bench.expire(late)
        assert bench.store.journal_trim(source.id) == 0
        assert self.tombstones(bench, source) == {(4,)}
        bench.drain(source, generation)
        assert bench.store.journal_trim(source.id) == 1

    def test_a_tombstone_that_a_building_generation_has_yet_to_reach_stays(self, bench: Workbench) -> None:
        """Below its origin, too."""
        source, [first] = self.ready(bench, "vector")
        bench.drain(source, first)
        second = bench.vector(source, "oracle-b")
        held = bench.lease(second, limit=1)
        assert bench.store.journal_trim(source.id) == 0
        bench.settle(source, second, held, bench.read(source, held))
        bench.drain(source, second)
        assert bench.store.journal_trim(source.id) == 2
        bench.verify(source, second, {(3,): "c", (4,): "D"})
        bench.coverage_check(source, second)

    def test_live_entries_are_never_dropped(self, bench: Workbench) -> None:
        """Only tombstones are, and a key that comes back is live again."""
        source, [generation] = self.ready(bench, "vector")
        bench.app.run("INSERT INTO notes (id, body) VALUES (1, 'back')")
        bench.drain(source, generation)
        assert bench.store.journal_trim(source.id) == 1
        assert {key for key, (_, deleted) in bench.backend.journal(source).items() if not deleted} == {(1,), (3,), (4,)}
        bench.verify(source, generation, {(1,): "back", (3,): "c", (4,): "D"})

    def test_a_seq_is_never_given_twice(self, bench: Workbench) -> None:
        """Everything deleted, settled and trimmed: what comes next is still newer than all before."""
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        bench.drain(source, generation)
        for number in range(5):
            bench.app.run("DELETE FROM notes")
            end = max(seq for seq, _ in bench.backend.journal(source).values())
            bench.drain(source, generation)
            bench.store.journal_trim(source.id)
            bench.app.run("INSERT INTO notes (id, body) VALUES (1, ?)", f"text {number}")
            assert bench.backend.journal(source)[1,][0] > end
            bench.drain(source, generation)
            bench.verify(source, generation, {(1,): f"text {number}"})

    def test_deleted_after_a_trim_and_indexed_again(self, bench: Workbench) -> None:
        """A key that was forgotten is like a new one."""
        source, [generation] = self.ready(bench, "lexical")
        bench.drain(source, generation)
        bench.store.journal_trim(source.id)
        bench.app.run("INSERT INTO notes (id, body) VALUES (2, 'second life')")
        lease = bench.lease(generation)
        reading = bench.store.lease_read(source, lease, CHARACTERS)
        assert [(row.key, row.live) for row in reading.rows] == [((2,), True)]
        bench.settle(source, generation, lease, reading.rows)
        bench.verify(source, generation, {(2,): "second life", (3,): "c", (4,): "D"})
