"""What goes into an embedder and what comes out of it: texts made encodable, vectors checked, errors made ours."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from seamark.errors import BudgetSpentError, EmbedderDimensionError, EmbedderError, EmbedderTransientError, StoreError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from numpy.typing import ArrayLike, NDArray

    from seamark.model import ModelIdentity, Precision, StoredVectors

_LENGTH_TOLERANCE = 1e-2
"""Some times what rounding each member to float16 changes the length of a unit vector by."""
_LENGTH_LEAST, _LENGTH_MOST = 1e-15, 1e15
"""Between these the squares of a float32 vector add up to its length without loss."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def encodable_texts(texts: Sequence[str]) -> list[str]:
    """Return the texts with U+FFFD for every lone surrogate, which neither tokenizers nor JSON over HTTP can carry."""
    return [text if text.isascii() else _SURROGATE.sub("\ufffd", text) for text in texts]


@contextmanager
def embedder_errors(name: str) -> Generator[None]:
    """Turn whatever an embedder raises into an EmbedderError: it is other people's code, and must stop no worker or search.

    What the budget and the database say meanwhile is no fault of the embedder's.
    """
    try:
        yield
    except (EmbedderError, BudgetSpentError, StoreError):
        raise
    except Exception as error:
        raise EmbedderTransientError(f"embedder {name!r} raised {type(error).__name__}: {error}") from error


def stored_vectors(vectors: ArrayLike, count: int, identity: ModelIdentity, precision: Precision = "float16") -> StoredVectors:
    """Check what an embedder returned for `count` texts and return it as it is stored: unit vectors, of that precision.

    Vectors are scaled to length 1 whatever the model does, so that the cosine is a dot product everywhere. A member of a
    unit vector is at most 1 and the largest is at least 1/sqrt(dimension), so float16 neither overflows nor rounds a
    vector to zero.

    Raises:
        EmbedderDimensionError: the vectors have another dimension than the model is registered with.
        EmbedderTransientError: not numbers, not `count` vectors, or one of them is not finite or zero.
    """
    found = checked_vectors(vectors, count, identity.name)
    if found.shape[1] != identity.dimension:
        raise EmbedderDimensionError(
            f"{identity.name} returned vectors of {found.shape[1]} dimensions and is registered with {identity.dimension}: "
            f"the model behind that name has changed, or `dimensions` is not what it was"
        )
    unit = unit_vectors(found)
    return unit if precision == "float32" else unit.astype(np.float16)


def checked_vectors(vectors: ArrayLike, count: int, name: str) -> NDArray[np.floating]:
    """Return the vectors as an array of `count` rows of finite numbers, none of them all zero.

    Raises:
        EmbedderTransientError: they are anything else; the message has the numbers.
    """
    found = _matrix(vectors, name)
    if found.shape[0] != count:
        raise EmbedderTransientError(f"{name} returned {found.shape[0]} vectors for {count} texts")
    finite = np.isfinite(found)
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        bad = int((~finite[row]).sum())
        raise EmbedderTransientError(
            f"{name} returned NaN or infinity: {bad} of {found.shape[1]} numbers of vector {row} (of {count})"
        )
    zero = ~found.any(axis=1)
    if zero.any():
        row = int(np.flatnonzero(zero)[0])
        raise EmbedderTransientError(f"{name} returned a zero vector, which has no direction: vector {row} (of {count})")
    return found


def sound_vectors(vectors: StoredVectors) -> NDArray[np.bool_]:
    """Say of each stored vector whether it is sound still: finite, and of length 1 but for rounding."""
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
    return np.abs(lengths - 1) < _LENGTH_TOLERANCE  # NaN is not below anything


def unit_vectors(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale finite, non-zero rows to length 1, also those whose squares overflow or vanish."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        found = vectors.astype(np.float32)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        found /= lengths
    extreme = np.flatnonzero(~((lengths > _LENGTH_LEAST) & (lengths < _LENGTH_MOST)))
    if len(extreme):
        wide = vectors[extreme].astype(np.float64)
        # Dividing by the largest member first keeps the squares of very large and very small numbers in range.
        wide /= np.abs(wide).max(axis=1, keepdims=True)
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
        found[extreme] = wide
    return found


def _matrix(vectors: ArrayLike, name: str) -> NDArray[np.floating]:
    try:
        found = np.asarray(vectors)
    except ValueError as error:
        raise EmbedderTransientError(f"{name} returned vectors of differing lengths") from error
    if found.dtype.kind not in "fiu":
        raise EmbedderTransientError(f"{name} returned something else than numbers ({found.dtype}), null or text perhaps")
    if found.ndim != 2 or found.shape[1] == 0:  # noqa: PLR2004 texts by dimensions
        raise EmbedderTransientError(f"{name} returned an array of shape {found.shape}; one row per text is wanted")
    return found.astype(np.float32) if found.dtype.kind != "f" else found
