"""The two ranked lists behind a search, each deep enough for what is asked, whatever the filter leaves of it.

Both go the same way. The best candidates of the whole index are taken first and the filter is put to them: right for most
filters, at the price of a search without one. When too few pass, the rows that match the filter are few or far down, and the
list is made exactly, from the other end: from the rows that match. So a filtered search returns min(limit, matches).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seamark.core.fusion import ordered
from seamark.core.ranking import POSTINGS_READ, Collection, Scores, plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from seamark.model import ChunkHit, Filter, Key, Source
    from seamark.store.contract import Reader

MATCHING_ROWS = 20_000
"""Where no more rows than these match a filter, all of them are ranked; some 20 ms."""
WIDER = 5
"""How many times as deep to look when the best candidates were not enough."""
CANDIDATES = 100
CANDIDATES_PER_HIT = 10
"""Each list has so many rows for every hit asked for, CANDIDATES at least: measured on training queries, more adds nothing."""


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

    def __init__(self, reader: Reader, source: Source, generation_id: int, terms: Mapping[str, int]) -> None:
        self._reader = reader
        self._source = source
        self._generation_id = generation_id
        self._terms = terms
        known = {found.term: found for found in reader.terms_statistics(generation_id, ["", *terms])}
        documents = known.pop("", None)
        self.collection = Collection(
            documents=documents.postings if documents else 0,
            average_length=documents.lengths / documents.postings if documents and documents.postings else 0.0,
            frequencies={term: found.postings for term, found in known.items()},
        )
        chosen = plan(known.values(), POSTINGS_READ)
        self._scores = Scores(self.collection)
        self._read(chosen.whole)
        self._left = list(chosen.left)
        if chosen.part is not None:
            self._read([chosen.part], POSTINGS_READ)
            self._left.insert(0, chosen.part)

    def ranked(self, where: Filter | None, depth: Depth) -> list[tuple[Key, float]]:
        """Return the best rows that satisfy the filter, best first, ties by key."""
        found, complete = self._from_the_top(where, depth, patient=where is None)
        if len(found) < depth.enough and not (complete and (len(found) >= depth.limit or not self._left)):
            found = self._further(depth) if where is None else self._filtered(where, depth)
        return ordered(found)[: depth.wanted]

    def _from_the_top(self, where: Filter | None, depth: Depth, *, patient: bool = True) -> tuple[dict[Key, float], bool]:
        """Resolve documents from the best down until enough rows are found; also say whether there are no more.

        Without patience, only as long as the next step can be expected to find enough.
        """
        found: dict[Key, float] = {}
        looked_at, size = 0, depth.wanted
        while True:
            documents, scores = self._scores.top(size)
            keys = self._reader.documents_resolve(self._source, self._generation_id, documents[looked_at:].tolist(), where)
            pairs = zip(documents[looked_at:].tolist(), scores[looked_at:].tolist(), strict=True)
            found.update((keys[document], score) for document, score in pairs if document in keys)
            if len(documents) < size:
                return found, True
            if len(found) >= depth.enough or not (patient or depth.hopeful(len(found), size)):
                return found, False
            looked_at, size = size, size * WIDER

    def _further(self, depth: Depth) -> dict[Key, float]:
        """Go on from the top to the end, then with the words left out, as far as `limit` needs."""
        found, _ = self._from_the_top(None, depth)
        while len(found) < depth.limit and self._extend(POSTINGS_READ):
            found, _ = self._from_the_top(None, depth)
        return found

    def _filtered(self, where: Filter, depth: Depth) -> dict[Key, float]:
        matching = self._reader.documents_matching(self._source, self._generation_id, where, MATCHING_ROWS)
        if len(matching) < MATCHING_ROWS:
            return self._among(matching, depth)
        found, _ = self._from_the_top(where, depth)
        while len(found) < depth.limit and self._extend():
            found, _ = self._from_the_top(where, depth)
        return found

    def _among(self, matching: Mapping[int, Key], depth: Depth) -> dict[Key, float]:
        """Score all rows that match, with the words left out as far as `limit` needs them."""
        documents = np.fromiter(matching.keys(), np.int64, len(matching))
        scores = self._scores.of(documents)
        while np.count_nonzero(scores) < depth.limit and self._extend():
            scores = self._scores.of(documents)
        return {
            matching[document]: score for document, score in zip(documents.tolist(), scores.tolist(), strict=True) if score > 0
        }

    def _extend(self, limit: int | None = None) -> bool:
        """Add the rarest of the words left out so far; False when there is none."""
        if not self._left:
            return False
        self._read([self._left.pop(0)], limit)
        return True

    def _read(self, terms: Sequence[str], limit: int | None = None) -> None:
        if terms:
            for term, postings in self._reader.postings_read(self._generation_id, terms, limit).items():
                self._scores.add(term, self._terms[term], postings)


# --- meaning ------------------------------------------------------------------------------------------------------


class VectorLeg:
    """The rows of a vector generation by the cosine of their best chunk."""

    def __init__(self, reader: Reader, source: Source, generation_id: int, vector: NDArray[np.float32]) -> None:
        self._reader = reader
        self._source = source
        self._generation_id = generation_id
        self._vector = vector

    def ranked(self, where: Filter | None, depth: Depth) -> list[ChunkHit]:
        """Return the best chunk of each of the best rows that satisfy the filter, best first, ties by key."""
        size = depth.wanted
        while True:
            hits = self._reader.chunks_nearest(self._generation_id, self._vector, size)
            best = _best(hits)
            live = self._reader.keys_live(self._source, list(best), where)
            if len(live) >= depth.enough or len(hits) < size:
                return [best[key] for key in live][: depth.wanted]
            if where is not None and not depth.hopeful(len(live), size):
                return self._matching(where, depth)
            size *= WIDER

    def _matching(self, where: Filter, depth: Depth) -> list[ChunkHit]:
        """Rank all rows that match; when long rows fill the list with their many chunks, ask for more."""
        size = depth.wanted * WIDER
        while True:
            hits = self._reader.chunks_matching(self._source, self._generation_id, self._vector, where, size)
            best = _best(hits)
            if len(best) >= depth.enough or len(hits) < size:
                return list(best.values())[: depth.wanted]
            size *= WIDER


def _best(hits: Iterable[ChunkHit]) -> dict[Key, ChunkHit]:
    best: dict[Key, ChunkHit] = {}
    for hit in hits:
        best.setdefault(hit.key, hit)
    return best
