"""What `table_inspect` sees, the store's checks, and the collections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from seamark.errors import TableUnusableError
from seamark.testing.backend import quoted

if TYPE_CHECKING:
    from seamark.model import ColumnKind
    from seamark.testing.workbench import Workbench

KINDS: tuple[ColumnKind, ...] = ("integer", "text", "blob", "json", "number", "boolean", "time")


class Tables:
    """The database itself, and the user's tables as they stand."""

    def test_inspect_tells_columns_and_key(self, bench: Workbench) -> None:
        """Columns come in their order, with their kinds, and the key by name."""
        columns = ", ".join(f"c_{kind} {bench.backend.type(kind)}" for kind in KINDS)
        bench.app.run(f"CREATE TABLE wide (id {bench.backend.type('integer')} PRIMARY KEY, {columns})")
        table = bench.store.table_inspect("wide")
        assert table.name == "wide"
        assert [(column.name, column.kind) for column in table.columns] == [
            ("id", "integer"),
            *((f"c_{kind}", kind) for kind in KINDS),
        ]
        assert table.key == ("id",)

    def test_inspect_gives_a_composite_key_in_the_order_of_the_key(self, bench: Workbench) -> None:
        """The order of the key, not that of the columns."""
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        bench.app.run(f"CREATE TABLE pairs (a {integer}, b {text}, body {text}, PRIMARY KEY (b, a))")
        assert bench.store.table_inspect("pairs").key == ("b", "a")

    def test_inspect_gives_no_key_where_there_is_none(self, bench: Workbench) -> None:
        """A table without a primary key has an empty key, even if a column is unique."""
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        bench.app.run(f"CREATE TABLE keyless (id {integer} UNIQUE, body {text})")
        assert bench.store.table_inspect("keyless").key == ()

    def test_inspect_names_tables_that_look_alike(self, bench: Workbench) -> None:
        """A table that is not there is an error that helps."""
        bench.notes_table()
        with pytest.raises(TableUnusableError, match="notes"):
            bench.store.table_inspect("nots")

    def test_inspect_sees_a_table_made_since_and_not_one_dropped_since(self, bench: Workbench) -> None:
        """Nothing about a table is remembered."""
        with pytest.raises(TableUnusableError):
            bench.store.table_inspect("notes")
        bench.notes_table()
        assert bench.store.table_inspect("notes").name == "notes"
        bench.app.run("DROP TABLE notes")
        with pytest.raises(TableUnusableError):
            bench.store.table_inspect("notes")

    def test_checks_are_well_on_a_healthy_database(self, bench: Workbench) -> None:
        """What is required is there, and each check says what it looked at."""
        checks = bench.store.checks()
        assert checks
        assert [check for check in checks if check.required and not check.ok] == []
        assert all(check.name and check.detail for check in checks)

    def test_clock_moves_forward_in_microseconds_utc(self, bench: Workbench) -> None:
        """Between two looks at it there are no hours, and it is the present."""
        first, second = bench.store.clock(), bench.store.clock()
        assert 0 <= second - first < 60_000_000
        assert 2_020 < 1970 + first / 1e6 / 86400 / 365.25 < 2_100

    def test_close_closes_every_connection(self, bench: Workbench) -> None:
        """Connections that other threads have used included."""
        before = bench.backend.connections()
        store = bench.backend.store()
        source = bench.notes("a")
        store.table_inspect("notes")
        with store.snapshot() as reader:
            assert [row.key for row in reader.rows_live(source, [(1,)])] == [(1,)]
        assert bench.backend.connections() > before
        store.close()
        assert bench.store.sources() == [source]
        bench.store.close()
        assert bench.backend.connections() == 0


class Collections:
    """Tables that Seamark owns, for people who have none."""

    def test_a_collection_is_an_ordinary_table(self, bench: Workbench) -> None:
        """It can be inspected, and attached like any other."""
        bench.store.collection_create("papers")
        table = bench.store.table_inspect("papers")
        assert [column.name for column in table.columns] == ["path", "title", "body", "added_at"]
        assert table.key == ("path",)

    def test_creating_it_again_keeps_what_it_holds(self, bench: Workbench) -> None:
        """It is made if it is not there."""
        bench.store.collection_create("papers")
        assert bench.store.collection_put("papers", [("a.md", "A", "alpha")]) == 1
        bench.store.collection_create("papers")
        assert bench.app.run(f"SELECT path, title, body FROM {quoted('papers')}") == [("a.md", "A", "alpha")]

    def test_put_counts_the_rows_that_changed(self, bench: Workbench) -> None:
        """New and edited documents count, the same words again do not."""
        bench.store.collection_create("papers")
        assert bench.store.collection_put("papers", [("a", "A", "1"), ("b", "B", "2")]) == 2
        assert bench.store.collection_put("papers", [("a", "A", "1"), ("b", "B", "3"), ("c", "C", "4")]) == 2
        rows = bench.app.run("SELECT path, title, body FROM papers ORDER BY path")
        assert rows == [("a", "A", "1"), ("b", "B", "3"), ("c", "C", "4")]

    def test_put_feeds_the_journal_once_attached(self, bench: Workbench) -> None:
        """Only the rows that changed get a new seq."""
        bench.store.collection_create("papers")
        bench.store.collection_put("papers", [("a", "A", "1"), ("b", "B", "2")])
        source = bench.attach("papers", ("title", "body"))
        before = bench.backend.journal(source)
        bench.store.collection_put("papers", [("a", "A", "1"), ("b", "B", "3")])
        after = bench.backend.journal(source)
        assert sum(before[key] != after[key] for key in before) == 1
