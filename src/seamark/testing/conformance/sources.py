"""Attaching: the enrolment of existing rows, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from seamark.errors import SourceConflictError
from seamark.model import Condition, Enrolment, Source, SourceSpec, TextColumn, Touch
from seamark.testing.workbench import STEPS, at_once

if TYPE_CHECKING:
    from seamark.testing.workbench import Workbench

SPEC = SourceSpec("notes", (TextColumn("body"),))


def begin(bench: Workbench) -> Source:
    """Create the source without enrolling a row."""
    return bench.store.source_create("notes", SPEC, bench.store.table_inspect("notes"))


def finish(bench: Workbench, source: Source, limit: int) -> int:
    """Enrol the rest; return how many rows that were."""
    rows = 0
    for _ in range(STEPS):
        enrolment = bench.store.source_enroll(bench.source(source.id), limit)
        assert enrolment.rows <= limit
        rows += enrolment.rows
        if enrolment.done:
            return rows
    raise AssertionError("the enrolment does not end")


class Enrolments:
    """`source_create` and `source_enroll`."""

    def test_create_makes_a_source_that_enrols(self, bench: Workbench) -> None:
        """Nothing has entered the journal yet, and everything about it can be read back."""
        bench.notes_table("a", "b")
        source = begin(bench)
        assert (source.name, source.spec, source.state, source.enrolled) == ("notes", SPEC, "enrolling", None)
        assert source.table == bench.store.table_inspect("notes")
        assert list(bench.store.sources()) == [source]
        assert bench.backend.journal(source) == {}

    def test_create_again_is_the_same_source(self, bench: Workbench) -> None:
        """An interrupted call is completed, a finished one repeated without effect."""
        bench.notes_table("a", "b")
        source = begin(bench)
        bench.store.source_enroll(source, 1)
        journal = bench.backend.journal(source)
        again = begin(bench)
        assert again.id == source.id
        assert bench.backend.journal(source) == journal
        bench.app.run("UPDATE notes SET body = 'c' WHERE id = 1")
        assert len(bench.backend.journal(source)) == 1
        assert bench.backend.journal(source)[1,][0] > max(seq for seq, _ in journal.values())

    def test_create_refuses_other_words(self, bench: Workbench) -> None:
        """Another name for the table, another spec, another table for the name; what there is goes on."""
        bench.notes_table("a")
        bench.app.run(f"CREATE TABLE other (id {bench.backend.type('integer')} PRIMARY KEY, body {bench.backend.type('text')})")
        source = begin(bench)
        table, other = bench.store.table_inspect("notes"), bench.store.table_inspect("other")
        where = SourceSpec("notes", SPEC.text, Condition("org", "=", 1))
        for name, spec, asked in (("papers", SPEC, table), ("notes", where, table), ("notes", SPEC, other)):
            with pytest.raises(SourceConflictError):
                bench.store.source_create(name, spec, asked)
        assert list(bench.store.sources()) == [source]
        assert finish(bench, source, 10) == 1

    def test_create_at_once_with_different_words(self, bench: Workbench) -> None:
        """One wins, and the others are told."""
        bench.notes_table("a", "b")
        table = bench.store.table_inspect("notes")
        stores = [bench.backend.store() for _ in range(6)]
        specs = [SourceSpec("notes", SPEC.text, Condition("org", "<=", at % 3)) for at in range(6)]
        made = at_once([lambda at=at: stores[at].source_create("notes", specs[at], table) for at in range(6)])
        [source] = bench.store.sources()
        assert source.spec in specs
        for spec, found in zip(specs, made, strict=True):
            assert isinstance(found, Source if spec == source.spec else SourceConflictError)
        finish(bench, source, 10)

    def test_create_and_enrol_leave_the_rows_alone(self, bench: Workbench) -> None:
        """The user's table is not altered."""
        bench.notes_table("a", None, "c")
        before = bench.app.run("SELECT * FROM notes ORDER BY id")
        bench.attach("notes", ("body",))
        assert bench.app.run("SELECT * FROM notes ORDER BY id") == before

    def test_rows_enter_in_key_order_in_batches(self, bench: Workbench) -> None:
        """Each call enters its share and remembers how far it got."""
        bench.notes_table(*"abcdefg")
        source = begin(bench)
        assert bench.store.source_enroll(source, 3) == Enrolment(3, done=False)
        assert sorted(bench.backend.journal(source)) == [(1,), (2,), (3,)]
        assert bench.source(source.id).enrolled == (3,)
        assert finish(bench, source, 3) == 4
        journal = bench.backend.journal(source)
        assert sorted(journal, key=lambda key: journal[key]) == [(number,) for number in range(1, 8)]
        assert {deleted for _, deleted in journal.values()} == {False}
        assert bench.source(source.id).state == "ready"

    def test_another_process_goes_on_where_one_stopped(self, bench: Workbench) -> None:
        """How far it got is in the database."""
        bench.notes_table(*"abcdefg")
        source = begin(bench)
        bench.store.source_enroll(source, 5)
        other = bench.backend.store()
        [resumed] = other.sources()
        assert resumed.enrolled == (5,)
        assert other.source_enroll(resumed, 100) == Enrolment(2, done=True)
        assert len(bench.backend.journal(source)) == 7

    def test_a_ready_source_has_nothing_to_enrol(self, bench: Workbench) -> None:
        """One call too many does no harm."""
        source = bench.notes("a", "b")
        journal = bench.backend.journal(source)
        assert bench.store.source_enroll(source, 10) == Enrolment(0, done=True)
        assert bench.backend.journal(source) == journal

    def test_an_empty_table_is_enrolled_at_once(self, bench: Workbench) -> None:
        """It is ready, and follows what comes."""
        source = bench.notes()
        assert source.state == "ready"
        bench.app.run("INSERT INTO notes (id, body) VALUES (1, 'a')")
        assert list(bench.backend.journal(source)) == [(1,)]

    def test_rows_written_meanwhile_are_not_missed(self, bench: Workbench) -> None:
        """Before and behind the place where the enrolment stands: inserts, edits, deletes, key changes."""
        bench.notes_table(*(f"text {number}" for number in range(1, 21)))
        source = begin(bench)
        bench.store.source_enroll(source, 10)
        enrolled = bench.backend.journal(source)
        for statement in (
            "INSERT INTO notes (id, body) VALUES (-1, 'below'), (100, 'above')",
            "UPDATE notes SET body = 'edited below' WHERE id = 2",
            "UPDATE notes SET body = 'edited above' WHERE id = 12",
            "DELETE FROM notes WHERE id IN (3, 13)",
            "UPDATE notes SET id = 200 WHERE id = 4",
            "UPDATE notes SET id = 0 WHERE id = 14",
        ):
            bench.app.run(statement)
        written = bench.backend.journal(source)
        assert min(written[2,][0], written[12,][0]) > max(seq for seq, _ in enrolled.values())
        finish(bench, source, 4)
        journal = bench.backend.journal(source)
        keys = set(bench.all_keys(source))
        assert {key for key, (_, deleted) in journal.items() if not deleted} == keys
        assert {journal[key] for key in [(2,), (12,), (100,), (200,), (0,)]} == {
            written[key] for key in [(2,), (12,), (100,), (200,), (0,)]
        }, "rows that the triggers have entered keep their seq"

    def test_only_rows_within_the_where_are_live(self, bench: Workbench) -> None:
        """A row outside is not enrolled as live."""
        bench.notes_table(*"abcdef")
        source = bench.attach("notes", ("body",), Condition("org", "=", 1))
        live = {key for key, (_, deleted) in bench.backend.journal(source).items() if not deleted}
        assert live == {(1,), (4,)}

    def test_text_and_composite_keys_are_enrolled_completely(self, bench: Workbench) -> None:
        """Whatever the collation, no key is passed over or entered twice."""
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        bench.app.run(
            f"CREATE TABLE pages (lang {text}, slug {text}, part {integer}, body {text}, PRIMARY KEY (lang, slug, part))"
        )
        names = [
            "",
            " ",
            "A",
            "a",
            "Ä",
            "ä",
            "z",
            "Z",
            "é",
            "e\u0301",
            "_",
            "-",
            "a-b",
            "ab",
            "a b",
            "日本",
            "🙂",
            "%",
            "'",
            '"',
        ]
        keys = {(lang, slug, part) for lang in ("de", "DE", "") for slug in names for part in (-1, 0, 2**40)}
        bench.app.many("INSERT INTO pages VALUES (?, ?, ?, 'text')", sorted(keys))
        source = bench.attach("pages", ("body",), batch=7)
        assert bench.backend.journal(source).keys() == keys

    def test_sources_are_listed_by_id(self, bench: Workbench) -> None:
        """Two tables are two sources, with journals of their own."""
        first = bench.notes("a", "b")
        bench.app.run(f"CREATE TABLE other (id {bench.backend.type('integer')} PRIMARY KEY, body {bench.backend.type('text')})")
        bench.app.run("INSERT INTO other VALUES (7, 'x')")
        second = bench.attach("other", ("body",))
        assert list(bench.store.sources()) == [first, second]
        assert first.id < second.id
        assert list(bench.backend.journal(first)) == [(1,), (2,)]
        assert list(bench.backend.journal(second)) == [(7,)]


class Drops:
    """`source_drop`."""

    def test_the_users_schema_is_as_it_was(self, bench: Workbench) -> None:
        """Text, where, touching tables and generations have left nothing behind."""
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        bench.notes_table("a", "b")
        bench.app.run(f"CREATE TABLE bodies (id {integer} PRIMARY KEY, note {integer}, words {text})")
        before = bench.backend.schema()
        assert "notes" in before
        source = bench.attach(
            "notes",
            ("body", TextColumn("words", "bodies")),
            Condition("org", ">", 0),
            (Touch("bodies", ("note",)),),
        )
        assert "CREATE" in bench.backend.schema()
        bench.drain(source, bench.vector(source), bench.lexical(source))
        bench.store.source_drop(source.id)
        assert bench.backend.schema() == before
        assert list(bench.store.sources()) == []
        assert list(bench.store.generations()) == []

    def test_the_table_works_on_and_can_be_attached_again(self, bench: Workbench) -> None:
        """Writes after the drop need nothing of ours; a new source begins from nothing."""
        source = bench.notes("a", "b")
        bench.drain(source, bench.vector(source))
        bench.store.source_drop(source.id)
        bench.app.run("INSERT INTO notes (id, body) VALUES (3, 'c')")
        bench.app.run("UPDATE notes SET body = 'A' WHERE id = 1")
        bench.app.run("DELETE FROM notes WHERE id = 2")
        again = bench.attach("notes", ("body",))
        generation = bench.vector(again)
        assert bench.store.coverage(again, [generation.id])[generation.id].missing == 2
        bench.drain(again, generation)
        bench.verify(again, generation, {(1,): "A", (3,): "c"})

    def test_dropping_in_the_middle_of_the_enrolment(self, bench: Workbench) -> None:
        """An attach that was never finished can be taken back too."""
        bench.notes_table("a", "b")
        before = bench.backend.schema()
        source = begin(bench)
        bench.store.source_enroll(source, 1)
        bench.store.source_drop(source.id)
        assert bench.backend.schema() == before

    def test_dropping_at_once(self, bench: Workbench) -> None:
        """Whoever comes late finds that it is done."""
        bench.notes_table("a", "b")
        before = bench.backend.schema()
        source = bench.attach("notes", ("body",))
        bench.vector(source)
        stores = [bench.backend.store() for _ in range(6)]
        assert at_once([lambda at=at: stores[at].source_drop(source.id) for at in range(6)]) == [None] * 6
        bench.store.source_drop(source.id)
        assert bench.backend.schema() == before
        assert list(bench.store.generations()) == []

    def test_another_source_is_left_alone(self, bench: Workbench) -> None:
        """Only what belongs to the source goes."""
        first = bench.notes("a")
        bench.app.run(f"CREATE TABLE other (id {bench.backend.type('integer')} PRIMARY KEY, body {bench.backend.type('text')})")
        second = bench.attach("other", ("body",))
        kept = bench.vector(first)
        bench.vector(second)
        bench.store.source_drop(second.id)
        assert list(bench.store.sources()) == [first]
        assert [generation.id for generation in bench.store.generations()] == [kept.id]
        bench.drain(first, kept)
        bench.verify(first, kept, {(1,): "a"})
