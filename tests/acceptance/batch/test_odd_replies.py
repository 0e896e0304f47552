"""Replies of a provider that are not what its interface promises."""

from __future__ import annotations

import base64
import json

import pytest

from seamark.core.registry import PROBES
from seamark.testing import batch_server
from seamark.testing.batch_server import billed
from seamark.testing.batched import ROWS, proven, states


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
    assert server.asked() == [there.lines[7]["body"]["input"]]
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
    assert len(server.asked()) == ROWS
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
    assert len(server.asked()) == ROWS
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
        assert states(tracked) == [expected]
    assert len(server.batches) == 1
    server.finish()
    service.batches_advance("w1")
    service.work(until="current")
    assert server.asked() == []
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
        assert (states(tracked), len(server.batches)) == (["sending"], 1)
    service.batches_advance("w1")
    assert (states(tracked), len(server.batches)) == (["submitted"], 1)
