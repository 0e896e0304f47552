"""A batch that nobody wants any more is cancelled at the provider, also where its model is another one by now."""

from __future__ import annotations

from dataclasses import replace

import pytest

import seamark
from seamark.testing.batched import ROWS, states


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
    assert states(tracked) == ["sending" if lost else "submitted"]
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
        assert states(tracked) == ["submitted"]
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
