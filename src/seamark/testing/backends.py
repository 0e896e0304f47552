"""The two databases as the conformance suite asks for them; see `seamark.testing.backend`."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import numpy as np
import psycopg
from psycopg.conninfo import make_conninfo

from seamark.model import precision
from seamark.store.postgres.store import PostgresStore
from seamark.store.sqlite.store import SqliteStore
from seamark.testing.backend import StoredChunk, StoredRow, quoted

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from contextlib import ExitStack

    from seamark.model import ColumnKind, Generation, Key, Source

    Rows = list[tuple[Any, ...]]

# --- SQLite -------------------------------------------------------------------------------------------------------


class SqliteApplication:
    """The user's connection, through the same SQLite library as the store's.

    Two libraries in one process do not see each other's locks; the interpreter's own is used from subprocesses only.
    """

    def __init__(self, path: Path) -> None:
        self.connection: Any = apsw.Connection(str(path))
        self.connection.set_busy_timeout(0)

    def run(self, statement: str, *values: object) -> Rows:
        """See the protocol."""
        return self.connection.execute(statement, values).fetchall()

    def many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """See the protocol."""
        with self.transaction():
            self.connection.executemany(statement, rows)

    @contextmanager
    def transaction(self) -> Generator[None]:
        """See the protocol."""
        self.run("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.run("ROLLBACK")
            raise
        self.run("COMMIT")


class SqliteBackend:
    """A SQLite file."""

    name = "sqlite"

    def __init__(self, path: Path, teardown: ExitStack) -> None:
        self.path = path
        self.sidecar = path.with_name(path.name + "-seamark")
        self.url = f"sqlite:///{path}"
        self._teardown = teardown

    def store(self) -> SqliteStore:
        """See the protocol."""
        store = SqliteStore(self.path)
        self._teardown.callback(store.close)
        return store

    def application(self) -> SqliteApplication:
        """See the protocol."""
        application = SqliteApplication(self.path)
        self._teardown.callback(application.connection.close)
        return application

    def type(self, kind: ColumnKind) -> str:
        """See the protocol."""
        names = {
            "integer": "INTEGER",
            "text": "TEXT",
            "uuid": "UUID",
            "blob": "BLOB",
            "json": "JSON",
            "number": "REAL",
            "boolean": "BOOLEAN",
            "time": "TIMESTAMP",
        }
        return names[kind]

    def schema(self) -> str:
        """See the protocol."""
        with self._reading(self.path) as connection:
            rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()
        return "\n".join(map(repr, rows))

    def writes(self) -> object:
        """See the protocol."""
        # Every commit changes a write-ahead log. (To open and close the database file itself would drop SQLite's locks on it.)
        logs = (path.with_name(path.name + "-wal") for path in (self.path, self.sidecar))
        return tuple(log.read_bytes() if log.exists() else b"" for log in logs)

    def connections(self) -> int:
        """See the protocol."""
        prefix = str(self.sidecar)
        return sum(str(link.resolve()).startswith(prefix) for link in Path("/proc/self/fd").iterdir())

    def journal(self, source: Source) -> Mapping[Key, tuple[int, bool]]:
        """See the protocol."""
        keys = _keys(source)
        table = quoted(f"seamark_journal_{source.table.name}")
        with self._reading(self.path) as connection:
            rows = connection.execute(f"SELECT {keys}, seq, deleted FROM {table}").fetchall()
        return {tuple(key): (seq, bool(deleted)) for *key, seq, deleted in rows}

    def rows(self, source: Source, generation: Generation) -> Mapping[Key, StoredRow]:
        """See the protocol."""
        with self._reading(self.sidecar) as connection:
            rows = connection.execute(f"SELECT {_keys(source)}, seq, chunks, truncated FROM rows_{generation.id}").fetchall()
        return {tuple(key): StoredRow(seq, chunks, bool(truncated)) for *key, seq, chunks, truncated in rows}

    def chunks(self, source: Source, generation: Generation) -> Sequence[StoredChunk]:
        """See the protocol."""
        keys = _keys(source)
        with self._reading(self.sidecar) as connection:
            rows = connection.execute(
                f"SELECT {keys}, ordinal, start, stop, digest, embedding FROM chunks_{generation.id} ORDER BY {keys}, ordinal"
            ).fetchall()
        stored = precision(generation.identity)
        return [
            StoredChunk(tuple(key), ordinal, start, stop, digest, np.frombuffer(embedding, stored))
            for *key, ordinal, start, stop, digest, embedding in rows
        ]

    def began(self) -> bool:
        """Say whether there are leases at all yet."""
        if not self.sidecar.exists():
            return False
        with self._reading(self.sidecar) as connection:
            return bool(connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'lease'").fetchall())

    def leases_expire(self) -> int:
        """Let the time of every lease and of every upkeep pass; return how many leases there were."""
        with self._reading(self.sidecar) as connection:
            connection.set_busy_timeout(10_000)
            connection.execute("UPDATE upkeep SET expires_at = 0")
            connection.execute("UPDATE lease SET expires_at = 0")
            return connection.changes()

    @contextmanager
    def _reading(self, path: Path) -> Generator[Any]:
        connection: Any = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            yield connection
        finally:
            connection.close()


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


class PostgresApplication:
    """The user's connection."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)

    def run(self, statement: str, *values: object) -> Rows:
        """See the protocol."""
        cursor = self.connection.execute((_format(statement) if values else statement).encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """See the protocol."""
        with self.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(_format(statement).encode(), rows)

    @contextmanager
    def transaction(self) -> Generator[None]:
        """See the protocol."""
        with self.connection.transaction():
            yield


class PostgresBackend:
    """A database on a PostgreSQL server. `dump` is the program pg_dump."""

    name = "postgres"

    def __init__(self, url: str, dump: Path, teardown: ExitStack) -> None:
        self.url = url
        self._dump = dump
        self._teardown = teardown
        self._applications = 0

    def store(self) -> PostgresStore:
        """See the protocol."""
        store = PostgresStore(self.url)
        self._teardown.callback(store.close)
        return store

    def application(self) -> PostgresApplication:
        """See the protocol."""
        application = PostgresApplication(make_conninfo(self.url, application_name="user"))
        self._teardown.callback(application.connection.close)
        return application

    def type(self, kind: ColumnKind) -> str:
        """See the protocol."""
        names = {
            "integer": "bigint",
            "text": "text",
            "uuid": "uuid",
            "blob": "bytea",
            "json": "jsonb",
            "number": "double precision",
            "boolean": "boolean",
            "time": "timestamptz",
        }
        return names[kind]

    def schema(self) -> str:
        """See the protocol."""
        ours = ["--exclude-schema=seamark", "--exclude-extension=vector"]
        command = [str(self._dump), "--schema-only", *ours, f"--dbname={self.url}"]
        dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        # \restrict carries a random token.
        return "\n".join(line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))

    def writes(self) -> object:
        """See the protocol."""
        return self._look("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")

    def connections(self) -> int:
        """See the protocol."""
        [(count,)] = self._look(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND application_name <> 'user'"
        )
        return count

    def journal(self, source: Source) -> Mapping[Key, tuple[int, bool]]:
        """See the protocol."""
        rows = self._look(f"SELECT {_keys(source)}, seq, deleted FROM seamark.journal_{source.id}")
        return {tuple(key): (seq, deleted) for *key, seq, deleted in rows}

    def rows(self, source: Source, generation: Generation) -> Mapping[Key, StoredRow]:
        """See the protocol."""
        rows = self._look(f"SELECT {_keys(source)}, seq, chunks, truncated FROM seamark.rows_{generation.id}")
        return {tuple(key): StoredRow(seq, chunks, truncated) for *key, seq, chunks, truncated in rows}

    def chunks(self, source: Source, generation: Generation) -> Sequence[StoredChunk]:
        """See the protocol."""
        keys = _keys(source)
        rows = self._look(
            f"SELECT {keys}, ordinal, start, stop, digest, embedding::text"
            f" FROM seamark.chunks_{generation.id} ORDER BY {keys}, ordinal"
        )
        stored = precision(generation.identity)
        return [
            StoredChunk(tuple(key), ordinal, start, stop, bytes(digest), np.array(embedding[1:-1].split(","), stored))
            for *key, ordinal, start, stop, digest, embedding in rows
        ]

    def began(self) -> bool:
        """Say whether there are leases at all yet."""
        return self._look("SELECT to_regclass('seamark.lease') IS NOT NULL") == [(True,)]

    def leases_expire(self) -> int:
        """Let the time of every lease pass; return how many there were."""
        with psycopg.connect(self.url, autocommit=True, application_name="user") as connection:
            return connection.execute("UPDATE seamark.lease SET expires_at = 0").rowcount

    def _look(self, statement: str) -> Rows:
        with psycopg.connect(self.url, autocommit=True, application_name="user") as connection:
            return connection.execute(statement.encode()).fetchall()


def _format(statement: str) -> str:
    return statement.replace("%", "%%").replace("?", "%s")


def _keys(source: Source) -> str:
    return ", ".join(f"k{position}" for position in range(1, len(source.table.key) + 1))


def sqlite_file(path: Path) -> Path:
    """Make an empty SQLite database in WAL mode."""
    connection: Any = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.close()
    return path
