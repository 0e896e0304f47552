"""What one search sees."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from seamark.model import ChunkHit, LiveRow, TermStatistics
from seamark.store.blocks import postings_load
from seamark.store.sqlite.ann import best_of, similarities
from seamark.store.sqlite.catalog import generations_list
from seamark.store.sqlite.claims import text_decode
from seamark.store.sqlite.connection import integers
from seamark.store.sqlite.filters import filter_bound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from seamark.model import Filter, Generation, Key, Source
    from seamark.store.reader import Answer
    from seamark.store.sqlite.ann import Neighbours
    from seamark.store.sqlite.connection import Connection
    from seamark.store.sqlite.words import Words

SCAN_CHUNKS = 4096
"""Chunks compared at a time: a few megabytes."""


class SqliteReader:
    """A `Reader` on a connection that stands in a transaction."""

    def __init__(
        self,
        connection: Connection,
        codec: str,
        words: Callable[[Connection, int], Words],
        source_words: Callable[[Connection, Source, int], Words],
        neighbours: Neighbours,
    ) -> None:
        self._connection = connection
        self._codec = codec
        self._words = words
        self._source_words = source_words
        self._neighbours = neighbours

    def generations(self, source_id: int) -> Sequence[Generation]:
        """Return the source's generations, oldest first."""
        return generations_list(self._connection, source_id)

    def terms_statistics(self, generation_id: int, terms: Sequence[str]) -> Sequence[TermStatistics]:
        """Return statistics of those of the terms that have postings."""
        statement = self._words(self._connection, generation_id)["terms_statistics"]
        rows = self._connection.many_rows(statement, [(term,) for term in _askable(terms)])
        return [TermStatistics(*row) for row in rows if row[1]]

    def postings_read(
        self, generation_id: int, terms: Sequence[str], limit: int | None = None
    ) -> Mapping[str, NDArray[np.void]]:
        """Return the postings of each term that has any."""
        words = self._words(self._connection, generation_id)
        found: dict[str, NDArray[np.void]] = {}
        for term in _askable(terms):
            blobs = self._blobs(words, term) if limit is None else self._blobs_newest(words, term, limit)
            if blobs:
                found[term] = postings_load(blobs)
        return found

    def _blobs(self, words: Words, term: str) -> list[bytes]:
        return [data for (data,) in self._connection.rows(words["postings_read"], (term,))]

    def _blobs_newest(self, words: Words, term: str, limit: int) -> list[bytes]:
        blobs: list[bytes] = []
        total = 0
        with self._connection.stream(words["postings_read_newest"], (term,)) as rows:
            for docs, data in rows:
                blobs.append(data)
                total += docs
                if total >= limit:
                    break
        return blobs

    def documents_keys(self, generation_id: int, documents: Sequence[int]) -> Mapping[int, Key]:
        """Return document → key for those that are current."""
        statement = self._words(self._connection, generation_id)["documents_keys"]
        return {row[0]: row[1:] for row in self._connection.rows(statement, (integers(documents),))} if len(documents) else {}

    def documents_resolve(
        self, source: Source, generation_id: int, documents: Sequence[int], where: Filter | None
    ) -> Mapping[int, Key]:
        """Return document → key for those that are current, live, and satisfy the filter."""
        if not len(documents):
            return {}
        condition, values = filter_bound(where, "t")
        statement = self._source_words(self._connection, source, generation_id).fill("documents_resolve", filter=condition)
        asked = integers(documents)
        return {row[0]: row[1:] for row in self._connection.rows(statement, (asked, *values))}

    def documents_matching(self, source: Source, generation_id: int, where: Filter, limit: int) -> Mapping[int, Key]:
        """Return document → key for up to `limit` live rows that satisfy the filter."""
        condition, values = filter_bound(where, "t")
        statement = self._source_words(self._connection, source, generation_id).fill("documents_matching", filter=condition)
        return {row[0]: row[1:] for row in self._connection.rows(statement, (*values, limit))}

    def chunks_nearest(
        self, generation_id: int, vector: NDArray[np.float32], limit: int, *, exact: bool = False
    ) -> Answer[Sequence[ChunkHit]]:
        """Return the chunks of highest cosine similarity."""
        words = self._words(self._connection, generation_id)
        return lambda: self._neighbours.nearest(self._connection, words, vector, limit, exact=exact)

    def chunks_matching(
        self, source: Source, generation_id: int, vector: NDArray[np.float32], where: Filter, limit: int
    ) -> Sequence[ChunkHit]:
        """Return the best chunks of live rows that satisfy the filter."""
        condition, values = filter_bound(where, "t")
        words = self._source_words(self._connection, source, generation_id)
        best: list[tuple[float, int]] = []
        with self._connection.stream(words.fill("chunks_matching", filter=condition), values) as stream:
            while rows := list(islice(stream, SCAN_CHUNKS)):
                ids = np.array([number for number, _ in rows], dtype=np.int64)
                best = best_of(best, ids, similarities([embedding for _, embedding in rows], vector), limit)
        return self._neighbours.hits(self._connection, words, [number for _, number in best], vector)[:limit]

    def keys_live(self, source: Source, keys: Sequence[Key], where: Filter | None) -> Sequence[Key]:
        """Return those of the keys whose row is live and satisfies the filter."""
        condition, values = filter_bound(where, "t")
        statement = self._source_words(self._connection, source, 0).fill("keys_live", filter=condition)
        return self._connection.many_rows(statement, [(*key, *values) for key in keys])

    def rows_live(self, source: Source, keys: Sequence[Key], generations: Sequence[int] = ()) -> Sequence[LiveRow]:
        """Return the live rows of the keys with their present text and the version each generation holds."""
        indexed = "".join(self._words(self._connection, one)["rows_live_indexed"] for one in generations)
        words = self._source_words(self._connection, source, 0)
        rows = self._connection.many_rows(words.fill("rows_live", indexed=indexed), keys)
        held = 1 + len(generations)
        texts = held + len(source.table.key)
        return [LiveRow(row[held:texts], row[0], text_decode(row[texts:], self._codec), row[1:held]) for row in rows]


def _askable(terms: Sequence[str]) -> list[str]:
    """Return the terms that could be in the index: text with a lone surrogate cannot be asked for."""
    return [term for term in terms if term.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in term)]
