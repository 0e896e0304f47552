"""The PostgreSQL server is killed under a worker; it recovers, another worker finishes, and the database is judged."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

import seamark
from seamark.core.chunking import render
from seamark.testing.judgement import judge, judge_calls
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.workbench import Workbench

ROWS = 2000
"""Some thirty leases."""
KILLING_WORKER = """
import itertools, os, signal, sys, threading
from pathlib import Path
import psycopg
import seamark
from seamark.testing.oracle import OracleEmbedder
url, log, call, server = sys.argv[1:]
calls, later = itertools.count(1), itertools.count(1)
on_disk = threading.Event()
class Killing(OracleEmbedder):
    def embed_documents(self, texts):
        found = super().embed_documents(texts)
        if next(calls) == int(call):
            with psycopg.connect(url) as connection:
                connection.execute("CREATE TABLE on_disk ()")
            on_disk.set()
        elif on_disk.is_set() and next(later) == 2:
            os.kill(int(server), signal.SIGQUIT)
        return found
with seamark.open(url, embedder=Killing(log=Path(log), concurrency=3)) as service:
    service.work(until="current", threads=4)
"""
"""Kills the server within a call of the model, while other threads claim and settle; SIGQUIT ends it as a crash does. A few
calls before, a commit that waits for the disk sees to it that not all that was settled is lost."""


@pytest.fixture
def server(postgres_start):
    """A server that nobody else is hurt by."""
    with postgres_start() as server:
        yield server


@pytest.fixture
def notes(server, backend_on, teardown, tmp_path):
    """A database on it with many notes, and what they come to."""
    backend = backend_on(server, "postgres", tmp_path, teardown)
    application = backend.application()
    application.run("CREATE TABLE notes (id integer PRIMARY KEY, title text, body text)")
    rows = [(number, f"title {number}", f"the body of note {number}") for number in range(1, ROWS + 1)]
    application.many("INSERT INTO notes VALUES (?, ?, ?)", rows)
    application.connection.close()
    return backend, {(number,): render([title, body]) for number, title, body in rows}


def attach(backend):
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        service.attach("notes", text=["title", "body"])


def generation_of(store, kind):
    return next(generation for generation in store.generations() if generation.kind == kind)


def test_commits_reach_the_disk(backend_open, teardown, tmp_path):
    """The crash tests run on a server that is set up as one that keeps what it was given."""
    application = backend_open("postgres", tmp_path, teardown).application()
    settings = ("fsync", "full_page_writes", "synchronous_commit")
    assert [application.run(f"SHOW {setting}") for setting in settings] == [[("on",)]] * 3


@pytest.mark.parametrize("call", [6, 18])
def test_the_server_is_killed_in_the_middle_of_a_fill(server, notes, call, teardown, tmp_path):
    """The worker that was at it sleeps through all that follows, and wakes when another has done its work."""
    backend, texts = notes
    attach(backend)
    log = tmp_path / "calls.jsonl"
    killed = server.get_postmaster_info().process
    command = [sys.executable, "-c", KILLING_WORKER, backend.url, str(log), str(call), str(killed.pid)]
    sleeper = subprocess.Popen(command)
    teardown.callback(sleeper.wait)
    teardown.callback(sleeper.kill)
    killed.wait(60)
    sleeper.send_signal(signal.SIGSTOP)
    server.ensure_postgres_running()
    assert server.get_postmaster_info().process != killed
    with seamark.open(backend.url, embedder=OracleEmbedder(log=log)) as service:
        [source] = service.store.sources()
        found = Workbench(backend).coverage_check(source, generation_of(service.store, "vector"), texts)
        assert found.embedded > 0, "some rows were done"
        assert found.missing > 0, "and some were not"
        backend.leases_expire()
        service.work(until="current")
    judge(backend, texts)
    sleeper.send_signal(signal.SIGCONT)
    assert sleeper.wait(200) == 0
    judge(backend, texts)
    # Settles are committed without waiting for the disk: with the server die the last of them, lease and all.
    judge_calls(log, texts, 1)
