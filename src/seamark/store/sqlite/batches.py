"""Batches that are given to a provider, and the vectors that are paid for and not settled yet."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from seamark.model.cost import BATCH_ENDED, ProviderBatch
from seamark.store.sqlite.claims import MICROSECONDS, clock
from seamark.store.sqlite.words import STATEMENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import StoredVectors
    from seamark.model.cost import Spent
    from seamark.store.sqlite.connection import Connection, Connections


def vectors_put(connections: Connections, generation: int, digests: Sequence[bytes], vectors: StoredVectors) -> None:
    """Put vectors by."""
    with connections.transaction() as connection:
        now = clock(connection)
        rows = [(digest, vector.tobytes(), now, generation) for digest, vector in zip(digests, vectors, strict=True)]
        connection.many(STATEMENTS["prepaid_insert"], rows)


def batch_begin(connections: Connections, generation: int, after: int, seconds: float) -> ProviderBatch | None:
    """Plan a batch, or return the one that is open."""
    with connections.transaction() as connection:
        now = clock(connection)
        if _planned(connection, generation, after, now):
            connection.run(STATEMENTS["batch_hold"], (now + int(seconds * MICROSECONDS), generation))
        found = [ProviderBatch(*row) for row in connection.rows(STATEMENTS["batches"], (generation,))]
    return next((batch for batch in found if batch.state not in BATCH_ENDED), None)


def batches_list(connections: Connections, generation: int) -> list[ProviderBatch]:
    """Return the batches of a generation."""
    with connections.use() as connection:
        return [ProviderBatch(*row) for row in connection.rows(STATEMENTS["batches"], (generation,))]


def batch_take(connections: Connections, generation: int, owner: str, seconds: float, *, force: bool) -> ProviderBatch | None:
    """Take the open batch on."""
    with connections.transaction() as connection:
        now = clock(connection)
        expires_at = now + int(seconds * MICROSECONDS)
        values = {"generation": generation, "owner": owner, "now": now, "expires_at": expires_at, "force": force}
        row = connection.row(STATEMENTS["batch_take"], values)
    return None if row is None else ProviderBatch(*row)


def batch_write(connections: Connections, batch: ProviderBatch, owner: str, seconds: float) -> bool:
    """Write what has become of a batch."""
    with connections.transaction() as connection:
        now = clock(connection)
        written = _written(connection, batch, owner, now)
        if written:
            connection.run(STATEMENTS["batch_hold"], (now + int(seconds * MICROSECONDS), batch.generation_id))
    return written


def batch_end(connections: Connections, batch: ProviderBatch, owner: str, seconds: float, spent: Spent) -> bool:
    """Write how a batch has ended and what it has cost, and plan the next."""
    generation = batch.generation_id
    with connections.transaction() as connection:
        now = clock(connection)
        if not _written(connection, batch, owner, now):
            return False
        connection.run(STATEMENTS["spend_add"], (owner, spent.calls, spent.texts, spent.tokens, generation))
        following = seconds > 0 and _planned(connection, generation, batch.upto, now)
        connection.run(STATEMENTS["batch_hold"], (now + int(seconds * MICROSECONDS) if following else 0, generation))
    return True


def _planned(connection: Connection, generation: int, after: int, now: int) -> bool:
    """Plan a batch, unless one is open or nothing is left; say whether it was."""
    values = {"generation": generation, "after": after, "tag": f"seamark-{uuid.uuid4().hex}", "now": now}
    connection.run(STATEMENTS["batch_insert"], values)
    return connection.changes() > 0


def _written(connection: Connection, batch: ProviderBatch, owner: str, now: int) -> bool:
    """Write a batch down; say whether it was still the owner's."""
    values = {
        "id": batch.id,
        "state": batch.state,
        "upto": batch.upto,
        "requests": batch.requests,
        "answered": batch.answered,
        "provider_id": batch.provider_id,
        "error": None if batch.error is None else batch.error.encode("utf-8", "replace").decode("utf-8"),
        "owner": owner,
        "now": now,
    }
    return connection.row(STATEMENTS["batch_write"], values) is not None
