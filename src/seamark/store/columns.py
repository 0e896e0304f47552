"""Columns read all at once: what a database joined into one value, cut into those of the rows again.

One answer for many rows costs a process that waits for it nothing meanwhile, while row after row would ask for its attention.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


_FIRST = -64
"""Bytes that go on with a character are 0x80 to 0xBF: as signed numbers, those below this one."""


def rows_fitting(sizes: Sequence[int], characters: int) -> int:
    """Return how many rows to take, given the bytes of text of each: until they pass the budget, and one at least."""
    return 1 + bisect_right([*accumulate(sizes[:-1])], characters)


def texts_cut(joined: bytes, lengths: NDArray[np.int64], codec: str) -> Sequence[str | None]:
    """Return the texts whose bytes follow one another; a length of -1 is of a null. What is not well-formed is U+FFFD."""
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.maximum(lengths, 0))])
    cut = _cut_at_once(joined, ends) if codec == "utf-8" else None
    texts: list[str | None] = [*(_cut_apart(joined, ends, codec) if cut is None else cut)]
    for place in np.flatnonzero(lengths < 0).tolist():
        texts[place] = None
    return texts


def _cut_apart(joined: bytes, ends: NDArray[np.int64], codec: str) -> list[str]:
    """Decode one text after the other, whatever is in it."""
    parts = [joined[start:end] for start, end in pairwise(ends.tolist())]
    return [part.decode(codec, "replace").replace("\0", "\ufffd") for part in parts]


def _cut_at_once(joined: bytes, ends: NDArray[np.int64]) -> list[str] | None:
    """Decode all texts, and cut them then; None where that cannot be done, since one has a NUL or is not well-formed."""
    if b"\0" in joined:
        return None
    try:
        whole = joined.decode()
    except UnicodeDecodeError:
        return None
    if len(whole) < len(joined):
        further = np.flatnonzero(np.frombuffer(joined, np.int8) < _FIRST)
        places = np.searchsorted(further, ends)
        if np.any(further[places[places < len(further)]] == ends[places < len(further)]):
            return None  # a text begins within a character
        ends = ends - places
    return [whole[start:end] for start, end in pairwise(ends.tolist())]


def digests_cut(joined: bytes, rows: int) -> NDArray[np.uint8]:
    """Return digests that follow one another, an array of shape (rows, 16)."""
    return np.frombuffer(joined, np.uint8).reshape(rows, -1)
