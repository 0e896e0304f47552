"""`work`: a worker in this process, or a crew of worker processes."""

import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Annotated, Literal

import typer

from seamark.core.service import Seamark
from seamark.edges.cli.budget import Budget, BudgetTokens, Price, tokens_of
from seamark.edges.cli.crew import Crew
from seamark.edges.cli.progress import progress
from seamark.edges.cli.session import FOUND_A_PROBLEM, INTERRUPTED, SIGNALLED, Session, command
from seamark.edges.cli.text import counted

WORKERS_MAX = 64


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(app, "work", "seamark work", "seamark work --until current --workers 4")(work)


def work(
    session: Session,
    *,
    until: Annotated[
        Literal["current"] | None,
        typer.Option(metavar="current", help="Return once all is indexed that was there at the start; otherwise go on."),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, max=WORKERS_MAX, help="Worker processes.")] = 1,
    budget: Budget = None,
    price: Price = None,
    budget_tokens: BudgetTokens = None,
    lifeline: Annotated[bool, typer.Option("--lifeline", hidden=True)] = False,
) -> int:
    """Keep every attached table embedded, beside any number of other workers on any machines.

    Ctrl-C or SIGTERM hands unfinished work back and ends; a second one ends at once, and others get the work within 30 s.

    With a budget it ends before the call of a model that would cost more than is left; what was under way is handed back.

    Exit codes: 0 it is current, or SIGTERM told it to stop; 1 rows failed (see `seamark failures`), a worker died, or the
    budget does not suffice; 130 Ctrl-C; 143 SIGTERM with --until current, before it was.
    """
    tokens = tokens_of(budget, price, budget_tokens)
    with session.service() as service, stop_on_signals() as stop:
        if lifeline:
            threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
        if workers > 1:
            with progress(session, otherwise="json") as report:
                done = Crew(session, until, workers, tokens).run(service, report, stop)
            settled, died = done.settled, done.died
        elif lifeline:
            settled, died = service.work(until=until, stop=stop, budget_tokens=tokens), 0
        else:
            with progress(session, otherwise="json") as report:
                settled, died = service.work(until=until, progress=report, stop=stop, budget_tokens=tokens), 0
        rows = _counted(service)
    document = {"settled": settled, "workers": workers, "died": died, **asdict(rows), "stopped": stop.signal}
    session.show(document, rows.told())
    if stop.number == signal.SIGINT:
        return INTERRUPTED
    if stop.is_set() and until:
        return SIGNALLED + signal.SIGTERM
    return FOUND_A_PROBLEM if died or (until and rows.failed) else 0


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of all sources: all live ones, those missing in an index of theirs, and those that failed in one."""

    rows: int
    missing: int
    failed: int

    def told(self) -> str:
        """Return it in words."""
        current = self.rows - self.missing - self.failed
        if current == self.rows:
            return f"{counted(self.rows, 'row')}, all current"
        failed = f", {self.failed:,} failed: see seamark failures" if self.failed else ""
        return f"{counted(self.rows, 'row')}, {current:,} current, {self.missing:,} missing{failed}"


def _counted(service: Seamark) -> Rows:
    sources = [[generation.coverage for generation in source.generations] for source in service.status()]
    return Rows(
        sum(max((found.live for found in source), default=0) for source in sources),
        sum(max((found.missing for found in source), default=0) for source in sources),
        sum(max((found.failed for found in source), default=0) for source in sources),
    )


class Stop:
    """A stop signal that may be set from a signal handler, where `threading.Event` can deadlock with its own wait."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._set = False

    @property
    def signal(self) -> str | None:
        """The name of the signal that asked to stop."""
        return None if self.number is None else signal.Signals(self.number).name

    def is_set(self) -> bool:
        """Say whether it is time to stop."""
        return self._set

    def set(self) -> None:
        """Ask to stop."""
        self._set = True

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep so long at most, and say whether it is time to stop."""
        if not self._set:
            time.sleep(0.2 if timeout is None else timeout)
        return self._set


@contextmanager
def stop_on_signals() -> Generator[Stop]:
    """Turn the signals that end a program into a stop; leave those ignored that were ignored at the start (nohup)."""
    stop = Stop()

    def stopped(number: int, _: FrameType | None) -> None:
        if stop.number is not None:
            os._exit(SIGNALLED + number)
        stop.number = number
        stop.set()

    numbers = [
        number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, stopped) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_at_end_of_input(stop: Stop) -> None:
    """Stop when the process that started this one has gone, however it went: it holds the other end of stdin."""
    # Not through sys.stdin, which the end of the interpreter would find locked, and abort.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()
