"""`work` while the PostgreSQL server is away: what it tells stays readable, it goes on by itself, and it ends when told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import psycopg
import pytest

import seamark
from seamark.testing.waiting import until


@pytest.fixture
def server(postgres_start):
    """A server that nobody else misses."""
    with postgres_start("fsync = off") as server:
        yield server


@pytest.fixture
def worker(server, tmp_path):
    """A worker over ten rows that are all embedded; returns its process, and what reads its lines of progress."""
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE TABLE notes (id integer PRIMARY KEY, body text)")
        connection.execute("INSERT INTO notes SELECT number, 'text' FROM generate_series(1, 10) number")
    with seamark.open(server.get_uri()) as service:
        service.attach("notes", text="body")
    told = tmp_path / "stderr"
    command = [sys.executable, "-m", "seamark", "work", "--db", server.get_uri()]
    with told.open("w") as stderr, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr) as process:
        yield process, lambda: told.read_text().splitlines()
        process.kill()


def stop(server):
    running = server.get_postmaster_info().process
    os.kill(running.pid, signal.SIGINT)  # no connection is waited for
    running.wait(60)


def last(lines):
    complete = lines()[:-1]
    return json.loads(complete[-1]) if complete else {"rows": 0, "problem": None}


def test_the_progress_of_an_outage_is_lines_of_json_and_work_goes_on_after_it(server, worker):
    _, lines = worker
    until(lambda: last(lines)["rows"] == 10)
    stop(server)
    until(lambda: last(lines)["problem"])
    seen = len(lines())
    until(lambda: len(lines()) > seen + 3)
    server.ensure_postgres_running()
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("INSERT INTO notes VALUES (11, 'text')")
    until(lambda: last(lines)["rows"] == 11)
    assert last(lines)["problem"] is None
    assert [line for line in lines()[:-1] if not line.startswith("{")] == []


def test_a_worker_that_is_told_to_stop_in_an_outage_ends_before_a_supervisor_loses_patience(server, worker):
    process, lines = worker
    until(lambda: last(lines)["rows"] == 10)
    stop(server)
    until(lambda: last(lines)["problem"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 1
    assert lines()[-1].startswith("seamark: PostgreSQL cannot be reached")
    server.ensure_postgres_running()
