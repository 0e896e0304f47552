"""Settling a lease: everything that a worker has produced, in one transaction, each row only if nothing newer is there."""

from __future__ import annotations

from itertools import accumulate, chain, repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from seamark.model import LexicalBatch, Outcome, Settled
from seamark.store.sqlite.claims import MICROSECONDS, clock
from seamark.store.sqlite.connection import integers
from seamark.store.sqlite.stamps import stamps_owe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seamark.model import FailedRow, IndexedRow, Lease, VectorBatch
    from seamark.store.sqlite.connection import Connection, Connections, Row
    from seamark.store.sqlite.words import Words

BLOCK_DOCUMENTS = 1024
"""Settles whose first document is in the same so many add to the same blocks: at most a page or two is written again."""
_GONE = -1


def lease_settle(
    connections: Connections,
    words: Words,
    lease: Lease,
    batch: VectorBatch | LexicalBatch,
    failed: Sequence[FailedRow],
) -> Settled | None:
    """Write what a lease produced and retire it; None when it is not ours."""
    with connections.transaction() as connection:
        return Settling(connection, words, lease).settle(batch, failed)


class Settling:
    """One settle, within its transaction."""

    def __init__(self, connection: Connection, words: Words, lease: Lease) -> None:
        self._connection = connection
        self._words = words
        self._lease = lease
        self._now = clock(connection)
        self._old: dict[int, int] = {}

    def settle(self, batch: VectorBatch | LexicalBatch, failed: Sequence[FailedRow]) -> Settled | None:
        """Write everything, or nothing."""
        lease = self._lease
        held = (lease.id, lease.fence, lease.worker, self._now, lease.generation_id)
        next_id = self._connection.value(self._words["lease_hold"], held)
        if next_id is None:
            return None
        self._compare([row.seq for row in chain(batch.rows, failed)])
        current = [row.seq in self._old for row in batch.rows]
        if isinstance(batch, LexicalBatch):
            self._write_lexical(batch, current, next_id)
        else:
            self._write_vectors(batch, current, next_id)
        won = [row for row, wins in zip(batch.rows, current, strict=True) if wins]
        lost = [row for row in failed if row.seq in self._old]
        self._write_failures(won, lost)
        if self._words.source.spec.stamp and not isinstance(batch, LexicalBatch):
            stamps_owe(self._connection, self._words, [(*row.key, row.seq) for row in won if row.chunks > 0])
        self._connection.run(self._words["lease_retire"], (lease.id,))
        written, recorded = len(won), len(lost)
        return Settled(written, len(batch.rows) + len(failed) - written - recorded, recorded)

    def _compare(self, seqs: list[int]) -> None:
        """Find the rows whose version is still the journal's: seq → how many chunks the older version has.

        A `seq` is given out once and belongs to one key, so that finding it in the journal is the whole comparison.
        """
        if seqs:
            asked = integers(seqs)
            found = self._connection.rows(self._words["settle_compare"], (asked,))
            self._old = {seq: chunks or 0 for seq, _, chunks in found}

    def _write_vectors(self, batch: VectorBatch, current: list[bool], next_id: int) -> None:
        if not any(current):
            return
        now, worker = self._now, self._lease.worker
        rows = [
            (*row.key, row.seq, _chunks(row), row.truncated, now, worker)
            for row, wins in zip(batch.rows, current, strict=True)
            if wins
        ]
        self._connection.many(self._words["rows_settle_vector"], rows)
        written = [row for row, wins in zip(batch.rows, current, strict=True) if wins]
        gone = [row.key for row in written if row.outcome is Outcome.GONE]
        self._connection.many(self._words["chunks_keep"], gone)
        if self._connection.value(self._words["kept_any"]):
            self._connection.many(self._words["kept_forget"], gone)
            self._connection.many(self._words["kept_delete"], [row.key for row in written if row.outcome is not Outcome.GONE])
        replaced = [row.key for row in batch.rows if self._old.get(row.seq, 0) > 0]
        if replaced:
            bury(self._connection, self._words, self._connection.many_rows(self._words["chunks_delete"], replaced))
        chunks = self._chunk_rows(batch, current, next_id)
        if chunks:
            self._connection.many(self._words["chunks_insert"], chunks)
            self._connection.run(self._words["next_id_write"], (next_id + len(chunks), self._words.generation))

    def _chunk_rows(self, batch: VectorBatch, current: list[bool], next_id: int) -> list[tuple[Any, ...]]:
        assert len(batch.chunks) == len(batch.vectors)
        vectors = np.ascontiguousarray(batch.vectors)
        data = vectors.tobytes()
        width = vectors.shape[1] * vectors.itemsize if len(vectors) else 0
        ends = accumulate(row.chunks for row in batch.rows)
        found: list[tuple[Any, ...]] = []
        for row, wins, end in zip(batch.rows, current, ends, strict=True):
            if not wins:
                continue
            for ordinal, place in enumerate(range(end - row.chunks, end)):
                chunk = batch.chunks[place]
                embedding = data[place * width : (place + 1) * width]
                found.append((next_id + len(found), *row.key, ordinal, chunk.start, chunk.stop, chunk.digest, embedding))
        return found

    def _write_lexical(self, batch: LexicalBatch, current: list[bool], next_id: int) -> None:
        if not any(current):
            return
        now, worker = self._now, self._lease.worker
        rows = [
            (*row.key, row.seq, _chunks(row), row.truncated, now, worker, doc if row.outcome is Outcome.INDEXED else None)
            for doc, row, wins in zip(range(next_id, next_id + len(current)), batch.rows, current, strict=True)
            if wins
        ]
        self._connection.many(self._words["rows_settle_lexical"], rows)
        self._connection.run(self._words["next_id_write"], (next_id + len(current), self._words.generation))
        blocks = _blocks(batch, current, next_id)
        if blocks:
            self._connection.many(self._words["postings_insert"], blocks)
        superseded = sum(self._old[row.seq] > 0 for row, wins in zip(batch.rows, current, strict=True) if wins)
        self._connection.run(self._words["postings_upkeep_add"], (len(blocks), superseded, self._words.generation))

    def _write_failures(self, won: Sequence[IndexedRow], lost: Sequence[FailedRow]) -> None:
        if self._connection.value(self._words["failures_any"]):
            self._connection.many(self._words["failures_delete"], [row.key for row in won])
        if lost:
            rows = [
                (*row.key, row.seq, row.attempts, row.kind, _storable(row.error), self._retry_at(row), self._now)
                for row in lost
            ]
            self._connection.many(self._words["failures_write"], rows)
        if self._lease.lane == "retry":
            self._connection.run(self._words["failures_let_go"], (self._lease.id,))

    def _retry_at(self, row: FailedRow) -> int | None:
        return None if row.retry_seconds is None else self._now + int(row.retry_seconds * MICROSECONDS)


def bury(connection: Connection, words: Words, deleted: list[Row]) -> None:
    """Tell the shards which chunks their files hold in vain."""
    if deleted:
        ids = np.array([number for (number,) in deleted], dtype=np.int64)
        values = {"chunks": integers(ids), "generation": words.generation, "lowest": int(ids.min())}
        connection.run(words["shard_bury"], values)


def _chunks(row: IndexedRow) -> int:
    return _GONE if row.outcome is Outcome.GONE else row.chunks


def _blocks(batch: LexicalBatch, current: list[bool], first: int) -> list[tuple[Any, ...]]:
    """Return one row of the postings table per term, of the rows that are current, with their document numbers."""
    postings, counts = batch.postings.copy(), np.diff(batch.offsets)
    if not all(current):
        kept = np.array(current, dtype=np.bool_)[postings["doc"]]
        terms = np.repeat(np.arange(len(counts)), counts)
        counts = np.bincount(terms[kept], minlength=len(counts))
        postings = postings[kept]
    postings["doc"] += np.uint32(first)
    ends = np.cumsum(counts)
    lengths = _sums(postings["length"], ends, counts)
    data = postings.tobytes()
    size = postings.dtype.itemsize
    block = first - first % BLOCK_DOCUMENTS
    return [
        (term, block, count, length, data[(end - count) * size : end * size])
        for term, block, count, length, end in zip(
            batch.terms, repeat(block), counts.tolist(), lengths.tolist(), ends.tolist(), strict=False
        )
        if count
    ]


def _sums(values: NDArray[np.uint16], ends: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sum of each run of values."""
    totals = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return totals[ends] - totals[ends - counts]


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
