"""Feeding the journal of a table that has no triggers: by its key, which only ever grows.

A transaction can draw key 5, and another draw 6 and commit first; a poller that has seen 6 has passed 5. So what was seen
becomes the mark, in a later transaction whose id is the horizon: whoever wrote a row with a key up to it has a lower id, or
had drawn a key and not written yet, for which a moment is left. When all of these have ended, what is up to the mark is gone
through once more, and confirmed. Two workers at a time do no harm: what the slower one writes back is done again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb

from seamark.store.postgres import codec
from seamark.store.postgres.audit import bound
from seamark.store.postgres.names import key_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Key, Source
    from seamark.store.postgres.connection import Connection, Database
    from seamark.store.postgres.names import Words

MARGIN_SECONDS = 2.0
"""Whoever draws a key before it begins to write has so long."""


@dataclass(frozen=True, slots=True)
class _State:
    """How far the table has been looked at, and whether it is time to go through what is up to the mark."""

    seen: Key | None
    confirmed: Key | None
    mark: Key | None
    horizon: int
    marked_at: int
    due: bool | None


def source_poll(database: Database, words: Words, source: Source, limit: int) -> int:
    """Enter rows that have come since the last time; see the contract. Nothing is written where nothing has changed."""

    def poll() -> int:
        with database.keyed() as connection:
            return _Polling(database, connection, words, source).poll(limit)

    return database.retried(poll)


def keys_polled(database: Database, words: Words, source: Source, keys: Sequence[Key]) -> Sequence[Key]:
    """Return those keys of rows that are not beyond what is confirmed."""
    with database.keyed() as connection:
        confirmed = _Polling(database, connection, words, source).state().confirmed
        if confirmed is None:
            return []
        passed = bound(words["k_s"], words, confirmed, "<=", "u")
        values = {**codec.keys_columns(keys, len(source.table.key)), **passed.values}
        return database.run(connection, "poll_passed", {**words, "until": passed.condition}, values).fetchall()


class _Polling:
    """One poll, in one transaction, each of whose statements has a snapshot of its own."""

    def __init__(self, database: Database, connection: Connection, words: Words, source: Source) -> None:
        self._database, self._connection, self._words, self._source = database, connection, words, source

    def state(self) -> _State:
        values = {"source": self._source.id, "margin": round(MARGIN_SECONDS * 1e6)}
        [row] = self._database.run(self._connection, "poll_state", {}, values).fetchall()
        columns = key_columns(self._source.table)
        seen, confirmed, mark = (codec.key_load(key, columns) for key in row[:3])
        return _State(seen, confirmed, mark, *row[3:])

    def poll(self, limit: int) -> int:
        state = self.state()
        found = self._rows("poll_found", {"after": state.seen}, limit)
        missed = self._rows("poll_missed", {"after": state.confirmed, "until": state.mark}, limit) if state.due else []
        entering = [row[:-1] for row in found if row[-1]] + missed
        after = replace(state, seen=found[-1][:-1]) if found else state
        if state.due and len(missed) < limit:
            after = replace(after, confirmed=state.mark, mark=None)
        marked = after.mark is None and after.confirmed != state.seen
        if marked:  # our transaction's id is drawn now, after an earlier one has seen these keys
            [(own,)] = self._database.run(self._connection, "horizon_next", {}).fetchall()
            after = replace(after, mark=state.seen, horizon=own)
        if entering:
            self._database.run(self._connection, "horizon_next", {})  # before any `seq` is drawn
            keys = codec.keys_columns(entering, len(self._source.table.key))
            self._database.run(self._connection, "journal_enter", self._words, keys)
        if after != state:
            self._write(after, marked=marked)
        return max(len(found), len(missed))

    def _rows(self, name: str, span: dict[str, Key | None], limit: int) -> list[Key]:
        operators = {"after": (">", "a"), "until": ("<=", "u")}
        bounds = {word: bound(self._words["k_s"], self._words, key, *operators[word]) for word, key in span.items()}
        values: dict[str, object] = {"limit": limit}
        for one in bounds.values():
            values |= one.values
        words = self._words | {word: one.condition for word, one in bounds.items()}
        return self._database.run(self._connection, name, words, values).fetchall()

    def _write(self, after: _State, *, marked: bool) -> None:
        keys = {"seen": after.seen, "confirmed": after.confirmed, "mark": after.mark}
        values: dict[str, object] = {name: None if key is None else Jsonb(codec.key_dump(key)) for name, key in keys.items()}
        values |= {"source": self._source.id, "horizon": after.horizon, "marked_at": None if marked else after.marked_at}
        self._database.run(self._connection, "poll_write", {}, values)
