"""Feeding the journal of a table that has no triggers: by its key, which only ever grows.

The journal is in our own file, and nothing is written to the user's. There is one writer, so that rows are committed in the
order of keys that are drawn as they are written; what was passed is gone through once more all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from seamark.store.sqlite.claims import MICROSECONDS, clock
from seamark.store.sqlite.keys import key_dump, key_load, key_marks, key_read, key_sound
from seamark.store.sqlite.words import STATEMENTS, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Key
    from seamark.store.sqlite.connection import Connection, Connections
    from seamark.store.sqlite.words import Words

MARGIN_SECONDS = 2.0
"""Whoever draws a key before it begins to write has so long."""


@dataclass(frozen=True, slots=True)
class _State:
    """How far the table has been looked at."""

    seen: Key | None
    confirmed: Key | None
    mark: Key | None
    horizon: int
    marked_at: int


def source_poll(connections: Connections, words: Words, limit: int) -> int:
    """Enter rows that have come since the last time; first those above all others, then those that came late."""
    with connections.snapshot() as connection:
        state = _state(connection, words)
        found = _found(connection, connections.codec, words, state.seen, limit)
        swept, missed = _missed(connection, connections.codec, words, state, limit)
        now = clock(connection)
    entering = [key for key, live in found if live] + missed
    after = replace(state, seen=found[-1][0]) if found else state
    if swept and len(missed) < limit:
        after = replace(after, confirmed=state.mark, mark=None)
    if after.mark is None and after.confirmed != state.seen:
        after = replace(after, mark=state.seen, marked_at=now)
    if entering or after != state:
        with connections.transaction() as connection:
            connection.many_rows(words["journal_enter"], [(*key, 0) for key in entering if key_sound(key)])
            values = [None if key is None else key_dump(key) for key in (after.seen, after.confirmed, after.mark)]
            connection.run(STATEMENTS["poll_write"], (words.source.id, *values, after.horizon, after.marked_at))
    return max(len(found), len(missed))


def keys_polled(connections: Connections, words: Words, keys: Sequence[Key]) -> Sequence[Key]:
    """Return those keys of rows that are not beyond what is confirmed."""
    with connections.snapshot() as connection:
        confirmed = _state(connection, words).confirmed
        if confirmed is None:
            return []
        statement = words.fill("poll_passed", until=_compared(words, "<=", confirmed))
        return connection.many_rows(statement, [(*key, *confirmed) for key in keys])


def _state(connection: Connection, words: Words) -> _State:
    *stored, horizon, marked_at = connection.only(STATEMENTS["poll_state"], (words.source.id,))
    seen, confirmed, mark = (None if key is None else key_load(key) for key in stored)
    return _State(seen, confirmed, mark, horizon, marked_at)


def _found(connection: Connection, codec: str, words: Words, seen: Key | None, limit: int) -> list[tuple[Key, bool]]:
    """Return the next rows above all that were looked at, and whether each is live."""
    statement = words.fill("poll_found", after=_compared(words, ">", seen))
    rows = connection.rows(statement, (*(seen or ()), limit))
    return [(key_read(row[1:], codec), bool(row[0])) for row in rows]


def _missed(connection: Connection, codec: str, words: Words, state: _State, limit: int) -> tuple[bool, list[Key]]:
    """Say whether it is time to go through what was passed, and return the rows that came late."""
    if state.mark is None or clock(connection) - state.marked_at < MARGIN_SECONDS * MICROSECONDS:
        return False, []
    span = {"after": _compared(words, ">", state.confirmed), "until": _compared(words, "<=", state.mark)}
    rows = connection.rows(words.fill("poll_missed", **span), (*(state.confirmed or ()), *state.mark, limit))
    return True, [key_read(row, codec) for row in rows]


def _compared(words: Words, operator: str, key: Key | None) -> str:
    columns = ", ".join(f"t.{quoted(column)}" for column in words.source.table.key)
    return f"({columns}) {operator} ({key_marks(key)})" if key else "1"
