"""`work` as processes: several at once, told to stop, killed, and left without the one that started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import psutil
import pytest

import seamark
from seamark.testing.embedding_server import EmbeddingServer, Fault
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.waiting import until

ROWS = 400
POISON = "row 7 of the table"


CALL_SECONDS = 0.3
SLOW = Fault("delay", times=None, seconds=CALL_SECONDS)


@pytest.fixture
def server():
    with EmbeddingServer() as serving:
        yield serving


@pytest.fixture
def attached_slow(cli, backend, table, server):
    """The table attached to a model of which every call takes a while; returns what waits for the next call."""
    attach(cli, backend, server)
    server.fail(SLOW)
    begun = len(server.calls)

    def called():
        until(lambda: len(server.calls) > begun, "the model was not called")

    return called


def attach(cli, backend, server):
    model = f"openai:test?base_url={server.openai_url}"
    done = cli("attach", "rows_of_text", "--text", "body", "--model", model, db=backend.url)
    assert done.code == 0, done.err


@pytest.fixture
def table(backend):
    application = backend.application()
    application.run(f"CREATE TABLE rows_of_text(id {backend.type('integer')} PRIMARY KEY, body {backend.type('text')})")
    application.many("INSERT INTO rows_of_text VALUES (?, ?)", [(n, f"row {n} of the table") for n in range(1, ROWS + 1)])
    return application


@pytest.fixture
def coverage(backend):
    """Count what is embedded, by vector generation."""

    def count():
        with seamark.open(backend.url) as service:
            return service.source("rows_of_text").coverage()

    return count


def test_several_processes_do_the_work_once(ran, cli, backend, table, coverage):
    assert cli("attach", "rows_of_text", "--text", "body", db=backend.url).code == 0
    worked = ran("work", "--until", "current", "--workers", "3", "--json", db=backend.url)
    assert worked.code == 0, worked.err
    expected = {"settled": 2 * ROWS, "workers": 3, "died": 0, "rows": ROWS, "missing": 0, "failed": 0, "stopped": None}
    assert worked.json() == expected
    assert coverage().embedded == ROWS


def test_progress_is_a_json_line_a_second(ran, backend, attached_slow):
    worked = ran("work", "--until", "current", db=backend.url)
    assert worked.code == 0, worked.err
    lines = [json.loads(line) for line in worked.err.splitlines()]
    assert {"label", "rows", "total", "rows_per_second", "eta_seconds", "lag_seconds", "problem"} == lines[-1].keys()
    assert lines[-1]["rows"] == lines[-1]["total"] == ROWS
    assert worked.out == f"{ROWS} rows, all current\n"


def test_rows_that_fail_are_told_by_the_exit_code(ran, cli, backend, table, server, coverage):
    attach(cli, backend, server)
    server.fail(Fault("status", times=None, status=400, text=POISON))
    worked = ran("work", "--until", "current", "--json", db=backend.url)
    assert worked.code == 1, worked.err
    assert (worked.json()["rows"], worked.json()["failed"]) == (ROWS, 1)
    server.heal()
    assert cli("failures", "retry", "rows_of_text", db=backend.url).code == 0
    assert ran("work", "--until", "current", db=backend.url).code == 0
    assert coverage().embedded == ROWS


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("number", "until", "code"), [
    (signal.SIGTERM, (), 0),
    (signal.SIGTERM, ("--until", "current"), 143),
    (signal.SIGINT, (), 130),
])  # fmt: skip
def test_a_signal_hands_the_work_back(program, cli, backend, server, attached_slow, coverage, workers, number, until, code):
    process = program("work", "--workers", workers, "--json", *until, db=backend.url)
    attached_slow()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert json.loads(out)["stopped"] == signal.Signals(number).name
    counts = coverage()
    assert counts.missing > 0
    assert [each.leases for each in counts.generations.values()] == [0, 0]
    # What was handed back is taken up at once, with all of its attempts.
    server.heal()
    assert cli("work", "--until", "current", db=backend.url).code == 0
    assert coverage().embedded == ROWS


def test_a_second_signal_ends_at_once(program, backend, server, attached_slow):
    """Whatever the model is at: the call that is under way takes longer than the test may."""
    server.heal()
    server.fail(Fault("delay", times=None, seconds=300))
    process = program("work", db=backend.url)
    attached_slow()
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.terminate()
    assert process.wait(timeout=30) == 143


def children(process):
    return psutil.Process(process.pid).children()


def test_a_worker_that_is_killed_is_told_and_the_others_do_its_work(program, backend, server, attached_slow, coverage):
    process = program("work", "--workers", 2, "--json", "--until", "current", db=backend.url)
    attached_slow()
    os.kill(children(process)[0].pid, signal.SIGKILL)
    server.heal()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert json.loads(out)["died"] == 1
    assert b"a worker died (SIGKILL)" in err
    assert coverage().embedded == ROWS


def test_workers_end_when_the_process_that_started_them_is_killed(program, backend, attached_slow, coverage):
    process = program("work", "--workers", 2, db=backend.url)
    attached_slow()
    workers = children(process)
    assert len(workers) == 2
    process.kill()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    assert [each.leases for each in coverage().generations.values()] == [0, 0]


def test_a_model_that_is_not_to_be_had_is_one_line(ran, backend, table):
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        service.attach("rows_of_text", text="body")
    for workers in (1, 2):
        worked = ran("work", "--until", "current", "--workers", workers, db=backend.url)
        assert worked.code == 1
        [told] = [line for line in worked.err.splitlines() if not line.startswith("{")]
        assert "seamark.open(…, embedder=…)" in told


def test_the_url_is_not_on_the_command_line_of_the_workers(program, backend, attached_slow):
    process = program("work", "--workers", 2, "--db", backend.url)
    attached_slow()
    commands = [" ".join(child.cmdline()) for child in children(process)]
    assert len(commands) == 2
    assert all("work" in command and backend.url not in command for command in commands)


def test_nothing_attached_is_nothing_to_do(ran, backend):
    worked = ran("work", "--until", "current", "--json", db=backend.url)
    assert (worked.code, worked.json()["settled"]) == (0, 0)


def test_a_member_of_a_crew_ends_well_while_its_lifeline_is_held(program, attached, backend):
    member = program("work", "--until", "current", "--json", "--lifeline", db=backend.url, stdin=subprocess.PIPE)
    assert member.wait(60) == 0, member.stderr.read()
