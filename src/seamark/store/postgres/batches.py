"""Batches that are given to a provider, and the vectors that are paid for and not settled yet."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from seamark.model.cost import ProviderBatch
from seamark.store import batching
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
        return batching.batch_begin(_Batches(database, connection), generation_id, after, seconds)


def batches_list(database: Database, generation_id: int) -> list[ProviderBatch]:
    """Return the batches of a generation."""
    with database.connection() as connection:
        return _Batches(database, connection).batches(generation_id)


def batch_take(database: Database, generation_id: int, owner: str, seconds: float, *, force: bool) -> ProviderBatch | None:
    """Take the open batch on."""
    values = {"generation": generation_id, "owner": owner, "microseconds": round(seconds * 1e6), "force": force}
    with database.connection() as connection:
        row = database.run(connection, "batch_take", {}, values).fetchone()
    return None if row is None else ProviderBatch(*row)


def batch_write(database: Database, batch: ProviderBatch, owner: str, seconds: float | None) -> bool:
    """Write what has become of a batch."""
    with database.transaction() as connection:
        return batching.batch_write(_Batches(database, connection), batch, owner, seconds)


def batch_end(database: Database, batch: ProviderBatch, owner: str, seconds: float, spent: Spent) -> bool:
    """Write how a batch has ended and what it has cost, and plan the next."""
    with database.transaction() as connection:
        return batching.batch_end(_Batches(database, connection), batch, owner, seconds, spent)


class _Batches:
    """See `batching.Batching`."""

    def __init__(self, database: Database, connection: Connection) -> None:
        self._database, self._connection = database, connection

    def batches(self, generation_id: int) -> list[ProviderBatch]:
        rows = self._database.run(self._connection, "batches", {}, {"generation": generation_id})
        return [ProviderBatch(*row) for row in rows]

    def insert(self, generation_id: int, after: int, tag: str) -> bool:
        values = {"generation": generation_id, "after": after, "tag": tag}
        return self._database.run(self._connection, "batch_insert", {}, values).rowcount > 0

    def write(self, batch: ProviderBatch, owner: str) -> bool:
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
        return self._database.run(self._connection, "batch_write", {}, values).fetchone() is not None

    def hold(self, generation_id: int, seconds: float) -> None:
        values = {"generation": generation_id, "microseconds": round(seconds * 1e6)}
        self._database.run(self._connection, "batch_hold", {}, values)

    def spend(self, generation_id: int, owner: str, spent: Spent) -> None:
        values = {"generation": generation_id, "worker": owner, **asdict(spent)}
        self._database.run(self._connection, "spend_add", {}, values)
