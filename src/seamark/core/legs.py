"""The two ranked lists behind a search, each deep enough for what is asked, whatever the filter leaves of it.

Both go the same way. The best candidates of the whole index are taken first and the filter is put to them: right for most
filters, at the price of a search without one. When too few pass, the rows that match the filter are few or far down, and the
list is made exactly, from the other end: from the rows that match. So a filtered search returns min(limit, matches).

Making the vector leg asks for its nearest chunks, and ranking it waits for them: make it before the lexical one is ranked, and
a database that can will look for the chunks while words are scored here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np

from seamark.core.fusion import ordered
from seamark.core.ranking import POSTINGS_READ, Collection, Scores, plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from seamark.model import ChunkHit, Filter, Key, Source
    from seamark.store.reader import Reader

MATCHING_ROWS = 20_000
"""Where no more rows than these match a filter, all of them are ranked; some 20 ms."""
WIDER = 5
"""How many times as deep to look when the best candidates were not enough."""
CANDIDATES = 100
CANDIDATES_PER_HIT = 10
"""Each list has so many rows for every hit asked for, CANDIDATES at least: measured on training queries, more adds nothing."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows may be in a list: those that satisfy the filter; without one, and unless `live`, rows long gone, too.

    To look only at what is indexed is cheaper. Where the rows shown turn out to be live, they are right but for this: rows that
    are gone may be among those below them, by which scores are scaled.
    """

    where: Filter | None = None
    live: bool = False

    @property
    def checked(self) -> bool:
        """Whether a row has to be looked at in its table before it may be in a list."""
        return self.live or self.where is not None


@dataclass(frozen=True, slots=True)
class Depth:
    """How many rows a list is to have: `wanted` to be asked for, `enough` not to look further, `limit` at the very least."""

    wanted: int
    enough: int
    limit: int

    @classmethod
    def of(cls, limit: int) -> Depth:
        """Return the depth of lists for a search with this limit."""
        wanted = max(CANDIDATES, CANDIDATES_PER_HIT * limit)
        return cls(wanted, max(wanted // 4, limit), limit)

    def hopeful(self, found: int, looked_at: int) -> bool:
        """Say whether looking WIDER times as deep will do, if as large a part passes there, and is not yet very deep."""
        return found * WIDER >= self.enough and looked_at < self.wanted * WIDER**2


# --- words --------------------------------------------------------------------------------------------------------


class LexicalLeg:
    """The rows of a lexical generation that have words of a query, by BM25."""

    def __init__(self, reader: Reader, source: Source, generation_id: int, depth: Depth, terms: Mapping[str, int]) -> None:
        self._reader = reader
        self._source = source
        self.generation_id = generation_id
        self._depth = depth
        self._terms = terms
        known = {found.term: found for found in reader.terms_statistics(generation_id, ["", *terms])}
        documents = known.pop("", None)
        self._collection = Collection(
            documents=documents.postings if documents else 0,
            average_length=documents.lengths / documents.postings if documents and documents.postings else 0.0,
            frequencies={term: found.postings for term, found in known.items()},
        )
        chosen = plan(known.values(), POSTINGS_READ)
        self._left = list(chosen.left)
        if chosen.part is None:
            self._postings = reader.postings_read(generation_id, chosen.whole)
        else:
            self._postings = reader.postings_read(generation_id, [chosen.part], POSTINGS_READ)
            self._left.insert(0, chosen.part)

    @cached_property
    def _scores(self) -> Scores:
        scores = Scores(self._collection)
        for term, postings in self._postings.items():
            scores.add(term, self._terms[term], postings)
        return scores

    def weights(self) -> dict[str, float]:
        """Return how much each word of the query counts: its inverse document frequency."""
        return {term: self._collection.weight(term) for term in self._terms}

    def ranked(self, rows: Rows) -> list[tuple[Key, float]]:
        """Return the best of these rows, best first, ties by key."""
        found, complete = self._from_the_top(rows, patient=rows.where is None)
        if len(found) < self._depth.enough and not (complete and (len(found) >= self._depth.limit or not self._left)):
            found = self._further(rows, found) if rows.where is None else self._filtered(rows, rows.where)
        return ordered(found)[: self._depth.wanted]

    def _from_the_top(self, rows: Rows, *, patient: bool = True) -> tuple[dict[Key, float], bool]:
        """Resolve documents from the best down until enough rows are found; also say whether there are no more.

        Without patience, only as long as the next step can be expected to find enough.
        """
        found: dict[Key, float] = {}
        looked_at, size = 0, self._depth.wanted
        while True:
            documents, scores = self._scores.top(size)
            keys = self._keys(documents[looked_at:].tolist(), rows)
            pairs = zip(documents[looked_at:].tolist(), scores[looked_at:].tolist(), strict=True)
            found.update((keys[document], score) for document, score in pairs if document in keys)
            if len(documents) < size:
                return found, True
            if len(found) >= self._depth.enough or not (patient or self._depth.hopeful(len(found), size)):
                return found, False
            looked_at, size = size, size * WIDER

    def _keys(self, documents: Sequence[int], rows: Rows) -> Mapping[int, Key]:
        if rows.checked:
            return self._reader.documents_resolve(self._source, self.generation_id, documents, rows.where)
        return self._reader.documents_keys(self.generation_id, documents)

    def _further(self, rows: Rows, found: dict[Key, float]) -> dict[Key, float]:
        """Go on with the words left out, as far as `limit` needs."""
        while len(found) < self._depth.limit and self._extend(POSTINGS_READ):
            found, _ = self._from_the_top(rows)
        return found

    def _filtered(self, rows: Rows, where: Filter) -> dict[Key, float]:
        matching = self._reader.documents_matching(self._source, self.generation_id, where, MATCHING_ROWS)
        if len(matching) < MATCHING_ROWS:
            return self._among(matching)
        found, _ = self._from_the_top(rows)
        while len(found) < self._depth.limit and self._extend():
            found, _ = self._from_the_top(rows)
        return found

    def _among(self, matching: Mapping[int, Key]) -> dict[Key, float]:
        """Score all rows that match, with the words left out as far as `limit` needs them."""
        documents = np.fromiter(matching.keys(), np.int64, len(matching))
        scores = self._scores.of(documents)
        while np.count_nonzero(scores) < self._depth.limit and self._extend():
            scores = self._scores.of(documents)
        return {
            matching[document]: score for document, score in zip(documents.tolist(), scores.tolist(), strict=True) if score > 0
        }

    def _extend(self, limit: int | None = None) -> bool:
        """Add the rarest of the words left out so far; False when there is none."""
        if not self._left:
            return False
        for term, postings in self._reader.postings_read(self.generation_id, [self._left.pop(0)], limit).items():
            self._scores.add(term, self._terms[term], postings)
        return True


# --- meaning ------------------------------------------------------------------------------------------------------


class VectorLeg:
    """The rows of a vector generation by the cosine of their best chunk. `weight` is the leg's in a convex fusion."""

    def __init__(
        self,
        reader: Reader,
        source: Source,
        generation_id: int,
        depth: Depth,
        vector: NDArray[np.float32],
        weight: float,
    ) -> None:
        self._reader = reader
        self._source = source
        self.generation_id = generation_id
        self._depth = depth
        self._vector = vector
        self.weight = weight
        self._nearest = cache(reader.chunks_nearest(generation_id, vector, depth.wanted))

    def ranked(self, rows: Rows) -> list[ChunkHit]:
        """Return the best chunk of each of the best of these rows, best first, ties by key."""
        size = self._depth.wanted
        hits = self._nearest()
        while True:
            best = _best(hits)
            keys = self._reader.keys_live(self._source, list(best), rows.where) if rows.checked else list(best)
            if len(keys) >= self._depth.enough or len(hits) < size:
                return [best[key] for key in keys][: self._depth.wanted]
            if rows.where is not None and not self._depth.hopeful(len(keys), size):
                return self._matching(rows.where)
            size *= WIDER
            hits = self._reader.chunks_nearest(self.generation_id, self._vector, size)()

    def _matching(self, where: Filter) -> list[ChunkHit]:
        """Rank all rows that match; when long rows fill the list with their many chunks, ask for more."""
        size = self._depth.wanted * WIDER
        while True:
            hits = self._reader.chunks_matching(self._source, self.generation_id, self._vector, where, size)
            best = _best(hits)
            if len(best) >= self._depth.enough or len(hits) < size:
                return list(best.values())[: self._depth.wanted]
            size *= WIDER


def _best(hits: Iterable[ChunkHit]) -> dict[Key, ChunkHit]:
    best: dict[Key, ChunkHit] = {}
    for hit in hits:
        best.setdefault(hit.key, hit)
    return best
