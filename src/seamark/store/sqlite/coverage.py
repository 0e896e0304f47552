"""Coverage, counted from ranges, and the trimming of tombstones."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from seamark.errors import StoreError, StorePermissionError
from seamark.model import Coverage
from seamark.store.sqlite.catalog import journal_exists
from seamark.store.sqlite.claims import MICROSECONDS, clock
from seamark.store.sqlite.connection import integers
from seamark.store.sqlite.source import journal_transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.store.sqlite.connection import Connection, Connections, Row
    from seamark.store.sqlite.words import Words

TRIM_ROWS = 500
"""Tombstones dropped in one transaction on the user's file: about a millisecond."""
TRIM_TRANSACTIONS = 8
"""Such transactions in one call: some seconds, and the rest is left to the next call."""
QUIET_SECONDS = 0.25
"""The user's file must not change for so long before it is trimmed. An application without a busy timeout is refused its write
if it comes in that very millisecond; one that is at work is left alone."""
LOOK_SECONDS = 0.01
_LAST = 2**63 - 1
_NOTHING = Coverage(0, 0, 0, 0, 0, 0, 0, 0, None)


def coverage(connections: Connections, words: Words, generations: Sequence[Words]) -> dict[int, Coverage]:
    """Count live, blank, missing and failed rows of each generation in one snapshot; embedded are the others.

    No row is tracked where the journal is gone, as when a backup from before the attach was restored; `source_faults` tells.
    """
    with connections.snapshot() as connection:
        if not journal_exists(connection, words.source):
            return dict.fromkeys((one.generation for one in generations), _NOTHING)
        journal = connection.value(words["coverage_journal"]) - connection.value(words["coverage_deleted"])
        return {one.generation: _Counting(connection, one).coverage(journal) for one in generations}


def pending(connections: Connections, words: Words, upto: int) -> bool:
    """Say whether a generation has work at or below a `seq`."""
    with connections.snapshot() as connection:
        return _Counting(connection, words).pending(upto)


class _Counting:
    def __init__(self, connection: Connection, words: Words) -> None:
        self._connection = connection
        self._words = words

    def coverage(self, journal: int) -> Coverage:
        """Count; `journal` is how many rows the journal has that are not deleted."""
        cursors = self._connection.row(self._words["coverage_cursors"], (self._words.generation,))
        if cursors is None:
            raise StoreError(f"there is no generation {self._words.generation}")
        phantom, blank = self._row("coverage_rows")
        live = journal - phantom
        failed, retrying = self._row("coverage_failed")
        leases = self._leases()
        missing, oldest = self._missing(cursors, [(lo, hi) for lo, hi, retry in leases if not retry])
        return Coverage(
            live=live,
            embedded=live - blank - missing - failed,
            blank=blank,
            missing=missing,
            failed=failed,
            truncated=self._value("coverage_truncated"),
            leases=len(leases),
            retrying=retrying,
            oldest_missing_seconds=None if oldest is None else max(0.0, clock(self._connection) / MICROSECONDS - oldest),
        )

    def pending(self, upto: int) -> bool:
        cursors = self._connection.row(self._words["coverage_cursors"], (self._words.generation,))
        if cursors is None:
            return False
        fresh, backfill, confirmed, swept, origin = cursors
        windows = ranges_merge([(swept, origin), (confirmed, fresh)], backfill, min(fresh, upto))
        return bool(
            any(lo < upto for lo, _, _ in self._leases())
            or self._value("pending_unclaimed", (fresh, upto))
            or self._row("coverage_unclaimed", (0, min(backfill, upto)))[0]
            or self._value("failures_pending", (upto,))
            or any(self._value("pending_unsettled", window) for window in windows)
        )

    def _leases(self) -> Sequence[Row]:
        return self._connection.rows(self._words["coverage_leases"], (self._words.generation,))

    def _missing(self, cursors: Row, leases: Sequence[tuple[int, int]]) -> tuple[int, int | None]:
        """Count what is ahead of a cursor, and look up the rows one by one only where work is under way or to be swept."""
        fresh, backfill, confirmed, swept, origin = cursors
        found = [
            self._row("coverage_unclaimed", (fresh, _LAST)),
            self._row("coverage_unclaimed", (0, backfill)),
        ]
        for lo, hi in ranges_merge([(swept, origin), (confirmed, fresh), *leases], backfill, fresh):
            found.append(self._row("coverage_unsettled", (lo, hi)))
        changes = [oldest for _, oldest in found if oldest is not None]
        return sum(count for count, _ in found), min(changes, default=None)

    def _row(self, name: str, values: tuple[int, ...] = ()) -> tuple[Any, ...]:
        return self._connection.only(self._words[name], values)

    def _value(self, name: str, values: tuple[int, ...] = ()) -> int:
        return int(self._connection.value(self._words[name], values))


def ranges_merge(ranges: Sequence[tuple[int, int]], lo: int, hi: int) -> list[tuple[int, int]]:
    """Return the union of ranges `(lo, hi]`, cut to one range, as ranges that do not overlap, ascending."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted((max(begin, lo), min(end, hi)) for begin, end in ranges):
        if begin >= end:
            continue
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def journal_trim(connections: Connections, generations: Sequence[Words], words: Words) -> int:
    """Drop tombstones that every generation has settled, and what the generations remember of them.

    The user's file is written to only while nobody else writes to it, and the rest is left to the next time. Where this user
    may not write to it, tombstones are kept: they are no more than room.
    """
    dropped = 0
    for _ in range(TRIM_TRANSACTIONS):
        seqs = _trimmable(connections, generations, words)
        if not seqs or not _quiet(connections):
            break
        try:
            with journal_transaction(connections, words.source, durable=False) as connection:
                dropped += len(connection.many_rows(words["journal_trim"], [(seq,) for seq in seqs]))
        except StorePermissionError:
            break
    for generation in generations:
        with connections.transaction() as connection:
            connection.run(generation["journal_trim_forgotten"])
    return dropped


def _trimmable(connections: Connections, generations: Sequence[Words], words: Words) -> list[int]:
    with connections.snapshot() as connection:
        bounds = [connection.value(one["journal_trim_bound"], (one.generation,)) for one in generations]
        bound = min((-1 if found is None else found for found in bounds), default=_LAST)
        seqs = [seq for (seq,) in connection.rows(words["journal_trim_find"], (bound, TRIM_ROWS))]
        for one in generations:
            if seqs:
                asked = integers(seqs)
                seqs = [seq for (seq,) in connection.rows(one["journal_trim_settled"], (asked,))]
        return seqs


def _quiet(connections: Connections) -> bool:
    """Say whether nobody has written to the user's file for a moment."""
    with connections.use() as connection:
        before = connection.pragma("data_version", schema="app")
        for _ in range(round(QUIET_SECONDS / LOOK_SECONDS)):
            time.sleep(LOOK_SECONDS)
            if connection.pragma("data_version", schema="app") != before:
                return False
    return True
