"""Sums of words: what the terms of a text weigh together, for many texts at once and without a string for every word.

ASCII texts, which most are, stand in one row of bytes, where words are found and looked up by arrays: a word is its bytes as
two numbers made one, which no other word of eight letters has and others share once in 2**64, and its weight stands in a table
of fixed size at the place that its highest bits are. Words that the table has no room for, longer ones, and texts beyond ASCII
go the usual way.
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
        self._words = np.zeros(2**_TABLE_BITS, np.uint64)
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
        words = (numbers[starts] & _FIRST_BYTES[np.minimum(lengths, _NUMBER)]) * _SPREAD[0]
        long = np.flatnonzero(lengths > _NUMBER)
        rest = numbers[starts[long] + _NUMBER] & _FIRST_BYTES[np.minimum(lengths[long] - _NUMBER, _NUMBER)]
        words[long] ^= rest * _SPREAD[1]
        slots = words >> np.uint64(64 - _TABLE_BITS)
        weights = self._weighed[slots]
        known = self._words[slots] == words
        known[long[lengths[long] > _SHORT]] = False
        others = np.flatnonzero(~known)
        if len(others):
            weights[others] = self._learn(data, starts[others], ends[others], words[others], slots[others])
        return weights

    def _learn(
        self,
        data: bytes,
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        words: NDArray[np.uint64],
        slots: NDArray[np.uint64],
    ) -> NDArray[np.uint64]:
        """Return the weights of words that the table does not have, and put into it those that there is room for."""
        short = ends - starts <= _SHORT
        # Each word once, but for the longest, which the numbers do not tell apart.
        told = np.where(short, words, np.arange(len(words), dtype=np.uint64))
        _, firsts, places = np.unique(told, return_index=True, return_inverse=True)
        found = zip(starts[firsts].tolist(), ends[firsts].tolist(), strict=True)
        terms = (self._weights[data[start:end].decode("ascii")] for start, end in found)
        weights = np.fromiter(terms, np.uint64, len(firsts))
        # Who is there stays: common words come early. No word is 0, which is what an empty place holds.
        free = firsts[short[firsts] & (self._words[slots[firsts]] == 0)]
        self._words[slots[free]] = words[free]
        self._weighed[slots[free]] = weights[places[free]]
        return weights[places]


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
