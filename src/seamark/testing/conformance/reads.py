"""`lease_read`: what is to be done, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from seamark.testing.workbench import CHARACTERS, STEPS

if TYPE_CHECKING:
    from seamark.model import Generation, Key, Lane, Lease
    from seamark.testing.workbench import Workbench


class Reads:
    """The rows of a lease in one snapshot."""

    def test_rows_carry_what_the_journal_and_the_table_say(self, bench: Workbench) -> None:
        """By seq; null, empty and blank text as they are."""
        source = bench.notes("alpha", None, "", "  ", "päß 日本 🙂\r\n\t|")
        generation = bench.vector(source)
        rows = bench.read(source, bench.lease(generation))
        journal = bench.backend.journal(source)
        assert [row.seq for row in rows] == sorted(row.seq for row in rows)
        assert {row.key: row.seq for row in rows} == {key: seq for key, (seq, _) in journal.items()}
        assert [row.texts for row in rows] == [("alpha",), (None,), ("",), ("  ",), ("päß 日本 🙂\r\n\t|",)]
        assert {row.live for row in rows} == {True}
        assert {row.attempts for row in rows} == {0}

    def test_several_columns_come_in_the_order_of_the_spec(self, bench: Workbench) -> None:
        """Not in that of the table."""
        bench.notes_table("b")
        text = bench.backend.type("text")
        bench.app.run(f"ALTER TABLE notes ADD COLUMN title {text}")
        bench.app.run("UPDATE notes SET title = 't'")
        source = bench.attach("notes", ("title", "body"))
        [row] = bench.read(source, bench.lease(bench.vector(source)))
        assert row.texts == ("t", "b")

    def test_a_row_edited_or_deleted_since_the_claim_has_left(self, bench: Workbench) -> None:
        """It is ahead, in the fresh lane."""
        source = bench.notes(*"abcd")
        generation = bench.vector(source)
        lease = bench.lease(generation)
        bench.app.run("UPDATE notes SET body = 'B' WHERE id = 2")
        bench.app.run("DELETE FROM notes WHERE id = 3")
        assert [row.key for row in bench.read(source, lease)] == [(1,), (4,)]
        assert bench.settle(source, generation, lease, bench.read(source, lease)) is not None
        ahead = bench.lease(generation)
        assert [(row.key, row.live, row.texts) for row in bench.read(source, ahead)] == [
            ((2,), True, ("B",)),
            ((3,), False, ()),
        ]

    def test_deleted_and_excluded_rows_are_not_live(self, bench: Workbench) -> None:
        """They have no text, and are to be settled as gone."""
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.app.run("DELETE FROM notes WHERE id = 1")
        [row] = bench.read(source, bench.lease(generation))
        assert (row.key, row.live, row.texts) == ((1,), False, ())

    def test_what_is_done_is_absent(self, bench: Workbench) -> None:
        """After another worker settled part of the range by way of a narrower reading."""
        source = bench.notes(*"abcdef")
        generation = bench.vector(source)
        lease = bench.lease(generation)
        narrow = bench.store.lease_read(source, lease, 2)
        bench.settle(source, generation, narrow.lease, narrow.rows)
        rest: list[Key] = []
        for _ in range(STEPS):
            again = bench.claim(generation).lease
            if again is None:
                break
            rows = bench.read(source, again)
            rest += [row.key for row in rows]
            bench.settle(source, generation, again, rows)
        assert not {row.key for row in narrow.rows} & set(rest)
        assert sorted(rest + [row.key for row in narrow.rows]) == bench.all_keys(source)

    def test_what_failed_is_absent_until_it_is_edited(self, bench: Workbench) -> None:
        """A recorded failure is nobody's work but the retry lane's."""
        source = bench.notes(*"abc")
        generation = bench.vector(source)
        lease = bench.lease(generation)
        rows = bench.read(source, lease)
        bench.settle(source, generation, lease, rows, [bench.fail(rows[1])])
        assert bench.claim(generation).lease is None
        bench.app.run("UPDATE notes SET body = 'B' WHERE id = 2")
        [row] = bench.read(source, bench.lease(generation))
        assert (row.key, row.texts, row.attempts) == ((2,), ("B",), 0)

    @pytest.mark.parametrize("lane", ["backfill", "fresh", "retry"])
    @pytest.mark.parametrize("characters", [0, 1, 25, 1000])
    def test_the_text_budget_splits_a_lease(self, bench: Workbench, lane: Lane, characters: int) -> None:
        """At least one row is read; what is left over can be claimed at once; together they miss nothing."""
        bodies = [str(number) * 10 for number in range(8)]
        source = bench.notes(*(bodies if lane != "fresh" else ()))
        generation = bench.vector(source)
        if lane == "fresh":
            bench.app.many("INSERT INTO notes (id, body) VALUES (?, ?)", list(enumerate(bodies, 1)))
        if lane == "retry":
            lease = bench.lease(generation)
            rows = bench.read(source, lease)
            bench.settle(source, generation, lease, rows, [bench.fail(row, retry_seconds=-1) for row in rows])
        lease = bench.lease(generation)
        assert lease.lane == lane
        reading = bench.store.lease_read(source, lease, characters)
        assert (reading.lease.id, reading.lease.fence, reading.lease.lane) == (lease.id, lease.fence, lane)
        assert lease.lo <= reading.lease.lo < reading.lease.hi <= lease.hi
        assert all(reading.lease.lo < row.seq <= reading.lease.hi for row in reading.rows)
        assert 1 <= len(reading.rows) <= max(1, characters // 10 + 1)
        assert (len(reading.rows) == 8) == (characters == 1000)
        seen = [row.key for row in reading.rows]
        bench.coverage_check(source, generation)
        rest: list[Key] = []
        leases = [reading.lease]
        while (other := bench.claim(generation, "w2").lease) is not None:
            leases.append(other)
            rest += [row.key for row in bench.read(source, other)]
        assert sorted(seen + rest) == bench.all_keys(source)
        assert settled(bench, leases[0], generation) == len(seen)
        for other in leases[1:]:
            assert settled(bench, other, generation) > 0
        bench.verify(source, generation)

    def test_reading_again_is_the_same(self, bench: Workbench) -> None:
        """A reading takes nothing."""
        source = bench.notes(*"abc")
        generation = bench.vector(source)
        lease = bench.lease(generation)
        assert bench.store.lease_read(source, lease, CHARACTERS) == bench.store.lease_read(source, lease, CHARACTERS)

    def test_a_range_with_nothing_left_reads_empty(self, bench: Workbench) -> None:
        """And can be settled."""
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        lease = bench.lease(generation)
        bench.app.run("UPDATE notes SET body = 'x'")
        reading = bench.store.lease_read(source, lease, CHARACTERS)
        assert reading.rows == ()
        assert settled(bench, reading.lease, generation) == 0
        bench.drain(source, generation)
        bench.verify(source, generation)

    def test_a_text_larger_than_the_budget_is_read_whole(self, bench: Workbench) -> None:
        """The budget decides how many rows there are, and never cuts one."""
        body = "x" * 300_000
        source = bench.notes(body, "b")
        generation = bench.vector(source)
        texts: list[str | None] = []
        while (lease := bench.claim(generation).lease) is not None:
            reading = bench.store.lease_read(source, lease, 1000)
            texts += [text for row in reading.rows for text in row.texts]
            bench.settle(source, generation, reading.lease, reading.rows)
        assert sorted(texts, key=str) == ["b", body]


def settled(bench: Workbench, lease: Lease, generation: Generation) -> int:
    """Read and settle a lease; return how many rows that wrote."""
    source = bench.source(generation.source_id)
    done = bench.settle(source, generation, lease, bench.read(source, lease))
    assert done is not None
    return done.written
