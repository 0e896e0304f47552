"""How far the work is, and what it waits for."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from seamark.edges.drift import Drift
from seamark.errors import StoreUnavailableError
from seamark.model import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from seamark.core.service import Seamark
    from seamark.model import GenerationStatus, SourceStatus

REPORT_SECONDS = 1.0
RATE_COUNTS = 10


class Report:
    """Tells how far the work is, about once a second, by exact counts; and what is waited for, the store itself included.

    A count takes time on a large table, so the time between two is at least twenty times what one took.
    """

    def __init__(self, service: Seamark, progress: Callable[[Progress], None] | None) -> None:
        self._service = service
        self._drift = Drift(service)
        self._progress = progress
        self._told = self._counted = -REPORT_SECONDS
        self._cost = 0.0
        self._shown = Progress("embed", 0, None, 0.0)
        self._counts: deque[tuple[float, int]] = deque(maxlen=RATE_COUNTS)

    def tell(self, *, last: bool = False) -> None:
        """Tell, if it is time to."""
        now = time.monotonic()
        if self._progress is None or (now - self._told < REPORT_SECONDS and not last):
            return
        if last or now - self._counted >= max(REPORT_SECONDS, 20 * self._cost):
            began = time.monotonic()
            try:
                self._count()
                self._cost = time.monotonic() - began
            except StoreUnavailableError as error:
                self._shown = replace(self._shown, rows_per_second=0.0, eta_seconds=None, problem=str(error))
            self._counted = time.monotonic()
        self._progress(self._shown)
        self._told = now

    def _count(self) -> None:
        """Count rows that are whole: done in every generation of their source."""
        rows = total = 0
        lags: list[float] = []
        problem: str | None = None
        for status in self._service.status(self._drift.problems):
            coverages = [generation.coverage for generation in status.generations]
            total += max((coverage.live for coverage in coverages), default=0)
            rows += min((coverage.live - coverage.missing for coverage in coverages), default=0)
            lags += [coverage.oldest_missing_seconds for coverage in coverages if coverage.oldest_missing_seconds is not None]
            problem = _problem(status) or problem
        rate = self._rate(rows)
        eta = 0.0 if rows == total else (total - rows) / rate if rate > 0 else None
        self._shown = Progress("embed", rows, total, rate, eta, max(lags, default=None), problem)

    def _rate(self, rows: int) -> float:
        """Return whole rows per second over the last few counts, by whichever worker."""
        now = time.monotonic()
        self._counts.append((now, rows))
        since, before = self._counts[0]
        return max(rows - before, 0) / (now - since) if now > since else 0.0


def _problem(status: SourceStatus) -> str | None:
    """Return what a source waits for."""
    if status.problems:
        return f"{status.source.name!r}: {status.problems[0]}"
    if status.unfinished:
        return f"{status.source.name!r} is still being attached; if nobody is at it, attach it again with the same words"
    embedders = (each.generation.drift or each.generation.backoff_error for each in status.generations)
    batches = (_batch(status.source.name, each) for each in status.generations)
    return next((problem for problem in (*embedders, *batches) if problem), None)


def _batch(name: str, status: GenerationStatus) -> str | None:
    """Return how many rows of an index are missing while its backfill waits for a batch; those of the fresh lane do not."""
    batch, missing = status.batch, status.coverage.missing
    if batch is None or not missing:
        return None
    there = f", {batch.provider_id}" if batch.provider_id is not None else ""
    rows = f"1 row of {name!r} is missing" if missing == 1 else f"{missing:,} rows of {name!r} are missing"
    told = f": {batch.error}" if batch.error is not None else ", which may take a day"
    return f"{rows}; the backfill waits for batch {batch.id} at the provider ({batch.state}{there}){told}"
