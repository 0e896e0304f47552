"""A search, from request to hits, over one reader: everything in a result is from one snapshot and one generation per kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Literal, get_args

from seamark.core.analysis import Analyzer
from seamark.core.chunking import Chunker, render
from seamark.core.fusion import convex, rrf
from seamark.core.legs import Depth, LexicalLeg, VectorLeg
from seamark.errors import EmbedderError, InvalidRequestError
from seamark.model import Hit, Leg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seamark.model import ChunkHit, Filter, Generation, GenerationKind, Key, LiveRow, Source
    from seamark.store.contract import Reader

    QueryEmbedder = Callable[[Generation, str], tuple[NDArray[np.float32], float]]
    """Embeds a query for a vector generation; also returns the weight of that leg in a convex fusion. Raises EmbedderError."""

Mode = Literal["hybrid", "lexical", "vector"]
Fusion = Literal["convex", "rrf"]

LIMIT_MAX = 1000
QUERY_TERMS_MAX = 256
"""Different words of a query that count, from its beginning: a page of text as a query has fewer."""

_ANALYZER = Analyzer()


@dataclass(frozen=True, slots=True)
class Request:
    """What to search for. InvalidRequestError, at construction, for what cannot be meant."""

    query: str
    limit: int = 10
    mode: Mode = "hybrid"
    where: Filter | None = None
    fusion: Fusion = "convex"

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
    generations = reader.generations(source.id)
    vector = generation_read(generations, "vector")
    legs = _Legs()
    if request.mode != "vector":
        _words_rank(legs, reader, source, request, generation_read(generations, "lexical"))
    if request.mode != "lexical":
        _meaning_rank(legs, reader, source, request, vector, embed_query)
    if legs.words is None and legs.meaning is None:
        raise legs.error or InvalidRequestError(f"{source.name!r} cannot be searched so: {'; '.join(legs.degraded)}")
    chunker = Chunker.like(vector.identity if vector else {})
    hits = _Hits(reader, source, request, legs, chunker).first(_fused(legs, request.fusion))
    return SearchResult(tuple(hits), tuple(legs.degraded), tuple(leg.generation.id for leg in legs.ran()))


def generation_read(generations: Sequence[Generation], kind: GenerationKind) -> Generation | None:
    """Return the generation that search reads: the active one of the kind, or the oldest being built while none is active."""
    ofkind = [generation for generation in generations if generation.kind == kind]
    active = next((generation for generation in ofkind if generation.state == "active"), None)
    return active or next((generation for generation in ofkind if generation.state == "building"), None)


# --- the legs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Words:
    generation: Generation
    ranked: list[tuple[Key, float]]
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Meaning:
    generation: Generation
    ranked: list[tuple[Key, float]]
    chunks: Mapping[Key, ChunkHit]
    weight: float


@dataclass(slots=True)
class _Legs:
    """The legs that ran, and why one did not."""

    words: _Words | None = None
    meaning: _Meaning | None = None
    degraded: list[str] = field(default_factory=list[str])
    error: EmbedderError | None = None

    def ran(self) -> list[_Words | _Meaning]:
        return [leg for leg in (self.words, self.meaning) if leg is not None]

    def usable(self, generation: Generation | None, kind: GenerationKind) -> bool:
        if generation is None:
            self.degraded.append(f"{kind}: there is no {kind} index")
        elif generation.state == "building":
            self.degraded.append(
                f"{kind}: generation {generation.id} is still being built; rows it has not reached are missing"
            )
        return generation is not None


def _words_rank(legs: _Legs, reader: Reader, source: Source, request: Request, generation: Generation | None) -> None:
    terms = dict(islice(_ANALYZER.query_terms(request.query).items(), QUERY_TERMS_MAX))
    if not terms:
        legs.degraded.append("lexical: the query has no word in it")
    elif legs.usable(generation, "lexical"):
        assert generation is not None
        leg = LexicalLeg(reader, source, generation.id, terms)
        weights = {term: leg.collection.weight(term) for term in terms}
        legs.words = _Words(generation, leg.ranked(request.where, Depth.of(request.limit)), weights)


def _meaning_rank(
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
    hits = VectorLeg(reader, source, generation.id, vector).ranked(request.where, Depth.of(request.limit))
    ranked = [(hit.key, hit.similarity) for hit in hits]
    legs.meaning = _Meaning(generation, ranked, {hit.key: hit for hit in hits}, weight)


def _fused(legs: _Legs, fusion: Fusion) -> list[tuple[Key, float]]:
    if legs.words is None or legs.meaning is None:
        return legs.ran()[0].ranked
    if fusion == "rrf":
        return rrf(legs.words.ranked, legs.meaning.ranked)
    return convex(legs.words.ranked, legs.meaning.ranked, legs.meaning.weight)


# --- the hits -----------------------------------------------------------------------------------------------------


class _Hits:
    """Fills in what a hit shows: its passage, and whether the index is behind the row."""

    def __init__(self, reader: Reader, source: Source, request: Request, legs: _Legs, chunker: Chunker) -> None:
        self._reader = reader
        self._source = source
        self._limit = request.limit
        self._legs = legs
        self._weights = legs.words.weights if legs.words else dict.fromkeys(_ANALYZER.query_terms(request.query), 1.0)
        self._chunker = chunker
        self._ranks = {leg.generation.id: _ranks(leg.ranked) for leg in legs.ran()}

    def first(self, fused: Sequence[tuple[Key, float]]) -> list[Hit]:
        """Return the first `limit` rows that are there as hits."""
        hits: list[Hit] = []
        start = 0
        while start < len(fused) and len(hits) < self._limit:
            stop = start + self._limit - len(hits)
            hits += self._hits(fused[start:stop])
            start = stop
        return hits

    def _hits(self, fused: Sequence[tuple[Key, float]]) -> list[Hit]:
        scores = dict(fused)
        rows = self._reader.rows_live(self._source, list(scores))
        indexed = {leg.generation.id: self._reader.seqs_indexed(leg.generation.id, list(scores)) for leg in self._legs.ran()}
        current = {
            generation_id: {row.key for row in rows if seqs.get(row.key) == row.seq} for generation_id, seqs in indexed.items()
        }
        return [self._hit(row, scores[row.key], current) for row in rows]

    def _hit(self, row: LiveRow, score: float, current: Mapping[int, set[Key]]) -> Hit:
        words, meaning = self._legs.words, self._legs.meaning
        text = render(row.texts)
        lexical = self._ranks[words.generation.id].get(row.key) if words else None
        vector = self._ranks[meaning.generation.id].get(row.key) if meaning else None
        found_by = meaning if vector is not None or words is None else words
        assert found_by is not None
        if meaning is not None and vector is not None and row.key in current[meaning.generation.id]:
            chunk = meaning.chunks[row.key]
            start, stop = chunk.start, chunk.stop
        else:
            start, stop = self._passage(text)
        return Hit(
            key=row.key[0] if len(row.key) == 1 else row.key,
            score=score,
            passage=text[start:stop],
            start=start,
            stop=stop,
            stale=any(row.key not in keys for keys in current.values()),
            generation=found_by.generation.id,
            lexical=lexical,
            vector=vector,
        )

    def _passage(self, text: str) -> tuple[int, int]:
        """Return the span of the chunk with the most of the query's words, by weight; the first among equals."""
        chunks = self._chunker.split(text).chunks
        if len(chunks) <= 1:
            return (chunks[0].start, chunks[0].stop) if chunks else (0, 0)
        best = max(chunks, key=lambda chunk: self._weight(text[chunk.start : chunk.stop]))
        return best.start, best.stop

    def _weight(self, passage: str) -> float:
        return sum(self._weights.get(term, 0.0) for term in set(_ANALYZER.terms(passage)))


def _ranks(ranked: Sequence[tuple[Key, float]]) -> dict[Key, Leg]:
    return {key: Leg(rank, score) for rank, (key, score) in enumerate(ranked, start=1)}
