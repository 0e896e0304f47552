"""Vectors that others have stored, as bytes: what both databases read of a user's column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Form:
    """How a vector is laid out: after `header` bytes its members, each after `gap` bytes; `types` by their width."""

    header: int
    gap: int
    types: tuple[str, ...]


PLAIN = Form(0, 0, ("<f2", "<f4", "<f8"))
"""A BLOB of half, single or double precision, least byte first, as numpy's `tobytes` gives it: its length tells which."""


def columns(rows: Sequence[tuple[Any, ...]], first: int) -> list[list[Any]]:
    """Return the columns of rows, from one on; not by `zip`, which makes an iterator for each row."""
    return [[row[column] for row in rows] for column in range(first, len(rows[0]))] if rows else []


def vectors_decode(blobs: Sequence[bytes], dimension: int, form: Form = PLAIN) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the vectors, shape (len(blobs), dimension), and which of the blobs have that many members; zeros for others."""
    found = np.zeros((len(blobs), dimension), np.float32)
    sized = np.zeros(len(blobs), np.bool_)
    lengths = np.fromiter(map(len, blobs), np.int64, len(blobs))
    for type_ in form.types:
        member = np.dtype(type_)
        same = np.flatnonzero(lengths == form.header + dimension * (form.gap + member.itemsize))
        if len(same):
            data = b"".join(blobs[place][form.header :] for place in same.tolist())
            layout = np.dtype([("gap", f"V{form.gap}"), ("value", member)]) if form.gap else np.dtype([("value", member)])
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told from the result
                found[same] = np.frombuffer(data, layout)["value"].reshape(len(same), dimension)
            sized[same] = True
    return found, sized
