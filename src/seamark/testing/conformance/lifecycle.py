"""Generations that take each other's place, are taken up again and go, and models that are not what they were."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seamark.errors import StoreError
from seamark.model import GenerationSpec, ModelIdentity
from seamark.testing.workbench import DIMENSION, LEASE_SECONDS, at_once

if TYPE_CHECKING:
    from seamark.model import Generation, GenerationKind, Source
    from seamark.testing.workbench import Workbench

KINDS: tuple[GenerationKind, ...] = ("vector", "lexical")


def second(bench: Workbench, source: Source, kind: GenerationKind) -> Generation:
    """Begin another generation of the kind than `Workbench.generation` does."""
    return bench.vector(source, "oracle-b") if kind == "vector" else bench.lexical(source, "other words")


def swapped(bench: Workbench, source: Source, kind: GenerationKind) -> tuple[Generation, Generation]:
    """Return a retired generation and the active one that took its place, both of them done."""
    old, new = bench.generation(source, kind), second(bench, source, kind)
    for generation in (old, new):
        bench.drain(source, generation)
        assert bench.store.generation_activate(generation.id)
    return bench.now(old), bench.now(new)


class Activations:
    """`generation_create` and `generation_activate`, where there is an active one already."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_was_written_while_it_was_filled_is_waited_for(self, bench: Workbench, kind: GenerationKind) -> None:
        """Search finds it through the active one, so it must not be missing from the next; what comes later may be."""
        source = bench.notes(*"abcde")
        old = bench.generation(source, kind)
        bench.drain(source, old)
        assert bench.store.generation_activate(old.id)
        new = second(bench, source, kind)
        bench.app.run("UPDATE notes SET body = 'edited' WHERE id = 2")
        bench.app.run("INSERT INTO notes (id, body) VALUES (6, 'f')")
        fresh = bench.lease(new)
        rows = bench.read(source, fresh)
        assert {row.key for row in rows} == {(2,), (6,)}
        bench.drain(source, old, new)
        assert not bench.store.generation_activate(new.id), "rows 2 and 6 are under a lease"
        bench.app.run("INSERT INTO notes (id, body) VALUES (7, 'g')")
        bench.settle(source, new, fresh, rows)
        lag = bench.lease(new)
        assert lag.lo >= fresh.hi
        assert bench.now(new).due == fresh.hi, "row 7 was written afterwards"
        for _ in range(10):
            bench.claim(new)
        assert bench.store.generation_activate(new.id)
        assert [bench.now(one).state for one in (old, new)] == ["retired", "active"]

    def test_a_row_that_failed_holds_it_back_unless_it_is_forced(self, bench: Workbench) -> None:
        """It would be missing from search, which finds it now; the first generation of a kind has nothing to lose."""
        source = bench.notes(*"abc")
        old, new = bench.vector(source), bench.vector(source, "oracle-b")
        for generation in (old, new):
            lease = bench.lease(generation)
            rows = bench.read(source, lease)
            bench.settle(source, generation, lease, rows, [bench.fail(rows[0])])
            bench.drain(source, generation)
        assert bench.store.generation_activate(old.id)
        assert not bench.store.generation_activate(new.id)
        assert not bench.store.generation_activate(new.id, asked=True)
        assert bench.store.generation_activate(new.id, force=True)
        assert [bench.now(one).state for one in (old, new)] == ["retired", "active"]

    def test_a_deleted_row_that_failed_is_nothing_to_wait_for(self, bench: Workbench) -> None:
        """Nobody could find it."""
        source = bench.notes(*"abc")
        old, new = bench.vector(source), bench.vector(source, "oracle-b")
        bench.drain(source, old)
        assert bench.store.generation_activate(old.id)
        lease = bench.lease(new)
        rows = bench.read(source, lease)
        bench.settle(source, new, lease, rows, [bench.fail(rows[0])])
        bench.app.run(f"DELETE FROM notes WHERE id = {rows[0].key[0]}")
        bench.drain(source, new)
        assert bench.store.generation_activate(new.id)

    def test_manual_waits_to_be_asked_for(self, bench: Workbench) -> None:
        """The newest word counts, and what is not filled is not activated for being asked for."""
        source = bench.notes(*"abc")
        spec = GenerationSpec("vector", "v", {}, ModelIdentity("oracle-a", "1", DIMENSION), "test:oracle-a")
        made = bench.store.generation_create(source, spec, manual=True)
        assert made.manual
        assert not bench.store.generation_activate(made.id, asked=True), "nothing is indexed yet"
        bench.drain(source, made)
        assert not bench.store.generation_activate(made.id)
        assert bench.store.generation_create(source, spec, manual=False) == bench.now(made)
        assert not bench.now(made).manual
        assert bench.store.generation_create(source, spec, manual=True).manual
        assert not bench.store.generation_activate(made.id)
        assert bench.store.generation_activate(made.id, asked=True)
        assert bench.now(made).state == "active"

    def test_force_activates_what_is_not_filled_and_the_rest_follows(self, bench: Workbench) -> None:
        """It says that it is not whole until it is."""
        source = bench.notes(*"abcde")
        old, new = bench.vector(source), bench.vector(source, "oracle-b")
        bench.drain(source, old)
        assert bench.store.generation_activate(old.id)
        bench.step(source, new, limit=2)
        assert not bench.store.generation_activate(new.id, asked=True)
        assert bench.store.generation_activate(new.id, force=True)
        now = bench.now(new)
        assert (now.state, now.whole) == ("active", False)
        bench.drain(source, new)
        assert bench.now(new).whole
        bench.verify(source, new)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_retired_one_is_active_at_once_and_catches_up(self, bench: Workbench, kind: GenerationKind) -> None:
        """Rollback: in one transaction, and its cursors read on from where they stood; nothing is indexed twice."""
        source = bench.notes(*"abcde")
        old, new = swapped(bench, source, kind)
        bench.app.run("UPDATE notes SET body = 'edited' WHERE id = 2")
        bench.app.run("DELETE FROM notes WHERE id = 3")
        bench.app.run("INSERT INTO notes (id, body) VALUES (6, 'f')")
        bench.drain(source, new)
        assert bench.store.journal_trim(source.id) == 0, "the retired one has not seen the delete"
        assert not bench.store.generation_activate(old.id), "nobody has asked for it"
        assert bench.store.generation_activate(old.id, back=True)
        now = bench.now(old)
        assert [now.state, bench.now(new).state] == ["active", "retired"]
        assert (now.retired_at, now.whole) == (None, False)
        assert now.activated_at == old.activated_at, "it tells in which order they came"
        assert bench.coverage_check(source, old).missing == 2
        lease = bench.lease(old)
        rows = bench.read(source, lease)
        assert {row.key for row in rows} == {(2,), (3,), (6,)}
        bench.settle(source, old, lease, rows)
        bench.drain(source, old)
        assert bench.now(old).whole
        bench.verify(source, old)

    def test_one_that_is_chosen_anew_comes_last_in_the_order(self, bench: Workbench) -> None:
        """`activated_at` is when it was chosen; to go back is not to choose anew."""
        source = bench.notes(*"ab")
        old, new = swapped(bench, source, "vector")
        assert bench.store.generation_activate(old.id, asked=True)
        chosen = bench.now(old).activated_at
        assert chosen is not None
        assert new.activated_at is not None
        assert chosen > new.activated_at
        assert bench.store.generation_activate(new.id, back=True)
        assert bench.store.generation_activate(old.id, back=True)
        assert (bench.now(old).activated_at, bench.now(new).activated_at) == (chosen, new.activated_at)

    def test_back_is_for_retired_ones_whole_or_not(self, bench: Workbench) -> None:
        """What is being built was never there to go back to."""
        source = bench.notes(*"abcde")
        old, new = bench.vector(source), bench.vector(source, "oracle-b")
        bench.drain(source, old)
        bench.step(source, new, limit=2)
        assert not bench.store.generation_activate(new.id, back=True)
        assert bench.store.generation_activate(new.id, force=True)
        assert bench.store.generation_activate(old.id, force=True)
        assert bench.store.generation_activate(new.id, back=True)
        assert [bench.now(one).state for one in (old, new)] == ["retired", "active"]

    @pytest.mark.parametrize("words", [{"asked": True}, {"force": True}, {"back": True}, {}])
    def test_what_is_asked_for_comes_before_what_is_being_built(self, bench: Workbench, words: dict[str, bool]) -> None:
        """Others of its kind, of its source, wait to be asked for, too; not where it came by itself."""
        source = bench.notes(*"abc")
        first, second_, third = (bench.vector(source, f"oracle-{name}") for name in "abc")
        bench.app.run("CREATE TABLE others (id integer PRIMARY KEY, body text)")
        words_, elsewhere = bench.lexical(source), bench.vector(bench.attach("others", ("body",)), "oracle-a")
        bench.drain(source, first, second_)
        assert bench.store.generation_activate(first.id)
        assert not bench.now(third).manual
        assert bench.store.generation_activate(second_.id)
        if words:
            assert bench.store.generation_activate(first.id, **words)
        assert bench.now(third).manual is bool(words)
        assert not bench.now(words_).manual
        assert not bench.now(elsewhere).manual

    def test_one_that_never_was_whole_is_rolled_back_to_by_force_only(self, bench: Workbench) -> None:
        """Retired while it was being built."""
        source = bench.notes(*"abcde")
        old, new = bench.vector(source), bench.vector(source, "oracle-b")
        bench.drain(source, old)
        assert bench.store.generation_activate(old.id)
        bench.step(source, new, limit=2)
        assert bench.store.generation_retire(new.id)
        assert not bench.store.generation_activate(new.id, asked=True)
        assert bench.store.generation_activate(new.id, force=True)
        bench.drain(source, new)
        bench.verify(source, new)

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_fingerprint_of_a_retired_one_takes_it_up_again(self, bench: Workbench, kind: GenerationKind) -> None:
        """With all it holds, as a building one, which is activated when it has caught up with what was written meanwhile."""
        source = bench.notes(*"abcde")
        old, new = swapped(bench, source, kind)
        bench.app.run("UPDATE notes SET body = 'edited' WHERE id = 2")
        again = bench.generation(source, kind)
        assert (again.id, again.state, again.retired_at) == (old.id, "building", None)
        assert (again.origin, again.fresh, again.backfill) == (old.origin, old.fresh, old.backfill)
        assert not bench.store.generation_activate(old.id), "row 2 is to be indexed first"
        assert bench.drain(source, again) == 1
        assert bench.store.generation_activate(old.id)
        assert [bench.now(one).state for one in (old, new)] == ["active", "retired"]
        bench.verify(source, old)

    def test_begin_takes_up_what_is_retired(self, bench: Workbench) -> None:
        """Retired all of them, and attached again: nothing is paid for twice."""
        source = bench.notes("a", "b")
        spec = GenerationSpec("vector", "v", {}, ModelIdentity("oracle-a", "1", DIMENSION), "test:oracle-a")
        [made] = bench.store.generations_begin(source, [spec])
        bench.drain(source, made)
        assert bench.store.generation_activate(made.id)
        assert bench.store.generation_retire(made.id, force=True)
        [again] = bench.store.generations_begin(source, [spec])
        assert (again.id, again.state) == (made.id, "building")
        assert bench.drain(source, made) == 0
        assert bench.store.generation_activate(made.id)

    def test_created_at_once_it_is_one(self, bench: Workbench) -> None:
        """New or taken up again."""
        source = bench.notes("a", "b")
        old, _ = swapped(bench, source, "vector")
        stores = [bench.backend.store() for _ in range(6)]
        identity = ModelIdentity("oracle-a", "1", DIMENSION)
        for fingerprint, locator in ((old.fingerprint, "test:a"), ("a new one", "test:b")):
            spec = GenerationSpec("vector", fingerprint, {}, identity, locator)
            made = at_once([lambda at=at, spec=spec: stores[at].generation_create(source, spec) for at in range(6)])
            assert made == [made[0]] * 6
            found = [one for one in bench.store.generations() if one.fingerprint == fingerprint]
            assert found == [made[0]]
            assert found[0].locator == locator

    def test_activated_at_once_one_is_active(self, bench: Workbench) -> None:
        """Whoever is last; and never is none."""
        source = bench.notes("a", "b")
        old, new = swapped(bench, source, "vector")
        stores = [bench.backend.store() for _ in range(6)]
        chosen = [old.id, new.id] * 3
        at_once([lambda at=at: stores[at].generation_activate(chosen[at], asked=True) for at in range(6)])
        assert sorted(one.state for one in bench.store.generations()) == ["active", "retired"]


class Retirements:
    """`generation_retire`, `generation_drop`, `generations_bytes`."""

    def test_retire_is_for_what_is_being_built(self, bench: Workbench) -> None:
        """The active one goes only by force, and none is active then; a retired one stays as it is."""
        source = bench.notes("a")
        old, new = bench.vector(source), bench.vector(source, "oracle-b")
        bench.drain(source, old)
        assert bench.store.generation_activate(old.id)
        assert not bench.store.generation_retire(old.id)
        assert bench.store.generation_retire(new.id)
        now = bench.now(new)
        assert now.state == "retired"
        assert now.retired_at is not None
        assert now.created_at <= now.retired_at <= bench.store.clock()
        assert not bench.store.generation_retire(new.id, force=True)
        assert bench.now(new) == now
        assert bench.store.generation_retire(old.id, force=True)
        assert {one.state for one in bench.store.generations()} == {"retired"}
        assert not bench.store.generation_retire(12345, force=True)

    @pytest.mark.parametrize("kind", KINDS)
    def test_drop_is_for_retired_ones_and_leaves_nothing(self, bench: Workbench, kind: GenerationKind) -> None:
        """Neither tables nor files nor leases; the other one is not concerned, and the same can be made anew."""
        source = bench.notes(*(f"word{number} common" for number in range(60)))
        old, new = swapped(bench, source, kind)
        bench.app.run("UPDATE notes SET body = 'edited' WHERE id = 2")
        bench.lease(old)
        for generation in (old, new):
            bench.maintain(generation)
        third = bench.store.generation_create(source, GenerationSpec("lexical", "third", {}))
        assert not bench.store.generation_drop(new.id), "it is active"
        assert not bench.store.generation_drop(third.id), "it is being built"
        assert bench.store.generation_drop(old.id)
        assert not bench.store.generation_drop(old.id)
        assert [one.id for one in bench.store.generations()] == [new.id, third.id]
        assert old.id not in bench.store.generations_bytes(source.id)
        assert bench.claim(old).lease is None
        assert not bench.store.generation_activate(old.id, force=True)
        bench.drain(source, new)
        bench.verify(source, new)
        again = bench.generation(source, kind)
        assert again.id not in {old.id, new.id, third.id}
        bench.drain(source, again)
        bench.verify(source, again)

    def test_tombstones_go_once_the_last_that_needs_them_is_dropped(self, bench: Workbench) -> None:
        """A retired generation may be taken up again, and has still to learn of the delete."""
        source = bench.notes(*"abc")
        old, new = swapped(bench, source, "vector")
        bench.app.run("DELETE FROM notes WHERE id = 1")
        bench.app.run("INSERT INTO notes (id, body) VALUES (9, 'z')")
        bench.drain(source, new)
        assert bench.store.journal_trim(source.id) == 0
        assert bench.store.generation_drop(old.id)
        assert bench.store.journal_trim(source.id) == 1

    def test_a_lease_of_a_dropped_one_writes_nothing(self, bench: Workbench) -> None:
        """Whoever holds it is told by StoreError, or by an empty answer."""
        source = bench.notes(*"abc")
        other = bench.backend.store()
        old, new = swapped(bench, source, "vector")
        bench.app.run("UPDATE notes SET body = 'edited' WHERE id = 2")
        lease = bench.lease(old)
        rows = other.lease_read(source, lease, 1_000_000).rows
        batch = bench.batch(old, rows)
        assert bench.store.generation_drop(old.id)
        assert list(other.lease_renew([lease], LEASE_SECONDS)) == []
        with pytest.raises(StoreError):
            other.lease_read(source, lease, 1_000_000)
        with suppress(StoreError):
            assert other.lease_settle(source, lease, batch, []) is None
        bench.drain(source, new)
        bench.verify(source, new)

    def test_dropped_while_it_is_read_and_written(self, bench: Workbench) -> None:
        """Several at once: one drops it, nobody hangs, and what stays is right."""
        source = bench.notes(*(f"row {number}" for number in range(50)))
        old, new = swapped(bench, source, "vector")
        bench.app.run("UPDATE notes SET body = 'edited'")
        leases = [bench.lease(old, limit=10) for _ in range(3)]
        batches = [bench.batch(old, bench.read(source, lease)) for lease in leases]
        stores = [bench.backend.store() for _ in range(6)]
        drops = [lambda at=at: stores[at].generation_drop(old.id) for at in range(3)]
        settles = [lambda at=at: stores[3 + at].lease_settle(source, leases[at], batches[at], []) for at in range(3)]
        found = at_once([*drops, *settles])
        assert sorted(map(str, found[:3])) == ["False", "False", "True"]
        assert [one.id for one in bench.store.generations()] == [new.id]
        bench.drain(source, new)
        bench.verify(source, new)

    @pytest.mark.parametrize("kind", KINDS)
    def test_bytes_grow_with_what_is_indexed(self, bench: Workbench, kind: GenerationKind) -> None:
        """Of each generation for itself."""
        source = bench.notes(*(f"word{number} common words{number} many{number * 7}" for number in range(2000)))
        full, empty = bench.generation(source, kind), second(bench, source, kind)
        bench.drain(source, full)
        found = bench.store.generations_bytes(source.id)
        assert found.keys() == {full.id, empty.id}
        assert found[full.id] > found[empty.id] > 0
        assert found[full.id] > 2000 * 16


class Models:
    """`models`, `model_probe`, `model_drift`, and what a drift holds."""

    def test_a_probe_is_kept_until_it_is_replaced(self, bench: Workbench) -> None:
        """Bit for bit, whatever the shape; the first one stays."""
        source = bench.notes("a")
        generation = bench.vector(source)
        bench.lexical(source)
        assert generation.model is not None
        [model] = bench.store.models()
        assert (model.identity, model.probe, model.drift) == (generation.model, None, None)
        first = np.linspace(-1, 1, 3 * DIMENSION, dtype=np.float32).reshape(3, DIMENSION)
        other = np.ones((2, DIMENSION), np.float32)
        bench.store.model_probe(generation.model, first)
        bench.store.model_probe(generation.model, other)
        for expected in (first, other):
            [model] = bench.store.models()
            assert model.probe is not None
            assert model.probe.dtype == np.float32
            assert np.array_equal(model.probe, expected)
            bench.store.model_probe(generation.model, other, replace=True)

    def test_a_drift_is_of_exactly_that_model(self, bench: Workbench) -> None:
        """Every member of its identity tells models apart."""
        source = bench.notes("a")
        one = ModelIdentity("m", "1", DIMENSION, "d: ", "q: ")
        others = [
            ModelIdentity("n", "1", DIMENSION, "d: ", "q: "),
            ModelIdentity("m", "2", DIMENSION, "d: ", "q: "),
            ModelIdentity("m", "1", DIMENSION + 1, "d: ", "q: "),
            ModelIdentity("m", "1", DIMENSION, "", "q: "),
            ModelIdentity("m", "1", DIMENSION, "d: ", ""),
            ModelIdentity("m", "1", DIMENSION, "d: ", "q: ", normalised=False),
        ]
        for number, identity in enumerate((one, *others)):
            bench.store.generation_create(source, GenerationSpec("vector", f"f{number}", {}, identity, "test:m"))
        bench.store.model_drift(one, "other vectors \ud800 of it")
        drifts = {model.identity: model.drift for model in bench.store.models()}
        assert [drifts[identity] for identity in others] == [None] * len(others)
        assert str(drifts[one]).startswith("other vectors")
        assert {generation.model for generation in bench.store.generations() if generation.drift is not None} == {one}

    def test_a_drift_holds_claims_and_settles_until_it_is_cleared(self, bench: Workbench) -> None:
        """Nothing more is written under that name; other models, and the words, go on."""
        source = bench.notes(*"abcd")
        held, other, lexical = bench.vector(source), bench.vector(source, "oracle-b"), bench.lexical(source)
        assert held.model is not None
        lease = bench.lease(held, limit=2)
        rows = bench.read(source, lease)
        bench.store.model_drift(held.model, "worst cosine 0.4")
        assert bench.now(held).drift == "worst cosine 0.4"
        claim = bench.store.lease_claim(held.id, "w1", 10, LEASE_SECONDS)
        assert (claim.lease, claim.again) == (None, False)
        assert bench.settle(source, held, lease, rows) is None
        assert bench.backend.chunks(source, held) == []
        bench.drain(source, other, lexical)
        bench.verify(source, other)
        bench.verify(source, lexical)
        bench.store.model_drift(held.model, None)
        assert bench.now(held).drift is None
        bench.expire(lease)
        bench.drain(source, held)
        bench.verify(source, held)
