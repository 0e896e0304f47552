"""A user's own query: it reads, on a connection of its own, and the database holds it to that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import errors

from seamark.errors import InvalidRequestError, StoreUnavailableError
from seamark.model import Rows
from seamark.store.postgres.names import identifier
from seamark.store.postgres.views import views_hidden

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.store.postgres.connection import Connection, Database

_THEIRS = (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError, psycopg.InternalError)


def sql(database: Database, query: str, values: Sequence[object], seconds: float) -> Rows:
    """Run one query in a read-only transaction, through a cursor, which takes nothing but a query; see the contract.

    It may change settings and take locks of its session, which is why the session is not one of the pool's.
    """
    text = query.encode("utf-8", "replace").replace(b"\0", b" ")
    with database.single() as connection:
        _views_show(database, connection)
        with connection.transaction():
            return _rows(database, connection, text, values, seconds)


def _views_show(database: Database, connection: Connection) -> None:
    """Let a view of ours be what its name means, in this session, where the user has a table of that name.

    Where that cannot be made, for want of a right or on a server that takes no writes, it is asked for with its schema.
    """
    for name in views_hidden(database, connection):
        try:
            database.run(connection, "view_show", {"view": identifier(name)})
        except (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction):
            return


def _rows(database: Database, connection: Connection, text: bytes, values: Sequence[object], seconds: float) -> Rows:
    database.run(connection, "sql_begin", {})
    database.run(connection, "sql_settings", {}, {"milliseconds": str(max(1, round(seconds * 1000)))})
    try:
        with psycopg.RawServerCursor(connection, "seamark_sql") as cursor:
            cursor.execute(text, values)
            columns = tuple(column.name for column in cursor.description or ())
            return Rows(columns, tuple(cursor.fetchall()))
    except errors.InsufficientPrivilege:
        raise
    except errors.QueryCanceled as exc:
        raise StoreUnavailableError(f"the query took longer than {seconds:g} seconds; ask for less, or allow more") from exc
    except _THEIRS as exc:
        said = exc.diag.message_primary or " ".join(str(exc).split())
        raise InvalidRequestError(f"SQL that PostgreSQL refuses: {said}") from exc
