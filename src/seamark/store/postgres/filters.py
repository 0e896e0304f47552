"""Filters compiled to SQL over the source as `s`: the one place beside `names` where a statement's text is composed.

A condition that cannot be told (null, a member of another type) does not hold. Nothing negates a filter, so that null and
false come to the same; text is ordered by code point on both databases.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from seamark.errors import InvalidRequestError, UnknownColumnError
from seamark.model import Condition, Every
from seamark.store.postgres.names import identifier, literal

if TYPE_CHECKING:
    from seamark.model import Column, Filter, Scalar, Table

_RANGES = ("<", "<=", ">", ">=")


class Binding(Protocol):
    """Says how a value stands in the statement."""

    def __call__(self, value: Scalar) -> str:
        """Return what stands for the value."""
        ...


class Parameters(dict[str, object]):
    """Binds values as named parameters `f0`, `f1`, …, of which it is the mapping."""

    def __call__(self, value: Scalar) -> str:
        """Bind the value."""
        name = f"f{len(self)}"
        self[name] = value
        return f"%({name})s"


def filter_compile(where: Filter | None, table: Table, bind: Binding, alias: str = "s") -> str:
    """Return the filter as an expression that is true where it holds."""
    if where is None:
        return "TRUE"
    if isinstance(where, Condition):
        return _condition(where, table, bind, alias)
    parts = [filter_compile(part, table, bind, alias) for part in where.of]
    if isinstance(where, Every):
        return f"({' AND '.join(parts)})" if parts else "TRUE"
    return f"({' OR '.join(parts)})" if parts else "FALSE"


def _condition(condition: Condition, table: Table, bind: Binding, alias: str) -> str:
    column = table.column(condition.column)
    if column is None:
        raise UnknownColumnError(table.name, condition.column, tuple(known.name for known in table.columns))
    name = f"{alias}.{identifier(column.name)}"
    values = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    if condition.operator != "in":
        compare = _member if condition.path else _plain
        return compare(condition, column, name, values[0], bind)
    one = [Condition(condition.column, "=", value, condition.path) for value in values]
    compare = _member if condition.path else _plain
    parts = [compare(each, column, name, value, bind) for each, value in zip(one, values, strict=True)]
    return f"({' OR '.join(parts)})" if parts else "FALSE"


def _plain(condition: Condition, column: Column, name: str, value: Scalar, bind: Binding) -> str:
    if value is None:
        return _null(condition, name)
    _comparable(column, value)
    if condition.operator == "=":
        return f"{name} = {bind(value)}"
    if condition.operator == "!=":
        return f"{name} IS DISTINCT FROM {bind(value)}"
    if column.kind == "text":
        return f'{name}::text COLLATE "C" {condition.operator} {bind(value)}'
    return f"{name} {condition.operator} {bind(value)}"


def _member(condition: Condition, column: Column, name: str, value: Scalar, bind: Binding) -> str:
    """Compare a member of a JSON column: equality by JSON's own types, order among numbers and among strings only."""
    path = "ARRAY[" + ", ".join(bind(step) for step in condition.path) + "]::text[]"
    member = f"({name} #> {path})::jsonb"
    if value is None:
        return _null(condition, f"NULLIF({member}, 'null'::jsonb)")
    if condition.operator in _RANGES:
        if isinstance(value, bool):
            raise InvalidRequestError(f"column {column.name!r}: true and false have no order")
        if isinstance(value, str):
            text = f'({name} #>> {path}) COLLATE "C" {condition.operator} {bind(value)}'
            return f"(jsonb_typeof({member}) = 'string' AND {text})"
        return f"(jsonb_typeof({member}) = 'number' AND {member} {condition.operator} {bind(json.dumps(value))}::jsonb)"
    operator = "=" if condition.operator == "=" else "IS DISTINCT FROM"
    return f"{member} {operator} {bind(json.dumps(value))}::jsonb"


def _null(condition: Condition, name: str) -> str:
    if condition.operator in _RANGES:
        return "FALSE"
    return f"{name} IS NULL" if condition.operator == "=" else f"{name} IS NOT NULL"


def _comparable(column: Column, value: Scalar) -> None:
    """Raise InvalidRequestError where PostgreSQL has no comparison of the column with the value."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "integer": number,
        "number": number,
        "boolean": isinstance(value, bool),
        "text": isinstance(value, str),
        "time": isinstance(value, str),
        "uuid": isinstance(value, str) and _is_uuid(value),
    }
    if not fits.get(column.kind, column.kind == "other"):
        raise InvalidRequestError(f"column {column.name!r} is of type {column.type} and cannot be compared with {value!r}")


def _is_uuid(value: str) -> bool:
    try:
        UUID(value)
    except ValueError:
        return False
    return True


__all__ = ["Binding", "Parameters", "filter_compile", "literal"]
