"""Never pay twice: the vectors of a lease's passages, by digest, whether they were stored before or come from the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seamark.embed.validation import sound_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from seamark.model import Key, Precision, StoredVectors

    Known = Callable[[Sequence[Key], Sequence[Key], Collection[bytes]], Mapping[bytes, StoredVectors]]
    Keep = Callable[[Sequence[bytes], StoredVectors], None]


@dataclass(frozen=True, slots=True)
class Stored:
    """The store's `vectors_known` and `vectors_put` for one generation."""

    known: Known
    keep: Keep


def _nothing_known(
    keys: Sequence[Key],  # noqa: ARG001 the signature of `vectors_known`
    held: Sequence[Key],  # noqa: ARG001
    digests: Collection[bytes],  # noqa: ARG001
) -> Mapping[bytes, StoredVectors]:
    return {}


def _nothing_kept(digests: Sequence[bytes], vectors: StoredVectors) -> None:
    """Forget them."""


NOTHING_STORED = Stored(_nothing_known, _nothing_kept)


class Vectors:
    """Vectors by the digests of their passages: equal passages have one between them."""

    def __init__(self, dimension: int, precision: Precision = "float16") -> None:
        self._dimension = dimension
        self._type = np.dtype(precision)
        self._places: dict[bytes, int] = {}
        self._pieces: list[StoredVectors] = []
        self._paid: list[bytes] = []

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._places

    def add(self, digests: Sequence[bytes], vectors: StoredVectors) -> None:
        """Add vectors that come from the model, one for each digest."""
        self._add(digests, vectors)
        self._paid.extend(digests)

    def paid(self) -> tuple[Sequence[bytes], StoredVectors]:
        """Return the vectors that come from the model, with their digests."""
        return self._paid, self.of(self._paid)

    def _add(self, digests: Iterable[bytes], vectors: StoredVectors) -> None:
        self._places.update(zip(digests, range(len(self._places), len(self._places) + len(vectors)), strict=True))
        self._pieces.append(vectors)

    def add_stored(self, found: Mapping[bytes, StoredVectors]) -> None:
        """Add those of the stored vectors that are sound, as they are: what has been damaged is made anew."""
        kind = ((self._dimension,), self._type)
        digests = [digest for digest, vector in found.items() if (vector.shape, vector.dtype) == kind]
        if digests:
            vectors = np.stack([found[digest] for digest in digests])
            sound = sound_vectors(vectors)
            self._add([digest for digest, is_sound in zip(digests, sound, strict=True) if is_sound], vectors[sound])

    def of(self, digests: Iterable[bytes]) -> StoredVectors:
        """Return the vectors of the digests, each of which must be there, one row for each."""
        places = [self._places[digest] for digest in digests]
        if not places:
            return np.empty((0, self._dimension), self._type)
        return np.concatenate(self._pieces)[places]
