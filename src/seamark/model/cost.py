"""The values that say what embedding costs: all frozen, none with behaviour beyond its own fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Measure = Literal["exact", "calibrated", "rough"]


@dataclass(frozen=True, slots=True)
class Spent:
    """What a model was asked: calls, texts in them, and tokens that its provider says it bills (0 where it says nothing)."""

    calls: int = 0
    texts: int = 0
    tokens: int = 0


NOTHING_SPENT = Spent()


@dataclass(frozen=True, slots=True)
class Estimate:
    """What it would cost to embed a source's live rows as they are now.

    `chunks` are all passages of them, `texts` those that the model would be given: no vector of it is stored, nor is an equal
    one given with it. `tokens` are those of `texts`. `measure` says where they come from: `exact` is the model's own tokenizer,
    `calibrated` an estimate that was compared with what the provider billed for a few of the passages (`calibration`, already
    spent), `rough` an estimate that was not, rather too high.

    `sampled` is how many rows were looked at, None when all were. `error` is the relative error of `tokens`, within which the
    truth is 19 times out of 20; None when nothing is known of it.
    """

    rows: int
    chunks: int
    texts: int
    tokens: int
    measure: Measure
    sampled: int | None = None
    error: float | None = 0.0
    calibration: Spent = NOTHING_SPENT


BatchState = Literal["planned", "sending", "submitted", "done", "failed"]
BATCH_ENDED: frozenset[BatchState] = frozenset({"done", "failed"})


@dataclass(frozen=True, slots=True)
class ProviderBatch:
    """Passages of a generation's rows `after < seq <= upto` that are given to a provider's batch interface under a `tag`.

    `planned`: it is not known yet which; `sending`: it may or may not be there; `submitted`: it is, as `provider_id`; `done`;
    or `failed`, with an `error`; that of one which is `submitted` says what keeps it waiting. `requests` are the passages,
    `answered` those of them that came back as vectors.
    """

    id: int
    generation_id: int
    tag: str
    state: BatchState
    after: int
    upto: int = 0
    requests: int = 0
    answered: int = 0
    provider_id: str | None = None
    error: str | None = None
    created_at: int = 0


def price(tokens: int, usd_per_million: float) -> float:
    """Return what tokens cost, in US dollars."""
    return tokens * usd_per_million / 1e6
