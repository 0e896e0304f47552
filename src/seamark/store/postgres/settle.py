"""Settling a lease: everything that it produced, or nothing, in one transaction.

The lease's row is locked first, so that nobody takes it over meanwhile. Rows are written in key order, so that two workers who
write the same ones do not wait for each other in a ring; whoever comes second finds a `seq` that is not older, and loses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from seamark.model import LexicalBatch, Outcome, Settled
from seamark.store.postgres import codec
from seamark.store.postgres.names import key_columns, key_width
from seamark.store.postgres.stamps import stamps_settle

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from seamark.model import FailedRow, IndexedRow, Lease, Source, VectorBatch
    from seamark.store.postgres.catalog import Catalog
    from seamark.store.postgres.connection import Connection, Database
    from seamark.store.postgres.names import Words


def lease_settle(
    database: Database,
    catalog: Catalog,
    source: Source,
    lease: Lease,
    batch: VectorBatch | LexicalBatch,
    failed: Sequence[FailedRow],
) -> Settled | None:
    """Write what the lease produced and retire it; see the contract."""
    words = catalog.generation_words(lease.generation_id)
    if words is None:
        return None

    def settle() -> Settled | None:
        with database.keyed() as connection:
            return Settling(database, connection, words, source, lease).settle(batch, failed)

    return database.retried(settle)


class Settling:
    """One settle, within its transaction."""

    def __init__(self, database: Database, connection: Connection, words: Words, source: Source, lease: Lease) -> None:
        self._database, self._connection, self._words, self._lease = database, connection, words, lease
        self._source = source
        self._widths = [key_width(column) for column in key_columns(source.table)]

    def settle(self, batch: VectorBatch | LexicalBatch, failed: Sequence[FailedRow]) -> Settled | None:
        """Write everything, or nothing."""
        lexical = isinstance(batch, LexicalBatch)
        documents = self._hold(len(batch.rows) if lexical else 0)
        if documents is None:
            return None
        won = self._rows(batch.rows, documents if lexical else None) if batch.rows else np.zeros(0, np.bool_)
        winners = [row for row, is_won in zip(batch.rows, won, strict=True) if is_won]
        if isinstance(batch, LexicalBatch):
            self._postings(batch, won, documents)
        else:
            self._chunks(batch, won, winners)
        recorded = self._failures(winners, failed)
        if self._source.spec.stamp and not lexical:
            keys = [row.key for row in winners if row.chunks > 0]
            stamps_settle(self._database, self._connection, self._words, self._source, self._lease.generation_id, keys)
        lost = len(batch.rows) - len(winners) + len(failed) - recorded
        return Settled(len(winners), lost, recorded)

    def _run(self, name: str, **values: object) -> Iterable[tuple[int, ...]]:
        cursor = self._database.run(self._connection, name, self._words, {"lease": self._lease.id, **values})
        return cursor.fetchall() if cursor.description else ()

    def _keys(self, rows: Sequence[IndexedRow | FailedRow]) -> dict[str, str]:
        return codec.keys_columns([row.key for row in rows], len(self._widths))

    def _hold(self, rows: int) -> NDArray[np.int64] | None:
        """Lock the lease; return document numbers for the rows, ascending, or None when the lease is not ours."""
        draw = f"nextval('{self._words['documents']}')" if rows else "NULL::bigint"
        words = self._words | {"next_document": draw}
        values = {"lease": self._lease.id, "fence": self._lease.fence, "rows": rows}
        held = self._database.run(self._connection, "lease_hold", words, values).fetchone()
        return None if held is None else np.sort(np.array(held[0], np.int64))

    def _rows(self, rows: Sequence[IndexedRow], documents: NDArray[np.int64] | None) -> NDArray[np.bool_]:
        """Write the rows; return which of them were."""
        values: dict[str, object] = {
            **self._keys(rows),
            "seqs": codec.array(row.seq for row in rows),
            "chunks": codec.array(-1 if row.outcome == "gone" else row.chunks for row in rows),
            "truncated": codec.array(row.truncated for row in rows),
            "worker": self._lease.worker,
        }
        if documents is not None:
            values["docs"] = codec.array(documents.tolist())
        written = {seq for (seq,) in self._run("rows_settle_vector" if documents is None else "rows_settle_lexical", **values)}
        return np.fromiter((row.seq in written for row in rows), np.bool_, len(rows))

    def _chunks(self, batch: VectorBatch, won: NDArray[np.bool_], winners: Sequence[IndexedRow]) -> None:
        gone = [row for row in winners if row.outcome is Outcome.GONE]
        if gone:
            self._run("chunks_keep", **self._keys(gone))
        if len(winners) > len(gone):
            self._run("chunks_delete", **self._keys([row for row in winners if row.outcome is not Outcome.GONE]))
        counts = np.array([row.chunks for row in batch.rows], np.int64)
        rows = np.repeat(np.arange(len(batch.rows)), counts)
        kept = np.flatnonzero(won[rows]) if len(rows) else rows
        if not len(kept):
            return
        ordinals = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        chunks = [batch.chunks[position] for position in _integers(kept)]
        data = codec.chunks_encode(
            [batch.rows[row].key for row in _integers(rows[kept])],
            self._widths,
            ordinals[kept],
            [chunk.start for chunk in chunks],
            [chunk.stop for chunk in chunks],
            [chunk.digest for chunk in chunks],
            batch.vectors[kept],
        )
        with self._database.copy(self._connection, "chunks_copy", self._words) as copy:
            copy.write(data)

    def _postings(self, batch: LexicalBatch, won: NDArray[np.bool_], documents: NDArray[np.int64]) -> None:
        """Write a block for each term, its postings numbered by document: ascending, since the numbers are."""
        if not len(batch.postings):
            return
        kept = won[batch.postings["doc"]]
        postings = batch.postings[kept]
        postings["doc"] = documents[postings["doc"]]
        bounds = np.concatenate([[0], np.cumsum(kept)])[batch.offsets]
        lengths = np.concatenate([[0], np.cumsum(postings["length"], dtype=np.int64)])[bounds]
        data, firsts = postings.tobytes(), postings["doc"]
        edges, sums = _integers(bounds), _integers(lengths)
        first = _integers(firsts[np.minimum(bounds[:-1], len(firsts) - 1)]) if len(firsts) else []
        rows = (
            (term, first[at], edges[at + 1] - edges[at], sums[at + 1] - sums[at], data[edges[at] * 8 : edges[at + 1] * 8])
            for at, term in enumerate(batch.terms)
            if edges[at + 1] > edges[at]
        )
        with self._database.copy(self._connection, "postings_copy", self._words) as copy:
            copy.write(codec.postings_encode(rows))

    def _failures(self, winners: Sequence[IndexedRow], failed: Sequence[FailedRow]) -> int:
        if winners:
            self._run("failures_settle", **self._keys(winners))
        recorded = list(self._run("failures_write", **self._keys(failed), **_failed(failed))) if failed else []
        if self._lease.lane == "retry":
            self._run("failures_let_go")
        self._run("lease_retire")
        return len(recorded)


def _failed(failed: Sequence[FailedRow]) -> dict[str, object]:
    return {
        "seqs": [row.seq for row in failed],
        "attempts": [row.attempts for row in failed],
        "kinds": [row.kind for row in failed],
        "errors": [codec.text_clean(row.error) for row in failed],
        "waits": [None if row.retry_seconds is None else round(row.retry_seconds * 1e6) for row in failed],
    }


def _integers(numbers: NDArray[np.integer[Any]]) -> list[int]:
    """Return Python's integers, which are faster one by one."""
    return numbers.tolist()
