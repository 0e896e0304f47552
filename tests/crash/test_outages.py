"""The database goes away, cannot be written, or has no room left, while workers, writers and searchers go on: they outlive it.

SEAMARK_OUTAGE_SECONDS sets how long each outage is (1.5 unless told; 30 in `make test-full`). The small disks are file systems
in memory, which only root may mount; a machine that cannot mount fails here.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import apsw
import psycopg
import pytest

import seamark
from seamark.core import sync
from seamark.core.chunking import render
from seamark.errors import StoreUnavailableError
from seamark.store.postgres.connection import translated
from seamark.testing import servers
from seamark.testing.chaos import Stage
from seamark.testing.judgement import judge
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.waiting import until

SECONDS = float(os.environ.get("SEAMARK_OUTAGE_SECONDS", "1.5"))
MEBIBYTE = 2**20


@pytest.fixture
def server(postgres_start):
    """A server that nobody else is hurt by."""
    with postgres_start() as server:
        yield server


@contextmanager
def small_disk(folder, mebibytes):
    """Mount a file system of that size in memory."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=755", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk):
    """Take all the room there is left; return the file that has it."""
    balloon = disk / "balloon"
    with balloon.open("wb", buffering=0) as file:
        for size in (MEBIBYTE, 4096):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return balloon


def begin(stage):
    """Let two workers, two writers and a searcher begin, and wait until all of them are at it."""
    for role in ("writer", "writer", "searcher", "worker", "worker"):
        stage.enter(role)
    until(lambda: written(stage) > 20, "the writers write")
    until(lambda: len(stage.bench.store.workers(60)) == 2, "both workers have written")
    until(lambda: embedded(stage) > 35, "the workers work")


def written(stage):
    return sum(writer.count("committed") for writer in stage.those("writer"))


def embedded(stage):
    [source] = stage.bench.store.sources()
    vector = next(one for one in stage.bench.store.generations() if one.kind == "vector")
    return stage.bench.store.coverage(source, [vector.id])[vector.id].embedded


def go_on(stage, lost=10):
    """See that all of them go on by themselves, then judge."""
    assert all(worker.running() for worker in stage.those("worker")), "no worker has ended"
    before = written(stage)
    until(lambda: written(stage) > before + 20, "the writers write again")
    until(lambda: caught_up(stage), "the workers have caught up")
    stage.end()
    stage.finish()
    stage.judge(lost=lost)


def caught_up(stage):
    """Say whether the workers have lately settled something that was written after the outage."""
    [source] = stage.bench.store.sources()
    vector = next(one for one in stage.bench.store.generations() if one.kind == "vector")
    journal, rows = stage.backend.journal(source), stage.backend.rows(source, vector)
    return max(row.seq for row in rows.values()) > max(seq for seq, _ in journal.values()) - 60


def lost_by(stage, role):
    return sum(actor.count("lost") + actor.count("away") for actor in stage.those(role))


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


@pytest.fixture
def postgres_stage(server, troupe, backend_on, tmp_path, teardown):
    return Stage(troupe, backend_on(server, "postgres", tmp_path, teardown), tmp_path, teardown)


def reconnect(stage, teardown):
    """Give the application another connection, since its own was cut."""
    stage.bench.app.connection.close()
    stage.bench.app.connection = psycopg.connect(stage.backend.url, autocommit=True, application_name="user")
    teardown.callback(stage.bench.app.connection.close)
    with suppress(StoreUnavailableError):  # of the store here, too
        stage.bench.store.clock()


def control(server, *arguments):
    """Run pg_ctl as the user whose server it is."""
    command = [str(server.bin_path / "pg_ctl"), "-D", str(server.pgdata), *arguments]
    subprocess.run(command, check=True, user=server.system_user, stdout=subprocess.DEVNULL)


def test_the_server_is_stopped_at_once_and_is_back_after_a_while(postgres_stage, server, teardown):
    stage = postgres_stage
    begin(stage)
    control(server, "stop", "-m", "immediate")
    assert not (server.pgdata / "postmaster.pid").exists()
    time.sleep(SECONDS)
    assert lost_by(stage, "searcher") > 0, "the searchers felt it"
    server.ensure_postgres_running()
    reconnect(stage, teardown)
    go_on(stage)
    assert lost_by(stage, "writer") > 0, "the writers felt it"


def test_the_server_is_read_only_for_a_while(postgres_stage, server):
    stage = postgres_stage
    begin(stage)
    set_read_only(server, on=True)
    until(lambda: lost_by(stage, "writer") > 0, "the writers feel it")
    time.sleep(SECONDS)
    searched = stage.those("searcher")[0].count("away")
    assert searched == 0, "searches do not feel it"
    set_read_only(server, on=False)
    go_on(stage)


def set_read_only(server, *, on):
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}")
        connection.execute("SELECT pg_reload_conf()")


def test_the_servers_disk_is_full_for_a_while(troupe, backend_on, tmp_path, teardown):
    # Not within pytest's folders: whenever one of its sessions begins, it takes other users' right to look into them.
    folder = Path(teardown.enter_context(tempfile.TemporaryDirectory(prefix="seamark-")))
    disk = teardown.enter_context(small_disk(folder / "disk", 160))
    server = teardown.enter_context(servers.postgres_start("min_wal_size = '32MB'", "max_wal_size = '32MB'", within=disk))
    stage = Stage(troupe, backend_on(server, "postgres", tmp_path, teardown), tmp_path, teardown)
    begin(stage)
    balloon = fill(disk)
    log = server.pgdata / "log"
    with (
        psycopg.connect(server.get_uri(), autocommit=True) as connection,
        pytest.raises(StoreUnavailableError, match=r"no room left.*space"),
        translated(),
    ):
        connection.execute("CREATE TABLE more AS SELECT repeat('x', 1000) FROM generate_series(1, 100000)")
    until(lambda: any("No space left" in event["error"] for event in lost_events(stage, "writer", "worker")), "they feel it")
    time.sleep(SECONDS)
    assert "No space left on device" in log.read_text()
    balloon.unlink()
    server.ensure_postgres_running()  # where it had no room for its own log it went down
    reconnect(stage, teardown)
    go_on(stage)
    for actor in (*stage.those("writer"), *stage.those("worker")):
        done = [event["event"] for event in actor.events() if event["event"] in {"lost", "committed", "settle"}]
        assert done[-1] != "lost", f"{actor.order.role}: what could not be written is not the last of it"


# --- SQLite -------------------------------------------------------------------------------------------------------


@pytest.fixture
def sqlite_stage(troupe, sqlite_backend, tmp_path, teardown):
    return Stage(troupe, sqlite_backend, tmp_path, teardown)


@contextmanager
def immutable(folder):
    """Let nobody write to the databases and logs of a folder, not even through what is open already.

    SQLite's shared memory is left out: it is written to as memory is, and the system ends a process that may not.
    """
    files = [str(path) for path in folder.iterdir() if ".db" in path.name and not path.name.endswith("-shm")]
    subprocess.run(["chattr", "+i", *files], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *files], check=True)


def test_the_files_are_read_only_for_a_while(sqlite_stage, tmp_path):
    stage = sqlite_stage
    begin(stage)
    with immutable(tmp_path):
        until(lambda: lost_by(stage, "writer") > 0, "the writers feel it")
        time.sleep(SECONDS)
        assert all(worker.running() for worker in stage.those("worker"))
    go_on(stage)


def test_the_disk_is_full_for_a_while(troupe, backend_on, tmp_path, teardown):
    disk = teardown.enter_context(small_disk(tmp_path / "disk", 64))
    stage = Stage(troupe, backend_on(None, "sqlite", disk, teardown), tmp_path, teardown)
    begin(stage)
    balloon = fill(disk)
    until(lambda: any("full" in event["error"] for event in lost_events(stage, "writer")), "the writers feel it")
    time.sleep(SECONDS)
    balloon.unlink()
    go_on(stage)


def lost_events(stage, *roles):
    return [event for role in roles for actor in stage.those(role) for event in actor.events() if event["event"] == "lost"]


def test_another_program_holds_the_locks_for_a_while(sqlite_stage):
    """Both files' write locks: what a program does that stops in the middle of a transaction."""
    stage = sqlite_stage
    begin(stage)
    with ExitStack() as holding:
        for path in (stage.backend.path, stage.backend.sidecar):
            connection = apsw.Connection(str(path))
            holding.callback(connection.close)
            connection.set_busy_timeout(20_000)
            connection.execute("BEGIN IMMEDIATE")
        before = embedded(stage)
        time.sleep(SECONDS + 2.5)
        assert embedded(stage) == before, "nobody could settle"
    go_on(stage)
    assert lost_by(stage, "writer") > 0, "the writers felt it"


@pytest.fixture
def cramped(monkeypatch):
    """Return a function that lets a file grow no more through connections that are opened from now on; None: any may grow."""
    chosen = []

    def hook(connection):
        if chosen and connection.filename == str(chosen[0]):
            connection.pragma("max_page_count", connection.pragma("page_count"))

    monkeypatch.setattr(apsw, "connection_hooks", [*apsw.connection_hooks, hook])

    def choose(path):
        chosen[:] = [] if path is None else [path]

    return choose


@pytest.mark.parametrize("which", ["sidecar", "user's file"])
def test_a_file_may_not_grow(which, sqlite_backend, cramped):
    """What cannot be written is not half written, and all goes on once there is room."""
    application = sqlite_backend.application()
    application.run("CREATE TABLE notes (id INTEGER PRIMARY KEY, title TEXT, body TEXT)")
    rows = [(number, None, f"text {number} " + "and more of it " * 20) for number in range(1, 400)]
    application.many("INSERT INTO notes VALUES (?, ?, ?)", rows)
    if which == "sidecar":
        with seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as service:
            service.attach("notes", text=["title", "body"])
    cramped(sqlite_backend.sidecar if which == "sidecar" else sqlite_backend.path)
    with (
        seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as service,
        pytest.raises(StoreUnavailableError, match="full"),
    ):
        settle_all(service) if which == "sidecar" else service.attach("notes", text=["title", "body"])
    assert application.run("SELECT count(*) FROM notes") == [(len(rows),)]
    cramped(None)
    sqlite_backend.leases_expire()
    with seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as service:
        service.attach("notes", text=["title", "body"])
        service.work(until="current")
    judge(sqlite_backend, {(number,): render([title, body]) for number, title, body in rows})


def settle_all(service):
    """Settle one lease after the other in this thread."""
    again = True
    while again:
        again = False
        for generation in service.store.generations():
            [source] = service.store.sources()
            claim = service.store.lease_claim(generation.id, "w", 64, 30)
            again |= claim.again or claim.lease is not None
            if claim.lease is not None:
                indexer = service.indexer(generation)
                sync.step(service.store, source, generation, indexer, claim.lease, Keeper(), lambda: False, 0)


class Keeper:
    def hold(self, lease): ...

    def drop(self, lease): ...
