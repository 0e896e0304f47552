"""Searches without a pause while faults happen, and logs what must not be: see `violations`.

It knows what writers have logged, and the rows that were there before and that nobody touches (`steady`).
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, get_args

import seamark
from seamark.core.chunking import render
from seamark.core.search import Mode
from seamark.errors import EmbedderError, StoreUnavailableError
from seamark.testing.actors import Reading
from seamark.testing.oracle import OracleEmbedder, oracle_vector
from seamark.testing.writer import ORGS, org_of

if TYPE_CHECKING:
    import threading

    from seamark.core.search import SearchResult
    from seamark.core.service import Seamark
    from seamark.model import Generation, Hit
    from seamark.testing.actors import Log, Order

STEADY = range(900_001, 900_031)
"""Keys of the rows that are there, and indexed, before anything happens, and that nobody touches."""
SCORE_TOLERANCE = 4e-3
AWAY_SECONDS = 0.1


def steady_row(key: int) -> tuple[int, str, str, int]:
    """Return the row of the table `notes(id, title, body, org)` for one of the steady keys."""
    return (key, f"steady {key}", f"a row that stays as it is, number {key}", org_of(key))


class Knowledge:
    """What the writers' logs say: keys that are deleted by a commit that was acknowledged, and not begun on since."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._logs = [Reading(path) for path in paths]
        self.deleted: set[int] = set()

    def read(self) -> set[int]:
        """Read on; return the keys that were touched meanwhile, or that somebody began to touch."""
        touched: set[int] = set()
        for log in self._logs:
            for event in log.events():
                touched |= set(event.get("keys", ())) | {int(key) for key in event.get("rows", ())}
                self.deleted -= set(event.get("keys", ()))
                rows = event.get("rows", {})
                self.deleted |= {int(key) for key, row in rows.items() if row is None}
                self.deleted -= {int(key) for key, row in rows.items() if row is not None}
        return touched


def search(order: Order, stop: threading.Event, log: Log) -> None:
    """Search until asked to end; log every violation, and at the end how many searches there were."""
    chance, knowledge = random.Random(order.seed), Knowledge(order.watched)
    counts: Counter[str] = Counter()
    with ExitStack() as closing:
        service = _opened(order, closing, stop)
        while not stop.is_set() and service is not None:
            mode = chance.choice(get_args(Mode))
            org = chance.choice([None, *range(ORGS)])
            limit = chance.choice([1, 5, 200])
            knowledge.read()
            deleted = set(knowledge.deleted)
            try:
                tracked = service.source("notes")
                query = f"steady row that moves {chance.randrange(100)}"
                found = tracked.search(query, mode=mode, limit=limit, filter=None if org is None else {"org": org})
                generations = service.store.generations(tracked.source.id)
            except (StoreUnavailableError, EmbedderError) as error:
                counts[type(error).__name__] += 1
                log.write("away", error=f"{type(error).__name__}: {error}"[:300])
                stop.wait(AWAY_SECONDS)
                continue
            gone = deleted - knowledge.read()
            counts["searches"] += 1
            counts["hits"] += len(found.hits)
            counts["degraded"] += bool(found.degraded)
            for violation in violations(found, generations, query, mode, org, limit, gone):
                log.write("violation", said=violation, mode=mode, org=org, limit=limit)
    log.write("searched", **counts)


def _opened(order: Order, closing: ExitStack, stop: threading.Event) -> Seamark | None:
    """Open the service once the database is there; None when asked to end before."""
    embedder = None if order.model else OracleEmbedder()
    while True:
        try:
            return closing.enter_context(seamark.open(order.url, model=order.model, embedder=embedder))
        except StoreUnavailableError:
            if stop.wait(AWAY_SECONDS):
                return None


def violations(
    found: SearchResult,
    generations: Any,
    query: str,
    mode: str,
    org: int | None,
    limit: int,
    gone: set[int],
) -> list[str]:
    """Say in what a result breaks a promise.

    I2: a hit whose delete had been acknowledged before the search began. I9: more than one generation of a kind, or a hit whose
    score is not that of its passage under the model of the generation that is named. I13: a hit outside the filter, or fewer
    hits than match; of those that match the steady rows are known.
    """
    told = [f"I2: row {hit.key} was deleted before the search began" for hit in found.hits if hit.key in gone]
    kinds = Counter(one.kind for one in generations if one.id in found.generations)
    told += [f"I9: {count} generations of kind {kind} were read" for kind, count in kinds.items() if count > 1]
    told += [f"I9: a hit is of generation {hit.generation}" for hit in found.hits if hit.generation not in found.generations]
    for generation in generations:
        if generation.model is not None and generation.id in found.generations:
            told += [said for hit in found.hits if (said := _misattributed(hit, generation, query))]
    matching = {key for key in STEADY if org is None or org_of(key) == org}
    told += [f"I13: row {hit.key} is not of org {org}" for hit in found.hits if org is not None and org_of(_number(hit)) != org]
    if len(found.hits) < min(limit, len(matching)):
        told.append(f"I13: {len(found.hits)} hits in mode {mode}, and at least {len(matching)} rows match")
    if len(found.hits) < limit and not matching <= {hit.key for hit in found.hits}:
        told.append(f"I13: rows {matching - {_number(hit) for hit in found.hits}} match and are missing")
    return told


def _misattributed(hit: Hit, generation: Generation, query: str) -> str | None:
    if hit.vector is None or hit.stale:
        return None
    assert generation.model is not None
    model = generation.model.name.rpartition(":")[2]
    dimension = generation.model.dimension
    expected = float(oracle_vector(hit.passage, model, dimension) @ oracle_vector(query, model, dimension))
    if abs(expected - hit.vector.score) < SCORE_TOLERANCE:
        return None
    return f"I9: row {hit.key} has score {hit.vector.score}, and {hit.passage!r} under {model} has {expected}"


def _number(hit: Hit) -> int:
    assert isinstance(hit.key, int)
    return hit.key


def steady_text(key: int) -> str:
    """Return what is indexed of a steady row."""
    _, title, body, _ = steady_row(key)
    return render([title, body])
