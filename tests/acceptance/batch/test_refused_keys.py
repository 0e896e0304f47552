"""A key that the provider does not take: what it may have already waits for one that it takes."""

from __future__ import annotations

import pytest

from seamark.core import batch as batches
from seamark.errors import (
    EmbedderConfigurationError,
)
from seamark.testing import batch_server
from seamark.testing.batched import ROWS, proven, states


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
    assert server.asked() == []
    proven(backend, service, tracked, notes)


def test_a_batch_that_may_be_at_the_provider_waits_for_a_key_that_is_taken(service, server, monkeypatch):
    """Whether it arrived was never heard of, and cannot be asked for now: it is not sent again, nor given up."""
    tracked = service.attach("notes", text="body")
    tracked.batch()
    server.dropped.add("/batches")
    service.batches_advance("w1")
    assert states(tracked) == ["sending"]
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
    assert len(server.asked()) == ROWS
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
    assert (states(tracked), tracked.coverage().embedded) == (["submitted"], ROWS)
