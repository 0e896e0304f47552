"""An attached table: searching it, and how it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from seamark.core.filters import filter_parse
from seamark.core.search import Request, SearchResult, generation_read, search
from seamark.embed.validation import embedder_errors, stored_vectors
from seamark.errors import EmbedderError
from seamark.model import SourceCoverage, precision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seamark.core.service import Seamark
    from seamark.model import Failure, Generation, Key, KeyValue, Source

    QueryVector = tuple[NDArray[np.float32], float]


class _GenerationSwappedError(Exception):
    """Another generation became the active one between the embedding of a query and the search's snapshot."""


@dataclass(frozen=True, slots=True)
class _Question:
    """A query embedded ahead for one generation, or why it could not be."""

    generation_id: int | None
    answer: QueryVector | EmbedderError | None

    def __call__(self, generation: Generation, query: str) -> QueryVector:  # noqa: ARG002 it was embedded ahead
        if generation.id != self.generation_id or self.answer is None:
            raise _GenerationSwappedError
        if isinstance(self.answer, EmbedderError):
            raise self.answer
        return self.answer


class Tracked:
    """An attached table."""

    def __init__(self, service: Seamark, source: Source) -> None:
        self._service = service
        self.source = source
        self._read: Generation | None = None  # what search read last; one that has been swapped since is noticed

    @property
    def name(self) -> str:
        """The name it was attached by."""
        return self.source.name

    def search(
        self,
        query: str,
        *,
        limit: int = 10,
        mode: Literal["hybrid", "lexical", "vector"] = "hybrid",
        filter: Mapping[str, object] | None = None,  # noqa: A002 the word users of search tools expect
        fusion: Literal["convex", "rrf"] = "convex",
    ) -> SearchResult:
        """Find rows by meaning and by words; iterate over the result for the hits, best first.

        Args:
            query: any text; its words are never combined with AND.
            limit: how many hits at most.
            mode: "hybrid" fuses both legs, "lexical" is BM25 alone, "vector" is similarity alone.
            filter: on the table's own columns: `{"org_id": 7, "created": {"$gte": "2026-01-01"}, "tag": {"$in": ["a", "b"]}}`;
                also `$ne`, `$gt`, `$lt`, `$lte`, null, `$and`, `$or`, and members of JSON columns as `column.member`.
            fusion: how two legs become one list; see docs/architecture.md.

        Raises:
            InvalidRequestError: an empty query, a limit below 1, a malformed filter; UnknownColumnError for its columns.
        """
        where = filter_parse(filter, self.source.table) if filter else None
        request = Request(query, limit=limit, mode=mode, where=where, fusion=fusion)
        while True:
            question = self._question(request)
            try:
                with self._service.store.snapshot() as reader:
                    return search(reader, self.source, request, question)
            except _GenerationSwappedError:
                self._read = None

    def _question(self, request: Request) -> _Question:
        """Embed the query for the generation that search is about to read: before the snapshot, since a model may be slow."""
        if request.mode == "lexical":
            return _Question(None, None)
        generation = self._read or generation_read(self._service.store.generations(self.source.id), "vector")
        if generation is None:
            return _Question(None, None)
        self._read = generation
        try:
            return _Question(generation.id, self._query_vector(generation, request.query))
        except EmbedderError as error:
            return _Question(generation.id, error)

    def _query_vector(self, generation: Generation, query: str) -> QueryVector:
        """Embed a query with the generation's own model; also return that model's weight in a fusion."""
        assert generation.model is not None
        embedder = self._service.embedders.of(generation.model, generation.locator)
        with self._service.embedders.slot(embedder), embedder_errors(generation.model.name):
            answer = embedder.embed_queries([query])
        stored = stored_vectors(answer, 1, generation.model, precision(generation.identity))
        return stored[0].astype("float32"), embedder.fusion_weight

    def coverage(self) -> SourceCoverage:
        """Return exact counts, per generation and for the one that vector search reads."""
        store = self._service.store
        generations = [found for found in store.generations(self.source.id) if found.state != "retired"]
        counts = store.coverage(self.source, [found.id for found in generations])
        read = generation_read(generations, "vector")
        shown = counts[read.id] if read is not None else None
        return SourceCoverage(
            live=shown.live if shown else 0,
            embedded=shown.embedded if shown else 0,
            blank=shown.blank if shown else 0,
            missing=shown.missing if shown else 0,
            failed=shown.failed if shown else 0,
            truncated=shown.truncated if shown else 0,
            generation=read.id if read else None,
            generations=counts,
        )

    def failures(self, limit: int = 100) -> tuple[Failure, ...]:
        """Return the rows that could not be indexed: which, why, how often, and when they are tried again.

        Up to `limit` of each generation, one generation after the other, newest first in each.
        """
        store = self._service.store
        generations = (found for found in store.generations(self.source.id) if found.state != "retired")
        return tuple(failure for found in generations for failure in store.failures(self.source, found.id, limit))

    def failures_retry(self, keys: Sequence[KeyValue | Key] | None = None) -> int:
        """Make failed rows, all or those of the keys, due at once with all their attempts before them; return how many."""
        store = self._service.store
        chosen = None if keys is None else [key if isinstance(key, tuple) else (key,) for key in keys]
        retried = 0
        for generation in store.generations(self.source.id):
            if generation.state != "retired":
                retried += store.failures_retry(self.source, generation.id, chosen)
                store.generation_backoff(generation.id, 0.0, None)
        return retried
