"""Columns read all at once: what a database joined into one value, cut into those of the rows again.

One answer for many rows costs a process that waits for it nothing meanwhile, while row after row would ask for its attention.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


_FIRST = -64
"""Bytes that go on with a character are 0x80 to 0xBF: as signed numbers, those below this one."""


def texts_cut(joined: bytes, lengths: NDArray[np.int64], codec: str) -> Sequence[str | None]:
    """Return the texts whose bytes follow one another; a length of -1 is of a null. What is not well-formed is U+FFFD."""
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.maximum(lengths, 0))])
    texts = _cut_whole(joined, ends) if codec == "utf-8" and b"\0" not in joined else None
    if texts is None:
        parts = [joined[start:end] for start, end in pairwise(ends.tolist())]
        texts = [part.decode(codec, "replace").replace("\0", "\ufffd") for part in parts]
    for place in np.flatnonzero(lengths < 0).tolist():
        texts[place] = None
    return texts


def _cut_whole(joined: bytes, ends: NDArray[np.int64]) -> list[str | None] | None:
    """Decode all texts at once, and cut them then; None where that cannot be done, since one is not well-formed."""
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
