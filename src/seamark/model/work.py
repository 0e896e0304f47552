"""What workers claim, read and settle, and how far they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seamark.model.generations import Generation, StoredVectors
    from seamark.model.tables import Key

Lane = Literal["fresh", "backfill", "retry", "sweep"]
FailureKind = Literal["configuration", "unavailable", "transient", "input"]


@dataclass(frozen=True, slots=True)
class Lease:
    """A claimed range `lo < seq <= hi` of a source's journal. `expires_at` is in microseconds, by the database's clock."""

    id: int
    generation_id: int
    source_id: int
    lane: Lane
    lo: int
    hi: int
    worker: str
    fence: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim came to: a lease, or why there is none.

    `again` is true when the claim moved a cursor without finding rows, so that the next claim may find some at once.
    """

    lease: Lease | None
    again: bool = False


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A journal row of a lease with its text as it stands in the same snapshot.

    `live` is false for a row that was deleted, or is outside the source's `where`; `texts` is empty then. `texts` has one
    entry per text column of the source's spec, in that order; None for null. `attempts` counts the failures recorded at
    this very `seq`; `held` is how many chunks the generation has of an older version.
    """

    key: Key
    seq: int
    live: bool
    texts: tuple[str | None, ...]
    attempts: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """The rows to be done under a lease. `lease` is narrower than the one asked for when the text budget ran out."""

    lease: Lease
    rows: tuple[SourceRow, ...]


class Outcome(StrEnum):
    """What a generation holds for a row."""

    INDEXED = "indexed"
    BLANK = "blank"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class IndexedRow:
    """A row's new state in a generation. `chunks` is 0 unless `outcome` is indexed; a lexical generation has 1."""

    key: Key
    seq: int
    outcome: Outcome
    chunks: int = 0
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class VectorPlace:
    """Where a user keeps vectors: in a column of the source's own table, or in another one, whose columns `key` hold its key.

    `digest` is a column of the same table with a digest of the text that each vector was made from.
    """

    vector: str
    table: str | None = None
    key: tuple[str, ...] = ()
    digest: str | None = None


Digest = bytes | str | None
"""A digest of a text, as bytes or in hexadecimal; None where there is none."""


@dataclass(frozen=True, slots=True)
class AdoptableRows:
    """Live rows that a generation does not hold in their present version, column by column: text and `seq` of one snapshot.

    `texts` has one column for each text column of the source's spec, in that order. (In columns, since an object
    for each row, and the collector's looking through them, take longer than all the rest.)
    """

    keys: Sequence[Key]
    seqs: Sequence[int]
    texts: Sequence[Sequence[str | None]]


@dataclass(frozen=True, slots=True)
class ForeignBatch:
    """Rows with the vectors that a user keeps of them: shape (len(rows.keys), dimension), zeros where `sized` is false.

    `sized`: that vector has as many members as the generation's model gives.
    """

    rows: AdoptableRows
    vectors: NDArray[np.float32]
    sized: NDArray[np.bool_]
    digests: Sequence[Digest]


@dataclass(frozen=True, slots=True)
class Adopted:
    """What an adoption came to, in rows.

    `edited` have another text than the vector was made from; `divided` make no or several passages under the generation's
    chunker; `unusable` have a vector of another dimension, or one that is not finite or zero; `unknown` are keys of no live
    row, or given twice (None where the vectors are in the database: one of no row is not looked for there). `missing` are the
    live rows that the workers have to embed.
    """

    generation: Generation
    rows: int
    edited: int
    divided: int
    unusable: int
    unknown: int | None
    missing: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage: character offsets into the row's rendered text, and the 16-byte digest of the passage."""

    start: int
    stop: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class VectorBatch:
    """The result of a lease of a vector generation.

    `chunks` and `vectors` (of the generation's precision, shape (len(chunks), dimension)) hold the chunks of `rows` one row
    after the other:
    the first `rows[0].chunks` of them are those of `rows[0]`, and so on.
    """

    rows: tuple[IndexedRow, ...]
    chunks: tuple[Chunk, ...]
    vectors: StoredVectors


@dataclass(frozen=True, slots=True)
class WholeBatch:
    """Rows that are adopted, each with one chunk, which is the whole of its text, column by column: as many of everything."""

    keys: Sequence[Key]
    seqs: Sequence[int]
    starts: Sequence[int]
    stops: Sequence[int]
    digests: Sequence[bytes]
    vectors: StoredVectors


@dataclass(frozen=True, slots=True)
class LexicalBatch:
    """The result of a lease of a lexical generation.

    `postings` (dtype `POSTING`) is grouped by term: those of `terms[i]` are `postings[offsets[i]:offsets[i + 1]]`. Their
    `doc` is the position of the row in `rows`; the store replaces it by the number it gives to that version of the row.
    """

    rows: tuple[IndexedRow, ...]
    lengths: tuple[int, ...]
    terms: tuple[str, ...]
    offsets: NDArray[np.int64]
    postings: NDArray[np.void]


POSTING = [("doc", "<u4"), ("frequency", "<u2"), ("length", "<u2")]
"""The stored form of a posting, 8 bytes: document number, term frequency, and the document's length in terms (both capped)."""


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that could not be indexed. `retry_seconds` is None when it is parked: not tried again unless asked."""

    key: Key
    seq: int
    kind: FailureKind
    error: str
    attempts: int
    retry_seconds: float | None


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settle wrote. `superseded` rows had a newer version by then and were left to the lane that is ahead of it."""

    written: int
    superseded: int
    failed: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A recorded failure. Times in microseconds UTC; `retry_at` is None when the row is parked."""

    generation_id: int
    key: Key
    seq: int
    kind: FailureKind
    error: str
    attempts: int
    retry_at: int | None
    failed_at: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """Exact counts of a generation in one snapshot: `live == embedded + blank + missing + failed`.

    `missing` counts live rows whose current version is not indexed yet, rows with an older vector included. `truncated`
    counts embedded rows whose text was longer than Seamark indexes. `leases` are open: under way, or given back and to be
    taken up. `oldest_missing_seconds` is the age of the oldest change that is not indexed yet, None when nothing is missing.
    """

    live: int
    embedded: int
    blank: int
    missing: int
    failed: int
    truncated: int
    leases: int = 0
    retrying: int = 0
    oldest_missing_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerBeat:
    """A worker process's heartbeat. `rates` maps a generation's id to rows settled per second of late."""

    id: str
    host: str
    pid: int
    started_at: int
    beat_at: int
    rates: Mapping[int, float] = field(default_factory=dict[int, float])
