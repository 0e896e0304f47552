"""Connections to the sidecar and to the user's file, and the one place where APSW's errors become ours.

A connection has the sidecar as its main database and the user's file attached read-only as `app`: whatever it does, it cannot
lock the application out. Writes to the user's file go through connections of their own, one short transaction each.

The sidecar is written with `synchronous = NORMAL`: after a power loss its last commits may be missing, never half of one. It is
derived, and cursors, leases, rows and chunks are in this one file: they go back together, and the work is done again.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import apsw
import numpy as np

from seamark.errors import StoreError, StoreIncompatibleError, StorePermissionError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

BUSY_MILLISECONDS = 30_000
"""Longer than any transaction of ours; who waits this long waits for somebody who is stuck."""
CACHE_KIBIBYTES = 8 * 1024
"""Page cache of one connection: a worker has about ten."""
PAGE_BYTES = 8192
"""A vector of 256 dimensions takes half a kilobyte: fewer, larger pages waste less at their ends."""
WAL_PAGES = 4000
"""32 MiB: the postings of many settles fall on the same pages, which are then written back once."""
WAL_BYTES = 256 * 2**20
"""A write-ahead log of this length is begun anew. SQLite does so itself only at a moment when nobody reads, and while several
threads work there is none: the log would take as much of the disk as everything that is written."""
WAL_MILLISECONDS = 200
WAL_SECONDS = 5.0
"""Readers are waited for so long, and writers meanwhile; while a snapshot is held longer, it is tried again so often."""
STATEMENTS_CACHED = 200
PROGRESS_STEPS = 10_000
"""Steps of SQLite's machine between two looks at the clock: a fraction of a millisecond."""
_READING = (apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE)
_READING_PRAGMAS = ("table_list", "table_info", "table_xinfo", "index_list", "index_info", "index_xinfo", "foreign_key_list")

Row = tuple[Any, ...]
Values = tuple[Any, ...] | dict[str, Any]

_UNAVAILABLE = (apsw.BusyError, apsw.LockedError, apsw.CantOpenError, apsw.IOError, apsw.FullError, apsw.ProtocolError)
_FORBIDDEN = (apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError)
_INCOMPATIBLE = (apsw.NotADBError, apsw.CorruptError, apsw.FormatError)


class UnreadableKeyError(StoreError):
    """A key cannot be read as text."""


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Turn errors of APSW into errors of ours."""
    try:
        yield
    except _UNAVAILABLE as error:
        raise StoreUnavailableError(
            f"{path} cannot be used just now: {error}; try again, or check this user's rights"
        ) from error
    except _FORBIDDEN as error:
        raise StorePermissionError(_unwritable(path, error)) from error
    except _INCOMPATIBLE as error:
        raise StoreIncompatibleError(
            f"{path} or {path}-seamark is damaged, or not a SQLite database: {error}. If {path} is sound, move {path}-seamark "
            f"away and attach again: it holds nothing that cannot be made anew"
        ) from error
    except UnicodeDecodeError as error:
        # Text columns are read as bytes; what is left is a key, which has to be given back exactly as it is.
        raise UnreadableKeyError(
            f"{path}: a key is text that is not valid UTF-8 ({error.reason}); mend that row's key"
        ) from error
    except apsw.SQLError as error:
        gone = str(error).removeprefix("no such table: app.")
        lacks = (
            f"{path}: {error}" if gone == str(error) else f"{path} has no table {gone} any more; seamark doctor says what to do"
        )
        raise StoreError(lacks) from error
    except apsw.Error as error:
        raise StoreError(f"{path}: {error}") from error
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror}; move what is there away, or mend its rights") from error


def _unwritable(path: Path, error: object) -> str:
    return f"{path} or {path}-seamark cannot be written: {error}; give this user write access to both, and to their folder"


def integers(numbers: Sequence[int] | NDArray[np.integer]) -> Any:
    """Return numbers, at least one, as a value to bind to `carray`."""
    return apsw.carray(np.array(numbers, dtype=np.int64))  # pyright: ignore[reportUnknownMemberType]


class Connection:
    """APSW's connection with whole answers: a cursor that is not read to its end would keep its snapshot open."""

    def __init__(self, path: str, flags: int) -> None:
        self._raw: Any = apsw.Connection(path, flags=flags | apsw.SQLITE_OPEN_URI, statementcachesize=STATEMENTS_CACHED)
        self._raw.set_busy_timeout(BUSY_MILLISECONDS)
        self.filename = self._raw.filename

    def run(self, statements: str, values: Values = ()) -> None:
        """Run statements that have no answer."""
        self._raw.execute(statements, values)

    def many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement that has no answer for each of the rows."""
        self._raw.executemany(statement, rows)

    def rows(self, statement: str, values: Values = ()) -> list[Row]:
        """Return all rows."""
        return self._raw.execute(statement, values).fetchall()

    def many_rows(self, statement: str, rows: Iterable[Sequence[Any]]) -> list[Row]:
        """Run a statement for each of the rows and return what all of them answer."""
        return self._raw.executemany(statement, rows).fetchall()

    def row(self, statement: str, values: Values = ()) -> Row | None:
        """Return the only row, or None."""
        found = self.rows(statement, values)
        assert len(found) <= 1
        return found[0] if found else None

    def only(self, statement: str, values: Values = ()) -> Row:
        """Return the one row that there must be."""
        found = self.row(statement, values)
        assert found is not None
        return found

    def value(self, statement: str, values: Values = ()) -> Any:
        """Return the only column of the only row, or None."""
        found = self.row(statement, values)
        return None if found is None else found[0]

    @contextmanager
    def stream(self, statement: str, values: Values = ()) -> Generator[Iterator[Row]]:
        """Read rows one by one, for as long as the block lasts."""
        cursor = self._raw.execute(statement, values)
        try:
            yield cursor
        finally:
            cursor.close()

    def only_reading(self, seconds: float) -> None:
        """Refuse everything from now on but reading, and what takes longer than that."""
        until = time.monotonic() + seconds
        self.pragma("query_only", 1)
        self._raw.authorizer = _reads
        self._raw.set_progress_handler(lambda: time.monotonic() > until, PROGRESS_STEPS)

    def query(self, statement: str, values: Values = ()) -> tuple[tuple[str, ...], tuple[Row, ...]]:
        """Return the names of the columns, and all rows, of what must be one statement."""
        described: list[tuple[str, ...]] = []

        def begins(cursor: Any, _statement: str, _values: object) -> bool:
            described.append(tuple(column[0] for column in cursor.get_description()))
            return len(described) == 1

        cursor = self._raw.cursor()
        cursor.exec_trace = begins
        found = tuple(cursor.execute(statement, values))
        return (described[0] if described else ()), found

    def writable(self) -> bool:
        """Say whether the main database can be written: SQLite opens a file without the right to write it for reading."""
        return not self._raw.readonly("main")

    def changes(self) -> int:
        """Return how many rows the last statement has changed, not counting those that triggers have."""
        return self._raw.changes()

    def pragma(self, name: str, value: str | int | None = None, schema: str | None = None) -> Any:
        """Read or set a pragma."""
        if value is None:
            return self._raw.pragma(name, schema=schema)
        return self._raw.pragma(name, value, schema=schema)

    def wait(self, milliseconds: int) -> None:
        """Wait no longer than that for a lock."""
        self._raw.set_busy_timeout(milliseconds)

    def wal_bytes(self) -> int:
        """Return how long the write-ahead log of the main database is."""
        try:
            return Path(self._raw.filename_wal).stat().st_size
        except FileNotFoundError:
            return 0

    def wal_restart(self) -> None:
        """Empty the write-ahead log, unless a reader stays too long on what is in it."""
        self._raw.set_busy_timeout(WAL_MILLISECONDS)
        try:
            self._raw.wal_checkpoint("main", apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except (apsw.BusyError, apsw.LockedError):
            return
        finally:
            self._raw.set_busy_timeout(BUSY_MILLISECONDS)

    def checkpoint_at_close(self, *, enabled: bool) -> None:
        """Say whether the last connection to close checkpoints the write-ahead log."""
        self._raw.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(not enabled))

    @contextmanager
    def transaction(self, begin: str) -> Generator[None]:
        """Commit at the end of the block; roll back when it raises."""
        self.run(begin)
        try:
            yield
        except BaseException:
            # SQLite has rolled back by itself after some errors (a full disk).
            if self._raw.in_transaction:
                self.run("ROLLBACK")
            raise
        self.run("COMMIT")

    def close(self) -> None:
        """Close it."""
        self._raw.close()


def _reads(operation: int, name: str | None, *_: object) -> int:
    """Say whether an operation only reads: to attach a file, for one, would make it."""
    allowed = operation in _READING or (operation == apsw.SQLITE_PRAGMA and name in _READING_PRAGMAS)
    return apsw.SQLITE_OK if allowed else apsw.SQLITE_DENY


class Connections:
    """The connections of one store. Each is used by one thread at a time and then lent to the next."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        self.sidecar = path.with_name(path.name + "-seamark")
        self._wal_tried = -WAL_SECONDS
        self._lock = threading.Lock()
        self._all: list[Connection] = []
        self._idle: list[Connection] = []
        self._closed = self._written = False
        with translated(path):
            self.encoding = self._prepare(create=create)
        self.codec = {"UTF-8": "utf-8", "UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}[self.encoding]

    @contextmanager
    def use(self) -> Generator[Connection]:
        """Lend a connection; each statement is its own transaction."""
        with self._translated():
            connection = self._take()
            try:
                yield connection
            except apsw.ReadOnlyError:
                self._drop(connection)  # opened while the file could only be read, it could never write
                raise
            except BaseException:
                self._give(connection)
                raise
            self._give(connection)

    @contextmanager
    def _translated(self) -> Generator[None]:
        """Turn errors of APSW into errors of ours; a sidecar that could be written before will be again."""
        try:
            with translated(self.path):
                yield
        except StorePermissionError as error:
            if not self._written:
                raise
            raise StoreUnavailableError(f"{error}. It could be written before, and will be tried again") from error

    @contextmanager
    def snapshot(self) -> Generator[Connection]:
        """Lend a connection on one snapshot of both files.

        The sidecar's is taken first: nothing in it can then be the consequence of a write that the other file does not show.
        """
        with self.use() as connection, connection.transaction("BEGIN"):
            connection.rows("SELECT 1 FROM main.sqlite_schema LIMIT 1")
            connection.rows("SELECT 1 FROM app.sqlite_schema LIMIT 1")
            yield connection

    @contextmanager
    def transaction(self) -> Generator[Connection]:
        """Lend a connection in a transaction that may write to the sidecar."""
        with self.use() as connection:
            with connection.transaction("BEGIN IMMEDIATE"):
                yield connection
            self._written = True
            if self._wal_long(connection):
                connection.wal_restart()

    @contextmanager
    def user_transaction(self, *, durable: bool = True, wait_milliseconds: int = BUSY_MILLISECONDS) -> Generator[Connection]:
        """Open a connection in a transaction that may write to the user's file; keep it short.

        What is not `durable` may be undone by a power loss; where SQLite is then still sure to keep the file whole, the commit
        does not wait for the disk.
        """
        with translated(self.path):
            connection = Connection(_uri(self.path, "rw"), apsw.SQLITE_OPEN_READWRITE)
            try:
                if not connection.writable():
                    raise StorePermissionError(f"{self.path} cannot be written; give this user write access to it")
                # The checkpoint of the last connection to close locks the file for a moment, and an application that opens it
                # just then without a busy timeout would be turned away.
                connection.checkpoint_at_close(enabled=False)
                connection.wait(wait_milliseconds)
                if not durable and connection.pragma("journal_mode") == "wal":
                    connection.pragma("synchronous", "NORMAL")
                with connection.transaction("BEGIN IMMEDIATE"):
                    yield connection
            finally:
                connection.close()

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """Open a connection for a user's own query: to the user's file, with ours as `seamark`, both read-only."""
        with translated(self.path):
            connection = Connection(_uri(self.path, "ro"), apsw.SQLITE_OPEN_READONLY)
            try:
                connection.run("ATTACH ? AS seamark", (_uri(self.sidecar, "ro"),))
                yield connection
            finally:
                connection.close()

    def _wal_long(self, connection: Connection) -> bool:
        """Say whether the write-ahead log is long, and the last try to begin it anew is a while ago."""
        if time.monotonic() - self._wal_tried < WAL_SECONDS or connection.wal_bytes() <= WAL_BYTES:
            return False
        self._wal_tried = time.monotonic()
        return True

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            self._closed = True
            connections, self._all, self._idle = self._all, [], []
        with translated(self.path):
            for connection in connections:
                connection.close()

    def _take(self) -> Connection:
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.path} has been closed")
            if self._idle:
                return self._idle.pop()
        connection = self._open()
        with self._lock:
            self._all.append(connection)
        return connection

    def _drop(self, connection: Connection) -> None:
        with self._lock:
            if connection in self._all:
                self._all.remove(connection)
        connection.close()

    def _give(self, connection: Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)

    def _open(self) -> Connection:
        connection = Connection(_uri(self.sidecar, "rwc"), apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        try:
            for pragma, value in (
                ("page_size", PAGE_BYTES),
                ("encoding", self.encoding),  # one connection takes files of one encoding only
                ("synchronous", "NORMAL"),
                ("temp_store", "MEMORY"),
                ("cache_size", -CACHE_KIBIBYTES),
                ("wal_autocheckpoint", WAL_PAGES),
            ):
                connection.pragma(pragma, value)
            if connection.pragma("journal_mode") != "wal":
                connection.pragma("journal_mode", "WAL")
            connection.run("ATTACH ? AS app", (_uri(self.path, "ro"),))
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, *, create: bool) -> str:
        """Make the user's file if it is to be made; return its text encoding."""
        if not self.path.exists():
            if not create:
                raise StoreUnavailableError(f"there is no file {self.path}; check the path")
            if not self.path.parent.is_dir():
                raise StoreUnavailableError(f"there is no folder {self.path.parent}; make it, or check the path")
            connection = Connection(_uri(self.path, "rwc"), apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
            try:
                connection.pragma("journal_mode", "WAL")
            finally:
                connection.close()
        for folder in (one for one in (self.path, self.sidecar) if one.is_dir()):
            raise StoreUnavailableError(f"{folder} is a folder; a file is wanted there")
        connection = Connection(_uri(self.path, "ro"), apsw.SQLITE_OPEN_READONLY)
        try:
            return str(connection.pragma("encoding"))
        finally:
            connection.close()


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(str(path.absolute()))}?mode={mode}"
