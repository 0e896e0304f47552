"""A search, from request to hits, over one reader: everything in a result is from one snapshot and one generation per kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Literal, get_args

from seamark.core.analysis import Analyzer
from seamark.core.catalog import attached
from seamark.core.chunking import Chunker, render
from seamark.core.fusion import convex, rrf
from seamark.core.legs import Depth, LexicalLeg, Rows, VectorLeg
from seamark.errors import EmbedderError, InvalidRequestError, UnknownGenerationError
from seamark.model import Hit, Leg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seamark.model import Filter, Generation, GenerationKind, Key, LiveRow, Source
    from seamark.store.reader import Reader

    QueryEmbedder = Callable[[Generation, str], tuple[NDArray[np.float32], float]]
    """Embeds a query for a vector generation; also returns the weight of that leg in a convex fusion. Raises EmbedderError."""

Mode = Literal["hybrid", "lexical", "vector"]
Fusion = Literal["convex", "rrf"]

LIMIT_MAX = 1000
QUERY_TERMS_MAX = 256
"""Different words of a query that count, from its beginning: a page of text as a query has fewer."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to search for. InvalidRequestError, at construction, for what cannot be meant."""

    query: str
    limit: int = 10
    mode: Mode = "hybrid"
    where: Filter | None = None
    fusion: Fusion = "convex"
    generation: int | None = None
    """Which generation to read for its kind, whatever its state; None is the active one."""

    def __post_init__(self) -> None:
        if not self.query.strip():
            raise InvalidRequestError("the query is empty; say what to look for")
        if not 1 <= self.limit <= LIMIT_MAX:
            raise InvalidRequestError(f"limit {self.limit} is not between 1 and {LIMIT_MAX}")
        if self.mode not in get_args(Mode):
            raise InvalidRequestError(f"unknown search mode {self.mode!r}; there are {', '.join(get_args(Mode))}")
        if self.fusion not in get_args(Fusion):
            raise InvalidRequestError(f"unknown fusion {self.fusion!r}; there are {', '.join(get_args(Fusion))}")


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits, best first. `degraded` names each leg that did not run, or not over all rows, and says why.

    A hit's score is the fused one in a hybrid search of two legs, else BM25 or the cosine. `generations` are those read.
    """

    hits: tuple[Hit, ...]
    degraded: tuple[str, ...] = ()
    generations: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


def search(reader: Reader, source: Source, request: Request, embed_query: QueryEmbedder) -> SearchResult:
    """Rank the source's rows for a request.

    In `hybrid` mode a leg that cannot run (no generation of its kind, an EmbedderError, a query without a word) is named in
    the result and the other one answers alone; when none can, the embedder's error or an InvalidRequestError is raised.
    """
    legs = _legs(reader, source, request, embed_query)
    if not legs.ran():
        raise legs.error or InvalidRequestError(f"{source.name!r} cannot be searched so: {'; '.join(legs.degraded)}")
    ranking, rows = _first(reader, source, request, legs)
    weights = legs.lexical.weights() if legs.lexical else legs.analyzer.query_terms(request.query)
    passages = _Passages(legs.chunker, legs.analyzer, weights)
    hits = tuple(ranking.hit(row, passages) for row in rows)
    return SearchResult(hits, tuple(legs.degraded), ranking.generations)


def _first(reader: Reader, source: Source, request: Request, legs: _Legs) -> tuple[_Ranking, Sequence[LiveRow]]:
    """Rank, and read the first rows. Where one of them is gone, rank once more, and only what is live."""
    ranking = _Ranking(legs, request, Rows(request.where))
    first = ranking.first(request.limit)
    rows = reader.rows_live(source, first, ranking.generations)
    if len(rows) < len(first):
        ranking = _Ranking(legs, request, Rows(request.where, live=True))
        rows = reader.rows_live(source, ranking.first(request.limit), ranking.generations)
    return ranking, rows


def generation_named(source: Source, generations: Iterable[Generation], generation_id: int) -> Generation:
    """Return the source's generation of that id; UnknownGenerationError when there is none."""
    known = {found.id: found for found in generations}
    if generation_id not in known:
        raise UnknownGenerationError(source.name, generation_id, tuple(known))
    return known[generation_id]


def generation_read(generations: Sequence[Generation], kind: GenerationKind, chosen: int | None = None) -> Generation | None:
    """Return the generation that search reads: the active one of the kind, or the oldest being built while none is active.

    One that is `chosen` by its id is read instead, if it is of that kind.
    """
    ofkind = [generation for generation in generations if generation.kind == kind]
    if (named := next((generation for generation in ofkind if generation.id == chosen), None)) is not None:
        return named
    active = next((generation for generation in ofkind if generation.state == "active"), None)
    return active or next((generation for generation in ofkind if generation.state == "building"), None)


# --- the legs -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Legs:
    """The legs that run, and why one does not. `chunker` cuts and `analyzer` reads as was done for the indexes."""

    chunker: Chunker
    analyzer: Analyzer
    lexical: LexicalLeg | None = None
    vector: VectorLeg | None = None
    unfinished: bool = False
    degraded: list[str] = field(default_factory=list[str])
    error: EmbedderError | None = None

    def ran(self) -> tuple[LexicalLeg | VectorLeg, ...]:
        return tuple(leg for leg in (self.lexical, self.vector) if leg is not None)

    def usable(self, generation: Generation | None, kind: GenerationKind) -> bool:
        if generation is None:
            why = "; the attach is under way, or was cut short: run it again with the same words" if self.unfinished else ""
            self.degraded.append(f"{kind}: there is no {kind} index{why}")
        elif generation.state == "building":
            self.degraded.append(
                f"{kind}: generation {generation.id} is still being built; rows it has not reached are missing"
            )
        elif generation.state == "retired":
            self.degraded.append(f"{kind}: generation {generation.id} is retired; rows changed since may be missing or old")
        elif not generation.whole:
            self.degraded.append(
                f"{kind}: generation {generation.id} is catching up; rows it has not reached are missing or old"
            )
        return generation is not None


def _legs(reader: Reader, source: Source, request: Request, embed_query: QueryEmbedder) -> _Legs:
    generations = reader.generations(source.id)
    if request.generation is not None:
        generation_named(source, generations, request.generation)
    vector = generation_read(generations, "vector", request.generation)
    lexical = generation_read(generations, "lexical", request.generation)
    legs = _Legs(Chunker.like(vector.identity if vector else {}), Analyzer.like(lexical.identity if lexical else {}))
    legs.unfinished = not attached(source, generations)
    if request.mode != "vector":
        _lexical_open(legs, reader, source, request, lexical)
    if request.mode != "lexical":
        _vector_open(legs, reader, source, request, vector, embed_query)
    return legs


def _lexical_open(legs: _Legs, reader: Reader, source: Source, request: Request, generation: Generation | None) -> None:
    terms = dict(islice(legs.analyzer.query_terms(request.query).items(), QUERY_TERMS_MAX))
    if not terms:
        legs.degraded.append("lexical: the query has no word in it")
    elif legs.usable(generation, "lexical"):
        assert generation is not None
        legs.lexical = LexicalLeg(reader, source, generation.id, Depth.of(request.limit), terms)


def _vector_open(
    legs: _Legs,
    reader: Reader,
    source: Source,
    request: Request,
    generation: Generation | None,
    embed_query: QueryEmbedder,
) -> None:
    if not legs.usable(generation, "vector"):
        return
    assert generation is not None
    try:
        vector, weight = embed_query(generation, request.query)
    except EmbedderError as error:
        legs.error = error
        legs.degraded.append(f"vector: {error}")
        return
    legs.vector = VectorLeg(reader, source, generation.id, Depth.of(request.limit), vector, weight)


# --- the hits -----------------------------------------------------------------------------------------------------


class _Ranking:
    """What each leg found of some rows, and both fused. `generations` are those read, the lexical one first."""

    def __init__(self, legs: _Legs, request: Request, rows: Rows) -> None:
        words = legs.lexical.ranked(rows) if legs.lexical else []
        chunks = legs.vector.ranked(rows) if legs.vector else []
        self._legs = legs
        self._words = dict(words)
        self._chunks = {chunk.key: chunk for chunk in chunks}
        self._scores = dict(_fused(legs, request.fusion, words, [(chunk.key, chunk.similarity) for chunk in chunks]))
        self.generations = tuple(leg.generation_id for leg in legs.ran())

    def first(self, limit: int) -> list[Key]:
        """Return the best rows, best first."""
        return list(islice(self._scores, limit))

    def hit(self, row: LiveRow, passages: _Passages) -> Hit:
        """Return a row as a hit; its passage is the chunk that was found, unless the text has changed since."""
        text = render(row.texts)
        current = dict(zip(self.generations, (seq == row.seq for seq in row.indexed), strict=True))
        chunk = self._chunks.get(row.key)
        ranked = [(self._legs.lexical, row.key in self._words), (self._legs.vector, chunk is not None)]
        found_in = [leg.generation_id for leg, has in ranked if leg is not None and has]
        found_by = self._legs.vector if chunk or not self._legs.lexical else self._legs.lexical
        assert found_by is not None
        start, stop = (chunk.start, chunk.stop) if chunk and current[found_by.generation_id] else passages.best(text)
        return Hit(
            key=row.key[0] if len(row.key) == 1 else row.key,
            score=self._scores[row.key],
            passage=text[start:stop],
            start=start,
            stop=stop,
            stale=not all(current[generation] for generation in found_in),
            generation=found_by.generation_id,
            lexical=Leg(_rank(self._words, row.key), self._words[row.key]) if row.key in self._words else None,
            vector=Leg(_rank(self._chunks, row.key), chunk.similarity) if chunk else None,
        )


def _fused(
    legs: _Legs, fusion: Fusion, words: list[tuple[Key, float]], meaning: list[tuple[Key, float]]
) -> list[tuple[Key, float]]:
    if legs.lexical is None or legs.vector is None:
        return words or meaning
    return rrf(words, meaning) if fusion == "rrf" else convex(words, meaning, legs.vector.weight)


def _rank(ranked: Iterable[Key], key: Key) -> int:
    return next(rank for rank, other in enumerate(ranked, start=1) if other == key)


class _Passages:
    """Finds the part of a row's text to show, where the vector leg does not say. `weights` are those of the query's words."""

    def __init__(self, chunker: Chunker, analyzer: Analyzer, weights: Mapping[str, float]) -> None:
        self._chunker = chunker
        self._analyzer = analyzer
        self._weights = weights

    def best(self, text: str) -> tuple[int, int]:
        """Return the span of the chunk with the most of the query's words, by weight; the first among equals."""
        chunks = self._chunker.split(text).chunks
        if len(chunks) <= 1:
            return (chunks[0].start, chunks[0].stop) if chunks else (0, 0)
        best = max(chunks, key=lambda chunk: self._weight(text[chunk.start : chunk.stop]))
        return best.start, best.stop

    def _weight(self, passage: str) -> float:
        return sum(self._weights.get(term, 0.0) for term in set(self._analyzer.terms(passage)))
