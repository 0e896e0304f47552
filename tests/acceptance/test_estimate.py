"""What embedding costs: told before, held within a budget, counted after; against a server that bills, on both databases."""

from __future__ import annotations

import random

import pytest

import seamark
import seamark.embed.registry
from seamark.core import catalog, estimate
from seamark.core.chunking import Chunker
from seamark.core.registry import PROBES
from seamark.core.sync import lease_rows
from seamark.embed.tokens import tokens_count, tokens_estimate
from seamark.errors import BudgetSpentError, InvalidRequestError
from seamark.model.cost import Spent
from seamark.testing.batch_server import BillingServer, billed
from seamark.testing.oracle import OracleEmbedder

ROWS = 300


def texts(count: int) -> list[str]:
    """Prose, code and figures, short and long, as they come in real tables."""
    chance = random.Random(7)
    words = [
        "the",
        "of",
        "index",
        "rebuilding",
        "vector",
        "a",
        "transactional",
        "is",
        "configuration",
        "lock",
        "we",
        "measured",
    ]
    code = ["def f(x):", "return self._rows[key]", "SELECT * FROM notes;", "{'a': 1, \"b\": [2, 3]}", "0x7fff_ffff", "3.14159"]
    found = []
    for number in range(count):
        kind = code if number % 5 == 0 else words
        pieces = chance.choices(kind, k=chance.randint(3, 400 if number % 17 == 0 else 60))
        found.append(f"note {number}: " + " ".join(pieces))
    return found


@pytest.fixture
def notes(backend):
    application = backend.application()
    integer, text = backend.type("integer"), backend.type("text")
    application.run(f"CREATE TABLE notes(id {integer} PRIMARY KEY, body {text}, hidden {text})")
    application.many("INSERT INTO notes VALUES (?, ?, NULL)", list(enumerate(texts(ROWS), 1)))
    return application


@pytest.fixture
def server():
    with BillingServer() as serving:
        yield serving


@pytest.fixture
def service(backend, server):
    with seamark.open(backend.url, model=server.locator) as opened:
        yield opened


def calls(server) -> list[tuple[str, ...]]:
    """What was asked of the server but for the sentences that a model is recognised by."""
    return [texts for texts in server.calls if texts != PROBES]


def paid(server) -> int:
    return sum(billed(text) for texts in calls(server) for text in texts)


def attached(service):
    return service.attach("notes", text="body", where={"hidden": None})


def spent(service) -> Spent:
    [status] = service.status()
    return next(each.spent for each in status.generations if each.generation.kind == "vector")


# --- before -------------------------------------------------------------------------------------------------------


def test_the_estimate_is_within_five_percent_of_what_is_billed(notes, service, server):
    tracked = attached(service)
    found = tracked.estimate()
    assert (found.rows, found.measure, found.sampled) == (ROWS, "calibrated", None)
    assert paid(server) == found.calibration.tokens, "only the few passages that are told of were paid for"
    assert paid(server) < found.tokens / 2
    before = paid(server)
    service.work(until="current")
    actual = paid(server) - before
    assert found.tokens == pytest.approx(actual, rel=0.05)
    assert abs(found.tokens - actual) <= 2 * found.error * actual
    assert spent(service) == Spent(len(calls(server)) - found.calibration.calls, found.texts, actual)
    assert tracked.coverage().embedded == ROWS


def test_what_is_there_already_is_left_out(notes, service, server):
    tracked = attached(service)
    service.work(until="current")
    assert (0, 0) == (tracked.estimate().texts, tracked.estimate().tokens)
    notes.run("UPDATE notes SET body = 'edited' WHERE id = 1")
    notes.run("INSERT INTO notes VALUES (1001, 'twice the same', NULL), (1002, 'twice the same', NULL)")
    notes.run("UPDATE notes SET hidden = 'yes' WHERE id = 2")
    found = tracked.estimate()
    assert (found.rows, found.texts) == (ROWS + 1, 2)
    before = paid(server)
    service.work(until="current")
    assert paid(server) - before == billed("edited") + billed("twice the same")
    notes.run("UPDATE notes SET hidden = NULL WHERE id = 2")
    assert tracked.estimate().texts == 0, "what was put by need not be paid for"
    service.detach("notes")
    assert attached(service).estimate().texts == 0, "nor what a detach has left"


def test_another_model_and_other_passages_are_estimated_beside_the_present_ones(notes, service, server):
    tracked = attached(service)
    service.work(until="current")
    other = tracked.estimate(server.locator.replace("oracle", "another"))
    assert (other.rows, other.texts) == (ROWS, other.chunks)
    smaller = tracked.estimate(chunk=200)
    assert 0 < smaller.texts < smaller.chunks, "short rows have the same passages"
    single = tracked.estimate(precision="float32", calibrate=False)
    assert (single.texts, single.tokens > 0) == (single.chunks, True), "stored otherwise, it is not there"
    with pytest.raises(InvalidRequestError, match="float16"):
        tracked.estimate(precision="int1")
    exact = tracked.estimate("static")
    assert (exact.measure, exact.error, exact.calibration) == ("exact", 0.0, Spent())


def test_of_a_large_table_a_sample_is_looked_at_and_the_error_told(notes, service, server):
    tracked = attached(service)
    embedder = service.embedders.default()[0]
    slot = service.embedders.slot(embedder)
    rows = lease_rows(embedder)
    notes.many("INSERT INTO notes VALUES (?, ?, NULL)", list(enumerate(texts(3000), 10_001)))
    found = estimate.estimate(
        service.store, tracked.source, embedder, slot, Chunker(), "float16", min(rows, 10), calibrate=True, exact_rows=1000
    )
    assert found.rows == ROWS + 3000
    assert found.sampled == 1000
    actual = sum(map(billed, (passage for text in [*texts(ROWS), *texts(3000)] for passage in cut(text))))
    assert 0 < found.error < 0.25
    assert abs(found.tokens - actual) <= 2 * found.error * actual


def cut(text: str) -> list[str]:
    return [text[chunk.start : chunk.stop] for chunk in Chunker().split(text).chunks]


@pytest.mark.parametrize("tells", [True, False])
def test_without_a_word_of_the_provider_the_estimate_is_rather_too_high(backend, notes, tells):
    with BillingServer(tells=tells) as server, seamark.open(backend.url, model=server.locator) as service:
        tracked = attached(service)
        found = tracked.estimate(calibrate=not tells)
        assert (found.measure, found.error) == ("rough", None)
        assert len(calls(server)) == (0 if tells else 1)
        before = paid(server)
        service.work(until="current")
        assert paid(server) - before <= found.tokens
        assert spent(service).tokens == (paid(server) if tells else 0)


# --- the budget ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_a_budget_ends_the_work_before_it_is_exceeded(backend, notes, service, server, share):
    """Nothing is lost by it: no attempt is spent, what was handed back is there at once, and what was paid for is kept."""
    tracked = attached(service)
    tokens = sum(billed(passage) for text in texts(ROWS) for passage in cut(text))
    budget, passages = int(share * tokens), tracked.estimate(calibrate=False).texts
    with pytest.raises(BudgetSpentError, match=f"{budget:,}"):
        service.work(until="current", threads=1, budget_tokens=budget)
    assert paid(server) <= budget
    assert paid(server) >= (share - 0.3) * tokens
    coverage = tracked.coverage()
    assert (coverage.failed, coverage.missing > 0) == (0, True)
    asked = {text for texts in calls(server) for text in texts}
    assert tracked.estimate(calibrate=False).texts == passages - len(asked), "what is paid for is there, settled or not"
    service.work(until="current", budget_tokens=10 * tokens)
    assert tracked.coverage().embedded == ROWS
    assert tracked.failures() == ()


def test_threads_share_a_budget(notes, service, server):
    attached(service)
    with pytest.raises(BudgetSpentError) as ended:
        service.work(until="current", threads=8, budget_tokens=3000)
    assert ended.value.spent == paid(server) <= 3000, "what was under way is told of as well"


def test_a_model_that_does_not_tell_is_held_to_the_estimate(backend, notes):
    embedder = OracleEmbedder(batch_items=8)
    with seamark.open(backend.url, embedder=embedder) as service:
        attached(service)
        with pytest.raises(BudgetSpentError):
            service.work(until="current", threads=1, budget_tokens=2000)  # which call is one too many depends on the order
        asked = sum(tokens_estimate(text) * count for text, count in embedder.texts.items())
        assert 1000 < asked <= 2000
        assert spent(service) == Spent(embedder.calls, embedder.texts.total(), 0)


def test_the_models_own_count_of_tokens():
    """What the static model sums up, whatever the texts hold."""
    embedder = seamark.embed.registry.embedder_open("static")
    given = ["one two", "", "päß 日本 🙂", "a" * 300, "x\0y", "[PAD] rebuild"]
    assert tokens_count(embedder, given) == sum(tokens_count(embedder, [text]) for text in given)
    assert embedder.tokens_count(["one two three."]) == [4]
    assert embedder.tokens_count([]) == []


def test_a_generation_that_is_asked_for_twice_is_estimated_once(notes, service):
    """The other sizes of passages of one model lend each other what is the same."""
    tracked = attached(service)
    service.work(until="current")
    embedder, locator = service.embedders.default()
    spec = catalog.vector_spec(tracked.source.spec, embedder.identity, locator, Chunker(200).identity())
    service.store.generation_create(tracked.source, spec)
    service.work(until="current")
    assert tracked.estimate(chunk=200).texts == 0
    assert tracked.estimate(chunk=1000).texts == 0
