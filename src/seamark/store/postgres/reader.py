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
    from psycopg import Cursor

    from seamark.model import Filter, Generation, Key, Source
    from seamark.store.postgres.catalog import Catalog
    from seamark.store.postgres.connection import Connection, Database, Row
    from seamark.store.postgres.names import Words
    from seamark.store.reader import Answer

WIDTH_PER_CHUNK = 2
"""How much wider a search of the HNSW index is than what is asked for."""
WIDTH_MAX = 1000
"""The most that pgvector takes for `hnsw.ef_search`. A search that needs more goes on by itself (iterative scan)."""


class PostgresReader:
    """See `seamark.store.reader.Reader`."""

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
        cursor = self._database.run(self._connection, name, self._words(generation_id), values, binary=True)
        blobs: dict[str, list[bytes]] = {}
        for term, data in cursor.fetchall():
            blobs.setdefault(term, []).append(data)
        return {term: np.frombuffer(b"".join(data), POSTING) for term, data in blobs.items()}

    def documents_keys(self, generation_id: int, documents: Sequence[int]) -> Mapping[int, Key]:
        """See the contract."""
        rows = self._run("documents_keys", self._words(generation_id), {"docs": codec.array(documents)})
        return {doc: tuple(key) for doc, *key in rows}

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
    ) -> Answer[Sequence[ChunkHit]]:
        """See the contract."""
        words = self._words(generation_id)
        values = {"vector": _vector(vector), "limit": limit}
        if exact:
            return lambda: self._chunks_exact(words, values)
        if (width := round(WIDTH_PER_CHUNK * limit)) > SEARCH_WIDTH:
            self._ask("search_width", {}, {"width": min(width, WIDTH_MAX)})
        cursor = self._ask("chunks_nearest", words, values)

        def answer() -> Sequence[ChunkHit]:
            rows = cursor.fetchall()
            return _hits(rows) if len(rows) == limit else self._chunks_exact(words, values)

        return answer

    def _chunks_exact(self, words: Words, values: Mapping[str, object]) -> Sequence[ChunkHit]:
        self._ask("search_exact", {})
        cursor = self._ask("chunks_nearest_exact", words, values)
        self._ask("search_indexed", {})
        return _hits(cursor.fetchall())

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

    def rows_live(self, source: Source, keys: Sequence[Key], generations: Sequence[int] = ()) -> Sequence[LiveRow]:
        """See the contract."""
        indexed = "".join(self._database.compose("rows_live_indexed", self._words(generation)) for generation in generations)
        words = self._catalog.words(source.id) | {"indexed": indexed}
        rows = self._run("rows_live", words, codec.keys_columns(keys, len(source.table.key)))
        places: list[int] = [row[0] for row in rows]
        texts = 2 + len(generations)
        return [LiveRow(keys[place - 1], row[1], row[texts:], row[2:texts]) for place, row in zip(places, rows, strict=True)]

    def _words(self, generation_id: int) -> Words:
        words = self._catalog.generation_words(generation_id)
        if words is None:
            raise StoreError(f"there is no generation {generation_id}; it may have been dropped since")
        return words

    def _ask(self, name: str, words: Words, values: Mapping[str, object] | None = None) -> Cursor[Row]:
        return self._database.run(self._connection, name, words, values)

    def _run(self, name: str, words: Words, values: Mapping[str, object] | None = None) -> list[Row]:
        return self._ask(name, words, values).fetchall()

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
