"""The values of an audit: what a store reads for it, and what it finds. All frozen, like those of `seamark.model`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

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
class AuditHeld:
    """What a generation holds of the rows of a page, in their order, column by column.

    `seqs` are None where it holds nothing. `chunks` are -1 for gone. A vector generation has `passages`, by ordinal, with no
    more than `chunks` of each row, and in `damaged` the places of rows with a vector that is none. A lexical one has
    `documents`.
    """

    seqs: Sequence[int | None]
    chunks: Sequence[int]
    truncated: Sequence[bool]
    passages: Sequence[Sequence[Passage]] = ()
    damaged: AbstractSet[int] = frozenset()
    documents: Sequence[int | None] = ()


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Rows of the user's table, next in key order, with what the journal and the generations hold of them, in one snapshot.

    Column by column; `texts` has one such column for each text column of the source. `seqs` and `deleted` are the journal's;
    None and true where it has no entry. `last` is where the next page begins, None after the last one.
    """

    keys: Sequence[Key]
    live: Sequence[bool]
    texts: Sequence[Sequence[str | None]]
    seqs: Sequence[int | None]
    deleted: Sequence[bool]
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
