"""Batches that are given to a provider, and the vectors that are paid for and not settled yet."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING

from seamark.model.cost import BATCH_ENDED, ProviderBatch
from seamark.store.postgres import codec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import StoredVectors
    from seamark.model.cost import Spent
    from seamark.store.postgres.connection import Connection, Database


def vectors_put(database: Database, generation_id: int, digests: Sequence[bytes], vectors: StoredVectors) -> None:
    """Put vectors by."""
    values = {
        "generation": generation_id,
        "digests": codec.array(digests),
        "embeddings": codec.array(vector.tobytes() for vector in vectors),
    }
    with database.keyed() as connection:
        database.run(connection, "prepaid_insert", {}, values)


def batch_begin(database: Database, generation_id: int, after: int, seconds: float) -> ProviderBatch | None:
    """Plan a batch, or return the one that is open."""
    with database.transaction() as connection:
        if _planned(database, connection, generation_id, after):
            _hold(database, connection, generation_id, seconds)
        found = [ProviderBatch(*row) for row in database.run(connection, "batches", {}, {"generation": generation_id})]
    return next((batch for batch in found if batch.state not in BATCH_ENDED), None)


def batches_list(database: Database, generation_id: int) -> list[ProviderBatch]:
    """Return the batches of a generation."""
    with database.connection() as connection:
        return [ProviderBatch(*row) for row in database.run(connection, "batches", {}, {"generation": generation_id})]


def batch_take(database: Database, generation_id: int, owner: str, seconds: float, *, force: bool) -> ProviderBatch | None:
    """Take the open batch on."""
    values = {"generation": generation_id, "owner": owner, "microseconds": round(seconds * 1e6), "force": force}
    with database.connection() as connection:
        row = database.run(connection, "batch_take", {}, values).fetchone()
    return None if row is None else ProviderBatch(*row)


def batch_write(database: Database, batch: ProviderBatch, owner: str, seconds: float) -> bool:
    """Write what has become of a batch."""
    with database.transaction() as connection:
        written = _written(database, connection, batch, owner)
        if written:
            _hold(database, connection, batch.generation_id, seconds)
    return written


def batch_end(database: Database, batch: ProviderBatch, owner: str, seconds: float, spent: Spent) -> bool:
    """Write how a batch has ended and what it has cost, and plan the next."""
    generation = batch.generation_id
    with database.transaction() as connection:
        if not _written(database, connection, batch, owner):
            return False
        database.run(connection, "spend_add", {}, {"generation": generation, "worker": owner, **asdict(spent)})
        following = seconds > 0 and _planned(database, connection, generation, batch.upto)
        _hold(database, connection, generation, seconds if following else 0.0)
    return True


def _planned(database: Database, connection: Connection, generation_id: int, after: int) -> bool:
    """Plan a batch, unless one is open or nothing is left; say whether it was."""
    values = {"generation": generation_id, "after": after, "tag": f"seamark-{uuid.uuid4().hex}"}
    return database.run(connection, "batch_insert", {}, values).rowcount > 0


def _hold(database: Database, connection: Connection, generation_id: int, seconds: float) -> None:
    """Hold the backfill lane for so long; 0 lets go of it."""
    database.run(connection, "batch_hold", {}, {"generation": generation_id, "microseconds": round(seconds * 1e6)})


def _written(database: Database, connection: Connection, batch: ProviderBatch, owner: str) -> bool:
    """Write a batch down; say whether it was still the owner's."""
    values = {
        "id": batch.id,
        "state": batch.state,
        "upto": batch.upto,
        "requests": batch.requests,
        "answered": batch.answered,
        "provider_id": batch.provider_id,
        "error": None if batch.error is None else codec.text_clean(batch.error),
        "owner": owner,
    }
    return database.run(connection, "batch_write", {}, values).fetchone() is not None
