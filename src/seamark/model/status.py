"""How it all stands, as it is shown to a user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seamark.model.cost import NOTHING_SPENT, ProviderBatch, Spent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seamark.model.generations import Generation, GenerationKind, ModelIdentity
    from seamark.model.tables import Source
    from seamark.model.work import Coverage, Failure


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
    """How a generation stands. `rows_per_second` is what all workers together settle; `eta_seconds` is None when unknown.

    `batch` is the one that is under way with a provider, for which the backfill waits; `batch_failed` the latest one, where it
    has failed, was not given up, and rows are still missing.
    """

    generation: Generation
    coverage: Coverage
    rows_per_second: float
    eta_seconds: float | None
    failures: tuple[Failure, ...]
    spent: Spent = NOTHING_SPENT
    audit: Audited | None = None
    batch: ProviderBatch | None = None
    batch_failed: ProviderBatch | None = None


@dataclass(frozen=True, slots=True)
class GenerationListing:
    """A generation in whatever state, with what it holds, what it takes on disk, and how long ago it was begun."""

    generation: Generation
    coverage: Coverage
    bytes: int
    age_seconds: float
    batch: ProviderBatch | None = None
    spent: Spent = NOTHING_SPENT


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
    found; None when it has triggers, or when workers do not audit. `unsearched`: all of its vector indexes are retired, because
    somebody has asked for it, or because an adoption was cut short.
    """

    source: Source
    generations: tuple[GenerationStatus, ...]
    problems: tuple[str, ...] = ()
    unfinished: bool = False
    edits_seconds: float | None = None
    unsearched: bool = False


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
