"""The connections of the SQLite store, and the write-ahead log that they share."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager

import pytest

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
