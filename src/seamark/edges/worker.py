"""A worker process: threads that take one step after another, one that renews leases, one that keeps the indexes up.

Any number of workers on any number of machines may run; they know of each other only through the leases in the database.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from seamark.core.retry import CONFIGURATION_DELAY_SECONDS, outage_delay
from seamark.core.sync import LEASE_SECONDS, step
from seamark.errors import EmbedderConfigurationError, EmbedderError, EmbedderUnavailableError, StoreUnavailableError
from seamark.model import Progress, WorkerBeat

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from seamark.core.service import Seamark, StopSignal
    from seamark.core.sync import Indexer, Step
    from seamark.model import Generation, Lease, Source

IDLE_MIN_SECONDS = 0.005
IDLE_MAX_SECONDS = 0.08
"""A quiet worker looks for fresh rows this often, so that they are started on within 100 ms."""
CATALOG_SECONDS = 1.0
"""How long a worker may not know of a source or generation that somebody else has made."""
KEEPER_SECONDS = LEASE_SECONDS / 3
BEAT_SECONDS = 2.0
UPKEEP_SECONDS = 1.0
TRIM_SECONDS = 30.0
QUIET_SECONDS = 3.0
"""No work for this long, and the upkeep does what it puts off while rows are coming in."""
OUTAGES_AT_START = 3
"""An embedder that is out when it is opened is tried again every few seconds; nobody counts how often."""
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
        self._keeper = _Keeper(service)
        self._rates = _Rates()
        self._catalog = _Catalog(service, strict=until == "current")
        self._failure: BaseException | None = None
        self._outages: dict[int, int] = {}
        self._worked_at = time.monotonic()

    def run(self, threads: int | None, progress: Callable[[Progress], None] | None) -> int:
        """Start the threads, wait for the end, and return the rows settled."""
        count = threads or self._catalog.threads()
        loops = [self._guarded(self._work) for _ in range(count)]
        loops += [self._guarded(self._keep), self._guarded(self._maintain)]
        running = [threading.Thread(target=loop, name=f"seamark-{number}") for number, loop in enumerate(loops)]
        with ExitStack() as stack:
            stack.callback(self._service.store.worker_forget, self.id)
            for thread in running:
                thread.start()
            stack.callback(self._join, running)
            self._watch(progress)
        if self._failure is not None:
            raise self._failure
        return self._rates.total

    def _join(self, running: list[threading.Thread]) -> None:
        self._done.set()
        for thread in running:
            thread.join()

    def _ended(self) -> bool:
        return self._done.is_set() or self._stop.is_set()

    def _guarded(self, loop: Callable[[], None]) -> Callable[[], None]:
        """Run a thread's loop; an error that nothing handles ends the whole worker and is raised where it was started."""

        def guarded() -> None:
            while not self._ended():
                try:
                    loop()
                except StoreUnavailableError:
                    self._done.wait(STORE_RETRY_SECONDS)  # leases expire or are taken up again; nothing is lost
                except BaseException as error:  # noqa: BLE001 raised again by run
                    self._failure = self._failure or error
                    self._done.set()

        return guarded

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
            outcome = step(
                self._service.store,
                source,
                generation,
                indexer,
                self.id,
                self._keeper,
                self._ended,
                self._outages.get(generation.id, 0),
            )
            self._note(generation, outcome)
            worked = worked or outcome.worked
            if not outcome.worked and generation.state == "building" and self._service.store.generation_activate(generation.id):
                self._catalog.forget()
        return worked

    def _note(self, generation: Generation, outcome: Step) -> None:
        if outcome.settled is not None:
            self._rates.add(generation.id, outcome.settled.written)
            self._outages.pop(generation.id, None)
        if outcome.outage is not None:
            self._outages[generation.id] = self._outages.get(generation.id, 0) + 1
            if self._until == "current" and isinstance(outcome.outage, EmbedderConfigurationError):
                raise outcome.outage

    def _keep(self) -> None:
        renewed = beaten = time.monotonic()
        while not self._done.wait(0.5) and not self._stop.is_set():
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
                while not self._ended() and self._service.store.generation_maintain(generation.id, idle=quiet):
                    pass
            if time.monotonic() - trimmed >= TRIM_SECONDS:
                for source in self._service.store.sources():
                    self._service.store.journal_trim(source.id)
                trimmed = time.monotonic()

    # --- the main thread --------------------------------------------------------------------------------------

    def _watch(self, progress: Callable[[Progress], None] | None) -> None:
        """Wait for the end, reporting progress; with `until="current"` find out when it has come."""
        report = Report(self._service, progress)
        while not self._ended():
            self._stop.wait(0.05 if self._until else 0.2)
            if self._done.is_set() or self._stop.is_set():
                break
            with self._store_outage():
                report.tell()
                if self._until == "current" and time.monotonic() - self._worked_at > 2 * IDLE_MAX_SECONDS and self._current():
                    report.tell(last=True)
                    self._finish_indexes()
                    self._done.set()

    @contextmanager
    def _store_outage(self) -> Generator[None]:
        try:
            yield
        except StoreUnavailableError:
            self._done.wait(STORE_RETRY_SECONDS)

    def _current(self) -> bool:
        """Say whether every generation is whole: nothing missing, leased or due to be tried again, and active."""
        for source in self._service.store.sources():
            if source.state != "ready":
                return False
            for generation in self._service.store.generations(source.id):
                if generation.state == "building":
                    return False
                if generation.state == "active":
                    coverage = self._service.store.coverage(source, generation.id)
                    if coverage.missing or coverage.leases or coverage.retrying:
                        return False
        return True

    def _finish_indexes(self) -> None:
        for generation in self._service.store.generations():
            while not self._stop.is_set() and self._service.store.generation_maintain(generation.id, idle=True):
                pass


class Report:
    """Tells how far the work is, about once a second, by exact counts.

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
            self._count()
        self._progress(self._shown)
        self._told = now

    def _count(self) -> None:
        """Count rows that are whole: done in every generation of their source."""
        began = time.monotonic()
        rows = total = 0
        lag: float | None = None
        problem: str | None = None
        for status in self._service.status():
            coverages = [generation.coverage for generation in status.generations]
            total += max((coverage.live for coverage in coverages), default=0)
            rows += min((coverage.live - coverage.missing for coverage in coverages), default=0)
            lags = [coverage.oldest_missing_seconds for coverage in coverages if coverage.oldest_missing_seconds is not None]
            lag = max([*lags, *([] if lag is None else [lag])], default=None)
            problem = next((g.generation.backoff_error for g in status.generations if g.generation.backoff_error), problem)
        self._counted = time.monotonic()
        self._cost = self._counted - began
        rate = self._rate(rows)
        eta = 0.0 if rows == total else (total - rows) / rate if rate > 0 else None
        self._shown = Progress("embed", rows, total, rate, eta, lag, problem)

    def _rate(self, rows: int) -> float:
        """Return whole rows per second over the last few counts, by whichever worker."""
        self._counts.append((self._counted, rows))
        since, before = self._counts[0]
        seconds = self._counted - since
        return max(rows - before, 0) / seconds if seconds > 0 else 0.0


class _Catalog:
    """What there is to work on, looked up again every second."""

    def __init__(self, service: Seamark, *, strict: bool) -> None:
        self._service = service
        self._strict = strict
        self._lock = threading.Lock()
        self._looked = -CATALOG_SECONDS
        self._work: tuple[tuple[Source, Generation, Indexer], ...] = ()
        self._indexers: dict[int, Indexer] = {}

    def forget(self) -> None:
        with self._lock:
            self._looked = -CATALOG_SECONDS

    def current(self) -> tuple[tuple[Source, Generation, Indexer], ...]:
        """Return the sources and generations to work on; a generation whose embedder is not to be had here is left out."""
        with self._lock:
            if time.monotonic() - self._looked >= CATALOG_SECONDS:
                self._work = tuple(self._look())
                self._looked = time.monotonic()
            return self._work

    def _look(self) -> Iterator[tuple[Source, Generation, Indexer]]:
        for source in self._service.store.sources():
            for generation in self._service.store.generations(source.id):
                if generation.state == "retired":
                    continue
                indexer = self._indexers.get(generation.id) or self._open(generation)
                if indexer is not None:
                    self._indexers[generation.id] = indexer
                    yield source, generation, indexer

    def _open(self, generation: Generation) -> Indexer | None:
        """Return the generation's indexer; None, with the reason where `status` shows it, when it is not to be had here."""
        try:
            return self._service.indexer(generation)
        except EmbedderError as error:
            if self._strict and isinstance(error, EmbedderConfigurationError):
                raise
            delay = (
                outage_delay(OUTAGES_AT_START, None)
                if isinstance(error, EmbedderUnavailableError)
                else CONFIGURATION_DELAY_SECONDS
            )
            self._service.store.generation_backoff(generation.id, delay, str(error))
            return None

    def threads(self) -> int:
        """Return a number of threads that keeps the embedder busy while others read and write."""
        return min(THREADS_MAX, max((indexer.concurrency for _, _, indexer in self.current()), default=1) + 1)
