"""Work: claiming, reading, renewing and settling leases.

The claim is `seamark.store.claim.claim` over the statements here. Each runs in its own snapshot (READ COMMITTED) while the
generation's row is locked, and that is what makes the sweep exact:

- `horizon_next` is our own transaction id. The look before the claim, in a transaction of its own, saw how far the fresh lane
  had come, so every `seq` up to there had been drawn by then, and whoever drew it had a transaction id; ours is given out later
  and is higher. (The xmax of a snapshot would not do: it is one above the highest id that has *ended*, and a straggler still
  under way may lie above it.) Where the fresh lane has moved since the look, the claim is begun again.
- `horizon_now` is the xmin of a later snapshot: every transaction below it has ended, and `unsettled`, whose snapshot is later
  still, sees what it committed.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from seamark.errors import StoreError
from seamark.model import Claim, Lease, Reading, SourceRow
from seamark.store.claim import SWEEP_ROWS, Cursors, claim
from seamark.store.postgres.names import generation_words

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from seamark.model import Lane, Source
    from seamark.store.claim import Claiming
    from seamark.store.postgres.catalog import Catalog
    from seamark.store.postgres.connection import Connection, Database, Row
    from seamark.store.postgres.names import Words

TRIM_ROWS = 1_000
"""Tombstones dropped in one transaction: a writer who brings one of them back waits for some milliseconds at most."""


class _LookOutdatedError(Exception):
    """The fresh lane has moved between the look and the lock."""


@dataclass(frozen=True, slots=True)
class _Look:
    fresh: int
    horizon_foreign: bool
    origin_horizon_foreign: bool
    expired: bool
    due: bool
    promising: bool


def lease_claim(
    database: Database, catalog: Catalog, generation_id: int, worker: str, limit: int, seconds: float, *, first: Lane
) -> Claim:
    """Look, and claim only where there is something to find: an idle worker neither locks nor writes."""
    words = catalog.generation_words(generation_id)
    if words is None:
        return Claim(None)
    values = {"generation": generation_id, "worker": worker, "limit": limit, "microseconds": round(seconds * 1e6)}
    with database.connection() as connection:
        row = database.run(connection, "look", words, values).fetchone()
    if row is None:
        return Claim(None)
    look = _Look(*row)
    if not look.promising:
        return Claim(None)

    def claimed() -> Claim:
        with database.keyed() as connection:
            return claim(_Claiming(database, connection, words, values, look), first=first)

    try:
        return database.retried(claimed)
    except _LookOutdatedError:
        return Claim(None, again=True)


@contextmanager
def claiming(
    database: Database, catalog: Catalog, generation_id: int, worker: str, limit: int, seconds: float
) -> Generator[Claiming | None]:
    """Open a transaction with the statements of a claim; None where there is no such generation."""
    words = catalog.generation_words(generation_id)
    values = {"generation": generation_id, "worker": worker, "limit": limit, "microseconds": round(seconds * 1e6)}
    with database.connection() as connection:
        row = None if words is None else database.run(connection, "look", words, values).fetchone()
    if words is None or row is None:
        yield None
        return
    with database.keyed() as connection:
        yield _Claiming(database, connection, words, values, _Look(*row))


class _Claiming:
    """The statements of one claim, in one transaction; see `seamark.store.claim.Claiming`."""

    def __init__(
        self, database: Database, connection: Connection, words: Words, values: Mapping[str, object], look: _Look
    ) -> None:
        self._database, self._connection, self._words, self._values, self._look = database, connection, words, values, look
        self._fresh = look.fresh

    def _row(self, name: str, **values: object) -> Row | None:
        cursor = self._database.run(self._connection, name, self._words, {**self._values, **values})
        return cursor.fetchone() if cursor.description else None

    def _value(self, name: str, **values: object) -> int | None:
        row = self._row(name, **values)
        return None if row is None else row[0]

    def cursors(self) -> Cursors:
        row = self._row("cursors")
        if row is None:
            raise StoreError(f"generation {self._values['generation']} has been dropped")
        found = Cursors(*row)
        self._fresh = found.fresh
        return replace(
            found,
            horizon=0 if self._look.horizon_foreign else found.horizon,
            origin_horizon=0 if self._look.origin_horizon_foreign else found.origin_horizon,
        )

    def cursors_write(self, cursors: Cursors) -> None:
        names = ("fresh", "backfill", "confirmed", "mark", "horizon", "swept", "origin_horizon")
        self._row("cursors_write", **{name: getattr(cursors, name) for name in names})

    def lease_takeover(self) -> Lease | None:
        return self._lease(self._row("lease_takeover")) if self._look.expired else None

    def lease_lowest(self) -> int | None:
        return self._value("lease_lowest")

    def lease_insert(self, lane: Lane, lo: int, hi: int) -> Lease:
        lease = self._lease(self._row("lease_insert", lane=lane, lo=lo, hi=hi))
        assert lease is not None
        return lease

    def lease_retry(self) -> Lease | None:
        return self._lease(self._row("lease_retry")) if self._look.due else None

    def journal_ahead(self, seq: int) -> int | None:
        return self._value("journal_ahead", seq=seq)

    def journal_behind(self, seq: int) -> int | None:
        return self._value("journal_behind", seq=seq)

    def journal_step(self, lo: int, hi: int) -> int:
        step = self._value("journal_step", lo=lo, hi=hi, rows=SWEEP_ROWS)
        assert step is not None
        return step

    def unsettled(self, lo: int, hi: int) -> tuple[int, int] | None:
        row = self._row("unsettled", lo=lo, hi=hi)
        return None if row is None or row[0] is None else (row[0], row[1])

    def horizon_now(self) -> int:
        lowest = self._value("horizon_now")
        assert lowest is not None
        return lowest

    def horizon_next(self) -> int:
        if self._fresh != self._look.fresh:
            raise _LookOutdatedError
        own = self._value("horizon_next")
        assert own is not None
        return own

    def _lease(self, row: Row | None) -> Lease | None:
        if row is None:
            return None
        id_, lane, lo, hi, fence, expires_at = row
        generation, worker = self._values["generation"], self._values["worker"]
        assert isinstance(generation, int)
        assert isinstance(worker, str)
        return Lease(id_, generation, int(self._words["source_id"]), lane, lo, hi, worker, fence, expires_at)


# --- reading ------------------------------------------------------------------------------------------------------


def lease_read(database: Database, catalog: Catalog, source: Source, lease: Lease, characters: int) -> Reading:
    """Read a lease's rows with their text; see the contract. The budget counts bytes, which are never fewer than characters."""
    words = catalog.generation_words(lease.generation_id)
    if words is None:
        return Reading(lease, ())
    retry = lease.lane == "retry"
    values = {"lo": lease.lo, "hi": lease.hi, "lease": lease.id, "characters": characters}
    with database.keyed() as connection:
        found = database.run(connection, "lease_read_retry" if retry else "lease_read", words, values).fetchall()
    texts, width = len(source.spec.text), len(source.table.key)
    rows = tuple(_source_row(row, texts, width) for row in found)
    if rows and found[0][0] > len(rows):
        lease = _split(database, words, lease, rows[-1].seq)
    return Reading(lease, rows)


def rows_scan(database: Database, catalog: Catalog, source: Source, seq: int, limit: int, characters: int) -> list[SourceRow]:
    """Read the next rows of the journal; see the contract."""
    values = {"seq": seq, "limit": limit, "characters": characters}
    with database.keyed() as connection:
        found = database.run(connection, "rows_scan", catalog.words(source.id), values).fetchall()
    width = len(source.table.key)
    return [SourceRow(row[-width:], row[0], row[1], row[2:-width] if row[1] else ()) for row in found]


def _source_row(row: Row, texts: int, width: int) -> SourceRow:
    _, seq, live, attempts, held, *_ = row
    return SourceRow(row[-width:], seq, live, row[5 : 5 + texts] if live else (), attempts, max(held, 0))


def _split(database: Database, words: Words, lease: Lease, hi: int) -> Lease:
    """Narrow the lease. Where it is no longer ours nothing is written, and its settle will say so."""
    values = {"lease": lease.id, "fence": lease.fence, "hi": hi, "end": lease.hi}
    with database.transaction() as connection:
        rest = database.run(connection, "lease_split", words, values).fetchone()
        if rest is not None and lease.lane == "retry":
            database.run(connection, "failures_pass_on", words, values | {"rest": rest[0]})
    return replace(lease, hi=hi)


def lease_renew(database: Database, leases: Sequence[Lease], seconds: float) -> Sequence[int]:
    """Put off the expiry of the leases that are ours."""
    values = {
        "leases": [lease.id for lease in leases],
        "fences": [lease.fence for lease in leases],
        "microseconds": round(seconds * 1e6),
    }

    def renew() -> Sequence[int]:
        with database.connection() as connection:
            return [id_ for (id_,) in database.run(connection, "lease_renew", {}, values)]

    return database.retried(renew) if leases else ()


def lease_release(database: Database, lease: Lease) -> None:
    """Let whoever claims next have the lease."""
    with database.connection() as connection:
        database.run(connection, "lease_release", {}, {"lease": lease.id, "fence": lease.fence})


# --- tombstones ---------------------------------------------------------------------------------------------------


def journal_trim(database: Database, catalog: Catalog, source_id: int) -> int:
    """Drop tombstones that nothing can need any more; see the contract."""
    words = catalog.words(source_id)
    with database.connection() as connection:
        found = database.run(connection, "generations_of", {}, {"source": source_id}).fetchall()
        if not found:
            return 0
        parts = [words | generation_words(id_) | {"generation": str(id_)} for (id_,) in found]
        words = words | {
            "settled": " AND ".join(database.compose("journal_trim_settled", part) for part in parts),
            "forgotten": ", ".join(database.compose("journal_trim_forgotten", part) for part in parts),
        }

    def trim() -> int:
        with database.keyed() as connection:
            [(below,)] = database.run(connection, "journal_trim_below", {}, {"source": source_id}).fetchall()
            return database.run(connection, "journal_trim", words, {"below": below or 0, "limit": TRIM_ROWS}).rowcount

    total = 0
    while (count := database.retried(trim)) > 0:
        total += count
    return total
