"""Upkeep of a generation's index, one bounded piece at a time, by one process at a time.

Vector: the HNSW files are built and extended, and those cleared out that hold more dead chunks than others: what is left in one
is moved, a piece at a time, into the one before it or a new one. Lexical: small blocks of postings are merged, and those of
versions that are no longer current dropped.
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from seamark.store.blocks import blocks_loose, blocks_merge
from seamark.store.sqlite.ann import TAIL_BYTES, chunks_scan
from seamark.store.sqlite.claims import MICROSECONDS, clock
from seamark.store.sqlite.shards import index_add, index_new, shard_capacity, shards_list
from seamark.store.sqlite.words import STATEMENTS

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import NDArray
    from usearch.index import Index

    from seamark.store.sqlite.connection import Connection, Connections
    from seamark.store.sqlite.shards import Shard, Shards
    from seamark.store.sqlite.words import Words

UPKEEP_SECONDS = 60
"""Who is at it says so every second or so; of one who died at it, the upkeep is free again after this."""
OUTSIDE_BYTES = TAIL_BYTES
OUTSIDE_CHUNKS_IDLE = 4_096
"""So much may be outside the shards: while others work as much as is scanned in memory, else what takes half a millisecond."""
PIECE_BYTES = 16 * 2**20
"""Vectors that one piece adds, 32,768 of 256 dimensions: some ten seconds."""
DEAD_SHARE = 0.75
DEAD_SHARE_IDLE = 0.5
"""A shard of whose chunks more than this share is dead is cleared out: searches look at the dead too, and come up short."""
PIECE_BLOCKS = 20_000
PIECE_POSTINGS = 2_000_000
"""What one piece looks at and rewrites while it holds the sidecar's write lock: some tens of milliseconds."""


def vector_maintain(connections: Connections, words: Words, shards: Shards, dimension: int, *, idle: bool) -> bool:
    """Mend a shard whose file is unusable, extend the last one, or clear one out, whichever is due first."""
    with connections.use() as connection:
        if _plan(connection, words, shards, dimension, idle=idle) is None:
            return False
    with _upkeep(connections, words.generation) as mine:
        if mine is None:
            return False
        with connections.use() as connection:  # somebody else may have done it meanwhile
            plan = _plan(connection, words, shards, dimension, idle=idle)
            shards.tidy(words.generation, shards_list(connection, words.generation))
        return plan is not None and _build(connections, words, shards, dimension, plan, mine)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to build: which shard, onto which one that stands, and from which ids at most how many chunks."""

    number: int
    extended: Shard | None
    ids: tuple[int, int]
    most: int
    buried: int = 0
    """How many dead chunks will not be in the shard's file any more."""
    drained: Shard | None = None
    """The shard that has answered for these chunks."""


def _plan(connection: Connection, words: Words, shards: Shards, dimension: int, *, idle: bool) -> _Plan | None:
    known = shards_list(connection, words.generation)
    for shard in known:
        if not shards.usable(words.generation, shard, dimension):
            return _Plan(shard.shard, None, (shard.first_id - 1, shard.last_id), shard.chunks, shard.dead)
    last = known[-1] if known else None
    at = 0 if last is None else last.last_id
    end = int(connection.value(words["chunks_end"]))
    piece = PIECE_BYTES // (2 * dimension)
    due = OUTSIDE_CHUNKS_IDLE if idle else OUTSIDE_BYTES // (2 * dimension)
    if end - at >= due and connection.value(words["chunks_outside"], (at, end)) >= due:
        return _plan_onto(last, known, dimension, (at, end), piece)
    for before, shard in zip([None, *known], known, strict=False):
        if not shard.chunks or shard.dead > shard.chunks * (DEAD_SHARE_IDLE if idle else DEAD_SHARE):
            plan = _plan_onto(before, known, dimension, (shard.first_id - 1, shard.last_id), piece)
            return replace(plan, drained=shard)
    return None


def _plan_onto(before: Shard | None, known: Sequence[Shard], dimension: int, ids: tuple[int, int], piece: int) -> _Plan:
    """Plan to add chunks to a shard as long as there is room in it, else to a new one."""
    capacity = shard_capacity(dimension)
    if before is None or before.chunks >= capacity:
        return _Plan(max((shard.shard for shard in known), default=-1) + 1, None, ids, min(piece, capacity))
    return _Plan(before.shard, before, ids, min(piece, capacity - before.chunks))


def _build(connections: Connections, words: Words, shards: Shards, dimension: int, plan: _Plan, mine: _Upkeep) -> bool:
    """Build the shard, and put it in the place of the one that stands, unless the upkeep has been lost meanwhile."""
    index = index_new(dimension) if plan.extended is None else shards.load(words.generation, plan.extended, dimension)
    if index is None:
        return False
    held = len(index)
    last = _add(connections, words, index, dimension, plan, mine)
    built = None
    if plan.drained is None or len(index) > held:
        built = shards.write(words.generation, plan.number, index, mine.owner)
    with connections.transaction() as connection:
        if not mine.renew(connection):
            return False  # what has been written is tidied up by the next one
        if built is not None:
            new, size, checksum = built
            new.replace(shards.path(words.generation, plan.number))
            first = plan.ids[0] + 1 if plan.extended is None else plan.extended.first_id
            row = (words.generation, plan.number, first, last, len(index), size, checksum, plan.buried)
            connection.run(words["shard_write"], row)
        if plan.drained is not None:
            _drained(connection, words, plan.drained, last)
    if plan.drained is not None and last >= plan.drained.last_id:
        shards.remove(words.generation, plan.drained.shard)
    return True


def _drained(connection: Connection, words: Words, shard: Shard, last: int) -> None:
    """Let a shard answer only for its chunks beyond the last that another has taken over."""
    if last < shard.last_id:
        connection.run(words["shard_begin"], (last + 1, words.generation, shard.shard))
    else:
        connection.run(words["shard_delete"], (words.generation, shard.shard))


def _add(connections: Connections, words: Words, index: Index, dimension: int, plan: _Plan, mine: _Upkeep) -> int:
    """Add the planned chunks; return the id up to which the shard then goes."""
    room = plan.most
    with connections.use() as connection:
        for numbers, vectors in chunks_scan(connection, words, plan.ids, dimension):
            index_add(index, numbers[:room], vectors[:room])
            mine.renew(connection)
            if room <= len(numbers):
                return int(numbers[room - 1])
            room -= len(numbers)
    return plan.ids[1]


def lexical_maintain(connections: Connections, words: Words, *, idle: bool) -> bool:
    """Go one piece on with a pass over all terms, or begin one if it is due."""
    with connections.use() as connection:
        if not _pass_due(connection, words, idle=idle):
            return False
    with _upkeep(connections, words.generation) as mine:
        if mine is not None:
            with connections.snapshot() as connection:
                known = int(connection.value(words["next_id"], (words.generation,)))
                with connection.stream(words["documents_current"]) as documents:
                    current = np.fromiter((doc for (doc,) in documents), dtype=np.uint32)
            with connections.transaction() as connection:
                _Pass(connection, words, current, known).piece()
        return mine is not None


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
        blobs = [self._connection.value(self._words["blocks_read"], (term, number)) for number in numbers]
        merged = blocks_merge(blobs, self._current)
        if len(merged) == len(blobs) and sum(len(block.data) for block in merged) == sum(map(len, blobs)):
            return
        self._connection.many(self._words["blocks_delete"], [(term, number) for number in numbers])
        self._connection.many(
            self._words["postings_insert"],
            [(term, block.number, block.docs, block.lengths, block.data) for block in merged],
        )


class _Upkeep:
    """The upkeep of a generation, as long as it is ours."""

    def __init__(self, generation: int) -> None:
        self.owner = uuid.uuid4().hex
        self._generation = generation

    def begin(self, connection: Connection) -> bool:
        """Take it, unless somebody else has it."""
        return connection.row(STATEMENTS["upkeep_begin"], self._values(connection)) is not None

    def renew(self, connection: Connection) -> bool:
        """Keep it; False when it has been lost, or the generation has been dropped."""
        return connection.row(STATEMENTS["upkeep_renew"], self._values(connection)) is not None

    def end(self, connection: Connection) -> None:
        """Leave it to others."""
        connection.run(STATEMENTS["upkeep_end"], (self._generation, self.owner))

    def _values(self, connection: Connection) -> dict[str, Any]:
        now = clock(connection)
        expires_at = now + UPKEEP_SECONDS * MICROSECONDS
        return {"generation": self._generation, "owner": self.owner, "now": now, "expires_at": expires_at}


@contextmanager
def _upkeep(connections: Connections, generation: int) -> Generator[_Upkeep | None]:
    """Take the upkeep of a generation for the length of the block; None when somebody else has it."""
    upkeep = _Upkeep(generation)
    with connections.transaction() as connection:
        mine = upkeep.begin(connection)
    try:
        yield upkeep if mine else None
    finally:
        if mine:
            with connections.transaction() as connection:
                upkeep.end(connection)
