"""The life of a generation: begin, activate, give way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from seamark.model import GenerationSpec, ModelIdentity
from seamark.testing.workbench import DIMENSION, LEASE_SECONDS, at_once

if TYPE_CHECKING:
    from seamark.model import GenerationKind
    from seamark.testing.workbench import Workbench

MODEL = ModelIdentity("nom", "v1.5", DIMENSION, "doc: ", "q: ", normalised=False)
KINDS: tuple[GenerationKind, ...] = ("vector", "lexical")


def words(name: str) -> list[GenerationSpec]:
    """Return what an attach begins."""
    vector = GenerationSpec("vector", f"vector {name}", {"model": name}, MODEL, "test:nom")
    return [GenerationSpec("lexical", f"lexical {name}", {"analyzer": name}), vector]


class Generations:
    """`generations_begin`, `generation_create`, `generation_activate`, `generation_backoff`, `generation_maintain`."""

    def test_begin_makes_all_of_them(self, bench: Workbench) -> None:
        """Like those made one by one; called again, whatever for, it makes nothing."""
        source = bench.notes("a", "b")
        specs = words("a")
        begun = bench.store.generations_begin(source, specs)
        assert [(one.kind, one.fingerprint, one.state) for one in begun] == [
            ("lexical", "lexical a", "building"),
            ("vector", "vector a", "building"),
        ]
        assert bench.store.generations_begin(source, specs) == begun
        assert bench.store.generations_begin(source, words("b")) == begun
        assert bench.store.generations() == begun
        bench.drain(source, *begun)
        for generation in begun:
            bench.verify(source, generation, {(1,): "a", (2,): "b"})
            assert bench.store.generation_activate(generation.id)

    def test_begin_at_once_with_different_words(self, bench: Workbench) -> None:
        """One wins with all of its own, and everybody is given those."""
        source = bench.notes("a", "b")
        stores = [bench.backend.store() for _ in range(6)]
        begun = at_once([lambda at=at: stores[at].generations_begin(source, words(f"{at}")) for at in range(6)])
        there = bench.store.generations()
        assert begun == [there] * 6
        assert [one.kind for one in there] == ["lexical", "vector"]
        assert len({one.fingerprint.split()[1] for one in there}) == 1

    def test_create_begins_at_the_journals_end(self, bench: Workbench) -> None:
        """Everything there is lies behind the origin, and everything about the generation can be read back."""
        source = bench.notes("a", "b", "c")
        end = max(seq for seq, _ in bench.backend.journal(source).values())
        identity = {"model": "nom", "chunk": {"size": 512, "names": ["a", None, True, 0.5]}}
        generation = bench.store.generation_create(source, GenerationSpec("vector", "f" * 64, identity, MODEL, "http://x:1/v1"))
        assert (generation.source_id, generation.kind, generation.state) == (source.id, "vector", "building")
        assert (generation.fingerprint, generation.identity) == ("f" * 64, identity)
        assert (generation.model, generation.locator) == (MODEL, "http://x:1/v1")
        assert (generation.origin, generation.fresh, generation.backfill, generation.confirmed) == (end, end, end, end)
        assert generation.swept < end
        assert (generation.backoff_error, generation.activated_at) == (None, None)
        assert abs(bench.store.clock() - generation.created_at) < 3_600_000_000
        assert list(bench.store.generations()) == [generation]
        assert list(bench.store.generations(source.id)) == [generation]

    def test_a_lexical_generation_has_no_model(self, bench: Workbench) -> None:
        """And a dimension neither."""
        generation = bench.lexical(bench.notes("a"))
        assert (generation.kind, generation.model, generation.locator) == ("lexical", None, None)

    def test_create_again_returns_the_one_there_is(self, bench: Workbench) -> None:
        """By kind and fingerprint; while it is building, and while it is active."""
        source = bench.notes("a", "b")
        first = bench.vector(source)
        bench.app.run("INSERT INTO notes (id, body) VALUES (3, 'c')")
        assert bench.vector(source) == first
        bench.drain(source, first)
        bench.store.generation_activate(first.id)
        assert bench.vector(source).id == first.id
        assert bench.vector(source, "oracle-b").id > first.id
        assert len(bench.store.generations()) == 2

    def test_generations_are_listed_by_source_oldest_first(self, bench: Workbench) -> None:
        """Those of other sources only when asked for all."""
        first = bench.notes("a")
        bench.app.run(f"CREATE TABLE other (id {bench.backend.type('integer')} PRIMARY KEY, body {bench.backend.type('text')})")
        second = bench.attach("other", ("body",))
        made = [bench.vector(second), bench.lexical(first), bench.vector(first)]
        assert [one.id for one in bench.store.generations()] == [one.id for one in made]
        assert [one.id for one in bench.store.generations(first.id)] == [made[1].id, made[2].id]

    @pytest.mark.parametrize("kind", KINDS)
    def test_activate_waits_for_the_last_row(self, bench: Workbench, kind: GenerationKind) -> None:
        """Unclaimed and unsettled work below the origin both hold it back."""
        source = bench.notes(*"abcde")
        generation = bench.generation(source, kind)
        assert not bench.store.generation_activate(generation.id)
        bench.step(source, generation, limit=2)
        assert not bench.store.generation_activate(generation.id)
        lease = bench.lease(generation)
        rows = bench.read(source, lease)
        bench.drain(source, generation)
        assert not bench.store.generation_activate(generation.id), "a lease below the origin is open"
        assert bench.now(generation).state == "building"
        bench.settle(source, generation, lease, rows)
        bench.drain(source, generation)
        assert bench.store.generation_activate(generation.id)
        now = bench.now(generation)
        assert now.state == "active"
        assert now.activated_at is not None
        assert now.activated_at >= now.created_at
        bench.verify(source, generation)

    def test_activate_does_not_wait_for_fresh_rows(self, bench: Workbench) -> None:
        """What was written since the generation began is lag, not a gap."""
        source = bench.notes(*"abc")
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.app.run("INSERT INTO notes (id, body) VALUES (4, 'd')")
        lease = bench.lease(generation)
        assert lease.lo >= generation.origin
        assert bench.store.generation_activate(generation.id)

    def test_activate_retires_the_one_that_was(self, bench: Workbench) -> None:
        """One active per source and kind; the other kind is not concerned."""
        source = bench.notes(*"abc")
        lexical, old, new = bench.lexical(source), bench.vector(source), bench.vector(source, "oracle-b")
        bench.drain(source, lexical, old, new)
        for generation in (lexical, old, new):
            assert bench.store.generation_activate(generation.id)
        assert [bench.now(one).state for one in (lexical, old, new)] == ["active", "retired", "active"]

    def test_activate_is_for_building_ones(self, bench: Workbench) -> None:
        """The active and the retired one stay what they are."""
        source = bench.notes(*"abc")
        old, new = bench.vector(source), bench.vector(source, "oracle-b")
        bench.drain(source, old, new)
        assert bench.store.generation_activate(old.id)
        assert not bench.store.generation_activate(old.id)
        assert bench.store.generation_activate(new.id)
        before = bench.store.generations()
        assert not bench.store.generation_activate(old.id)
        assert bench.store.generations() == before

    def test_activate_on_an_empty_source(self, bench: Workbench) -> None:
        """Nothing to do is done at once."""
        source = bench.notes()
        generation = bench.vector(source)
        bench.drain(source, generation)
        assert bench.store.generation_activate(generation.id)

    def test_backoff_holds_every_claim(self, bench: Workbench) -> None:
        """Fresh, backfill, and the taking over of what has expired."""
        source = bench.notes(*"abcd")
        generation, other = bench.vector(source), bench.lexical(source)
        bench.expire(bench.lease(generation, limit=2))
        bench.store.generation_backoff(generation.id, 3600, "503 from the server")
        claim = bench.store.lease_claim(generation.id, "w1", 10, LEASE_SECONDS)
        assert (claim.lease, claim.again) == (None, False)
        now = bench.now(generation)
        assert now.backoff_error == "503 from the server"
        assert 3_000_000_000 < now.backoff_until - bench.store.clock() <= 3_600_000_000
        assert bench.claim(other).lease is not None, "another generation goes on"
        bench.store.generation_backoff(generation.id, 0, None)
        assert bench.now(generation).backoff_error is None
        bench.drain(source, generation)
        bench.verify(source, generation)

    def test_backoff_ends_by_itself(self, bench: Workbench) -> None:
        """Once its time is over there is work again, whatever the error still says."""
        source = bench.notes("a")
        generation = bench.vector(source)
        bench.store.generation_backoff(generation.id, 3600, "out")
        assert bench.claim(generation).lease is None
        bench.store.generation_backoff(generation.id, -1, "out")
        assert bench.claim(generation).lease is not None

    @pytest.mark.parametrize("idle", [False, True])
    @pytest.mark.parametrize("kind", KINDS)
    def test_maintain_never_changes_what_is_found(self, bench: Workbench, kind: GenerationKind, *, idle: bool) -> None:
        """Upkeep ends, on a fresh generation and on one with much that is superseded."""
        source = bench.notes(*(f"word{number % 7} common|tail {number}" for number in range(60)))
        generation = bench.generation(source, kind)

        def maintain() -> None:
            for _ in range(1000):
                if not bench.store.generation_maintain(generation.id, idle=idle):
                    return
            raise AssertionError("the upkeep does not end")

        maintain()
        bench.drain(source, generation, limit=3)
        bench.app.run("UPDATE notes SET body = body || ' edited' WHERE id < 40")
        bench.app.run("DELETE FROM notes WHERE id > 50")
        bench.drain(source, generation, limit=3)
        before = bench.coverage_check(source, generation)
        maintain()
        bench.verify(source, generation)
        assert bench.coverage_check(source, generation) == before
        bench.app.run("UPDATE notes SET body = 'again' WHERE id < 5")
        bench.drain(source, generation)
        maintain()
        bench.verify(source, generation)
