"""Stamps on the user's own rows: never true too early, never true too late, and no trigger of ours fires for them."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from seamark.errors import TableUnusableError
from seamark.model import SourceSpec, TextColumn, Touch
from seamark.testing.beside import beside

if TYPE_CHECKING:
    import threading

    from seamark.model import Generation, Key, Lease, Source, StampName
    from seamark.testing.workbench import Workbench

ALL: tuple[StampName, ...] = (
    "embedded_model_id",
    "embedded_model_version",
    "embedded_at",
    "has_embedding",
    "embed_gen",
)
SECONDS = 30.0
UNTRUE = """
SELECT count(*) FROM notes n WHERE (n.has_embedding OR n.embed_gen IS NOT NULL) AND NOT EXISTS (
    SELECT 1 FROM notes_embeddings e WHERE e.id = n.id AND e.current
)
"""


def stamped(bench: Workbench, *bodies: str | None, stamp: tuple[StampName, ...] = ALL) -> Source:
    """Make and attach the notes with stamps."""
    bench.notes_table(*bodies)
    return bench.attach("notes", ("body",), stamp=stamp)


def stamps(bench: Workbench) -> dict[int, tuple[object, ...]]:
    """Return id → model, version, whether there is a time, whether it is embedded, and the generation."""
    rows = bench.app.run(
        "SELECT id, embedded_model_id, embedded_model_version, embedded_at IS NOT NULL, has_embedding, embed_gen FROM notes"
    )
    return {key: (*model, bool(moment), bool(embedded), generation) for key, *model, moment, embedded, generation in rows}


def true(bench: Workbench, source: Source, generation: Generation) -> set[Key]:
    """Return the keys of the rows of which the generation holds chunks of the present version, from what is stored."""
    rows = bench.backend.rows(source, generation)
    journal = bench.backend.journal(source)
    current = {key for key, (seq, deleted) in journal.items() if not deleted and key in rows and rows[key].seq == seq}
    return {key for key in current if rows[key].chunks > 0}


def undone(bench: Workbench, statement: str, *values: object) -> None:
    """Run a statement in a transaction that is rolled back."""
    with suppress(ZeroDivisionError), bench.app.transaction():
        bench.app.run(statement, *values)
        raise ZeroDivisionError


def held(bench: Workbench) -> set[Key]:
    """Return the keys of the rows that are stamped."""
    return {(key,) for key, stamp in stamps(bench).items() if stamp[3]}


def cleared(bench: Workbench, source: Source, generation: Generation | None) -> None:
    """Clear everything that the generation does not hold."""
    after = bench.store.stamps_clear(source, generation and generation.id, None)
    while after is not None:
        after = bench.store.stamps_clear(source, generation and generation.id, after)


class Stamps:
    """`SourceSpec.stamp`."""

    def test_rows_are_stamped_as_they_are_settled(self, bench: Workbench) -> None:
        """With the model, its version, the time and the generation; rows without a vector are not."""
        source = stamped(bench, "a|b", "", None, "c")
        generation = bench.vector(source)
        assert set(stamps(bench).values()) == {(None, None, False, False, None)}
        bench.drain(source, generation)
        embedded = ("oracle-a", "1", True, True, generation.id)
        empty = (None, None, False, False, None)
        assert stamps(bench) == {1: embedded, 2: empty, 3: empty, 4: embedded}
        both = "SELECT n.embedded_at, e.embedded_at FROM notes n JOIN notes_embeddings e ON e.id = n.id WHERE n.id = 4"
        [(moment, told)] = bench.store.sql(both, (), SECONDS).rows
        assert moment == told

    def test_a_row_that_somebody_is_writing_to_is_owed_its_stamp(self, bench: Workbench) -> None:
        """It is settled all the same, and counted as owed until upkeep has written the stamp."""
        source = stamped(bench, "a", "b")
        generation = bench.vector(source)
        other = bench.backend.application()
        with bench.app.transaction():
            bench.app.run("UPDATE notes SET org = 7 WHERE id = 1")
            bench.drain(source, generation)
            assert true(bench, source, generation) == {(1,), (2,)}
            assert (1,) not in other.run("SELECT id FROM notes WHERE has_embedding")
            assert bench.store.stamps_owed(source) >= 1
        bench.maintain(generation)
        assert (bench.store.stamps_owed(source), held(bench)) == (0, {(1,), (2,)})

    def test_stamping_is_no_change_of_the_row(self, bench: Workbench) -> None:
        """The journal does not move, so that nothing is embedded again."""
        source = stamped(bench, "a", "b")
        generation = bench.vector(source)
        before = bench.backend.journal(source)
        bench.drain(source, generation)
        bench.maintain(generation)
        assert held(bench) == {(1,), (2,)}
        assert bench.backend.journal(source) == before

    @pytest.mark.parametrize(
        "edit", ["UPDATE notes SET body = 'new' WHERE id = 1", "UPDATE notes SET id = 9, body = body WHERE id = 1"]
    )
    def test_an_edit_empties_the_stamp_in_its_own_transaction(self, bench: Workbench, edit: str) -> None:
        """Seen by the writer at once, and by others with the commit; taken back with a rollback."""
        source = stamped(bench, "a", "b")
        generation = bench.vector(source)
        bench.drain(source, generation)
        before = stamps(bench)
        other = bench.backend.application()
        undone(bench, edit)
        assert stamps(bench) == before
        with bench.app.transaction():
            bench.app.run(edit)
            assert len(held(bench)) == 1
            assert len(other.run("SELECT id FROM notes WHERE has_embedding")) == 2
        empty = (None, None, False, False, None)
        assert [stamp for stamp in stamps(bench).values() if stamp != before[2]] == [empty]
        bench.drain(source, generation)
        assert len(held(bench)) == 2

    def test_an_edit_of_another_column_leaves_the_stamp(self, bench: Workbench) -> None:
        """And so does one that changes nothing."""
        source = stamped(bench, "a")
        bench.drain(source, bench.vector(source))
        before = stamps(bench)
        bench.app.run("UPDATE notes SET org = 7, body = 'a'")
        assert stamps(bench) == before

    def test_a_row_that_comes_with_a_stamp_is_not_embedded(self, bench: Workbench) -> None:
        """Such as a copy of another row."""
        source = stamped(bench, "a")
        generation = bench.vector(source)
        bench.drain(source, generation)
        columns = ", ".join(ALL)
        bench.app.run(f"INSERT INTO notes (id, body, {columns}) SELECT 2, 'b', {columns} FROM notes WHERE id = 1")
        assert held(bench) == {(1,)}
        bench.app.run(f"INSERT INTO notes (id, body, {columns}) SELECT 3, body, {columns} FROM notes WHERE id = 1")
        assert held(bench) == {(1,)}
        bench.drain(source, generation)
        assert held(bench) == {(1,), (2,), (3,)}

    def test_a_late_settle_of_an_old_version_stamps_nothing(self, bench: Workbench) -> None:
        """The row was edited while it was embedded."""
        source = stamped(bench, "a", "b")
        generation = bench.vector(source)
        lease = bench.lease(generation)
        rows = bench.read(source, lease)
        bench.app.run("UPDATE notes SET body = 'new' WHERE id = 1")
        settled = bench.settle(source, generation, lease, rows)
        assert settled is not None
        assert (settled.written, settled.superseded) == (1, 1)
        bench.maintain(generation)
        assert held(bench) == {(2,)}
        bench.drain(source, generation)
        assert held(bench) == {(1,), (2,)}

    def test_a_reader_sees_no_stamp_before_its_chunks(self, bench: Workbench) -> None:
        """While the table is filled and edited."""
        source = stamped(bench, *(f"t{number}" for number in range(200)))
        generation = bench.vector(source)
        reading = bench.backend.store()
        looks, found = [0], [0]

        def look(done: threading.Event) -> None:
            while not done.is_set() or not looks[0]:
                [(untrue,)] = reading.sql(UNTRUE, (), SECONDS).rows
                found[0] += int(str(untrue))
                looks[0] += 1

        with beside(look):
            for number in range(40):
                bench.app.run("UPDATE notes SET body = ? WHERE id = ?", f"new {number}", number + 1)
                bench.step(source, generation, limit=7)
            bench.drain(source, generation)
        assert (found[0], looks[0] > 0) == (0, True)
        bench.maintain(generation)
        assert len(held(bench)) == 200

    def test_another_generation_is_stamped_once_search_reads_it(self, bench: Workbench) -> None:
        """By upkeep; what somebody wrote by hand is mended with it."""
        source = stamped(bench, "a", "b", "c")
        first = bench.vector(source, "oracle-a")
        bench.drain(source, first)
        assert bench.store.generation_activate(first.id)
        second = bench.vector(source, "oracle-b")
        bench.drain(source, second)
        bench.maintain(second)
        assert {stamp[4] for stamp in stamps(bench).values()} == {first.id}
        bench.app.run("INSERT INTO notes (id, body) VALUES (4, 'd')")
        bench.drain(source, first, second)
        assert bench.store.generation_activate(second.id)
        bench.app.run("UPDATE notes SET embed_gen = 77, has_embedding = '0' WHERE id = 1")
        bench.app.run("INSERT INTO notes (id, body) VALUES (5, 'e')")
        bench.app.run("UPDATE notes SET embed_gen = 77, has_embedding = '1' WHERE id = 5")
        bench.maintain(second)
        assert {key: stamp[0] for key, stamp in stamps(bench).items() if stamp[3]} == dict.fromkeys(range(1, 5), "oracle-b")
        assert {stamp[4] for stamp in stamps(bench).values()} == {second.id, None}
        assert bench.maintain(second) == 0

    def test_what_a_generation_does_not_hold_is_cleared(self, bench: Workbench) -> None:
        """Before it is searched: neither is anything stamped, nor the stamp of a row that it holds touched."""
        source = stamped(bench, *(f"t{number}" for number in range(1100)))
        first, second = bench.vector(source, "oracle-a"), bench.vector(source, "oracle-b")
        bench.drain(source, first)
        bench.maintain(first)
        assert bench.store.generation_activate(first.id)
        assert len(held(bench)) == 1100
        lease = bench.lease(second, limit=100)
        bench.settle(source, second, lease, rows := bench.read(source, lease))
        cleared(bench, source, second)
        assert held(bench) == {row.key for row in rows} == true(bench, source, second)
        assert {stamp[4] for stamp in stamps(bench).values()} == {first.id, None}
        cleared(bench, source, None)
        assert held(bench) == set()

    def test_clearing_leaves_what_the_generation_holds(self, bench: Workbench) -> None:
        """And empties what it has yet to catch up with."""
        source = stamped(bench, *(f"t{number}" for number in range(30)))
        first, second = bench.vector(source, "oracle-a"), bench.vector(source, "oracle-b")
        bench.drain(source, first, second)
        bench.app.run("UPDATE notes SET body = 'edited' WHERE id > 25")
        bench.drain(source, first)
        assert len(held(bench)) == 30
        assert bench.store.generation_activate(first.id)
        bench.app.run("UPDATE notes SET embed_gen = 77 WHERE id = 1")
        cleared(bench, source, second)
        assert held(bench) == {(key,) for key in range(1, 26)}

    def test_a_row_that_is_being_written_is_owed_what_is_true_of_it(self, bench: Workbench) -> None:
        """Nobody is waited for; upkeep of the one that search reads by then sees to it."""
        source = stamped(bench, "a", "b")
        first, second = bench.vector(source, "oracle-a"), bench.vector(source, "oracle-b")
        bench.drain(source, first)
        with bench.app.transaction():
            bench.app.run("UPDATE notes SET org = 7 WHERE id = 1")
            cleared(bench, source, second)
        assert bench.store.stamps_owed(source) > 0
        assert (1,) in held(bench)
        assert bench.store.generation_activate(second.id, force=True)
        bench.maintain(second)
        assert (held(bench), bench.store.stamps_owed(source)) == (set(), 0)

    def test_where_search_reads_none_the_stamp_of_a_row_that_is_being_written_is_emptied_later(self, bench: Workbench) -> None:
        """By upkeep of what is left, be it of the words."""
        source = stamped(bench, "a", "b")
        generation, lexical = bench.vector(source), bench.lexical(source)
        bench.drain(source, generation, lexical)
        assert bench.store.generation_activate(generation.id)
        with bench.app.transaction():
            bench.app.run("UPDATE notes SET org = 7 WHERE id = 1")
            assert bench.store.generation_retire(generation.id, force=True)
            cleared(bench, source, None)
            bench.maintain(lexical)
            assert bench.store.stamps_owed(source) > 0
        assert (1,) in held(bench)
        bench.maintain(lexical)
        assert (held(bench), bench.store.stamps_owed(source)) == (set(), 0)

    def test_text_of_a_related_table_empties_the_stamp(self, bench: Workbench) -> None:
        """In the transaction of its change."""
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        bench.notes_table("a", "b")
        bench.app.run(f"CREATE TABLE parts (id {integer} PRIMARY KEY, note {integer}, body {text})")
        bench.app.run("INSERT INTO parts VALUES (1, 1, 'x'), (2, 2, 'y')")
        texts = (TextColumn("body", "parts"),)
        source = bench.attach("notes", texts, touch=(Touch("parts", ("note",)),), stamp=("has_embedding",))
        generation = bench.vector(source)
        bench.drain(source, generation)
        told = "SELECT id FROM notes WHERE has_embedding ORDER BY id"
        assert bench.app.run(told) == [(1,), (2,)]
        with bench.app.transaction():
            bench.app.run("UPDATE parts SET body = 'z' WHERE id = 1")
            assert bench.app.run(told) == [(2,)]
        bench.app.run("DELETE FROM parts WHERE id = 2")
        assert bench.app.run(told) == []
        bench.drain(source, generation)
        assert bench.app.run(told) == [(1,)], "the other has no text any more"
        bench.app.run("INSERT INTO parts VALUES (3, 1, 'more')")
        assert bench.app.run(told) == []

    def test_columns_that_are_there_are_used_and_stay(self, bench: Workbench) -> None:
        """Only those that were made are dropped, and only when that is asked for."""
        bench.notes_table("a")
        bench.app.run(f"ALTER TABLE notes ADD COLUMN embed_gen {bench.backend.type('integer')}")
        before = bench.backend.schema()
        source = bench.attach("notes", ("body",), stamp=("embed_gen", "has_embedding"))
        generation = bench.vector(source)
        bench.drain(source, generation)
        assert bench.app.run("SELECT id FROM notes WHERE has_embedding AND embed_gen = ?", generation.id) == [(1,)]
        bench.store.source_drop(source.id, stamps=True)
        assert bench.backend.schema() == before
        assert bench.app.run("SELECT embed_gen FROM notes") == [(generation.id,)]

    def test_a_detach_keeps_the_columns(self, bench: Workbench) -> None:
        """And leaves nothing that would fire for them."""
        source = stamped(bench, "a")
        bench.drain(source, bench.vector(source))
        bench.store.source_drop(source.id)
        assert held(bench) == {(1,)}
        bench.app.run("UPDATE notes SET body = 'new'")
        assert held(bench) == {(1,)}

    def test_attaching_again_uses_the_columns_that_were_kept(self, bench: Workbench) -> None:
        """What stands in them from before is emptied by the first upkeep."""
        source = stamped(bench, "a", "b")
        bench.drain(source, bench.vector(source))
        bench.store.source_drop(source.id)
        again = bench.attach("notes", ("body",), stamp=ALL)
        generation = bench.vector(again)
        assert bench.maintain(generation) > 0
        assert held(bench) == set()
        bench.drain(again, generation)
        assert held(bench) == {(1,), (2,)}

    def test_columns_that_were_made_are_known_as_ours_ever_after(self, bench: Workbench) -> None:
        """However often the table was detached since; not one that has been made anew by somebody else."""
        bench.notes_table("a", "b")
        before = bench.backend.schema()
        made: tuple[StampName, ...] = ("embed_gen", "has_embedding")
        source = bench.attach("notes", ("body",), stamp=made)
        assert set(bench.store.stamps_made(source)) == set(made)
        for _ in range(2):
            bench.store.source_drop(source.id)
            source = bench.attach("notes", ("body",), stamp=made)
        assert set(bench.store.stamps_made(source)) == set(made)
        bench.store.source_drop(source.id, stamps=True)
        assert bench.backend.schema() == before
        others: tuple[tuple[StampName, ...], ...] = ((), ("embed_gen",), ("embedded_at",))
        for stamp in others:
            source = bench.attach("notes", ("body",), stamp=made)
            bench.store.source_drop(source.id)
            source = bench.attach("notes", ("body",), stamp=stamp)
            assert set(bench.store.stamps_made(source)) == {*made, *stamp}, (
                "those that this attach has no use for are ours, too"
            )
            bench.store.source_drop(source.id, stamps=True)
            assert bench.backend.schema() == before
        source = bench.attach("notes", ("body",), stamp=made)
        bench.store.source_drop(source.id)
        assert bench.app.run("SELECT count(embed_gen) FROM notes") == [(0,)]  # SQLite: sees what others have made of the schema
        bench.app.run("ALTER TABLE notes DROP COLUMN embed_gen")
        bench.app.run(f"ALTER TABLE notes ADD COLUMN embed_gen {bench.backend.type('integer')}")
        source = bench.attach("notes", ("body",), stamp=made)
        assert list(bench.store.stamps_made(source)) == ["has_embedding"]
        bench.store.source_drop(source.id, stamps=True)
        assert bench.app.run("SELECT embed_gen FROM notes WHERE id = 1") == [(None,)]

    @pytest.mark.parametrize("declared", ["text NOT NULL DEFAULT ''", "integer GENERATED ALWAYS AS (7) STORED"])
    def test_a_column_that_cannot_be_emptied_is_refused(self, bench: Workbench, declared: str) -> None:
        """Before anything is made."""
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        name: StampName = "embedded_model_id" if declared.startswith("text") else "embed_gen"
        bench.app.run(f"CREATE TABLE notes (id {integer} PRIMARY KEY, body {text}, {name} {declared})")
        before = bench.backend.schema()
        spec = SourceSpec("notes", (TextColumn("body"),), stamp=(name, "has_embedding"))
        with pytest.raises(TableUnusableError, match=name):
            bench.store.source_create("notes", spec, bench.store.table_inspect("notes"))
        assert (list(bench.store.sources()), bench.backend.schema()) == ([], before)

    @pytest.mark.parametrize(
        ("used", "by"),
        [
            ("CREATE INDEX those ON notes (body) WHERE has_embedding", "those"),
            ("CREATE VIEW those AS SELECT id, has_embedding FROM notes", "those"),
        ],
    )
    def test_a_column_that_is_used_is_not_dropped(self, bench: Workbench, used: str, by: str) -> None:
        """Nor what uses it: that is for its owner to do."""
        bench.notes_table("a")
        source = bench.attach("notes", ("body",), stamp=("has_embedding", "embed_gen"))
        bench.app.run(used)
        before = bench.backend.schema()
        with pytest.raises(TableUnusableError, match=f"'has_embedding' of table 'notes' cannot be dropped: .*{by}"):
            bench.store.source_drop(source.id, stamps=True)
        assert ([source.id], before) == ([one.id for one in bench.store.sources()], bench.backend.schema())
        bench.app.run(used.partition(" ON ")[0].partition(" AS ")[0].replace("CREATE", "DROP"))
        bench.store.source_drop(source.id, stamps=True)
        assert bench.app.run("SELECT * FROM notes") == [(1, "a", 1)]

    @pytest.mark.parametrize("seed", range(3))
    def test_no_stamp_is_untrue_in_a_random_history(self, bench: Workbench, seed: int) -> None:
        """And in the end none is missing."""
        chance = random.Random(seed)
        source = stamped(bench, *(f"t{number}" for number in range(12)))
        generation = bench.vector(source)
        leases: list[Lease] = []
        for step in range(60):
            key = chance.randrange(1, 18)
            match chance.choice(["write", "write", "undone", "delete", "claim", "settle", "settle", "expire", "maintain"]):
                case "write":
                    body = chance.choice(["", None, f"s{step}", f"s{step}|two"])
                    statement = "INSERT INTO notes (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
                    bench.app.run(statement, key, body)
                case "undone":
                    undone(bench, "UPDATE notes SET body = 'never' WHERE id = ?", key)
                case "delete":
                    bench.app.run("DELETE FROM notes WHERE id = ?", key)
                case "claim":
                    lease = bench.claim(generation, limit=chance.randint(1, 4)).lease
                    leases += [bench.store.lease_read(source, lease, 1000).lease] if lease else []
                case "expire" if leases:
                    bench.store.lease_renew([chance.choice(leases)], -1)
                case "settle" if leases:
                    lease = leases.pop(chance.randrange(len(leases)))
                    bench.settle(source, generation, lease, bench.read(source, lease))
                case _:
                    bench.store.generation_maintain(generation.id, idle=True)
            assert held(bench) <= true(bench, source, generation)
        for lease in leases:
            bench.store.lease_renew([lease], -1)
        bench.drain(source, generation)
        bench.maintain(generation)
        assert held(bench) == true(bench, source, generation)
