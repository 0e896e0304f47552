"""The connections of the SQLite store, and the write-ahead log that they share."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager

import apsw
import pytest

from seamark.errors import StorePermissionError, StoreUnavailableError
from seamark.store.sqlite import connection
from seamark.store.sqlite.connection import Connections

MEBIBYTE = 2**20


@pytest.fixture
def connections(tmp_path):
    with ExitStack() as teardown:
        opened = Connections(tmp_path / "app.db", create=True)
        teardown.callback(opened.close)
        with opened.transaction() as writer:
            writer.run("CREATE TABLE main.load(id INTEGER PRIMARY KEY, data BLOB)")
        yield opened


@contextmanager
def always_read(connections):
    """Let threads hold snapshots, so many and so long that there is always one."""
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            with connections.snapshot():
                stop.wait(0.02)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for number, thread in enumerate(threads):
        stop.wait(0.005 * number)
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_the_log_does_not_grow_without_end_though_somebody_always_reads(connections, monkeypatch):
    monkeypatch.setattr(connection, "WAL_BYTES", 4 * MEBIBYTE)
    monkeypatch.setattr(connection, "WAL_SECONDS", 0.0)
    log = connections.sidecar.with_name(connections.sidecar.name + "-wal")
    longest = 0
    with always_read(connections):
        for _ in range(60):
            with connections.transaction() as writer:
                writer.run("INSERT INTO main.load(data) VALUES (zeroblob(?))", (MEBIBYTE,))
            longest = max(longest, log.stat().st_size)
    assert longest < 20 * MEBIBYTE, "of 60 that were written"
    with connections.snapshot() as reader:
        assert reader.value("SELECT sum(length(data)) FROM main.load") == 60 * MEBIBYTE


def test_a_sidecar_that_can_be_written_no_more_is_away_for_a_while(connections, tmp_path):
    """Who could write before need not end; a connection that was opened meanwhile would never write, and is not kept."""
    raw = [apsw.Connection(str(connections.sidecar), flags=apsw.SQLITE_OPEN_READONLY)]
    with connections.use() as one:
        able, one._raw = one._raw, raw[0]
    with pytest.raises(StoreUnavailableError, match="could be written before"), connections.transaction() as writer:
        writer.run("INSERT INTO load VALUES (1, NULL)")
    able.close()
    with connections.transaction() as writer:
        writer.run("INSERT INTO load VALUES (1, NULL)")


def test_a_sidecar_that_could_never_be_written_is_a_matter_of_rights(tmp_path):
    with ExitStack() as teardown:
        made = Connections(tmp_path / "app.db", create=True)
        with made.transaction() as writer:
            writer.run("CREATE TABLE main.load(id INTEGER PRIMARY KEY)")
        made.close()
        opened = Connections(tmp_path / "app.db", create=False)
        teardown.callback(opened.close)
        with opened.use() as one:
            one._raw.close()
            one._raw = apsw.Connection(str(opened.sidecar), flags=apsw.SQLITE_OPEN_READONLY)
        with pytest.raises(StorePermissionError), opened.transaction() as writer:
            writer.run("INSERT INTO load VALUES (1)")
