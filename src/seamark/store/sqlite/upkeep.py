"""Upkeep of a generation's index, one bounded piece at a time, by one process at a time.

Vector: the HNSW files. Lexical: small blocks of postings are merged, and those of versions that are no longer current dropped.
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from seamark.store.blocks import blocks_loose, blocks_merge
from seamark.store.sqlite.ann import chunks_scan
from seamark.store.sqlite.claims import MICROSECONDS, clock
from seamark.store.sqlite.shards import index_add, index_new, shard_capacity, shards_list
from seamark.store.sqlite.words import STATEMENTS

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray

    from seamark.store.sqlite.connection import Connection, Connections
    from seamark.store.sqlite.shards import Shard, Shards
    from seamark.store.sqlite.words import Words

UPKEEP_SECONDS = 300
"""A piece takes some seconds; of one who died at it, the upkeep is free again after this."""
OUTSIDE_CHUNKS = 65_536
OUTSIDE_CHUNKS_IDLE = 4_096
"""So many chunks may be outside the shards: an exact scan of them takes some milliseconds."""
PIECE_BLOCKS = 20_000
PIECE_POSTINGS = 2_000_000
"""What one piece looks at and rewrites while it holds the sidecar's write lock: some tens of milliseconds."""


def vector_maintain(connections: Connections, words: Words, shards: Shards, dimension: int, *, idle: bool) -> bool:
    """Build or extend a shard once there is enough outside, or mend one whose file is unusable."""
    with connections.use() as connection:
        plan = _plan(connection, words, shards, dimension, idle=idle)
    if plan is None:
        return False
    with _upkeep(connections, words.generation) as mine:
        if mine:
            _build(connections, words, shards, dimension, *plan)
        return mine


def _plan(
    connection: Connection, words: Words, shards: Shards, dimension: int, *, idle: bool
) -> tuple[int, Shard | None, tuple[int, int], int] | None:
    """Return what to build: the shard's number, the one to extend, the range of ids to add, and how many at most."""
    known = shards_list(connection, words.generation)
    for shard in known:
        if not shards.usable(words.generation, shard, dimension):
            return shard.shard, None, (shard.first_id - 1, shard.last_id), shard.chunks
    last = known[-1] if known else None
    at = 0 if last is None else last.last_id
    end = int(connection.value(words["chunks_end"]))
    capacity = shard_capacity(dimension)
    piece = min(OUTSIDE_CHUNKS, capacity // 4)
    due = min(OUTSIDE_CHUNKS_IDLE, piece) if idle else piece
    if end - at < due or int(connection.value(words["chunks_outside"], (at, end))) < due:
        return None
    if last is None or last.chunks >= capacity:
        return (0 if last is None else last.shard + 1), None, (at, end), piece
    return last.shard, last, (at, end), min(piece, capacity - last.chunks)


def _build(
    connections: Connections,
    words: Words,
    shards: Shards,
    dimension: int,
    number: int,
    extended: Shard | None,
    ids: tuple[int, int],
    most: int,
) -> None:
    index = None if extended is None else shards.load(words.generation, extended, dimension)
    if extended is not None and index is None:
        return
    first = ids[0] + 1 if extended is None else extended.first_id
    index = index_new(dimension) if index is None else index
    last = ids[0]
    with connections.use() as connection:
        for numbers, vectors in chunks_scan(connection, words, ids):
            index_add(index, numbers[:most], vectors[:most])
            last = int(numbers[:most][-1])
            most -= len(numbers)
            if most <= 0:
                break
        else:
            last = ids[1]
    size, checksum = shards.write(words.generation, number, index)
    with connections.transaction() as connection:
        if connection.row(words["generation_source"], (words.generation,)) is None:
            shards.drop(words.generation)
            return
        connection.run(words["shard_write"], (words.generation, number, first, last, len(index), size, checksum))


def lexical_maintain(connections: Connections, words: Words, *, idle: bool) -> bool:
    """Go one piece on with a pass over all terms, or begin one if it is due."""
    with connections.use() as connection:
        if not _pass_due(connection, words, idle=idle):
            return False
    with _upkeep(connections, words.generation) as mine:
        if mine:
            with connections.snapshot() as connection:
                known = int(connection.value(words["next_id"], (words.generation,)))
                with connection.stream(words["documents_current"]) as documents:
                    current = np.fromiter((doc for (doc,) in documents), dtype=np.uint32)
            with connections.transaction() as connection:
                _Pass(connection, words, current, known).piece()
        return mine


def _pass_due(connection: Connection, words: Words, *, idle: bool) -> bool:
    found = connection.row(words["postings_upkeep"], (words.generation,))
    if found is None:
        return False
    blocks, added, superseded, term = found
    enough = max(10_000, blocks // 10) if idle else max(500_000, blocks // 2)
    return term is not None or added >= enough or _purge_due(connection, words, superseded)


def _purge_due(connection: Connection, words: Words, superseded: int) -> bool:
    """Say whether a quarter of the documents are dead weight."""
    documents = connection.only(words["terms_statistics"], ("",))[2] or 0
    return superseded >= max(1_000, documents // 4)


class _Pass:
    """One piece of a pass. A block may be added to until this transaction begins, so it is read in the one that replaces it."""

    def __init__(self, connection: Connection, words: Words, current: NDArray[np.uint32], known: int) -> None:
        self._connection = connection
        self._words = words
        end = int(connection.value(words["next_id"], (words.generation,)))
        # Documents that were settled since are current, as far as is known here.
        self._current = np.concatenate([current, np.arange(known, end, dtype=np.uint32)])

    def piece(self) -> None:
        blocks, added, superseded, term = self._connection.only(self._words["postings_upkeep"], (self._words.generation,))
        begins = term is None
        purge = _purge_due(self._connection, self._words, superseded)
        rows = self._connection.rows(self._words["blocks_list"], (term or "", begins, PIECE_BLOCKS))
        done = self._terms(rows, purge=purge)
        if done is None:
            blocks = int(self._connection.value(self._words["blocks_count"]))
            superseded = 0 if purge else superseded
        state = (blocks, 0 if begins else added, superseded, done, self._words.generation)
        self._connection.run(self._words["postings_upkeep_write"], state)

    def _terms(self, rows: Sequence[tuple[str, int, int]], *, purge: bool) -> str | None:
        """Merge terms until the piece is big enough; return the last one, or None when there are no more."""
        groups = [(term, list(blocks)) for term, blocks in groupby(rows, key=lambda row: row[0])]
        full = len(rows) == PIECE_BLOCKS
        if full and len(groups) > 1:
            groups.pop()
        rewritten = 0
        for place, (term, blocks) in enumerate(groups):
            sizes = [docs for _, _, docs in blocks]
            run = len(blocks) if purge else blocks_loose(sizes)
            if run:
                self._merge(term, [block for _, block, _ in blocks[-run:]])
                rewritten += sum(sizes[-run:])
            if rewritten >= PIECE_POSTINGS and place + 1 < len(groups):
                return term
        return groups[-1][0] if full else None

    def _merge(self, term: str, numbers: Sequence[int]) -> None:
        blobs = [self._connection.value(self._words["block_read"], (term, number)) for number in numbers]
        merged = blocks_merge(blobs, self._current)
        if len(merged) == len(blobs) and sum(len(block.data) for block in merged) == sum(map(len, blobs)):
            return
        self._connection.many(self._words["block_delete"], [(term, number) for number in numbers])
        self._connection.many(
            self._words["postings_insert"],
            [(term, block.number, block.docs, block.lengths, block.data) for block in merged],
        )


@contextmanager
def _upkeep(connections: Connections, generation: int) -> Generator[bool]:
    """Take the upkeep of a generation for the length of the block; False when somebody else has it."""
    owner = uuid.uuid4().hex
    with connections.transaction() as connection:
        now = clock(connection)
        values = {
            "generation": generation,
            "owner": owner,
            "now": now,
            "expires_at": now + UPKEEP_SECONDS * MICROSECONDS,
        }
        mine = connection.row(STATEMENTS["upkeep_begin"], values) is not None
    try:
        yield mine
    finally:
        if mine:
            with connections.transaction() as connection:
                connection.run(STATEMENTS["upkeep_end"], (generation, owner))
