"""The nearest chunks: HNSW files for the many, an exact scan in memory for the newest.

The vectors in `chunks_<g>` are the truth. The chunks' ids are cut into shards, each with a file built from the vectors of its
range; the ids above the last shard are the tail. A file that is missing, older than its row or damaged costs speed, never
results: its range is scanned instead. Whatever finds a chunk, its similarity is computed anew from the stored vector.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from usearch.index import search

from seamark.model import ChunkHit, key_order
from seamark.store.sqlite.connection import integers
from seamark.store.sqlite.shards import shards_list

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from seamark.model import StoredVectors
    from seamark.store.sqlite.connection import Connection
    from seamark.store.sqlite.shards import Shards
    from seamark.store.sqlite.words import Words

TAIL_BYTES = 64 * 2**20
"""Vectors of one generation's tail kept in memory: 131,072 of 256 dimensions."""
SCAN_BYTES = 2 * 2**20
"""Vectors read at a time when a range is scanned."""
SLACK = 8
"""Candidates beyond the limit in the first round, for chunks that have been replaced since their shard was built."""
APPROXIMATE_MAX = 4096
"""More candidates than this are not looked for in a graph."""

_TINY = np.finfo(np.float32).tiny
_ROUNDING = 1e-6

Candidates = list[tuple[float, int]]
"""(similarity, chunk id), best first."""


class Neighbours:
    """The search for near chunks in all generations of one store; its caches may be used by several threads."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._tails: dict[int, Tail] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let the files go."""
        self._shards.close()
        with self._lock:
            self._tails.clear()

    def drop(self, generation: int) -> None:
        """Forget a generation, and delete its files."""
        self._shards.drop(generation)
        with self._lock:
            self._tails.pop(generation, None)

    def nearest(
        self, connection: Connection, words: Words, vector: NDArray[np.float32], limit: int, *, exact: bool
    ) -> list[ChunkHit]:
        """Return the nearest chunks; exactly those when asked for, or when the graphs come up short."""
        end = int(connection.value(words["chunks_end"]))
        wanted = limit + SLACK
        while not exact and wanted <= APPROXIMATE_MAX:
            candidates, complete = self._candidates(connection, words, vector, wanted, end)
            hits = self.hits(connection, words, candidates, vector)
            if complete or (len(hits) > limit and hits[-1].similarity < hits[limit - 1].similarity):
                return hits[:limit]
            wanted *= 4
            if wanted > APPROXIMATE_MAX and len(hits) >= limit:
                return hits[:limit]
        best = _scan(connection, words, vector, (0, end), limit, [])
        return self.hits(connection, words, [number for _, number in best], vector)[:limit]

    def hits(self, connection: Connection, words: Words, ids: Sequence[int], vector: NDArray[np.float32]) -> list[ChunkHit]:
        """Return those of the chunks that are there, best first, ties by key."""
        if not ids:
            return []
        asked = integers(ids)
        rows = connection.rows(words["chunks_find"], (asked,))
        found = similarities([row[4] for row in rows], vector).tolist()
        places = sorted(range(len(rows)), key=lambda place: (-found[place], key_order(rows[place][5:]), rows[place][1]))
        return [ChunkHit(rows[place][5:], rows[place][2], rows[place][3], found[place]) for place in places]

    def _candidates(
        self, connection: Connection, words: Words, vector: NDArray[np.float32], wanted: int, end: int
    ) -> tuple[list[int], bool]:
        """Return ids from every range, and whether they are all there are."""
        found: list[int] = []
        complete = True
        at = 0
        known = shards_list(connection, words.generation)
        self._shards.prune(words.generation, known)
        for shard in known:
            near = self._shards.near(words.generation, shard, vector, wanted)
            if near is None:
                best = _scan(connection, words, vector, (shard.first_id - 1, shard.last_id), wanted, [])
                near = [number for _, number in best]
            complete = complete and len(near) >= shard.chunks
            found += near
            at = shard.last_id
        tail = self._tail(connection, words, vector, wanted, (at, end))
        return list(dict.fromkeys(found + tail)), complete and len(tail) < wanted

    def _tail(
        self, connection: Connection, words: Words, vector: NDArray[np.float32], wanted: int, ids: tuple[int, int]
    ) -> list[int]:
        """Return the nearest of the chunks above the last shard, from memory as far as they fit."""
        lo, hi = ids
        if hi <= lo:
            return []
        with self._lock:
            tail = self._tails.get(words.generation)
            if tail is None or tail.first != lo:
                tail = self._tails[words.generation] = Tail(lo, len(vector))
            tail.extend(connection, words, hi)
            numbers, vectors, seen = tail.view()
        best = _nearest(numbers, vectors, vector, wanted)
        if seen < hi:
            best = _scan(connection, words, vector, (seen, hi), wanted, best)
        return [number for _, number in best]


class Tail:
    """The vectors with ids above `first`, as far as `seen`, in memory, as float16 for want of room.

    Only ever added to, so that a view stays good.
    """

    def __init__(self, first: int, dimension: int) -> None:
        self.first = first
        self.seen = first
        self.capacity = TAIL_BYTES // (2 * dimension)
        self._dimension = dimension
        self._count = 0
        self._numbers = np.empty(0, dtype=np.int64)
        self._vectors = np.empty((0, dimension), dtype=np.float16)

    def extend(self, connection: Connection, words: Words, hi: int) -> None:
        """Read what has been added since, as far as there is room."""
        if self.seen >= hi or self._count >= self.capacity:
            return
        for numbers, vectors in chunks_scan(connection, words, (self.seen, hi), self._dimension):
            fits = min(len(numbers), self.capacity - self._count)
            self._reserve(self._count + fits)
            self._numbers[self._count : self._count + fits] = numbers[:fits]
            self._vectors[self._count : self._count + fits] = vectors[:fits]
            self._count += fits
            if fits:
                self.seen = int(numbers[fits - 1])
            if fits < len(numbers):
                return
        self.seen = hi

    def view(self) -> tuple[NDArray[np.int64], NDArray[np.float16], int]:
        """Return ids, vectors, and the id up to which they are complete."""
        return self._numbers[: self._count], self._vectors[: self._count], self.seen

    def _reserve(self, count: int) -> None:
        if count <= len(self._numbers):
            return
        room = min(self.capacity, max(count, 2 * len(self._numbers), 1024))
        numbers, vectors = np.empty(room, dtype=np.int64), np.empty((room, self._dimension), dtype=np.float16)
        numbers[: self._count] = self._numbers[: self._count]
        vectors[: self._count] = self._vectors[: self._count]
        self._numbers, self._vectors = numbers, vectors


def vectors_load(embeddings: Sequence[bytes], dimension: int) -> StoredVectors:
    """Return stored vectors, shape (len(embeddings), dimension), in the precision that their length tells."""
    data = b"".join(embeddings)
    single = len(data) == np.dtype(np.float32).itemsize * dimension * len(embeddings)
    return np.frombuffer(data, dtype=np.float32 if single else np.float16).reshape(-1, dimension)


def similarities(embeddings: Sequence[bytes], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of each stored vector with a vector."""
    vectors = vectors_load(embeddings, len(vector)).astype(np.float32, copy=False)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector)
    # Not a matrix product, whose last bit depends on a row's place: equal vectors have to come out equal.
    return (vectors * vector).sum(axis=1) / np.maximum(norms, _TINY)


def best_of(best: Candidates, numbers: NDArray[np.int64], found: NDArray[np.float32], limit: int) -> Candidates:
    """Return the best of those there were and those just found."""
    if len(found) > limit:
        places = np.argpartition(-found, limit - 1)[:limit]
        # Those as good as the last one stay in: ties are broken by key, which is not known here.
        places = np.flatnonzero(found >= found[places].min() - _ROUNDING)
        numbers, found = numbers[places], found[places]
    joined = sorted([*best, *zip(found.tolist(), numbers.tolist(), strict=True)], key=lambda one: -one[0])
    while len(joined) > limit and joined[-1][0] < joined[limit - 1][0] - _ROUNDING:
        joined.pop()
    return joined


def chunks_scan(
    connection: Connection, words: Words, ids: tuple[int, int], dimension: int
) -> Iterator[tuple[NDArray[np.int64], StoredVectors]]:
    """Read the chunks with `lo < id <= hi` in pieces of bounded size: ids and vectors."""
    at, hi = ids
    piece = 256
    while at < hi:
        rows = connection.rows(words["chunks_scan"], (at, hi, piece))
        if not rows:
            return
        numbers = np.array([number for number, _ in rows], dtype=np.int64)
        yield numbers, vectors_load([row[1] for row in rows], dimension)
        at = int(numbers[-1])
        piece = max(1, SCAN_BYTES // len(rows[0][1]))


def _scan(
    connection: Connection,
    words: Words,
    vector: NDArray[np.float32],
    ids: tuple[int, int],
    wanted: int,
    best: Candidates,
) -> Candidates:
    """Compare every chunk of a range."""
    for numbers, vectors in chunks_scan(connection, words, ids, len(vector)):
        single = vectors.astype(np.float32, copy=False)
        norms = np.linalg.norm(single, axis=1) * np.linalg.norm(vector)
        best = best_of(best, numbers, (single @ vector) / np.maximum(norms, _TINY), wanted)
    return best


def _nearest(numbers: NDArray[np.int64], vectors: NDArray[np.float16], vector: NDArray[np.float32], wanted: int) -> Candidates:
    """Compare every vector in memory."""
    if not len(numbers):
        return []
    near = search(vectors, vector.astype(np.float16), min(wanted, len(numbers)), "cos", exact=True, threads=1)
    return [(1.0 - distance, int(numbers[place])) for place, distance in zip(near.keys, near.distances, strict=True)]
