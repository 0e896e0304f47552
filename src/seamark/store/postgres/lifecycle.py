"""Activating, retiring and dropping generations, and what they take on disk."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from psycopg import errors

from seamark.errors import StoreUnavailableError
from seamark.store.activation import Standing, activate
from seamark.store.postgres.names import generation_words
from seamark.store.postgres.upkeep import index_built
from seamark.store.postgres.views import views_refresh

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seamark.store.postgres.catalog import Catalog
    from seamark.store.postgres.connection import Connection, Database, Row
    from seamark.store.postgres.names import Words

DROP_TRIES = 20
DROP_PAUSE_SECONDS = 0.25
"""Between two tries to lock a retired generation's tables: behind us others queue who want to read them."""


class _Activating:
    """The statements of one activation, in one transaction; each in its own snapshot, after the lock."""

    def __init__(self, database: Database, connection: Connection, words: Words, generation_id: int) -> None:
        self._database, self._connection, self._words = database, connection, words
        self._values: dict[str, int] = {"generation": generation_id}

    def _row(self, name: str) -> Row | None:
        cursor = self._database.run(self._connection, name, self._words, self._values)
        return cursor.fetchone() if cursor.description else None

    def standing(self) -> Standing | None:
        self._row("generation_lock")
        row = self._row("generation_standing")
        return None if row is None else Standing(*row)

    def due_write(self) -> int:
        row = self._row("generation_due")
        assert row is not None
        return row[0]

    def failing(self) -> bool:
        row = self._row("generation_failing")
        assert row is not None
        return row[0]

    def searchable(self) -> bool:
        return index_built(self._database, self._connection, self._values["generation"], self._words)

    def swap(self, *, back: bool) -> None:
        self._row("generation_give_way")
        self._values["back"] = back
        self._row("generation_activate")

    def precede(self) -> None:
        self._row("generation_precede")


def generation_activate(
    database: Database, catalog: Catalog, generation_id: int, *, asked: bool, force: bool, back: bool
) -> bool:
    """Make a generation the active one, where that may be; see the contract."""
    words = catalog.generation_words(generation_id)
    if words is None:
        return False
    with database.transaction() as connection:
        return activate(_Activating(database, connection, words, generation_id), asked=asked, force=force, back=back)


def generation_retire(database: Database, generation_id: int, *, force: bool) -> bool:
    """Retire a generation; an active one only with force."""
    values = {"generation": generation_id, "force": force}
    with database.connection() as connection:
        return database.run(connection, "generation_retire", {}, values).fetchone() is not None


def generation_drop(database: Database, generation_id: int) -> bool:
    """Drop a retired generation; see the contract."""
    for _ in range(DROP_TRIES):
        try:
            with database.transaction() as connection:
                database.run(connection, "lock_timeout", {})
                return _drop(database, connection, generation_id)
        except StoreUnavailableError as exc:
            if not isinstance(exc.__cause__, errors.LockNotAvailable | errors.DeadlockDetected):
                raise
            time.sleep(DROP_PAUSE_SECONDS)
    raise StoreUnavailableError(
        f"generation {generation_id} is being read by a long transaction (pg_stat_activity shows it); drop it again later"
    )


def _drop(database: Database, connection: Connection, generation_id: int) -> bool:
    values = {"generation": generation_id}
    retired = database.run(connection, "generation_retired", {}, values).fetchone()
    if retired is None or not retired[0]:
        return False
    database.run(connection, "generation_delete", {}, values)
    views_refresh(database, connection)  # they look into the tables that go
    database.run(connection, "generation_tables_drop", generation_words(generation_id))
    return True


def generations_bytes(database: Database, source_id: int) -> Mapping[int, int]:
    """Return what the tables of each generation take, indexes included."""
    with database.connection() as connection:
        return dict(database.run(connection, "generations_bytes", {}, {"source": source_id}).fetchall())
