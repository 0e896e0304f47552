"""A backfill through a provider's batch interface, against a real server on this machine, on both databases."""

from __future__ import annotations

import base64
import errno
import json
import math
import tempfile
import threading
from dataclasses import replace
from itertools import islice

import pytest

import seamark
from seamark.core import batch as batches
from seamark.core.budget import Budget
from seamark.core.registry import PROBES
from seamark.edges import worker
from seamark.embed.http import OpenAIEmbedder
from seamark.embed.tokens import tokens_estimate
from seamark.errors import (
    BudgetSpentError,
    EmbedderConfigurationError,
    EmbedderUnavailableError,
    InvalidRequestError,
    ModelDriftError,
    StoreError,
)
from seamark.testing import batch_server
from seamark.testing.batch_server import BillingServer, ServedBatch, billed
from seamark.testing.oracle import OracleEmbedder, oracle_proves
from seamark.testing.waiting import until

ROWS = 40


@pytest.fixture
def notes(backend):
    application = backend.application()
    integer, text = backend.type("integer"), backend.type("text")
    application.run(f"CREATE TABLE notes(id {integer} PRIMARY KEY, body {text})")
    application.many("INSERT INTO notes VALUES (?, ?)", [(n, f"the body of note {n}") for n in range(1, ROWS + 1)])
    return application


@pytest.fixture
def server():
    with BillingServer() as serving:
        yield serving


@pytest.fixture
def service(backend, notes, server):
    with seamark.open(backend.url, model=server.locator) as opened:
        yield opened


def asked(server) -> list[str]:
    """Texts that were embedded by ordinary calls."""
    return [text for texts in server.calls if texts != PROBES for text in texts]


def proven(backend, service, tracked, notes) -> None:
    generation = next(g for g in service.store.generations(tracked.source.id) if g.kind == "vector" and g.state == "active")
    chunks = backend.chunks(tracked.source, generation)
    texts = dict(notes.run("SELECT id, body FROM notes"))
    assert {chunk.key[0] for chunk in chunks} == texts.keys()
    assert [c.key for c in chunks if not oracle_proves(c.vector, texts[c.key[0]][c.start : c.stop], "oracle")] == []


def state(tracked):
    return [batch.state for batch in tracked.batches()]


def sent_by_a_worker(service, tracked):
    """Let a worker run until it has sent a batch; it has to outlive that."""
    stop = threading.Event()
    working = threading.Thread(target=service.work, kwargs={"stop": stop})
    working.start()
    try:
        until(lambda: state(tracked) == ["submitted"] or not working.is_alive())
        assert (state(tracked), working.is_alive()) == (["submitted"], True)
    finally:
        stop.set()
        working.join()


def test_a_backfill_is_sent_answered_and_settled_without_a_call(backend, notes, service, server):
    tracked = service.attach("notes", text="body")
    begun = tracked.batch()
    assert tracked.batch() == begun
    [sent] = service.batches_advance("w1")
    assert (sent.state, sent.requests) == ("submitted", ROWS)
    assert [batch.state for batch in service.batches_advance("w1")] == ["submitted"], "the provider is not done"
    notes.run("INSERT INTO notes VALUES (1001, 'fresh')")
    server.finish()
    [done] = service.batches_advance("w1")
    assert (done.state, done.answered) == ("done", ROWS)
    service.work(until="current")
    assert asked(server) == ["fresh"]
    proven(backend, service, tracked, notes)
    [status] = service.status()
    spent = next(each.spent for each in status.generations if each.generation.kind == "vector")
    assert spent.texts == ROWS + 1
    assert spent.tokens == billed("fresh") + sum(billed(f"the body of note {n}") for n in range(1, ROWS + 1))


def test_rows_that_are_written_meanwhile_are_indexed_meanwhile(notes, service, server):
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    notes.run("INSERT INTO notes VALUES (1001, 'fresh')")
    notes.run("UPDATE notes SET body = 'edited' WHERE id = 1")
    generation = service.store.generations(tracked.source.id)[-1]
    lease = service.store.lease_claim(generation.id, "w1", 100, 60).lease
    assert lease.lane == "fresh"
    assert service.store.lease_claim(generation.id, "w1", 100, 60).lease is None


def test_what_the_provider_has_already_is_not_sent_again(service, server):
    """Cut off when the batch was made, before anybody could write down its name; others have batches there, too."""
    for _ in range(5):
        server.batches.append(ServedBatch("other", "other", []))
    tracked = service.attach("notes", text="body")
    tracked.batch()
    server.dropped.add("/batches")
    service.batches_advance("w1")
    assert state(tracked) == ["sending"]
    for number in range(5):
        server.batches.append(ServedBatch(f"later-{number}", "later", []))
    service.batches_advance("w1")
    assert state(tracked) == ["submitted"]
    assert len([batch for batch in server.batches if batch.tag.startswith("seamark-")]) == 1


def test_another_process_goes_on_where_one_was_cut_off(backend, notes, service, server):
    tracked = service.attach("notes", text="body")
    tracked.batch()
    server.dropped.add("/files")
    service.batches_advance("w1")
    assert (state(tracked), server.batches) == (["sending"], [])
    assert service.batches_advance("w2") == (), "the first is still at it"
    with seamark.open(backend.url, model=server.locator) as other:
        assert [batch.state for batch in other.batches_advance("w1")] == ["submitted"]
        server.finish()
        assert [batch.state for batch in other.batches_advance("w1")] == ["done"]
        other.work(until="current")
    assert len(server.batches) == 1
    assert asked(server) == []
    proven(backend, service, tracked, notes)


def test_between_its_steps_a_batch_is_nobodys(service, server):
    """Whoever was killed, or is waiting, keeps nobody from going on at once."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    assert [one.state for one in service.batches_advance("w1")] == ["submitted"]
    server.finish()
    assert [one.state for one in service.batches_advance("w2")] == ["done"]


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_a_batch_that_fails_says_so_and_lets_the_workers_go_on(backend, notes, service, server, status):
    """What it has answered all the same is not paid for twice."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    answered = 0 if status == "failed" else 15
    server.finish(status, answered and answered + 2)  # with two of the sentences
    [failed] = service.batches_advance("w1")
    assert (failed.state, failed.answered) == ("failed", answered)
    assert status in failed.error
    service.work(until="current")
    assert len(asked(server)) == ROWS - answered
    proven(backend, service, tracked, notes)


def test_a_text_that_is_refused_is_left_to_the_workers_who_park_it(notes, service, server):
    server.refused.add("the body of note 7")
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    server.finish()
    assert [batch.answered for batch in service.batches_advance("w1")] == [ROWS - 1]
    service.work(until="current", threads=1)
    assert [(failure.key, failure.kind) for failure in tracked.failures()] == [((7,), "input")]
    assert asked(server) == []


def short(line):
    [item] = line["response"]["body"]["data"]
    item["embedding"] = base64.b64encode(base64.b64decode(item["embedding"])[:-4]).decode()
    return line


SPOILT = {
    "of another length": short,
    "too large for a number": lambda line: line["response"]["body"]["data"][0].update(embedding=[10**400, 0.5]) or line,
    "of a name that is none of ours": lambda line: {**line, "custom_id": "zzz"},
    "of a name that has another length": lambda line: {**line, "custom_id": "deadbeef"},
    "of no name": lambda line: {**line, "custom_id": None},
    "not an object": lambda _: '"an error"',
    "not JSON": lambda line: json.dumps(line)[:-9],
    "nested without end": lambda _: "[" * 100_000,
}


@pytest.mark.parametrize("how", SPOILT)
def test_one_bad_answer_of_a_batch_is_as_good_as_unanswered(how, backend, notes, service, server):
    """The others are put by, and the workers ask for that one."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    server.finish()
    [there] = server.batches
    there.answers[7] = SPOILT[how](there.answers[7])
    [done] = service.batches_advance("w1")
    assert (done.state, done.answered, done.error) == ("done", ROWS - 1, None)
    service.work(until="current")
    assert asked(server) == [there.lines[7]["body"]["input"]]
    proven(backend, service, tracked, notes)


def test_a_batch_without_a_vector_of_use_says_what_is_wrong_with_them(service, server):
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    server.finish()
    [there] = server.batches
    there.answers = [short(line) for line in there.answers]
    [failed] = service.batches_advance("w1")
    assert (failed.state, failed.answered) == ("failed", 0)
    assert "has answered none of 40 requests: openai:oracle returned vectors of 31 dimensions" in failed.error


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("batch_start", "it may be at the provider, with seamark="),
        ("batch_look", "given up here; batch_0 goes on at the provider, which could not be asked to cancel it"),
    ],
)
def test_what_is_no_fault_of_the_providers_ends_a_batch_and_is_kept(step, told, backend, notes, service, server, monkeypatch):
    """It would be there again at the next look; the passages go back to ordinary work, and `status` says why."""

    def broken(*_):
        raise TypeError("a mistake of ours")

    tracked = service.attach("notes", text="body")
    tracked.batch()
    monkeypatch.setattr(OpenAIEmbedder, step, broken)
    for _ in range(2):
        service.batches_advance("w1")
    [failed] = tracked.batches()
    assert failed.state == "failed"
    assert failed.error.startswith(f"openai:oracle raised TypeError: a mistake of ours; {told}")
    [status] = service.status()
    assert [one.batch_failed for one in status.generations] == [None, failed]
    service.work(until="current")
    [status] = service.status()
    assert [one.batch_failed for one in status.generations] == [None, None], "nothing is missing"
    proven(backend, service, tracked, notes)


def test_a_batch_that_an_error_of_ours_ends_is_cancelled_at_the_provider(service, server, monkeypatch):
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    whole, broken = OpenAIEmbedder.batch_look, [TypeError("a mistake of ours")]

    def look(embedder, batch):
        if broken:
            raise broken.pop()
        return whole(embedder, batch)

    monkeypatch.setattr(OpenAIEmbedder, "batch_look", look)
    [failed] = service.batches_advance("w1")
    assert failed.error.endswith("a mistake of ours; given up, and batch_0 is cancelled at the provider")
    assert [one.status for one in server.batches] == ["cancelled"]


def test_what_a_batch_has_answered_before_an_error_of_ours_is_kept_and_counted(backend, notes, service, server, monkeypatch):
    """It is billed, and the workers ask only for the rest."""
    monkeypatch.setattr(batches, "ANSWERS_AT_ONCE", 10)
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    server.finish()
    whole, looked = OpenAIEmbedder.batch_results, []

    def results(embedder, name):
        looked.append(name)
        yield from islice(whole(embedder, name), 30 if looked[1:] else None)  # first for the sentences alone
        if looked[1:]:
            raise TypeError("a mistake of ours")

    monkeypatch.setattr(OpenAIEmbedder, "batch_results", results)
    [failed] = service.batches_advance("w1")
    assert (failed.state, failed.answered) == ("failed", 26), "four of the thirty are sentences"
    assert failed.error.endswith("a mistake of ours; given up; batch_0 had ended at the provider already")
    generation = service.store.generations(tracked.source.id)[-1]
    spent = service.store.spends(tracked.source.id)[generation.id]
    assert (spent.texts, spent.tokens) == (26, sum(billed(f"the body of note {n}") for n in range(ROWS - 25, ROWS + 1)))
    service.work(until="current")
    assert len(asked(server)) == ROWS - 26
    proven(backend, service, tracked, notes)


@pytest.mark.parametrize("step", ["send", "collect"])
def test_a_machine_that_is_short_of_something_fails_no_batch(step, backend, notes, service, server, monkeypatch):
    """A full disk, or too little memory, passes: the step is taken again."""

    def short_of(*_):
        raise (OSError(errno.ENOSPC, "no space left on device") if step == "send" else MemoryError)

    tracked = service.attach("notes", text="body")
    tracked.batch()
    if step == "collect":
        service.batches_advance("w1")
        server.finish()
    with monkeypatch.context() as poor:
        poor.setattr(tempfile, "TemporaryFile", short_of)
        poor.setattr(OpenAIEmbedder, "batch_results", short_of)
        service.batches_advance("w1")
    assert state(tracked) == ["sending" if step == "send" else "submitted"]
    service.batches_advance("w1")
    server.finish()
    service.batches_advance("w1")
    assert state(tracked) == ["done"]
    service.work(until="current")
    assert asked(server) == []
    proven(backend, service, tracked, notes)


def test_a_server_that_answers_anything_with_200_has_no_batch_interface(backend, notes, service, server, monkeypatch):
    """As some do: the passages go back to ordinary work."""

    def answered(handler, *_):
        handler.send_json(200, {"error": "Unexpected endpoint or method"})

    tracked = service.attach("notes", text="body")
    tracked.batch()
    monkeypatch.setattr(batch_server._Handler, "_done", answered)
    [failed] = service.batches_advance("w1")
    assert (failed.state, "Unexpected endpoint" in failed.error) == ("failed", True)
    service.work(until="current")
    assert len(asked(server)) == ROWS
    proven(backend, service, tracked, notes)


ODD = {
    "a batch without an id": ("/batches", lambda content: {key: value for key, value in content.items() if key != "id"}),
    "a batch that is no object": ("/batches", lambda _: ["made"]),
}


@pytest.mark.parametrize("how", ODD)
def test_a_batch_whose_reply_is_odd_is_found_by_its_tag(how, backend, notes, service, server, monkeypatch):
    """The provider has it, and bills it."""
    path, odd = ODD[how]
    whole = batch_server._Handler._done
    monkeypatch.setattr(
        batch_server._Handler,
        "_done",
        lambda handler, at, content: whole(handler, at, odd(content) if at == path else content),
    )
    tracked = service.attach("notes", text="body")
    tracked.batch()
    for expected in ("sending", "submitted"):
        service.batches_advance("w1")
        assert state(tracked) == [expected]
    assert len(server.batches) == 1
    server.finish()
    service.batches_advance("w1")
    service.work(until="current")
    assert asked(server) == []
    proven(backend, service, tracked, notes)


LISTS = {
    "data that is text": lambda page: {**page, "data": "none"},
    "a batch that is text": lambda page: {**page, "data": ["batch_0"]},
    "metadata that is text": lambda page: {**page, "data": [{**one, "metadata": "seamark"} for one in page["data"]]},
    "a batch without an id": lambda page: {**page, "data": [{"metadata": one["metadata"]} for one in page["data"]]},
}


@pytest.mark.parametrize("how", LISTS)
def test_a_batch_is_not_sent_again_while_the_list_of_them_cannot_be_read(how, service, server, monkeypatch):
    whole = batch_server._Handler.send_json
    tracked = service.attach("notes", text="body")
    tracked.batch()
    server.dropped.add("/batches")
    service.batches_advance("w1")
    with monkeypatch.context() as odd:
        odd.setattr(
            batch_server._Handler,
            "send_json",
            lambda handler, status, content: whole(handler, status, LISTS[how](content) if "has_more" in content else content),
        )
        service.batches_advance("w1")
        assert (state(tracked), len(server.batches)) == (["sending"], 1)
    service.batches_advance("w1")
    assert (state(tracked), len(server.batches)) == (["submitted"], 1)


def test_a_batch_that_is_paid_for_waits_for_a_key_that_is_taken(backend, notes, service, server, monkeypatch):
    """And says so, to whoever looks after it and to whoever asks how it stands."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    server.finish()
    whole = batch_server._Handler.post
    with monkeypatch.context() as refused:
        refused.setattr(
            batch_server._Handler,
            "post",
            lambda handler: (handler.body(), handler.send_json(401, {"error": {"message": "a key that is no more"}})),
        )
        for _ in range(2):
            with pytest.raises(EmbedderConfigurationError, match="401"):
                service.batches_advance("w1")
    assert batch_server._Handler.post is whole
    [waiting] = tracked.batches()
    assert (waiting.state, "a key that is no more" in waiting.error) == ("submitted", True)
    [done] = service.batches_advance("w2")
    assert (done.state, done.answered, done.error) == ("done", ROWS, None)
    service.work(until="current")
    assert asked(server) == []
    proven(backend, service, tracked, notes)


def test_a_batch_that_may_be_at_the_provider_waits_for_a_key_that_is_taken(service, server, monkeypatch):
    """Whether it arrived was never heard of, and cannot be asked for now: it is not sent again, nor given up."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    server.dropped.add("/batches")
    service.batches_advance("w1")
    assert state(tracked) == ["sending"]
    with monkeypatch.context() as refused:
        refused.setattr(
            batch_server._Handler,
            "get",
            lambda handler: handler.send_json(401, {"error": {"message": "a key that is no more"}}),
        )
        for _ in range(2):
            with pytest.raises(EmbedderConfigurationError, match="401"):
                service.batches_advance("w1")
    [waiting] = tracked.batches()
    assert (waiting.state, "a key that is no more" in waiting.error) == ("sending", True)
    assert [(batch.state, batch.error) for batch in service.batches_advance("w2")] == [("submitted", None)]
    assert len(server.batches) == 1


def test_a_batch_whose_sending_is_refused_is_not_at_the_provider(backend, notes, service, server, monkeypatch):
    """Asked whether it has it, it said no, and then it took nothing: the passages go back to ordinary work."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    whole = batch_server._Handler.post
    monkeypatch.setattr(
        batch_server._Handler,
        "post",
        lambda handler: (
            whole(handler)
            if handler.path == "/v1/embeddings"
            else (handler.body(), handler.send_json(401, {"error": {"message": "a key that may not"}}))
        ),
    )
    [failed] = service.batches_advance("w1")
    assert (failed.state, "a key that may not" in failed.error) == ("failed", True)
    service.work(until="current")
    assert len(asked(server)) == ROWS
    proven(backend, service, tracked, notes)


def test_what_a_batch_waits_for_prolongs_no_hold(service, server, monkeypatch):
    """A backfill is never stopped for good: also where nobody mends the key."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    monkeypatch.setattr(batches, "HOLD_SECONDS", -1.0)
    service.batches_advance("w1")
    monkeypatch.undo()
    monkeypatch.setattr(
        batch_server._Handler, "get", lambda handler: handler.send_json(401, {"error": {"message": "a key that is no more"}})
    )
    with pytest.raises(EmbedderConfigurationError, match="401"):
        service.batches_advance("w1")
    service.work(until="current")
    assert (state(tracked), tracked.coverage().embedded) == (["submitted"], ROWS)


def test_a_batch_waits_while_the_model_makes_vectors_of_another_length(notes, service, server, monkeypatch):
    """Where the length is told, so that nothing is asked at the start."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    server.finish()
    embed = server.embed
    monkeypatch.setattr(server, "embed", lambda texts, model, _dimension, **more: embed(texts, model, 16, **more))
    with pytest.raises(ModelDriftError, match="16 dimensions instead of 32"):
        service.batches_advance("w1")
    assert state(tracked) == ["submitted"]
    assert "16 dimensions" in service.store.generations(tracked.source.id)[-1].drift
    monkeypatch.undo()
    assert [(batch.state, batch.answered) for batch in service.batches_advance("w2")] == [("done", ROWS)]
    assert service.store.generations(tracked.source.id)[-1].drift is None


def test_a_large_table_is_sent_in_parts(backend, notes, service, server, monkeypatch):
    monkeypatch.setattr(batches, "PASSAGES_MAX", 15)
    monkeypatch.setattr(batches, "READ_ROWS", 10)
    tracked = service.attach("notes", text="body")
    tracked.batch()
    for _ in range(20):
        service.batches_advance("w1")
        server.finish()
    assert state(tracked) == ["done", "done"]
    assert [batch.requests for batch in tracked.batches()] == [20, 20]
    service.work(until="current")
    assert asked(server) == []
    proven(backend, service, tracked, notes)


def given_up(tracked, server, generation, *, by):
    """Give a batch up; return how it ended, which is what is told of it."""
    [submitted] = tracked.batches()
    ended = by()
    assert [one.status for one in server.batches] == ["cancelled"]
    for batch in ended:
        assert (batch.id, batch.generation_id, batch.state) == (submitted.id, generation.id, "failed")
        assert batch.error == f"given up, and {server.batches[0].id} is cancelled at the provider"
    return ended


@pytest.mark.parametrize("lost", [False, True], ids=["submitted", "sending"])
@pytest.mark.parametrize("how", ["detach", "drop", "retire"])
def test_what_is_not_wanted_any_more_is_cancelled_at_the_provider(how, lost, service, server):
    """Also where its id there was never heard of."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    server.dropped |= {"/batches"} if lost else set()
    service.batches_advance("w1")
    assert state(tracked) == ["sending" if lost else "submitted"]
    generation = service.store.generations(tracked.source.id)[-1]
    ways = {
        "detach": lambda: service.detach("notes"),
        "drop": lambda: tracked.drop(generation.id),
        "retire": lambda: [tracked.retire(generation.id), tracked.batches()][-1],
    }
    [ended] = given_up(tracked, server, generation, by=ways[how])
    assert ended.provider_id == server.batches[0].id
    assert service.batches_advance("w2") == ()


@pytest.mark.parametrize("how", ["detach", "drop"])
def test_what_cannot_be_cancelled_is_said_to_go_on(how, service, server):
    """With its id there."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    server.unreachable = True
    generation = service.store.generations(tracked.source.id)[-1]
    [ended] = service.detach("notes") if how == "detach" else tracked.drop(generation.id)
    assert f"{server.batches[0].id} goes on at the provider" in ended.error
    assert "503" in ended.error
    assert [one.status for one in server.batches] == ["in_progress"]


def test_a_worker_cancels_what_a_retired_index_still_has_there(service, server):
    """Whoever retired it was killed before that, or had no key."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    generation = service.store.generations(tracked.source.id)[-1]
    service.store.generation_retire(generation.id)
    assert len(given_up(tracked, server, generation, by=lambda: service.batches_advance("w1"))) == 1


def test_a_batch_that_was_given_up_is_no_failure_of_the_index_that_is_taken_up_again(service, server):
    """Nothing was wrong with it."""
    model = f"{server.locator}&version=next"
    tracked = service.attach("notes", text="body")
    service.work(until="current")
    generation = next(one for one in tracked.swap(model=model) if one.kind == "vector")
    tracked.batch()
    service.batches_advance("w1")
    assert given_up(tracked, server, generation, by=lambda: [tracked.retire(generation.id), tracked.batches()][-1])
    assert [one.id for one in tracked.swap(model=model)] == [generation.id]
    [status] = service.status()
    shown = next(one for one in status.generations if one.generation.id == generation.id)
    assert (shown.coverage.missing, shown.batch, shown.batch_failed) == (ROWS, None, None)


def test_the_batch_of_a_model_whose_weights_have_changed_is_cancelled(service, server):
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    server.behind = "another"
    generation = service.store.generations(tracked.source.id)[-1]
    assert not service.registry.holds(replace(generation, drift="noticed"))
    given_up(tracked, server, generation, by=lambda: [tracked.retire(generation.id), tracked.batches()][-1])


@pytest.mark.parametrize("how", ["detach", "drop", "retire", "worker"])
def test_the_batch_of_a_model_that_is_another_one_by_now_is_cancelled(how, backend, notes, server):
    """To give it up nobody has to know which model it is; that is not asked either."""
    model = server.locator.partition("&dimensions")[0]
    with seamark.open(backend.url, model=model) as service:
        tracked = service.attach("notes", text="body")
        tracked.batch()
        service.batches_advance("w1")
        assert state(tracked) == ["submitted"]
    server.dimension = 16
    with seamark.open(backend.url, model=model) as service:
        tracked, calls = service.source("notes"), len(server.calls)
        generation = service.store.generations(tracked.source.id)[-1]
        if how == "worker":
            service.store.generation_retire(generation.id)
        ways = {
            "detach": lambda: service.detach("notes"),
            "drop": lambda: tracked.drop(generation.id),
            "retire": lambda: [tracked.retire(generation.id), tracked.batches()][-1],
            "worker": lambda: service.batches_advance("w1"),
        }
        assert len(given_up(tracked, server, generation, by=ways[how])) == 1
        assert len(server.calls) == calls


def test_a_batch_is_not_sent_to_a_model_that_is_another_one_by_now(backend, notes, service, server):
    """However short a time ago it was compared; it is sent when the old model is back."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.indexer(service.store.generations(tracked.source.id)[-1])
    server.behind = "another"
    for _ in range(2):
        with pytest.raises(ModelDriftError):
            service.batches_advance("w1")
    assert (server.batches, server.files, state(tracked)) == ([], {}, ["planned"])
    assert "cosine" in service.store.generations(tracked.source.id)[-1].drift
    server.behind = None
    assert [batch.state for batch in service.batches_advance("w2")] == ["submitted"]
    server.finish()
    service.batches_advance("w2")
    service.work(until="current")
    proven(backend, service, tracked, notes)


def test_a_batch_is_not_put_by_while_the_model_is_another_one(backend, notes, service, server):
    """It waits, for the old model or for somebody's word, and others go on; `accept` lets it in."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    server.behind = "another"
    server.finish()
    for _ in range(2):
        with pytest.raises(ModelDriftError):
            service.batches_advance("w1")
    assert (state(tracked), service.status()[0].generations[-1].spent.texts) == (["submitted"], 0)
    tracked.accept(service.store.generations(tracked.source.id)[-1].id)
    assert [(batch.state, batch.answered) for batch in service.batches_advance("w1")] == [("done", ROWS)]
    service.work(until="current")
    assert (asked(server), tracked.coverage().embedded) == ([], ROWS)


@pytest.mark.parametrize("noticed", [False, True])
def test_what_another_model_has_answered_in_between_is_not_used(noticed, backend, notes, service, server):
    """The old one was there when the batch was sent, and is back when it is looked at: what it cost is counted."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    server.behind = "another"
    server.finish()
    if noticed:
        with pytest.raises(ModelDriftError):
            service.batches_advance("w1")
    server.behind = None
    [failed] = service.batches_advance("w1")
    assert (failed.state, failed.answered) == ("failed", 0)
    assert failed.error.startswith(f"batch {server.batches[0].id} was answered by another model: what it makes of the sentence")
    generation = service.store.generations(tracked.source.id)[-1]
    assert service.store.spends(tracked.source.id)[generation.id].tokens > 0
    service.work(until="current")
    assert len(asked(server)) == ROWS
    proven(backend, service, tracked, notes)


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_what_another_model_has_answered_of_a_batch_that_ended_half_way_is_not_used(status, backend, notes, service, server):
    """The sentences are all over it."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    assert [line["body"]["input"] for line in server.batches[0].lines][:: ROWS // 5 + 1] == list(PROBES)
    server.behind = "another"
    server.finish(status, 20)
    server.behind = None
    [failed] = service.batches_advance("w1")
    assert (failed.state, failed.answered, "was answered by another model" in failed.error) == ("failed", 0, True)
    service.work(until="current")
    proven(backend, service, tracked, notes)


def test_what_another_model_has_answered_of_the_first_lines_is_not_used(backend, notes, service, server):
    """It was put back before the batch had ended."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    server.finish()
    [there] = server.batches
    server.behind = "another"
    there.answers[:12] = [server._answered(line) for line in there.lines[:12]]
    server.behind = None
    [failed] = service.batches_advance("w1")
    assert (failed.state, "was answered by another model" in failed.error) == ("failed", True)
    service.work(until="current")
    proven(backend, service, tracked, notes)


def refused(line):
    return {**line, "response": {"status_code": 500, "body": {"error": {"message": "not now"}}}}


def emptied(line):
    [item] = line["response"]["body"]["data"]
    item["embedding"] = [0.0] * 32
    return line


UNSAID = {"refused": refused, "short": short, "zeros": emptied, "no object": lambda _: '"an error"'}


@pytest.mark.parametrize("how", UNSAID)
def test_a_batch_that_has_answered_none_of_the_sentences_is_not_used(how, backend, notes, service, server):
    """Nobody knows which model that was."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    server.finish()
    [there] = server.batches
    for place, line in enumerate(there.lines):
        if line["body"]["input"] in PROBES:
            there.answers[place] = UNSAID[how](there.answers[place])
    [failed] = service.batches_advance("w1")
    assert (failed.state, failed.answered) == ("failed", 0)
    assert failed.error.endswith("has answered none of the sentences that tell which model it was")
    service.work(until="current")
    assert len(asked(server)) == ROWS
    proven(backend, service, tracked, notes)


def test_an_answer_that_is_there_twice_is_counted_once(notes, service, server):
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    server.finish()
    server.batches[0].answers *= 3
    assert [batch.answered for batch in service.batches_advance("w1")] == [ROWS]
    generation = service.store.generations(tracked.source.id)[-1]
    expected = sum(billed(f"the body of note {n}") for n in range(1, ROWS + 1))
    assert service.store.spends(tracked.source.id)[generation.id].tokens == expected


def test_the_batch_of_a_model_that_is_another_one_stops_no_worker_and_no_other_batch(notes, service, server, monkeypatch):
    monkeypatch.setattr(worker, "TRIM_SECONDS", 0.0)
    service.attach("notes", text="body").batch()
    server.behind = "another"
    with BillingServer() as well:
        notes.run("CREATE TABLE papers(id BIGINT PRIMARY KEY, body TEXT)")
        notes.run("INSERT INTO papers VALUES (1, 'a paper')")
        papers = service.attach("papers", text="body", model=well.locator)
        papers.batch()
        sent_by_a_worker(service, papers)
    assert server.batches == []


def test_status_and_the_list_show_the_batch_that_a_backfill_waits_for(service, server):
    tracked = service.attach("notes", text="body")
    before = service.store.clock()
    begun = tracked.batch()
    service.batches_advance("w1")
    [status] = service.status()
    held = {found.generation.kind: found.batch for found in status.generations}
    assert held["lexical"] is None
    assert (held["vector"].id, held["vector"].state, held["vector"].requests) == (begun.id, "submitted", ROWS)
    assert held["vector"].provider_id == server.batches[0].id
    assert before <= held["vector"].created_at <= service.store.clock()
    assert [one.batch for one in tracked.generations()] == [None, held["vector"]]
    server.finish()
    service.batches_advance("w1")
    assert [one.batch for one in tracked.generations()] == [None, None]


def test_who_waits_for_a_batch_is_told_so(service, server):
    """Until it has ended."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    told, stop = [], threading.Event()

    def tell(progress):
        told.append(progress)
        if progress.rows == 0 or progress.problem is not None:
            server.finish()
            service.batches_advance("w1")

    ending = threading.Timer(30, stop.set)
    ending.start()
    service.work(until="current", progress=tell, stop=stop)
    ending.cancel()
    problems = [progress.problem for progress in told]
    waits = "the backfill waits for batch 1 at the provider (submitted, batch_0), which may take a day"
    assert f"40 rows of 'notes' are missing; {waits}" in problems
    assert problems[-1] is None


def test_who_waits_for_a_batch_is_told_what_keeps_it_waiting(service, server, monkeypatch):
    """A key that is refused, here: somebody has to mend that."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    monkeypatch.setattr(
        batch_server._Handler, "get", lambda handler: handler.send_json(401, {"error": {"message": "a key that is no more"}})
    )
    with pytest.raises(EmbedderConfigurationError, match="401"):
        service.batches_advance("w1")
    told, stop = [], threading.Event()

    def tell(progress):
        told.append(progress.problem or "")
        if "a key that is no more" in told[-1]:
            stop.set()

    ending = threading.Timer(30, stop.set)
    ending.start()
    service.work(until="current", progress=tell, stop=stop)
    ending.cancel()
    assert "the backfill waits for batch 1 at the provider (submitted, batch_0): " in told[-1]
    assert "a key that is no more" in told[-1]


def test_a_batch_that_would_pass_the_budget_is_not_sent(service, server):
    """Half of what its passages cost in ordinary calls; nothing is paid, and it is sent once the budget suffices."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    needed = sum(tokens_estimate(f"the body of note {n}") for n in range(1, ROWS + 1)) / 2
    with pytest.raises(BudgetSpentError):
        service.batches_advance("w1", Budget(math.ceil(needed) - 1))
    assert (server.batches, server.files, state(tracked)) == ([], {}, ["planned"])
    budget = Budget(math.ceil(needed))
    server.dropped.add("/files")
    service.batches_advance("w1", budget)
    assert state(tracked) == ["sending"], "an upload that broke off costs nothing"
    service.batches_advance("w1", budget)
    assert state(tracked) == ["submitted"]
    with pytest.raises(BudgetSpentError):
        budget.reserve(1)


def test_a_worker_with_a_budget_ends_before_it_sends_a_batch_beyond_it(service, server, monkeypatch):
    monkeypatch.setattr(worker, "TRIM_SECONDS", 0.0)
    service.attach("notes", text="body").batch()
    with pytest.raises(BudgetSpentError):
        service.work(budget_tokens=20)
    assert (server.batches, asked(server)) == ([], [])
    [sent] = service.batches_advance("who has more to spend")
    assert sent.state == "submitted"


def test_the_batch_of_a_table_that_is_no_longer_as_it_was_stops_no_worker_and_no_other_batch(
    notes, service, server, monkeypatch
):
    """Whoever waits for that one batch is told."""
    monkeypatch.setattr(worker, "TRIM_SECONDS", 0.0)
    service.attach("notes", text="body").batch()
    notes.run("CREATE TABLE papers(id BIGINT PRIMARY KEY, body TEXT)")
    notes.run("INSERT INTO papers VALUES (1, 'a paper')")
    papers = service.attach("papers", text="body")
    papers.batch()
    notes.run("ALTER TABLE notes RENAME COLUMN body TO words")
    with pytest.raises(StoreError, match="body"):
        service.batches_advance("w1", only="notes")
    sent_by_a_worker(service, papers)
    assert sorted(line["body"]["input"] for batch in server.batches for line in batch.lines) == sorted(["a paper", *PROBES])


def test_a_model_without_a_batch_interface_is_refused(backend, notes):
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        tracked = service.attach("notes", text="body")
        with pytest.raises(InvalidRequestError, match="batch interface"):
            tracked.batch()


def test_nothing_is_left_to_batch_once_it_is_embedded(service):
    tracked = service.attach("notes", text="body")
    service.work(until="current")
    with pytest.raises(InvalidRequestError, match="nothing is left"):
        tracked.batch()


def test_what_a_lease_has_paid_for_is_not_lost_when_it_is_given_back(backend, notes):
    """The model goes out in the middle of a lease: what it had answered is found by whoever takes the lease up."""
    embedder = OracleEmbedder(batch_items=8, errors=[None, None, EmbedderUnavailableError("out", 0.1)])
    with seamark.open(backend.url, embedder=embedder) as service:
        tracked = service.attach("notes", text="body")
        service.work(until="current", threads=1)
        assert tracked.coverage().embedded == ROWS
        twice = [text for text, count in embedder.texts.items() if count > 1]
        assert len(twice) == 8, "only those of the call that failed"
