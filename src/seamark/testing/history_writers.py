"""The application's half of a history: two writers on one table, and what they have committed."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Generator

    from seamark.testing.backend import Application, Backend
    from seamark.testing.workbench import Workbench

KEYS = range(1, 9)
OUTSIDE = 9
"""The `org` of rows that the source's `where` leaves out."""
Row = tuple[str | None, int]
"""What the user's table holds for a key: body and org."""


@dataclass
class Writer:
    """An application's connection. While a transaction is open, `pending` is what it will have written."""

    application: Application
    pending: dict[int, Row | None] | None = None
    transaction: ExitStack | None = None


class Writers:
    """The table `notes_<seed>(id, body, org)`, and connections that write to it. `ever` holds every body that a key has had."""

    def __init__(self, bench: Workbench, backend: Backend, chance: random.Random, seed: int) -> None:
        self.random, self.bench, self.table = chance, bench, f"notes_{seed}"
        self.score: Counter[str] = Counter()
        """What happened, to see that it had what a history is to have."""
        self.committed: dict[int, Row] = {}
        self.ever: dict[int, set[str]] = defaultdict(set)
        self.locks: dict[int, Writer] = {}
        self.writers = [Writer(bench.app), Writer(backend.application())]
        self.numbers = count(1)
        integer, text = backend.type("integer"), backend.type("text")
        bench.app.run(f"CREATE TABLE {self.table} (id {integer} PRIMARY KEY, body {text}, org {integer})")

    def begin(self) -> None:
        """Open a transaction; SQLite has one writer at a time."""
        idle = [writer for writer in self.writers if writer.pending is None]
        if not idle or (len(idle) < len(self.writers) and self.bench.backend.name == "sqlite"):
            return
        writer = self.random.choice(idle)
        writer.transaction = ExitStack()
        writer.transaction.enter_context(writer.application.transaction())
        writer.pending = {}

    def write(self) -> None:
        """Change a row or two, in an open transaction or in one of their own."""
        writer = self.random.choice(self.writers)
        if writer.pending is None and self.bench.backend.name == "sqlite":
            writer = next((other for other in self.writers if other.pending is not None), writer)
        alone = writer.pending is None
        if alone:
            writer.pending = {}
        key, to = self.random.choice(KEYS), self.random.choice(KEYS)
        if any(self.locks.get(one, writer) is not writer for one in (key, to)):
            writer.pending = None if alone else writer.pending
            return
        with self._saved(writer) if not alone else nullcontext():
            self._change(writer, key, to)
        if alone:
            self._landed(writer)

    @contextmanager
    def _saved(self, writer: Writer) -> Generator[None]:
        """Take back to a savepoint, now and then, what the block has written."""
        if self.random.random() >= 0.2:
            yield
            return
        assert writer.pending is not None
        before = dict(writer.pending)
        writer.application.run("SAVEPOINT here")
        yield
        writer.application.run("ROLLBACK TO SAVEPOINT here")
        writer.application.run("RELEASE SAVEPOINT here")
        writer.pending = before
        self.score["savepoint"] += 1

    def _change(self, writer: Writer, key: int, to: int) -> None:
        assert writer.pending is not None
        self.locks[key] = self.locks[to] = writer
        present, run = self._seen(writer, key), writer.application.run
        kind = self.random.choice(["put", "put", "put", "delete", "move", "org"])
        if present is None or kind == "put":
            row = (self._body(), self.random.choice([1, 1, 2, OUTSIDE]))
            run(
                f"INSERT INTO {self.table} (id, body, org) VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET body = excluded.body, org = excluded.org",
                key,
                *row,
            )
            writer.pending[key] = row
        elif kind == "delete":
            run(f"DELETE FROM {self.table} WHERE id = ?", key)
            writer.pending[key] = None
        elif kind == "move" and self._seen(writer, to) is None:
            run(f"UPDATE {self.table} SET id = ? WHERE id = ?", to, key)
            writer.pending |= {to: present, key: None}
        else:
            org = self.random.choice([1, 2, OUTSIDE])
            run(f"UPDATE {self.table} SET org = ? WHERE id = ?", org, key)
            writer.pending[key] = (present[0], org)

    def _body(self) -> str | None:
        """Return a text that no other row ever has, cut into passages at its bars; now and then a blank one."""
        number = next(self.numbers)
        return self.random.choice([f"text {number}", f"text {number}", f"text {number}|and more of {number}", " ", None])

    def _seen(self, writer: Writer, key: int) -> Row | None:
        assert writer.pending is not None
        return writer.pending[key] if key in writer.pending else self.committed.get(key)

    def _landed(self, writer: Writer, *, commit: bool = True) -> None:
        assert writer.pending is not None
        for key, row in writer.pending.items() if commit else ():
            if row is None:
                self.committed.pop(key, None)
            else:
                self.committed[key] = row
                self.ever[key].add(row[0] or "")
        writer.pending = writer.transaction = None
        self.locks = {key: holder for key, holder in self.locks.items() if holder is not writer}

    def end(self, *, commit: bool | None = None) -> None:
        """Commit an open transaction, or roll it back."""
        opened = [writer for writer in self.writers if writer.transaction is not None]
        if not opened:
            return
        writer = self.random.choice(opened)
        assert writer.transaction is not None
        chosen = self.random.random() < 0.75 if commit is None else commit
        if chosen:
            writer.transaction.close()
        else:
            error = ZeroDivisionError()
            try:
                with writer.transaction:
                    raise error
            except ZeroDivisionError:
                self.score["undone"] += 1
        self._landed(writer, commit=chosen)

    def live(self) -> dict[int, str]:
        """Return what is committed and within the `where`."""
        return {key: body or "" for key, (body, org) in self.committed.items() if org != OUTSIDE}
