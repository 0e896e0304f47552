"""Search's view of the database: one read-only transaction on one snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from psycopg import errors

from seamark.errors import InvalidRequestError, StoreError
from seamark.model import POSTING, ChunkHit, LiveRow, TermStatistics
from seamark.store.postgres import codec
from seamark.store.postgres.connection import SEARCH_WIDTH
from seamark.store.postgres.filters import Parameters, filter_compile
from seamark.store.postgres.generations import generations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from seamark.model import Filter, Generation, Key, Source
    from seamark.store.postgres.catalog import Catalog
    from seamark.store.postgres.connection import Connection, Database, Row
    from seamark.store.postgres.names import Words

WIDTH_MAX = 1000
"""The most that pgvector takes for `hnsw.ef_search`. A search that needs more goes on by itself (iterative scan)."""


class PostgresReader:
    """See `seamark.store.contract.Reader`."""

    def __init__(self, database: Database, catalog: Catalog, connection: Connection) -> None:
        self._database, self._catalog, self._connection = database, catalog, connection

    def generations(self, source_id: int) -> Sequence[Generation]:
        """See the contract."""
        return generations(self._database, self._connection, source_id)

    def terms_statistics(self, generation_id: int, terms: Sequence[str]) -> Sequence[TermStatistics]:
        """See the contract."""
        rows = self._run("terms_statistics", self._words(generation_id), {"terms": _terms(terms)})
        return [TermStatistics(*row) for row in rows]

    def postings_read(
        self, generation_id: int, terms: Sequence[str], limit: int | None = None
    ) -> Mapping[str, NDArray[np.void]]:
        """See the contract."""
        values = {"terms": _terms(terms), "limit": limit}
        name = "postings_read" if limit is None else "postings_read_newest"
        blobs: dict[str, list[bytes]] = {}
        for term, data in self._database.run(self._connection, name, self._words(generation_id), values, binary=True):
            blobs.setdefault(term, []).append(data)
        return {term: np.frombuffer(b"".join(data), POSTING) for term, data in blobs.items()}

    def documents_resolve(
        self, source: Source, generation_id: int, documents: Sequence[int], where: Filter | None
    ) -> Mapping[int, Key]:
        """See the contract."""
        values = {"docs": codec.array(documents)}
        rows = self._filtered("documents_resolve", source, self._words(generation_id), values, where)
        return {doc: tuple(key) for doc, *key in rows}

    def documents_matching(self, source: Source, generation_id: int, where: Filter, limit: int) -> Mapping[int, Key]:
        """See the contract."""
        rows = self._filtered("documents_matching", source, self._words(generation_id), {"limit": limit}, where)
        return {doc: tuple(key) for doc, *key in rows}

    def chunks_nearest(
        self, generation_id: int, vector: NDArray[np.float32], limit: int, *, exact: bool = False
    ) -> Sequence[ChunkHit]:
        """See the contract."""
        words = self._words(generation_id)
        values = {"vector": _vector(vector), "limit": limit}
        if not exact:
            if 2 * limit > SEARCH_WIDTH:
                self._run("search_width", {}, {"width": min(2 * limit, WIDTH_MAX)})
            rows = self._run("chunks_nearest", words, values)
            if len(rows) == limit:
                return _hits(rows)
        self._run("search_exact", {})
        rows = self._run("chunks_nearest_exact", words, values)
        self._run("search_indexed", {})
        return _hits(rows)

    def chunks_matching(
        self, source: Source, generation_id: int, vector: NDArray[np.float32], where: Filter, limit: int
    ) -> Sequence[ChunkHit]:
        """See the contract."""
        values = {"vector": _vector(vector), "limit": limit}
        return _hits(self._filtered("chunks_matching", source, self._words(generation_id), values, where))

    def keys_live(self, source: Source, keys: Sequence[Key], where: Filter | None) -> Sequence[Key]:
        """See the contract."""
        values = codec.keys_columns(keys, len(source.table.key))
        rows = self._filtered("keys_live", source, self._catalog.words(source.id), values, where)
        places: list[int] = [row[0] for row in rows]
        return [keys[place - 1] for place in places]

    def rows_live(self, source: Source, keys: Sequence[Key]) -> Sequence[LiveRow]:
        """See the contract."""
        rows = self._run("rows_live", self._catalog.words(source.id), codec.keys_columns(keys, len(source.table.key)))
        places: list[int] = [row[0] for row in rows]
        return [LiveRow(keys[place - 1], row[1], row[2:]) for place, row in zip(places, rows, strict=True)]

    def seqs_indexed(self, generation_id: int, keys: Sequence[Key]) -> Mapping[Key, int]:
        """See the contract."""
        if not keys:
            return {}
        rows = self._run("seqs_indexed", self._words(generation_id), codec.keys_columns(keys, len(keys[0])))
        return {keys[place - 1]: seq for place, seq in rows}

    def _words(self, generation_id: int) -> Words:
        words = self._catalog.generation_words(generation_id)
        if words is None:
            raise StoreError(f"there is no generation {generation_id}; it may have been dropped since")
        return words

    def _run(self, name: str, words: Words, values: Mapping[str, object] | None = None) -> list[Row]:
        cursor = self._database.run(self._connection, name, words, values)
        return cursor.fetchall() if cursor.description else []

    def _filtered(
        self, name: str, source: Source, words: Words, values: Mapping[str, object], where: Filter | None
    ) -> list[Row]:
        parameters = Parameters()
        condition = filter_compile(where, source.table, parameters)
        try:
            return self._run(name, words | {"filter": condition}, {**values, **parameters})
        except (errors.DataError, errors.UndefinedFunction) as exc:
            raise InvalidRequestError(f"filter: {exc.diag.message_primary}") from exc


def _terms(terms: Sequence[str]) -> list[str]:
    return [term for term in terms if codec.text_storable(term)]


def _vector(vector: NDArray[np.float32]) -> str:
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def _hits(rows: Sequence[Row]) -> list[ChunkHit]:
    return [ChunkHit(row[:-3], row[-3], row[-2], 1.0 - row[-1]) for row in rows]
