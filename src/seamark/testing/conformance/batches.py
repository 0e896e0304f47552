"""Batches that are given to a provider: `batch_begin`, `batch_take`, `batch_write`, `batch_end`, the hold; `vectors_put`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from seamark.model.cost import NOTHING_SPENT, Spent
from seamark.testing.oracle import oracle_vector
from seamark.testing.workbench import DIMENSION, passages

if TYPE_CHECKING:
    from seamark.model import Generation
    from seamark.model.cost import ProviderBatch
    from seamark.testing.workbench import Workbench

LONG = 3600.0


def digest(text: str) -> bytes:
    """Return the digest of a text of one passage."""
    [chunk] = passages(text)
    return chunk.digest


def begun(bench: Workbench, generation: Generation) -> ProviderBatch:
    """Begin a batch that can be begun."""
    batch = bench.store.batch_begin(generation.id, 0, LONG)
    assert batch is not None
    return batch


class Batches:
    """A batch is written down, taken by one worker at a time, and holds the backfill lane while it is under way."""

    def test_the_backfill_waits_and_the_fresh_lane_does_not(self, bench: Workbench) -> None:
        """Rows that were there wait for the batch; new ones are claimed at once."""
        source = bench.notes(*"abc")
        generation = bench.vector(source)
        batch = begun(bench, generation)
        assert (batch.state, batch.after, batch.generation_id) == ("planned", 0, generation.id)
        before = bench.backend.writes()
        assert bench.claim(generation).lease is None
        assert bench.backend.writes() == before, "an idle worker writes nothing"
        assert bench.store.coverage(source, [generation.id])[generation.id].missing == 3
        bench.app.run("INSERT INTO notes (id, body) VALUES (4, 'd')")
        assert bench.lease(generation).lane == "fresh"
        assert not bench.store.generation_activate(generation.id)
        assert bench.store.batch_take(generation.id, "w1", LONG) == batch
        assert bench.store.batch_end(replace(batch, state="done"), "w1", 0, NOTHING_SPENT)
        bench.drain(source, generation)
        assert bench.lease(bench.vector(source, "oracle-b")).lane == "backfill"

    def test_a_hold_lapses_by_itself(self, bench: Workbench) -> None:
        """However the worker that was at the batch ended."""
        source = bench.notes("a")
        generation = bench.vector(source)
        assert bench.store.batch_begin(generation.id, 0, -1.0) is not None
        assert bench.lease(generation).lane == "backfill"

    def test_one_batch_is_open_at_a_time(self, bench: Workbench) -> None:
        """Begun again, it is the same; the next begins where it ended; none where nothing is left."""
        source = bench.notes(*"abc")
        generation = bench.vector(source)
        first = begun(bench, generation)
        assert bench.store.batch_begin(generation.id, 2, LONG) == first
        assert bench.store.batch_take(generation.id, "w1", LONG) is not None
        failed = replace(first, state="failed", upto=2, requests=2, error="no")
        assert bench.store.batch_end(failed, "w1", 0, NOTHING_SPENT)
        second = bench.store.batch_begin(generation.id, 2, LONG)
        assert second is not None
        assert (second.after, second.tag == first.tag) == (2, False)
        [one, two] = bench.store.batches(generation.id)
        assert (one.state, one.error, one.requests) == ("failed", "no", 2)
        assert two == second
        assert bench.store.batch_begin(999_999, 0, LONG) is None
        other = bench.vector(source, "oracle-b")
        bench.drain(source, other)
        assert bench.store.batch_begin(other.id, 0, LONG) is None

    def test_one_worker_at_a_time_is_at_a_batch(self, bench: Workbench) -> None:
        """Another has it when the first has said nothing for long; what the first then writes is not written."""
        source = bench.notes("a")
        generation = bench.vector(source)
        batch = begun(bench, generation)
        assert bench.store.batch_take(generation.id, "w1", LONG) == batch
        assert bench.store.batch_take(generation.id, "w2", LONG) is None
        assert bench.store.batch_take(generation.id, "w1", -1.0) == batch
        assert not bench.store.batch_write(replace(batch, state="sending"), "w1", LONG)
        assert bench.store.batch_take(generation.id, "w2", LONG) == batch
        assert not bench.store.batch_write(replace(batch, state="sending"), "w1", LONG)
        sent = replace(batch, state="submitted", upto=1, requests=1, answered=0, provider_id="batch_1")
        assert bench.store.batch_write(sent, "w2", LONG)
        assert bench.store.batches(generation.id) == [sent]
        assert bench.store.batch_take(generation.id, "w3", LONG, force=True) == sent
        assert not bench.store.batch_write(sent, "w2", LONG)

    def test_the_end_of_a_batch_plans_the_next_and_is_billed_with_it(self, bench: Workbench) -> None:
        """All or nothing: the lane is held on, and who has lost the batch bills nothing. After the last it is let go of."""
        source = bench.notes(*"abc")
        generation = bench.vector(source)
        batch = begun(bench, generation)
        done, spent = replace(batch, state="done", upto=2, requests=2, answered=2), Spent(1, 2, 30)
        assert not bench.store.batch_end(done, "w1", LONG, spent)
        assert (bench.store.batches(generation.id), bench.store.spends(source.id)) == ([batch], {})
        assert bench.store.batch_take(generation.id, "w1", LONG) is not None
        assert bench.store.batch_end(done, "w1", LONG, spent)
        [ended, following] = bench.store.batches(generation.id)
        assert (ended, following.state, following.after) == (done, "planned", 2)
        assert bench.claim(generation).lease is None
        assert bench.store.batch_take(generation.id, "w2", LONG) == following
        assert bench.store.batch_end(replace(following, state="done", upto=3), "w2", LONG, spent)
        assert len(bench.store.batches(generation.id)) == 2
        assert bench.store.spends(source.id) == {generation.id: Spent(2, 4, 60)}
        assert bench.lease(generation).lane == "backfill"

    def test_vectors_that_are_paid_for_are_found_by_their_passage(self, bench: Workbench) -> None:
        """Whatever row it is of, bit for bit, by this generation only; they go with it."""
        source = bench.notes("a", "b")
        generation, other = bench.vector(source), bench.vector(source, "oracle-b")
        vectors = np.stack([oracle_vector(text, "oracle-a", DIMENSION) for text in "ab"]).astype(np.float16)
        for _ in range(2):
            bench.store.vectors_put(generation.id, [digest("a"), digest("b")], vectors)
        found = bench.store.vectors_known(generation.id, [(2,)], (), [digest("a"), digest("c")])
        assert found.keys() == {digest("a")}
        assert found[digest("a")].dtype == np.float16
        assert np.array_equal(found[digest("a")], vectors[0])
        assert bench.store.vectors_known(other.id, [(1,)], (), [digest("a")]) == {}
        bench.store.vectors_put(999_999, [digest("a")], vectors[:1])
        bench.store.donors_trim(LONG)
        assert bench.store.vectors_known(generation.id, [(1,)], (), [digest("a")]).keys() == {digest("a")}
        bench.store.source_drop(source.id)
        again = bench.attach("notes", ("body",))
        assert bench.store.vectors_known(bench.vector(again).id, [(1,)], (), [digest("a")]) == {}
