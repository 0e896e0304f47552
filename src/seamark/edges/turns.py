"""Whose turn it is in a worker, and how fast it goes."""

from __future__ import annotations

import threading
import time
from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from seamark.core.sync import Indexer
    from seamark.model import Generation, Lane, ModelIdentity, Source

    Work = tuple[Source, Generation, Indexer]

_FRESH: tuple[Lane, ...] = ("fresh",) * 3
TURNS: tuple[Lane, ...] = (*_FRESH, "backfill", *_FRESH, "retry", *_FRESH, "sweep")
"""Which lane a turn looks into first. Not always the fresh one, or an endless stream of writes would stop all the others."""
SLOW_SECONDS = 2.0
"""Who waits for a model for so long is not counted among the threads that work."""


class Rates:
    """Rows settled per generation: in all, and per second of late."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._fresh: dict[int, int] = {}
        self._rates: dict[int, float] = {}
        self.total = 0

    def add(self, generation_id: int, rows: int) -> None:
        """Count rows that were settled."""
        with self._lock:
            self._fresh[generation_id] = self._fresh.get(generation_id, 0) + rows
            self.total += rows

    def turn(self) -> dict[int, float]:
        """Close the present interval and return rows per second, smoothed over the last few."""
        with self._lock:
            now = time.monotonic()
            seconds = max(now - self._since, 1e-3)
            for generation_id in self._fresh.keys() | self._rates.keys():
                rate = self._fresh.get(generation_id, 0) / seconds
                before = self._rates.get(generation_id)
                self._rates[generation_id] = rate if before is None else 0.5 * before + 0.5 * rate
            self._fresh.clear()
            self._since = now
            return {generation_id: rate for generation_id, rate in self._rates.items() if rate >= 0.1}  # noqa: PLR2004


class Turns:
    """Whose turn it is: the generations one after the other, and of each the lane that is looked into first."""

    def __init__(self) -> None:
        self._next = 0
        self._lanes: dict[int, Iterator[Lane]] = {}

    def of(self, works: Sequence[Work]) -> Iterator[Work]:
        """Go once through the generations, beginning after the one that the last one ended with."""
        for _ in works:
            self._next = (self._next + 1) % len(works)
            yield works[self._next]

    def first(self, generation_id: int) -> Lane:
        """Return the lane to look into first this time."""
        return next(self._lanes.setdefault(generation_id, cycle(TURNS)))


class Underway:
    """The leases that are being worked at, by model: however long one takes to answer, a thread is left for the others."""

    def __init__(self, threads: int) -> None:
        self._lock = threading.Lock()
        self._threads = threads
        self._begun: dict[ModelIdentity, list[float]] = {}

    def begin(self, generation: Generation) -> float:
        """Count one more; return what ends it."""
        begun = time.monotonic()
        if generation.model is not None:  # words are indexed here, and in no time
            with self._lock:
                self._begun.setdefault(generation.model, []).append(begun)
        return begun

    def end(self, generation: Generation, begun: float) -> None:
        """Count one less."""
        if generation.model is not None:
            with self._lock:
                self._begun[generation.model].remove(begun)

    def full(self, generation: Generation, concurrency: int) -> bool:
        """Say whether to leave a generation alone: its model has as many as it can work at, or slow ones have all but one."""
        if generation.model is None or self._threads == 1:
            return False
        with self._lock:
            begun = self._begun.get(generation.model, [])
            most = min(concurrency + 1, self._threads - 1)
            return len(begun) >= most or (bool(_slow(begun)) and self._slow() >= self._threads - 1)

    def slow(self) -> int:
        """Return how many have been under way for long, each of which keeps a thread."""
        with self._lock:
            return self._slow()

    def _slow(self) -> int:
        return sum(map(_slow, self._begun.values()))


def _slow(begun: Sequence[float]) -> int:
    since = time.monotonic() - SLOW_SECONDS
    return sum(moment < since for moment in begun)
