"""A row's texts as one text, and that text as passages small enough for a model."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from typing import TYPE_CHECKING
from zlib import crc32

from semantic_text_splitter import TextSplitter

from seamark.errors import EmbedderConfigurationError, InvalidRequestError
from seamark.model import Chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

CHUNK_CHARACTERS = 1000
"""A passage: a paragraph or two, some 200 tokens, well below what any model takes."""
CHUNK_CHARACTERS_MIN = 20
CHUNK_CHARACTERS_MAX = 100_000
TEXT_CHARACTERS = 2_000_000
"""Of a longer row only this much is embedded, and the row is counted as truncated: a book of 1,000 pages still fits."""
SECTION_CHUNKS = 8
"""A text of more chunks than this is cut into sections first, so that an edit changes few of its chunks."""
STRETCH_CHARACTERS = 10_000
"""The splitter's time grows with the square of a text without paragraphs, so it is given no more than this at once."""

DIGEST_BYTES = 16
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK_LINE = "\n\n"
_PARAGRAPH = re.compile(r"\n\n+")
HASHED_CHARACTERS = 64
"""By its beginning a paragraph is told from those around it."""
_HASH_ABOVE = 1 << 32
_BREAKS = ("\n\n", "\n", ". ", " ")


def render(texts: Sequence[str | None]) -> str:
    """Return a row's texts as the one text that is indexed: those that are not blank, with a blank line between them."""
    return _BLANK_LINE.join([text for text in texts if text and not text.isspace()])


def render_columns(columns: Sequence[Sequence[str | None]]) -> list[str]:
    """Render many rows, given column by column."""
    written = [[text if text and not text.isspace() else "" for text in column] for column in columns]
    return [_BLANK_LINE.join(filter(None, row)) for row in zip(*written, strict=True)]


@dataclass(frozen=True, slots=True)
class Split:
    """A text's passages, in order. `truncated` when the text is longer than TEXT_CHARACTERS."""

    chunks: tuple[Chunk, ...]
    truncated: bool


class Chunker:
    """Splits text where its meaning does: at paragraphs, sentences, words, in that order, up to so many characters.

    `sections` is false for generations made before long texts were cut into sections.
    """

    def __init__(self, characters: int = CHUNK_CHARACTERS, *, sections: bool = True) -> None:
        if not CHUNK_CHARACTERS_MIN <= characters <= CHUNK_CHARACTERS_MAX:
            raise InvalidRequestError(
                f"a chunk of {characters} characters: choose from {CHUNK_CHARACTERS_MIN} to {CHUNK_CHARACTERS_MAX}"
            )
        self.characters = characters
        self._sections = sections
        self._splitter = TextSplitter(characters)

    @classmethod
    def of(cls, identity: Mapping[str, object]) -> Chunker:
        """Return the chunker of a generation's identity; EmbedderConfigurationError if this installation has another one."""
        chunker = cls.like(identity)
        if identity.get("chunker") != chunker.identity():
            raise EmbedderConfigurationError(
                f"the generation was made with chunker {identity.get('chunker')}, and this Seamark has {chunker.identity()}: "
                f"install the version that made it, or swap it (`seamark model swap`)"
            )
        return chunker

    @classmethod
    def like(cls, identity: Mapping[str, object]) -> Chunker:
        """Return a chunker of the kind and size that a generation's identity states, or of the usual ones."""
        match identity.get("chunker"):
            case {"characters": int(characters), "sections": int()}:
                return cls(characters)
            case {"characters": int(characters)}:
                return cls(characters, sections=False)
            case _:
                return cls()

    def identity(self) -> dict[str, object]:
        """Return everything that changes the chunks of a text, for the generation's fingerprint."""
        identity: dict[str, object] = {
            "name": "semantic-text-splitter",
            "version": version("semantic-text-splitter"),
            "characters": self.characters,
            "stretch": STRETCH_CHARACTERS,
            "limit": TEXT_CHARACTERS,
        }
        return identity | {"sections": SECTION_CHUNKS} if self._sections else identity

    def split(self, text: str, token_excess: Callable[[Sequence[str]], Sequence[bool]] | None = None) -> Split:
        """Split a text into passages that cover all of it but white space, none of them blank; none if the text is blank.

        Offsets are `str` indices. Passages for which `token_excess` is true are halved until there are none, or a passage is
        a single character.
        """
        covered = text[:TEXT_CHARACTERS]
        spans = self._spans(covered)
        if token_excess is not None and spans:
            spans = _spans_fitting(covered, spans, token_excess)
        return Split(tuple(_chunk(covered, *span) for span in spans), len(text) > TEXT_CHARACTERS)

    def whole(self, text: str) -> Chunk | None:
        """Return the only passage of a text; None where it makes several, or none."""
        if len(text) > self.characters:
            split = self.split(text)
            return split.chunks[0] if len(split.chunks) == 1 and not split.truncated else None
        passage = text.strip()
        start = 0 if len(passage) == len(text) else len(text) - len(text.lstrip())
        return _chunk(text, start, start + len(passage)) if passage else None

    def _spans(self, text: str) -> list[tuple[int, int]]:
        if len(text) <= self.characters:
            return _trimmed(text, 0, len(text))
        # The splitter takes UTF-8, which has no lone surrogates; what stands in for one is one character as well.
        plain = text if text.isascii() else _SURROGATE.sub("\ufffd", text)
        cut = self._sections and len(plain) > SECTION_CHUNKS * self.characters
        sections = _sections(plain, self.characters // 2) if cut else [(0, len(plain))]
        return [
            span
            for begin, end in sections
            for start, stop in _stretches(plain, begin, end, max(STRETCH_CHARACTERS, 2 * self.characters))
            for offset, passage in self._splitter.chunk_indices(plain[start:stop])
            for span in _trimmed(text, start + offset, start + offset + len(passage))
        ]


def _sections(text: str, reach: int) -> Iterator[tuple[int, int]]:
    """Cut a text before those paragraphs whose hash is the least within `reach` characters to either side.

    Whether it is cut at a paragraph depends on its neighbours only, so an edit moves no cut further away: the local maximum
    method of Bjørner, Blass & Gurevich, Content-Dependent Chunking for Differential Compression (J. Comput. Syst. Sci. 2010).
    """
    places = [match.end() for match in _PARAGRAPH.finditer(text, reach, max(reach, len(text) - reach))]
    hashes = [crc32(text[place : place + HASHED_CHARACTERS].encode("utf-8", "replace")) for place in places]
    start = 0
    for at, place in enumerate(places):
        before = hashes[bisect_left(places, place - reach) : at]
        after = hashes[at : bisect_right(places, place + reach)]
        # Of equal paragraphs it is the first: a text that repeats one is not cut to pieces.
        if hashes[at] == min(after) and hashes[at] < min(before, default=_HASH_ABOVE):
            yield start, place
            start = place
    yield start, len(text)


def _stretches(text: str, start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut a part of a text into stretches of at most `size` characters, each at the last best break in its second half."""
    while end - start > size:
        middle, limit = start + size // 2, start + size
        places = (place + len(mark) for mark in _BREAKS if (place := text.rfind(mark, middle, limit)) >= 0)
        stop = next(places, limit)
        yield start, stop
        start = stop
    yield start, end


def _spans_fitting(
    text: str, spans: list[tuple[int, int]], token_excess: Callable[[Sequence[str]], Sequence[bool]]
) -> list[tuple[int, int]]:
    fitting: list[tuple[int, int]] = []
    open_spans = spans
    while open_spans:
        flags = token_excess([text[start:stop] for start, stop in open_spans])
        halves: list[tuple[int, int]] = []
        for (start, stop), excess in zip(open_spans, flags, strict=True):
            if excess and stop - start > 1:
                middle = _middle(text, start, stop)
                halves += _trimmed(text, start, middle) + _trimmed(text, middle, stop)
            else:
                fitting.append((start, stop))
        open_spans = halves
    return sorted(fitting)


def _middle(text: str, start: int, stop: int) -> int:
    """Return where to halve a passage: after the white space nearest before its middle, or in the middle of a long word."""
    middle = (start + stop) // 2
    for place in range(middle, (start + middle) // 2, -1):
        if text[place].isspace():
            return place
    return middle


def _trimmed(text: str, start: int, stop: int) -> list[tuple[int, int]]:
    """Return the span without white space at its ends, as a list that is empty when nothing is left."""
    passage = text[start:stop]
    start += len(passage) - len(passage.lstrip())
    stop = start + len(passage.strip())
    return [(start, stop)] if start < stop else []


def _chunk(text: str, start: int, stop: int) -> Chunk:
    return Chunk(start, stop, passage_digest(text[start:stop]))


def passage_digest(passage: str) -> bytes:
    """Return the digest that a chunk of this text has."""
    return blake2b(passage.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
