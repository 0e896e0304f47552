"""`rows_adopt`: rows that nobody has claimed, each with one vector of the whole of its text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seamark.model import Chunk, Condition, GenerationSpec, WholeBatch, precision
from seamark.testing.oracle import oracle_vector
from seamark.testing.workbench import DIMENSION, at_once, passages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Generation, LiveRow, Source, StoredVectors
    from seamark.testing.workbench import Workbench


def read(bench: Workbench, source: Source) -> Sequence[LiveRow]:
    """Return all live rows as they stand."""
    keys = bench.all_keys(source)
    with bench.store.snapshot() as reader:
        return reader.rows_live(source, keys)


def adopt(bench: Workbench, source: Source, generation: Generation, rows: Sequence[LiveRow]) -> int:
    """Adopt rows of one passage each."""
    texts = [row.texts[0] or "" for row in rows]
    chunks = [passages(text)[0] for text in texts]
    vectors = np.array([oracle_vector(text, "oracle-a", DIMENSION) for text in texts]).astype(precision(generation.identity))
    return bench.store.rows_adopt(source, generation.id, whole(rows, chunks, vectors))


def whole(rows: Sequence[LiveRow], chunks: Sequence[Chunk], vectors: StoredVectors) -> WholeBatch:
    """Make a batch of rows with a chunk and a vector each."""
    starts, stops, digests = ([getattr(chunk, name) for chunk in chunks] for name in ("start", "stop", "digest"))
    return WholeBatch([row.key for row in rows], [row.seq for row in rows], starts, stops, digests, vectors)


def aside(bench: Workbench, source: Source, generation: Generation) -> Generation:
    """Set a generation aside."""
    spec = GenerationSpec("vector", generation.fingerprint, generation.identity, generation.model)
    return bench.store.generation_adopt(source, spec)


class Adoption:
    """`rows_adopt`."""

    def test_each_row_is_written_with_its_chunk(self, bench: Workbench) -> None:
        """In any order, in either precision, one after the other."""
        source = bench.notes(*(f"text {number}" for number in range(300)))
        for stored in ("float16", "float32"):
            generation = aside(bench, source, bench.vector(source, stored=stored))
            rows = read(bench, source)
            assert adopt(bench, source, generation, rows[100::-1]) == 101
            assert adopt(bench, source, generation, rows[101:]) == 199
            bench.verify(source, generation)
            assert {row.key: (row.seq, 1, False) for row in rows} == {
                key: (row.seq, row.chunks, row.truncated) for key, row in bench.backend.rows(source, generation).items()
            }
            bench.coverage_check(source, generation)

    def test_a_chunk_is_where_it_is_said_to_be(self, bench: Workbench) -> None:
        """From the first character of a text to the last of the longest."""
        source = bench.notes("a", "b", "c")
        generation = bench.vector(source)
        rows = read(bench, source)
        chunks = (Chunk(0, 1, b"\0" * 16), Chunk(7, 2_000_000, b"\xff" * 16), Chunk(1_999_999, 2_000_000, bytes(range(16))))
        vectors = np.eye(3, DIMENSION, dtype=np.float16)
        assert bench.store.rows_adopt(source, generation.id, whole(rows, chunks, vectors)) == 3
        stored = bench.backend.chunks(source, generation)
        assert tuple([Chunk(chunk.start, chunk.stop, bytes(chunk.digest)) for chunk in stored]) == chunks
        assert [chunk.ordinal for chunk in stored] == [0, 0, 0]
        assert np.array_equal([chunk.vector for chunk in stored], vectors)

    def test_keys_of_several_columns(self, bench: Workbench) -> None:
        """Each member in its own type."""
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        bench.app.run(f"CREATE TABLE files (name {text}, part {integer}, body {text}, PRIMARY KEY (name, part))")
        bench.app.many("INSERT INTO files VALUES (?, ?, ?)", [("é ' 7", 2, "a"), ("é ' 7", 10, "b"), ("7", -3, "c")])
        source = bench.attach("files", ("body",))
        generation = bench.vector(source)
        assert adopt(bench, source, generation, read(bench, source)) == 3
        bench.verify(source, generation)

    def test_a_version_that_is_not_the_journals_any_more_is_left(self, bench: Workbench) -> None:
        """Edited, deleted, or written with the same text: what comes next is ahead in the fresh lane."""
        source = bench.notes("a", "b", "c", "d")
        generation = aside(bench, source, bench.vector(source))
        rows = read(bench, source)
        bench.app.run("UPDATE notes SET body = 'A' WHERE id = 1")
        bench.app.run("DELETE FROM notes WHERE id = 2")
        assert adopt(bench, source, generation, rows) == 2
        assert bench.backend.rows(source, generation).keys() == {(3,), (4,)}
        bench.coverage_check(source, generation)
        bench.drain(source, bench.vector(source))
        bench.verify(source, generation, {(1,): "A", (3,): "c", (4,): "d"})

    def test_a_version_that_is_held_is_left(self, bench: Workbench) -> None:
        """By whomever it was written."""
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        rows = read(bench, source)
        assert adopt(bench, source, generation, rows[:1]) == 1
        bench.drain(source, generation)
        held = [chunk.vector for chunk in bench.backend.chunks(source, generation)]
        other = whole(rows, [Chunk(0, 1, b"0" * 16)] * 2, np.eye(2, DIMENSION, dtype=np.float16))
        assert bench.store.rows_adopt(source, generation.id, other) == 0
        bench.verify(source, generation)
        assert np.array_equal([chunk.vector for chunk in bench.backend.chunks(source, generation)], held)

    def test_it_takes_the_place_of_an_older_version(self, bench: Workbench) -> None:
        """Of all its chunks; the neighbour is left alone."""
        source = bench.notes("a|b|c", "d|e")
        generation = bench.vector(source)
        bench.drain(source, generation)
        aside(bench, source, generation)
        bench.app.run("UPDATE notes SET body = 'whole' WHERE id = 1")
        assert adopt(bench, source, generation, read(bench, source)[:1]) == 1
        bench.verify(source, generation, {(1,): "whole", (2,): "d|e"})
        bench.drain(source, bench.vector(source))
        bench.coverage_check(source, generation)
        with bench.store.snapshot() as reader:
            hits = reader.chunks_nearest(generation.id, oracle_vector("a", "oracle-a", DIMENSION), 10)()
        assert sorted(hit.key for hit in hits) == [(1,), (2,), (2,)]

    def test_the_failure_of_a_row_goes(self, bench: Workbench) -> None:
        """That of a row which is not written stays."""
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        lease = bench.lease(generation)
        failed = bench.read(source, lease)
        rows = read(bench, source)
        bench.settle(source, generation, lease, failed, [bench.fail(row) for row in failed])
        aside(bench, source, generation)
        assert adopt(bench, source, generation, rows[:1]) == 1
        assert [failure.key for failure in bench.store.failures(source, generation.id, 10)] == [(2,)]
        bench.coverage_check(source, generation)

    def test_what_is_put_by_of_a_row_that_is_back_goes(self, bench: Workbench) -> None:
        """It is in the `where` again."""
        bench.notes_table("old", "other")
        source = bench.attach("notes", ("body",), Condition("org", "<", 5))
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.app.run("UPDATE notes SET org = 9")
        bench.drain(source, generation)
        digests = {passages(text)[0].digest: text for text in ("old", "other")}
        assert len(bench.store.vectors_known(generation.id, [(1,), (2,)], [], digests)) == 2
        bench.app.run("UPDATE notes SET org = 1, body = 'new' WHERE id = 1")
        rows = [row for row in read(bench, source) if row.key == (1,)]
        assert adopt(bench, source, generation, rows) == 1
        left = bench.store.vectors_known(generation.id, [(1,), (2,)], [], digests)
        assert [digests[digest] for digest in left] == ["other"]
        bench.verify(source, generation, {(1,): "new"})

    def test_two_who_adopt_the_same_at_once(self, bench: Workbench) -> None:
        """Each row is written by one of them."""
        source = bench.notes(*(f"text {number}" for number in range(400)))
        generation = bench.vector(source)
        rows = read(bench, source)
        written = at_once(
            [lambda: adopt(bench, source, generation, rows), lambda: adopt(bench, source, generation, rows[::-1])]
        )
        assert sum(count for count in written if isinstance(count, int)) == 400
        bench.verify(source, generation)
