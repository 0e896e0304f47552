"""What a worker process has to work on: sources, generations, and what indexes for each."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from seamark.core.retry import CONFIGURATION_DELAY_SECONDS, outage_delay
from seamark.edges.drift import Drift
from seamark.errors import (
    EmbedderConfigurationError,
    EmbedderError,
    EmbedderUnavailableError,
    ModelDriftError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from seamark.core.budget import Budget
    from seamark.core.service import Seamark
    from seamark.core.sync import Indexer
    from seamark.model import Generation, ModelIdentity, Source

    Work = tuple[Source, Generation, Indexer]

CATALOG_SECONDS = 1.0
"""How long a worker may not know of a source or generation that somebody else has made."""
THREADS_MAX = 8


@dataclass(frozen=True, slots=True)
class _Shut:
    """How often in a row an embedder could not be opened, and until when it is left alone, since each try may take long."""

    tries: int
    until: float


class _Lacking(NamedTuple):
    """A generation whose model is not open, and whether another one is being built that is to take its place."""

    generation: Generation
    replaced: bool


class WorkList:
    """What there is to work on, looked up again every second.

    A model is opened, and compared with what is registered, in a thread of its own: its server may take its time, and nobody
    waits for it who can work at something else.
    """

    def __init__(self, service: Seamark, *, strict: bool, budget: Budget | None = None) -> None:
        self._service, self._budget, self._strict = service, budget, strict
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._looked, self._forgotten = -math.inf, 0
        self._work: tuple[Work, ...] = ()
        self._drift = Drift(service)
        self._indexers: dict[int, Indexer] = {}
        self._lacking: tuple[_Lacking, ...] | None = None
        self._asking: dict[ModelIdentity, threading.Thread] = {}
        self._opened: dict[int, Indexer] = {}  # and not yet found by a look
        self._shut: dict[int, _Shut] = {}
        self._doubts = count(1)
        self._doubted: dict[int, int] = {}  # each with its doubt's number: a comparison settles those from before it began
        self._refused: dict[int, EmbedderConfigurationError] = {}
        self._failure: BaseException | None = None

    def forget(self, *, drift: bool = False) -> None:
        """Look again at once; with `drift` at the tables, too."""
        with self._lock:
            self._look_anew()
            if drift:
                self._drift = Drift(self._service)

    def _look_anew(self) -> None:
        self._looked, self._forgotten = -math.inf, self._forgotten + 1

    def doubt(self, generation: Generation) -> None:
        """Give out no more work of this model until it has been compared; it was out, and may be another one by now."""
        assert generation.model is not None
        with self._lock:
            self._service.registry.doubt(generation.model)
            known = (generation, *(one for _, one, _ in self._work), *(one for one, _ in self._lacking or ()))
            doubt = next(self._doubts)
            for number in {one.id for one in known if one.model == generation.model}:
                self._doubted[number] = doubt
                self._indexers.pop(number, None)
                self._opened.pop(number, None)
            self._work = self._sure(self._work)
            self._look_anew()

    def doubts(self, generation: Generation) -> bool:
        """Say whether the generation's model is in doubt by now: work may have been looked up before it was."""
        with self._lock:
            return generation.id in self._doubted

    def _sure(self, found: Iterable[Work]) -> tuple[Work, ...]:
        return tuple(work for work in found if work[1].id not in self._doubted)

    def refuse(self, generation: Generation, error: EmbedderConfigurationError) -> None:
        """Note that a generation's model cannot work as it is; that it is open again takes it back."""
        with self._lock:
            self._refused[generation.id] = error

    def refused(self) -> Mapping[int, EmbedderConfigurationError]:
        """Return what keeps models of generations, by number, from working until somebody has mended it; only if `strict`."""
        with self._lock:
            return dict(self._refused)

    def known(self) -> frozenset[int]:
        """Return the generations that were there at the last look."""
        with self._lock:
            return frozenset(generation.id for _, generation, _ in self._work)

    def current(self) -> tuple[Work, ...]:
        """Return the sources and generations to work on; what cannot be worked on here and now is left out.

        One thread at a time looks; the others go on with what is known. Raises what has kept a model from being opened, where
        that ends the work.
        """
        with self._lock:
            known, since = self._work, time.monotonic() - self._looked
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if since < CATALOG_SECONDS or not self._looking.acquire(blocking=not known):
            return known
        try:
            with self._lock:
                looked, forgotten, opened = self._looked, self._forgotten, dict(self._opened)
                indexers = self._indexers | opened
            if time.monotonic() - looked >= CATALOG_SECONDS:
                lacking: list[_Lacking] = []
                found = tuple(self._look(indexers, lacking))
                with self._lock:
                    self._work, self._lacking = self._sure(found), tuple(lacking)  # some may be doubted since
                    self._indexers = {generation.id: indexer for _, generation, indexer in self._work}
                    # What was opened since is in `lacking`, too, and stays here so that it is not opened once more.
                    self._opened = {
                        number: indexer for number, indexer in self._opened.items() if opened.get(number) is not indexer
                    }
                    if self._forgotten == forgotten:
                        self._looked = time.monotonic()
            with self._lock:
                return self._work
        finally:
            self._looking.release()

    def _look(self, indexers: Mapping[int, Indexer], lacking: list[_Lacking]) -> Iterator[Work]:
        for source in self._service.store.sources():
            if self._drift.problems(source):
                continue
            generations = [one for one in self._service.store.generations(source.id) if one.state != "retired"]
            for generation in generations:
                indexer = indexers.get(generation.id)
                replaced = _replaced(generation, generations)
                if generation.model is None:
                    indexer = indexer or self._open(generation, replaced=replaced)
                elif indexer is None or generation.drift is not None or generation.id in self._doubted:
                    lacking.append(_Lacking(generation, replaced))
                    continue
                if indexer is not None:
                    yield source, generation, indexer

    # --- models ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to open the models that nobody has opened here, or that are in doubt."""
        self.current()
        clock = self._clock()
        with self._lock:
            for model, lacking in self._due(clock).items():
                self._ask(model, partial(self._open_each, lacking))

    def compare(self) -> None:
        """Begin to compare the models that are worked with, where that is due; the work goes on meanwhile."""
        models: dict[ModelIdentity, list[Generation]] = {}
        for _, generation, _ in self.current():
            if generation.model is not None:
                models.setdefault(generation.model, []).append(generation)
        with self._lock:
            for model, generations in models.items():
                self._ask(model, partial(self._compare_each, generations))

    def opened(self) -> bool:
        """Say whether all of them are, but for those that are not to be had for now."""
        clock = self._clock()
        with self._lock:
            return self._lacking is not None and not self._asking and not self._due(clock)

    def close(self) -> None:
        """Wait for those that are being asked; raises as `current` does."""
        with self._lock:
            asking = tuple(self._asking.values())
        for thread in asking:
            thread.join()
        with self._lock:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _clock(self) -> int:
        """Return the database's time where it is needed: what is in doubt is not asked while its outage is waited for."""
        return self._service.store.clock() if self._doubted else 0

    def _due(self, clock: int) -> dict[ModelIdentity, list[_Lacking]]:
        """Return what may be opened now, by model: the generations of one model are opened one after the other."""
        due: dict[ModelIdentity, list[_Lacking]] = {}
        for lacking in self._lacking or ():
            generation = lacking.generation
            backs_off = generation.id in self._doubted and generation.backoff_until > clock
            waits = backs_off or generation.id in self._opened or self._is_shut(generation)
            if generation.model is not None and not waits:
                due.setdefault(generation.model, []).append(lacking)
        return due

    def _is_shut(self, generation: Generation) -> bool:
        shut = self._shut.get(generation.id)
        return shut is not None and time.monotonic() < shut.until

    def _ask(self, model: ModelIdentity, task: Callable[[], None]) -> None:
        """Do what may wait for a model's server in a thread of its own, unless the model has one; called with the lock."""
        if model not in self._asking:
            thread = threading.Thread(target=self._asked, args=(model, task), name="seamark-model")
            self._asking[model] = thread
            thread.start()

    def _asked(self, model: ModelIdentity, task: Callable[[], None]) -> None:
        try:
            task()
        except StoreUnavailableError:
            pass  # what was not opened, or compared, is due still, and begun again
        except BaseException as error:  # noqa: BLE001 raised to whoever asks for work next
            with self._lock:
                self._failure = error
        finally:
            with self._lock:
                self._asking.pop(model)

    def _open_each(self, lacking: Sequence[_Lacking]) -> None:
        for generation, replaced in lacking:
            with self._lock:
                doubt = self._doubted.get(generation.id)
            indexer = self._open(generation, replaced=replaced)
            with self._lock:
                if indexer is not None and self._doubted.get(generation.id) == doubt:
                    self._doubted.pop(generation.id, None)
                    self._opened[generation.id] = indexer
                    self._look_anew()

    def _compare_each(self, generations: Sequence[Generation]) -> None:
        for generation in generations:
            if not self._service.registry.holds(generation):
                return self.doubt(generation)  # and with it all others of the model
        return None

    def _open(self, generation: Generation, *, replaced: bool) -> Indexer | None:
        """Return the generation's indexer; None, with the reason where `status` shows it, when it is not to be had here."""
        if self._is_shut(generation):
            return None
        try:
            indexer = self._service.indexer(generation, self._budget)
        except EmbedderError as error:
            shut = self._shut.get(generation.id)
            tries = 1 if shut is None else shut.tries + 1
            delay = CONFIGURATION_DELAY_SECONDS
            told = isinstance(error, ModelDriftError)  # which is recorded, and holds all workers
            if not isinstance(error, EmbedderConfigurationError):
                asked = error.retry_after_seconds if isinstance(error, EmbedderUnavailableError) else None
                delay = outage_delay(tries, asked)
            elif self._strict and not replaced:
                self.refuse(generation, error)
                told = True  # by this worker at its end: who has mended it since need not wait
            if not told:
                self._service.store.generation_backoff(generation.id, delay, str(error))
            self._shut[generation.id] = _Shut(tries, time.monotonic() + delay)
            return None
        self._shut.pop(generation.id, None)
        with self._lock:
            self._refused.pop(generation.id, None)
        return indexer

    def threads(self) -> int:
        """Return a number of threads that keeps the embedder busy while others read and write."""
        return min(THREADS_MAX, max((indexer.concurrency for _, _, indexer in self.current()), default=1) + 1)


def _replaced(generation: Generation, generations: Sequence[Generation]) -> bool:
    """Say whether another generation is being built to take the place of an active one, whose model may be gone already."""
    return generation.state == "active" and any(
        other.kind == generation.kind and other.state == "building" and not other.manual for other in generations
    )
