"""Batches that are given to a provider, and the vectors that are paid for and not settled yet."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from seamark.model.cost import ProviderBatch
from seamark.store.postgres import codec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import StoredVectors
    from seamark.store.postgres.connection import Database


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
    values = {"generation": generation_id, "after": after, "tag": f"seamark-{uuid.uuid4().hex}"}
    with database.transaction() as connection:
        if database.run(connection, "batch_insert", {}, values).rowcount:
            values = {"generation": generation_id, "microseconds": round(seconds * 1e6)}
            database.run(connection, "batch_hold", {}, values)
        found = [ProviderBatch(*row) for row in database.run(connection, "batches", {}, {"generation": generation_id})]
    return next((batch for batch in found if batch.state not in ("done", "failed")), None)


def batches_list(database: Database, generation_id: int) -> list[ProviderBatch]:
    """Return the batches of a generation."""
    with database.connection() as connection:
        return [ProviderBatch(*row) for row in database.run(connection, "batches", {}, {"generation": generation_id})]


def batch_take(database: Database, generation_id: int, owner: str, seconds: float) -> ProviderBatch | None:
    """Take the open batch on."""
    values = {"generation": generation_id, "owner": owner, "microseconds": round(seconds * 1e6)}
    with database.connection() as connection:
        row = database.run(connection, "batch_take", {}, values).fetchone()
    return None if row is None else ProviderBatch(*row)


def batch_write(database: Database, batch: ProviderBatch, owner: str, seconds: float) -> bool:
    """Write what has become of a batch."""
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
    hold = {"generation": batch.generation_id, "microseconds": round(seconds * 1e6)}
    with database.transaction() as connection:
        if database.run(connection, "batch_write", {}, values).fetchone() is None:
            return False
        database.run(connection, "batch_hold", {}, hold)
        return True
