"""Texts become terms that find them again, in every script, and batches of terms become postings."""

from __future__ import annotations

import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamark.core.analysis import CAP, TERM_CHARACTERS, Analyzer, lexical_batch, words
from seamark.errors import InvalidRequestError
from seamark.model import POSTING, IndexedRow, Outcome

ANALYZER = Analyzer()


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Rotating the KEYS", ["rotat", "the", "key"]),
        ('don\'t foo_bar a.b:c (d) "e" f* -g', ["don", "t", "foo", "bar", "a", "b", "c", "d", "e", "f", "g"]),
        ("naïve École Straße Å ñ", ["naiv", "ecol", "strass", "a", "n"]),
        ("\uff21\uff22\uff23\uff11\uff12 \ufb01ne \u2167", ["abc12", "fine", "viii"]),
        ("ex\u00adample re\u200bsult", ["exampl", "re", "sult"]),
        ("version 3.11, 1,000 rows", ["version", "3", "11", "1", "000", "row"]),
        ("кЁ ёлка", ["ке", "елка"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("a\0b \ud800c", ["a", "b", "c"]),
        ("", []),
        (" \t\n -- ?! \U0001f680 ❤️", []),
    ],
)
def test_words_are_folded_and_stemmed(text, terms):
    assert ANALYZER.terms(text) == terms


@pytest.mark.parametrize(
    ("language", "text", "terms"),
    [
        ("german", "Schlüsseln und Häuser", ["schlussel", "und", "haus"]),
        ("none", "Rotating the KEYS", ["rotating", "the", "keys"]),
    ],
)
def test_the_endings_of_one_language_are_cut(language, text, terms):
    analyzer = Analyzer(language)
    assert analyzer.terms(text) == terms
    assert Analyzer.like({"analyzer": analyzer.identity()}).terms(text) == terms


def test_a_language_without_a_stemmer_is_told():
    with pytest.raises(InvalidRequestError, match=r"klingon.*english"):
        Analyzer("klingon")


def test_unspaced_scripts_are_indexed_by_characters_and_pairs_and_asked_for_by_pairs():
    assert ANALYZER.terms("東京都v2へ") == ["東", "京", "都", "東京", "京都", "v2", "へ"]
    assert ANALYZER.query_terms("東京都v2へ") == Counter(["東京", "京都", "v2", "へ"])


@pytest.mark.parametrize("text", ["東京都", "한국어", "ภาษาไทย", "ガギグ", "中"])
def test_every_part_of_an_unspaced_run_finds_it(text):
    document = set(ANALYZER.terms(f"x{text}y"))
    for start in range(len(text)):
        for stop in range(start + 1, len(text) + 1):
            query = ANALYZER.query_terms(text[start:stop])
            assert query
            assert set(query) <= document


@pytest.mark.parametrize("text", ["が", "한국", "é", "ｶﾞ"])
def test_composed_and_decomposed_characters_are_the_same(text):
    forms = {tuple(ANALYZER.terms(unicodedata.normalize(form, text))) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert len(forms) == 1


def test_a_query_counts_its_terms():
    assert ANALYZER.query_terms("run, runs, running dogs") == Counter({"run": 3, "dog": 1})


def test_long_terms_are_cut_alike_in_documents_and_queries():
    word = "a1" * 500
    assert ANALYZER.terms(word) == [word[:TERM_CHARACTERS]]
    assert ANALYZER.query_terms(word) == Counter([word[:TERM_CHARACTERS]])


def test_every_letter_and_digit_of_unicode_has_a_term():
    empty = [code for code in range(sys.maxunicode + 1) if chr(code).isalnum() and not ANALYZER.terms(chr(code))]
    assert empty == []


@given(st.text())
def test_no_text_raises_and_one_with_a_letter_or_digit_has_terms(text):
    terms = ANALYZER.terms(text)
    assert all(0 < len(term) <= TERM_CHARACTERS for term in terms)
    assert not any("\0" in term or "\ud800" <= character <= "\udfff" for term in terms for character in term)
    assert terms or not any(character.isalnum() for character in text)
    assert set(ANALYZER.query_terms(text)) <= set(terms)


@given(st.text(st.characters(max_codepoint=127)))
def test_the_short_way_for_ascii_gives_what_the_long_way_gives(text):
    assert words(text) == words(f"{text} é")[:-1]


def test_the_identity_names_what_changes_terms():
    assert ANALYZER.identity().keys() == {"name", "version", "stemmer", "stemmer_version"}


# --- postings -----------------------------------------------------------------------------------------------------


def _row(number, outcome=Outcome.INDEXED):
    return IndexedRow((number,), number, outcome, 1 if outcome is Outcome.INDEXED else 0)


def _postings(batch):
    return {
        term: [tuple(posting) for posting in batch.postings[batch.offsets[place] : batch.offsets[place + 1]].tolist()]
        for place, term in enumerate(batch.terms)
    }


def test_a_batch_has_each_terms_postings_and_the_empty_term_once_for_every_indexed_row():
    rows = [
        (_row(1), "red fish, red dish"),
        (_row(2, Outcome.GONE), None),
        (_row(3), "Fish"),
        (_row(4, Outcome.BLANK), "  "),
        (_row(5), "?!"),
    ]
    batch = lexical_batch(ANALYZER, rows)
    assert batch.rows == tuple(row for row, _ in rows)
    assert batch.lengths == (4, 0, 1, 0, 0)
    assert batch.postings.dtype == np.dtype(POSTING)
    assert _postings(batch) == {
        "": [(0, 1, 4), (2, 1, 1), (4, 1, 0)],
        "dish": [(0, 1, 4)],
        "fish": [(0, 1, 4), (2, 1, 1)],
        "red": [(0, 2, 4)],
    }


@pytest.mark.parametrize("rows", [[], [(_row(1, Outcome.GONE), None), (_row(2, Outcome.BLANK), "")]])
def test_a_batch_without_indexed_rows_has_no_terms(rows):
    batch = lexical_batch(ANALYZER, rows)
    assert (batch.terms, batch.offsets.tolist(), len(batch.postings)) == ((), [0], 0)
    assert len(batch.rows) == len(batch.lengths) == len(rows)


def test_frequency_and_length_are_capped():
    batch = lexical_batch(ANALYZER, [(_row(1), "word " * (CAP + 5))])
    assert batch.lengths == (CAP + 5,)
    assert _postings(batch)["word"] == [(0, CAP, CAP)]


@given(st.lists(st.text(st.sampled_from("ab é中文."), max_size=12), max_size=8))
def test_a_batch_counts_what_the_analyzer_finds(texts):
    batch = lexical_batch(ANALYZER, [(_row(number), text) for number, text in enumerate(texts)])
    expected = {
        (term, document): (frequency, sum(counts.values()))
        for document, counts in enumerate(Counter(ANALYZER.terms(text)) for text in texts)
        for term, frequency in counts.items()
    }
    found = _postings(batch)
    assert len(found.pop("", [])) == len(texts)
    assert {
        (term, doc): (frequency, length) for term, postings in found.items() for doc, frequency, length in postings
    } == expected
    assert list(batch.terms) == sorted(set(batch.terms))
