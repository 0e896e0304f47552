"""The registry of workers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from seamark.model import WorkerBeat
from seamark.store.sqlite.claims import MICROSECONDS, clock
from seamark.store.sqlite.words import STATEMENTS

if TYPE_CHECKING:
    from seamark.store.sqlite.connection import Connections

FORGET_SECONDS = 86_400
"""Workers not heard of for so long are forgotten."""


def worker_beat(connections: Connections, beat: WorkerBeat) -> None:
    """Record a heartbeat."""
    with connections.transaction() as connection:
        now = clock(connection)
        rates = json.dumps({str(generation): rate for generation, rate in beat.rates.items()})
        connection.run(STATEMENTS["worker_beat"], (beat.id, beat.host, beat.pid, now, now, rates))
        connection.run(STATEMENTS["workers_expire"], (now - FORGET_SECONDS * MICROSECONDS,))


def worker_forget(connections: Connections, worker: str) -> None:
    """Remove a worker that has stopped."""
    with connections.transaction() as connection:
        connection.run(STATEMENTS["worker_forget"], (worker,))


def workers_list(connections: Connections, seconds: float) -> list[WorkerBeat]:
    """Return the workers heard of within the last so many seconds."""
    with connections.use() as connection:
        since = clock(connection) - int(seconds * MICROSECONDS)
        rows = connection.rows(STATEMENTS["workers"], (since,))
    return [WorkerBeat(*row, rates=_rates(rates)) for *row, rates in rows]


def _rates(text: str) -> dict[int, float]:
    return {int(generation): rate for generation, rate in json.loads(text).items()}
