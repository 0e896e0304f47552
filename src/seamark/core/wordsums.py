"""Sums of words: what the terms of a text weigh together, for many texts at once and without a string for every word.

ASCII texts, which most are, stand in one row of bytes, where words are found and looked up by arrays: a word is its bytes as
two numbers, and its weight stands in a table of fixed size at a place that these numbers come to. Words that the table has no
room for, longer ones, and texts beyond ASCII go the usual way.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from seamark.core.analysis import ASCII_WORDS, STEMS_KEPT, TERM_CHARACTERS, words
from seamark.store.blocks import WEIGHT_MASK, term_weight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seamark.core.analysis import Analyzer

_TABLE_BITS = 17
"""Twice as many places as words are remembered, in 3 MB."""
_NUMBER = 8
"""Bytes in a number."""
_SHORT = 2 * _NUMBER
"""Bytes of the longest word that two numbers hold."""
_FIRST_BYTES = np.array([2 ** (8 * count) - 1 for count in range(_NUMBER + 1)], np.uint64)
_SPREAD = np.array([0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F], np.uint64)
"""Odd numbers with evenly strewn bits, whose products' highest bits are a word's place."""
_SPACE = ord(" ")
_NONE = np.zeros(1, np.uint64)


class WordSums:
    """Sums up the weights of texts' terms, as one analyzer makes them."""

    def __init__(self, analyzer: Analyzer) -> None:
        self._weights = _Weights(analyzer)
        self._words = np.zeros((2, 2**_TABLE_BITS), np.uint64)
        self._weighed = np.zeros(2**_TABLE_BITS, np.uint64)

    def sums(self, texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return for each text the sum of its terms' weights modulo 2**64, and how many words it has: two of shape (texts,)."""
        totals, lengths = np.zeros(len(texts), np.uint64), np.zeros(len(texts), np.int64)
        plain = [place for place, text in enumerate(texts) if text.isascii()]
        if plain:
            totals[plain], lengths[plain] = self._plain([texts[place] for place in plain])
        if len(plain) < len(texts):
            for place, text in enumerate(texts):
                if not text.isascii():
                    found = words(text)
                    totals[place] = sum(map(self._weights.__getitem__, found)) & WEIGHT_MASK
                    lengths[place] = len(found)
        return totals, lengths

    def _plain(self, texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Sum up texts in ASCII."""
        padding = " " * (_SHORT + 1)  # two numbers can be read wherever a word begins
        data = " ".join(chain(("",), texts, (padding,))).encode("ascii").translate(ASCII_WORDS)
        edges = np.flatnonzero(np.diff(np.frombuffer(data, np.uint8) != _SPACE)) + 1
        starts, ends = edges[0::2], edges[1::2]
        summed = np.concatenate([_NONE, np.cumsum(self._weigh(data, starts, ends), dtype=np.uint64)])
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        firsts = np.searchsorted(starts, np.concatenate([np.ones(1, np.int64), 1 + np.cumsum(sizes + 1)]))
        of_texts = summed[firsts]
        return of_texts[1:] - of_texts[:-1], np.diff(firsts)

    def _weigh(self, data: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the weight of each word of a row of bytes."""
        lengths = ends - starts
        numbers = np.ndarray((len(data) - _NUMBER + 1,), "<u8", data, strides=(1,))  # one from every byte on
        first = numbers[starts] & _FIRST_BYTES[np.minimum(lengths, _NUMBER)]
        second = numbers[starts + _NUMBER] & _FIRST_BYTES[np.clip(lengths - _NUMBER, 0, _NUMBER)]
        slots = ((first * _SPREAD[0]) ^ (second * _SPREAD[1])) >> np.uint64(64 - _TABLE_BITS)
        weights = self._weighed[slots]
        known = (self._words[0, slots] == first) & (self._words[1, slots] == second) & (lengths <= _SHORT)
        others = np.flatnonzero(~known)
        if len(others):
            places = zip(starts[others].tolist(), ends[others].tolist(), strict=True)
            found = (self._weights[data[start:end].decode("ascii")] for start, end in places)
            weights[others] = np.fromiter(found, np.uint64, len(others))
            # Whoever comes first stays: common words do. No word is 0, which is what an empty place holds.
            free = others[(self._words[0, slots[others]] == 0) & (lengths[others] <= _SHORT)]
            taken, places_of = np.unique(slots[free], return_index=True)
            kept = free[places_of]
            self._words[0, taken], self._words[1, taken], self._weighed[taken] = first[kept], second[kept], weights[kept]
        return weights


class _Weights(dict[str, int]):
    """Word → what stands for its term in sums, remembered for as many words as stems are."""

    def __init__(self, analyzer: Analyzer) -> None:
        super().__init__()
        self._analyzer = analyzer

    def __missing__(self, word: str) -> int:
        weight = term_weight(self._analyzer.stem(word))
        if len(word) <= TERM_CHARACTERS:
            if len(self) >= STEMS_KEPT:
                self.clear()
            self[word] = weight
        return weight
