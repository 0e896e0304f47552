"""Keys that a program or a file gives: what can be one of a table, and as what."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from seamark.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seamark.model import Key, KeyValue, Table

_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)


def keys_given(table: Table, given: Sequence[object]) -> list[Key]:
    """Return keys as the table has them; see `key_given`."""
    column = table.column(table.key[0]) if len(table.key) == 1 else None
    if column is not None and {*map(type, given)} == {_PLAIN.get(column.kind)}:
        return [(cast("KeyValue", value),) for value in given]
    return [key_given(table, key) for key in given]


def key_given(table: Table, given: object) -> Key:
    """Return a key, or the only member of one, as the table has it; InvalidRequestError where it cannot have it.

    Files often hold numbers as text, and text that is made of digits as numbers; UUIDs are text to both stores.
    """
    members = cast("tuple[object, ...]", given if isinstance(given, tuple) else (given,))
    if len(members) != len(table.key):
        raise InvalidRequestError(
            f"key {given!r} has {len(members)} members, and the key of {table.name!r} is ({', '.join(table.key)})"
        )
    return tuple([_member(table, name, value) for name, value in zip(table.key, members, strict=True)])


def _member(table: Table, name: str, value: object) -> KeyValue:
    column = table.column(name)
    kind = "" if column is None else column.kind
    found = _READ.get((type(value), kind), _same)(value)
    if isinstance(found, _TYPES.get(kind, _ANY)) and not isinstance(found, bool):
        return cast("KeyValue", found)
    raise InvalidRequestError(
        f"{value!r} of type {type(value).__name__} is no key of table {table.name!r}, whose column {name!r} is of type "
        f"{column.type if column else 'unknown'}"
    )


def _same(value: Any) -> Any:
    return value


def _integer(value: str) -> int | str:
    return int(value) if _INTEGER.fullmatch(value) else value


_READ: dict[tuple[type, str], Callable[[Any], Any]] = {(str, "integer"): _integer, (UUID, "uuid"): str, (int, "text"): str}
_TYPES: dict[str, tuple[type, ...]] = {"integer": (int,), "uuid": (str, bytes), "blob": (bytes,), "text": (str,)}
"""What a member of a key is in Python, by the kind of its column."""
_PLAIN: dict[str, type] = {"integer": int, "text": str, "blob": bytes}
"""What a member of a key of that kind mostly is, so that it need not be looked at one by one."""
_ANY = (int, str, bytes)
