"""Processes that are killed, put to sleep, or wrong about the time, with writers and searchers beside them, on both databases.

SEAMARK_CHAOS_SECONDS sets how long the first of these goes on (4 unless told).
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from functools import reduce
from operator import or_
from pathlib import Path

import httpx2
import psycopg
import pytest

from seamark.core.chunking import render
from seamark.testing.chaos import Stage
from seamark.testing.judgement import judge_source
from seamark.testing.searcher import STEADY
from seamark.testing.waiting import until

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


@pytest.fixture
def embedding_server(tmp_path):
    """A server in a process of its own, and the file that it logs its calls to."""
    log = tmp_path / "calls.jsonl"
    command = [sys.executable, "-m", "seamark.testing.embedding_server", "--dimension", "16", "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip(), log
        process.terminate()


FAULTS = [
    {"kind": "status", "status": 500, "times": 3},
    {"kind": "nan", "times": 2},
    {"kind": "status", "status": 429, "times": 3},
    {"kind": "reset", "times": 4},
    {"kind": "fewer", "times": 2},
    {"kind": "delay", "seconds": 0.2, "times": 2},
]
"""What befalls documents: queries have no such text in them."""


def test_models_are_swapped_and_rolled_back_while_everything_fails(troupe, backend, tmp_path, teardown, embedding_server):
    """No search fails or finds less, whatever becomes of the workers, the calls and the generations."""
    url, log = embedding_server
    models = [f"openai:{name}?base_url={url}/v1&dimensions=16&batch_items=8" for name in ("first", "second")]
    stage = Stage(troupe, backend, tmp_path, teardown, model=models[0])
    writers = [stage.enter("writer") for _ in range(2)]
    searchers = [stage.enter("searcher") for _ in range(2)]
    workers = [stage.enter("worker") for _ in range(2)]
    until(lambda: all(writer.count("committed") > 5 for writer in writers), "the writers write")
    httpx2.post(f"{url}/faults", json=[fault | {"text": "text "} for fault in FAULTS]).raise_for_status()
    with stage.service() as service:
        notes = service.source("notes")
        [second] = notes.swap(models[1])
        workers[0].kill()
        stage.enter("worker")
        until(lambda: state(stage, second.id) == "active", "the second model is the active one")
        workers[1].kill()
        stage.enter("worker")
        first = notes.rollback().generation
        assert ("retired", "active") == (state(stage, second.id), state(stage, first.id))
        before = sum(writer.count("committed") for writer in writers)
        until(lambda: sum(writer.count("committed") for writer in writers) > before + 20, "the writers go on")
    stage.end()
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    assert {fault["kind"] for fault in FAULTS} <= {call["fault"] for call in calls}, "every fault struck"
    assert all(searcher.count("away") == 0 for searcher in searchers), "no search failed"
    stage.backend.leases_expire()
    stage.finish()
    stage.judge(lost=len(FAULTS) + 2, calls=answered(log))


LASTING = {
    "429": ({"kind": "status", "status": 429}, "scripted 429"),
    "401": ({"kind": "status", "status": 401}, "scripted 401"),
    "413": ({"kind": "status", "status": 413}, "scripted 413"),
    "html": ({"kind": "html"}, "not JSON"),
    "dimension": ({"kind": "dimension"}, "15 dimensions"),
    "hang": ({"kind": "delay", "seconds": 2.0}, "did not answer in time"),
}
"""What a server does until somebody mends it, and what is said of it meanwhile."""


def test_whatever_lasts_searches_are_right_and_only_those_that_need_the_server_fail(
    troupe, backend, tmp_path, teardown, embedding_server
):
    """First with rows alone, then with queries, too. Work goes on by itself, but for what is parked."""
    url, log = embedding_server
    model = f"openai:m?base_url={url}/v1&dimensions=16&batch_items=8&timeout_seconds=1.5"
    stage = Stage(troupe, backend, tmp_path, teardown, model=model)
    stage.enter("writer")
    searcher = stage.enter("searcher")
    delays = {f"seamark.{module}:CONFIGURATION_DELAY_SECONDS": 0.05 for module in ("core.sync", "edges.worklist")}
    worker = stage.enter("worker", constants=delays)

    with stage.service() as service:
        notes = service.source("notes")
        for name, (fault, told) in LASTING.items():
            rows = fault | {"times": None, "text": "text "}
            away = searcher.count("away")
            httpx2.post(f"{url}/faults", json=[rows]).raise_for_status()
            until(lambda told=told: told in said(service, notes), f"{name} is told of")
            assert searcher.count("away") == away, f"{name}: no search failed"
            httpx2.post(f"{url}/faults", json=[rows, rows | {"text": "steady row that moves"}]).raise_for_status()
            until(lambda away=away: searcher.count("away") > away, f"{name}: a search by meaning alone fails")
            assert worker.running()
            httpx2.post(f"{url}/faults", json=[]).raise_for_status()
            done = written(worker)
            until(lambda done=done: written(worker) > done + 5, f"{name}: the worker goes on")
        parked = [failure for failure in notes.failures() if failure.retry_at is None]
        assert {failure.kind for failure in parked} <= {"input"}, "what may pass is tried again"
        stage.end()
        notes.failures_retry()
    struck = Counter(json.loads(line)["fault"] for line in log.read_text().splitlines())
    assert {fault["kind"] for fault, _ in LASTING.values()} <= struck.keys(), "every fault struck"
    stage.finish()
    stage.judge(lost=2, calls=answered(log, {None}))  # a call may be slow by chance


def said(service, notes):
    """Return what is said of the index's embedder and of rows that failed."""
    waiting = [one.backoff_error or "" for one in service.store.generations(notes.source.id)]
    return "\n".join([*waiting, *(failure.error for failure in notes.failures(1000))])


def written(worker):
    """Return how many rows a worker has settled."""
    return sum(rows or 0 for rows in settles(worker).values())


def state(stage, generation):
    return next(one.state for one in stage.bench.store.generations() if one.id == generation)


def answered(log, faults=(None, "delay")):
    """Return how often each text of a row was answered for, by the model that was asked for it most often.

    By calls that went right, or with these faults.
    """
    counts = defaultdict(Counter)
    for line in log.read_text().splitlines():
        call = json.loads(line)
        if call["fault"] in faults:
            counts[call["request"].get("model")].update(
                text for text in call["texts"] if re.match(r"text|title|steady 9", text)
            )
    return reduce(or_, counts.values())


@pytest.mark.parametrize("what", ["another model's vector", "a row that should be gone", "a call too many"])
def test_what_is_wrong_is_found(stage, what):
    """The judges of this file, judged."""
    writer, searcher, worker = stage.enter("writer"), stage.enter("searcher"), stage.enter("worker")
    until(lambda: writer.count("committed") > 5 and embedded(stage) > len(STEADY), "something is written and indexed")
    if what == "another model's vector":
        spoil(stage)
        until(lambda: searcher.count("violation") > 0, "the searcher sees it")
        stage.end()
        assert "I9" in next(event for event in searcher.events() if event["event"] == "violation")["said"]
        return
    stage.end()
    stage.finish()
    stage.judge()
    if what == "a call too many":
        (tmp := Path(worker.order.log + "-oracle")).write_bytes(tmp.read_bytes() * 2)
        with pytest.raises(AssertionError, match="versions of rows that had it"):
            stage.judge()
    else:
        stage.bench.app.run("INSERT INTO notes VALUES (800000, NULL, 'written behind the back of the logs', 1)")
        with pytest.raises(AssertionError, match="what was acknowledged is there"):
            stage.judge()


def spoil(stage):
    """Give every steady row the vector of one of them."""
    [vector] = [one for one in stage.bench.store.generations() if one.kind == "vector"]
    [source] = stage.bench.store.sources()
    chunks = stage.backend.chunks(source, vector)
    if stage.backend.name == "sqlite":
        with stage.backend._reading(stage.backend.sidecar) as connection:
            connection.set_busy_timeout(10_000)
            connection.execute(
                f"UPDATE chunks_{vector.id} SET embedding = ? WHERE k1 >= {STEADY[0]}", (chunks[-1].vector.tobytes(),)
            )
    else:
        with psycopg.connect(stage.backend.url, autocommit=True) as connection:
            connection.execute(
                f"UPDATE seamark.chunks_{vector.id} c SET embedding = o.embedding FROM seamark.chunks_{vector.id} o"
                f" WHERE o.k1 = {STEADY[-1]} AND c.k1 >= {STEADY[0]}"
            )


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
    # One thread alone is at work, lest another one sleeps in the middle of a transaction of its own.
    idle = {f"seamark.edges.worker:{name}_SECONDS": 1000.0 for name in ("KEEPER_LOOK", "UPKEEP", "TRIM")}
    zombie = stage.enter("worker", sleep_after=1, threads=1, constants=idle)
    until(zombie.stopped, "the worker sleeps after it has embedded")
    held = {lease for lease, worker in leases(stage) if worker.split(":")[1] == str(zombie.began["pid"])}
    assert held, "it has what it embedded in its hand"
    assert held.isdisjoint(settles(zombie)), "and has not tried to settle it"
    if newer:
        stage.bench.app.run("UPDATE notes SET body = 'newer text' WHERE id = 2")
        stage.bench.app.run("DELETE FROM notes WHERE id = 3")
        stage.bench.app.run("UPDATE notes SET id = 60 WHERE id = 4")
    stage.finish()  # which waits until the lease has expired
    assert held.isdisjoint(lease for lease, _ in leases(stage)), "another has done what it had"
    before = stored(stage)
    zombie.send(signal.SIGCONT)
    until(lambda: held & settles(zombie).keys(), "it is awake, and settles what it had in its hand")
    stage.bench.app.run("INSERT INTO notes VALUES (70, NULL, 'something to do once awake', 1)")
    until(lambda: embedded(stage) == len(live(stage)), "it does new work")
    zombie.end()
    assert {written for lease, written in settles(zombie).items() if lease in held} == {None}, (
        "and is told that it is not its own"
    )
    after = stored(stage)
    for one, rows in after[0].items():
        assert {key: row for key, row in rows.items() if key != (70,)} == before[0][one]
    assert [chunk for chunk in after[1] if chunk[1] != (70,)] == before[1]
    assert after[2] == before[2]
    judge_source(stage.bench, stage.bench.store.sources()[0], live(stage), "moving")


def settles(worker):
    """Return which leases a worker has tried to settle, and how many rows that wrote; None where it was not its any more."""
    return {event["lease"]: event["written"] for event in worker.events() if event["event"] == "settle"}


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


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["+1h", "-1h"])
def test_a_machine_that_is_wrong_about_the_time_does_work_twice_and_no_harm(
    troupe, sqlite_backend, tmp_path, teardown, seconds
):
    """SQLite's clock is the machine's. Ahead, it takes over what others hold; behind, its own leases are taken over at once."""
    stage = Stage(troupe, sqlite_backend, tmp_path, teardown)
    stage.enter("worker", machine_seconds=seconds)
    stage.enter("worker")
    writer, searcher = stage.enter("writer"), stage.enter("searcher")
    seen = []
    until(
        lambda: seen.extend(ahead(stage)) or any(abs(left - seconds) < 60 for left in seen),
        "a lease by the wrong clock is seen",
    )
    until(lambda: writer.count("committed") > 30, "the writer has written")
    stage.end()
    assert searcher.events()[-1]["searches"] > 0
    stage.backend.leases_expire()
    stage.finish()
    stage.judge(lost=writer.count("committed"))
