"""Filters, as every reader applies them, against the same filter in Python."""

from __future__ import annotations

import json
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from seamark.model import Condition, Either, Every
from seamark.testing.oracle import oracle_vector
from seamark.testing.workbench import DIMENSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seamark.model import ColumnKind, Filter, Key, Source
    from seamark.testing.workbench import Workbench

COLUMNS: dict[str, ColumnKind] = {
    "id": "integer",
    "body": "text",
    "name": "text",
    "count": "integer",
    "price": "number",
    "done": "boolean",
    "meta": "json",
}
PARTS = 6
ROWS: tuple[tuple[Any, ...], ...] = (
    (1, "one", "alpha", 0, 0.5, True, {"tag": "x", "n": 1, "deep": {"er": "yes"}, "ok": True}),
    (2, "two", "Alpha", -5, -0.25, False, {"tag": "y", "n": 10, "deep": {"er": "no"}, "ok": False}),
    (3, "three", "", 7, 1e9, None, {"tag": None, "n": 2.5}),
    (4, "four", None, None, None, True, {}),
    (5, "five", 'o\'b %s "q" \\ é 日本', 2**53 + 1, 1 / 3, False, {"tag": "it's", "n": -3, "o'b c.d": "odd"}),
    (6, "six", "beta", 7, 2.0, True, None),
    (7, "seven", "100", 100, 100.0, None, {"tag": "100", "n": 100, "list": [1, 2], "0": "zero"}),
)


def member(row: tuple[Any, ...], condition: Condition) -> Any:
    """Return what the condition compares: a column, or a member of a JSON column, null where it leads nowhere."""
    value = row[list(COLUMNS).index(condition.column)]
    for name in condition.path:
        if isinstance(value, list) and name.isdigit():
            value = value[int(name)] if int(name) < len(value) else None  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        else:
            value = value.get(name) if isinstance(value, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return value  # pyright: ignore[reportUnknownVariableType]


def holds(row: tuple[Any, ...], where: Filter) -> bool:
    """Say whether a row satisfies a filter."""
    if isinstance(where, Every):
        return all(holds(row, one) for one in where.of)
    if isinstance(where, Either):
        return any(holds(row, one) for one in where.of)
    found: Any = member(row, where)
    wanted: Any = where.value
    if where.operator in {"=", "!="}:
        return (found == wanted) == (where.operator == "=")
    return found is not None and COMPARED[where.operator](found, wanted)


COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda found, wanted: found in wanted,
}

FILTERS: tuple[Filter, ...] = (
    *(Condition("name", op, "alpha") for op in ("=", "!=")),
    *(Condition("name", op, ROWS[4][2]) for op in ("=", "!=")),
    *(Condition("count", op, 7) for op in ("=", "!=", "<", "<=", ">", ">=")),
    *(Condition("count", op, 2**53 + 1) for op in ("=", "<", ">=")),
    *(Condition("price", op, 0.5) for op in ("=", "!=", "<", "<=", ">", ">=")),
    Condition("price", ">", 1),
    Condition("count", ">=", -0.5),
    *(Condition("done", op, value) for op in ("=", "!=") for value in (True, False)),
    *(Condition(column, op, None) for op in ("=", "!=") for column in ("name", "count", "price", "done", "meta")),
    Condition("name", "in", ("beta", "", "nobody", ROWS[4][2])),
    Condition("count", "in", (0, 7, 2**53 + 1)),
    Condition("price", "in", (2.0, 0.5)),
    Condition("name", "in", ()),
    Condition("meta", "=", "x", ("tag",)),
    Condition("meta", "!=", "x", ("tag",)),
    Condition("meta", "=", "100", ("tag",)),
    Condition("meta", "=", None, ("tag",)),
    Condition("meta", "!=", None, ("tag",)),
    Condition("meta", "in", ("y", "it's"), ("tag",)),
    *(Condition("meta", op, 2.5, ("n",)) for op in ("=", "!=", "<", "<=", ">", ">=")),
    Condition("meta", ">", 9, ("n",)),
    Condition("meta", "in", (1, 100), ("n",)),
    Condition("meta", "=", "yes", ("deep", "er")),
    Condition("meta", "=", None, ("deep", "er")),
    Condition("meta", "=", "odd", ("o'b c.d",)),
    Condition("meta", "=", value=True, path=("ok",)),
    Condition("meta", "!=", value=True, path=("ok",)),
    Condition("meta", "=", 2, ("list", "1")),
    Condition("meta", "=", None, ("list", "2")),
    Condition("meta", "=", "zero", ("0",)),
    Condition("id", "in", (2, 4, 6)),
    Either(tuple(Condition("id", "=", number) for number in range(2, 3000))),
    Every(()),
    Either(()),
    Every((Condition("done", "=", value=True), Condition("count", "=", 7))),
    Either((Condition("name", "=", None), Condition("count", ">", 50))),
    Every((Either((Condition("id", "<", 3), Condition("id", ">", 5))), Condition("count", "!=", -5), Every(()))),
    Either((Every((Condition("id", "=", 1), Condition("id", "=", 2))), Condition("id", "=", 3))),
)


class Filters:
    """Each reader that takes a filter, over one table of awkward values."""

    def table(self, bench: Workbench, name: str) -> None:
        """Make a table."""
        declared = ", ".join(f"{column} {bench.backend.type(kind)}" for column, kind in COLUMNS.items())
        bench.app.run(f"CREATE TABLE {name} ({declared}, PRIMARY KEY (id))")

    def insert(self, bench: Workbench, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows."""
        values = [(*row[:6], None if row[6] is None else json.dumps(row[6])) for row in rows]
        bench.app.many(f"INSERT INTO {name} VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def source(self, bench: Workbench) -> Source:
        """Make and attach the table."""
        self.table(bench, "things")
        self.insert(bench, "things", ROWS)
        return bench.attach("things", ("body",))

    def test_every_reader_filters_alike(self, bench: Workbench) -> None:
        """All operators, null, lists, JSON members, and what combines them."""
        source = self.source(bench)
        vector, lexical = bench.vector(source), bench.lexical(source)
        bench.drain(source, vector, lexical)
        keys: list[Key] = [(number,) for number in range(len(ROWS), 0, -1)]
        query = oracle_vector("three", "oracle-a", DIMENSION)
        with bench.store.snapshot() as reader:
            documents = reader.postings_read(lexical.id, [""])[""]["doc"].tolist()
            for where in FILTERS:
                wanted: set[Key] = {(row[0],) for row in ROWS if holds(row, where)}
                assert [key for key in keys if key in wanted] == list(reader.keys_live(source, keys, where)), where
                resolved = reader.documents_resolve(source, lexical.id, documents, where)
                assert set(resolved.values()) == wanted, where
                assert dict(reader.documents_matching(source, lexical.id, where, 100)) == dict(resolved), where
                hits = reader.chunks_matching(source, vector.id, query, where, 100)
                assert {hit.key for hit in hits} == wanted, where
                assert len(hits) == len(wanted), where

    @pytest.mark.parametrize("part", range(PARTS))
    def test_the_where_of_a_source_is_the_same_filter(self, bench: Workbench, part: int) -> None:
        """In the enrolment, in the triggers, and combined with a search's own."""
        for number, where in enumerate(FILTERS[part::PARTS]):
            self.check_where(bench, f"things_{number}", where)

    def check_where(self, bench: Workbench, table: str, where: Filter) -> None:
        """Attach half of the rows, write the other half, and see which are live."""
        self.table(bench, table)
        self.insert(bench, table, ROWS[:3])
        source = bench.attach(table, ("body",), where)
        self.insert(bench, table, ROWS[3:])
        wanted: set[Key] = {(row[0],) for row in ROWS if holds(row, where)}
        assert {key for key, (_, deleted) in bench.backend.journal(source).items() if not deleted} == wanted, where
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.verify(source, generation, {(row[0],): row[1] for row in ROWS if (row[0],) in wanted})
        odd = Condition("id", "in", (1, 3, 5, 7))
        both = wanted & {(1,), (3,), (5,), (7,)}
        with bench.store.snapshot() as reader:
            keys: list[Key] = [(row[0],) for row in ROWS]
            assert set(reader.keys_live(source, keys, None)) == wanted, where
            assert set(reader.keys_live(source, keys, odd)) == both, where
            found = reader.chunks_matching(source, generation.id, np.ones(DIMENSION, np.float32), odd, 100)
            assert {hit.key for hit in found} == both, where
