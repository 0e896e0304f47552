"""What a worker process has to work on: sources, generations, and what indexes for each."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seamark.core.retry import CONFIGURATION_DELAY_SECONDS, outage_delay
from seamark.edges.drift import Drift
from seamark.errors import EmbedderConfigurationError, EmbedderError, EmbedderUnavailableError, ModelDriftError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from seamark.core.budget import Budget
    from seamark.core.service import Seamark
    from seamark.core.sync import Indexer
    from seamark.model import Generation, Source

    Work = tuple[Source, Generation, Indexer]

CATALOG_SECONDS = 1.0
"""How long a worker may not know of a source or generation that somebody else has made."""
THREADS_MAX = 8


@dataclass(frozen=True, slots=True)
class _Shut:
    """How often in a row an embedder could not be opened, and until when it is left alone, since each try may take long."""

    tries: int
    until: float


class WorkList:
    """What there is to work on, looked up again every second."""

    def __init__(self, service: Seamark, *, strict: bool, budget: Budget | None = None) -> None:
        self._service, self._budget, self._strict = service, budget, strict
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._looked, self._forgotten = -math.inf, 0
        self._work: tuple[Work, ...] = ()
        self._drift = Drift(service)
        self._indexers: dict[int, Indexer] = {}
        self._reopened: dict[int, Indexer] = {}
        self._shut: dict[int, _Shut] = {}
        self._doubted: set[int] = set()

    def forget(self, *, drift: bool = False) -> None:
        """Look again at once; with `drift` at the tables, too."""
        with self._lock:
            self._looked, self._forgotten = -math.inf, self._forgotten + 1
            if drift:
                self._drift = Drift(self._service)

    def doubt(self, generation: Generation) -> None:
        """Give out no more work of this model until it has been compared; it was out, and may be another one by now."""
        assert generation.model is not None
        with self._lock:
            self._service.registry.doubt(generation.model)
            self._doubted |= {generation.id} | {one.id for _, one, _ in self._work if one.model == generation.model}
            for number in self._doubted:
                self._indexers.pop(number, None)
                self._reopened.pop(number, None)
            self._work = self._sure(self._work)
            self._looked, self._forgotten = -math.inf, self._forgotten + 1

    def _sure(self, found: Iterable[Work]) -> tuple[Work, ...]:
        return tuple(work for work in found if work[1].id not in self._doubted)

    def known(self) -> frozenset[int]:
        """Return the generations that were there at the last look."""
        with self._lock:
            return frozenset(generation.id for _, generation, _ in self._work)

    def current(self) -> tuple[Work, ...]:
        """Return the sources and generations to work on; what cannot be worked on here and now is left out.

        One thread at a time looks, which may take as long as a server takes to answer; the others go on with what is known.
        """
        with self._lock:
            known, since = self._work, time.monotonic() - self._looked
        if since < CATALOG_SECONDS or not self._looking.acquire(blocking=not known):
            return known
        try:
            with self._lock:
                looked, forgotten = self._looked, self._forgotten
            if time.monotonic() - looked >= CATALOG_SECONDS:
                found = tuple(self._look())
                with self._lock:
                    self._work = self._sure(found)  # of a model that came to be doubted meanwhile there is no more
                    self._indexers = {generation.id: indexer for _, generation, indexer in self._work}
                    if self._forgotten == forgotten:
                        self._looked = time.monotonic()
            with self._lock:
                return self._work
        finally:
            self._looking.release()

    def _look(self) -> Iterator[Work]:
        for source in self._service.store.sources():
            if self._drift.problems(source):
                continue
            generations = self._generations(source)
            for generation in generations:
                if generation.id in self._doubted:
                    continue
                known = self._indexers.get(generation.id) or self._reopened.pop(generation.id, None)
                indexer = (known if generation.drift is None else None) or self._open(
                    generation, replaced=_replaced(generation, generations)
                )
                if indexer is not None:
                    yield source, generation, indexer

    def _generations(self, source: Source) -> list[Generation]:
        return [one for one in self._service.store.generations(source.id) if one.state != "retired"]

    def reopen(self) -> None:
        """Compare the models that are in doubt, and give out work of those that hold; it takes as long as their servers do."""
        for source in self._service.store.sources() if self._doubted else ():
            generations = self._generations(source)
            for generation in generations:
                if generation.id in self._doubted and generation.backoff_until <= self._service.store.clock():
                    indexer = self._open(generation, replaced=_replaced(generation, generations))
                    if indexer is not None:
                        with self._lock:
                            self._doubted.discard(generation.id)
                            self._reopened[generation.id] = indexer
                            self._looked, self._forgotten = -math.inf, self._forgotten + 1

    def _open(self, generation: Generation, *, replaced: bool) -> Indexer | None:
        """Return the generation's indexer; None, with the reason where `status` shows it, when it is not to be had here."""
        shut = self._shut.get(generation.id, _Shut(0, -math.inf))
        if time.monotonic() < shut.until:
            return None
        try:
            indexer = self._service.indexer(generation, self._budget)
        except EmbedderError as error:
            if self._strict and isinstance(error, EmbedderConfigurationError) and not replaced:
                raise
            delay = CONFIGURATION_DELAY_SECONDS
            if not isinstance(error, EmbedderConfigurationError):
                asked = error.retry_after_seconds if isinstance(error, EmbedderUnavailableError) else None
                delay = outage_delay(shut.tries + 1, asked)
            if not isinstance(error, ModelDriftError):  # which is recorded, and holds all workers
                self._service.store.generation_backoff(generation.id, delay, str(error))
            self._shut[generation.id] = _Shut(shut.tries + 1, time.monotonic() + delay)
            return None
        self._shut.pop(generation.id, None)
        return indexer

    def threads(self) -> int:
        """Return a number of threads that keeps the embedder busy while others read and write."""
        return min(THREADS_MAX, max((indexer.concurrency for _, _, indexer in self.current()), default=1) + 1)


def _replaced(generation: Generation, generations: Sequence[Generation]) -> bool:
    """Say whether another generation is being built to take the place of an active one, whose model may be gone already."""
    return generation.state == "active" and any(
        other.kind == generation.kind and other.state == "building" and not other.manual for other in generations
    )
