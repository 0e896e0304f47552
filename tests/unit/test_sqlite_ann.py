"""The HNSW files: they make search fast, and whatever becomes of them it finds the same."""

import shutil
from itertools import pairwise

import numpy as np
import pytest

from seamark.errors import StoreError
from seamark.model import Chunk, IndexedRow, Outcome, VectorBatch
from seamark.store.sqlite import shards, upkeep
from seamark.store.sqlite.upkeep import OUTSIDE_CHUNKS_IDLE
from seamark.testing.workbench import DIMENSION, Workbench

ROWS = OUTSIDE_CHUNKS_IDLE + 200
LIMIT = 10


@pytest.fixture
def bench(sqlite_backend):
    return Workbench(sqlite_backend)


@pytest.fixture
def filled(bench):
    """A generation with enough chunks for a shard, and the store's upkeep done."""
    source = bench.notes()
    generation = bench.vector(source)
    insert(bench, source, generation, range(1, ROWS + 1))
    assert bench.store.generation_maintain(generation.id, idle=True)
    return source, generation


@pytest.fixture
def sharded(bench, monkeypatch):
    """A generation of a few small shards and a tail."""
    vector_bytes = 2 * DIMENSION
    monkeypatch.setattr(shards, "SHARD_BYTES", 1000 * vector_bytes)
    monkeypatch.setattr(upkeep, "PIECE_BYTES", 300 * vector_bytes)
    monkeypatch.setattr(upkeep, "OUTSIDE_CHUNKS_IDLE", 200)
    source = bench.notes()
    generation = bench.vector(source)
    insert(bench, source, generation, range(1, 3101))
    bench.maintain(generation)
    assert [shard[-2] for shard in shard_rows(bench, generation)] == [1000, 1000, 1000]
    return source, generation


def insert(bench, source, generation, keys):
    """Index rows with random vectors."""
    bench.app.many("INSERT INTO notes (id, body) VALUES (?, 'x')", [(key,) for key in keys])
    index(bench, source, generation, len(keys))


def index(bench, source, generation, count):
    """Index so many rows that are waiting with random vectors."""
    lease = bench.lease(generation, limit=count)
    rows = bench.read(source, lease)
    assert len(rows) == count
    vectors = np.random.default_rng(rows[0].seq).normal(size=(len(rows), DIMENSION)).astype(np.float16)
    indexed = tuple(IndexedRow(row.key, row.seq, Outcome.INDEXED, 1) for row in rows)
    batch = VectorBatch(indexed, (Chunk(0, 1, b"\0" * 16),) * len(rows), vectors)
    assert bench.store.lease_settle(source, lease, batch, ()).written == len(rows)


def questions(count=30):
    return np.random.default_rng(0).normal(size=(count, DIMENSION)).astype(np.float32)


def search(store, generation, *, exact=False):
    with store.snapshot() as reader:
        return [[hit.key for hit in reader.chunks_nearest(generation.id, one, LIMIT, exact=exact)()] for one in questions()]


def recall(found, expected):
    return np.mean([len(set(one) & set(other)) / LIMIT for one, other in zip(found, expected, strict=True)])


def shard_rows(bench, generation):
    """Return first id, last id, chunks in the file and dead ones of each shard, in order."""
    with bench.backend._reading(bench.backend.sidecar) as sidecar:
        return sidecar.execute(
            "SELECT first_id, last_id, chunks, dead FROM ann_shard WHERE generation_id = ? ORDER BY first_id", (generation.id,)
        ).fetchall()


def dead(bench, generation):
    """Return how many ids are in the shards' files in vain, counted one by one."""
    with bench.backend._reading(bench.backend.sidecar) as sidecar:
        live = sidecar.execute(
            f"SELECT count(*) FROM ann_shard s JOIN chunks_{generation.id} c ON c.id BETWEEN s.first_id AND s.last_id"
        ).fetchall()[0][0]
    return sum(chunks for _, _, chunks, _ in shard_rows(bench, generation)) - live


def shard_files(bench):
    return sorted(bench.backend.path.parent.glob("*.usearch*"))


def test_the_graph_finds_what_a_scan_finds(bench, filled):
    _, generation = filled
    assert len(shard_files(bench)) == 1
    assert recall(search(bench.store, generation), search(bench.store, generation, exact=True)) >= 0.95


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "older", "empty", "another's"])
def test_an_unusable_file_costs_no_results(bench, filled, damage):
    source, generation = filled
    [path] = shard_files(bench)
    content = path.read_bytes()
    if damage == "older":
        insert(bench, source, generation, range(ROWS + 1, 2 * ROWS))
        assert bench.store.generation_maintain(generation.id, idle=True)
        assert path.read_bytes() != content
        path.write_bytes(content)
    elif damage == "missing":
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(
            content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
        )
    else:
        path.write_bytes({"cut": content[:-1], "empty": b"", "another's": b"usearch" * 1000}[damage])
    other = bench.backend.store()
    expected = search(other, generation, exact=True)
    assert search(other, generation) == expected
    assert other.generation_maintain(generation.id, idle=True), "it is made anew"
    assert recall(search(bench.backend.store(), generation), expected) >= 0.95
    bench.maintain(generation)
    assert len(shard_files(bench)) == 1


def test_a_file_that_cannot_be_written_is_told_by_its_name(bench, filled):
    _, generation = filled
    [path] = shard_files(bench)
    path.unlink()
    path.mkdir()
    other = bench.backend.store()
    with pytest.raises(StoreError, match=path.name):
        other.generation_maintain(generation.id, idle=True)
    assert search(other, generation) == search(other, generation, exact=True)


def test_chunks_newer_than_the_file_are_found(bench, filled):
    source, generation = filled
    insert(bench, source, generation, range(ROWS + 1, ROWS + 101))
    expected = search(bench.store, generation, exact=True)
    assert any(key > (ROWS,) for keys in expected for key in keys)
    found = search(bench.store, generation)
    newer = {key for keys in expected for key in keys if key > (ROWS,)}
    assert newer == {key for keys in found for key in keys if key > (ROWS,)}
    insert(bench, source, generation, range(ROWS + 101, ROWS + 201))
    assert recall(search(bench.store, generation), search(bench.store, generation, exact=True)) >= 0.95


def test_the_file_is_extended(bench, filled):
    source, generation = filled
    assert not bench.store.generation_maintain(generation.id, idle=True), "there is nothing to do"
    insert(bench, source, generation, range(ROWS + 1, 2 * ROWS + 1))
    assert not bench.store.generation_maintain(generation.id, idle=False), "not while others are at work"
    assert bench.store.generation_maintain(generation.id, idle=True)
    assert len(shard_files(bench)) == 1
    assert recall(search(bench.store, generation), search(bench.store, generation, exact=True)) >= 0.95


def test_chunks_that_are_gone_do_not_take_the_place_of_others(bench, filled):
    """Nine in ten of what the graph holds has been deleted."""
    source, generation = filled
    bench.app.run(f"DELETE FROM notes WHERE id > {ROWS // 10}")
    bench.drain(source, generation, limit=10_000)
    found = search(bench.store, generation)
    assert all(len(keys) == LIMIT for keys in found)
    assert all(key <= (ROWS // 10,) for keys in found for key in keys)
    assert recall(found, search(bench.store, generation, exact=True)) >= 0.9
    with bench.store.snapshot() as reader:
        everything = reader.chunks_nearest(generation.id, questions(1)[0], 10 * ROWS)()
    assert sorted(hit.key for hit in everything) == [(key,) for key in range(1, ROWS // 10 + 1)]


def test_one_builder_at_a_time(bench, filled):
    """And one that has died does not hold the others up for ever."""
    source, generation = filled
    insert(bench, source, generation, range(ROWS + 1, 2 * ROWS + 1))
    with bench.backend._reading(bench.backend.sidecar) as sidecar:
        sidecar.execute("INSERT INTO upkeep VALUES (?, 'another', ?)", (generation.id, bench.store.clock() + 10**9))
    assert not bench.store.generation_maintain(generation.id, idle=True)
    with bench.backend._reading(bench.backend.sidecar) as sidecar:
        sidecar.execute("UPDATE upkeep SET expires_at = 0")
    shutil.copy(shard_files(bench)[0], f"{shard_files(bench)[0]}.left-by-a-builder-that-was-killed")
    assert bench.store.generation_maintain(generation.id, idle=True)
    assert len(shard_files(bench)) == 1


def test_a_reader_keeps_its_moment(bench, filled):
    """Whatever is built, added and deleted meanwhile."""
    source, generation = filled
    expected = search(bench.store, generation, exact=True)
    with bench.store.snapshot() as reader:
        assert reader.generations(source.id)
        bench.app.run("DELETE FROM notes WHERE id % 2 = 0")
        bench.drain(source, generation, limit=10_000)
        insert(bench, source, generation, range(ROWS + 1, 2 * ROWS + 1))
        assert bench.store.generation_maintain(generation.id, idle=True)
        search(bench.store, generation)
        found = [[hit.key for hit in reader.chunks_nearest(generation.id, one, LIMIT)()] for one in questions()]
    assert recall(found, expected) >= 0.95


def test_dropping_the_source_deletes_the_files(bench, filled):
    source, _ = filled
    assert shard_files(bench)
    bench.store.source_drop(source.id)
    assert shard_files(bench) == []


# --- clearing out -------------------------------------------------------------------------------------------------


def test_shards_full_of_the_dead_are_cleared_out(bench, sharded):
    """However often every row is edited, the files hold about as much as there is."""
    source, generation = sharded
    for _ in range(2):
        bench.app.run("UPDATE notes SET body = body || '!'")
        index(bench, source, generation, 3100)
    assert dead(bench, generation) == 3000
    assert bench.maintain(generation) > 10, "a piece at a time"
    assert dead(bench, generation) <= 300
    assert len(shard_files(bench)) == len(shard_rows(bench, generation)) == 3
    assert recall(search(bench.store, generation), search(bench.store, generation, exact=True)) >= 0.95
    assert bench.maintain(generation) == 0


def test_at_every_piece_everything_is_found(bench, sharded):
    """By this process and by one that has just begun; nothing is scanned that a file answers for."""
    source, generation = sharded
    bench.app.run("UPDATE notes SET body = 'y' WHERE id % 5 > 0")
    index(bench, source, generation, 2480)
    before = dead(bench, generation)
    assert before == 2400
    expected = search(bench.store, generation, exact=True)
    while bench.store.generation_maintain(generation.id, idle=True):
        rows = shard_rows(bench, generation)
        assert all(last < first for (_, last, _, _), (first, _, _, _) in pairwise(rows))
        assert recall(search(bench.store, generation), expected) >= 0.95
        other = bench.backend.store()
        assert recall(search(other, generation), expected) >= 0.95
        other.close()
        assert len(shard_files(bench)) == len(rows)
    assert dead(bench, generation) < 100


def test_what_is_counted_dead_is_dead(bench, sharded):
    source, generation = sharded
    bench.app.run("DELETE FROM notes WHERE id <= 400")
    bench.app.run("UPDATE notes SET body = 'y' WHERE id > 2900")
    bench.drain(source, generation, limit=10_000)
    assert [row[-1] for row in shard_rows(bench, generation)] == [400, 0, 100]
    assert dead(bench, generation) == 500
    assert bench.maintain(generation) <= 1, "it is not worth while yet"
    bench.app.run("DELETE FROM notes WHERE id <= 700")
    bench.drain(source, generation, limit=10_000)
    assert not bench.store.generation_maintain(generation.id, idle=False), "not while others are at work"
    assert bench.maintain(generation) >= 1
    assert dead(bench, generation) == 100


def test_a_shard_that_is_all_dead_goes_with_its_file(bench, sharded):
    source, generation = sharded
    bench.app.run("DELETE FROM notes WHERE id <= 1000")
    bench.drain(source, generation, limit=10_000)
    assert bench.maintain(generation) == 1
    assert len(shard_files(bench)) == len(shard_rows(bench, generation)) == 2
    assert recall(search(bench.store, generation), search(bench.store, generation, exact=True)) >= 0.95


def test_a_file_that_a_killed_process_has_left_is_deleted(bench, sharded):
    """It was killed between the shard's end and its file's."""
    source, generation = sharded
    left = bench.backend.path.with_name(f"{bench.backend.sidecar.name}-{generation.id}-77.usearch")
    left.write_bytes(b"left")
    bench.app.run("DELETE FROM notes WHERE id <= 1000")
    bench.drain(source, generation, limit=10_000)
    assert bench.maintain(generation) == 1
    assert not left.exists()


def test_a_lost_file_whose_chunks_are_all_dead(bench, sharded):
    """It is made anew, empty, before it is known that nobody needs it."""
    source, generation = sharded
    bench.app.run("DELETE FROM notes WHERE id <= 1000")
    bench.drain(source, generation, limit=10_000)
    shard_files(bench)[0].unlink()
    assert bench.backend.store().generation_maintain(generation.id, idle=True)
    assert [row[2] for row in shard_rows(bench, generation)] == [0, 1000, 1000]
    assert recall(search(bench.store, generation), search(bench.store, generation, exact=True)) >= 0.95
    assert bench.maintain(generation) == 1
    assert len(shard_files(bench)) == len(shard_rows(bench, generation)) == 2
