"""Random histories, one after another on a real database; a failing one is seen again by its seed.

    python -m seamark.testing.histories --db sqlite --seed 17
    python -m seamark.testing.histories --db postgres --count 10000

What happens in one is said in `seamark.testing.history`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from seamark.store.sqlite import coverage
from seamark.testing import servers
from seamark.testing.backends import PostgresBackend, SqliteBackend, sqlite_file
from seamark.testing.history import History

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from seamark.store.contract import Store
    from seamark.testing.backend import Application, Backend

DATABASE_HISTORIES = 500
"""After so many a fresh database is made, since each leaves something behind in the catalogs."""


class Lent:
    """A backend whose stores and applications are made once and lent to one history after another."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._store = backend.store()
        self._applications = [backend.application(), backend.application()]
        if backend.name == "sqlite":
            for application in self._applications:
                application.run("PRAGMA synchronous = off")  # no power is cut here, and the disk is waited for enough
        self._turn = 0

    def store(self) -> Store:
        """Return the one store."""
        return self._store

    def application(self) -> Application:
        """Return one of two applications, in turn."""
        self._turn += 1
        return self._applications[self._turn % 2]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def histories(backend: Backend, seeds: Iterable[int], *, trace: bool = False) -> Counter[str]:
    """Run one history after another on a database; what a failing one raises says how it is seen again.

    Returns how often each thing happened in all of them.
    """
    lent = cast("Backend", Lent(backend))
    stores = [backend.store(), backend.store()]
    total: Counter[str] = Counter()
    for seed in seeds:
        try:
            with _unhurried():
                history = History(lent, stores, seed, trace=trace)
                total += history.run()
                history.close()
        except Exception as error:
            error.add_note(f"seen again with: python -m seamark.testing.histories --db {backend.name} --seed {seed}")
            raise
        total["histories"] += 1
    return total


@contextmanager
def _unhurried() -> Generator[None]:
    """Let SQLite's trim not wait for a quiet moment: in one thread, every moment is."""
    seconds, coverage.QUIET_SECONDS = coverage.QUIET_SECONDS, 0.0
    try:
        yield
    finally:
        coverage.QUIET_SECONDS = seconds


@contextmanager
def database(name: str) -> Generator[Backend]:
    """Give a fresh database of that kind for a while."""
    with ExitStack() as teardown:
        if name == "sqlite":
            folder = Path(teardown.enter_context(tempfile.TemporaryDirectory(prefix="seamark-")))
            yield SqliteBackend(sqlite_file(folder / "app.db"), teardown)
        else:
            server = teardown.enter_context(servers.postgres_start(*servers.FORGETFUL))
            url = teardown.enter_context(servers.postgres_database(server))
            yield PostgresBackend(url, server.bin_path / "pg_dump", teardown)


def main(arguments: list[str] | None = None) -> None:
    """Run one history or many, and tell how many there were."""
    parser = argparse.ArgumentParser(prog="python -m seamark.testing.histories", description=__doc__)
    parser.add_argument("--db", choices=["sqlite", "postgres"], required=True)
    parser.add_argument("--seed", type=int, default=0, help="the history, or the first of them")
    parser.add_argument("--count", type=int, default=1, help="how many")
    parser.add_argument("--trace", action="store_true", help="tell what happens")
    parser.add_argument("--record", type=Path, help="a file that what was reached is added to")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    total: Counter[str] = Counter()
    try:
        for first in range(given.seed, given.seed + given.count, DATABASE_HISTORIES):
            with database(given.db) as backend:
                seeds = range(first, min(first + DATABASE_HISTORIES, given.seed + given.count))
                total += histories(backend, seeds, trace=given.trace)
    finally:
        seconds = time.monotonic() - began
        told = f"{given.db}: {total['histories']} histories from seed {given.seed} in {seconds:.0f} s: {dict(total)}\n"
        sys.stdout.write(told)
        if given.record is not None:
            with given.record.open("a", encoding="utf-8") as file:
                file.write(told)


if __name__ == "__main__":
    main()
