"""A worker process: threads that take one step after another, one that renews leases, one that keeps the indexes up.

Any number of workers on any number of machines may run; they know of each other only through the leases in the database.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from seamark.core.retry import CONFIGURATION_DELAY_SECONDS, outage_delay
from seamark.core.sync import LEASE_SECONDS, step
from seamark.errors import (
    EmbedderConfigurationError,
    EmbedderError,
    EmbedderUnavailableError,
    SourceDriftError,
    StoreError,
    StoreUnavailableError,
)
from seamark.model import Progress, WorkerBeat

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator

    from seamark.core.service import Seamark, StopSignal
    from seamark.core.sync import Indexer
    from seamark.model import Generation, Lease, Source, SourceStatus

IDLE_MIN_SECONDS = 0.005
IDLE_MAX_SECONDS = 0.08
"""A quiet worker looks for fresh rows this often, so that they are started on within 100 ms."""
CATALOG_SECONDS = 1.0
"""How long a worker may not know of a source or generation that somebody else has made."""
KEEPER_SECONDS = LEASE_SECONDS / 3
KEEPER_LOOK_SECONDS = 0.5
BEAT_SECONDS = 2.0
UPKEEP_SECONDS = 1.0
TRIM_SECONDS = 30.0
QUIET_SECONDS = 3.0
"""No work for this long, and the upkeep does what it puts off while rows are coming in."""
COUNT_SHARE = 4
"""An exact count takes time on a large table, so one that looks for the end is followed by so many times that without."""
REPORT_SECONDS = 1.0
RATE_COUNTS = 10
STORE_RETRY_SECONDS = 1.0
THREADS_MAX = 8


def run(
    service: Seamark,
    *,
    until: Literal["current"] | None,
    threads: int | None,
    progress: Callable[[Progress], None] | None,
    stop: StopSignal | None,
) -> int:
    """Run worker threads in this process until `stop` is set or, with `until="current"`, nothing is missing."""
    worker = Worker(service, until=until, stop=stop or threading.Event())
    return worker.run(threads, progress)


class _Keeper:
    """The leases of this process, renewed from one thread."""

    def __init__(self, service: Seamark) -> None:
        self._service = service
        self._held: dict[int, Lease] = {}
        self._lock = threading.Lock()

    def hold(self, lease: Lease) -> None:
        with self._lock:
            self._held[lease.id] = lease

    def drop(self, lease: Lease) -> None:
        with self._lock:
            self._held.pop(lease.id, None)

    def holding(self) -> bool:
        with self._lock:
            return bool(self._held)

    def renew(self) -> None:
        with self._lock:
            held = tuple(self._held.values())
        if held:
            self._service.store.lease_renew(held, LEASE_SECONDS)


class _Rates:
    """Rows settled per generation: in all, and per second of late."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._fresh: dict[int, int] = {}
        self._rates: dict[int, float] = {}
        self.total = 0

    def add(self, generation_id: int, rows: int) -> None:
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


class Worker:
    """The threads of one worker process and what they share."""

    def __init__(self, service: Seamark, *, until: Literal["current"] | None, stop: StopSignal) -> None:
        self.id = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._service = service
        self._until = until
        self._stop = stop
        self._done = threading.Event()
        self._left = threading.Event()
        self._keeper = _Keeper(service)
        self._rates = _Rates()
        self._catalog = _Catalog(service, strict=until == "current")
        self._failure: BaseException | None = None
        self._outages: dict[int, int] = {}
        self._worked_at = self._count_at = time.monotonic()

    def run(self, threads: int | None, progress: Callable[[Progress], None] | None) -> int:
        """Start the threads, wait for the end, and return the rows settled."""
        count = threads or self._catalog.threads()
        working = [self._work] * count + [self._maintain]
        with self._registered(), self._running([self._keep], self._left), self._running(working, self._done):
            self._watch(progress)
        if self._failure is not None:
            raise self._failure
        return self._rates.total

    @contextmanager
    def _registered(self) -> Generator[None]:
        try:
            yield
        finally:
            with suppress(StoreUnavailableError):  # what a worker that died left is forgotten as well, a day later
                self._service.store.worker_forget(self.id)

    @contextmanager
    def _running(self, loops: Collection[Callable[[], None]], end: threading.Event) -> Generator[None]:
        """Run each loop in a thread of its own for the length of a block, then set `end` and wait for them."""
        started: list[threading.Thread] = []
        try:
            for loop in loops:
                thread = threading.Thread(target=self._guarded, args=(loop, end), name=f"seamark{loop.__name__}")
                thread.start()
                started.append(thread)
            yield
        finally:
            end.set()
            for thread in started:
                thread.join()

    def _guarded(self, loop: Callable[[], None], end: threading.Event) -> None:
        """Run a thread's loop to its end; an error that nothing handles ends the whole worker and is raised by `run`."""
        while True:
            try:
                return loop()
            except StoreUnavailableError:
                end.wait(STORE_RETRY_SECONDS)  # leases expire or are taken up again; nothing is lost
            except BaseException as error:  # noqa: BLE001 raised again by run
                self._failure = self._failure or error
                self._done.set()
                return None

    def _ended(self) -> bool:
        return self._done.is_set() or self._stop.is_set()

    @contextmanager
    def _unless_detached(self, generations: Collection[int]) -> Generator[None]:
        """Go on when the store fails over generations whose tables went meanwhile: dropped, or the source's is another now."""
        try:
            yield
        except StoreError:
            store = self._service.store
            there = {generation.id for generation in store.generations()}
            if there.issuperset(generations) and not any(map(self._service.source_problems, store.sources())):
                raise
            self._catalog.forget()

    # --- the threads ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        idle = IDLE_MIN_SECONDS
        while not self._ended():
            if self._round():
                idle = IDLE_MIN_SECONDS
                self._worked_at = time.monotonic()
            else:
                self._done.wait(idle)
                idle = min(idle * 2, IDLE_MAX_SECONDS)

    def _round(self) -> bool:
        """Take one step in every generation; say whether any was worth it."""
        worked = False
        for source, generation, indexer in self._catalog.current():
            if self._ended():
                return True
            with self._unless_detached([generation.id]):
                worked = self._step(source, generation, indexer) or worked
        return worked

    def _step(self, source: Source, generation: Generation, indexer: Indexer) -> bool:
        store = self._service.store
        # Calls that were under way together fail together, and are one outage.
        outages = self._outages.get(generation.id, 0)
        outcome = step(store, source, generation, indexer, self.id, self._keeper, self._ended, outages)
        if outcome.outage is not None:
            self._outages[generation.id] = outages + 1
            if self._until == "current" and isinstance(outcome.outage, EmbedderConfigurationError):
                raise outcome.outage
        if outcome.settled is not None:
            self._rates.add(generation.id, outcome.settled.written)
            if self._outages.pop(generation.id, 0) or generation.backoff_error is not None:
                self._recovered(source, generation)
        if not outcome.worked and generation.state == "building" and store.generation_activate(generation.id):
            self._catalog.forget()
        return outcome.worked

    def _recovered(self, source: Source, generation: Generation) -> None:
        """Clear what is shown of an outage that is over, unless another worker has met with the next one already."""
        store = self._service.store
        now = next((known for known in store.generations(source.id) if known.id == generation.id), None)
        if now is not None and now.backoff_error is not None and now.backoff_until <= store.clock():
            store.generation_backoff(generation.id, 0.0, None)
        self._catalog.forget()

    def _keep(self) -> None:
        """Renew leases, and tell that this worker lives, until no thread is left that could hold one.

        After an outage of the store it begins anew, and renews at once.
        """
        renewed = beaten = -math.inf
        while not self._left.wait(KEEPER_LOOK_SECONDS):
            now = time.monotonic()
            if now - renewed >= KEEPER_SECONDS:
                self._keeper.renew()
                renewed = now
            if now - beaten >= BEAT_SECONDS:
                self._beat()
                beaten = now

    def _beat(self) -> None:
        beat = WorkerBeat(self.id, socket.gethostname(), os.getpid(), 0, 0, self._rates.turn())
        self._service.store.worker_beat(beat)

    def _maintain(self) -> None:
        trimmed = time.monotonic()
        while not self._done.wait(UPKEEP_SECONDS) and not self._stop.is_set():
            quiet = time.monotonic() - self._worked_at >= QUIET_SECONDS
            for _, generation, _ in self._catalog.current():
                with self._unless_detached([generation.id]):
                    self._maintain_all(generation, idle=quiet)
            if time.monotonic() - trimmed >= TRIM_SECONDS:
                self._trim()
                trimmed = time.monotonic()

    def _maintain_all(self, generation: Generation, *, idle: bool) -> None:
        while not self._ended() and self._service.store.generation_maintain(generation.id, idle=idle):
            pass

    def _trim(self) -> None:
        for source in self._service.store.sources():
            with self._unless_detached([known.id for known in self._service.store.generations(source.id)]):
                self._service.store.journal_trim(source.id)

    # --- the main thread --------------------------------------------------------------------------------------

    def _watch(self, progress: Callable[[Progress], None] | None) -> None:
        """Wait for the end, reporting progress; with `until="current"` find out when it has come."""
        report = Report(self._service, progress)
        while not self._ended():
            self._stop.wait(0.05 if self._until else 0.2)
            if self._done.is_set() or self._stop.is_set():
                break
            with self._store_outage(), self._unless_detached(self._catalog.known()):
                report.tell()
                if self._until == "current" and self._quiet() and self._current():
                    report.tell(last=True)
                    self._finish_indexes()
                    self._done.set()

    @contextmanager
    def _store_outage(self) -> Generator[None]:
        try:
            yield
        except StoreUnavailableError:
            self._done.wait(STORE_RETRY_SECONDS)

    def _quiet(self) -> bool:
        """Say whether there may be nothing left to do, without asking the database."""
        now = time.monotonic()
        return now - self._worked_at > 2 * IDLE_MAX_SECONDS and now >= self._count_at and not self._keeper.holding()

    def _current(self) -> bool:
        began = time.monotonic()
        try:
            return self._whole()
        finally:
            now = time.monotonic()
            self._count_at = now + COUNT_SHARE * (now - began)

    def _whole(self) -> bool:
        """Say whether every generation is whole: nothing missing, leased or due to be tried again, and active.

        A source that is no longer as it was attached never will be: that is raised, once all the others are.
        """
        drifted: SourceDriftError | None = None
        for source in self._service.store.sources():
            if problems := self._service.source_problems(source):
                drifted = SourceDriftError(source.name, problems)
                continue
            if source.state != "ready":
                return False
            for generation in self._service.store.generations(source.id):
                if generation.state == "building":
                    return False
                if generation.state == "active":
                    coverage = self._service.store.coverage(source, generation.id)
                    if coverage.missing or coverage.leases or coverage.retrying:
                        return False
        if drifted is not None:
            raise drifted
        return True

    def _finish_indexes(self) -> None:
        for generation in self._service.store.generations():
            self._maintain_all(generation, idle=True)


class Report:
    """Tells how far the work is, about once a second, by exact counts; and what is waited for, the store itself included.

    A count takes time on a large table, so the time between two is at least twenty times what one took.
    """

    def __init__(self, service: Seamark, progress: Callable[[Progress], None] | None) -> None:
        self._service = service
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
            except StoreUnavailableError as error:
                self._shown = replace(self._shown, rows_per_second=0.0, eta_seconds=None, problem=str(error))
            self._counted = time.monotonic()
            self._cost = self._counted - began
        self._progress(self._shown)
        self._told = now

    def _count(self) -> None:
        """Count rows that are whole: done in every generation of their source."""
        rows = total = 0
        lags: list[float] = []
        problem: str | None = None
        for status in self._service.status():
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
    if status.source.state == "enrolling":
        return f"{status.source.name!r} is still being attached; if nobody is at it, attach it again with the same words"
    return next((each.generation.backoff_error for each in status.generations if each.generation.backoff_error), None)


@dataclass(frozen=True, slots=True)
class _Shut:
    """How often in a row an embedder could not be opened, and until when it is left alone, since each try may take long."""

    tries: int
    until: float


class _Catalog:
    """What there is to work on, looked up again every second."""

    def __init__(self, service: Seamark, *, strict: bool) -> None:
        self._service = service
        self._strict = strict
        self._lock = threading.Lock()
        self._looked = -CATALOG_SECONDS
        self._work: tuple[tuple[Source, Generation, Indexer], ...] = ()
        self._indexers: dict[int, Indexer] = {}
        self._shut: dict[int, _Shut] = {}

    def forget(self) -> None:
        with self._lock:
            self._looked = -CATALOG_SECONDS

    def known(self) -> frozenset[int]:
        """Return the generations that were there at the last look."""
        with self._lock:
            return frozenset(generation.id for _, generation, _ in self._work)

    def current(self) -> tuple[tuple[Source, Generation, Indexer], ...]:
        """Return the sources and generations to work on; what cannot be worked on here and now is left out."""
        with self._lock:
            if time.monotonic() - self._looked >= CATALOG_SECONDS:
                self._work = tuple(self._look())
                self._indexers = {generation.id: indexer for _, generation, indexer in self._work}
                self._looked = time.monotonic()
            return self._work

    def _look(self) -> Iterator[tuple[Source, Generation, Indexer]]:
        for source in self._service.store.sources():
            if self._service.source_problems(source):
                continue
            for generation in self._service.store.generations(source.id):
                if generation.state == "retired":
                    continue
                indexer = self._indexers.get(generation.id) or self._open(generation)
                if indexer is not None:
                    yield source, generation, indexer

    def _open(self, generation: Generation) -> Indexer | None:
        """Return the generation's indexer; None, with the reason where `status` shows it, when it is not to be had here."""
        shut = self._shut.get(generation.id, _Shut(0, -math.inf))
        if time.monotonic() < shut.until:
            return None
        try:
            indexer = self._service.indexer(generation)
        except EmbedderError as error:
            if self._strict and isinstance(error, EmbedderConfigurationError):
                raise
            delay = CONFIGURATION_DELAY_SECONDS
            if not isinstance(error, EmbedderConfigurationError):
                asked = error.retry_after_seconds if isinstance(error, EmbedderUnavailableError) else None
                delay = outage_delay(shut.tries + 1, asked)
            self._service.store.generation_backoff(generation.id, delay, str(error))
            self._shut[generation.id] = _Shut(shut.tries + 1, time.monotonic() + delay)
            return None
        self._shut.pop(generation.id, None)
        return indexer

    def threads(self) -> int:
        """Return a number of threads that keeps the embedder busy while others read and write."""
        return min(THREADS_MAX, max((indexer.concurrency for _, _, indexer in self.current()), default=1) + 1)
