"""The claim, once for both databases: the order of the lanes, over the statements that each database offers.

Everything here runs inside one short transaction that holds the generation's row. docs/architecture.md says why it is exact;
`tests/unit/test_protocol.py` runs it through random histories.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from seamark.model import Claim

if TYPE_CHECKING:
    from collections.abc import Callable

    from seamark.model import Lane, Lease

SWEEP_ROWS = 10_000
"""Journal rows that one sweep step looks at: some milliseconds of work."""
SWEEP_OVERDUE_ROWS = 100_000
"""A sweep window this wide is worked on before the fresh lane, so that an endless stream of writes cannot starve it."""


@dataclass(frozen=True, slots=True)
class Cursors:
    """The claim's part of a generation's row.

    `horizon` is the transaction id below which every transaction must have ended before the part of the journal up to `mark`
    can be complete; `origin_horizon` likewise for the part up to `origin`. Both are 0 on a database with a single writer.
    """

    origin: int
    fresh: int
    backfill: int
    confirmed: int
    mark: int | None
    horizon: int
    swept: int
    origin_horizon: int
    backing_off: bool
    held: bool = False
    """A batch of the provider's is under way, whose vectors the backfill waits for."""


class Claiming(Protocol):
    """The statements of one claim, within its transaction. `seq` ranges are `lo < seq <= hi` throughout."""

    def cursors(self) -> Cursors:
        """Lock the generation's row until the transaction ends, and return its cursors."""
        ...

    def cursors_write(self, cursors: Cursors) -> None:
        """Write all cursors back."""
        ...

    def lease_takeover(self) -> Lease | None:
        """Take over the expired lease with the lowest id, with fence + 1, skipping one that is being settled."""
        ...

    def lease_lowest(self) -> int | None:
        """Return the lowest `lo` of the generation's leases, expired ones included; None if it has none."""
        ...

    def lease_insert(self, lane: Lane, lo: int, hi: int) -> Lease:
        """Insert a lease with fence 1."""
        ...

    def lease_retry(self) -> Lease | None:
        """Give up to the claim's limit of due failures, oldest first, to a new lease over their range; None if none is due.

        Due: `retry_at` has passed, the failure belongs to no lease, and its `seq` is still the journal's.
        """
        ...

    def journal_ahead(self, seq: int) -> int | None:
        """Return the `seq` of the claim's limit-th journal row above `seq`, or of the last one; None if there is none."""
        ...

    def journal_behind(self, seq: int) -> int | None:
        """Return the `seq` of the claim's limit-th journal row at or below `seq`, descending, or of the last; None if none."""
        ...

    def journal_step(self, lo: int, hi: int) -> int:
        """Return the `seq` of the SWEEP_ROWS-th journal row of the range, or `hi` when it has fewer."""
        ...

    def unsettled(self, lo: int, hi: int) -> tuple[int, int] | None:
        """Return the first and last `seq` of the claim's limit first rows of the range neither done nor in failures."""
        ...

    def horizon_now(self) -> int:
        """Return the lowest transaction id still under way: the xmin of a snapshot taken now."""
        ...

    def horizon_next(self) -> int:
        """Return a transaction id above that of every transaction that may have taken a `seq` up to the fresh cursor.

        Not the xmax of a snapshot: that is one above the highest id that has ended, and a straggler still under way may lie
        above it.
        """
        ...


def claim(work: Claiming, *, first: Lane = "fresh") -> Claim:
    """Claim the next piece of work: expired leases, then a lane, in the order of `LANES` but for the one that is to be first.

    A worker now and then begins with another lane than the fresh one: under an endless stream of writes there are always fresh
    rows, and rows to sweep after them, and nothing behind them would ever be begun.
    """
    cursors = work.cursors()
    if cursors.backing_off:
        return Claim(None)
    if (lease := work.lease_takeover()) is not None:
        return Claim(lease)
    overdue: tuple[Lane, ...] = ("sweep",) if cursors.fresh - cursors.confirmed >= SWEEP_OVERDUE_ROWS else ()
    for lane in dict.fromkeys((*overdue, first, *LANES)):
        if lane != "fresh":
            cursors = _marked(work, cursors)
        if lane == "backfill" and cursors.held and cursors.backfill:
            continue
        if (found := LANES[lane](work, cursors)) is not None:
            return found
    return Claim(None)


def _fresh(work: Claiming, cursors: Cursors) -> Claim | None:
    seq = work.journal_ahead(cursors.fresh)
    if seq is None:
        return None
    work.cursors_write(replace(cursors, fresh=seq))
    return Claim(work.lease_insert("fresh", cursors.fresh, seq))


def _retry(work: Claiming, _: Cursors) -> Claim | None:
    lease = work.lease_retry()
    return None if lease is None else Claim(lease)


def _backfill(work: Claiming, cursors: Cursors) -> Claim | None:
    """Claim the newest rows not claimed yet at or below the origin, and at last what is to be swept up there.

    When every transaction that was open as the generation began has ended before the first of these claims, none of them can
    leave a row behind the cursor, and there is nothing to sweep up afterwards.
    """
    if cursors.backfill == 0:
        return _sweep_origin(work, cursors)
    if cursors.backfill == cursors.origin and cursors.swept >= 0 and work.horizon_now() >= cursors.origin_horizon:
        cursors = replace(cursors, swept=cursors.origin)
    seq = work.journal_behind(cursors.backfill)
    if seq is None:
        work.cursors_write(replace(cursors, backfill=0))
        return Claim(None, again=True)
    work.cursors_write(replace(cursors, backfill=seq - 1))
    return Claim(work.lease_insert("backfill", seq - 1, cursors.backfill))


def _marked(work: Claiming, cursors: Cursors) -> Cursors:
    """Return the cursors with a mark to sweep up to, where there is anything to sweep. Whoever writes them back keeps it."""
    if cursors.mark is not None or cursors.fresh == cursors.confirmed:
        return cursors
    marked = replace(cursors, mark=cursors.fresh, horizon=work.horizon_next())
    work.cursors_write(marked)
    return marked


def _sweep_fresh(work: Claiming, cursors: Cursors) -> Claim | None:
    """Follow the fresh lane with `confirmed`: rows that committed after the cursor had passed their `seq` are found here."""
    mark = cursors.mark
    if mark is None or work.horizon_now() < cursors.horizon or _leased_below(work, mark):
        return None
    step = work.journal_step(cursors.confirmed, mark)
    if (missing := work.unsettled(cursors.confirmed, step)) is not None:
        return Claim(work.lease_insert("sweep", missing[0] - 1, missing[1]))
    work.cursors_write(replace(cursors, confirmed=step, mark=None if step == mark else mark))
    return Claim(None, again=True)


def _sweep_origin(work: Claiming, cursors: Cursors) -> Claim | None:
    """Do the same, once, for the part of the journal that the backfill went through."""
    if cursors.swept >= cursors.origin or work.horizon_now() < cursors.origin_horizon or _leased_below(work, cursors.origin):
        return None
    step = work.journal_step(cursors.swept, cursors.origin)
    if (missing := work.unsettled(cursors.swept, step)) is not None:
        return Claim(work.lease_insert("sweep", missing[0] - 1, missing[1]))
    work.cursors_write(replace(cursors, swept=step))
    return Claim(None, again=True)


def hand_out(work: Claiming) -> bool:
    """Do one step of the sweep up to the origin, and leave what is missing as a lease for anybody; say whether there is more.

    Only for a generation that nobody works at: a lease of before would be handed out twice.
    """
    cursors = work.cursors()
    if cursors.swept >= cursors.origin or work.horizon_now() < cursors.origin_horizon:
        return False
    if cursors.swept < 0 and _leased_below(work, cursors.origin):
        return False
    step = work.journal_step(cursors.swept, cursors.origin)
    missing = work.unsettled(cursors.swept, step)
    if missing is not None:
        work.lease_insert("sweep", missing[0] - 1, missing[1])
    work.cursors_write(replace(cursors, swept=step if missing is None else missing[1]))
    return True


def _leased_below(work: Claiming, seq: int) -> bool:
    lowest = work.lease_lowest()
    return lowest is not None and lowest < seq


LANES: dict[Lane, Callable[[Claiming, Cursors], Claim | None]] = {
    "fresh": _fresh,
    "retry": _retry,
    "sweep": _sweep_fresh,
    "backfill": _backfill,
}
"""The lanes, in the order in which they are tried."""
