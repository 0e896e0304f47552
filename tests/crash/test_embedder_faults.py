"""Whatever an embedding server does, over real sockets and with real workers on both databases: rows wait, are tried again, or
are parked with the reason; neighbours are done; attempts survive a restart, and an outage spends none."""

from __future__ import annotations

import itertools
import resource
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

import seamark
from seamark.core import retry, sync
from seamark.core.chunking import render
from seamark.edges import worker, worklist
from seamark.embed import http
from seamark.errors import EmbedderConfigurationError
from seamark.testing.beside import working
from seamark.testing.embedding_server import EmbeddingServer, Fault
from seamark.testing.judgement import judge_source
from seamark.testing.oracle import oracle_proves
from seamark.testing.waiting import until
from seamark.testing.workbench import Workbench

DATABASES = ("sqlite", "postgres")
ROWS = 12
BATCH = 4
POISON = "body of row 7"
TIMEOUT_SECONDS = 1.0
SHORT_SECONDS = 0.2
TRANSIENT = {
    "500": (Fault("status", status=500), "answered 500: scripted 500"),
    "502": (Fault("status", status=502), "answered 502"),
    "424": (Fault("status", status=424), "answered 424: scripted 424"),
    "read timeout": (Fault("delay", seconds=TIMEOUT_SECONDS + 0.3), "did not answer in time"),
    "dripping": (Fault("drip", seconds=0.01), "still sending"),
    "reset": (Fault("reset", times=3), "broke off"),
    "nan": (Fault("nan"), "NaN or infinity"),
    "infinity": (Fault("infinity"), "NaN or infinity"),
    "null": (Fault("null"), "else than numbers"),
    "zeros": (Fault("zeros"), "zero vector"),
    "fewer": (Fault("fewer"), "vectors for"),
    "more": (Fault("more"), "vectors for"),
    "duplicate index": (Fault("duplicate"), "returned index"),
    "index out of range": (Fault("out_of_range"), "returned index"),
    "html": (Fault("html"), "not JSON: <!doctype html>"),
    "bad json": (Fault("bad_json"), "not JSON"),
    "huge": (Fault("huge"), "more than"),
}
"""Each spends an attempt of the rows in its call: the fault, and what the failure says."""
OUTAGES = {
    "429 in seconds": (Fault("status", status=429, retry_after="30"), 30),
    "429 with a date": (Fault("status", status=429, retry_after="{date}"), 30),
    "429": (Fault("status", status=429), 0),
    "503": (Fault("status", status=503), 0),
    "503 in seconds": (Fault("status", status=503, retry_after="30"), 30),
}
"""Nobody's fault: the fault, and the seconds that the server asks to wait."""
WORST = {"500", "nan", "reset"}
"""One of each sort: an answer without vectors, vectors of no use, and no answer."""
MISTAKES = {
    "401": (Fault("status", status=401), "SEAMARK_EMBED_API_KEY"),
    "404": (Fault("status", status=404), "check the model's name"),
    "dimension": (Fault("dimension"), "15 dimensions instead of 16"),
    "400 for all": (Fault("status", status=400), "check the model's name and its settings"),
}
"""Somebody has to act: the fault, and what is said."""
ODD = {"permuted": Fault("permuted"), "base64": Fault("base64")}
"""Odd, and right."""
REFUSED = {"400": 400, "413": 413, "422": 422}
OPENAI_ONLY = {"duplicate index", "index out of range"}
"""Only there has a vector a place of its own: in the other shapes a permutation cannot be told."""
PATHS = {"openai": "/embeddings", "ollama": "/api/embed", "tei": "/embed"}


@pytest.fixture(scope="module")
def databases(backend_on, postgres_server, tmp_path_factory):
    """A database of each kind that the tests here use one after the other."""
    with ExitStack() as teardown:
        folder = tmp_path_factory.mktemp("databases")
        yield {name: Workbench(backend_on(postgres_server, name, folder, teardown)) for name in DATABASES}


@pytest.fixture(autouse=True)
def looking_often(hurried, monkeypatch):
    """See the end of a piece of work as soon as it has come, and refuse a reply that is not so long."""
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(worklist, "CATALOG_SECONDS", 0.1)
    monkeypatch.setattr(worker, "IDLE_MAX_SECONDS", 0.01)
    monkeypatch.setattr(http, "REPLY_BYTES_MAX", 2**21)


@pytest.fixture
def server():
    with EmbeddingServer(dimension=16) as server:
        yield server


NUMBERS = itertools.count(1)


class Case:
    """A table with a dozen rows, attached under a model behind a real server."""

    def __init__(self, bench, server, shape="openai", **settings):
        self.bench, self.backend, self.server, self.shape = bench, bench.backend, server, shape
        self.table = f"notes_{next(NUMBERS)}"
        self.application = bench.app
        self.application.run(f"CREATE TABLE {self.table} (id {self.backend.type('integer')} PRIMARY KEY, body TEXT)")
        rows = [(number, f"body of row {number}") for number in range(1, ROWS + 1)]
        self.application.many(f"INSERT INTO {self.table} VALUES (?, ?)", rows)
        self.texts = {(number,): render([body]) for number, body in rows}
        url = server.openai_url if shape == "openai" else server.url
        settings = {"base_url": url, "dimensions": 16, "batch_items": BATCH, "timeout_seconds": TIMEOUT_SECONDS} | settings
        self.locator = f"{shape}:m?" + "&".join(f"{name}={value}" for name, value in settings.items())
        with self.opened() as (service, _):
            service.attach(self.table, text="body", model=self.locator)
        server.calls.clear()

    @contextmanager
    def opened(self):
        """Begin a process, as it were: nothing is remembered but what is in the database."""
        with seamark.open(self.backend.url, model=self.locator) as service:
            known = {source.name: source for source in service.sources()}
            yield service, known.get(self.table)

    def step(self):
        """Let a process live for one lease of the vector generation; return the step, and the failures that it left."""
        with self.opened() as (service, tracked):
            generation = self.generation(service)
            found = service.store.lease_claim(generation.id, "w", 64, 30)
            assert found.lease is not None
            done = sync.step(
                service.store, tracked.source, generation, service.indexer(generation), found.lease, Keeper(), lambda: False, 0
            )
            return done, tracked.failures()

    def generation(self, service):
        [source] = [source for source in service.store.sources() if source.name == self.table]
        return next(one for one in service.store.generations(source.id) if one.kind == "vector")

    def work(self):
        """Let a worker finish, and return the failures that are left."""
        with self.opened() as (service, tracked):
            service.work(until="current", threads=2)
            return tracked.failures()

    def retry(self):
        with self.opened() as (_, tracked):
            return tracked.failures_retry()

    def judge(self, parked=(), answered=(None, *ODD)):
        """I1, I2, I15; and every text was answered for once (I5), by calls without a fault or with one of these."""
        [source] = [source for source in self.bench.store.sources() if source.name == self.table]

        def proves(vector, text, model):
            return oracle_proves(vector, text, model.partition(":")[2])

        judge_source(self.bench, source, self.texts, parked=parked, proves=proves)
        counts = Counter(text for call in self.server.calls if call.fault in answered for text in call.texts)
        wanted = {text for key, text in self.texts.items() if key not in parked}
        assert dict.fromkeys(wanted, 1) == {text: count for text, count in counts.items() if text in self.texts.values()}

    def fail(self, fault, **changes):
        """Script a fault of the calls that embed rows; unless told otherwise, the probes of a model are answered."""
        self.server.fail(replace(fault, **({"path": PATHS[self.shape], "text": fault.text or "body of row"} | changes)))

    def struck(self, kind):
        return sum(call.fault == kind for call in self.server.calls)

    def close(self):
        with self.opened() as (service, _):
            service.detach(self.table)
        self.application.run(f"DROP TABLE {self.table}")


class Keeper:
    def hold(self, lease): ...

    def drop(self, lease): ...


@pytest.fixture
def case_of(databases, server):
    """Return a function (database, shape, settings) that makes a case, taken away at the end."""
    made = []

    def case(name, *arguments, **settings):
        made.append(Case(databases[name], server, *arguments, **settings))
        return made[-1]

    yield case
    server.heal()
    for case in made:
        case.close()


def shapes(kinds):
    """Return each kind with each shape of server and database that it is seen at; Ollama's and TEI's on SQLite only."""
    cases = [pytest.param(kind, name, "openai", id=f"{kind}-{name}") for kind in kinds for name in DATABASES]
    others = [(kind, shape) for kind in kinds for shape in ("ollama", "tei") if kind not in OPENAI_ONLY]
    return cases + [pytest.param(kind, "sqlite", shape, id=f"{kind}-{shape}") for kind, shape in others]


def lasting(kinds, others):
    """Return each kind with each database, and the other ones with SQLite."""
    return list(itertools.chain(itertools.product(sorted(kinds), DATABASES), itertools.product(sorted(others), ["sqlite"])))


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name", "shape"), shapes(TRANSIENT))
def test_a_call_that_fails_once_spends_one_attempt_of_its_rows_and_no_other(kind, name, shape, case_of, server):
    """The attempt is there after a restart; then the rows are done."""
    fault, told = TRANSIENT[kind]
    case = case_of(name, shape)
    case.fail(fault)
    done, failures = case.step()
    assert case.struck(fault.kind) == fault.times
    assert (ROWS - BATCH, BATCH) == (done.settled.written, done.settled.failed)
    assert [("transient", 1)] * BATCH == [(failure.kind, failure.attempts) for failure in failures]
    assert all(told in failure.error and failure.retry_at is not None for failure in failures)
    assert () == case.work()
    case.judge()


@pytest.mark.parametrize(("kind", "name"), lasting(WORST, TRANSIENT.keys() - WORST - {"duplicate index"}))
def test_a_text_that_always_breaks_the_server_is_parked_with_the_error_and_its_neighbours_are_done(kind, name, case_of, server):
    """Whatever the answer is: but for an index that is there twice, which there cannot be once the text is alone."""
    fault, told = TRANSIENT[kind]
    case = case_of(name, timeout_seconds=SHORT_SECONDS)
    seconds = 2 * SHORT_SECONDS if fault.kind == "delay" else fault.seconds
    case.fail(fault, times=None, text=POISON, seconds=seconds)
    case.step()
    [failure] = case.work()
    assert ((7,), "transient", retry.ATTEMPTS_MAX, None) == (failure.key, failure.kind, failure.attempts, failure.retry_at)
    assert told in failure.error
    case.judge(parked={(7,)})
    # I8: each of five attempts bisects what is left around the poison, and a reset is tried thrice.
    tries = 3 if kind == "reset" else 1
    assert case.struck(fault.kind) <= tries * (retry.ATTEMPTS_MAX + 2 * 2 * 4)
    server.heal()
    assert 1 == case.retry()
    assert () == case.work()
    case.judge()


@pytest.mark.parametrize("name", DATABASES)
def test_attempts_are_counted_over_restarts_until_all_are_spent(name, case_of, server):
    case = case_of(name)
    case.fail(Fault("status", status=500, times=None))
    counted = []
    for _ in range(retry.ATTEMPTS_MAX):
        _, failures = case.step()
        counted.append({failure.attempts for failure in failures})
    assert [{1}, {2}, {3}, {4}, {5}] == counted
    assert ROWS == len([failure for failure in case.work() if failure.retry_at is None])
    server.heal()
    assert ROWS == case.retry()
    assert () == case.work()
    case.judge()


@pytest.mark.parametrize("kind", ["html", "read timeout"])
def test_a_server_that_breaks_at_every_text_for_good_has_all_parked_with_the_error(kind, case_of, server, monkeypatch):
    monkeypatch.setattr(retry, "ATTEMPTS_MAX", 2)
    fault, told = TRANSIENT[kind]
    case = case_of("sqlite", timeout_seconds=SHORT_SECONDS)
    case.fail(fault, times=None, seconds=2 * SHORT_SECONDS)
    failures = case.work()
    assert [("transient", 2, None)] * ROWS == [(failure.kind, failure.attempts, failure.retry_at) for failure in failures]
    assert all(told in failure.error for failure in failures)
    server.heal()
    assert ROWS == case.retry()
    assert () == case.work()
    case.judge()


def test_a_server_that_finds_every_text_too_large_has_all_parked_at_once(case_of, server):
    case = case_of("sqlite")
    case.fail(Fault("status", status=413), times=None)
    failures = case.work()
    assert [("input", 1, None)] * ROWS == [(failure.kind, failure.attempts, failure.retry_at) for failure in failures]
    assert all("answered 413: scripted 413" in failure.error for failure in failures)
    assert case.struck("status") == ROWS // BATCH * (2 * BATCH - 1)
    server.heal()
    assert ROWS == case.retry()
    assert () == case.work()
    case.judge()


@pytest.mark.parametrize(("kind", "name", "shape"), shapes(REFUSED))
def test_a_text_that_is_refused_is_parked_at_once_and_its_neighbours_are_done(kind, name, shape, case_of, server):
    case = case_of(name, shape)
    case.fail(Fault("status", status=REFUSED[kind], text=POISON, times=None))
    [failure] = case.work()
    assert ((7,), "input", 1, None) == (failure.key, failure.kind, failure.attempts, failure.retry_at)
    assert f"answered {kind}: scripted {kind}" in failure.error
    assert case.struck("status") <= 1 + 2  # of four texts, one bad: ⌈log₂4⌉ halvings hit the poison
    case.judge(parked={(7,)})
    server.heal()
    assert 1 == case.retry()
    assert () == case.work()
    case.judge()


# --- outages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name", "shape"), shapes(OUTAGES))
def test_an_outage_spends_no_attempt_and_waits_as_long_as_it_was_asked_to(kind, name, shape, case_of, server):
    fault, seconds = OUTAGES[kind]
    if fault.retry_after == "{date}":
        fault = replace(fault, retry_after=format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True))
    case = case_of(name, shape)
    case.fail(fault, times=None)
    done, failures = case.step()
    assert 1 == case.struck("status")
    assert () == failures
    assert done.outage is not None
    with case.opened() as (service, _):
        waiting = case.generation(service)
        left = (waiting.backoff_until - service.store.clock()) / 1e6
        assert f"scripted {fault.status}" in waiting.backoff_error
        assert seconds - 3 < left < seconds + 1
        if seconds:
            assert service.store.lease_claim(waiting.id, "w", 64, 30).lease is None, "nobody may claim so long"
    assert 0 == case.retry(), "there is nothing to try again, and the wait is over"
    server.heal()
    assert () == case.work()
    case.judge()


@pytest.mark.parametrize(("kind", "name"), lasting(["429", "503"], ["401", "dimension"]))
def test_a_worker_outlives_what_lasts_long_and_is_no_rows_fault(kind, name, case_of, server):
    """It goes on by itself once that is over: no attempt is spent, and nothing has to be tried again."""
    fault, _ = (OUTAGES | MISTAKES)[kind]
    case = case_of(name)
    case.fail(fault, times=None)
    with case.opened() as (service, tracked), working(service, threads=2):
        until(lambda: case.struck(fault.kind) > 8)
        assert (0, 0) == (tracked.coverage().embedded, len(tracked.failures()))
        server.heal()
        until(lambda: case.generation(service).state == "active")
    case.judge()


def refusing(_):
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def unanswering(teardown):
    """Return a port whose connections are never taken: its queue is full."""
    deaf = teardown.enter_context(socket.socket())
    deaf.bind(("127.0.0.1", 0))
    deaf.listen(0)
    for _ in range(3):
        waiting = teardown.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(deaf.getsockname())
    return deaf.getsockname()[1]


@pytest.mark.parametrize("name", DATABASES)
@pytest.mark.parametrize("away", [refusing, unanswering])
def test_a_server_that_cannot_be_reached_is_an_outage(away, name, databases, teardown, monkeypatch):
    monkeypatch.setattr(http, "_CONNECT_SECONDS", 0.2)
    port = away(teardown)
    with EmbeddingServer(dimension=16) as server, ExitStack() as closing:
        case = Case(databases[name], server, base_url=f"http://127.0.0.1:{port}/v1")
        closing.callback(case.close)
        service, tracked = closing.enter_context(case.opened())
        closing.enter_context(working(service, threads=2))
        until(lambda: "cannot be reached" in (case.generation(service).backoff_error or ""))
        assert (0, ()) == (tracked.coverage().embedded, tracked.failures())
        teardown.close()
        case.server = closing.enter_context(EmbeddingServer(dimension=16, port=port))
        until(lambda: case.generation(service).state == "active")
        assert () == tracked.failures()
        case.judge()


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name", "shape"), shapes(MISTAKES))
def test_what_somebody_has_to_mend_is_told_and_spends_no_attempt(kind, name, shape, case_of, server):
    fault, told = MISTAKES[kind]
    case = case_of(name, shape)
    for_all = kind == "400 for all"
    case.fail(fault, times=None, **({"text": None} if for_all else {}))
    with pytest.raises(EmbedderConfigurationError, match=told):
        case.work()
    assert case.struck(fault.kind) > 0
    with case.opened() as (service, tracked):
        assert () == tracked.failures()
        # A model that cannot be opened, or that does not answer its probes, is told of by the error alone.
        assert for_all or told in case.generation(service).backoff_error
    server.heal()
    assert () == case.work()
    case.judge()


@pytest.mark.parametrize("name", DATABASES)
@pytest.mark.parametrize("kind", ["401", "dimension"])
def test_what_is_paid_for_before_somebody_has_to_mend_something_is_not_paid_for_again(kind, name, case_of, server):
    """However often it is tried: two of the three calls of a lease are answered."""
    case = case_of(name)
    case.fail(MISTAKES[kind][0], times=None, text="body of row 9")
    for _ in range(3):
        done, failures = case.step()
        assert (done.settled, failures) == (None, ())
        assert case.retry() == 0  # and the wait is over
    assert case.struck(MISTAKES[kind][0].kind) == 3
    server.heal()
    assert () == case.work()
    case.judge()


# --- what is odd, and slow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATABASES)
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_answer_that_is_right_is_taken(kind, name, case_of, server):
    case = case_of(name)
    case.fail(ODD[kind], times=None)
    done, failures = case.step()
    assert (ROWS, ()) == (done.settled.written, failures)
    assert ROWS // BATCH == case.struck(kind)
    case.work()
    case.judge()


@pytest.mark.parametrize("name", DATABASES)
def test_a_reply_slower_than_the_lease_is_waited_for_and_nobody_else_asks(name, case_of, server, monkeypatch):
    for module in (sync, worker):
        monkeypatch.setattr(module, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(worker, "KEEPER_SECONDS", 0.15)
    monkeypatch.setattr(worker, "KEEPER_LOOK_SECONDS", 0.05)
    case = case_of(name, timeout_seconds=10, concurrency=1)
    case.fail(Fault("delay", seconds=1.5))
    began = time.monotonic()
    with ExitStack() as others:
        for _ in range(2):
            service, _ = others.enter_context(case.opened())
            other = threading.Thread(target=service.work, kwargs={"until": "current", "threads": 2})
            other.start()
            others.callback(other.join)
    assert time.monotonic() - began > 1.5
    assert 1 == case.struck("delay")
    case.judge(answered=(None, "delay"))


@pytest.mark.parametrize("shape", PATHS)
def test_a_gigabyte_costs_no_more_memory_than_a_reply_may(shape, case_of, server, monkeypatch):
    monkeypatch.setattr(http, "REPLY_BYTES_MAX", 16 * 2**20)
    case = case_of("sqlite", shape, timeout_seconds=20)
    case.fail(Fault("huge"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, failures = case.step()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert BATCH == len(failures)
    assert "sent more than 16,777,216 bytes" in failures[0].error
    assert grown < 8 * 16 * 2**20
