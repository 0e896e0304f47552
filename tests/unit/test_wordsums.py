"""Sums of words are those of the terms, one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamark.core import wordsums
from seamark.core.analysis import Analyzer, words
from seamark.core.wordsums import WordSums
from seamark.store.blocks import term_weight

ANALYZER = Analyzer()
TEXTS = [
    "",
    " ",
    "a",
    "The quick brown fox, and the quickest foxes",
    "eightlet eightlett sixteenletterswo sixteenletterswor seventeenlettersw seventeenletterswo",
    "a\0b\tc\x1fd  e\n",
    "naïve École",
    "日本語 text",
    "x" * 63 + " " + "x" * 64 + " " + "x" * 65 + " " + "x" * 200,
    "one two " * 50,
    "\ud800 lone",
    "last",
]


def told(text):
    found = words(text)
    return sum(term_weight(ANALYZER.stem(word)) for word in found) % 2**64, len(found)


def summed(sums, texts):
    totals, lengths = sums.sums(texts)
    return list(zip(totals.tolist(), lengths.tolist(), strict=True))


def test_texts_of_all_kinds_beside_one_another():
    sums = WordSums(ANALYZER)
    for _ in range(2):  # words are unknown at first, and then known
        assert summed(sums, TEXTS) == [told(text) for text in TEXTS]
    assert summed(sums, []) == []


@given(st.lists(st.text(alphabet="abAB12 .\0\té日", max_size=60), max_size=12))
def test_any_texts(texts):
    assert summed(WordSums(ANALYZER), texts) == [told(text) for text in texts]


@pytest.mark.parametrize("bits", [1, 4])
def test_words_that_the_table_has_no_room_for(monkeypatch, bits):
    monkeypatch.setattr(wordsums, "_TABLE_BITS", bits)
    monkeypatch.setattr(wordsums, "STEMS_KEPT", 5)
    texts = [" ".join(f"word{number * 7 % 97}" for number in range(start, start + 40)) for start in range(30)]
    sums = WordSums(ANALYZER)
    for _ in range(2):
        assert summed(sums, texts) == [told(text) for text in texts]
