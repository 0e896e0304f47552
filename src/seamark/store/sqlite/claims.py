"""Claiming, renewing and reading a lease."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from seamark.model import Claim, Lease, Reading, SourceRow
from seamark.store.claim import SWEEP_ROWS, Cursors, claim
from seamark.store.sqlite.connection import UnreadableKeyError
from seamark.store.sqlite.keys import RawText, key_read, key_sound
from seamark.store.sqlite.words import STATEMENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Lane
    from seamark.store.sqlite.connection import Connection, Connections
    from seamark.store.sqlite.words import Words

MICROSECONDS = 1_000_000


def clock(connection: Connection) -> int:
    """Return the time, microseconds UTC."""
    return int(connection.value(STATEMENTS["clock"]))


def lease_claim(connections: Connections, words: Words, worker: str, limit: int, seconds: float, *, first: Lane) -> Claim:
    """Look without a lock, and claim under one if there may be work; never from a journal that was put back in time."""
    with connections.use() as connection:
        look = {"now": clock(connection), "generation": words.generation}
        if not connection.value(words["look"], look):
            return Claim(None)
    source = {"source": words.source.id}
    with connections.transaction() as connection:
        if connection.value(words["witness_broken"], source):
            return Claim(None)
        claimed = claim(SqliteClaiming(connection, words, worker, limit, seconds), first=first)
        if claimed.lease is not None:
            connection.run(words["witness_write"], source)
        return claimed


class SqliteClaiming:
    """The statements of one claim. There is one writer, so that no transaction under way can hold a lower `seq` back."""

    def __init__(self, connection: Connection, words: Words, worker: str, limit: int, seconds: float) -> None:
        self._connection = connection
        self._words = words
        self._worker = worker
        self._limit = limit
        self._now = clock(connection)
        self._expires_at = self._now + int(seconds * MICROSECONDS)

    def cursors(self) -> Cursors:
        """Return the cursors; backing off for ever when the generation has been dropped."""
        row = self._row("cursors", {"generation": self._words.generation, "now": self._now})
        return Cursors(0, 0, 0, 0, None, 0, 0, 0, backing_off=True) if row is None else Cursors(*row)

    def cursors_write(self, cursors: Cursors) -> None:
        """Write all cursors back."""
        at = cursors
        values = (at.fresh, at.backfill, at.confirmed, at.mark, at.horizon, at.swept, self._words.generation)
        self._connection.run(self._words["cursors_write"], values)

    def lease_takeover(self) -> Lease | None:
        """Take over the expired lease of the lowest id."""
        values = {
            "generation": self._words.generation,
            "worker": self._worker,
            "now": self._now,
            "expires_at": self._expires_at,
        }
        row = self._row("lease_takeover", values)
        return None if row is None else self._lease(*row)

    def lease_lowest(self) -> int | None:
        """Return the lowest `lo` of the leases."""
        return self._value("lease_lowest", (self._words.generation,))

    def lease_insert(self, lane: Lane, lo: int, hi: int) -> Lease:
        """Insert a lease."""
        values = (self._words.generation, lane, lo, hi, self._worker, self._expires_at)
        number = self._value("lease_insert", values)
        assert number is not None
        return self._lease(number, lane, lo, hi, 1)

    def lease_retry(self) -> Lease | None:
        """Give due failures to a new lease."""
        seqs = [seq for (seq,) in self._connection.rows(self._words["lease_retry"], (self._now, self._limit))]
        if not seqs:
            return None
        lease = self.lease_insert("retry", min(seqs) - 1, max(seqs))
        self._connection.run(self._words["failures_hold"], {"lease": lease.id, "now": self._now, "limit": self._limit})
        return lease

    def journal_ahead(self, seq: int) -> int | None:
        """Return where the next rows above `seq` end."""
        return self._value("journal_ahead", (seq, self._limit))

    def journal_behind(self, seq: int) -> int | None:
        """Return where the next rows at or below `seq` begin."""
        return self._value("journal_behind", (seq, self._limit))

    def journal_step(self, lo: int, hi: int) -> int:
        """Return where one step of a sweep ends."""
        found = self._value("journal_step", (lo, hi, SWEEP_ROWS - 1))
        return hi if found is None else found

    def unsettled(self, lo: int, hi: int) -> tuple[int, int] | None:
        """Return the ends of the first rows of the range neither done nor in failures."""
        row = self._row("unsettled", (lo, hi, self._limit))
        return None if row is None or row[0] is None else (row[0], row[1])

    def horizon_now(self) -> int:
        """Nothing is under way: this transaction is the only writer."""
        return 0

    def horizon_next(self) -> int:
        """Nothing has to end."""
        return 0

    def _row(self, name: str, values: Any) -> Any:
        return self._connection.row(self._words[name], values)

    def _value(self, name: str, values: Any) -> int | None:
        return self._connection.value(self._words[name], values)

    def _lease(self, number: int, lane: Lane, lo: int, hi: int, fence: int) -> Lease:
        generation, source = self._words.generation, self._words.source.id
        return Lease(number, generation, source, lane, lo, hi, self._worker, fence, self._expires_at)


def lease_read(connections: Connections, words: Words, lease: Lease, characters: int) -> Reading:
    """Read the rows of a lease until their text passes the budget, and give the rest back."""
    try:
        return _read(connections, words, lease, characters)
    except UnreadableKeyError:
        _park_unreadable(connections, words, lease)
        return _read(connections, words, lease, characters)


def _park_unreadable(connections: Connections, words: Words, lease: Lease) -> None:
    """Record the rows of a lease whose key is not well-formed as failed, or as gone. Any holder of it would write the same."""
    retry = lease.lane == "retry"
    values = {"lease": lease.id} if retry else {"lo": lease.lo, "hi": lease.hi}
    with connections.transaction() as connection:
        now = clock(connection)
        for seq, deleted, *columns in connection.rows(words["lease_keys_retry" if retry else "lease_keys"], values):
            key = key_read(columns, connections.codec)
            if key_sound(key):
                continue
            if deleted:
                connection.run(words["rows_settle_gone"], (now, lease.worker, seq))
                connection.run(words["failures_forget"], (seq,))
            else:
                stored = ", ".join(f"X'{member.hex()}'" for member in key if isinstance(member, RawText))
                error = f"the key is text that is not valid UTF-8, {stored}; give the row another key"
                connection.run(words["failures_park"], (error, now, seq))


def _read(connections: Connections, words: Words, lease: Lease, characters: int) -> Reading:
    retry = lease.lane == "retry"
    values = {"lease": lease.id} if retry else {"lo": lease.lo, "hi": lease.hi}
    rows: list[SourceRow] = []
    budget = characters
    width = len(words.source.table.key)
    codec = connections.codec
    statement = words["lease_read_retry" if retry else "lease_read"]
    with connections.use() as connection, connection.stream(statement, values) as stream:
        for found in stream:
            if rows and budget < 0:
                return Reading(_narrowed(connections, words, lease, rows[-1].seq), tuple(rows))
            seq, deleted, present, attempts, held = found[:5]
            live = bool(present) and not deleted
            texts = text_decode(found[5 + width :], codec) if live else ()
            budget -= sum(len(text) for text in texts if text is not None)
            rows.append(SourceRow(found[5 : 5 + width], seq, live, texts, attempts, max(held or 0, 0)))
    return Reading(lease, tuple(rows))


def rows_scan(connections: Connections, words: Words, seq: int, limit: int, characters: int) -> list[SourceRow]:
    """Read the next rows of the journal until their text passes the budget."""
    rows: list[SourceRow] = []
    width, codec = len(words.source.table.key), connections.codec
    with connections.use() as connection, connection.stream(words["rows_scan"], {"seq": seq, "limit": limit}) as stream:
        for number, present, *found in stream:
            texts = text_decode(found[width:], codec) if present else ()
            characters -= sum(len(text) for text in texts if text is not None)
            if rows and characters < 0:
                break
            rows.append(SourceRow(tuple(found[:width]), number, bool(present), texts))
    return rows


def text_decode(values: Sequence[bytes | None], codec: str) -> tuple[str | None, ...]:
    """Return the texts of a row, with U+FFFD for what is not text."""
    return tuple([None if value is None else value.decode(codec, "replace").replace("\0", "\ufffd") for value in values])


def leases_renew(connections: Connections, leases: Sequence[Lease], seconds: float) -> list[int]:
    """Put off the expiry of those that are still ours."""
    if not leases:
        return []
    with connections.transaction() as connection:
        now = clock(connection)
        expires_at = now + int(seconds * MICROSECONDS)
        values = [(expires_at, lease.id, lease.fence, lease.worker, now) for lease in leases]
        return [number for (number,) in connection.many_rows(STATEMENTS["lease_renew"], values)]


def lease_release(connections: Connections, lease: Lease) -> None:
    """Let a lease expire at once."""
    with connections.transaction() as connection:
        connection.run(STATEMENTS["lease_release"], (lease.id, lease.fence, lease.worker))


def _narrowed(connections: Connections, words: Words, lease: Lease, seq: int) -> Lease:
    """Give the rows above `seq` back. A lease that is not ours any more is left to its settle to find out."""
    with connections.transaction() as connection:
        connection.run(words["lease_split"], (seq, lease.id, lease.fence, lease.worker, clock(connection)))
        if connection.changes():
            values = (lease.generation_id, lease.lane, seq, lease.hi, lease.worker)
            rest = connection.value(words["lease_remainder"], values)
            connection.run(words["failures_pass_on"], (rest, lease.id, seq))
    return replace(lease, hi=seq)
