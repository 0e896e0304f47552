"""What is told of a batch to who waits for it, and the budget that it is sent within."""

from __future__ import annotations

import math
import threading

import pytest

from seamark.core.budget import Budget
from seamark.edges import worker
from seamark.embed.tokens import tokens_estimate
from seamark.errors import (
    BudgetSpentError,
    EmbedderConfigurationError,
)
from seamark.testing import batch_server
from seamark.testing.batched import ROWS, states


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
    assert (server.batches, server.files, states(tracked)) == ([], {}, ["planned"])
    budget = Budget(math.ceil(needed))
    server.dropped.add("/files")
    service.batches_advance("w1", budget)
    assert states(tracked) == ["sending"], "an upload that broke off costs nothing"
    service.batches_advance("w1", budget)
    assert states(tracked) == ["submitted"]
    with pytest.raises(BudgetSpentError):
        budget.reserve(1)


def test_a_worker_with_a_budget_ends_before_it_sends_a_batch_beyond_it(service, server, monkeypatch):
    monkeypatch.setattr(worker, "TRIM_SECONDS", 0.0)
    service.attach("notes", text="body").batch()
    with pytest.raises(BudgetSpentError):
        service.work(budget_tokens=20)
    assert (server.batches, server.asked()) == ([], [])
    [sent] = service.batches_advance("who has more to spend")
    assert sent.state == "submitted"
