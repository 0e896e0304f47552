"""The user's tables as the catalog describes them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from seamark.errors import TableUnusableError
from seamark.model import Column, Table

if TYPE_CHECKING:
    from seamark.model import ColumnKind
    from seamark.store.postgres.connection import Connection, Database

_KINDS: dict[str, ColumnKind] = {
    **dict.fromkeys(("int2", "int4", "int8"), "integer"),
    **dict.fromkeys(("text", "varchar", "bpchar", "citext"), "text"),
    "uuid": "uuid",
    "bytea": "blob",
    **dict.fromkeys(("json", "jsonb"), "json"),
    **dict.fromkeys(("numeric", "float4", "float8"), "number"),
    "bool": "boolean",
    **dict.fromkeys(("date", "time", "timetz", "timestamp", "timestamptz"), "time"),
}
_NOT_TABLES = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence"}


def table_inspect(database: Database, connection: Connection, name: str) -> Table:
    """Return the table of that name; see the contract."""
    rows = database.run(connection, "table_find", {}, {"name": _clean(name)}).fetchall()
    if not rows:
        raise TableUnusableError(_unknown(database, connection, name))
    oid, schema, relation, kind, persistence, parent = rows[0]
    if kind in _NOT_TABLES:
        raise TableUnusableError(
            f"{name!r} is {_NOT_TABLES[kind]}, and Seamark needs triggers on a table; attach the table that its rows come from"
        )
    if schema in ("pg_catalog", "information_schema", "seamark"):
        raise TableUnusableError(f"{schema}.{relation} belongs to the database itself and cannot be attached")
    if persistence == "t":
        raise TableUnusableError(f"{name!r} is a temporary table, which no other connection can see")
    if parent:
        raise TableUnusableError(f"{name!r} has tables that inherit from it, whose rows it shares; attach those one by one")
    columns = tuple(
        Column(column, type_, _kind(base, category))
        for column, type_, base, category in database.run(connection, "table_columns", {}, {"oid": oid})
    )
    key = tuple(column for (column,) in database.run(connection, "table_key", {}, {"oid": oid}))
    return Table(schema, relation, columns, key)


def _kind(base: str, category: str) -> ColumnKind:
    if category == "E":
        return "other"
    return _KINDS.get(base, "other")


def _clean(name: str) -> str:
    # No name holds these, and the driver takes neither.
    return name.replace("\0", "").encode("utf-8", "replace").decode()


def _unknown(database: Database, connection: Connection, name: str) -> str:
    known = [known for (known,) in database.run(connection, "table_names", {})]
    alike = get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)[:3]
    hint = f"; there are {', '.join(map(repr, alike))}" if alike else "; this database has no tables yet"
    return f"there is no table {name!r}{hint}"
