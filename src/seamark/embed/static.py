"""The default embedder: a static token-embedding model that ships in the package; no network, no key, no torch.

A text's vector is the mean of its tokens' vectors, scaled to length 1: what model2vec's `StaticModel.encode` computes, from
the same files. It is computed here by itself because the fill of a table waits for it. Tokens are looked up word by word
in a table that grows (the tokenizer proper is five times slower), sums are made in few large numpy calls (each small one
gives up the interpreter lock, and waits for it beside busy threads), and nothing is cut at 512 tokens.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]  its annotations are loose
from tokenizers import Tokenizer

from seamark.embed.validation import encodable_texts, unit_vectors
from seamark.model import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

WEIGHTS_FILES = ("model.safetensors", "tokenizer.json")
WEIGHTS_DIGEST = "447b88c08bd7"
"""The first digits of the SHA-256 of the WEIGHTS_FILES, one after the other; a test compares it with the files."""
DIMENSION = 256

_BLOCK_TOKENS = 16
"""Tokens added up in int16, where sixteen int8 cannot overflow."""
_SLICE_BLOCKS = 256
"""Blocks gathered at once: 2 MB."""
_SLICE_CHARACTERS = 262_144
"""Text broken into words at once, which bounds the memory for the words."""
_WORDS_MAX = 100_000
"""Words remembered, some 20 MB; an English text collection has fewer that recur."""
_WORD_CHARACTERS_MAX = 40
"""Longer words hardly recur and are not remembered."""

_END = "\x00"
_END_TOKEN = 0xFFFF
_UNKNOWN = "[UNK]"
# A text is plain when only lower-casing and splitting at blanks and punctuation come before its words are looked up.
_odd = re.compile(r"[^\t\n\r -~]|\[PAD\]|\[UNK\]").search
_plain_words = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~\x00]").findall
_segments = re.compile(r"[^\t\n\r ]+").findall


class StaticEmbedder:
    """Embeds with the weights in `seamark/embed/weights`, loaded when first needed.

    A text without one known token (emoji, a word of over 100 letters) has no mean. Its vector is made of its characters
    instead: each has a direction of its own, drawn from a hash, and they are added up. So every text has a valid vector,
    texts of the same odd characters find each other, and to all others they are as good as orthogonal.
    """

    identity = ModelIdentity(name="static:seamark-static-256", version=WEIGHTS_DIGEST, dimension=DIMENSION)
    # A weak model beside BM25. On 250 training questions of SciFact over 1,500 abstracts, nDCG@10: 0.775 for BM25 alone, 0.622
    # for the model alone, 0.779, 0.784, 0.784 and 0.781 at weights 0.1, 0.2, 0.3 and 0.5, and 0.734 for reciprocal ranks.
    fusion_weight = 0.2
    concurrency = 2
    batch_items = 1024

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: _Weights | None = None

    def token_excess(self, texts: Sequence[str]) -> Sequence[bool]:
        """Say that no text is too long: all its tokens count."""
        return [False] * len(texts)

    def tokens_count(self, texts: Sequence[str]) -> Sequence[int]:
        """Return how many tokens of each text have a vector; nobody bills them."""
        return self._weights().counts(encodable_texts(texts))

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the texts' vectors, shape (len(texts), 256)."""
        sums = self._weights().sums(encodable_texts(texts))
        for row in np.flatnonzero(~sums.any(axis=1)).tolist():
            sums[row] = _character_vector(texts[row])
        return unit_vectors(sums)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the questions' vectors; the model makes no difference between the two."""
        return self.embed_documents(texts)

    def _weights(self) -> _Weights:
        if self._loaded is None:
            with self._lock:
                self._loaded = self._loaded or _Weights()
        return self._loaded


class _Weights:
    """The token vectors, and sums of them over texts."""

    def __init__(self) -> None:
        with as_file(files("seamark.embed") / "weights") as folder:
            vectors = load_file(folder / "model.safetensors")["embeddings"]
            self._words = _Words(Tokenizer.from_file(str(folder / "tokenizer.json")))
        # The last row pads blocks and adds nothing.
        self._table = np.concatenate([vectors, np.zeros((1, DIMENSION), np.int8)], dtype=np.int16)

    def sums(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the sum of the token vectors of each text, exactly."""
        sums = np.zeros((len(texts), DIMENSION), np.float32)
        first = 0
        for some in _slices(texts):
            self._sum(self._tokens(some), sums[first : first + len(some)])
            first += len(some)
        return sums

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""
        ends = (np.flatnonzero(self._tokens(some) == _END_TOKEN) for some in _slices(texts))
        return [count for each in ends for count in (np.diff(each, prepend=-1) - 1).tolist()]

    def _tokens(self, texts: Sequence[str]) -> NDArray[np.uint16]:
        """Return the tokens of the texts, with an end mark after each text."""
        return np.frombuffer(b"".join(map(self._words.__getitem__, _words(texts))), np.uint16)

    def _sum(self, tokens: NDArray[np.uint16], sums: NDArray[np.float32]) -> None:
        """Add the vectors of `tokens`, which has an end mark after each text, to the rows of `sums`."""
        ends = np.flatnonzero(tokens == _END_TOKEN)
        counts = np.diff(ends, prepend=-1)  # with the end mark, which becomes padding: every text has a block
        blocks = -(-counts // _BLOCK_TOKENS)
        stops = np.cumsum(blocks)
        shifts = (stops - blocks) * _BLOCK_TOKENS - (ends + 1 - counts)
        padding = len(self._table) - 1
        padded = np.full((int(stops[-1]), _BLOCK_TOKENS), padding, np.intp)
        padded.reshape(-1)[np.arange(len(tokens)) + np.repeat(shifts, counts)] = np.minimum(tokens, padding)
        rows = np.repeat(np.arange(len(counts)), blocks)
        for first in range(0, len(padded), _SLICE_BLOCKS):
            vectors = np.take(self._table, padded[first : first + _SLICE_BLOCKS], axis=0, mode="clip")
            block_sums = vectors.sum(axis=1, dtype=np.int16).astype(np.float32)
            slice_rows, starts = np.unique(rows[first : first + _SLICE_BLOCKS], return_index=True)
            sums[slice_rows] += np.add.reduceat(block_sums, starts, axis=0)


class _Words(dict[str, bytes]):
    """The tokens of words, as the bytes of a uint16 array. A word that is not there is looked up, and kept while there is room.

    Threads share it: a word looked up by two of them at once is stored twice, with the same tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._unknown = tokenizer.token_to_id(_UNKNOWN)
        self[_END] = np.uint16(_END_TOKEN).tobytes()

    def __missing__(self, word: str) -> bytes:
        tokens = self._tokenizer.encode(word, add_special_tokens=False).ids
        found = np.array([token for token in tokens if token != self._unknown], np.uint16).tobytes()
        if len(word) <= _WORD_CHARACTERS_MAX and len(self) < _WORDS_MAX:
            self[word] = found
        return found


def _words(texts: Sequence[str]) -> list[str]:
    """Break texts into the words that the tokenizer would, and an end mark after each text.

    The tokenizer cleans and lower-cases character by character and breaks at every blank. So a plain text can be
    broken up here, and of any other text the stretches between blanks, which are given to the tokenizer as they are.
    """
    words: list[str] = []
    plain: list[str] = []
    for text in texts:
        if text.isascii() and not _odd(text):
            plain.append(text)
            continue
        words += _plain_words("".join(before + _END for before in plain).lower())
        plain.clear()
        # The tokenizer drops NUL, which is the end mark here.
        for segment in _segments(text.replace(_END, "")):
            words += [segment] if _odd(segment) else _plain_words(segment.lower())
        words.append(_END)
    return words + _plain_words("".join(before + _END for before in plain).lower())


def _slices(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split texts into runs of bounded size in characters, at least one text each."""
    first, size = 0, 0
    for position, text in enumerate(texts):
        if size + len(text) > _SLICE_CHARACTERS and position > first:
            yield texts[first:position]
            first, size = position, 0
        size += len(text)
    if first < len(texts):
        yield texts[first:]


def _character_vector(text: str) -> NDArray[np.float32]:
    """Return the sum of the directions of the text's characters, blanks aside; never zero."""
    counts = Counter(text) - Counter({blank: len(text) for blank in " \t\n\r"}) or Counter([""])
    total = np.zeros(DIMENSION, np.float64)
    for character, count in sorted(counts.items()):
        seed = hashlib.shake_256(character.encode("utf-8", "surrogatepass")).digest(DIMENSION)
        total += count * (np.frombuffer(seed, np.int8) + 0.5)
    return total.astype(np.float32)
