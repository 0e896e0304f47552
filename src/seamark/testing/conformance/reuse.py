"""Vectors that are there already: `vectors_known`, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seamark.model import Condition, GenerationSpec, ModelIdentity
from seamark.testing.workbench import DIMENSION, passages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seamark.model import Generation, Key, Source, StoredVectors
    from seamark.testing.workbench import Workbench


def known(
    bench: Workbench, generation: Generation, text: str, keys: Sequence[Key], held: Sequence[Key] = ()
) -> Mapping[str, StoredVectors]:
    """Ask for the vectors of a text's passages, by the passage."""
    by_digest = {chunk.digest: text[chunk.start : chunk.stop] for chunk in passages(text)}
    found = bench.store.vectors_known(generation.id, keys, held, by_digest)
    return {by_digest[digest]: vector for digest, vector in found.items()}


def another(
    bench: Workbench, source: Source, model: ModelIdentity, precision: str = "float16", chunker: str = "another"
) -> Generation:
    """Begin a generation of another fingerprint."""
    identity = {"model": model.name, "chunker": chunker, "precision": precision}
    fingerprint = f"{chunker} {model} {precision}"
    return bench.store.generation_create(source, GenerationSpec("vector", fingerprint, identity, model, f"test:{model.name}"))


ORACLE = ModelIdentity("oracle-a", "1", DIMENSION)
LATER = 10_000_000.0


class Reuse:
    """`vectors_known`, `vectors_pass_on`, `kept_trim`, `donors_drop` and `donors_trim`."""

    def test_a_new_row_finds_nothing(self, bench: Workbench) -> None:
        """Nor do no digests, nor a generation that there is not."""
        source = bench.notes("a|b")
        generation = bench.vector(source)
        assert known(bench, generation, "a|b", [(1,)]) == {}
        bench.drain(source, generation)
        assert known(bench, generation, "", [(1,)], [(1,)]) == {}

    def test_the_version_that_is_held_has_the_passages_that_stay(self, bench: Workbench) -> None:
        """Bit for bit; and `held` says how many chunks there are."""
        source = bench.notes("a|b|c", "d")
        generation = bench.vector(source)
        bench.drain(source, generation)
        stored = {chunk.ordinal: chunk.vector for chunk in bench.backend.chunks(source, generation) if chunk.key == (1,)}
        bench.app.run("UPDATE notes SET body = 'new|c|a|d' WHERE id = 1")
        bench.app.run("INSERT INTO notes (id, body) VALUES (3, 'fresh')")
        rows = {row.key: row.held for row in bench.read(source, bench.lease(generation))}
        assert rows == {(1,): 3, (3,): 0}
        found = known(bench, generation, "new|c|a|d", [(1,)], [(1,)])
        assert found.keys() == {"a", "c"}, "d is another row's"
        assert found["a"].dtype == np.float16
        assert np.array_equal(found["a"], stored[0])
        assert np.array_equal(found["c"], stored[2])

    def test_a_row_whose_key_was_changed_finds_its_vectors_whichever_half_is_settled_first(self, bench: Workbench) -> None:
        """Each entry under a lease of its own; and what the last one has waited for is there still."""
        for first in ("gone", "new"):
            bench.app.run("DROP TABLE IF EXISTS notes")
            source = bench.notes("a|b", "c")
            generation = bench.vector(source)
            bench.drain(source, generation)
            bench.app.run("UPDATE notes SET id = id + 100")
            leases = [bench.lease(generation, limit=1) for _ in range(4)]
            read = [(lease, row) for lease in leases for row in bench.read(source, lease)]
            assert len(read) == 4
            for lease, row in sorted(read, key=lambda one: one[1].live == (first == "gone")):
                if row.live:
                    text = row.texts[0] or ""
                    assert known(bench, generation, text, [row.key]).keys() == set(text.split("|")), first
                else:
                    bench.store.vectors_pass_on(source, lease, [row.key], {})
                bench.settle(source, generation, lease, [row])
            bench.verify(source, generation)
            bench.store.source_drop(source.id)

    def test_nothing_is_passed_on_of_a_deleted_row_that_nobody_waits_for(self, bench: Workbench) -> None:
        """Nor of one that is in the table still, or where only other deleted ones wait, or what is settled with it."""
        bench.notes_table("a", "b", "c", "d")
        source = bench.attach("notes", ("body",), Condition("org", "!=", 9))
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.app.run("DELETE FROM notes WHERE id = 1")
        bench.app.run("UPDATE notes SET org = 9 WHERE id = 2")
        bench.app.run("INSERT INTO notes VALUES (5, 'x', 1)")
        first = bench.lease(generation, limit=3)
        bench.app.run("DELETE FROM notes WHERE id = 3")
        second = bench.lease(generation, limit=1)
        for lease in (first, second):
            rows = bench.read(source, lease)
            if lease is second:
                bench.app.run("UPDATE notes SET body = 'dd' WHERE id = 4")
            bench.store.vectors_pass_on(source, lease, [row.key for row in rows if not row.live], {})
            bench.settle(source, generation, lease, rows)
        keys = [(number,) for number in range(1, 7)]
        assert known(bench, generation, "a|b|c", keys).keys() == {"b", "c"}, "b is put by of its own row"
        assert known(bench, generation, "a|b|c", [(6,)]).keys() == {"c"}, "d waits, and may be what c was"

    def test_passages_that_are_settled_with_the_row_that_is_gone_are_not_passed_on(self, bench: Workbench) -> None:
        """But for those that are gone more often."""
        source = bench.notes("a", "a", "b|c|c")
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.app.run("DELETE FROM notes")
        gone = bench.lease(generation)
        bench.app.run("INSERT INTO notes VALUES (9, 'waits', 1)")
        digests = {text: passages(text)[0].digest for text in "abc"}
        settled = {digests["a"]: 1, digests["b"]: 1, digests["c"]: 2}
        bench.store.vectors_pass_on(source, gone, [row.key for row in bench.read(source, gone)], settled)
        bench.settle(source, generation, gone, bench.read(source, gone))
        assert known(bench, generation, "a|b|c", [(9,)]).keys() == {"a"}

    def test_a_row_that_failed_says_what_is_held_of_it(self, bench: Workbench) -> None:
        """In the lane of retries, too."""
        source = bench.notes("a|b")
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.app.run("UPDATE notes SET body = 'a|x' WHERE id = 1")
        lease = bench.lease(generation)
        [row] = bench.read(source, lease)
        bench.settle(source, generation, lease, [row], [bench.fail(row, retry_seconds=0.0)])
        again = bench.lease(generation)
        assert again.lane == "retry"
        assert [row.held for row in bench.read(source, again)] == [2]

    def test_a_row_outside_the_where_is_put_by_until_it_is_back(self, bench: Workbench) -> None:
        """None of it is among the chunks meanwhile, and nothing is put by once it is back."""
        bench.notes_table("a|b|a", "c")
        source = bench.attach("notes", ("body",), Condition("org", "!=", 9))
        generation = bench.vector(source)
        bench.drain(source, generation)
        for trim in (False, True):
            bench.app.run("UPDATE notes SET org = 9 WHERE id = 1")
            bench.drain(source, generation)
            bench.app.run("UPDATE notes SET body = body WHERE id = 2")
            assert {chunk.key for chunk in bench.backend.chunks(source, generation)} == {(2,)}
            if trim:
                bench.app.run("UPDATE notes SET body = 'cc' WHERE id = 2")
                bench.drain(source, generation)
                assert bench.store.journal_trim(source.id) == 1
            assert known(bench, generation, "a|b|c", [(1,)]).keys() == {"a", "b"}
            assert known(bench, generation, "a|b|c", [(2,)]).keys() == set()
            bench.app.run("UPDATE notes SET org = 1 WHERE id = 1")
            bench.drain(source, generation)
            assert known(bench, generation, "a|b|c", [(1,)]) == {}, "it is held, and not put by"
            assert known(bench, generation, "a|b|c", [(1,)], [(1,)]).keys() == {"a", "b"}

    def test_an_edit_outside_the_where_forgets_nothing(self, bench: Workbench) -> None:
        """What is the same when the row is back need not be embedded."""
        bench.notes_table("a|b")
        source = bench.attach("notes", ("body",), Condition("org", "!=", 9))
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.app.run("UPDATE notes SET org = 9")
        bench.drain(source, generation)
        bench.app.run("UPDATE notes SET body = 'b|c'")
        bench.drain(source, generation)
        assert known(bench, generation, "b|c", [(1,)]).keys() == {"b"}

    def test_nothing_of_a_deleted_row_is_kept(self, bench: Workbench) -> None:
        """Deleted while it was live, or while it was outside the `where`, its tombstone dropped or not."""
        bench.notes_table("a", "b", "c", "d")
        source = bench.attach("notes", ("body",), Condition("org", "!=", 9))
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.app.run("UPDATE notes SET org = 9 WHERE id IN (1, 2)")
        bench.drain(source, generation)
        bench.app.run("UPDATE notes SET body = 'dd' WHERE id = 4")
        bench.drain(source, generation)
        bench.store.journal_trim(source.id)
        assert known(bench, generation, "a|b", [(1,), (2,)]).keys() == {"a", "b"}
        bench.app.run("DELETE FROM notes WHERE id IN (1, 3)")
        bench.drain(source, generation)
        assert known(bench, generation, "a|b|c", [(1,), (2,), (3,)], [(3,)]).keys() == {"b"}

    def test_what_left_unseen_is_forgotten_by_the_upkeep(self, bench: Workbench) -> None:
        """No trigger tells of a row that is gone from a table that was filled from elsewhere."""
        bench.notes_table("a", "b")
        source = bench.attach("notes", ("body",), Condition("org", "!=", 9))
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.app.run("UPDATE notes SET org = 9")
        bench.drain(source, generation)
        assert bench.store.kept_trim(source.id) == 0
        bench.app.run("DELETE FROM notes WHERE id = 1")
        assert bench.store.kept_trim(source.id) == 1
        assert known(bench, generation, "a|b", [(1,), (2,)]).keys() == {"b"}

    def test_generations_of_one_model_lend_each_other_vectors(self, bench: Workbench) -> None:
        """Retired ones too; another version of the model, another dimension or another precision has none to lend."""
        source = bench.notes("a|b", "c")
        first = bench.vector(source)
        bench.drain(source, first)
        second = another(bench, source, ORACLE)
        assert known(bench, second, "a|b|x", [(1,)]).keys() == {"a", "b"}
        for model, precision in (
            (ModelIdentity("oracle-a", "2", DIMENSION), "float16"),
            (ModelIdentity("oracle-a", "1", 2 * DIMENSION), "float16"),
            (ModelIdentity("oracle-a", "1", DIMENSION, document_prefix="d: "), "float16"),
            (ORACLE, "float32"),
        ):
            assert known(bench, another(bench, source, model, precision), "a|b|c", [(1,), (2,)]) == {}
        assert bench.store.generation_activate(first.id)
        bench.drain(source, second)
        assert bench.store.generation_activate(second.id)
        assert bench.now(first).state == "retired"
        bench.app.run("UPDATE notes SET body = 'new' WHERE id = 2")
        bench.drain(source, second)
        third = another(bench, source, ORACLE, chunker="a third")
        found = known(bench, third, "a|b|c|new", [(1,), (2,)])
        assert found.keys() == {"a", "b", "c", "new"}, "c is in the retired one only, new in the active one"

    def test_what_was_put_by_is_lent_too(self, bench: Workbench) -> None:
        """A generation that is made while the row is outside finds it when it is back."""
        bench.notes_table("a")
        source = bench.attach("notes", ("body",), Condition("org", "!=", 9))
        first = bench.vector(source)
        bench.drain(source, first)
        bench.app.run("UPDATE notes SET org = 9")
        bench.drain(source, first)
        assert known(bench, another(bench, source, ORACLE), "a", [(1,)]).keys() == {"a"}

    def test_a_drop_leaves_vectors_for_the_next_attach(self, bench: Workbench) -> None:
        """Of the same table and key; and the user's schema is as it was."""
        bench.notes_table("a|b", "c")
        before = bench.backend.schema()
        first = bench.attach("notes", ("body",))
        bench.drain(first, bench.vector(first), bench.lexical(first))
        bench.store.source_drop(first.id, keep_vectors=True)
        assert bench.backend.schema() == before
        assert (list(bench.store.sources()), list(bench.store.generations())) == ([], [])
        bench.app.run(f"CREATE TABLE other (id {bench.backend.type('integer')} PRIMARY KEY, body {bench.backend.type('text')})")
        other = bench.attach("other", ("body",))
        assert known(bench, bench.vector(other), "a|b|c", [(1,), (2,)]) == {}
        again = bench.attach("notes", ("body",))
        generation = bench.vector(again)
        assert known(bench, generation, "a|b|c", [(1,), (2,)]).keys() == {"a", "b", "c"}
        assert known(bench, bench.vector(again, "oracle-b"), "a|b|c", [(1,), (2,)]) == {}

    def test_a_table_of_another_key_is_another_table(self, bench: Workbench) -> None:
        """Dropped and made anew under its old name."""
        source = bench.notes("a")
        bench.drain(source, bench.vector(source))
        bench.store.source_drop(source.id, keep_vectors=True)
        bench.app.run("DROP TABLE notes")
        text = bench.backend.type("text")
        bench.app.run(f"CREATE TABLE notes (name {text} PRIMARY KEY, body {text})")
        again = bench.attach("notes", ("body",))
        assert known(bench, bench.vector(again), "a", [("1",)]) == {}

    def test_a_drop_of_everything_leaves_nothing(self, bench: Workbench) -> None:
        """Not of earlier drops of that table either."""
        for keep_vectors in (True, False):
            source = bench.notes("a") if keep_vectors else bench.attach("notes", ("body",))
            bench.drain(source, bench.vector(source))
            bench.store.source_drop(source.id, keep_vectors=keep_vectors)
        again = bench.attach("notes", ("body",))
        assert known(bench, bench.vector(again), "a", [(1,)]) == {}
        assert bench.store.donors_trim(0) == 0

    def test_what_was_left_is_dropped_by_name(self, bench: Workbench) -> None:
        """After the detach; no other table's."""
        source = bench.notes("a")
        bench.drain(source, bench.vector(source), bench.vector(source, "oracle-b"))
        bench.store.source_drop(source.id, keep_vectors=True)
        assert bench.store.donors_drop("other") == 0
        assert bench.store.donors_drop("notes") == 2
        assert bench.store.donors_drop("notes") == 0
        again = bench.attach("notes", ("body",))
        assert known(bench, bench.vector(again), "a", [(1,)]) == {}

    def test_what_was_left_goes_when_it_is_old(self, bench: Workbench) -> None:
        """By the database's clock."""
        source = bench.notes("a")
        bench.drain(source, bench.vector(source))
        bench.store.source_drop(source.id, keep_vectors=True)
        assert bench.store.donors_trim(LATER) == 0
        assert bench.store.donors_trim(-1.0) == 1
        assert bench.store.donors_drop("notes") == 0

    def test_what_was_left_goes_when_an_active_generation_holds_it(self, bench: Workbench) -> None:
        """Not before, and not what another model has left."""
        source = bench.notes("a")
        bench.drain(source, bench.vector(source), bench.vector(source, "oracle-b"))
        bench.store.source_drop(source.id, keep_vectors=True)
        again = bench.attach("notes", ("body",))
        generation = bench.vector(again)
        bench.drain(again, generation)
        assert bench.store.donors_trim(LATER) == 0
        assert bench.store.generation_activate(generation.id)
        assert bench.store.donors_trim(LATER) == 1
        assert known(bench, bench.vector(again, "oracle-b"), "a", [(1,)]).keys() == {"a"}

    def test_text_keys_find_their_own(self, bench: Workbench) -> None:
        """Composite ones, with quotes and braces."""
        text = bench.backend.type("text")
        bench.app.run(f"CREATE TABLE pages (lang {text}, slug {text}, body {text}, PRIMARY KEY (lang, slug))")
        keys = [("de", 'a"b'), ("de", "{x,y}"), ("\\", "'"), ("", "")]
        bench.app.many("INSERT INTO pages VALUES (?, ?, ?)", [(*key, f"text {at}|both") for at, key in enumerate(keys)])
        source = bench.attach("pages", ("body",))
        generation = bench.vector(source)
        bench.drain(source, generation)
        for at, key in enumerate(keys):
            assert known(bench, generation, f"text {at}|text 9|both", [key], [key]).keys() == {f"text {at}", "both"}
