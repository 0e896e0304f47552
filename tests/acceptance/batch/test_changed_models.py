"""A model that is another one by now is sent nothing, and nothing that it answered is put by."""

from __future__ import annotations

import pytest

from seamark.core.registry import PROBES
from seamark.edges import worker
from seamark.errors import ModelDriftError
from seamark.testing.batch_server import BillingServer
from seamark.testing.batched import ROWS, proven, sent_by_a_worker, states


def test_a_batch_is_not_sent_to_a_model_that_is_another_one_by_now(backend, notes, service, server):
    """However short a time ago it was compared; it is sent when the old model is back."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.indexer(service.store.generations(tracked.source.id)[-1])
    server.behind = "another"
    for _ in range(2):
        with pytest.raises(ModelDriftError):
            service.batches_advance("w1")
    assert (server.batches, server.files, states(tracked)) == ([], {}, ["planned"])
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
    assert (states(tracked), service.status()[0].generations[-1].spent.texts) == (["submitted"], 0)
    tracked.accept(service.store.generations(tracked.source.id)[-1].id)
    assert [(batch.state, batch.answered) for batch in service.batches_advance("w1")] == [("done", ROWS)]
    service.work(until="current")
    assert (server.asked(), tracked.coverage().embedded) == ([], ROWS)


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
    assert states(tracked) == ["submitted"]
    assert "16 dimensions" in service.store.generations(tracked.source.id)[-1].drift
    monkeypatch.undo()
    assert [(batch.state, batch.answered) for batch in service.batches_advance("w2")] == [("done", ROWS)]
    assert service.store.generations(tracked.source.id)[-1].drift is None


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
    assert len(server.asked()) == ROWS
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
