"""Blocks of postings: how the lexical index's blobs are made, merged and summed up, the same on both databases.

A block is a run of one term's postings, ascending by document number. Settling a lease adds small blocks; upkeep merges them
and leaves out the postings of versions that are no longer current.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seamark.model import POSTING
from seamark.model.findings import AuditPostings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

BLOCK_POSTINGS = 8192
"""Postings in a full block, 64 KiB: search reads a common term in few pieces, and a merge rewrites little."""
BLOCKS_LOOSE = 4
"""So many blocks may a term have beyond the full ones before a merge is worth its writes."""
WEIGHT_MASK = 2**64 - 1
"""Weights of terms, and sums of them, are numbers of 64 bits."""
SUM_BYTES = 2**20
"""Blobs are summed up together until there are so many bytes of them: most have a posting or two."""


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
    for terms, sizes, postings in _gathered(blocks):
        places = postings["doc"].astype(np.int64) - first
        within = (places >= 0) & (places < documents)
        empty = np.repeat(np.fromiter((not term for term in terms), np.bool_, len(terms)), sizes)
        named = within & ~empty
        frequencies = postings["frequency"][named]
        of_terms = np.repeat(np.fromiter(map(term_weight, terms), np.uint64, len(terms)), sizes)[named]
        np.add.at(weights, places[named], of_terms * frequencies.astype(np.uint64))
        np.add.at(counts, places[named], frequencies)
        np.add.at(lengths, places[within & empty], postings["length"][within & empty])
    return AuditPostings(first, weights, counts, lengths)


def _gathered(blocks: Iterable[tuple[str, bytes]]) -> Iterator[tuple[list[str], list[int], NDArray[np.void]]]:
    """Put small blocks together: their terms, how many postings each has, and the postings. Half a posting is none."""
    size = np.dtype(POSTING).itemsize
    terms: list[str] = []
    blobs: list[bytes] = []
    total = 0
    for term, data in blocks:
        terms.append(term)
        blobs.append(data if len(data) % size == 0 else data[: len(data) // size * size])
        total += len(data)
        if total >= SUM_BYTES:
            yield terms, [len(blob) // size for blob in blobs], postings_load(blobs)
            terms, blobs, total = [], [], 0
    if blobs:
        yield terms, [len(blob) // size for blob in blobs], postings_load(blobs)
