"""Text to terms, for documents and for queries alike, and a lease's terms as postings.

A word is a run of letters and digits; everything else separates. Case and diacritics are folded, the endings of one language
are cut by its Snowball stemmer, of English unless another is asked for. Scripts that are written without spaces are indexed by
their characters and overlapping pairs of them, and asked for by the pairs. There are no stop words: how common a word is,
ranking knows better.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from functools import cache
from importlib.metadata import version
from itertools import count, pairwise
from typing import TYPE_CHECKING, cast

import numpy as np
import Stemmer

from seamark.errors import InvalidRequestError
from seamark.model import POSTING, LexicalBatch, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from seamark.model import IndexedRow

TERM_CHARACTERS = 64
"""Longer terms are cut: hashes and encoded data are told apart by as much, and an index key stays short."""
STEMS_KEPT = 65_536
"""Words whose stem is remembered, some 10 MB; the words of a language that are in use fit."""
FOLDS_KEPT = 32_768
"""Characters beyond ASCII whose fold is remembered: more than any text collection in a few languages has."""
CAP = 65_535
"""The highest frequency and length that a posting holds."""
LANGUAGE = "english"
UNSTEMMED = "none"
LANGUAGES: tuple[str, ...] = (UNSTEMMED, *cast("list[str]", Stemmer.algorithms()))  # pyright: ignore[reportUnknownMemberType]
_STEMMER = "snowball-"

ASCII_WORDS = bytes(ord(chr(code).lower()) if chr(code).isalnum() else 32 for code in range(128)) + b" " * 128
"""Each byte of an ASCII text → itself without case, or a space where words end."""

# Han, kana, bopomofo, Hangul; Thai, Lao, Myanmar, Khmer
_UNSPACED_SCRIPTS = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u1100-\u11ff\ua960-\ua97f\uac00-\ud7ff"
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u1000-\u103f\u1050-\u108f\u1780-\u17d3"
)
_UNSPACED = re.compile(f"[{_UNSPACED_SCRIPTS}]")
_PIECES = re.compile(f"([{_UNSPACED_SCRIPTS}]+)")


class Analyzer:
    """Turns text into terms. Any `str` will do, and one with a letter or digit in it has at least one term."""

    def __init__(self, language: str = LANGUAGE) -> None:
        """Take the language whose endings are cut, or `none`; InvalidRequestError for one that there is no stemmer for."""
        if language not in LANGUAGES:
            raise InvalidRequestError(f"there is no stemmer for {language!r}; there are {', '.join(LANGUAGES)}")
        self.language = language
        self._stems = _Stems(language)

    @classmethod
    def like(cls, identity: Mapping[str, object]) -> Analyzer:
        """Return an analyzer of the language that a generation's identity states, or of the usual one; each is made once."""
        match identity.get("analyzer"):
            case {"stemmer": str(stemmer)} if stemmer.removeprefix(_STEMMER) in LANGUAGES:
                return _analyzer(stemmer.removeprefix(_STEMMER))
            case _:
                return _analyzer(LANGUAGE)

    def identity(self) -> dict[str, object]:
        """Return everything that changes the terms of a text, for the generation's fingerprint."""
        stemmer = f"{_STEMMER}{self.language}"
        return {"name": "words", "version": 1, "stemmer": stemmer, "stemmer_version": version("PyStemmer")}

    def terms(self, text: str) -> list[str]:
        """Return the terms a document with that text is found by, in the order of the text, repetitions included."""
        return [self._stems[word] for word in words(text)]

    def query_terms(self, text: str) -> Counter[str]:
        """Return the terms to look for, with how often each is in the query."""
        return Counter(self._stems[word] for word in words(text, singles=False))

    def stem(self, word: str) -> str:
        """Return the term of a word."""
        return self._stems[word]

    def stems(self, distinct: Sequence[str]) -> list[str]:
        """Return the term of each word."""
        return [self._stems[word] for word in distinct]


def words(text: str, *, singles: bool = True) -> list[str]:
    """Return the words of a text, folded but not stemmed.

    Of a run in a script without spaces: every pair of neighbours, and with `singles` (as documents are indexed) every
    character as well, so that a query of one character finds it inside longer runs.
    """
    if text.isascii():
        return text.encode("ascii").translate(ASCII_WORDS).decode("ascii").split()
    # Composed before, because the fold takes character by character; and after, to put its Hangul and kana together again.
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).translate(_FOLD))
    if _UNSPACED.search(folded) is None:
        return folded.split()
    return [word for run in folded.split() for piece in _PIECES.split(run) for word in _piece_words(piece, singles=singles)]


def _piece_words(piece: str, *, singles: bool) -> Iterator[str]:
    if not piece:
        return
    if len(piece) == 1 or _UNSPACED.match(piece) is None:
        yield piece
        return
    if singles:
        yield from piece
    yield from (first + second for first, second in pairwise(piece))


@cache
def _analyzer(language: str) -> Analyzer:
    return Analyzer(language)


class _Stems(dict[str, str]):
    """Word → term, remembered up to STEMS_KEPT words."""

    def __init__(self, language: str) -> None:
        super().__init__()
        self._stem: Callable[[str], str] = str
        if language != UNSTEMMED:
            # Safe in several threads: it holds the interpreter lock, and its own cache, which would not be, is off.
            self._stem = Stemmer.Stemmer(language, 0).stemWord  # pyright: ignore[reportUnknownMemberType]

    def __missing__(self, word: str) -> str:
        term = self._stem(word[:TERM_CHARACTERS])
        if len(word) <= TERM_CHARACTERS:
            if len(self) >= STEMS_KEPT:
                self.clear()
            self[word] = term
        return term


class _Fold(dict[int, str]):
    """Character → what stands for it in words: itself without case, width and diacritics, or a space where words end."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kept = (part for part in unicodedata.normalize("NFKD", character) if not _is_silent(part))
        folded = "".join(kept).casefold()
        folded = "".join(part if part.isalnum() or _is_vowel(part) else " " for part in folded)
        if character.isalnum() and not folded.strip():
            folded = character  # a letter that is nothing but a mark, such as a lone Arabic vowel sign
        if len(self) >= FOLDS_KEPT:
            self.clear()
        self[code] = folded
        return folded


def _is_silent(character: str) -> bool:
    """Say whether the character is a diacritic, or an invisible one (soft hyphen, joiner, variation selector)."""
    category = unicodedata.category(character)
    if category == "Cf":
        return character != "\u200b"  # a zero width space does end a word
    position = unicodedata.combining(character)
    if category == "Mn" and position == 0:
        return unicodedata.name(character, "").startswith(("VARIATION SELECTOR", "MONGOLIAN FREE VARIATION"))
    # Hebrew, Arabic and Syriac points are 10 to 36, marks above and below Latin, Greek and Cyrillic letters 200 and up; the
    # classes between and below spell vowels and consonants in Indic and South-East Asian scripts and kana.
    return category == "Me" or (category == "Mn" and (10 <= position <= 36 or position >= 200))  # noqa: PLR2004


def _is_vowel(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Mc")


_FOLD = _Fold()


# --- postings -----------------------------------------------------------------------------------------------------


def lexical_batch(analyzer: Analyzer, rows: Sequence[tuple[IndexedRow, str | None]]) -> LexicalBatch:
    """Return the postings of the rows, each with its rendered text; the text of rows that are not indexed is not looked at."""
    numbers: dict[str, int] = defaultdict(count().__next__)
    occurrences: list[int] = []
    lengths: list[int] = []
    for row, text in rows:
        before = len(occurrences)
        if row.outcome is Outcome.INDEXED:
            occurrences.extend(map(numbers.__getitem__, words(text or "")))
        lengths.append(len(occurrences) - before)
    terms, term_of_word = _terms(analyzer, numbers)
    indexed = np.flatnonzero([row.outcome is Outcome.INDEXED for row, _ in rows])
    offsets, postings = _postings(np.asarray(occurrences, np.int64), np.asarray(lengths, np.int64), term_of_word, indexed)
    if not len(indexed):
        terms, offsets = (), np.zeros(1, np.int64)
    return LexicalBatch(tuple(row for row, _ in rows), tuple(lengths), terms, offsets, postings)


def _terms(analyzer: Analyzer, numbers: Mapping[str, int]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the distinct terms in order, the empty one first, and the place among them of each numbered word's."""
    stems = analyzer.stems(list(numbers))
    terms = ("", *sorted(set(stems)))
    place = {term: number for number, term in enumerate(terms)}
    return terms, np.fromiter((place[stem] for stem in stems), np.int64, len(stems))


def _postings(
    occurrences: NDArray[np.int64], lengths: NDArray[np.int64], term_of_word: NDArray[np.int64], indexed: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.void]]:
    """Group occurrences of words, document after document, by term and document."""
    documents = np.repeat(np.arange(len(lengths)), lengths)
    width = max(1, len(lengths))
    # One number for a term and a document, sorted: equal neighbours are the occurrences of a posting. The empty term is 0.
    codes = np.sort(np.concatenate([indexed, term_of_word[occurrences] * width + documents]))
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    term, document = np.divmod(codes[starts], width)
    postings = np.empty(len(starts), dtype=POSTING)
    postings["doc"] = document
    postings["frequency"] = np.minimum(np.diff(starts, append=len(codes)), CAP)
    postings["length"] = np.minimum(lengths[document], CAP)
    return np.append(np.flatnonzero(np.diff(term, prepend=-1)), len(starts)), postings
