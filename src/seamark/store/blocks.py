"""Blocks of postings: how the lexical index's blobs are made, merged and summed up, the same on both databases.

A block is a run of one term's postings, ascending by document number. Settling a lease adds small blocks; upkeep merges them
and leaves out the postings of versions that are no longer current.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from operator import not_
from typing import TYPE_CHECKING

import numpy as np

from seamark.model import POSTING
from seamark.model.findings import AuditPostings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

BLOCK_POSTINGS = 8192
"""Postings in a full block, 64 KiB: search reads a common term in few pieces, and a merge rewrites little."""
BLOCKS_LOOSE = 4
"""So many blocks may a term have beyond the full ones before a merge is worth its writes."""
WEIGHT_MASK = 2**64 - 1
"""Weights of terms, and sums of them, are numbers of 64 bits."""
SUM_BLOCKS = 512
"""Blocks that are summed up together, in 32 MiB at most: most have a posting or two."""


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


# --- sums ---------------------------------------------------------------------------------------------------------


def term_weight(term: str) -> int:
    """Return a number of 64 bits that stands for the term in this process: sums of them tell different bags of words apart."""
    return hash(term) & WEIGHT_MASK


def postings_sum(blocks: Iterable[tuple[str, bytes]], first: int, documents: int) -> AuditPostings:
    """Sum up the postings of a range of documents, given all blocks (term, data) of the index."""
    weights, counts, lengths = np.zeros(documents, np.uint64), np.zeros(documents, np.uint32), np.zeros(documents, np.uint32)
    blocks = iter(blocks)
    while found := list(islice(blocks, SUM_BLOCKS)):
        terms, sizes, postings = _together(found)
        places = postings["doc"].astype(np.int64) - first
        within = (places >= 0) & (places < documents)
        empty = np.repeat(np.fromiter(map(not_, terms), np.bool_, len(terms)), sizes)
        named = within & ~empty
        frequencies = postings["frequency"][named].astype(np.uint32)  # of the type that it is added to, or it takes long
        # Each as `term_weight` has it, for all of them at once.
        of_terms = np.repeat(np.fromiter(map(hash, terms), np.int64, len(terms)).view(np.uint64), sizes)[named]
        np.add.at(weights, places[named], of_terms * frequencies.astype(np.uint64))
        np.add.at(counts, places[named], frequencies)
        np.add.at(lengths, places[within & empty], postings["length"][within & empty].astype(np.uint32))
    return AuditPostings(first, weights, counts, lengths)


def _together(blocks: Sequence[tuple[str, bytes]]) -> tuple[Sequence[str], NDArray[np.int64], NDArray[np.void]]:
    """Return the terms of blocks, how many postings each has, and the postings. Half a posting is none."""
    size = np.dtype(POSTING).itemsize
    terms, blobs = zip(*blocks, strict=True)
    sizes, over = np.divmod(np.fromiter(map(len, blobs), np.int64, len(blobs)), size)
    if over.any():
        blobs = [blob[: len(blob) // size * size] for blob in blobs]
    return terms, sizes, postings_load(blobs)
