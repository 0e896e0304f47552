"""Blocks of postings: how the lexical index's blobs are made and merged, the same on both databases.

A block is a run of one term's postings, ascending by document number. Settling a lease adds small blocks; upkeep merges them
and leaves out the postings of versions that are no longer current.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seamark.model import POSTING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BLOCK_POSTINGS = 8192
"""Postings in a full block, 64 KiB: search reads a common term in few pieces, and a merge rewrites little."""
BLOCKS_LOOSE = 4
"""So many blocks may a term have beyond the full ones before a merge is worth its writes."""


@dataclass(frozen=True, slots=True)
class Block:
    """One row of a postings table, but for its term. `number` is the first document in it: unique for the term.

    A document has one posting per term and is in one block only, so no block that stands can have the number already.
    """

    number: int
    docs: int
    lengths: int
    data: bytes


def postings_load(blobs: Sequence[bytes]) -> NDArray[np.void]:
    """Return the postings of the blobs as one array, in the order given."""
    return np.frombuffer(b"".join(blobs), dtype=POSTING)


def blocks_merge(blobs: Sequence[bytes], live: NDArray[np.uint32]) -> tuple[Block, ...]:
    """Return the postings of these blobs whose document is in `live` (ascending), in blocks of up to BLOCK_POSTINGS."""
    postings = postings_load(blobs)
    postings = postings[_contained(postings["doc"], live)]
    postings = postings[np.argsort(postings["doc"], kind="stable")]
    return tuple(_block(postings[start : start + BLOCK_POSTINGS]) for start in range(0, len(postings), BLOCK_POSTINGS))


def blocks_loose(docs: Sequence[int]) -> int:
    """Return how many of a term's newest blocks to merge, given the sizes of its blocks, oldest first; 0 for none.

    A run is worth merging when it has more than BLOCKS_LOOSE blocks; it reaches back while the next older block is not full
    and no larger than all that follow it together, so that a posting is rewritten a logarithmic number of times.
    """
    run, total = 0, 0
    for size in reversed(docs):
        if size >= BLOCK_POSTINGS or (run > BLOCKS_LOOSE and size > total):
            break
        run += 1
        total += size
    return run if run > BLOCKS_LOOSE else 0


def _contained(docs: NDArray[np.uint32], live: NDArray[np.uint32]) -> NDArray[np.bool_]:
    if not len(live):
        return np.zeros(len(docs), dtype=np.bool_)
    places = np.minimum(np.searchsorted(live, docs), len(live) - 1)
    return live[places] == docs


def _block(postings: NDArray[np.void]) -> Block:
    lengths = int(postings["length"].sum(dtype=np.int64))
    return Block(int(postings["doc"][0]), len(postings), lengths, postings.tobytes())
