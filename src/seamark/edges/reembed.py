"""A worker that ends when certain generations are active, or can only be activated by force."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from seamark.model import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seamark.core.service import Seamark, StopSignal
    from seamark.core.tracked import Tracked
    from seamark.model import Coverage, Generation

COUNTS = 10
"""The rate is that of the last so many reports, which are a second apart."""


class Reembed:
    """Works on everything there is to work on, and watches the generations that were asked for."""

    def __init__(
        self,
        service: Seamark,
        tracked: Tracked,
        generations: Sequence[Generation],
        progress: Callable[[Progress], None],
        stop: StopSignal,
        budget_tokens: int | None = None,
    ) -> None:
        self._service = service
        self._tracked = tracked
        self._numbers = {generation.id for generation in generations}
        self._progress = progress
        self._asked = stop
        self._budget = budget_tokens
        self._over = False
        self._failed = 0
        self._counts: list[tuple[float, int]] = []

    def run(self) -> int:
        """Work until it is over, or until asked to stop; return how many rows failed in what is not active for it.

        EmbedderError, before anything is done, when a model cannot be used.
        """
        for one in self._tracked.generations():
            if one.generation.id in self._numbers:
                self._service.indexer(one.generation)
        self._service.work(progress=self._look, stop=self, budget_tokens=self._budget)
        return self._failed

    # The stop signal that the worker is given: the caller's, or the end.

    def is_set(self) -> bool:
        """Say whether it is time to stop."""
        return self._over or self._asked.is_set()

    def set(self) -> None:
        """Ask to stop."""
        self._over = True

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until asked to stop, at most so many seconds; say whether it is time to stop."""
        if not self.is_set():
            self._asked.wait(timeout)
        return self.is_set()

    def _look(self, told: Progress) -> None:
        building = [
            one
            for one in self._tracked.generations()
            if one.generation.id in self._numbers and one.generation.state == "building"
        ]
        coverages = [one.coverage for one in building]
        self._report([one.coverage for one in building], told)
        if not building:
            self._over, self._failed = True, 0
        elif all(coverage.missing == 0 and coverage.failed and not coverage.retrying for coverage in coverages):
            self._over, self._failed = True, sum(coverage.failed for coverage in coverages)

    def _report(self, coverages: Sequence[Coverage], told: Progress) -> None:
        total = max((coverage.live for coverage in coverages), default=told.total or 0)
        rows = min((coverage.live - coverage.missing for coverage in coverages), default=total)
        now = time.monotonic()
        self._counts = [*self._counts[-COUNTS:], (now, rows)]
        since, before = self._counts[0]
        rate = max(rows - before, 0) / (now - since) if now > since else 0.0
        eta = 0.0 if rows == total else (total - rows) / rate if rate > 0 else None
        self._progress(Progress(f"reembed {self._tracked.name}", rows, total, rate, eta, told.lag_seconds, told.problem))
