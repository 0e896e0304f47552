"""The values of an audit: what a store reads for it, and what it finds. All frozen, like those of `seamark.model`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seamark.model import Key

Passage = tuple[int, int, bytes]
"""A stored chunk without its vector: where it starts and stops in the row's rendered text, and its digest."""


class Reason(StrEnum):
    """What is wrong with a row, or with what an index holds of it."""

    UNENTERED = "unentered"
    """It is live, and its journal does not say so: triggers were off, or rows came by a way past them."""
    GONE = "gone"
    """Its journal says that it is live, and it is not there, or outside the source's `where`."""
    MISSING = "missing"
    """The index does not hold its present version, and no lane will ever come by it."""
    OUTDATED = "outdated"
    """The index holds its present version, made from another text than the row has."""
    INCOMPLETE = "incomplete"
    """The index has lost part of what it held: chunks, or postings of some of the row's words."""
    DAMAGED = "damaged"
    """A stored vector is not one: NaN, infinite, zero, or of another dimension."""
    ORPHAN = "orphan"
    """The index holds something of it, and there is no such row, or not that much of it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One row that is not as it should be; `generation` is the index that is wrong, None when it is the journal."""

    key: Key
    reason: Reason
    generation: int | None


@dataclass(frozen=True, slots=True)
class Findings:
    """What a verification came to.

    `rows` were compared. `counts` has every finding, by reason and generation; `findings` lists the first of them. `problems`:
    what is wrong with what feeds the source, or keeps an index from being compared; `mended`: what a repair has done about it;
    `unmended`: what is beyond repair, so that the table has to be detached and attached again. `repaired` rows were given a
    new version, to be indexed again. `audited`: the generations that were compared to the end.
    """

    source: str
    rows: int
    counts: Mapping[tuple[Reason, int | None], int]
    findings: tuple[Finding, ...]
    problems: tuple[str, ...]
    mended: tuple[str, ...]
    unmended: tuple[str, ...]
    repaired: int
    audited: tuple[int, ...]

    @property
    def total(self) -> int:
        """How many findings there were."""
        return sum(self.counts.values())

    @property
    def clean(self) -> bool:
        """Whether nothing was found to be wrong."""
        return not self.problems and not self.counts


# --- what a store reads -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuditPassages:
    """The stored chunks of the rows of a page, no more of each than the row is held with.

    Most rows have one, so the first chunks are columns: `starts` and `stops` of shape (rows,), both -1 where there is none, and
    `digests` of shape (rows, 16). `further` has the others by the place of their row, in order. `damaged` says of each row
    whether one of its vectors is none.
    """

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    digests: NDArray[np.uint8]
    further: Mapping[int, Sequence[Passage]]
    damaged: NDArray[np.bool_]

    def of(self, place: int) -> Sequence[Passage]:
        """Return all chunks of one row."""
        if self.stops[place] < 0:
            return self.further.get(place, ())
        first = (int(self.starts[place]), int(self.stops[place]), self.digests[place].tobytes())
        return (first, *self.further.get(place, ()))


@dataclass(frozen=True, slots=True)
class AuditHeld:
    """What a generation holds of the rows of a page, in their order, column by column: arrays of shape (rows,).

    `seqs` are -1 where it holds nothing. `chunks` are -1 for gone, and for nothing. A vector generation has `passages`, a
    lexical one `documents`, -1 for none.
    """

    seqs: NDArray[np.int64]
    chunks: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    passages: AuditPassages | None = None
    documents: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Rows of the user's table, next in key order, with what the journal and the generations hold of them, in one snapshot.

    Column by column: `live`, `seqs` and `deleted` are arrays of shape (rows,), and `texts` has one column of strings for each
    text column of the source. `seqs` and `deleted` are the journal's; -1 and true where it has no entry. `last` is where the
    next page begins, None after the last one.
    """

    keys: Sequence[Key]
    live: NDArray[np.bool_]
    texts: Sequence[Sequence[str | None]]
    seqs: NDArray[np.int64]
    deleted: NDArray[np.bool_]
    held: Mapping[int, AuditHeld]
    last: Key | None


@dataclass(frozen=True, slots=True)
class AuditEntries:
    """Entries of the journal that have no live row, next in order of `seq`: `gone` ought to have one, `tombstones` not.

    `upto` is where the next begin, None after the last.
    """

    gone: Sequence[Key]
    tombstones: Sequence[Key]
    upto: int | None


@dataclass(frozen=True, slots=True)
class AuditStrays:
    """Keys, next in key order, of what a generation holds of no row. `last` is where the next begin, None after the last."""

    keys: Sequence[Key]
    last: Key | None


@dataclass(frozen=True, slots=True)
class AuditPostings:
    """All postings of the documents `first <= doc < first + len(weights)`, summed up by document.

    `weights` is the sum of `term_weight` times frequency modulo 2**64, `counts` that of the frequencies, both without the empty
    term; `lengths` is what the empty term's posting says, 0 where there is none.
    """

    first: int
    weights: NDArray[np.uint64]
    counts: NDArray[np.uint32]
    lengths: NDArray[np.uint32]
