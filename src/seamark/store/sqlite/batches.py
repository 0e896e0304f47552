"""Batches that are given to a provider, and the vectors that are paid for and not settled yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.model.cost import ProviderBatch
from seamark.store import batching
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
        return batching.batch_begin(_Batches(connection), generation, after, seconds)


def batches_list(connections: Connections, generation: int) -> list[ProviderBatch]:
    """Return the batches of a generation."""
    with connections.use() as connection:
        return _Batches(connection).batches(generation)


def batch_take(connections: Connections, generation: int, owner: str, seconds: float, *, force: bool) -> ProviderBatch | None:
    """Take the open batch on."""
    with connections.transaction() as connection:
        now = clock(connection)
        expires_at = now + int(seconds * MICROSECONDS)
        values = {"generation": generation, "owner": owner, "now": now, "expires_at": expires_at, "force": force}
        row = connection.row(STATEMENTS["batch_take"], values)
    return None if row is None else ProviderBatch(*row)


def batch_write(connections: Connections, batch: ProviderBatch, owner: str, seconds: float | None) -> bool:
    """Write what has become of a batch."""
    with connections.transaction() as connection:
        return batching.batch_write(_Batches(connection), batch, owner, seconds)


def batch_end(connections: Connections, batch: ProviderBatch, owner: str, seconds: float, spent: Spent) -> bool:
    """Write how a batch has ended and what it has cost, and plan the next."""
    with connections.transaction() as connection:
        return batching.batch_end(_Batches(connection), batch, owner, seconds, spent)


class _Batches:
    """See `batching.Batching`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._now = clock(connection)

    def batches(self, generation_id: int) -> list[ProviderBatch]:
        return [ProviderBatch(*row) for row in self._connection.rows(STATEMENTS["batches"], (generation_id,))]

    def insert(self, generation_id: int, after: int, tag: str) -> bool:
        values = {"generation": generation_id, "after": after, "tag": tag, "now": self._now}
        self._connection.run(STATEMENTS["batch_insert"], values)
        return self._connection.changes() > 0

    def write(self, batch: ProviderBatch, owner: str) -> bool:
        values = {
            "id": batch.id,
            "state": batch.state,
            "upto": batch.upto,
            "requests": batch.requests,
            "answered": batch.answered,
            "provider_id": batch.provider_id,
            "error": None if batch.error is None else batch.error.encode("utf-8", "replace").decode("utf-8"),
            "owner": owner,
            "now": self._now,
        }
        return self._connection.row(STATEMENTS["batch_write"], values) is not None

    def hold(self, generation_id: int, seconds: float) -> None:
        until = self._now + int(seconds * MICROSECONDS) if seconds else 0
        self._connection.run(STATEMENTS["batch_hold"], (until, generation_id))

    def spend(self, generation_id: int, owner: str, spent: Spent) -> None:
        self._connection.run(STATEMENTS["spend_add"], (owner, spent.calls, spent.texts, spent.tokens, generation_id))
