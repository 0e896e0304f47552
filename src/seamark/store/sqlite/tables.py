"""The user's tables as they stand: columns, kinds and keys."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from seamark.errors import TableUnusableError
from seamark.model import Column, Table
from seamark.store.sqlite.words import STATEMENTS

if TYPE_CHECKING:
    from seamark.model import ColumnKind
    from seamark.store.sqlite.connection import Connection

_KINDS: tuple[tuple[str, ColumnKind], ...] = (
    ("BOOL", "boolean"),
    ("UUID", "uuid"),
    ("GUID", "uuid"),
    ("JSON", "json"),
    ("INT", "integer"),
    ("CHAR", "text"),
    ("CLOB", "text"),
    ("TEXT", "text"),
    ("STRING", "text"),
    ("BLOB", "blob"),
    ("REAL", "number"),
    ("FLOA", "number"),
    ("DOUB", "number"),
    ("NUM", "number"),
    ("DEC", "number"),
    ("DATE", "time"),
    ("TIME", "time"),
)
"""What a declared type is taken for, by the first of these words that is in it: SQLite's own rule, with more words."""
_GENERATED = (2, 3)


def table_inspect(connection: Connection, name: str) -> Table:
    """Return the table as it stands; TableUnusableError when there is none that can be followed."""
    # A lone surrogate cannot be in a name, nor be asked for.
    asked = name.encode("utf-8", "replace").decode("utf-8")
    found = connection.row(STATEMENTS["table_find"], (asked,))
    if found is None:
        raise TableUnusableError(f"there is no table {name!r}{_alike(connection, asked)}")
    table, kind = found
    if kind != "table":
        raise TableUnusableError(f"{name!r} is a {kind} table or view, which cannot have triggers; attach the table behind it")
    columns = connection.rows(STATEMENTS["table_columns"], (table,))
    key = sorted((place, column) for column, _, place, _ in columns if place)
    return Table(
        schema=None,
        name=table,
        columns=tuple(Column(column, declared, _kind(declared)) for column, declared, _, _ in columns),
        key=tuple(column for _, column in key),
    )


def table_order(connection: Connection, name: str) -> tuple[str, ...]:
    """Return the columns by which the rows of a table are ordered: its key, or the rowid; none where there is no such table."""
    try:
        return table_inspect(connection, name).key or ("rowid",)
    except TableUnusableError:
        return ()


def columns_generated(connection: Connection, name: str) -> frozenset[str]:
    """Return the columns that SQLite computes: no statement sets them, so no trigger can be bound to them."""
    columns = connection.rows(STATEMENTS["table_columns"], (name,))
    return frozenset(column for column, _, _, hidden in columns if hidden in _GENERATED)


def key_collations(connection: Connection, table: Table) -> tuple[str | None, ...]:
    """Return by which collation each column of the key is unique; None where every spelling is a key of its own."""
    found = dict(connection.rows(STATEMENTS["key_collations"], (table.name,)))
    return tuple(found.get(column) for column in table.key)


def _kind(declared: str) -> ColumnKind:
    upper = declared.upper()
    if not upper:
        return "text"
    found: list[ColumnKind] = [kind for word, kind in _KINDS if word in upper]
    return found[0] if found else "other"


def _alike(connection: Connection, name: str) -> str:
    names = [found for (found,) in connection.rows(STATEMENTS["table_names"])]
    near = get_close_matches(name, names, n=3) or names[:10]
    return f"; there is {', '.join(repr(found) for found in near)}" if near else "; the database has no tables"
