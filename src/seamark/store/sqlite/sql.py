"""A user's own query: on a connection of its own, to files opened read-only, and with nothing allowed but reading."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import apsw

from seamark.errors import InvalidRequestError, StoreUnavailableError
from seamark.model import Rows
from seamark.store.sqlite.views import views_select, views_statements
from seamark.store.sqlite.words import STATEMENTS, raw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.store.sqlite.connection import Connection, Connections

_THEIRS = (apsw.SQLError, apsw.BindingsError, apsw.MismatchError, apsw.RangeError, apsw.TooBigError)


def sql(connections: Connections, query: str, values: Sequence[object], seconds: float) -> Rows:
    """Run one query on a connection that has the views; see the contract."""
    with connections.snapshot() as connection:
        statements = views_statements(views_select(connection))
    with connections.reading() as reading:
        for statement in statements:
            reading.run(statement)
        reading.only_reading(seconds)
        return _rows(reading, query, values, seconds, connections.codec)


def _rows(reading: Connection, query: str, values: Sequence[object], seconds: float, codec: str) -> Rows:
    try:
        text = query.encode("utf-8", "replace").decode()
        try:
            return Rows(*reading.query(text, tuple(values)))
        except UnicodeDecodeError as exc:
            return _replaced(reading, text, tuple(values), codec, exc)
    except apsw.InterruptError as exc:
        raise StoreUnavailableError(f"the query took longer than {seconds:g} seconds; ask for less, or allow more") from exc
    except (apsw.AuthError, apsw.ReadOnlyError) as exc:
        raise InvalidRequestError(f"SQL that SQLite refuses: only what reads is allowed here ({exc})") from exc
    except apsw.ExecTraceAbort as exc:
        raise InvalidRequestError("SQL that SQLite refuses: one statement at a time") from exc
    except _THEIRS as exc:
        raise InvalidRequestError(f"SQL that SQLite refuses: {exc}") from exc


def _replaced(reading: Connection, query: str, values: tuple[object, ...], codec: str, error: UnicodeDecodeError) -> Rows:
    """Run a query that finds text which is not well-formed once more, with U+FFFD where it is not: one row hides no other."""
    inner = query.rstrip().rstrip(";")
    try:
        columns, _ = reading.query(STATEMENTS["sql_columns"].format(query=inner), values)
        names = [f"c{number}" for number in range(1, len(columns) + 1)]
        words = {"query": inner, "columns": ", ".join(names), "columns_raw": raw(names)}
        _, found = reading.query(STATEMENTS["sql_raw"].format_map(words), values)
    except apsw.SQLError:  # it cannot stand within another one
        raise InvalidRequestError("a text found is not valid UTF-8; read it as CAST(column AS BLOB)") from error
    return Rows(columns, tuple(tuple(map(partial(_told, codec), row[::2], row[1::2])) for row in found))


def _told(codec: str, is_text: object, value: object) -> object:
    return value.decode(codec, "replace") if is_text and isinstance(value, bytes) else value
