"""Okapi BM25 over postings, the same for both databases, in time that does not grow with how common the words are.

The score of a document for a query is the sum over the query's terms of

    weight · frequency · (K1 + 1) / (frequency + K1 · (1 - B + B · length / average length))

with `weight = ln(1 + (N - df + 0.5) / (df + 0.5))` times how often the term is in the query: Robertson & Zaragoza, The
Probabilistic Relevance Framework: BM25 and Beyond (2009), with the inverse document frequency as in Lucene's BM25Similarity,
which never falls below 0.

Rare words decide a ranking and have few postings; common words hardly change it and have most. So terms are read from the
rarest on until POSTINGS_READ postings are, and commoner ones are left out, to be read only where the ranking is too short
without them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from seamark.model import TermStatistics

K1 = 1.2
B = 0.75
POSTINGS_READ = 300_000
"""Postings that a query reads, some 5 ms; every word of a query at up to 100,000 short rows or so."""
DENSE_DOCUMENTS = 1 << 24
"""Up to this document number scores are in an array indexed by it (64 MB); beyond, in one of the documents found."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which terms to read whole; which one to read in part, because even the rarest has too many postings; which are left."""

    whole: tuple[str, ...]
    part: str | None
    left: tuple[str, ...]


def plan(statistics: Iterable[TermStatistics], postings: int) -> Plan:
    """Choose terms from the rarest on, until so many postings would be read; `left` goes from rare to common as well."""
    ascending = sorted(statistics, key=lambda known: (known.postings, known.term))
    whole: list[str] = []
    for known in ascending:
        postings -= known.postings
        if postings < 0:
            break
        whole.append(known.term)
    left = tuple(known.term for known in ascending[len(whole) :])
    return Plan(tuple(whole), None, left) if whole or not left else Plan((), left[0], left[1:])


@dataclass(frozen=True, slots=True)
class Collection:
    """What BM25 knows of a whole index: how many documents, how long they are on average, how many have each term."""

    documents: int
    average_length: float
    frequencies: Mapping[str, int]

    def weight(self, term: str) -> float:
        """Return the term's inverse document frequency."""
        frequency = self.frequencies.get(term, 0)
        return math.log(1 + (max(self.documents, frequency) - frequency + 0.5) / (frequency + 0.5))


class Scores:
    """The BM25 scores of all documents that have one of the terms added so far."""

    def __init__(self, collection: Collection, k1: float = K1, b: float = B) -> None:
        self._collection = collection
        self._k1 = k1
        self._b = b
        self._parts: dict[str, tuple[NDArray[np.uint32], NDArray[np.float32]]] = {}
        self._built: _Accumulator | None = None

    def add(self, term: str, occurrences: int, postings: NDArray[np.void]) -> None:
        """Add a term that is in the query so many times, or replace its postings; a document has at most one of them."""
        frequency: NDArray[np.float32] = postings["frequency"].astype(np.float32)
        length: NDArray[np.float32] = postings["length"].astype(np.float32)
        norm = self._k1 * self._b / max(self._collection.average_length, 1e-9)
        norms = length * np.float32(norm) + np.float32(self._k1 * (1 - self._b))
        weight = np.float32(self._collection.weight(term) * occurrences * (self._k1 + 1))
        self._parts[term] = (postings["doc"], np.divide(weight * frequency, frequency + norms, dtype=np.float32))
        self._built = None

    def top(self, limit: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return up to `limit` documents of highest score and the scores, best first, ties by document number."""
        return self._accumulator().top(limit)

    def of(self, documents: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores of these documents, 0 for one that has none of the terms."""
        return self._accumulator().of(documents)

    def _accumulator(self) -> _Accumulator:
        if self._built is None:
            self._built = _Accumulator(list(self._parts.values()))
        return self._built


class _Accumulator:
    """Sums by document; `_documents` is None when a document's number is its place among the sums."""

    def __init__(self, parts: list[tuple[NDArray[np.uint32], NDArray[np.float32]]]) -> None:
        size = max((int(documents.max()) + 1 for documents, _ in parts if len(documents)), default=0)
        self._documents: NDArray[np.int64] | None = None
        places = [documents for documents, _ in parts]
        if size > DENSE_DOCUMENTS:
            self._documents = np.unique(np.concatenate(places)).astype(np.int64)
            places = [np.searchsorted(self._documents, documents) for documents in places]
            size = len(self._documents)
        self._sums = np.zeros(size, np.float32)
        for place, (_, scores) in zip(places, parts, strict=True):
            self._sums[place] += scores
        self._longest = max(places, key=len, default=np.empty(0, np.uint32))

    def top(self, limit: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found = self._at_least(self._bound(limit))
        if len(found) > limit:
            sums = self._sums[found]
            last = np.partition(sums, len(sums) - limit)[len(sums) - limit]
            above = found[sums > last]
            found = np.concatenate([above, found[sums == last][: limit - len(above)]])
        order = np.lexsort((found, -self._sums[found]))
        found = found[order]
        return found if self._documents is None else self._documents[found], self._sums[found]

    def of(self, documents: NDArray[np.int64]) -> NDArray[np.float32]:
        if not len(self._sums):
            return np.zeros(len(documents), np.float32)
        places = documents if self._documents is None else np.searchsorted(self._documents, documents)
        inside = np.minimum(places, len(self._sums) - 1)
        known = inside if self._documents is None else self._documents[inside]
        return np.where(known == documents, self._sums[inside], np.float32(0))

    def _bound(self, limit: int) -> np.float32:
        """Return a score that at least `limit` documents reach: the limit-th highest among those with the commonest term."""
        if len(self._longest) <= limit:
            return np.float32(0)
        return np.partition(self._sums[self._longest], -limit)[-limit]

    def _at_least(self, bound: np.float32) -> NDArray[np.int64]:
        return np.flatnonzero(self._sums >= bound) if bound > 0 else np.flatnonzero(self._sums)
