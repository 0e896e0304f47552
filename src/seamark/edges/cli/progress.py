"""How far a command is, on stderr: a bar on a terminal, otherwise one line a second, as JSON or plain."""

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Literal

from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar

from seamark.edges import serialise
from seamark.edges.cli.session import Session
from seamark.edges.cli.text import counted, line
from seamark.model import Progress

LINE_SECONDS = 1.0

Report = Callable[[Progress], None]


@contextmanager
def progress(session: Session, otherwise: Literal["json", "plain"] = "plain") -> Generator[Report]:
    """Give what to call with the progress of a long-running operation, for the length of a block.

    Where no bar can be drawn the lines are as `otherwise` says; they are JSON with `--json` in any case.
    """
    if session.err.is_terminal and not session.as_json:
        with _bar(session) as report:
            yield report
    else:
        as_json = session.as_json or otherwise == "json"
        lines = _Lines(lambda value: json.dumps(serialise.progress(value)) if as_json else _plain(value), session)
        yield lines.report
        lines.end()


class _Lines:
    """One line a second, and one for the last that was reported."""

    def __init__(self, render: Callable[[Progress], str], session: Session) -> None:
        self._render = render
        self._file = session.err.file
        self._told = -LINE_SECONDS
        self._untold: Progress | None = None

    def report(self, value: Progress) -> None:
        self._untold = value
        if time.monotonic() - self._told >= LINE_SECONDS:
            self.end()

    def end(self) -> None:
        if self._untold is not None:
            self._file.write(self._render(self._untold) + "\n")
            self._file.flush()
            self._untold = None
            self._told = time.monotonic()


@contextmanager
def _bar(session: Session) -> Generator[Report]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[figures]}"))
    with Bar(*columns, console=session.err, transient=True) as bar:
        task = bar.add_task("", total=None, figures="")

        def report(value: Progress) -> None:
            bar.update(task, description=line(value.label), completed=value.rows, total=value.total, figures=figures(value))

        yield report


def _plain(value: Progress) -> str:
    return f"{line(value.label)}: {figures(value)}"


def figures(value: Progress) -> str:
    """Return the numbers of a progress: rows, rows a second, time to go, lag, and what stands in the way."""
    rows = counted(value.rows, "row") if value.total is None else f"{value.rows:,}/{value.total:,} rows"
    parts = [rows]
    if value.rows_per_second >= 1:
        parts.append(f"{value.rows_per_second:,.0f} rows/s")
    if value.eta_seconds is not None and value.eta_seconds >= 1:
        parts.append(f"{duration(value.eta_seconds)} to go")
    if value.lag_seconds is not None and value.lag_seconds >= 1:
        parts.append(f"lag {duration(value.lag_seconds)}")
    if value.problem is not None:
        parts.append(line(value.problem))
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Return a time span in its two largest units."""
    whole = round(seconds)
    for name, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{name} {whole % size // part}{smaller}"
    return f"{whole}s"
