"""What a batch's way is: it is sent, once, by whoever comes by, is answered, and its vectors are settled."""

from __future__ import annotations

import pytest

import seamark
from seamark.core import batch as batches
from seamark.errors import (
    InvalidRequestError,
)
from seamark.testing.batch_server import ServedBatch, billed
from seamark.testing.batched import ROWS, proven, states
from seamark.testing.oracle import OracleEmbedder


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
    assert server.asked() == ["fresh"]
    proven(backend, service, tracked, notes)
    [status] = service.status()
    spent = next(each.spent for each in status.generations if each.generation.kind == "vector")
    assert spent.texts == ROWS + 1
    assert spent.tokens == billed("fresh") + sum(billed(f"the body of note {n}") for n in range(1, ROWS + 1))


def test_a_large_table_is_sent_in_parts(backend, notes, service, server, monkeypatch):
    monkeypatch.setattr(batches, "PASSAGES_MAX", 15)
    monkeypatch.setattr(batches, "READ_ROWS", 10)
    tracked = service.attach("notes", text="body")
    tracked.batch()
    for _ in range(20):
        service.batches_advance("w1")
        server.finish()
    assert states(tracked) == ["done", "done"]
    assert [batch.requests for batch in tracked.batches()] == [20, 20]
    service.work(until="current")
    assert server.asked() == []
    proven(backend, service, tracked, notes)


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
    assert states(tracked) == ["sending"]
    for number in range(5):
        server.batches.append(ServedBatch(f"later-{number}", "later", []))
    service.batches_advance("w1")
    assert states(tracked) == ["submitted"]
    assert len([batch for batch in server.batches if batch.tag.startswith("seamark-")]) == 1


def test_another_process_goes_on_where_one_was_cut_off(backend, notes, service, server):
    tracked = service.attach("notes", text="body")
    tracked.batch()
    server.dropped.add("/files")
    service.batches_advance("w1")
    assert (states(tracked), server.batches) == (["sending"], [])
    assert service.batches_advance("w2") == (), "the first is still at it"
    with seamark.open(backend.url, model=server.locator) as other:
        assert [batch.state for batch in other.batches_advance("w1")] == ["submitted"]
        server.finish()
        assert [batch.state for batch in other.batches_advance("w1")] == ["done"]
        other.work(until="current")
    assert len(server.batches) == 1
    assert server.asked() == []
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
    assert len(server.asked()) == ROWS - answered
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
    assert server.asked() == []


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
