"""Runs Seamark in processes that kill themselves at a chosen statement, so that a test can see what the next one finds.

`python -m seamark.testing.killer` reads one JSON order a line from its standard input, forks, and answers with one JSON line
when the child has ended. The drivers are watched from outside: nothing in Seamark knows of it.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

import apsw
import psycopg

import seamark
from seamark.core import service, sync
from seamark.edges import worker
from seamark.errors import NoRollbackError, StoreUnavailableError, UnknownGenerationError, UnknownSourceError
from seamark.testing.oracle import OracleEmbedder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from types import TracebackType
    from typing import Self

    from seamark.core.budget import Tally
    from seamark.core.service import Seamark
    from seamark.core.sync import Indexed, Indexer
    from seamark.core.tracked import Tracked
    from seamark.model import Lease, SourceRow

P = ParamSpec("P")
Y = TypeVar("Y")
S = TypeVar("S")
R = TypeVar("R")
Scenario = Literal["life", "crew", "detach", "swap", "activate", "rollback", "drop"]
STEPS = 1000
"""More steps than a scenario takes: a loop that gets here does not end."""
BATCH_ROWS = 4
"""Rows of an enrolment batch and of a lease, so that a table of a dozen rows makes several of each."""
FIRST_VECTORS = 2
"""The id of the vector generation that an attach begins."""
CHARACTERS = 60
"""Text of one reading, so that some leases are split."""
EDITS = (
    "INSERT INTO notes (id, title, body, org) VALUES (30, 'late', 'a row that comes late', 1) ON CONFLICT DO NOTHING",
    "UPDATE notes SET body = 'edited since' WHERE id = 2",
    "DELETE FROM notes WHERE id = 3",
    "UPDATE notes SET id = 40, body = 'moved' WHERE id = 4",
    "UPDATE notes SET org = 9 WHERE id = 5",
    "UPDATE notes SET org = 1 WHERE id = 6",
    "UPDATE notes SET body = '' WHERE id = 7",
)
"""What the application does between two rounds of work; doing it again changes nothing."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a child is to do. `kill_at` is the moment it ends at, from 1, two a statement; 0: it lives.

    With `cut`, PostgreSQL's backends of the child are terminated at that moment instead; what fails for it is begun again by
    the same child, once the leases that it held have expired.
    """

    url: str
    scenario: Scenario
    kill_at: int
    log: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended: the signal that killed it or 0, its exit status, and the moments it had if it lived.

    Of one that was to be cut off also: how many backends were terminated, how often it began again, and how many leases
    expired.
    """

    signal: int
    status: int
    moments: int
    cuts: int = 0
    again: int = 0
    expired: int = 0


# --- in the child -------------------------------------------------------------------------------------------------


class Moments:
    """Counts the moments before and after every statement of either driver, and is killed at the chosen one."""

    def __init__(self, kill_at: int, strike: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)) -> None:
        self.kill_at = kill_at
        self._strike = strike
        self.count = 0
        self.paused = False
        self._lock = threading.Lock()

    def moment(self) -> None:
        """Let one moment pass, if this process outlives it."""
        with self._lock:
            self.count += not self.paused
            struck = self.count == self.kill_at and not self.paused
        if struck:
            self._strike()

    def watch(self) -> None:
        """Watch both drivers from here on."""
        apsw.connection_hooks.append(self._watch_sqlite)
        for name in ("execute", "executemany"):
            setattr(psycopg.Cursor, name, self._around(getattr(psycopg.Cursor, name)))
        psycopg.Cursor.copy = self._around_copy(psycopg.Cursor.copy)  # type: ignore[method-assign]
        # BEGIN, COMMIT and ROLLBACK, which psycopg sends by itself.
        command = psycopg.Connection._exec_command  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        psycopg.Connection._exec_command = self._around_generator(command)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def _watch_sqlite(self, connection: apsw.Connection) -> None:
        events = apsw.SQLITE_TRACE_STMT | apsw.SQLITE_TRACE_PROFILE
        connection.trace_v2(events, self._traced, id=self)  # pyright: ignore[reportUnknownMemberType]

    def _traced(self, event: dict[str, Any]) -> None:
        if not event.get("trigger"):
            self.moment()

    def _around(self, run: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(run)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.moment()
            try:
                return run(*args, **kwargs)
            finally:
                self.moment()

        return watched

    def _around_copy(self, copy: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def watched(*args: Any, **kwargs: Any) -> Generator[Any]:
            self.moment()
            with copy(*args, **kwargs) as running:
                yield running
            self.moment()

        return watched

    def _around_generator(self, run: Callable[P, Generator[Y, S, R]]) -> Callable[P, Generator[Y, S, R]]:
        @functools.wraps(run)
        def watched(*args: P.args, **kwargs: P.kwargs) -> Generator[Y, S, R]:
            self.moment()
            result = yield from run(*args, **kwargs)
            self.moment()
            return result

        return watched


class _NoKeeper:
    def hold(self, lease: Lease) -> None: ...

    def drop(self, lease: Lease) -> None: ...


class _Small:
    """An indexer of small leases."""

    lease_rows = BATCH_ROWS
    concurrency = 1

    def __init__(self, indexer: Indexer) -> None:
        self._indexer = indexer

    def index(self, rows: Sequence[SourceRow], cancelled: Callable[[], bool], tally: Tally) -> Indexed:
        return self._indexer.index(rows, cancelled, tally)


def _work(here: Seamark) -> None:
    """Do in one thread, in a fixed order, all that a worker does."""
    for _ in range(STEPS):
        worked = False
        for source in here.store.sources():
            for generation in (one for one in here.store.generations(source.id) if one.state != "retired"):
                indexer = _Small(here.indexer(generation))
                claim = here.store.lease_claim(generation.id, "killer", indexer.lease_rows, sync.LEASE_SECONDS)
                worked |= claim.again or claim.lease is not None
                if claim.lease is not None:
                    sync.step(here.store, source, generation, indexer, claim.lease, _NoKeeper(), lambda: False, 0)
                if generation.state == "building":
                    worked |= here.store.generation_activate(generation.id)
        if not worked:
            break
    else:
        raise AssertionError("the work does not end")
    for generation in here.store.generations():
        while here.store.generation_maintain(generation.id, idle=True):
            pass
    for source in here.store.sources():
        here.store.journal_trim(source.id)


def _attach(here: Seamark) -> None:
    here.attach("notes", text=["title", "body"], where={"org": {"$ne": 9}})


def _life(order: Order, moments: Moments) -> None:
    """Open, attach, work, let the application edit, work."""
    with seamark.open(order.url, embedder=OracleEmbedder(log=Path(order.log), batch_items=3)) as here:
        _attach(here)
        _work(here)
        moments.paused = True
        edit(order.url)
        moments.paused = False
        _work(here)


def _crew(order: Order, moments: Moments) -> None:
    """Do the same with the worker that users run, threads and all."""
    with seamark.open(order.url, embedder=OracleEmbedder(log=Path(order.log), batch_items=3, concurrency=2)) as here:
        _attach(here)
        here.work(until="current", threads=3)
        moments.paused = True
        edit(order.url)
        moments.paused = False
        here.work(until="current", threads=3)


def _detach(order: Order, moments: Moments) -> None:
    """Attach and work unharmed, then detach."""
    moments.paused = moments.kill_at > 0
    with seamark.open(order.url, embedder=OracleEmbedder(log=Path(order.log))) as here:
        if moments.paused:
            _attach(here)
            _work(here)
        moments.paused = False
        try:
            here.detach("notes")
        except UnknownSourceError:
            assert not order.kill_at


def _old(order: Order) -> OracleEmbedder:
    return OracleEmbedder("oracle-a", log=Path(order.log), batch_items=3)


def _new(order: Order) -> OracleEmbedder:
    return OracleEmbedder("oracle-b", 48, log=Path(order.log + "-new"), batch_items=3)


@contextmanager
def _swapping(order: Order, moments: Moments, *, manual: bool | None = None) -> Generator[tuple[Seamark, Tracked]]:
    """Attach by one model and work unharmed, unless that is done already, and open the database with another one beside it.

    Unless `manual` is None, a swap to the other one is begun and worked on, then the application edits.
    """
    moments.paused = True
    with seamark.open(order.url, embedder=_old(order)) as here:
        first = not here.sources()
        if first:
            _attach(here)
            _work(here)
    with seamark.open(order.url, embedder=[_new(order), _old(order)]) as here:
        tracked = here.source("notes")
        if first and manual is not None:
            tracked.swap(manual=manual)
            _work(here)
            edit(order.url)
            _work(here)
        moments.paused = False
        yield here, tracked


def _swap(order: Order, moments: Moments) -> None:
    """Swap, work until the new model is searched, let the application edit, work."""
    with _swapping(order, moments) as (here, tracked):
        tracked.swap()
        _work(here)
        moments.paused = True
        edit(order.url)
        moments.paused = False
        _work(here)


def _activate(order: Order, moments: Moments) -> None:
    """Activate what is whole, and work."""
    with _swapping(order, moments, manual=True) as (here, tracked):
        tracked.activate(next(one.generation.id for one in tracked.generations() if one.generation.manual))
        _work(here)


def _rollback(order: Order, moments: Moments) -> None:
    """Go back to the first model, and let it catch up."""
    with _swapping(order, moments, manual=False) as (here, tracked):
        with suppress(NoRollbackError):  # it was done when the one before was killed
            tracked.rollback()
        _work(here)


def _drop(order: Order, moments: Moments) -> None:
    """Drop the first model's vectors, and work."""
    with _swapping(order, moments, manual=False) as (here, tracked):
        with suppress(UnknownGenerationError):  # as above
            tracked.drop(FIRST_VECTORS)
        _work(here)


def edit(url: str) -> None:
    """Do what the application does, on a connection of its own."""
    if url.startswith("sqlite:"):
        connection = apsw.Connection(url.removeprefix("sqlite:///"))
        try:
            for statement in EDITS:
                connection.execute(statement)  # pyright: ignore[reportUnknownMemberType]
        finally:
            connection.close()
    else:
        with psycopg.connect(url, autocommit=True, application_name="user") as connection:
            for statement in EDITS:
                connection.execute(statement.encode())


SCENARIOS: dict[str, Callable[[Order, Moments], None]] = {
    "life": _life,
    "crew": _crew,
    "detach": _detach,
    "swap": _swap,
    "activate": _activate,
    "rollback": _rollback,
    "drop": _drop,
}


class _Cut:
    """Terminates the child's backends, and lets what failed for it begin again."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.cuts = self.again = self.expired = 0

    def strike(self) -> None:
        """Terminate from a connection of its own, and wait until the backends are gone."""
        [(self.cuts,)] = self._run(
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'seamark'"
        )

    def carry_out(self, moments: Moments) -> None:
        """Carry out the order, once more where the store became unavailable by the cut."""
        try:
            SCENARIOS[self._order.scenario](self._order, moments)
        except StoreUnavailableError:
            if not self._order.cut:
                raise
            self.again += 1
            if self._run("SELECT to_regclass('seamark.lease') IS NOT NULL") == [(True,)]:
                self.expired = len(self._run("UPDATE seamark.lease SET expires_at = 0 RETURNING id"))
            SCENARIOS[self._order.scenario](self._order, moments)

    def _run(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._order.url, autocommit=True, application_name="user") as connection:
            return connection.execute(statement.encode()).fetchall()


def _child(order: Order, answer: int) -> None:
    """Carry out an order and end; never return."""
    status, cut = 1, _Cut(order)
    moments = Moments(order.kill_at, cut.strike) if order.cut else Moments(order.kill_at)
    try:
        service.ENROLL_ROWS = BATCH_ROWS
        sync.READ_CHARACTERS = CHARACTERS
        if order.cut:  # what a crew has lost it takes up again by itself, and soon
            sync.LEASE_SECONDS = worker.LEASE_SECONDS = 1.0
            worker.KEEPER_SECONDS, worker.KEEPER_LOOK_SECONDS, worker.STORE_RETRY_SECONDS = 0.3, 0.1, 0.1
        moments.watch()
        cut.carry_out(moments)
        status = 0
    except BaseException:  # noqa: BLE001 the story ends here, in the test's captured output
        traceback.print_exc()
    finally:
        told = {"moments": moments.count, "cuts": cut.cuts, "again": cut.again, "expired": cut.expired}
        os.write(answer, json.dumps(told).encode())
        os._exit(status)


# --- in the server ------------------------------------------------------------------------------------------------


def _serve() -> None:
    """Carry out orders until there are no more."""
    for line in sys.stdin:
        order = Order(**json.loads(line))
        answer, write = os.pipe()
        child = os.fork()
        if child == 0:
            _child(order, write)
        os.close(write)
        _, status = os.waitpid(child, 0)
        with os.fdopen(answer, "rb") as pipe:
            told = json.loads(pipe.read() or b'{"moments": 0}')
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        print(json.dumps(asdict(Ending(killed, 0 if killed else os.WEXITSTATUS(status), **told))), flush=True)  # noqa: T201


# --- in the test --------------------------------------------------------------------------------------------------


class Killer:
    """The server process, which has imported everything once so that each child starts at once."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "seamark.testing.killer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def run(self, order: Order) -> Ending:
        """Have one order carried out, and return how its process ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(asdict(order)), file=self._process.stdin, flush=True)
        return Ending(**json.loads(self._process.stdout.readline()))


if __name__ == "__main__":
    _serve()
