"""What is told of cost: `rows_scan`, `digests_known`, `spend_add` and `spends`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.model import Condition, GenerationSpec, ModelIdentity
from seamark.model.cost import Spent
from seamark.testing.workbench import CHARACTERS, DIMENSION, passages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Generation, Key, Source
    from seamark.testing.workbench import Workbench

ORACLE = ModelIdentity("oracle-a", "1", DIMENSION)


def generation(bench: Workbench, source: Source) -> Generation:
    """Begin a generation whose identity states a precision, as those of core do."""
    identity = {"precision": "float16"}
    return bench.store.generation_create(source, GenerationSpec("vector", "float16", identity, ORACLE, "test:oracle-a"))


def known(bench: Workbench, source: Source, text: str, keys: Sequence[Key], model: ModelIdentity = ORACLE) -> set[str]:
    """Ask which passages of a text need not be embedded."""
    by_digest = {chunk.digest: text[chunk.start : chunk.stop] for chunk in passages(text)}
    return {by_digest[digest] for digest in bench.store.digests_known(source, model, "float16", keys, by_digest)}


class Costs:
    """Reading a source to estimate what it costs, and adding up what it did."""

    def test_rows_are_read_in_the_order_of_their_last_change(self, bench: Workbench) -> None:
        """A page at a time, none twice, deleted ones left out."""
        bench.notes_table(*"abcdef")
        source = bench.attach("notes", ("body",), Condition("org", "!=", 9))
        bench.app.run("DELETE FROM notes WHERE id = 2")
        bench.app.run("UPDATE notes SET org = 9 WHERE id = 3")
        bench.app.run("UPDATE notes SET body = 'new' WHERE id = 1")
        found: list[tuple[Key, bool, tuple[str | None, ...]]] = []
        seq = 0
        while rows := bench.store.rows_scan(source, seq, 2, CHARACTERS):
            assert len(rows) <= 2
            found += [(row.key, row.live, row.texts) for row in rows]
            seq = rows[-1].seq
        assert found == [((n,), True, (body,)) for n, body in ((4, "d"), (5, "e"), (6, "f"), (1, "new"))]

    def test_no_more_text_is_read_than_asked_for(self, bench: Workbench) -> None:
        """But one row, however long it is."""
        source = bench.notes("x" * 100, "y" * 100, "z" * 300, "w")
        sizes: list[list[int]] = []
        seq = 0
        while rows := bench.store.rows_scan(source, seq, 10, 250):
            sizes.append([len(row.texts[0] or "") for row in rows])
            seq = rows[-1].seq
        assert sizes == [[100, 100], [300], [1]]

    def test_what_a_generation_of_the_model_holds_is_known(self, bench: Workbench) -> None:
        """Also what is put by, and what a drop has left; for the rows that are asked about."""
        bench.notes_table("a|b", "c")
        source = bench.attach("notes", ("body",), Condition("org", "!=", 9))
        assert known(bench, source, "a|b|c", [(1,), (2,)]) == set()
        bench.drain(source, generation(bench, source))
        assert known(bench, source, "a|b|c|d", [(1,), (2,)]) == {"a", "b", "c"}
        assert known(bench, source, "a|b|c", [(2,)]) == {"c"}
        assert known(bench, source, "a|b|c", []) == set()
        assert known(bench, source, "a", [(1,)], ModelIdentity("oracle-a", "2", DIMENSION)) == set()
        bench.app.run("UPDATE notes SET org = 9 WHERE id = 1")
        bench.drain(source, *bench.store.generations(source.id))
        assert known(bench, source, "a|b|c", [(1,)]) == {"a", "b"}
        bench.store.source_drop(source.id, keep_vectors=True)
        again = bench.attach("notes", ("body",), Condition("org", "!=", 9))
        assert known(bench, again, "a|b|c", [(1,), (2,)]) == {"a", "b", "c"}

    def test_what_was_spent_adds_up(self, bench: Workbench) -> None:
        """Over workers and calls, for each generation of the source that is still there."""
        source = bench.notes("a")
        first, second = bench.vector(source), bench.vector(source, "oracle-b")
        bench.app.run(f"CREATE TABLE other (id {bench.backend.type('integer')} PRIMARY KEY, body {bench.backend.type('text')})")
        other = bench.attach("other", ("body",))
        for worker in ("w1", "w2", "w1"):
            bench.store.spend_add(first.id, worker, Spent(1, 10, 100))
        bench.store.spend_add(second.id, "w1", Spent(2, 3, 0))
        bench.store.spend_add(bench.vector(other).id, "w1", Spent(9, 9, 9))
        bench.store.spend_add(999_999, "w1", Spent(1, 1, 1))
        assert bench.store.spends(source.id) == {first.id: Spent(3, 30, 300), second.id: Spent(2, 3, 0)}
        bench.store.source_drop(source.id)
        assert bench.store.spends(source.id) == {}
