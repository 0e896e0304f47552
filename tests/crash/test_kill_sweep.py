"""A process is killed before and after its statements; then another finishes, and the final database is judged alone.

SEAMARK_KILL_STRIDE sets how many moments lie between two kills: 1 is the full sweep; unless told, a spread of
some forty moments.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import seamark
from seamark.core.registry import PROBES
from seamark.testing.batch_server import BillingServer
from seamark.testing.judgement import judge, judge_calls, judge_source
from seamark.testing.killer import Killer, Order
from seamark.testing.oracle import OracleEmbedder, log_counts, oracle_proves
from seamark.testing.proxy import Proxy
from seamark.testing.scenarios import EDITED
from seamark.testing.workbench import Workbench

pytestmark = pytest.mark.timeout(36_000)

SAMPLES = 40
TITLES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
EXPECTED = {
    (1,): "first\n\nbody of row 1",
    (2,): "second\n\nedited since",
    (6,): "sixth\n\nbody of row 6",
    (7,): "seventh",
    (8,): "eighth\n\nbody of row 8",
    (9,): "ninth\n\nbody of row 9",
    (10,): "",
    (30,): "late\n\na row that comes late",
    (40,): "fourth\n\nmoved",
}
"""What is live once the application has done its edits: 3 deleted, 4 moved to 40, 5 gone out of the `where`, 6 come into it."""


SWAPPED = {"oracle-a": "retired", "oracle-b": "active"}
STATES = {
    "swap": SWAPPED,
    "activate": SWAPPED,
    "rollback": {"oracle-a": "active", "oracle-b": "retired"},
    "drop": {"oracle-b": "active"},
}
"""Which models' generations there are in the end, and in which state."""


@pytest.fixture(scope="module")
def killer():
    with Killer() as server:
        yield server


class Case:
    """One database and one process log."""

    def __init__(self, backend, folder, number):
        self.backend = backend
        self.log = folder / f"log-{backend.name}-{number}"
        self.server = None
        self.application = backend.application()
        integer, text = backend.type("integer"), backend.type("text")
        self.application.run(f"CREATE TABLE notes (id {integer} PRIMARY KEY, title {text}, body {text}, org {integer})")
        rows = [(n, title, f"body of row {n}", 9 if n == 6 else n % 2) for n, title in enumerate(TITLES, 1)]
        rows[-1] = (10, None, " ", 1)
        self.application.many("INSERT INTO notes VALUES (?, ?, ?, ?)", rows)

    def order(self, scenario, kill_at, since=""):
        model = None if self.server is None else self.server.locator
        return Order(self.backend.url, scenario, kill_at, str(self.log), model=model, since=since)

    def finish(self, killer, scenario):
        """Let the leases of the dead expire, and another process do the same again; return how many leases there were."""
        expired = self.backend.leases_expire() if self.backend.began() else 0
        assert killer.run(self.order(scenario, 0)).status == 0
        return expired

    def judge(self, expired):
        """I1, I2, I5 and I15; that I4 held is in the vectors, which prove what they were made of."""
        judge(self.backend, EXPECTED, "third fifth")
        judge_calls(self.log, EXPECTED, expired)


def moments(killer, case, scenario):
    """Let a process live, and return how many moments its life had."""
    ending = killer.run(case.order(scenario, 0))
    assert (ending.signal, ending.status) == (0, 0)
    assert ending.moments > 50
    return ending.moments


def chosen(count, samples=SAMPLES):
    """Return moments: the middle of each of so many stretches, or as SEAMARK_KILL_STRIDE says."""
    stride = int(os.environ.get("SEAMARK_KILL_STRIDE", "0")) or max(1, count // samples)
    return range((stride + 1) // 2, count + 1, stride)


@pytest.fixture(params=["sqlite", "postgres"])
def sweep(request, killer, backend_open, tmp_path):
    """Return a function that kills a scenario at a spread of its moments, and judges what each next process ends with.

    `ended(case, expired)` judges; the scenario that nobody kills is judged first. `served` makes a server for each case.
    """

    def begin(teardown, number, served):
        case = Case(backend_open(request.param, tmp_path, teardown), tmp_path, number)
        case.server = teardown.enter_context(served()) if served else None
        return case

    def swept(scenario, ended, samples=SAMPLES, served=None):
        with ExitStack() as teardown:
            case = begin(teardown, 0, served)
            count = moments(killer, case, scenario)
            ended(case, 0)
        for moment in chosen(count, samples):
            with ExitStack() as teardown:
                case = begin(teardown, moment, served)
                ending = killer.run(case.order(scenario, moment))
                assert ending.signal == signal.SIGKILL, f"the kill at moment {moment} of {count} did not fire"
                try:
                    ended(case, case.finish(killer, scenario))
                except Exception as error:
                    error.add_note(f"killed at moment {moment} of {count}")
                    raise

    return swept


def test_killed_anywhere_in_attach_and_work(sweep):
    """Attach, claim, read, settle, upkeep and trim: whatever the statement, the next process ends where this one would have."""
    sweep("life", Case.judge)


@pytest.mark.parametrize(("scenario", "samples"), [("swap", 12), ("activate", 6), ("rollback", 6), ("drop", 6)])
def test_killed_anywhere_in_a_swap_and_what_comes_after(scenario, samples, sweep):
    """Done again, it ends where it would have: the same generations in the same states, and no text paid for twice."""
    sweep(scenario, partial(judge_generations, STATES[scenario]), samples)


def judge_generations(states, case, lost):
    generations = case.backend.store().generations()
    assert {one.model.name: one.state for one in generations if one.model is not None} == states
    judge(case.backend, EXPECTED, "third fifth")
    active = next(name for name, state in states.items() if state == "active")
    judge_calls(case.log.with_name(case.log.name + ("-new" if active == "oracle-b" else "")), EXPECTED, lost)


def test_killed_anywhere_in_a_repair(sweep):
    """Of what no trigger saw; done again, it ends where it would have."""
    sweep("repair", Case.judge, 8)


def test_killed_anywhere_in_an_adoption(sweep):
    """Done again, it ends where it would have, and no text that there was a vector of is ever embedded."""
    sweep("adopt", judge_adopted, 8)


def judge_adopted(case, _):
    judge(case.backend, EXPECTED, "third fifth")
    # The last two have another text by the edits, or come into the `where` with them.
    embedded = {text for text in log_counts(case.log) if not any(word in text for word in EDITED)}
    assert embedded <= {"seventh", "sixth\n\nbody of row 6"}


def test_killed_anywhere_in_batches_at_a_provider(sweep):
    """Whoever comes after sees to what was begun: no passage is submitted twice, called for besides, or counted twice.

    That holds for the dead. Who sleeps between the last look at its claim and its request, for longer than the claim holds (ten
    minutes), sends a second batch when it wakes up: no provider refuses a tag that is there.
    """
    sweep("batch", judge_batches, 24, BATCHES)


BATCHES = partial(BillingServer, looks=2)


def judge_batches(case, lost):
    bench = Workbench(case.backend)
    [source] = bench.store.sources()
    judge_source(bench, source, EXPECTED, "third fifth", proves=lambda v, text, _: oracle_proves(v, text, "oracle"))
    batches = [batch for one in bench.store.generations(source.id) for batch in bench.store.batches(one.id)]
    assert {batch.state for batch in batches} == {"done"}
    sent = [batch for batch in batches if batch.requests]
    assert len(sent) > 1
    assert [(one.id, one.tag) for one in case.server.batches] == [(batch.provider_id, batch.tag) for batch in sent]
    inputs = [line["body"]["input"] for one in case.server.batches for line in one.lines]
    submitted = Counter(text for text in inputs if text not in PROBES)
    assert max(submitted.values()) == 1
    called = Counter(case.server.asked())
    late = {text for text in called if any(word in text for word in EDITED)}
    assert called.keys() - late <= {"seventh", "sixth\n\nbody of row 6"}, "the rows there were came by the batches"
    assert max(called.values()) <= 1 + lost
    spent = sum(one.texts for one in bench.store.spends(source.id).values())
    assert submitted.total() <= spent <= submitted.total() + called.total()


@pytest.mark.parametrize("name", ["sqlite", "postgres"])
def test_killed_between_a_settle_and_its_stamps(name, killer, backend_open, tmp_path):
    """Before, while and after the first stamp is written: what is embedded is stamped or owed, and the next worker stamps it.

    PostgreSQL stamps in the settle's transaction, so that there are both or neither; SQLite's stamp is in another file.
    """
    since = {"sqlite": 'SET "has_embedding" = ?', "postgres": 'SET "has_embedding" = '}[name]
    seen = []
    for moment in range(1, 20):
        with ExitStack() as teardown:
            case = Case(backend_open(name, tmp_path, teardown), tmp_path, moment)
            assert killer.run(case.order("stamp", moment, since)).signal == signal.SIGKILL
            embedded, stamped, owed = stamps(case)
            seen.append((len(embedded), len(stamped), owed))
            assert stamped <= embedded
            assert len(embedded - stamped) <= owed
            expired = case.finish(killer, "stamp")
            embedded, stamped, owed = stamps(case)
            assert (stamped, owed, len(embedded)) == (embedded, 0, 8)
            judge_calls(case.log, {}, expired)
    embedded, stamped, owed = seen[0]
    assert (stamped, embedded) == (0, owed)
    assert (owed > 0) == (name == "sqlite")
    assert any(embedded == stamped > owed == 0 for embedded, stamped, owed in seen), "some of these moments come after it"


def stamps(case):
    """Return which rows are embedded, which of them are stamped, and how many `doctor` says are owed that."""
    bench = Workbench(case.backend)
    [source] = bench.store.sources()
    generation = next(one for one in bench.store.generations(source.id) if one.kind == "vector")
    embedded = {key for (key,), row in case.backend.rows(source, generation).items() if row.chunks > 0}
    stamped = {key for (key,) in case.application.run("SELECT id FROM notes WHERE has_embedding")}
    with seamark.open(case.backend.url, embedder=OracleEmbedder("oracle-a")) as service:
        [check] = [check for check in service.doctor() if check.name == "stamps notes"]
    assert (check.ok, check.required) == (not bench.store.stamps_owed(source), False)
    assert check.ok or "seamark work" in check.remedy
    return embedded, stamped, int(check.detail.split()[0]) if not check.ok else 0


@pytest.mark.parametrize("name", ["sqlite", "postgres"])
def test_killed_twice(name, killer, backend_open, tmp_path):
    """The one who comes after is killed too, at another moment."""
    with ExitStack() as teardown:
        count = moments(killer, Case(backend_open(name, tmp_path, teardown), tmp_path, 0), "life")
    for moment in chosen(count, 8):
        with ExitStack() as teardown:
            case = Case(backend_open(name, tmp_path, teardown), tmp_path, moment)
            assert killer.run(case.order("life", moment)).signal == signal.SIGKILL
            expired = case.backend.leases_expire() if case.backend.began() else 0
            # Even one who finds everything done has more moments than these.
            assert killer.run(case.order("life", 1 + (7 * moment) % 100)).signal == signal.SIGKILL
            case.judge(expired + case.finish(killer, "life"))


@pytest.mark.parametrize("name", ["sqlite", "postgres"])
def test_a_crew_of_threads_is_killed(name, killer, backend_open, tmp_path):
    """The worker that users run: which statement is the n-th is chance, and it ends right all the same."""
    with ExitStack() as teardown:
        case = Case(backend_open(name, tmp_path, teardown), tmp_path, 0)
        count = moments(killer, case, "crew")
        case.judge(0)
    fired = 0
    for moment in chosen(count, 8):
        with ExitStack() as teardown:
            case = Case(backend_open(name, tmp_path, teardown), tmp_path, moment)
            ending = killer.run(case.order("crew", moment))
            assert ending.signal == signal.SIGKILL or ending.status == 0
            fired += ending.signal == signal.SIGKILL
            case.judge(case.finish(killer, "crew"))
    assert fired > 0


@pytest.mark.parametrize("name", ["sqlite", "postgres"])
def test_killed_anywhere_in_detach(name, killer, backend_open, tmp_path):
    """Detached again, nothing of ours is left in the user's schema, and nothing of the user's is gone."""

    def begin(teardown, number):
        case = Case(backend_open(name, tmp_path, teardown), tmp_path, number)
        case.backend.store().close()
        return case, case.backend.schema()

    def judge_detached(case, schema):
        assert case.backend.schema() == schema
        assert case.application.run("SELECT count(*) FROM notes") == [(len(TITLES),)]
        store = case.backend.store()
        assert (list(store.sources()), list(store.generations())) == ([], [])

    moment = 0
    while True:
        moment += max(1, int(os.environ.get("SEAMARK_KILL_STRIDE", "5")))
        with ExitStack() as teardown:
            case, schema = begin(teardown, moment)
            ending = killer.run(case.order("detach", moment))
            if ending.signal == 0:
                assert ending.status == 0
                assert moment > 5, "at least one process was killed"
                judge_detached(case, schema)
                return
            assert ending.signal == signal.SIGKILL
            assert killer.run(case.order("detach", 0)).status == 0
            judge_detached(case, schema)


# --- connections that are cut: PostgreSQL's ---------------------------------------------------------------------------

ENDED = {
    **{scenario: partial(judge_generations, states) for scenario, states in STATES.items()},
    "repair": Case.judge,
    "adopt": judge_adopted,
    "batch": judge_batches,
}
"""What judges a case, by what has been cut off in it."""


def cuts(count):
    """Return which moments or requests are cut: a spread of some ten, or as SEAMARK_KILL_STRIDE says."""
    return chosen(count, 10)


def test_backends_are_terminated_anywhere_in_attach_and_work(killer, backend_open, tmp_path):
    """The one who is cut off begins again in the same process, with the connections that are left, and ends right."""
    with ExitStack() as teardown:
        count = moments(killer, Case(backend_open("postgres", tmp_path, teardown), tmp_path, 0), "life")
    again = 0
    for moment in cuts(count):
        with ExitStack() as teardown:
            case = Case(backend_open("postgres", tmp_path, teardown), tmp_path, moment)
            ending = killer.run(replace(case.order("life", moment), cut=True))
            assert ending.status == 0, f"cut at moment {moment} of {count}"
            assert ending.cuts > 0, f"the cut at moment {moment} of {count} did not fire"
            again += ending.again
            case.judge(ending.expired)
    assert again > 0, "some of them felt it"


def test_backends_of_a_crew_are_terminated_and_its_threads_go_on_by_themselves(killer, backend_open, tmp_path):
    with ExitStack() as teardown:
        count = moments(killer, Case(backend_open("postgres", tmp_path, teardown), tmp_path, 0), "crew")
    fired = 0
    for moment in chosen(count, 4):
        with ExitStack() as teardown:
            case = Case(backend_open("postgres", tmp_path, teardown), tmp_path, moment)
            ending = killer.run(replace(case.order("crew", moment), cut=True))
            assert ending.status == 0, f"cut at moment {moment} of {count}"
            fired += ending.cuts > 0
            case.judge(4)  # so many leases may have been held
    assert fired > 0


@pytest.mark.parametrize("of", ["commits", "requests"])
def test_a_connection_is_cut_when_the_answer_is_under_way(of, killer, backend_open, tmp_path):
    """The server has done it, and nobody has heard so: an ambiguous commit."""

    def life(number, cut_at):
        with ExitStack() as teardown:
            case = Case(backend_open("postgres", tmp_path, teardown), tmp_path, number)
            folder = Path(teardown.enter_context(tempfile.TemporaryDirectory(prefix="seamark-")))
            proxy = teardown.enter_context(Proxy(case.backend.url, folder, cut_at=cut_at, of=of))
            ending = killer.run(replace(case.order("life", 0), url=proxy.url, cut=True))
            assert ending.status == 0, f"cut at {cut_at}"
            assert proxy.cut == (cut_at > 0), f"the cut at {cut_at} did not fire"
            # What is cut off may be a commit that was heard of in another way, or one that nothing depends on.
            case.judge(ending.expired + ending.again)
            return proxy.counts[of], ending.again

    count, _ = life(0, 0)
    assert count > 20
    assert sum(life(number, number)[1] for number in cuts(count)) > 0, "some of them felt it"


@pytest.mark.parametrize("scenario", ENDED)
def test_what_is_cut_off_anywhere_is_begun_again_and_ends_where_it_would_have(scenario, killer, backend_open, tmp_path):
    """Backends are terminated, and answers swallowed; what fails by it says that it may be run again, and so it is."""
    numbers = itertools.count()

    def life(moment=0, cut_at=0, of="requests"):
        with ExitStack() as teardown:
            case = Case(backend_open("postgres", tmp_path, teardown), tmp_path, next(numbers))
            case.server = teardown.enter_context(BATCHES()) if scenario == "batch" else None
            # Killed at once, after what goes before unharmed: none of that is cut off.
            assert killer.run(case.order(scenario, 1)).signal == signal.SIGKILL
            folder = Path(teardown.enter_context(tempfile.TemporaryDirectory(prefix="seamark-")))
            proxy = teardown.enter_context(Proxy(case.backend.url, folder, cut_at=cut_at, of=of))
            ending = killer.run(replace(case.order(scenario, moment), url=proxy.url, cut=True))
            where = f"cut at moment {moment}, at {cut_at} of {of}"
            assert ending.status == 0, where
            assert (ending.cuts > 0, proxy.cut) == (moment > 0, int(cut_at > 0)), f"{where}: the cut fired"
            try:
                ENDED[scenario](case, ending.expired + ending.again)
            except Exception as error:
                error.add_note(where)
                raise
            return ending, proxy.counts

    living, counts = life()
    assert (living.again, min(living.moments, counts["requests"]) > 20, counts["commits"] > 3) == (0, True, True)
    endings = [life(moment)[0] for moment in chosen(living.moments, 3)]
    assert any(ending.again for ending in endings), "some of those whose backends were terminated felt it"
    for of, samples in (("commits", 3), ("requests", 1)):
        for cut_at in chosen(counts[of], samples):
            life(cut_at=cut_at, of=of)


@pytest.mark.timeout(600)
def test_a_command_that_is_cut_off_ends_with_one_line_and_1_and_is_run_again(backend_open, tmp_path):
    """Attach, as a user runs it: the answer to one of its commits is swallowed."""

    def attach(number, cut_at):
        with ExitStack() as teardown:
            case = Case(backend_open("postgres", tmp_path, teardown), tmp_path, number)
            folder = Path(teardown.enter_context(tempfile.TemporaryDirectory(prefix="seamark-")))
            proxy = teardown.enter_context(Proxy(case.backend.url, folder, cut_at=cut_at, of="commits"))
            command = [sys.executable, "-m", "seamark", "attach", "notes", "--text", "body", "--db"]
            ended = subprocess.run([*command, proxy.url], capture_output=True, text=True, check=False)
            assert proxy.cut == int(cut_at > 0), f"the cut at commit {cut_at} fired"
            again = subprocess.run([*command, case.backend.url], capture_output=True, text=True, check=False)
            assert again.returncode == 0, again.stderr
            [source] = case.backend.store().sources()
            assert source.state == "ready"
            return ended, proxy.counts["commits"]

    living, commits = attach(0, 0)
    assert living.returncode == 0
    cut = [attach(number, number)[0] for number in chosen(commits, 2)]
    failed = [ended for ended in cut if ended.returncode]
    assert failed, "some of them felt it"
    for ended in failed:
        assert (ended.returncode, "Traceback" in ended.stderr) == (1, False), ended.stderr
        assert "seamark: PostgreSQL cannot be reached or went away" in ended.stderr.splitlines()[-1]
