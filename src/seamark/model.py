"""The values that cross Seamark's boundaries: all frozen, none with behaviour beyond its own fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from seamark.cost import NOTHING_SPENT, Spent

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    StoredVectors = NDArray[np.float16 | np.float32]
    """Vectors as they are stored, of either precision."""

KeyValue = int | str | bytes | UUID
Key = tuple[KeyValue, ...]
"""A row's primary key, one member per key column, each in its own type."""


def key_order(key: Key) -> tuple[tuple[str, object], ...]:
    """Make keys comparable whose members are of different types, which a SQLite column may hold."""
    return tuple((type(member).__name__, member) for member in key)


Scalar = str | int | float | bool | None
ColumnKind = Literal["integer", "text", "uuid", "blob", "json", "number", "boolean", "time", "other"]
SourceState = Literal["enrolling", "ready"]
GenerationKind = Literal["lexical", "vector"]
Precision = Literal["float16", "float32"]
GenerationState = Literal["building", "active", "retired"]
Lane = Literal["fresh", "backfill", "retry", "sweep"]
FailureKind = Literal["configuration", "unavailable", "transient", "input"]
StampName = Literal["embedded_model_id", "embedded_model_version", "embedded_at", "has_embedding", "embed_gen"]
Track = Literal["triggers", "poll"]
Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in"]


# --- tables and sources -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a user's table: `type` is the database's own name for it, `kind` is what Seamark takes it for."""

    name: str
    type: str
    kind: ColumnKind


@dataclass(frozen=True, slots=True)
class Table:
    """A user's table as it stands now. `key` is empty when it has no primary key."""

    schema: str | None
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    def column(self, name: str) -> Column | None:
        """Return the column of that exact name, or None."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class TextColumn:
    """A column whose text is embedded; `table` is None for the source's own, else the name of a touching table."""

    column: str
    table: str | None = None


@dataclass(frozen=True, slots=True)
class Touch:
    """A related table: `columns` hold the source's key, in the key's order. Its changes touch the source's row."""

    table: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison. `path` leads to a member of a JSON column. `=` and `!=` treat null as a value."""

    column: str
    operator: Operator
    value: Scalar | tuple[Scalar, ...]
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Every:
    """All of the filters hold (true when there are none)."""

    of: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """At least one of the filters holds (false when there are none)."""

    of: tuple[Filter, ...]


Filter = Condition | Every | Either


def filter_columns(where: Filter | None) -> tuple[str, ...]:
    """Return the names of the columns that the filter looks at, each once."""
    if where is None:
        return ()
    if isinstance(where, Condition):
        return (where.column,)
    return tuple(dict.fromkeys(name for part in where.of for name in filter_columns(part)))


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """What `attach` was asked to track. `where` says which rows are live; None means all of them.

    `stamp`: columns of the table that say of each row what the generation that search reads holds of its present text.
    `track`: whether triggers feed the journal, or a poller, by the key, which only ever grows.
    """

    table: str
    text: tuple[TextColumn, ...]
    where: Filter | None = None
    touch: tuple[Touch, ...] = ()
    stamp: tuple[StampName, ...] = ()
    track: Track = "triggers"


@dataclass(frozen=True, slots=True)
class Source:
    """An attached table. `enrolled` is the last key that the enrolment of existing rows has passed."""

    id: int
    name: str
    table: Table
    spec: SourceSpec
    state: SourceState
    enrolled: Key | None


@dataclass(frozen=True, slots=True)
class Enrolment:
    """One batch of existing rows has entered the journal; `done` when there are no more."""

    rows: int
    done: bool


# --- models and generations ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Everything about an embedding model that changes its vectors. `locator` (how to load it) is not part of it."""

    name: str
    version: str
    dimension: int
    document_prefix: str = ""
    query_prefix: str = ""
    normalised: bool = True


def precision(identity: Mapping[str, object]) -> Precision:
    """Return how the vectors of a generation with this identity are stored."""
    return "float32" if identity.get("precision") == "float32" else "float16"


@dataclass(frozen=True, slots=True)
class GenerationSpec:
    """A generation to be made. `identity` is the JSON-able whole that `fingerprint` is the digest of."""

    kind: GenerationKind
    fingerprint: str
    identity: Mapping[str, object]
    model: ModelIdentity | None = None
    locator: str | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """One index over one source. Cursors are `seq` values; see docs/architecture.md for what each promises."""

    id: int
    source_id: int
    kind: GenerationKind
    fingerprint: str
    identity: Mapping[str, object]
    state: GenerationState
    model: ModelIdentity | None
    locator: str | None
    origin: int
    fresh: int
    backfill: int
    confirmed: int
    swept: int
    backoff_until: int
    backoff_error: str | None
    created_at: int
    activated_at: int | None
    manual: bool = False
    """It becomes the active one only when somebody asks for it."""
    retired_at: int | None = None
    due: int | None = None
    """What the journal held when it had to catch up with it: it is whole once `confirmed` has come so far."""
    drift: str | None = None
    """In what the model behind its name is another one by now: nothing more is written until that is resolved."""

    @property
    def whole(self) -> bool:
        """Whether everything is done that was there when it began, and when it was taken up again."""
        return self.backfill == 0 and self.swept >= self.origin and (self.due is None or self.confirmed >= self.due)


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model as it was registered.

    `probe` is what it made of fixed sentences then, float32, None while it has not been asked yet; `drift` says in what it is
    another one by now, None when all is well.
    """

    identity: ModelIdentity
    probe: NDArray[np.float32] | None
    drift: str | None


# --- work ---------------------------------------------------------------------------------------------------------


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
class ForeignBatch:
    """Rows with the vectors that a user keeps of them: shape (len(rows), dimension), zeros where `sized` is false.

    `sized`: that vector has as many members as the generation's model gives.
    """

    rows: tuple[SourceRow, ...]
    vectors: NDArray[np.float32]
    sized: NDArray[np.bool_]
    digests: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Adopted:
    """What an adoption came to, in rows.

    `edited` have another text than the vector was made from; `divided` make no or several passages under the generation's
    chunker; `unusable` have a vector of another dimension, or one that is not finite or zero; `unknown` are keys of no live
    row, or given twice. `missing` are the live rows that the workers have to embed.
    """

    generation: Generation
    rows: int
    edited: int
    divided: int
    unusable: int
    unknown: int
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
    counts embedded rows whose text was longer than Seamark indexes. `oldest_missing_seconds` is the age of the oldest
    change that is not indexed yet, None when nothing is missing.
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


# --- search -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TermStatistics:
    """How many blocks and postings a term has, and the sum of the `length` of those postings.

    The empty term is in every document: its postings are N, and `lengths / postings` is the avgdl, of BM25.
    """

    term: str
    blocks: int
    postings: int
    lengths: int


@dataclass(frozen=True, slots=True)
class ChunkHit:
    """A chunk found by a vector leg. `similarity` is the cosine."""

    key: Key
    start: int
    stop: int
    similarity: float


@dataclass(frozen=True, slots=True)
class LiveRow:
    """A live row as search shows it. `seq` is its journal's, `indexed` those that the generations asked about hold, or None."""

    key: Key
    seq: int
    texts: tuple[str | None, ...]
    indexed: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Leg:
    """A hit's place in one ranked list, from 1, and its score there (BM25, or cosine similarity)."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A found row. `passage` is the matching part of its present text, at `start..stop` of the rendered text.

    `stale` is true when the row's text is newer than what the generation has indexed of it.
    """

    key: KeyValue | Key
    score: float
    passage: str
    start: int
    stop: int
    stale: bool
    generation: int
    lexical: Leg | None
    vector: Leg | None


@dataclass(frozen=True, slots=True)
class Check:
    """One finding of `doctor`: what was looked at, whether it is well, and how to mend it when it is not."""

    name: str
    ok: bool
    detail: str
    remedy: str | None = None
    required: bool = True


@dataclass(frozen=True, slots=True)
class Rows:
    """What a user's own query found: the names of its columns, and its rows as the database's driver gives their values."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


@dataclass(frozen=True, slots=True)
class Views:
    """The views for SQL users by name, and what another program's connection has to run before it has them."""

    statements: tuple[str, ...]
    names: tuple[str, ...]


# --- what a user is shown -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceCoverage:
    """A source's coverage: the counts of the generation that vector search reads, and those of every generation by id."""

    live: int
    embedded: int
    blank: int
    missing: int
    failed: int
    truncated: int
    generation: int | None
    generations: Mapping[int, Coverage]


@dataclass(frozen=True, slots=True)
class Audited:
    """The last audit of a generation by a worker: when it ended, and how much it compared, found, and had indexed anew.

    `audited_at` is in microseconds UTC. Findings of the journal count for each generation of its source.
    """

    generation_id: int
    audited_at: int
    rows: int
    findings: int
    repaired: int


@dataclass(frozen=True, slots=True)
class GenerationStatus:
    """How a generation stands. `rows_per_second` is what all workers together settle; `eta_seconds` is None when unknown."""

    generation: Generation
    coverage: Coverage
    rows_per_second: float
    eta_seconds: float | None
    failures: tuple[Failure, ...]
    spent: Spent = NOTHING_SPENT
    audit: Audited | None = None


@dataclass(frozen=True, slots=True)
class GenerationListing:
    """A generation in whatever state, with what it holds, what it takes on disk, and how long ago it was begun."""

    generation: Generation
    coverage: Coverage
    bytes: int
    age_seconds: float


@dataclass(frozen=True, slots=True)
class SwapStep:
    """An index that a swap would begin: by which model, None for one of words.

    `generation` is a retired or unfinished one that would be gone on with, `held` how many rows it holds as they are now.
    """

    kind: GenerationKind
    model: ModelIdentity | None
    generation: int | None
    held: int


@dataclass(frozen=True, slots=True)
class SwapPlan:
    """What a swap would begin, over how many live rows; no steps when all is as it is asked for."""

    rows: int
    steps: tuple[SwapStep, ...]


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How a source stands, and each of its generations that is not retired.

    `problems`: in what the table is no longer as it was attached, so that the counts are not of its rows. `unfinished`: an
    attach of it is under way, or was cut short. `edits_seconds`: within what time edits and deletes of a polled table are
    found; None when it has triggers, or when workers do not audit.
    """

    source: Source
    generations: tuple[GenerationStatus, ...]
    problems: tuple[str, ...] = ()
    unfinished: bool = False
    edits_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a long-running operation is: `total` is None while it is not known; `lag_seconds` is the oldest change's age."""

    label: str
    rows: int
    total: int | None
    rows_per_second: float
    eta_seconds: float | None = None
    lag_seconds: float | None = None
    problem: str | None = None
