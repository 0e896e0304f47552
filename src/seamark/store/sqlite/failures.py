"""The failures that are recorded, and trying them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.model import Failure
from seamark.store.sqlite.catalog import journal_exists
from seamark.store.sqlite.claims import clock
from seamark.store.sqlite.keys import key_read, key_shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Key
    from seamark.store.sqlite.connection import Connections
    from seamark.store.sqlite.words import Words


def failures_list(connections: Connections, words: Words, limit: int) -> list[Failure]:
    """Return failures of rows at their present version, newest first."""
    width = 2 * len(words.source.table.key)
    codec = connections.codec
    with connections.use() as connection:
        if not journal_exists(connection, words.source):
            return []
        rows = connection.rows(words["failures"], (limit,))
    return [Failure(words.generation, key_shown(key_read(row[:width], codec), codec), *row[width:]) for row in rows]


def failures_retry(connections: Connections, words: Words, keys: Sequence[Key] | None) -> int:
    """Make failures due now, with no attempts spent; return how many."""
    with connections.transaction() as connection:
        now = clock(connection)
        if keys is None:
            return len(connection.rows(words["failures_retry"], {"now": now}))
        return len(connection.many_rows(words["failures_retry_keys"], [(now, *key) for key in keys]))
