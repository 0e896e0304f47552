"""A worker process: threads that take one step after another, one that renews leases, one that keeps the indexes up.

Any number of workers on any number of machines may run; they know of each other only through the leases in the database.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from seamark.core.lifecycle import stamps_clear
from seamark.core.polling import poll
from seamark.core.sync import LEASE_SECONDS, step
from seamark.edges.auditor import Auditor
from seamark.edges.indexed import Indexed
from seamark.edges.keeper import Keeper
from seamark.edges.report import Report
from seamark.edges.turns import Rates, Turns, Underway
from seamark.edges.worklist import CATALOG_SECONDS, THREADS_MAX, WorkList
from seamark.errors import (
    BudgetSpentError,
    EmbedderConfigurationError,
    StoreError,
    StoreIncompatibleError,
    StorePermissionError,
    StoreUnavailableError,
)
from seamark.model import Claim, WorkerBeat

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator

    from seamark.core.budget import Budget
    from seamark.core.service import Seamark, StopSignal
    from seamark.edges.worklist import Work
    from seamark.model import Generation, Lease, Progress, Source


IDLE_MIN_SECONDS = 0.005
IDLE_MAX_SECONDS = 0.06
"""A quiet worker looks for fresh rows this often, so that they are started on within 100 ms."""
KEEPER_SECONDS = LEASE_SECONDS / 3
KEEPER_LOOK_SECONDS = 0.5
BEAT_SECONDS = 2.0
UPKEEP_SECONDS = 1.0
POLL_SECONDS = 0.5
TRIM_SECONDS = 30.0
KEPT_TRIMS = 120
"""Every so many times rows are looked for that have left a table, which takes the longer the more are outside the `where`."""
QUIET_SECONDS = 3.0
"""No work for this long, and the upkeep does what it puts off while rows are coming in."""
LOOK_SECONDS = 0.5
"""While there is work, whether the end has come is looked at this often."""
LOOK_SHARE = 4
LOOK_MAX_SECONDS = 5.0
"""To look takes time on a large table, so a look for the end is followed by so many times that without, up to a limit."""
PROBE_LOOK_SECONDS = 60.0
"""Whether a comparison of models is due is looked at this often, without asking anybody."""
STORE_RETRY_SECONDS = 1.0


def run(
    service: Seamark,
    *,
    until: Literal["current"] | None,
    threads: int | None,
    progress: Callable[[Progress], None] | None,
    stop: StopSignal | None,
    budget: Budget | None,
) -> int:
    """Run worker threads in this process until `stop` is set or, with `until="current"`, nothing is missing."""
    worker = Worker(service, until=until, stop=stop or threading.Event(), budget=budget)
    return worker.run(threads, progress)


class Worker:
    """The threads of one worker process and what they share."""

    def __init__(
        self, service: Seamark, *, until: Literal["current"] | None, stop: StopSignal, budget: Budget | None = None
    ) -> None:
        self.id = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._service = service
        self._until = until
        self._budget = budget
        self._stop = stop
        self._current = threading.Event()
        self._done = threading.Event()
        self._left = threading.Event()
        self._keeper = Keeper(service.store)
        self._rates = Rates()
        self._catalog = WorkList(service, strict=until == "current", budget=budget)
        self._failure: BaseException | None = None
        self._outages: dict[int, int] = {}
        self._looking, self._upkeep = threading.Lock(), threading.Lock()
        self._turns, self._underway = Turns(), Underway(THREADS_MAX)
        self._indexed = Indexed(service)
        self._worked_at, self._trims = time.monotonic(), count(1)
        self._looked_at = self._look_at = -math.inf

    def run(self, threads: int | None, progress: Callable[[Progress], None] | None) -> int:
        """Start the threads, wait for the end, and return the rows settled."""
        self._underway = Underway(threads or THREADS_MAX)
        working = [partial(self._work, number, threads) for number in range(threads or THREADS_MAX)]
        with (
            self._registered(),
            self._running([self._keep], self._left),
            self._models_awaited(),
            self._running([*working, self._maintain, self._poll, self._audit, self._open_models], self._done),
        ):
            self._watch(progress)
        if self._budget is not None and isinstance(self._failure, BudgetSpentError):
            raise self._budget.spent() from self._failure
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
                thread = threading.Thread(target=self._guarded, args=(loop, end), name="seamark")
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

    def _finished(self) -> bool:
        return self._ended() or self._current.is_set()

    @contextmanager
    def _unless_detached(self, generations: Collection[int], *, everything: bool = False) -> Generator[None]:
        """Go on when the store fails over generations whose tables went meanwhile: dropped, or the source's is another now.

        With `everything`, what fails looks at all sources, those that are known to have drifted included.
        """
        try:
            yield
        except (StorePermissionError, StoreIncompatibleError):
            raise
        except StoreError:
            store = self._service.store
            owners = {generation.id: generation.source_id for generation in store.generations()}
            meant = {owners.get(generation) for generation in generations}
            sources = (source for source in store.sources() if everything or source.id in meant)
            drifted = map(self._service.source_problems, sources)
            if None not in meant and not any(drifted):
                raise
            self._catalog.forget(drift=True)

    # --- the threads ------------------------------------------------------------------------------------------

    def _work(self, number: int, threads: int | None) -> None:
        """Take one step after another; idle while there are threads enough without this one."""
        while not self._finished():
            if number >= (threads or self._catalog.threads() + self._underway.slow()):
                self._done.wait(CATALOG_SECONDS)
            elif (claimed := self._claimed()) is not None:
                work, lease, begun = claimed
                try:
                    with self._unless_detached([work[1].id]):
                        self._step(work, lease)
                finally:
                    self._underway.end(work[1], begun)
                self._worked_at = time.monotonic()

    def _claimed(self) -> tuple[Work, Lease, float] | None:
        """Return the next lease of whichever generation has one; None at the end.

        One thread looks for work at a time, and looks on while there is none: the others wait for it to find some, so that an
        idle worker asks the database no more often than one with a single thread.
        """
        with self._looking:
            idle = IDLE_MIN_SECONDS
            while not self._finished():
                again = False
                for work in self._turns.of(self._catalog.current()):
                    if self._underway.full(work[1], work[2].concurrency):
                        continue
                    claim = self._claim(work)
                    if claim.lease is not None and self._catalog.doubts(work[1]):
                        self._service.store.lease_release(claim.lease)
                        continue
                    if claim.lease is not None:
                        self._worked_at = time.monotonic()
                        return work, claim.lease, self._underway.begin(work[1])
                    again = again or claim.again
                if not again:
                    self._done.wait(idle)
                    idle = min(idle * 2, IDLE_MAX_SECONDS)
        return None

    def _claim(self, work: Work) -> Claim:
        source, generation, indexer = work
        store, first = self._service.store, self._turns.first(generation.id)
        claim = Claim(None)
        with self._unless_detached([generation.id]):
            claim = store.lease_claim(generation.id, self.id, indexer.lease_rows, LEASE_SECONDS, first=first)
            idle = claim.lease is None and not claim.again
            whole = idle or (first == "backfill" and generation.backfill == 0)
            due = whole and generation.state == "building" and not generation.manual
            if due and store.generation_activate(generation.id):
                stamps_clear(store, source, generation)
                self._catalog.forget()
        return claim

    def _step(self, work: Work, lease: Lease) -> None:
        source, generation, indexer = work
        # Calls that were under way together fail together, and are one outage.
        outages = self._outages.get(generation.id, 0)
        outcome = step(self._service.store, source, generation, indexer, lease, self._keeper, self._ended, outages)
        if outcome.doubtful:
            self._catalog.doubt(generation)
        if outcome.outage is not None:
            self._outages[generation.id] = outages + 1
            if self._until == "current" and isinstance(outcome.outage, EmbedderConfigurationError):
                self._catalog.refuse(generation, outcome.outage)
        if outcome.spent is not None:
            raise outcome.spent
        if outcome.settled is not None:
            self._rates.add(generation.id, outcome.settled.written)
            if self._outages.pop(generation.id, 0) or generation.backoff_error is not None:
                self._recovered(source, generation)

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
            if self._stop.is_set():
                self._service.store.upkeep_cancel()
            if now - renewed >= KEEPER_SECONDS:
                self._keeper.renew(LEASE_SECONDS)
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

    def _poll(self) -> None:
        """Look for new rows of tables that have no triggers."""
        while not self._waited(POLL_SECONDS):
            for source in dict.fromkeys(source for source, _, _ in self._catalog.current()):
                if source.spec.track == "poll":
                    with self._unless_detached([known.id for known in self._service.store.generations(source.id)]):
                        poll(self._service.store, source)

    def _audit(self) -> None:
        """Audit what is due; a worker that is to return does not begin with what takes long."""
        auditor = Auditor(self._service, self.id, self._waited)
        if self._until is not None or (every := auditor.look_seconds) is None:
            return
        while not self._waited(every):
            for source in self._service.store.sources():
                with self._unless_detached([known.id for known in self._service.store.generations(source.id)]):
                    auditor.audit(source)

    def _open_models(self) -> None:
        """Have models opened, and compared when that is due; a server's answer is waited for in threads of the work list."""
        every = min(self._service.registry.interval_seconds, PROBE_LOOK_SECONDS)
        due, look = time.monotonic() + every, 0.0
        while not self._waited(look):
            self._catalog.open()
            look = min(every, LOOK_SECONDS) if every else LOOK_SECONDS
            if every and time.monotonic() >= due:
                due = time.monotonic() + every
                self._catalog.compare()

    @contextmanager
    def _models_awaited(self) -> Generator[None]:
        """Wait for models that are being opened once no thread is left that begins with one."""
        try:
            yield
        finally:
            self._guarded(self._catalog.close, self._left)

    def _waited(self, seconds: float) -> bool:
        """Wait so long; say whether it is time to end."""
        return self._done.wait(seconds) or self._stop.is_set()

    def _maintain_all(self, generation: Generation, *, idle: bool) -> None:
        with self._upkeep:  # a store says that nothing is due where another thread is at it
            while not self._ended() and self._service.store.generation_maintain(generation.id, idle=idle):
                pass

    def _trim(self) -> None:
        whole = next(self._trims) % KEPT_TRIMS == 0
        self._service.generations_expire()
        for source in self._service.store.sources():
            with self._unless_detached([known.id for known in self._service.store.generations(source.id)]):
                with suppress(EmbedderConfigurationError):  # kept with the batch or the model, and shown
                    self._service.batches_advance(self.id, self._budget, only=source.name)
                self._service.store.journal_trim(source.id)
                if whole:
                    self._service.store.kept_trim(source.id)

    # --- the main thread --------------------------------------------------------------------------------------

    def _watch(self, progress: Callable[[Progress], None] | None) -> None:
        """Wait for the end, reporting progress; with `until="current"` find out when it has come."""
        report = Report(self._service, progress)
        while not self._ended():
            self._stop.wait(0.05 if self._until else 0.2)
            if self._done.is_set() or self._stop.is_set():
                break
            with self._store_outage(), self._unless_detached(self._catalog.known(), everything=True):
                if not self._current.is_set():
                    report.tell()
                    if self._until == "current" and self._due() and self._catalog.opened() and self._whole():
                        self._current.set()  # the threads end: what fails from here on is only tried again
                if self._current.is_set():
                    report.tell(last=True)
                    self._finish_indexes()
                    self._done.set()

    @contextmanager
    def _store_outage(self) -> Generator[None]:
        try:
            yield
        except StoreUnavailableError:
            self._done.wait(STORE_RETRY_SECONDS)

    def _due(self) -> bool:
        """Say whether to look if the end has come: at once when there may be nothing left to do, now and then otherwise."""
        now = time.monotonic()
        quiet = now - self._worked_at > 2 * IDLE_MAX_SECONDS and not self._keeper.holding()
        return now >= self._look_at and (quiet or now - self._looked_at >= LOOK_SECONDS)

    def _whole(self) -> bool:
        began = time.monotonic()
        try:
            return self._indexed.whole(self._catalog.refused())
        finally:
            self._looked_at = time.monotonic()
            self._look_at = self._looked_at + min(LOOK_SHARE * (self._looked_at - began), LOOK_MAX_SECONDS)

    def _finish_indexes(self) -> None:
        for generation in self._service.store.generations():
            if generation.state != "retired":
                self._maintain_all(generation, idle=True)
