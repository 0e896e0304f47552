"""Connections, statements and the driver's errors: what every other module here runs its SQL through.

Safe behind a pooler in transaction mode: no prepared statements, no LISTEN, no session-level locks or settings but for the
memory of an index build. Connections are in autocommit; a transaction says so.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import errors
from psycopg_pool import ConnectionPool, PoolTimeout

from seamark.errors import StoreError, StorePermissionError, StoreUnavailableError
from seamark.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from seamark.store.postgres.names import Words

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]
Row = tuple[Any, ...]

CONNECTIONS_MAX = 32
"""More than a process has threads that use the store at once."""
CONNECT_SECONDS = 10
WAIT_SECONDS = 5
AGAIN_SECONDS = 0.5
"""How long is waited for a server that was away when last asked for: who has been told to stop asks it several times."""
RETRIES = 5
"""So often is a transaction run again that lost a deadlock; each loser was in the way of one that has gone on."""

_BY_KEY = (
    "SET LOCAL jit = off; SET LOCAL synchronous_commit = off; "
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
)
_KEYED = f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = '30s'; {_BY_KEY}"
_KEYED_SNAPSHOT = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_BY_KEY}"
"""For statements that look rows up by key or by a short range of `seq`: without statistics the planner would rather scan.

A commit need not wait for the disk: a server that crashes loses the last ones whole and in order, the settle together with the
retirement of its lease, so that the work is done again. What a user has committed is never among them.

A process that is put to sleep in the middle of one would keep its locks, and others waiting for them, for as long as it sleeps:
the server ends its session instead, after the length of a lease.
"""
SEARCH_WIDTH = 220
"""How wide an HNSW search is unless it has to be wider: recall@10 of 0.96 to 0.97 on 100,000 commit messages."""
_SNAPSHOT = (
    b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    b"SELECT set_config('jit', 'off', true), set_config('random_page_cost', '1.1', true), "
    b"set_config('hnsw.iterative_scan', 'strict_order', true), set_config('hnsw.ef_search', '%d', true)" % SEARCH_WIDTH,
)
"""The last statement is a query, because the first query takes the snapshot."""


class Database:
    """A pool of connections to one database, and the named statements."""

    def __init__(self, url: str) -> None:
        self._statements = load(files("seamark.store.postgres") / "queries.sql")
        settings: dict[str, Any] = {"autocommit": True, "prepare_threshold": None, "connect_timeout": CONNECT_SECONDS}
        settings |= {"client_encoding": "utf8", "application_name": "seamark"}
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            url, kwargs=settings, min_size=1, max_size=CONNECTIONS_MAX, open=False
        )
        self._url, self._settings = url, settings
        self._away = False
        self._cancellable: set[Connection] = set()

    def open(self) -> None:
        """Begin to pool connections."""
        with translated():
            self._pool.open()

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    @contextmanager
    def single(self) -> Generator[Connection]:
        """Open a connection outside the pool; unlike the pool, it fails at once where the server refuses."""
        with translated(), psycopg.connect(self._url, **self._settings) as connection:
            yield connection

    @contextmanager
    def connection(self) -> Generator[Connection]:
        """Borrow a connection; each statement is its own transaction."""
        with translated():
            try:
                with self._pool.connection(AGAIN_SECONDS if self._away else WAIT_SECONDS) as connection:
                    self._away = False
                    yield connection
            except psycopg.OperationalError as exc:
                self._away = isinstance(exc, PoolTimeout)
                self._pool.check()  # where one connection was cut the others may have been, too
                raise

    @contextmanager
    def cancellable(self, connection: Connection) -> Generator[None]:
        """Let `cancel` break off what runs on the connection in this block."""
        self._cancellable.add(connection)
        try:
            yield
        finally:
            self._cancellable.discard(connection)

    def cancel(self) -> None:
        """Break off what may be: from another thread than the one that waits for it."""
        for connection in tuple(self._cancellable):
            with translated():
                connection.cancel_safe(timeout=CONNECT_SECONDS)

    @contextmanager
    def transaction(self) -> Generator[Connection]:
        """Borrow a connection for one transaction, READ COMMITTED."""
        with self.connection() as connection, connection.transaction():
            yield connection

    @contextmanager
    def keyed(self) -> Generator[Connection]:
        """Borrow a connection for one transaction of look-ups by key, READ COMMITTED."""
        with self.connection() as connection, _begun(connection, _KEYED):
            yield connection

    @contextmanager
    def keyed_snapshot(self) -> Generator[Connection]:
        """Borrow a connection for one read-only transaction of look-ups by key, on one snapshot."""
        with self.connection() as connection, _begun(connection, _KEYED_SNAPSHOT):
            yield connection

    @contextmanager
    def snapshot(self) -> Generator[Connection]:
        """Borrow a connection for one read-only transaction on one snapshot.

        In pipeline mode: a statement is sent at once, and its rows are waited for where they are fetched.
        """
        with self.connection() as connection, _undone(connection), connection.pipeline():
            for statement in _SNAPSHOT:
                connection.execute(statement)
            yield connection
            connection.execute(b"COMMIT")

    @contextmanager
    def copy(self, connection: Connection, name: str, words: Words) -> Generator[psycopg.Copy]:
        """Run a named COPY."""
        with connection.cursor() as cursor, cursor.copy(self.compose(name, words).encode()) as copy:
            yield copy

    def retried(self, work: Callable[[], T]) -> T:
        """Run a transaction, again where it lost a deadlock."""
        for _ in range(RETRIES):
            try:
                return work()
            except StoreUnavailableError as lost:
                if not isinstance(lost.__cause__, errors.DeadlockDetected | errors.SerializationFailure):
                    raise
        return work()

    def compose(self, name: str, words: Words) -> str:
        """Return a named statement, or part of one, with its words filled in."""
        return self._statements[name].format_map(words)

    def run(
        self,
        connection: Connection,
        name: str,
        words: Words,
        values: Mapping[str, object] | None = None,
        *,
        binary: bool = False,
    ) -> psycopg.Cursor[Row]:
        """Run a named statement with its words filled in."""
        return connection.execute(self.compose(name, words).encode(), values or {}, binary=binary)


@contextmanager
def _begun(connection: Connection, begin: str) -> Generator[None]:
    connection.execute(begin.encode())
    with _undone(connection):
        yield
    connection.commit()


@contextmanager
def _undone(connection: Connection) -> Generator[None]:
    """Roll back where the block raises."""
    try:
        yield
    except BaseException:
        if not connection.closed:
            connection.rollback()
        raise


@contextmanager
def translated() -> Generator[None]:
    """Turn the driver's errors into Seamark's."""
    try:
        yield
    except errors.InsufficientPrivilege as exc:
        raise StorePermissionError(f"PostgreSQL: {_message(exc)}; grant the role that right, or use one that has it") from exc
    except (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure, errors.QueryCanceled) as exc:
        raise StoreUnavailableError(f"PostgreSQL: {_message(exc)}; run it again") from exc
    except errors.InvalidPassword as exc:
        raise StorePermissionError(f"PostgreSQL: {_message(exc)}; check the user and the password in the URL") from exc
    except errors.DiskFull as exc:
        raise StoreUnavailableError(f"PostgreSQL has no room left: {_message(exc)}; make some, then run it again") from exc
    except (psycopg.OperationalError, errors.IdleInTransactionSessionTimeout) as exc:
        raise StoreUnavailableError(f"PostgreSQL cannot be reached or went away: {_message(exc)}") from exc
    except errors.ReadOnlySqlTransaction as exc:
        raise StoreUnavailableError(
            f"PostgreSQL takes no writes just now: {_message(exc)}; try again, or ask the primary"
        ) from exc
    except psycopg.Error as exc:
        raise StoreError(f"PostgreSQL: {_message(exc)}") from exc


def _message(exc: psycopg.Error) -> str:
    return exc.diag.message_primary or " ".join(str(exc).split())
