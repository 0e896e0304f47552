"""Runs Seamark in processes that kill themselves at a chosen statement, so that a test can see what the next one finds.

`python -m seamark.testing.killer` reads one JSON order a line from its standard input, forks, and answers with one JSON line
when the child has ended. The drivers are watched from outside: nothing in Seamark knows of it.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import apsw
import httpx2
import psycopg

from seamark.core import service, sync
from seamark.edges import worker
from seamark.errors import StoreUnavailableError
from seamark.testing.fork_server import ForkServer
from seamark.testing.scenarios import BATCH_ROWS, CHARACTERS, SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from seamark.testing.scenarios import Scenario


P = ParamSpec("P")
Y = TypeVar("Y")
S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Order:
    """What a child is to do. `kill_at` is the moment it ends at, from 1, two a statement or request; 0: it lives.

    With `since` the moments are counted from the first statement on that has these words. `model` is the locator of a server's
    model, for a scenario with one. With `cut`, PostgreSQL's backends of the child are terminated at that moment instead; what
    fails for it is begun again by the same child, once the leases that it held have expired.
    """

    url: str
    scenario: Scenario
    kill_at: int
    log: str
    cut: bool = False
    model: str | None = None
    since: str = ""


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
    """Counts the moments before and after every statement of either driver and every HTTP request, and is killed at one."""

    def __init__(
        self, kill_at: int, strike: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL), since: str = ""
    ) -> None:
        self.kill_at = kill_at
        self._since = since
        self._strike = strike
        self.count = 0
        self.paused = False
        self._lock = threading.Lock()

    def moment(self, statement: str = "") -> None:
        """Let one moment pass, if this process outlives it."""
        with self._lock:
            if not self.paused and self._since in statement:
                self._since = ""
            self.count += not self.paused and not self._since
            struck = self.count == self.kill_at and not self.paused
        if struck:
            self._strike()

    def watch(self) -> None:
        """Watch both drivers and the HTTP client from here on."""
        apsw.connection_hooks.append(self._watch_sqlite)
        for name in ("execute", "executemany"):
            setattr(psycopg.Cursor, name, self._around(getattr(psycopg.Cursor, name)))
        psycopg.Cursor.copy = self._around_copy(psycopg.Cursor.copy)  # type: ignore[method-assign]
        # BEGIN, COMMIT and ROLLBACK, which psycopg sends by itself.
        command = psycopg.Connection._exec_command  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        psycopg.Connection._exec_command = self._around_generator(command)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        # Until the head of the reply is here: the server has done what it was asked.
        httpx2.Client.send = self._around(httpx2.Client.send)  # type: ignore[method-assign]

    def _watch_sqlite(self, connection: apsw.Connection) -> None:
        events = apsw.SQLITE_TRACE_STMT | apsw.SQLITE_TRACE_PROFILE
        connection.trace_v2(events, self._traced, id=self)  # pyright: ignore[reportUnknownMemberType]

    def _traced(self, event: dict[str, Any]) -> None:
        if not event.get("trigger"):
            self.moment(event["sql"])

    def _around(self, run: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(run)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.moment("".join(given.decode() for given in args[1:2] if isinstance(given, bytes)))
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
    moments = Moments(order.kill_at, cut.strike) if order.cut else Moments(order.kill_at, since=order.since)
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


class Killer(ForkServer):
    """The process whose children carry out orders."""

    def __init__(self) -> None:
        super().__init__("seamark.testing.killer")

    def run(self, order: Order) -> Ending:
        """Have one order carried out, and return how its process ended."""
        return Ending(**self.ask(asdict(order)))


if __name__ == "__main__":
    _serve()
