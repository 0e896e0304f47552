"""`model …` and `reembed`: another model in the place of the one that a table is searched by."""

from __future__ import annotations

import signal
import time

import pytest

from seamark.testing.embedding_server import EmbeddingServer, Fault
from seamark.testing.waiting import until

OLD = "static:seamark-static-256"


@pytest.fixture
def server():
    with EmbeddingServer(dimension=48) as serving:
        yield serving


@pytest.fixture
def model(server):
    return f"openai:new?base_url={server.openai_url}"


@pytest.fixture
def seamark(cli, backend, attached):
    """Run a command on the attached and embedded notes, and return its document."""

    def run(*words, code=0, **environment):
        ran = cli(*words, "--json", db=backend.url, **environment)
        assert ran.code == code, ran.err
        return ran.json()

    return run


def states(document, kind="vector"):
    return [one["state"] for one in document["sources"][0]["generations"] if one["kind"] == kind]


def test_a_swap_step_by_step(seamark, model):
    planned = seamark("model", "swap", "notes", "--model", model, "--dry-run")
    assert planned["generations"] == []
    [step] = planned["plan"]["steps"]
    assert (planned["plan"]["rows"], step["kind"], step["generation"], step["held"]) == (3, "vector", None, 0)
    assert step["model"]["dimension"] == 48
    assert (planned["estimate"]["rows"], planned["estimate"]["usd"]) == (3, None)
    assert planned["estimate"]["tokens"] > 0
    assert seamark("model", "swap", "notes", "--model", model, "--dry-run", "--price", "2")["estimate"]["usd"] > 0

    [begun] = seamark("model", "swap", "notes", "--model", model)["generations"]
    assert (begun["kind"], begun["state"], begun["manual"], begun["retired_at"]) == ("vector", "building", False, None)
    listed = seamark("model", "list", "notes")
    assert states(listed) == ["active", "building"]
    assert [one["coverage"]["missing"] for one in listed["sources"][0]["generations"]] == [0, 0, 3]
    seamark("work", "--until", "current")
    listed = seamark("model", "list", "notes")
    assert states(listed) == ["retired", "active"]
    assert all(one["bytes"] > 0 and one["age_seconds"] >= 0 for one in listed["sources"][0]["generations"])
    assert seamark("search", "notes", "keys")["generations"] == [1, 3]

    back = seamark("model", "rollback", "notes")["generation"]
    assert (back["id"], back["state"]) == (2, "active")
    assert back["model"]["name"] == OLD
    assert seamark("search", "notes", "keys", "--generation", "3", "--mode", "vector")["degraded"] != []
    assert seamark("model", "activate", "notes", "3")["generation"]["state"] == "active"
    assert seamark("model", "drop", "notes", "2") == {"source": "notes", "dropped": 2, "batches": []}
    assert states(seamark("model", "list")) == ["active"]


def test_what_is_missing_in_what_is_activated_is_told(seamark, cli, backend, model):
    """Refused with the count, done with it; and what the newest word comes before."""
    seamark("model", "swap", "notes", "--model", model, "--manual")
    seamark("model", "swap", "notes", "--chunk", "300")
    refused = seamark("model", "activate", "notes", "3", code=1)["error"]
    assert (refused["type"], "3 rows are not indexed yet" in refused["message"]) == ("GenerationIncompleteError", True)
    assert refused["message"].endswith("or activate it as it is, with `--force` (`force=True` in Python)")
    in_use = seamark("model", "retire", "notes", "2", code=1)["error"]["message"]
    assert "or retire it with `--force` (`force=True` in Python), which leaves search without it" in in_use
    done = seamark("model", "activate", "notes", "3", "--force")
    assert (done["generation"]["state"], done["missing"], done["failed"], done["precedes"]) == ("active", 3, 0, [4])
    seamark("model", "rollback", "notes")
    said = cli("model", "activate", "notes", "3", "--force", db=backend.url).out.splitlines()
    assert said[0].endswith(" is searched now; 3 rows yet to be indexed in it by `seamark work`")
    seamark("model", "swap", "notes", "--chunk", "300")
    said = cli("model", "rollback", "notes", db=backend.url).out.splitlines()
    assert said[0].endswith(" is searched again")
    assert said[1:] == ["  generation 5, begun earlier, is left to `seamark model activate`"]


def test_swapping_to_what_there_is_begins_nothing(seamark):
    assert seamark("model", "swap", "notes", "--model", "static")["plan"]["steps"] == []


def test_manual_waits_for_activate(seamark, model):
    seamark("model", "swap", "notes", "--model", model, "--manual")
    refused = seamark("model", "activate", "notes", code=1)
    assert refused["error"]["type"] == "GenerationIncompleteError"
    assert "3 rows are not indexed yet" in refused["error"]["message"]
    seamark("work", "--until", "current")
    assert states(seamark("model", "list", "notes")) == ["active", "building"]
    assert seamark("model", "activate", "notes")["generation"]["id"] == 3


def test_force_does_what_would_leave_rows_out(seamark, model):
    seamark("model", "swap", "notes", "--model", model)
    assert seamark("model", "activate", "notes", "--force")["generation"]["state"] == "active"
    assert seamark("search", "notes", "keys")["degraded"] != []


def test_retire_is_undone_by_a_swap_to_the_same(seamark, model):
    seamark("model", "swap", "notes", "--model", model)
    assert seamark("model", "retire", "notes", "3")["generation"]["state"] == "retired"
    [step] = seamark("model", "swap", "notes", "--model", model)["plan"]["steps"]
    assert step["generation"] == 3
    assert states(seamark("model", "list", "notes")) == ["active", "building"]


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("retire", "notes", "2"), 1, "GenerationInUseError"),
        (("drop", "notes", "2"), 1, "GenerationInUseError"),
        (("drop", "notes", "9"), 2, "UnknownGenerationError"),
        (("accept", "notes", "1"), 2, "InvalidRequestError"),
        (("rollback", "notes"), 1, "NoRollbackError"),
        (("activate", "notes"), 2, "InvalidRequestError"),
        (("list", "letters"), 1, "UnknownSourceError"),
        (("swap", "notes", "--model", "nonsense:x"), 2, "InvalidRequestError"),
    ],
)
def test_what_cannot_be_is_said_with_what_to_do(seamark, words, code, error):
    assert seamark("model", *words, code=code)["error"]["type"] == error


def test_reembed_is_the_whole_of_it(seamark, server, model):
    dry = seamark("reembed", "notes", "--model", model, "--dry-run")
    assert (dry["generations"], dry["active"], len(dry["plan"]["steps"])) == ([], False, 1)
    assert not [call for call in server.calls if len(call.texts) > 1]
    done = seamark("reembed", "notes", "--model", model)
    assert (done["active"], done["failed"], done["stopped"]) == (True, 0, None)
    assert states(seamark("model", "list", "notes")) == ["retired", "active"]
    again = seamark("reembed", "notes", "--model", model)
    assert (again["generations"], again["plan"]["steps"]) == ([], [])


def test_reembed_ends_when_rows_fail_and_leaves_the_rest_to_the_user(seamark, server, model):
    server.fail(Fault("status", times=None, text="Canteen", status=400))
    done = seamark("reembed", "notes", "--model", model, code=1)
    assert (done["active"], done["failed"]) == (False, 1)
    assert seamark("model", "activate", "notes", code=1)["error"]["type"] == "GenerationIncompleteError"
    seamark("model", "activate", "notes", "--force")
    assert states(seamark("model", "list", "notes")) == ["retired", "active"]


def test_reembed_with_a_model_that_refuses_us_says_so(seamark, server, model):
    server.fail(Fault("status", times=None, status=401))
    assert seamark("reembed", "notes", "--model", model, code=1)["error"]["type"] == "EmbedderConfigurationError"


def test_reembed_killed_and_run_again_goes_on(seamark, program, ran, backend, attached, server, model):
    attached.many("INSERT INTO notes VALUES (?, 7, ?, NULL, NULL)", [(n, f"title {n}") for n in range(100, 1000)])
    seamark("work", "--until", "current")
    server.fail(Fault("delay", times=None, seconds=0.3))
    begun = len(server.calls)
    process = program("reembed", "notes", "--model", model, db=backend.url)
    until(lambda: any(len(call.texts) > 6 for call in server.calls[begun:]))
    time.sleep(1.0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    listed = seamark("model", "list", "notes")
    assert states(listed) == ["active", "building"]
    held = listed["sources"][0]["generations"][2]["coverage"]["embedded"]
    server.heal()
    backend.leases_expire()
    begun = len(server.calls)
    again = ran("reembed", "notes", "--model", model, "--json", db=backend.url)
    assert again.code == 0, again.err
    assert states(seamark("model", "list", "notes")) == ["retired", "active"]
    embedded = [text for call in server.calls[begun:] for text in call.texts if text.startswith("title")]
    assert 0 < len(embedded) <= 903 - held


def test_a_provider_that_changed_its_model_is_reported_and_held(seamark, cli, backend, attached, server, model, monkeypatch):
    seamark("reembed", "notes", "--model", model)
    vectors = server.vector
    monkeypatch.setattr(server, "vector", lambda text, *rest: vectors(text + " otherwise", *rest))
    attached.run("INSERT INTO notes VALUES (50, 7, 'Later', 'A note that comes later.', NULL)")
    refused = seamark("work", "--until", "current", code=1)
    assert refused["error"]["type"] == "ModelDriftError"
    assert "model_drift" in refused["error"]["message"]
    [source] = seamark("status")["sources"]
    assert [one["coverage"]["missing"] for one in source["generations"] if one["kind"] == "vector"] == [1]
    assert "cosine" in source["generations"][1]["model_drift"]
    assert "model_drift" in cli("status", db=backend.url).out
    [check] = [one for one in seamark("doctor", code=1)["checks"] if one["required"] and not one["ok"]]
    assert "model_drift" in check["detail"]
    assert "`seamark model accept notes 3`" in check["remedy"]
    assert "`seamark model swap notes --model" in check["remedy"]
    found = seamark("search", "notes", "keys")
    assert any("model_drift" in reason for reason in found["degraded"])

    monkeypatch.undo()
    assert seamark("work", "--until", "current")["missing"] == 0
    assert seamark("search", "notes", "keys")["degraded"] == []


@pytest.mark.parametrize("noticed", [False, True])
def test_no_index_is_begun_that_a_changed_model_would_have_to_fill(noticed, seamark, attached, server, model, monkeypatch):
    """Before anything is spent or begun, with what to do; a version of its own, and words, are begun."""
    seamark("reembed", "notes", "--model", model)
    vectors = server.vector
    monkeypatch.setattr(server, "vector", lambda text, *rest: vectors(text + " otherwise", *rest))
    if noticed:
        attached.run("INSERT INTO notes VALUES (50, 7, 'Later', 'A note that comes later.', NULL)")
        seamark("work", "--until", "current", code=1)
    for words in (("model", "swap", "notes", "--dry-run"), ("model", "swap", "notes"), ("reembed", "notes")):
        refused = seamark(*words, "--chunk", "300", code=1)["error"]
        assert refused["type"] == "ModelDriftError"
        assert "`seamark model accept TABLE NUMBER`" in refused["message"]
    assert states(seamark("model", "list", "notes")) == ["retired", "active"]
    assert seamark("model", "swap", "notes", "--language", "german")["generations"][0]["kind"] == "lexical"
    assert seamark("model", "swap", "notes", "--model", f"{model}&version=2")["generations"][0]["state"] == "building"
    seamark("model", "accept", "notes", "3")
    assert seamark("model", "swap", "notes", "--chunk", "300")["generations"][0]["state"] == "building"


def test_a_swap_to_a_model_that_is_out_is_begun(seamark, server, model):
    """Nobody knows better than when it was asked last: workers find out."""
    seamark("reembed", "notes", "--model", model)
    server.fail(Fault("status", times=None, status=503))
    known = model.replace("?", "?dimensions=48&")  # else its dimension is asked for
    [begun] = seamark("model", "swap", "notes", "--model", known, "--chunk", "300")["generations"]
    assert begun["state"] == "building"


def test_a_changed_model_can_be_accepted(seamark, attached, server, model, monkeypatch):
    seamark("reembed", "notes", "--model", model)
    vectors = server.vector
    monkeypatch.setattr(server, "vector", lambda text, *rest: vectors(text + " otherwise", *rest))
    attached.run("INSERT INTO notes VALUES (50, 7, 'Later', 'A note that comes later.', NULL)")
    seamark("work", "--until", "current", code=1)
    assert seamark("model", "accept", "notes", "3")["generation"]["model_drift"] is None
    assert seamark("work", "--until", "current")["missing"] == 0


def test_two_models_are_compared_before_one_is_chosen(seamark, cli, backend, model, tmp_path):
    seamark("model", "swap", "notes", "--model", model, "--manual")
    seamark("work", "--until", "current")
    queries, qrels = tmp_path / "queries.tsv", tmp_path / "qrels.trec"
    queries.write_text("k\trotating the signing keys\ns\tsoup and fish\nu\tnobody has judged this\n")
    qrels.write_text("k 0 1 2\ns 0 3 1\n")
    found = seamark("compare", "notes", "2", "3", "--queries", queries, "--qrels", qrels)
    assert (found["generations"], found["judged"], len(found["queries"])) == ([2, 3], 2, 3)
    assert found["ndcg"][0] == 1.0, "the static model finds both first"
    assert found["recall"] == [1.0, 1.0], "there are three rows"
    assert 0 < found["rbo"] <= 1
    assert found["overlap"] == 1.0
    shown = cli("compare", "notes", "2", "3", "--queries", queries, db=backend.url)
    assert shown.out.startswith("generations 2 and 3, 3 queries\n")
    assert "nDCG" not in shown.out
    qrels.write_text("another 0 1 2\n")
    shown = cli("compare", "notes", "2", "3", "--queries", queries, "--qrels", qrels, db=backend.url)
    assert "none of the queries is judged: no judgement is of their ids" in shown.out
    assert seamark("compare", "notes", "2", "2", "--queries", queries)["rbo"] == pytest.approx(1.0)
    alike = cli("compare", "notes", "2", "2", "--queries", queries, db=backend.url).out.splitlines()
    assert alike[-1] == "  they answer all of them alike"
    assert seamark("compare", "notes", "1", "2", "--queries", queries, code=2)["error"]["type"] == "InvalidRequestError"
    assert (
        seamark("compare", "notes", "2", "3", "--queries", tmp_path / "none", code=2)["error"]["type"] == "InvalidRequestError"
    )


def test_detach_says_which_stamps_stay(cli, backend, notes):
    notes.run(f"ALTER TABLE notes ADD COLUMN embed_gen {backend.type('integer')}")
    attach = ("attach", "notes", "--text", "body", "--stamp", "embed_gen,has_embedding")
    for _ in range(2):
        assert cli(*attach, db=backend.url).code == 0
        said = cli("detach", "notes", db=backend.url).out.splitlines()
        assert said[1] == "  its stamp columns has_embedding, embed_gen stay in the table: nobody keeps them true any more"
    assert cli(*attach[:4], db=backend.url).code == 0
    said = cli("detach", "notes", db=backend.url).out.splitlines()
    assert said[1] == "  its stamp columns has_embedding stay in the table: nobody keeps them true any more"
    assert cli(*attach, db=backend.url).code == 0
    dropped = cli("detach", "notes", "--drop-stamps", "--json", db=backend.url).json()
    assert dropped["stamps"] == {"dropped": ["has_embedding"], "left": ["embed_gen"]}
    assert cli(*attach, db=backend.url).code == 0
    said = cli("detach", "notes", "--drop-stamps", db=backend.url).out
    assert "its stamp columns embed_gen stay in the table: attach has not made them" in said


def test_the_list_is_readable(cli, backend, attached):
    shown = cli("model", "list", db=backend.url).out.splitlines()
    assert shown[0] == "notes"
    assert shown[3].startswith("  2 vector active  static:seamark-static-256@")
    assert "3 live = 3 embedded + 0 blank + 0 missing + 0 failed" in shown[4]
    assert shown[4].endswith(" old")


def test_the_list_tells_apart_what_differs_in_prefixes_only(cli, backend, attached, server):
    for prefix in ("passage: ", "doc: "):
        model = f"openai:new?base_url={server.openai_url}&document_prefix={prefix.replace(' ', '%20')}"
        assert cli("model", "swap", "notes", "--model", model, "--manual", db=backend.url).code == 0
    listed = cli("model", "list", "notes", db=backend.url)
    assert "prefixes 'passage: ' and ''" in listed.out
    assert "prefixes 'doc: ' and ''" in listed.out
    [source] = cli("model", "list", "notes", "--json", db=backend.url).json()["sources"]
    told = [one["identity"]["model"]["document_prefix"] for one in source["generations"] if one["kind"] == "vector"]
    assert told == ["", "passage: ", "doc: "]


def test_the_list_tells_what_may_be_chosen(cli, backend, attached):
    for words in (("--chunk", "500", "--precision", "float32"), ("--language", "german")):
        assert cli("model", "swap", "notes", *words, db=backend.url).code == 0
    listed = cli("model", "list", "notes", db=backend.url)
    assert f"{OLD}@" in listed.out
    for told in (
        "float16, passages of 1,000 characters",
        "float32, passages of 500 characters",
        "language english",
        "language german",
    ):
        assert told in listed.out
    said = cli("reembed", "notes", "--chunk", "300", "--dry-run", db=backend.url)
    assert (said.code, said.out.strip()) == (0, "notes: nothing was begun")
