"""The upkeep of postings: fewer blocks, none of the dead, and the same to be found."""

import pytest

from seamark.testing.workbench import Workbench

ROWS = 6_000


@pytest.fixture
def bench(sqlite_backend):
    return Workbench(sqlite_backend)


@pytest.fixture
def filled(bench):
    """Six thousand rows, settled as they come, with one word in all of them and two of each row's own."""
    source = bench.notes()
    generation = bench.lexical(source)
    bench.app.many(
        "INSERT INTO notes (id, body) VALUES (?, ?)",
        [(key, f"common a{key} b{key} g{key % 50}") for key in range(1, ROWS + 1)],
    )
    bench.drain(source, generation, limit=500)
    return source, generation


def statistics(bench, generation, term):
    with bench.store.snapshot() as reader:
        [found] = reader.terms_statistics(generation.id, [term])
    return found


def test_small_blocks_are_merged(bench, filled):
    source, generation = filled
    before = statistics(bench, generation, "common")
    assert bench.maintain(generation, idle=False) == 0, "not while others are at work"
    assert bench.maintain(generation) >= 1
    after = statistics(bench, generation, "common")
    assert before.blocks > after.blocks == 1
    assert (after.postings, after.lengths) == (before.postings, before.lengths) == (ROWS, 4 * ROWS)
    bench.verify(source, generation)
    bench.app.run("INSERT INTO notes (id, body) VALUES (0, 'common')")
    bench.drain(source, generation)
    assert statistics(bench, generation, "common").postings == ROWS + 1
    bench.verify(source, generation)


def test_dead_postings_are_dropped(bench, filled):
    source, generation = filled
    bench.app.run("UPDATE notes SET body = body || ' again' WHERE id % 2 = 0")
    bench.app.run("DELETE FROM notes WHERE id % 3 = 0")
    bench.drain(source, generation, limit=2_000)
    assert statistics(bench, generation, "common").postings > ROWS
    assert bench.maintain(generation) >= 1
    live = ROWS - ROWS // 3
    assert statistics(bench, generation, "common").postings == live
    assert statistics(bench, generation, "").postings == live
    with bench.store.snapshot() as reader:
        assert list(reader.terms_statistics(generation.id, ["a3", "b9"])) == [], "terms of rows that are gone"
    bench.verify(source, generation)
    assert bench.maintain(generation) == 0, "there is nothing left to do"
