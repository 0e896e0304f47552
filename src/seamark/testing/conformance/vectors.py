"""Reading the chunks of a vector generation, against numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seamark.model import Condition
from seamark.testing.oracle import oracle_vector
from seamark.testing.workbench import DIMENSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seamark.model import ChunkHit, Generation, Key, Source
    from seamark.testing.workbench import Workbench

TOLERANCE = 2e-3


def ranking(
    bench: Workbench, source: Source, generation: Generation, query: NDArray[np.float32]
) -> list[tuple[float, Key, int]]:
    """Return (similarity, key, start) of all stored chunks, best first, by arithmetic on what is stored."""
    chunks = bench.backend.chunks(source, generation)
    vectors = np.stack([chunk.vector.astype(np.float32) for chunk in chunks])
    similarities = vectors @ query / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(query))
    pairs = [(float(value), chunk.key, chunk.start) for value, chunk in zip(similarities, chunks, strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1]))


def check(hits: Sequence[ChunkHit], wanted: Sequence[tuple[float, Key, int]]) -> None:
    """Check that hits are those wanted; neighbours closer than half precision tells apart may have changed places."""
    assert len(hits) == len(wanted)
    assert np.allclose([hit.similarity for hit in hits], [value for value, _, _ in wanted], atol=TOLERANCE)
    similarities = {(key, start): value for value, key, start in wanted}
    assert len({(hit.key, hit.start) for hit in hits}) == len(hits)
    for hit in hits:
        if (hit.key, hit.start) in similarities:
            assert abs(similarities[hit.key, hit.start] - hit.similarity) < TOLERANCE
        else:
            assert abs(hit.similarity - wanted[-1][0]) < TOLERANCE, "only the last places can be in doubt"
    assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)


class VectorReading:
    """`chunks_nearest` and `chunks_matching`."""

    def indexed(self, bench: Workbench, rows: int) -> tuple[Source, Generation]:
        """Attach and index rows of one to three passages."""
        source = bench.notes(
            *("|".join(f"passage {number} {part}" for part in range(1 + number % 3)) for number in range(rows))
        )
        generation = bench.vector(source)
        bench.drain(source, generation)
        return source, generation

    def test_the_exact_neighbours(self, bench: Workbench) -> None:
        """Those that numpy finds, with offsets and cosines, whatever the length of the query's vector."""
        source, generation = self.indexed(bench, 90)
        for text, scale in (("passage 17 1", 1.0), ("something else", 1.0), ("passage 3 0", 250.0)):
            query = oracle_vector(text, "oracle-a", DIMENSION) * np.float32(scale)
            wanted = ranking(bench, source, generation, query)
            with bench.store.snapshot() as reader:
                for limit in (1, 10, 100, 1000):
                    check(reader.chunks_nearest(generation.id, query, limit, exact=True)(), wanted[:limit])

    def test_vectors_of_single_precision_are_kept_as_they_are(self, bench: Workbench) -> None:
        """Bit for bit, and compared so; beside a generation of half precision of the same model."""
        source = bench.notes(*(f"passage {number}" for number in range(60)))
        half, single = bench.vector(source), bench.vector(source, stored="float32")
        assert half.id != single.id
        bench.drain(source, half, single)
        for generation, rounding in ((half, 1e-4), (single, 1e-6)):
            stored = {chunk.key: chunk.vector for chunk in bench.backend.chunks(source, generation)}
            bench.verify(source, generation)
            for (number,), vector in stored.items():
                wanted = oracle_vector(f"passage {int(str(number)) - 1}", "oracle-a", DIMENSION)
                assert (vector == wanted).all() == (generation is single)
            query = oracle_vector("passage 7", "oracle-a", DIMENSION)
            with bench.store.snapshot() as reader:
                for exact in (True, False):
                    hits = reader.chunks_nearest(generation.id, query, 60, exact=exact)()
                    assert hits[0].key == (8,)
                    assert abs(hits[0].similarity - 1) < rounding
                    for hit in hits:
                        assert abs(hit.similarity - float(stored[hit.key].astype(np.float32) @ query)) < rounding * 10
            with bench.store.snapshot() as reader:
                matching = reader.chunks_matching(source, generation.id, query, Condition("org", "=", 1), 5)
                assert {int(str(hit.key[0])) % 3 for hit in matching} == {1}
        bench.maintain(single)
        with bench.store.snapshot() as reader:
            check(reader.chunks_nearest(single.id, query, 10)(), ranking(bench, source, single, query)[:10])

    def test_a_passage_finds_itself_first(self, bench: Workbench) -> None:
        """At similarity one, at its place in the text; exact or not."""
        _, generation = self.indexed(bench, 60)
        text = "passage 20 0|passage 20 1|passage 20 2"
        with bench.store.snapshot() as reader:
            for exact in (True, False):
                for part in range(3):
                    passage = f"passage 20 {part}"
                    query = oracle_vector(passage, "oracle-a", DIMENSION)
                    best = reader.chunks_nearest(generation.id, query, 3, exact=exact)()[0]
                    assert (best.key, text[best.start : best.stop]) == ((21,), passage)
                    assert abs(best.similarity - 1) < TOLERANCE

    def test_fewer_only_when_there_are_no_more(self, bench: Workbench) -> None:
        """An empty generation has none; an approximate search is never short either."""
        source = bench.notes("a|b", "c")
        generation = bench.vector(source)
        query = oracle_vector("a", "oracle-a", DIMENSION)
        with bench.store.snapshot() as reader:
            assert list(reader.chunks_nearest(generation.id, query, 5)()) == []
        bench.drain(source, generation)
        with bench.store.snapshot() as reader:
            for exact in (True, False):
                assert len(reader.chunks_nearest(generation.id, query, 5, exact=exact)()) == 3
                assert len(reader.chunks_nearest(generation.id, query, 2, exact=exact)()) == 2

    def test_ties_go_by_key(self, bench: Workbench) -> None:
        """Equal vectors are in the order of their keys."""
        source = bench.notes(*["same"] * 12)
        generation = bench.vector(source)
        bench.drain(source, generation, limit=5)
        query = oracle_vector("same", "oracle-a", DIMENSION)
        with bench.store.snapshot() as reader:
            hits = reader.chunks_nearest(generation.id, query, 7, exact=True)()
            assert [hit.key for hit in hits] == [(number,) for number in range(1, 8)]
            matching = reader.chunks_matching(source, generation.id, query, Condition("org", "=", 1), 3)
            assert [hit.key for hit in matching] == [(1,), (4,), (7,)]

    def test_the_best_matching_chunks(self, bench: Workbench) -> None:
        """Exact among the live rows that satisfy the filter: min(limit, matches) of them (I13)."""
        source, generation = self.indexed(bench, 90)
        bench.app.run("DELETE FROM notes WHERE id IN (1, 4, 7)")
        query = oracle_vector("passage 12 0", "oracle-a", DIMENSION)
        for modulus in (0, 1, 2):
            where = Condition("org", "=", modulus)
            wanted = [
                entry
                for entry in ranking(bench, source, generation, query)
                if int(str(entry[1][0])) % 3 == modulus and entry[1] not in {(1,), (4,), (7,)}
            ]
            with bench.store.snapshot() as reader:
                for limit in (1, 5, 500):
                    check(reader.chunks_matching(source, generation.id, query, where, limit), wanted[:limit])

    def test_replaced_chunks_are_not_found(self, bench: Workbench) -> None:
        """After the settle of an edit, and of a delete."""
        source, generation = self.indexed(bench, 30)
        bench.app.run("UPDATE notes SET body = 'edited' WHERE id = 5")
        bench.app.run("DELETE FROM notes WHERE id = 6")
        bench.drain(source, generation)
        query = oracle_vector("passage 4 0", "oracle-a", DIMENSION)
        with bench.store.snapshot() as reader:
            for exact in (True, False):
                hits = reader.chunks_nearest(generation.id, query, 1000, exact=exact)()
                check(hits, ranking(bench, source, generation, query))
                assert (6,) not in {hit.key for hit in hits}
                assert [(hit.start, hit.stop) for hit in hits if hit.key == (5,)] == [(0, 6)]

    def test_neighbours_before_and_after_the_index_is_built(self, bench: Workbench) -> None:
        """Upkeep that is idle may build an index; what is newer than it is found all the same."""
        source, generation = self.indexed(bench, 300)
        bench.maintain(generation)
        bench.app.run("INSERT INTO notes (id, body) VALUES (1000, 'newcomer')")
        bench.app.run("UPDATE notes SET body = 'changed' WHERE id = 50")
        bench.app.run("DELETE FROM notes WHERE id = 60")
        bench.drain(source, generation)
        for text in ("newcomer", "changed", "passage 100 0"):
            query = oracle_vector(text, "oracle-a", DIMENSION)
            wanted = ranking(bench, source, generation, query)
            with bench.store.snapshot() as reader:
                best = reader.chunks_nearest(generation.id, query, 10)()
                check(reader.chunks_nearest(generation.id, query, 10, exact=True)(), wanted[:10])
            assert best[0].key == wanted[0][1]
            assert abs(best[0].similarity - 1) < TOLERANCE
            assert len({(hit.key, hit.start) for hit in best} & {(key, start) for _, key, start in wanted[:10]}) >= 8
