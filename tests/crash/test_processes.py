"""Processes that are killed, put to sleep, or wrong about the time, with writers and searchers beside them, on both databases.

SEAMARK_CHAOS_SECONDS sets how long the first of these goes on (4 unless told).
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from seamark.core.chunking import render
from seamark.testing.chaos import Stage, until
from seamark.testing.judgement import judge_source

SECONDS = float(os.environ.get("SEAMARK_CHAOS_SECONDS", "4"))
HOUR, YEAR = 3600.0, 365 * 86_400.0


@pytest.fixture
def stage(troupe, backend, tmp_path, teardown):
    return Stage(troupe, backend, tmp_path, teardown)


def test_workers_are_killed_again_and_again_while_others_write_and_search(stage):
    writers = [stage.enter("writer") for _ in range(2)]
    searchers = [stage.enter("searcher") for _ in range(2)]
    workers = [stage.enter("worker") for _ in range(2)]
    killed, deadline = 0, time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.3)
        workers.pop(0).kill()
        killed += 1
        workers.append(stage.enter("worker"))
    until(lambda: all(writer.count("committed") > 20 for writer in writers), "the writers have written")
    stage.end()
    assert killed > 2
    assert all(searcher.events()[-1]["searches"] > 10 for searcher in searchers)
    stage.backend.leases_expire()
    stage.finish()
    stage.judge(lost=killed)


# --- sleepers -----------------------------------------------------------------------------------------------------


def stored(stage):
    """Return everything that generations hold, with the worker and the time that it is from."""
    [source] = stage.bench.store.sources()
    generations = stage.bench.store.generations()
    rows = {one.id: stage.backend.rows(source, one) for one in generations}
    chunks = [(one.id, chunk.key, chunk.ordinal, chunk.digest) for one in generations for chunk in chunks_of(stage, one)]
    failures = [failure for one in generations for failure in stage.bench.store.failures(source, one.id, 100)]
    return rows, chunks, failures, stage.backend.journal(source)


def chunks_of(stage, generation):
    [source] = stage.bench.store.sources()
    return stage.backend.chunks(source, generation) if generation.kind == "vector" else ()


@pytest.mark.parametrize("newer", [True, False], ids=["newer text", "the same text"])
def test_a_worker_that_slept_past_its_lease_writes_nothing(stage, newer):
    """It sleeps between the embedding and the settle; another finishes what it had, or what has become of it."""
    rows = [(number, None, f"the first text of {number}", 1) for number in range(1, 7)]
    stage.bench.app.many("INSERT INTO notes VALUES (?, ?, ?, ?)", rows)
    # With one thread, lest another one sleeps in the middle of a transaction of its own.
    zombie = stage.enter("worker", sleep_after=1, threads=1)
    until(zombie.stopped, "the worker sleeps after it has embedded")
    held = {lease for lease, worker in leases(stage) if worker.split(":")[1] == str(zombie.began["pid"])}
    assert held, "it has what it embedded in its hand"
    assert stage.backend.leases_expire() > 0
    if newer:
        stage.bench.app.run("UPDATE notes SET body = 'newer text' WHERE id = 2")
        stage.bench.app.run("DELETE FROM notes WHERE id = 3")
        stage.bench.app.run("UPDATE notes SET id = 60 WHERE id = 4")
    stage.finish()
    assert held.isdisjoint(lease for lease, _ in leases(stage)), "another has done what it had"
    before = stored(stage)
    zombie.send(signal.SIGCONT)
    until(lambda: not zombie.stopped(), "it is awake")
    stage.bench.app.run("INSERT INTO notes VALUES (70, NULL, 'something to do once awake', 1)")
    until(lambda: embedded(stage) == len(live(stage)), "it does new work")
    zombie.end()
    after = stored(stage)
    for one, rows in after[0].items():
        assert {key: row for key, row in rows.items() if key != (70,)} == before[0][one]
    assert [chunk for chunk in after[1] if chunk[1] != (70,)] == before[1]
    assert after[2] == before[2]
    judge_source(stage.bench, stage.bench.store.sources()[0], live(stage), "moving")


def leases(stage):
    """Return id and worker of every lease."""
    table = "lease" if stage.backend.name == "sqlite" else "seamark.lease"
    if stage.backend.name == "sqlite":
        with stage.backend._reading(stage.backend.sidecar) as connection:
            return connection.execute(f"SELECT id, worker FROM {table}").fetchall()
    return stage.backend._look(f"SELECT id, worker FROM {table}")


def live(stage):
    return {(key,): render(row) for key, *row in stage.bench.app.run("SELECT id, title, body FROM notes")}


def embedded(stage):
    with stage.service() as service:
        return service.source("notes").coverage().embedded


# --- clocks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, YEAR, -YEAR], ids=["+1h", "-1h", "+1y", "-1y"])
def test_a_worker_that_is_wrong_about_the_time_does_no_harm(stage, seconds):
    """Leases are by the database's clock: nobody takes over what it holds, and it takes over nothing that others hold."""
    wrong = stage.enter("worker", clock_seconds=seconds)
    right = stage.enter("worker")
    assert abs(wrong.began["time"] - right.began["time"] - seconds) < 60, "its clock is off"
    writer, searcher = stage.enter("writer"), stage.enter("searcher")
    seen = []
    until(lambda: seen.extend(ahead(stage)) or (len(seen) > 3 and writer.count("committed") > 30), "leases are seen")
    stage.end()
    assert all(-60 < left < 60 for left in seen), seen
    assert searcher.events()[-1]["searches"] > 0
    stage.finish()
    # Nothing is lost, and nothing was done twice.
    stage.judge(lost=0)


def ahead(stage):
    """Return in how many seconds, by this machine's clock, each lease expires that is there."""
    table = "lease" if stage.backend.name == "sqlite" else "seamark.lease"
    statement = f"SELECT expires_at FROM {table} WHERE expires_at > 1"
    if stage.backend.name == "postgres":
        rows = stage.backend._look(statement)
    else:
        with stage.backend._reading(stage.backend.sidecar) as connection:
            rows = connection.execute(statement).fetchall()
    return [expires_at / 1e6 - time.time() for (expires_at,) in rows]
