"""The write path: which changes give a row a new `seq`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from seamark.model import Condition, Either, Every, TextColumn, Touch

if TYPE_CHECKING:
    from seamark.model import Filter, Key, Source
    from seamark.testing.workbench import Workbench


class Change:
    """The journal before and after some statements."""

    def __init__(self, bench: Workbench, source: Source, *statements: str) -> None:
        self.before = dict(bench.backend.journal(source))
        for statement in statements:
            bench.app.run(statement)
        self.after = dict(bench.backend.journal(source))
        self.end = max((seq for seq, _ in self.before.values()), default=0)
        self.moved = {key: entry[1] for key, entry in self.after.items() if self.before.get(key) != entry}
        """key → deleted, for what has a new entry"""
        seqs = [seq for seq, _ in self.after.values()]
        assert len(seqs) == len(set(seqs)), "a seq was given twice"
        assert all(self.after[key][0] > self.end for key in self.moved), "a seq did not grow"
        assert self.before.keys() <= self.after.keys(), "an entry has gone"


class Triggers:
    """Changes of the text and the key, by hand of the application."""

    def test_insert(self, bench: Workbench) -> None:
        """New rows come after all others."""
        source = bench.notes("a", "b")
        assert Change(bench, source, "INSERT INTO notes (id, body) VALUES (3, 'c'), (4, NULL)").moved == {
            (3,): False,
            (4,): False,
        }

    def test_update_of_the_text(self, bench: Workbench) -> None:
        """The row, and no other, moves to the end."""
        source = bench.notes("a", "b")
        assert Change(bench, source, "UPDATE notes SET body = 'A' WHERE id = 1").moved == {(1,): False}

    @pytest.mark.parametrize(
        ("old", "new"), [("'a'", "NULL"), ("NULL", "'a'"), ("''", "NULL"), ("'a'", "'a '"), ("'a'", "'A'")]
    )
    def test_every_difference_counts(self, bench: Workbench, old: str, new: str) -> None:
        """Null, empty, blank and case are all differences."""
        source = bench.notes("x")
        bench.app.run(f"UPDATE notes SET body = {old}")
        assert Change(bench, source, f"UPDATE notes SET body = {new}").moved == {(1,): False}

    def test_update_that_changes_nothing(self, bench: Workbench) -> None:
        """The same text again, null again, and another column, are no changes."""
        source = bench.notes("a", None)
        assert (
            Change(
                bench,
                source,
                "UPDATE notes SET body = body",
                "UPDATE notes SET body = 'a' WHERE id = 1",
                "UPDATE notes SET org = 17, body = body",
                "UPDATE notes SET id = id",
            ).moved
            == {}
        )

    def test_update_of_many_rows(self, bench: Workbench) -> None:
        """One statement, one entry each."""
        source = bench.notes(*"abcdef")
        change = Change(bench, source, "UPDATE notes SET body = body || 'x' WHERE id > 2")
        assert change.moved == {(number,): False for number in (3, 4, 5, 6)}

    def test_delete(self, bench: Workbench) -> None:
        """A deleted row leaves a tombstone."""
        source = bench.notes("a", "b")
        assert Change(bench, source, "DELETE FROM notes WHERE id = 1").moved == {(1,): True}
        assert Change(bench, source, "DELETE FROM notes").moved == {(2,): True}

    def test_insert_after_delete(self, bench: Workbench) -> None:
        """The tombstone becomes a live entry."""
        source = bench.notes("a")
        bench.app.run("DELETE FROM notes")
        assert Change(bench, source, "INSERT INTO notes (id, body) VALUES (1, 'a')").moved == {(1,): False}

    def test_change_of_the_key(self, bench: Workbench) -> None:
        """A tombstone for the old key, a live entry for the new one."""
        source = bench.notes("a", "b")
        assert Change(bench, source, "UPDATE notes SET id = 9 WHERE id = 1").moved == {(1,): True, (9,): False}

    def test_change_of_all_keys_at_once(self, bench: Workbench) -> None:
        """Keys that take each other's place end live."""
        source = bench.notes(*"abc")
        Change(bench, source, "UPDATE notes SET id = id + 100", "UPDATE notes SET id = id - 101")
        journal = bench.backend.journal(source)
        assert {key for key, (_, deleted) in journal.items() if not deleted} == {(0,), (1,), (2,)}

    def test_edit_and_edit_back(self, bench: Workbench) -> None:
        """A→B→A is two changes: who has read the first A has read an old row."""
        source = bench.notes("A")
        first = Change(bench, source, "UPDATE notes SET body = 'B'")
        second = Change(bench, source, "UPDATE notes SET body = 'A'")
        assert first.after[1,] < second.after[1,]
        assert second.moved == {(1,): False}

    def test_rollback(self, bench: Workbench) -> None:
        """What was not committed has not happened."""
        source = bench.notes("a", "b")
        before = dict(bench.backend.journal(source))
        with suppress(RuntimeError), bench.app.transaction():
            bench.app.run("UPDATE notes SET body = 'B' WHERE id = 1")
            bench.app.run("DELETE FROM notes WHERE id = 2")
            bench.app.run("INSERT INTO notes (id, body) VALUES (3, 'c')")
            raise RuntimeError
        assert bench.backend.journal(source) == before

    def test_many_changes_in_one_transaction(self, bench: Workbench) -> None:
        """The last word counts."""
        source = bench.notes("a")
        with bench.app.transaction():
            for statement in (
                "INSERT INTO notes (id, body) VALUES (2, 'b')",
                "UPDATE notes SET body = 'bb' WHERE id = 2",
                "DELETE FROM notes WHERE id = 2",
                "INSERT INTO notes (id, body) VALUES (2, 'again')",
                "UPDATE notes SET body = 'A' WHERE id = 1",
                "DELETE FROM notes WHERE id = 1",
            ):
                bench.app.run(statement)
        journal = bench.backend.journal(source)
        assert {key: deleted for key, (_, deleted) in journal.items()} == {(1,): True, (2,): False}

    def test_upsert(self, bench: Workbench) -> None:
        """`ON CONFLICT DO UPDATE` is an insert here and an update there; `DO NOTHING` is nothing."""
        source = bench.notes("a", "b")
        statement = "INSERT INTO notes (id, body) VALUES (2, 'B'), (3, 'c') ON CONFLICT (id) DO"
        assert Change(bench, source, f"{statement} UPDATE SET body = excluded.body").moved == {(2,): False, (3,): False}
        assert Change(bench, source, f"{statement} NOTHING").moved == {}

    def test_several_text_columns(self, bench: Workbench) -> None:
        """Each of them counts."""
        bench.notes_table("a")
        bench.app.run(f"ALTER TABLE notes ADD COLUMN title {bench.backend.type('text')}")
        source = bench.attach("notes", ("title", "body"))
        assert Change(bench, source, "UPDATE notes SET title = 't'").moved == {(1,): False}
        assert Change(bench, source, "UPDATE notes SET body = 'b'").moved == {(1,): False}
        assert Change(bench, source, "UPDATE notes SET org = 5").moved == {}

    def test_composite_key(self, bench: Workbench) -> None:
        """A change of any of its columns is a change of the key."""
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        bench.app.run(f"CREATE TABLE pairs (a {integer}, b {text}, body {text}, PRIMARY KEY (b, a))")
        source = bench.attach("pairs", ("body",))
        assert Change(bench, source, "INSERT INTO pairs VALUES (1, 'x', 't'), (2, 'x', 't'), (1, 'y', 't')").moved == {
            ("x", 1): False,
            ("x", 2): False,
            ("y", 1): False,
        }
        assert Change(bench, source, "UPDATE pairs SET b = 'z' WHERE a = 2").moved == {("x", 2): True, ("z", 2): False}
        assert Change(bench, source, "UPDATE pairs SET body = 'T' WHERE a = 1").moved == {("x", 1): False, ("y", 1): False}
        assert Change(bench, source, "DELETE FROM pairs WHERE b = 'y'").moved == {("y", 1): True}


WHERES: dict[str, tuple[Filter, tuple[str, ...], tuple[str, ...]]] = {
    "null": (Condition("word", "=", None), ("NULL",), ("''", "'x'")),
    "not null": (Condition("word", "!=", None), ("''", "'x'"), ("NULL",)),
    "text": (Condition("word", "=", 'it\'s "so" \\ %s ? {x} :a $1'), ("'it''s \"so\" \\ %s ? {x} :a $1'",), ("'its'", "NULL")),
    "not text": (Condition("word", "!=", "o'b"), ("'x'", "NULL"), ("'o''b'",)),
    "list": (Condition("word", "in", ("a'b", "c")), ("'a''b'", "'c'"), ("'d'", "NULL")),
    "empty list": (Condition("word", "in", ()), (), ("'d'", "NULL")),
    "range": (Every((Condition("word", ">=", "b"), Condition("word", "<", "d"))), ("'b'", "'c'"), ("'a'", "'d'", "NULL")),
    "either": (Either((Condition("word", "=", "a"), Condition("word", "=", None))), ("'a'", "NULL"), ("'b'",)),
    "none of": (Either(()), (), ("'a'", "NULL")),
    "all of": (Every(()), ("'a'", "NULL"), ()),
}


class Wheres:
    """Which rows are live."""

    @pytest.mark.parametrize("name", WHERES)
    def test_rows_go_in_and_out(self, bench: Workbench, name: str) -> None:
        """By insert, by update, before the attach and after it."""
        where, inside, outside = WHERES[name]
        values = [*inside, *outside]
        live: set[Key] = {(number,) for number in range(1, len(inside) + 1)}
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        bench.app.run(f"CREATE TABLE things (id {integer} PRIMARY KEY, body {text}, word {text})")
        for number, value in enumerate(values, 1):
            bench.app.run(f"INSERT INTO things VALUES ({number}, 'text', {value})")
        source = bench.attach("things", ("body",), where)

        def alive() -> set[Key]:
            return {key for key, (_, deleted) in bench.backend.journal(source).items() if not deleted}

        assert alive() == live
        for number, value in enumerate(values, 1):
            bench.app.run(f"INSERT INTO things VALUES ({number + 100}, 'text', {value})")
        assert alive() == live | {(key + 100,) for (key,) in live if isinstance(key, int)}
        bench.app.run("DELETE FROM things WHERE id > 100")
        for number in range(1, len(values) + 1):
            for place, value in enumerate(values, 1):
                bench.app.run(f"UPDATE things SET word = {value} WHERE id = {number}")
                assert ((number,) in alive()) == ((place,) in live), (number, value)

    def test_leaving_is_a_tombstone_and_coming_back_is_a_change(self, bench: Workbench) -> None:
        """A row outside is, to a generation, deleted."""
        bench.notes_table("a", "b")
        source = bench.attach("notes", ("body",), Condition("org", "!=", 99))
        assert Change(bench, source, "UPDATE notes SET org = 99 WHERE id = 1").moved == {(1,): True}
        assert Change(bench, source, "UPDATE notes SET org = 1 WHERE id = 1").moved == {(1,): False}

    def test_an_edit_outside_does_not_make_it_live(self, bench: Workbench) -> None:
        """Text, key and other columns may change out there."""
        bench.notes_table("a")
        source = bench.attach("notes", ("body",), Condition("org", "=", 5))
        for statement in (
            "UPDATE notes SET body = 'b'",
            "UPDATE notes SET id = 4",
            "INSERT INTO notes (id, body, org) VALUES (8, 'x', 6)",
            "DELETE FROM notes WHERE id = 4",
        ):
            bench.app.run(statement)
            assert [key for key, (_, deleted) in bench.backend.journal(source).items() if not deleted] == []

    @pytest.mark.parametrize(
        ("column", "where", "inside", "outside"),
        [
            ("number", Condition("it", ">", 2.5), "2.75", "2.5"),
            ("number", Condition("it", "<", -1e-7), "-1e-6", "0"),
            ("integer", Condition("it", "=", 2**53 + 1), "9007199254740993", "9007199254740992"),
            ("boolean", Condition("it", "=", value=True), "TRUE", "FALSE"),
            ("boolean", Condition("it", "!=", value=True), "NULL", "TRUE"),
            ("json", Condition("it", "=", "x", ("a",)), '\'{"a": "x"}\'', '\'{"a": "y"}\''),
            ("json", Condition("it", ">", 3, ("a", "b")), '\'{"a": {"b": 10}}\'', '\'{"a": {"b": 2}}\''),
            ("json", Condition("it", "=", None, ("a",)), "'{}'", "'{\"a\": 1}'"),
            ("json", Condition("it", "=", "x", ("o'b.c d",)), "'{\"o''b.c d\": \"x\"}'", '\'{"o": "x"}\''),
        ],
    )
    def test_literals_of_every_kind(self, bench: Workbench, column: str, where: Condition, inside: str, outside: str) -> None:
        """Values are written into the triggers, and keep their meaning there."""
        kind = bench.backend.type(column)  # pyright: ignore[reportArgumentType]
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        bench.app.run(f"CREATE TABLE things (id {integer} PRIMARY KEY, body {text}, it {kind})")
        bench.app.run(f"INSERT INTO things VALUES (1, 'old', {inside}), (2, 'old', {outside})")
        source = bench.attach("things", ("body",), where)
        bench.app.run(f"INSERT INTO things VALUES (3, 'new', {inside}), (4, 'new', {outside})")
        assert {key for key, (_, deleted) in bench.backend.journal(source).items() if not deleted} == {(1,), (3,)}
        bench.app.run(f"UPDATE things SET it = {outside} WHERE id = 1")
        bench.app.run(f"UPDATE things SET it = {inside} WHERE id = 2")
        assert {key for key, (_, deleted) in bench.backend.journal(source).items() if not deleted} == {(2,), (3,)}


class Touches:
    """Related tables whose change touches the row."""

    def messages(self, bench: Workbench, where: Filter | None = None) -> Source:
        """Attach messages whose text is in a table of bodies."""
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        bench.app.run(f"CREATE TABLE messages (id {integer} PRIMARY KEY, subject {text}, org {integer})")
        bench.app.run(f"CREATE TABLE bodies (message_id {integer} PRIMARY KEY, words {text}, size {integer})")
        bench.app.run("INSERT INTO messages VALUES (1, 'one', 1), (2, 'two', 1), (3, 'three', 2)")
        bench.app.run("INSERT INTO bodies VALUES (1, 'first', 5), (2, 'second', 6)")
        text_columns = (TextColumn("subject"), TextColumn("words", "bodies"))
        return bench.attach("messages", text_columns, where, (Touch("bodies", ("message_id",)),))

    def test_text_is_read_from_the_related_table(self, bench: Workbench) -> None:
        """One entry a column, in the order of the spec; null where there is no related row."""
        source = self.messages(bench)
        generation = bench.vector(source)
        rows = bench.read(source, bench.lease(generation))
        assert {row.key: row.texts for row in rows} == {
            (1,): ("one", "first"),
            (2,): ("two", "second"),
            (3,): ("three", None),
        }

    def test_every_change_over_there_touches_the_row(self, bench: Workbench) -> None:
        """Insert, edit, delete."""
        source = self.messages(bench)
        assert Change(bench, source, "UPDATE bodies SET words = 'new' WHERE message_id = 1").moved == {(1,): False}
        assert Change(bench, source, "INSERT INTO bodies VALUES (3, 'third', 1)").moved == {(3,): False}
        assert Change(bench, source, "DELETE FROM bodies WHERE message_id = 2").moved == {(2,): False}
        assert Change(bench, source, "UPDATE bodies SET words = words").moved == {}

    def test_moving_a_related_row_touches_both(self, bench: Workbench) -> None:
        """The row that loses it and the row that gets it."""
        source = self.messages(bench)
        assert Change(bench, source, "UPDATE bodies SET message_id = 3 WHERE message_id = 1").moved == {
            (1,): False,
            (3,): False,
        }

    def test_a_row_that_is_not_there_is_not_made_live(self, bench: Workbench) -> None:
        """A related row may come before its row, and outlive it."""
        source = self.messages(bench)
        bench.app.run("INSERT INTO bodies VALUES (77, 'orphan', 1)")
        bench.app.run("DELETE FROM messages WHERE id = 1")
        bench.app.run("UPDATE bodies SET words = 'late' WHERE message_id = 1")
        bench.app.run("DELETE FROM bodies WHERE message_id = 1")
        live = {key for key, (_, deleted) in bench.backend.journal(source).items() if not deleted}
        assert live == {(2,), (3,)}
        bench.app.run("INSERT INTO messages VALUES (77, 'late', 1)")
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.verify(source, generation, {(2,): "two\nsecond", (3,): "three", (77,): "late\norphan"})

    def test_a_row_outside_the_where_stays_outside(self, bench: Workbench) -> None:
        """Touched or not."""
        source = self.messages(bench, Condition("org", "=", 1))
        bench.app.run("INSERT INTO bodies VALUES (3, 'third', 1)")
        bench.app.run("UPDATE bodies SET words = words || '!'")
        live = {key for key, (_, deleted) in bench.backend.journal(source).items() if not deleted}
        assert live == {(1,), (2,)}

    def test_an_edit_is_embedded_again(self, bench: Workbench) -> None:
        """From the trigger to the vector."""
        source = self.messages(bench)
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.app.run("UPDATE bodies SET words = 'edited' WHERE message_id = 2")
        bench.drain(source, generation)
        bench.verify(source, generation, {(1,): "one\nfirst", (2,): "two\nedited", (3,): "three"})
