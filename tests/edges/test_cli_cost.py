"""`estimate`, and the budget of `work`, as a user meets them: against a server that bills, on both databases."""

import threading

import pytest

import seamark
from seamark.core.estimate import CALIBRATION_TEXTS, CALIBRATION_TEXTS_MIN
from seamark.core.registry import PROBES
from seamark.testing.batch_server import BillingServer, billed

TEXT = "Some words about lighthouses, and some more about lamps. "


def paid(server) -> int:
    """What was billed but for the sentences that a model is recognised by."""
    return sum(map(billed, server.asked()))


@pytest.fixture
def server():
    with BillingServer() as serving:
        yield serving


@pytest.fixture
def lamps(cli, backend, server):
    """A table of two hundred notes, attached to a model that costs."""
    application = backend.application()
    integer, text = backend.type("integer"), backend.type("text")
    application.run(f"CREATE TABLE lamps (id {integer} PRIMARY KEY, body {text})")
    application.many("INSERT INTO lamps VALUES (?, ?)", [(n, f"{n} " + TEXT * (1 + n % 9)) for n in range(1, 201)])
    assert cli("attach", "lamps", "--text", "body", "--model", server.locator, db=backend.url).code == 0
    return application


def test_estimate_tells_rows_passages_tokens_and_money(cli, backend, lamps, server):
    found = cli("estimate", "lamps", "--price", "0.13", "--json", db=backend.url)
    assert found.code == 0
    document = found.json()
    assert (document["source"], document["rows"], document["chunks"], document["texts"]) == ("lamps", 200, 200, 200)
    assert (document["measure"], document["sampled"], document["usd_per_million"]) == ("calibrated", None, 0.13)
    assert document["usd"] == pytest.approx(document["tokens"] * 0.13 / 1e6, abs=1e-6)
    assert document["calibration"]["tokens"] == paid(server) > 0
    assert sum(len(texts) for texts in server.calls if texts != PROBES) == CALIBRATION_TEXTS_MIN, (
        "a tenth would be too few to tell anything by"
    )
    told = cli("estimate", "lamps", "--price", "1000", db=backend.url).out
    for word in (
        "lamps: 200 rows, 200 passages",
        "to be embedded: 200 passages",
        "spent on that",
        "at $1000 for a million tokens",
    ):
        assert word in told
    told = cli("estimate", "lamps", "--price", "0.13", db=backend.url).out
    assert f"${document['usd']:.4f} at $0.13 for a million tokens" in told, "an amount that is not nothing is not told as $0.00"


def test_estimate_of_another_model_spends_nothing_when_told_so(cli, backend, lamps, server):
    found = cli("estimate", "lamps", "--model", "static", "--chunk", "100", "--json", db=backend.url).json()
    assert (found["measure"], found["usd"], found["error"]) == ("exact", None, 0.0)
    assert found["chunks"] > 200
    rough = cli("estimate", "lamps", "--no-calibrate", "--json", db=backend.url).json()
    assert (rough["measure"], rough["error"]) == ("rough", None)
    assert paid(server) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_work_ends_within_its_budget_and_says_so(ran, cli, backend, lamps, server, workers):
    budget = ("--budget", "0.012", "--price", "1")
    ended = ran("work", "--until", "current", "--workers", str(workers), *budget, db=backend.url)
    assert ended.code == 1
    assert 1 <= ended.err.count("the budget of") <= workers, "each process has its share"
    assert 0 < paid(server) <= 12_000
    [status] = cli("status", "--json", db=backend.url).json()["sources"]
    vector = next(each for each in status["generations"] if each["kind"] == "vector")
    assert vector["spent"]["tokens"] == paid(server)
    assert vector["coverage"]["failed"] == 0
    assert f"{paid(server):,} tokens billed" in cli("status", db=backend.url).out
    [listed] = cli("model", "list", "--json", db=backend.url).json()["sources"]
    assert vector["spent"] in [each["spent"] for each in listed["generations"]]
    assert f"{paid(server):,} tokens billed" in cli("model", "list", db=backend.url).out
    assert ran("work", "--until", "current", db=backend.url).code == 0


@pytest.mark.parametrize("words", [("--budget", "1"), ("--budget", "1", "--price", "0")])
def test_a_budget_in_money_wants_a_price(cli, backend, words):
    wrong = cli("work", "--until", "current", *words, db=backend.url)
    assert (wrong.code, "--price" in wrong.err) == (2, True)


def test_batch_sends_the_backfill_and_waits_for_the_provider(cli, backend, lamps, server):
    sent = cli("batch", "lamps", "--no-wait", "--json", db=backend.url)
    assert (sent.code, [batch["state"] for batch in sent.json()["batches"]]) == (0, ["submitted"])
    ending = threading.Timer(2.0, server.finish)
    ending.start()
    try:
        done = cli("batch", "lamps", "--every", "0.2", "--json", db=backend.url)
    finally:
        ending.join()
    assert done.code == 0
    [batch] = done.json()["batches"]
    assert (batch["state"], batch["requests"], batch["answered"], batch["error"]) == ("done", 200, 200, None)
    assert cli("work", "--until", "current", db=backend.url).code == 0
    assert paid(server) == 0, "no ordinary call"
    again = cli("batch", "lamps", db=backend.url)
    assert (again.code, "nothing is left" in again.err) == (2, True)


def test_a_batch_that_is_under_way_is_shown_and_cancelled_with_its_index(cli, backend, lamps, server):
    """`status` and `model list` say what the backfill waits for, as text and as JSON; `detach` says that it is cancelled."""
    sent = cli("batch", "lamps", "--no-wait", "--json", db=backend.url)
    assert [one["state"] for one in sent.json()["batches"]] == ["submitted"]
    [there] = server.batches
    for command in (["status"], ["model", "list"]):
        [source] = cli(*command, "--json", db=backend.url).json()["sources"]
        [batch] = [one["batch"] for one in source["generations"] if one["batch"]]
        assert (batch["provider_id"], batch["state"], batch["requests"]) == (there.id, "submitted", 200)
        told = cli(*command, db=backend.url).out
        assert f"the backfill waits for batch 1 ({there.id}): submitted, 200 passages, since {batch['created_at']}" in told
    left = cli("detach", "lamps", "--json", db=backend.url)
    assert [one["error"] for one in left.json()["batches"]] == [f"given up, and {there.id} is cancelled at the provider"]
    assert there.status == "cancelled"


def test_a_batch_beyond_the_budget_is_given_up_before_it_is_sent(cli, backend, lamps, server):
    """With the message of `work --budget`; nobody else sends it, and with enough it goes."""
    spent = cli("batch", "lamps", "--budget", "0.001", "--price", "1", db=backend.url)
    assert (spent.code, "the budget of 1,000 tokens does not suffice" in spent.err) == (1, True)
    assert (server.batches, server.files) == ([], {})
    with seamark.open(backend.url, model=server.locator) as service:
        assert [batch.state for batch in service.source("lamps").batches()] == ["failed"]
    held = cli("batch", "lamps", "--no-wait", "--budget-tokens", "1", db=backend.url)
    assert (held.code, "who sends" in held.err) == (2, True)


@pytest.mark.parametrize("command", [("model", "swap"), ("reembed",)])
def test_the_batch_of_a_swap_that_is_given_up_for_another_is_shown(cli, backend, lamps, server, command):
    """In words, and as a document."""
    assert cli("work", "--until", "current", db=backend.url).code == 0
    for number, json in enumerate(([], ["--json"])):
        other = server.locator.replace("oracle", f"another{number}")
        swap = ("model", "swap", "lamps", "--model", other, "--batch-api", "--yes", "--json")
        begun = cli(*swap, db=backend.url).json()["batch"]
        with seamark.open(backend.url) as service:
            service.batches_advance("w1")
        done = cli(*command, "lamps", "--model", f"{other}&version={number}", "--yes", *json, db=backend.url)
        assert done.code == 0, done.err
        told = f"given up, and {server.batches[-1].id} is cancelled at the provider"
        assert server.batches[-1].status == "cancelled"
        if json:
            [one] = done.json()["withdrawn"]
            assert (one["id"], one["error"]) == (begun["id"], told)
        else:
            assert told in done.out


def test_a_batch_that_fails_is_told_by_the_exit_code(cli, backend, lamps, server):
    ending = threading.Timer(2.0, server.finish, ("expired", 0))
    ending.start()
    try:
        failed = cli("batch", "lamps", "--every", "0.2", db=backend.url)
    finally:
        ending.join()
    assert (failed.code, "expired" in failed.out) == (1, True)
    [source] = cli("status", "--json", db=backend.url).json()["sources"]
    [kept] = [one["batch_failed"] for one in source["generations"] if one["batch_failed"]]
    assert (kept["state"], "expired" in kept["error"]) == ("failed", True)
    assert (
        f"batch 1 ({kept['provider_id']}): failed, 200 passages, 0 answered: {kept['error']}; the rest is left to"
        in " ".join(cli("status", db=backend.url).out.split())
    )


def test_a_swap_through_the_batch_interface_is_of_the_model_that_is_meant(cli, backend, lamps, server):
    """Without `--model` that is the one in use, and not the default one; said before anything is asked or begun."""
    swap = ("model", "swap", "lamps", "--batch-api", "--yes", "--json")
    assert cli("work", "--until", "current", db=backend.url).code == 0
    begun = cli(*swap, "--chunk", "500", db=backend.url, SEAMARK_MODEL="static")
    assert (begun.code, begun.json()["batch"]["state"]) == (0, "planned"), begun.err
    assert cli("model", "swap", "lamps", "--model", "static", "--yes", db=backend.url).code == 0
    assert cli("work", "--until", "current", db=backend.url).code == 0
    for words in (["--chunk", "300"], ["--chunk", "300", "--dry-run"], ["--language", "german"]):
        refused = cli(*swap, *words, db=backend.url, SEAMARK_MODEL=server.locator)
        assert (refused.code, refused.json()["error"]["type"]) == (2, "InvalidRequestError")
    states = [
        one["state"] for one in cli("model", "list", "lamps", "--json", db=backend.url).json()["sources"][0]["generations"]
    ]
    assert "building" not in states


def test_a_swap_through_the_batch_interface_is_begun_by_one_command(cli, backend, lamps, server):
    assert cli("work", "--until", "current", db=backend.url).code == 0
    other = server.locator.replace("oracle", "another")
    calls = len(server.calls)
    refused = cli("model", "swap", "lamps", "--model", "static", "--batch-api", "--yes", "--json", db=backend.url)
    assert (refused.code, "batch interface" in refused.err) == (2, True)
    swapped = cli("model", "swap", "lamps", "--model", other, "--batch-api", "--yes", "--json", db=backend.url)
    assert (swapped.code, swapped.json()["batch"]["state"]) == (0, "planned")
    ending = threading.Timer(2.0, server.finish)
    ending.start()
    try:
        assert cli("batch", "lamps", "--every", "0.2", db=backend.url).code == 0
    finally:
        ending.join()
    assert cli("work", "--until", "current", db=backend.url).code == 0
    asked = [texts for texts in server.calls[calls:] if texts != PROBES]
    assert sum(map(len, asked)) <= CALIBRATION_TEXTS, "only what the estimate asked for"
    [status] = cli("status", "--json", db=backend.url).json()["sources"]
    active = next(each for each in status["generations"] if each["kind"] == "vector" and each["state"] == "active")
    assert (active["model"]["name"], active["coverage"]["missing"]) == ("openai:another", 0)
