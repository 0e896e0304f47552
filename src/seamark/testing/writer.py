"""An application that writes, and logs what was acknowledged: what it has logged is what must be found in the end.

Each writer has keys of its own, so that the order of commits on a row is that of its log. Before a transaction begins it logs
which keys it is about to touch; when the commit was acknowledged, what they are now. Where a commit was not acknowledged it
looks what has become of it, and logs that.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import apsw
import psycopg

if TYPE_CHECKING:
    import threading

    from seamark.testing.actors import Log, Order

SPAN = 1000
"""Keys from `first` on that a writer uses for rows; as many beyond them take those that are moved."""
KEYS = 40
PAUSE_SECONDS = 0.01
AWAY_SECONDS = 0.1
ORGS = 3
_LOST = (psycopg.Error, apsw.Error)
Row = list[Any] | None
"""What the table holds for a key, `[title, body]`, or None."""


def org_of(key: int) -> int:
    """Return the org of a row, which never changes."""
    return key % ORGS


class _Table:
    """The table `notes(id, title, body, org)` through a connection that is made anew when it is lost."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None

    def open(self) -> Any:
        if self._connection is None:
            if self._url.startswith("sqlite:"):
                self._connection = apsw.Connection(self._url.removeprefix("sqlite:///"), flags=apsw.SQLITE_OPEN_READWRITE)
                self._connection.set_busy_timeout(2000)
            else:
                self._connection = psycopg.connect(self._url, autocommit=True, application_name="user", connect_timeout=5)
        return self._connection

    def run(self, statement: str, *values: object) -> list[Any]:
        connection = self.open()
        if self._url.startswith("sqlite:"):
            return connection.execute(statement, values).fetchall()
        cursor = connection.execute(statement.replace("?", "%s"), values or None)
        return cursor.fetchall() if cursor.description else []

    def forget(self) -> None:
        """Drop the connection; one that is in the middle of something with it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def rows(self, keys: list[int]) -> dict[int, Row]:
        found: dict[int, Row] = dict.fromkeys(keys)
        for key, title, body in self.run(f"SELECT id, title, body FROM notes WHERE id IN ({', '.join(map(str, keys))})"):
            found[key] = [title, body]
        return found


def write(order: Order, stop: threading.Event, log: Log) -> None:
    """Write until asked to end."""
    chance, table = random.Random(order.seed), _Table(order.url)
    state: dict[int, Row] = {}
    number = 0
    while not stop.is_set():
        number += 1
        changes = _changes(chance, order, state, number)
        log.write("begin", keys=[*changes])
        try:
            rolled_back = _transact(table, changes, roll_back=chance.random() < 0.15)
        except _LOST as error:
            log.write("lost", error=f"{type(error).__name__}: {error}"[:300])
            found = _look(table, [*changes], stop)
            if found is None:
                break
            state |= found
            log.write("found", rows=found)
            continue
        if rolled_back:
            log.write("rolled back")
            continue
        state |= changes
        log.write("committed", rows=changes)
        stop.wait(PAUSE_SECONDS)
    table.forget()


def _changes(chance: random.Random, order: Order, state: dict[int, Row], number: int) -> dict[int, Row]:
    """Choose what a transaction does: one to three rows put, deleted, or moved to the key SPAN above."""
    changes: dict[int, Row] = {}
    for _ in range(chance.randint(1, 3)):
        key = order.first + chance.randrange(KEYS)
        moved = key + SPAN * ORGS  # the same org
        row = (state | changes).get(key)
        kind = chance.choice(["put", "put", "put", "delete", "move"])
        if row is not None and kind == "delete":
            changes[key] = None
        elif row is not None and kind == "move" and (state | changes).get(moved) is None:
            changes |= {key: None, moved: row}
        else:
            title = chance.choice([f"title {key}", None])
            body = chance.choice([f"text {number} of row {key}", f"text {number} of row {key}, moving word", "", " "])
            changes[key] = [title, body]
    return changes


def _transact(table: _Table, changes: dict[int, Row], *, roll_back: bool) -> bool:
    """Make the changes in one transaction; return whether it was rolled back, as it was meant to be."""
    table.run("BEGIN IMMEDIATE" if isinstance(table.open(), apsw.Connection) else "BEGIN")
    try:
        for key, row in changes.items():
            if row is None:
                table.run("DELETE FROM notes WHERE id = ?", key)
            else:
                table.run(
                    "INSERT INTO notes (id, title, body, org) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (id) DO UPDATE SET title = excluded.title, body = excluded.body",
                    key,
                    *row,
                    org_of(key),
                )
        table.run("ROLLBACK" if roll_back else "COMMIT")
    except BaseException:
        table.forget()
        raise
    return roll_back


def _look(table: _Table, keys: list[int], stop: threading.Event) -> dict[int, Row] | None:
    """Return what the keys hold once the database can be asked; None when asked to end before."""
    while True:
        try:
            return table.rows(keys)
        except _LOST:
            table.forget()
            if stop.wait(AWAY_SECONDS):
                return None
