"""A user's filter, a mapping as MongoDB would write it, parsed into `model.Filter`. Values stay values: the stores bind them.

{"org_id": 7, "created": {"$gte": "2026-01-01", "$lt": "2026-02-01"}, "tag": {"$in": ["a", "b"]}}
{"$or": [{"deleted_at": None}, {"meta.lang": {"$ne": "en"}}]}
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast
from uuid import UUID

from seamark.errors import InvalidRequestError, UnknownColumnError
from seamark.model import Condition, Either, Every

if TYPE_CHECKING:
    from seamark.model import Column, ColumnKind, Filter, Operator, Scalar, Table

DEPTH_MAX = 16
VALUES_MAX = 10_000
"""Values in one filter: well below the parameters that either database takes in one statement."""

_OPERATORS: dict[str, Operator] = {"$eq": "=", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<=", "$in": "in"}
_WRITTEN = {operator: name for name, operator in _OPERATORS.items()}
_TYPES: dict[ColumnKind, tuple[type, ...]] = {
    "integer": (int, float),
    "number": (int, float),
    "boolean": (bool,),
    "text": (str,),
    "uuid": (str,),
    "time": (str, int, float),
    "other": (str, int, float, bool),
    "json": (),
    "blob": (),
}
_UNBINDABLE = re.compile("[\0\ud800-\udfff]")
_INTEGER_MAX = 2**63


def filter_parse(mapping: Mapping[str, object], table: Table) -> Filter:
    """Return the filter that the mapping stands for; an empty mapping is true of every row.

    A plain value means equality, None included. Raises UnknownColumnError, or InvalidRequestError for anything malformed.
    """
    parser = _Parser(table)
    return parser.mapping(mapping, 1)


def filter_write(value: Filter) -> dict[str, object]:
    """Return a filter in the words that `filter_parse` takes."""
    if isinstance(value, Condition):
        name = ".".join((value.column, *value.path))
        wanted = list(value.value) if isinstance(value.value, tuple) else value.value
        return {name: wanted if value.operator == "=" else {_WRITTEN[value.operator]: wanted}}
    return {"$and" if isinstance(value, Every) else "$or": [filter_write(member) for member in value.of]}


class _Parser:
    def __init__(self, table: Table) -> None:
        self._table = table
        self._values = 0

    def mapping(self, mapping: object, depth: int) -> Filter:
        if depth > DEPTH_MAX:
            raise InvalidRequestError(f"filter: nested more than {DEPTH_MAX} deep")
        parts: list[Filter] = []
        for name, wanted in _mapping(mapping, "filter").items():
            if name in ("$and", "$or"):
                parts.append(self._group(name, wanted, depth))
            elif name.startswith("$"):
                raise InvalidRequestError(f"filter: {name!r} cannot stand here; only $and and $or can, and names of columns")
            else:
                parts.append(self._member(name, wanted))
        return _every(parts)

    def _group(self, name: str, members: object, depth: int) -> Filter:
        if not isinstance(members, Sequence) or isinstance(members, str | bytes) or not members:
            raise InvalidRequestError(f"filter: {name} takes a list of one or more filters")
        parts = tuple(self.mapping(member, depth + 1) for member in cast("Sequence[object]", members))
        return Every(parts) if name == "$and" else Either(parts)

    def _member(self, name: str, wanted: object) -> Filter:
        column, path = self._column(name)
        if not isinstance(wanted, Mapping):
            return self._condition(name, column, path, "$eq", wanted)
        operations = _mapping(cast("object", wanted), f"filter on {name!r}")
        if not operations:
            raise InvalidRequestError(f"filter on {name!r}: an empty condition; compare with a value, or with {_known()}")
        return _every([self._condition(name, column, path, operator, value) for operator, value in operations.items()])

    def _column(self, name: str) -> tuple[Column, tuple[str, ...]]:
        exact = self._table.column(name)
        if exact is not None:
            return exact, ()
        first, *path = name.split(".")
        column = self._table.column(first)
        if column is None or not path:
            raise UnknownColumnError(self._table.name, name, tuple(known.name for known in self._table.columns))
        if column.kind != "json":
            raise InvalidRequestError(
                f"filter on {name!r}: column {first!r} is of type {column.type}, not JSON, and has no members"
            )
        if not all(path) or any(_UNBINDABLE.search(member) for member in path):
            raise InvalidRequestError(
                f"filter on {name!r}: a member's name is empty or holds a character that no database takes"
            )
        return column, tuple(path)

    def _condition(self, name: str, column: Column, path: tuple[str, ...], operator: str, value: object) -> Filter:
        if operator not in _OPERATORS:
            raise InvalidRequestError(f"filter on {name!r}: unknown operator {operator!r}; there are {_known()}")
        if operator == "$in":
            return self._among(name, column, path, value)
        if value is None and operator not in ("$eq", "$ne"):
            raise InvalidRequestError(f"filter on {name!r}: {operator} cannot compare with null; only $eq and $ne can")
        if isinstance(value, bool) and operator not in ("$eq", "$ne"):
            raise InvalidRequestError(f"filter on {name!r}: {operator} cannot compare true and false, which have no order")
        return Condition(column.name, _OPERATORS[operator], self._scalar(name, column, path, value), path)

    def _among(self, name: str, column: Column, path: tuple[str, ...], values: object) -> Filter:
        """Parse `$in`; null, which SQL's IN never finds, stands beside it, and a list without values is never true."""
        if not isinstance(values, Sequence | set | frozenset) or isinstance(values, str | bytes):
            raise InvalidRequestError(f"filter on {name!r}: $in takes a list of values")
        scalars = [self._scalar(name, column, path, value) for value in cast("Sequence[object]", values)]
        parts: list[Filter] = []
        if present := tuple(scalar for scalar in scalars if scalar is not None):
            parts.append(Condition(column.name, "in", present, path))
        if None in scalars:
            parts.append(Condition(column.name, "=", None, path))
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _scalar(self, name: str, column: Column, path: tuple[str, ...], value: object) -> Scalar:
        self._values += 1
        if self._values > VALUES_MAX:
            raise InvalidRequestError(f"filter: more than {VALUES_MAX} values")
        if value is None:
            return None
        if isinstance(value, UUID):
            value = str(value)
        if not isinstance(value, str | int | float):
            raise InvalidRequestError(
                f"filter on {name!r}: {type(value).__name__} cannot be compared; text, numbers, true, false and null can"
            )
        return _typed(name, column, _bindable(name, value), "other" if path else column.kind)


def _typed(name: str, column: Column, value: str | float, kind: ColumnKind) -> Scalar:
    """Check a value against the column's type; where a boolean is kept as a number, or is given as 0 or 1, convert it."""
    if kind in ("integer", "number") and isinstance(value, bool):
        return int(value)
    if kind == "boolean" and value in (0, 1):
        return bool(value)
    if not isinstance(value, _TYPES[kind]) or (kind == "time" and isinstance(value, bool)):
        comparable = "can be compared only with null" if not _TYPES[kind] else "cannot be compared with " + repr(value)[:40]
        hint = f"; to compare a member write '{column.name}.member'" if kind == "json" else ""
        raise InvalidRequestError(f"filter on {name!r}: a column of type {column.type} {comparable}{hint}")
    return value


def _bindable(name: str, value: str | float) -> str | float:
    if isinstance(value, str):
        refused = _UNBINDABLE.search(value) is not None
    elif isinstance(value, float):
        refused = not math.isfinite(value)
    else:
        refused = not -_INTEGER_MAX <= value < _INTEGER_MAX
    if refused:
        raise InvalidRequestError(
            f"filter on {name!r}: {repr(value)[:40]} is in no database (NUL, lone surrogate, NaN, infinity or over 64 bits)"
        )
    return value


def _mapping(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise InvalidRequestError(f"{what}: expected a mapping such as {{'column': value}}, not {type(value).__name__}")
    mapping = cast("Mapping[object, object]", value)
    if any(not isinstance(name, str) for name in mapping):
        raise InvalidRequestError(f"{what}: every name in it has to be text")
    return cast("Mapping[str, object]", value)


def _every(parts: list[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else Every(tuple(parts))


def _known() -> str:
    return ", ".join(_OPERATORS)
