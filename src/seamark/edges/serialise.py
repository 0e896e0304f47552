"""Values as JSON: the one serialiser that the command line's `--json`, HTTP and MCP share. docs/cli.md documents its shapes.

Keys of one column are given plain, those of several as a list; a uuid as text, bytes as `{"hex": …}`. Times are ISO 8601 in
UTC, durations seconds. What cannot be in JSON (NaN, infinity, half of a surrogate pair) is null or U+FFFD.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, cast
from uuid import UUID

from seamark.core.catalog import columns_write
from seamark.core.filters import filter_write
from seamark.model.cost import price

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.core.compare import Comparison, QueryComparison
    from seamark.core.search import SearchResult
    from seamark.model import (
        Activated,
        Adopted,
        Audited,
        Check,
        Coverage,
        Failure,
        Generation,
        GenerationListing,
        GenerationStatus,
        Hit,
        Key,
        KeyValue,
        Leg,
        ModelIdentity,
        Progress,
        Rows,
        Source,
        SourceCoverage,
        SourceStatus,
        SwapPlan,
        SwapStep,
        Views,
    )
    from seamark.model.cost import Estimate, ProviderBatch
    from seamark.model.findings import Finding, Findings

Json = dict[str, object]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SURROGATE = re.compile("[\ud800-\udfff]")


def key(value: KeyValue | Key) -> object:
    """Return a row's key: plain when it is of one column, else a list."""
    if isinstance(value, tuple):
        return key(value[0]) if len(value) == 1 else [key(member) for member in value]
    if isinstance(value, UUID):
        return str(value)
    return {"hex": value.hex()} if isinstance(value, bytes) else text(value) if isinstance(value, str) else value


def text(value: str) -> str:
    """Return a text that every JSON parser takes."""
    return _SURROGATE.sub("\ufffd", value)


def number(value: float | None) -> float | None:
    """Return a number, or null where JSON has none for it."""
    return value if value is not None and math.isfinite(value) else None


def time(microseconds: int | None) -> str | None:
    """Return a time of the database's as ISO 8601."""
    return None if microseconds is None else (_EPOCH + timedelta(microseconds=microseconds)).isoformat().replace("+00:00", "Z")


def source(value: Source) -> Json:
    """Return what is attached, in the words that `attach` takes."""
    spec = value.spec
    return {
        "name": value.name,
        "table": value.table.name,
        "key": list(value.table.key),
        "text": columns_write(spec.text),
        "where": None if spec.where is None else filter_write(spec.where),
        "touch": {related.table: list(related.columns) for related in spec.touch},
        "stamp": list(spec.stamp),
        "track": spec.track,
        "state": value.state,
    }


def generation(value: Generation) -> Json:
    """Return which index it is, of which model, and since when; its cursors are nobody else's business."""
    return {
        "id": value.id,
        "kind": value.kind,
        "state": value.state,
        "model": _model(value.model),
        "fingerprint": value.fingerprint,
        "identity": dict(value.identity),
        "created_at": time(value.created_at),
        "activated_at": time(value.activated_at),
        "retired_at": time(value.retired_at),
        "manual": value.manual,
        "model_drift": None if value.drift is None else text(value.drift),
        "problem": None if value.backoff_error is None else text(value.backoff_error),
    }


def activated(value: Activated) -> Json:
    """Return which index is searched now, what it did not hold then, and what is left to be activated by hand."""
    counts = {"missing": value.missing, "failed": value.failed, "precedes": list(value.precedes)}
    return {"generation": generation(value.generation), **counts}


def coverage(value: Coverage) -> Json:
    """Return exact counts of a generation; `live == embedded + blank + missing + failed`."""
    return {**asdict(value), "oldest_missing_seconds": number(value.oldest_missing_seconds)}


def source_coverage(value: SourceCoverage) -> Json:
    """Return a source's counts: those of the generation that vector search reads, and of each generation by its id."""
    counts = {
        name: getattr(value, name) for name in ("live", "embedded", "blank", "missing", "failed", "truncated", "generation")
    }
    return {**counts, "generations": {str(name): coverage(member) for name, member in value.generations.items()}}


def failure(value: Failure) -> Json:
    """Return a row that could not be indexed, and why."""
    return {
        "generation": value.generation_id,
        "key": key(value.key),
        "kind": value.kind,
        "error": text(value.error),
        "attempts": value.attempts,
        "failed_at": time(value.failed_at),
        "retry_at": time(value.retry_at),
        "parked": value.retry_at is None,
    }


def finding(value: Finding) -> Json:
    """Return a row that is not as it should be, and why."""
    return {"key": key(value.key), "reason": value.reason.value, "generation": value.generation}


def findings(value: Findings, every: Sequence[Json]) -> Json:
    """Return what a verification came to, with all of its findings, serialised."""
    counts = [
        {"reason": reason.value, "generation": generation, "rows": rows} for (reason, generation), rows in value.counts.items()
    ]
    return {
        "source": value.source,
        "clean": value.clean,
        "rows": value.rows,
        "counts": counts,
        "findings": every,
        "problems": [text(problem) for problem in value.problems],
        "mended": list(value.mended),
        "unmended": [text(problem) for problem in value.unmended],
        "repaired": value.repaired,
    }


def audited(value: Audited) -> Json:
    """Return when a worker compared everything last, and what came of it."""
    return {
        "audited_at": time(value.audited_at),
        "rows": value.rows,
        "findings": value.findings,
        "repaired": value.repaired,
    }


def generation_status(value: GenerationStatus) -> Json:
    """Return how a generation stands."""
    return {
        **generation(value.generation),
        "coverage": coverage(value.coverage),
        "rows_per_second": number(value.rows_per_second),
        "eta_seconds": number(value.eta_seconds),
        "spent": asdict(value.spent),
        "failures": [failure(member) for member in value.failures],
        "audit": None if value.audit is None else audited(value.audit),
        "batch": None if value.batch is None else batch(value.batch),
        "batch_failed": None if value.batch_failed is None else batch(value.batch_failed),
    }


def listing(value: GenerationListing) -> Json:
    """Return a generation with what it holds, what it takes on disk, and its age."""
    return {
        **generation(value.generation),
        "coverage": coverage(value.coverage),
        "bytes": value.bytes,
        "age_seconds": number(value.age_seconds),
        "spent": asdict(value.spent),
        "batch": None if value.batch is None else batch(value.batch),
    }


def swap_plan(value: SwapPlan) -> Json:
    """Return what a swap would begin."""
    return {"rows": value.rows, "steps": [_swap_step(step) for step in value.steps]}


def comparison(value: Comparison) -> Json:
    """Return how two generations' answers differ; what is of both is a list of two."""
    return {
        **asdict(value),
        "generations": list(value.generations),
        "ndcg": _both(value.ndcg),
        "recall": _both(value.recall),
        "queries": [_query_comparison(one) for one in value.queries],
    }


def _query_comparison(value: QueryComparison) -> Json:
    return {**asdict(value), "query": text(value.query), "ndcg": _both(value.ndcg), "recall": _both(value.recall)}


def _both(values: tuple[float, float] | None) -> list[float] | None:
    return None if values is None else list(values)


def _swap_step(value: SwapStep) -> Json:
    return {"kind": value.kind, "model": _model(value.model), "generation": value.generation, "held": value.held}


def _model(value: ModelIdentity | None) -> Json | None:
    return None if value is None else {"name": value.name, "version": value.version, "dimension": value.dimension}


def source_status(value: SourceStatus) -> Json:
    """Return how a source and each of its generations stand."""
    generations = [generation_status(member) for member in value.generations]
    return {
        **source(value.source),
        **({"state": "broken"} if value.problems else {}),
        "problems": list(value.problems),
        "unfinished": value.unfinished,
        "unsearched": value.unsearched,
        "edits_seconds": value.edits_seconds,
        "generations": generations,
    }


def leg(value: Leg | None) -> Json | None:
    """Return a hit's place in one ranked list, null where it is not in it."""
    return None if value is None else {"rank": value.rank, "score": number(value.score)}


def hit(value: Hit, rank: int) -> Json:
    """Return a found row, its rank from 1."""
    return {
        "rank": rank,
        "key": key(value.key),
        "score": number(value.score),
        "stale": value.stale,
        "passage": text(value.passage),
        "start": value.start,
        "stop": value.stop,
        "generation": value.generation,
        "lexical": leg(value.lexical),
        "vector": leg(value.vector),
    }


def search_result(value: SearchResult) -> Json:
    """Return the hits of a search, best first, and the legs that could not run."""
    return {
        "hits": [hit(member, rank) for rank, member in enumerate(value.hits, start=1)],
        "degraded": list(value.degraded),
        "generations": list(value.generations),
    }


def adopted(value: Adopted) -> Json:
    """Return what an adoption came to, in rows, and the index that it made."""
    names = ("rows", "edited", "divided", "unusable", "unknown", "missing")
    return {"generation": generation(value.generation), **{name: getattr(value, name) for name in names}}


def rows(value: Rows) -> Json:
    """Return what a query found: the names of the columns, and the rows as lists."""
    return {"columns": list(value.columns), "rows": [[cell(member) for member in row] for row in value.rows]}


def cell(value: object) -> object:
    """Return a value of a database as JSON; as text what JSON has no form for."""
    match value:
        case bool() | int() | None:
            found = value
        case float():
            found = number(value)
        case Decimal() if value.is_finite():
            found = int(value) if value == int(value) else float(value)
        case bytes():
            found = {"hex": value.hex()}
        case datetime():
            found = value.astimezone(UTC).isoformat().replace("+00:00", "Z") if value.tzinfo else value.isoformat()
        case list() | tuple():
            found = [cell(member) for member in cast("Sequence[object]", value)]
        case dict():
            found = {text(str(name)): cell(member) for name, member in cast("dict[object, object]", value).items()}
        case _:
            found = text(str(value))
    return found


def views(value: Views) -> Json:
    """Return the views by name, and what a connection has to run to have them."""
    return {"views": list(value.names), "statements": list(value.statements)}


def check(value: Check) -> Json:
    """Return a finding of `doctor`."""
    return {"name": value.name, "ok": value.ok, "required": value.required, "detail": value.detail, "remedy": value.remedy}


def checks(values: Sequence[Check]) -> Json:
    """Return all findings of `doctor`, and whether everything that must be well is."""
    return {"ok": healthy(values), "checks": [check(value) for value in values]}


def healthy(values: Sequence[Check]) -> bool:
    """Say whether everything that must be well is."""
    return all(value.ok for value in values if value.required)


def batch(value: ProviderBatch) -> Json:
    """Return how a batch at a provider stands."""
    error = None if value.error is None else text(value.error)
    return {
        "id": value.id,
        "generation": value.generation_id,
        "state": value.state,
        "requests": value.requests,
        "answered": value.answered,
        "provider_id": value.provider_id,
        "error": error,
        "created_at": time(value.created_at),
    }


def estimate(value: Estimate, usd_per_million: float | None) -> Json:
    """Return what embedding would cost, in US dollars too where a million tokens has a price."""
    usd = None if usd_per_million is None else round(price(value.tokens, usd_per_million), 6)
    return {**asdict(value), "error": number(value.error), "usd_per_million": usd_per_million, "usd": usd}


def progress(value: Progress) -> Json:
    """Return how far a long-running operation is."""
    return {
        "label": value.label,
        "rows": value.rows,
        "total": value.total,
        "rows_per_second": round(value.rows_per_second, 1),
        "eta_seconds": None if value.eta_seconds is None else round(value.eta_seconds, 1),
        "lag_seconds": None if value.lag_seconds is None else round(value.lag_seconds, 1),
        "problem": value.problem,
    }
