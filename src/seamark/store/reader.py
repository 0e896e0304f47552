"""The contract of a reader: what one search sees of a database. The rules of the store's contract hold here as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seamark.model import (
        ChunkHit,
        Filter,
        Generation,
        Key,
        LiveRow,
        Source,
        TermStatistics,
    )

T_co = TypeVar("T_co", covariant=True)


class Answer(Protocol[T_co]):
    """What was asked of a reader, and is waited for when called. The database may be at it meanwhile: ask early, call late."""

    def __call__(self) -> T_co:
        """Return it. Called within the reader's life, once."""
        ...


class Reader(Protocol):
    """What one search sees: all methods read the same snapshot, taken between the reader's opening and its first answer."""

    def generations(self, source_id: int) -> Sequence[Generation]:
        """Return the source's generations, oldest first."""
        ...

    def terms_statistics(self, generation_id: int, terms: Sequence[str]) -> Sequence[TermStatistics]:
        """Return statistics of those of the terms that have postings (the empty term is every document).

        Counts include versions of rows that are no longer current, until compaction has dropped them.
        """
        ...

    def postings_read(
        self, generation_id: int, terms: Sequence[str], limit: int | None = None
    ) -> Mapping[str, NDArray[np.void]]:
        """Return the postings (dtype `POSTING`) of each term that has any.

        With a `limit`, whole blocks are read, newest first, until a term has at least that many postings.
        """
        ...

    def documents_keys(self, generation_id: int, documents: Sequence[int]) -> Mapping[int, Key]:
        """Return document → key for those documents that are current, be their row live or not."""
        ...

    def documents_resolve(
        self, source: Source, generation_id: int, documents: Sequence[int], where: Filter | None
    ) -> Mapping[int, Key]:
        """Return document → key for those of the current documents whose row is live and satisfies the filter.

        Current: the generation's row still has that document number. Live: the row is in the source, within its `where`.
        """
        ...

    def documents_matching(self, source: Source, generation_id: int, where: Filter, limit: int) -> Mapping[int, Key]:
        """Return document → key for up to `limit` live rows that satisfy the filter, in no order."""
        ...

    def chunks_nearest(
        self, generation_id: int, vector: NDArray[np.float32], limit: int, *, exact: bool = False
    ) -> Answer[Sequence[ChunkHit]]:
        """Return the `limit` chunks of highest cosine similarity, best first, ties by key.

        Approximate (HNSW) where an index is there and `exact` is false. Fewer than `limit` only when there are no more.
        Chunks of rows that have since been deleted or edited may be among them: see `keys_live`.
        """
        ...

    def chunks_matching(
        self, source: Source, generation_id: int, vector: NDArray[np.float32], where: Filter, limit: int
    ) -> Sequence[ChunkHit]:
        """Return the `limit` best chunks of live rows that satisfy the filter: exact, best first, ties by key."""
        ...

    def keys_live(self, source: Source, keys: Sequence[Key], where: Filter | None) -> Sequence[Key]:
        """Return those of the keys whose row is live and satisfies the filter, in the order given."""
        ...

    def rows_live(self, source: Source, keys: Sequence[Key], generations: Sequence[int] = ()) -> Sequence[LiveRow]:
        """Return the live rows of the keys, in the order given: their present text, and the version each generation holds."""
        ...
