"""A user's own query: on a connection of its own, to files opened read-only, and with nothing allowed but reading."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw

from seamark.errors import InvalidRequestError, StoreUnavailableError
from seamark.model import Rows
from seamark.store.sqlite.views import views_select, views_statements

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
        return _rows(reading, query, values, seconds)


def _rows(reading: Connection, query: str, values: Sequence[object], seconds: float) -> Rows:
    try:
        return Rows(*reading.query(query.encode("utf-8", "replace").decode(), tuple(values)))
    except apsw.InterruptError as exc:
        raise StoreUnavailableError(f"the query took longer than {seconds:g} seconds; ask for less, or allow more") from exc
    except (apsw.AuthError, apsw.ReadOnlyError) as exc:
        raise InvalidRequestError(f"SQL that SQLite refuses: only what reads is allowed here ({exc})") from exc
    except apsw.ExecTraceAbort as exc:
        raise InvalidRequestError("SQL that SQLite refuses: one statement at a time") from exc
    except UnicodeDecodeError as exc:
        raise InvalidRequestError("a text found is not valid UTF-8; read it as CAST(column AS BLOB)") from exc
    except _THEIRS as exc:
        raise InvalidRequestError(f"SQL that SQLite refuses: {exc}") from exc
