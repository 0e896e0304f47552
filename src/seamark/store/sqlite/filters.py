"""A `model.Filter` as a condition in SQL, its values bound, or written out for triggers, which take no parameters.

JSON members are read with `json_extract`, in triggers too: SQLite has had it built in since 3.38, and nearly every build
before. Text that is not JSON has no members.
"""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING, cast

from seamark.model import Condition, Every

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seamark.model import Filter, Scalar


def filter_bound(where: Filter | None, alias: str) -> tuple[str, tuple[Scalar, ...]]:
    """Return the condition over the columns of `alias`, and the values to bind, in order."""
    values: list[Scalar] = []

    def bind(value: Scalar) -> str:
        values.append(value)
        return "?"

    sql = "1" if where is None else _filter(where, alias, bind)
    return sql, tuple(values)


def filter_literal(where: Filter, alias: str) -> str:
    """Return the condition over the columns of `alias` with its values written into it."""
    return _filter(where, alias, literal)


def literal(value: Scalar) -> str:
    """Write a value as SQL does."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        # SQL text ends at a NUL.
        return " || char(0) || ".join("'" + part.replace("'", "''") + "'" for part in value.split("\0"))
    if isinstance(value, bool):
        return str(int(value))
    return repr(value)


def _filter(where: Filter, alias: str, write: Callable[[Scalar], str]) -> str:
    if isinstance(where, Condition):
        return _condition(where, alias, write)
    joint, empty = ("AND", "1") if isinstance(where, Every) else ("OR", "0")
    return _joined([_filter(part, alias, write) for part in where.of], joint, empty)


def _joined(parts: Sequence[str], joint: str, empty: str) -> str:
    """Join conditions as a balanced tree: SQLite takes an expression a thousand levels deep at most."""
    if not parts:
        return empty
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return f"({_joined(parts[:middle], joint, empty)} {joint} {_joined(parts[middle:], joint, empty)})"


def _condition(condition: Condition, alias: str, write: Callable[[Scalar], str]) -> str:
    name = condition.column.replace('"', '""')
    column = f'{alias}."{name}"'
    compare = _member if condition.path else _column
    if condition.operator == "in":
        values = cast("tuple[Scalar, ...]", condition.value)
        return _among(column, condition.path, values, write)
    assert not isinstance(condition.value, tuple)
    return compare(column, condition.path, condition.operator, condition.value, write)


def _among(column: str, path: tuple[str, ...], values: tuple[Scalar, ...], write: Callable[[Scalar], str]) -> str:
    if path:
        return _joined([_member(column, path, "=", value, write) for value in values], "OR", "0")
    present = [write(value) for value in values if value is not None]
    parts = [f"{column} IN ({', '.join(present)})"] if present else []
    if None in values:
        parts.append(f"{column} IS NULL")
    return _joined(parts, "OR", "0")


def _column(column: str, _path: tuple[str, ...], operator: str, value: Scalar, write: Callable[[Scalar], str]) -> str:
    return f"{column} {_operator(operator)} {write(value)}"


def _member(column: str, path: tuple[str, ...], operator: str, value: Scalar, write: Callable[[Scalar], str]) -> str:
    """Compare a JSON member with a value of the same type: text with text, numbers with numbers, true with true."""
    kind = f"CASE WHEN json_valid({column}) THEN {_first('json_type', column, path)} END"
    found = f"CASE WHEN json_valid({column}) THEN {_first('json_extract', column, path)} END"
    if value is None:
        return f"({found}) {_operator(operator)} NULL"
    kinds = "'text'" if isinstance(value, str) else "'true', 'false'" if isinstance(value, bool) else "'integer', 'real'"
    comparison = "=" if operator == "!=" else operator
    equal = f"coalesce(({kind}) IN ({kinds}) AND ({found}) {comparison} {write(value)}, 0)"
    return f"NOT {equal}" if operator == "!=" else equal


def _first(function: str, column: str, path: tuple[str, ...]) -> str:
    """Look a member up; a number in the path is a member's name in an object and a position in an array."""
    steps = [
        (f".{json.dumps(member, ensure_ascii=False)}", *([f"[{int(member)}]"] if member.isascii() and member.isdigit() else []))
        for member in path
    ]
    places = [literal("$" + "".join(chosen)) for chosen in product(*steps)]
    looked = ", ".join(f"{function}({column}, {place})" for place in places)
    return looked if len(places) == 1 else f"coalesce({looked})"


def _operator(operator: str) -> str:
    return {"=": "IS", "!=": "IS NOT"}.get(operator, operator)
