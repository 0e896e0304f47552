"""Two ranked lists of rows into one. A list is (key, score) pairs, best first, each key once; ties go by key."""

from __future__ import annotations

from collections import defaultdict
from operator import itemgetter
from typing import TYPE_CHECKING

from seamark.model import key_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from seamark.model import Key

RRF_K = 60
"""The constant of Cormack, Clarke & Büttcher, Reciprocal Rank Fusion (SIGIR 2009)."""


def convex(lexical: Sequence[tuple[Key, float]], vector: Sequence[tuple[Key, float]], weight: float) -> list[tuple[Key, float]]:
    """Fuse by scores: `(1 - weight)` on BM25 divided by its maximum, `weight` on the cosine scaled to 0..1 over the list.

    A row that a leg did not find gets the lowest score the leg could give. After Bruch, Gai & Ingber, An Analysis of Fusion
    Functions for Hybrid Retrieval (TOIS 2023).
    """
    words = _scaled(lexical, 0.0)
    meaning = _scaled(vector, min((score for _, score in vector), default=0.0))
    fused = {key: (1 - weight) * words.get(key, 0.0) + weight * meaning.get(key, 0.0) for key in (*words, *meaning)}
    return ordered(fused)


def rrf(*lists: Sequence[tuple[Key, float]]) -> list[tuple[Key, float]]:
    """Fuse by ranks, from 1: the sum over the lists of `1 / (RRF_K + rank)`."""
    fused: defaultdict[Key, float] = defaultdict(float)
    for ranked in lists:
        for rank, (key, _) in enumerate(ranked, start=1):
            fused[key] += 1 / (RRF_K + rank)
    return ordered(fused)


def ordered(scores: Mapping[Key, float]) -> list[tuple[Key, float]]:
    """Return the keys with their scores, best first, ties by key."""
    ranked = sorted(scores.items(), key=itemgetter(1), reverse=True)
    start = 0
    for stop in range(1, len(ranked) + 1):
        if stop == len(ranked) or ranked[stop][1] != ranked[start][1]:
            if stop - start > 1:  # rarely: to order keys of any type takes longer than all the rest
                ranked[start:stop] = sorted(ranked[start:stop], key=lambda scored: key_order(scored[0]))
            start = stop
    return ranked


def _scaled(ranked: Iterable[tuple[Key, float]], floor: float) -> dict[Key, float]:
    scores = dict(ranked)
    span = max(scores.values(), default=0.0) - floor
    return {key: (score - floor) / span if span > 0 else 1.0 for key, score in scores.items()}
