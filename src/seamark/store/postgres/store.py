"""The store on PostgreSQL: the contract's operations, each handed to the module that knows how."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb

from seamark.errors import StoreError
from seamark.model import Coverage, Failure, Views, WorkerBeat
from seamark.store.postgres import (
    adopt,
    batches,
    codec,
    faults,
    generations,
    lifecycle,
    models,
    schema,
    settle,
    upkeep,
    vectors,
)
from seamark.store.postgres import leases as work
from seamark.store.postgres import source as sources
from seamark.store.postgres.auditing import PostgresAuditing
from seamark.store.postgres.catalog import Catalog
from seamark.store.postgres.connection import Database
from seamark.store.postgres.names import generation_words
from seamark.store.postgres.reader import PostgresReader
from seamark.store.postgres.sql import sql
from seamark.store.postgres.stamps import stamps_clear, stamps_compare, stamps_made, stamps_owed
from seamark.store.postgres.tables import table_inspect
from seamark.store.postgres.views import views_names

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seamark.model import (
        AdoptableRows,
        Check,
        Claim,
        Enrolment,
        FailedRow,
        ForeignBatch,
        Generation,
        GenerationSpec,
        Key,
        Lane,
        Lease,
        LexicalBatch,
        ModelIdentity,
        Reading,
        RegisteredModel,
        Rows,
        Settled,
        Source,
        SourceRow,
        SourceSpec,
        StampName,
        StoredVectors,
        Table,
        VectorBatch,
        VectorPlace,
        WholeBatch,
    )
    from seamark.model.cost import ProviderBatch, Spent
    from seamark.store.postgres.connection import Connection
    from seamark.store.postgres.names import Words
    from seamark.store.reader import Reader

WORKER_KEPT_SECONDS = 86_400
PENDING_FEW = 100_000
"""Below so many rows to count, parallel workers are not worth their start."""


class PostgresStore(PostgresAuditing):
    """A PostgreSQL database with pgvector; `url` is whatever libpq takes.

    Opening it brings our schema up to date where there is one. It is made when something is attached or added; a database that
    has none is only looked at.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        with self._database.single() as connection:
            self._there = schema.schema_open(self._database, connection)
        self._catalog = Catalog(self._database)
        self._database.open()

    def _begun(self) -> bool:
        """Say whether our schema is there by now: another process may have made it since the store was opened."""
        if not self._there:
            with self._database.connection() as connection:
                self._there = schema.schema_open(self._database, connection)
        return self._there

    def _begin(self) -> None:
        if not self._begun():
            with self._database.connection() as connection:
                schema.schema_create(self._database, connection)

    # --- the database itself

    def close(self) -> None:
        """See the contract."""
        self._database.close()

    def checks(self) -> Sequence[Check]:
        """See the contract."""
        return schema.checks(self._database)

    def clock(self) -> int:
        """See the contract."""
        with self._database.connection() as connection:
            [(now,)] = self._database.run(connection, "clock", {}).fetchall()
            return now

    # --- tables and sources

    def table_inspect(self, name: str) -> Table:
        """See the contract."""
        with self._database.connection() as connection:
            return table_inspect(self._database, connection, name)

    def source_create(self, name: str, spec: SourceSpec, table: Table) -> Source:
        """See the contract."""
        self._begin()
        return sources.source_create(self._database, name, spec, table)

    def source_enroll(self, source: Source, limit: int) -> Enrolment:
        """See the contract."""
        return sources.source_enroll(self._database, self._catalog, source, limit)

    def source_drop(self, source_id: int, *, keep_vectors: bool = False, stamps: bool = False) -> None:
        """See the contract."""
        sources.source_drop(self._database, source_id, keep_vectors=keep_vectors, stamps=stamps)

    def donors_drop(self, table: str) -> int:
        """See the contract."""
        return vectors.donors_drop(self._database, table) if self._begun() else 0

    def donors_trim(self, seconds: float) -> int:
        """See the contract."""
        return vectors.donors_trim(self._database, seconds) if self._begun() else 0

    def sources(self) -> Sequence[Source]:
        """See the contract."""
        return self._catalog.sources() if self._begun() else ()

    def stamps_owed(self, source: Source) -> int:
        """See the contract."""
        return stamps_owed(self._database, source)

    def stamps_compare(self, source: Source) -> None:
        """See the contract."""
        stamps_compare(self._database, source)

    def stamps_made(self, source: Source) -> Sequence[StampName]:
        """See the contract."""
        with self._database.connection() as connection:
            return stamps_made(self._database, connection, source)

    def stamps_clear(self, source: Source, generation_id: int | None, after: int | None) -> int | None:
        """See the contract."""
        return stamps_clear(self._database, self._catalog, source, generation_id, after) if source.spec.stamp else None

    def source_faults(self, source: Source) -> Sequence[str]:
        """See the contract."""
        return faults.source_faults(self._database, self._catalog, source)

    def collection_create(self, name: str) -> None:
        """See the contract."""
        self._begin()
        sources.collection_create(self._database, name)

    def collection_put(self, name: str, documents: Sequence[tuple[str, str, str]]) -> int:
        """See the contract."""
        return sources.collection_put(self._database, name, documents)

    # --- generations

    def generation_create(self, source: Source, spec: GenerationSpec, *, manual: bool = False) -> Generation:
        """See the contract."""
        return generations.generation_create(self._database, self._catalog, source, spec, manual=manual)

    def generations_begin(self, source: Source, specs: Sequence[GenerationSpec]) -> Sequence[Generation]:
        """See the contract."""
        return generations.generations_begin(self._database, self._catalog, source, specs)

    def generations(self, source_id: int | None = None) -> Sequence[Generation]:
        """See the contract."""
        if not self._begun():
            return ()
        with self._database.connection() as connection:
            return generations.generations(self._database, connection, source_id)

    def generation_activate(self, generation_id: int, *, asked: bool = False, force: bool = False, back: bool = False) -> bool:
        """See the contract."""
        return lifecycle.generation_activate(self._database, self._catalog, generation_id, asked=asked, force=force, back=back)

    def generation_retire(self, generation_id: int, *, force: bool = False) -> bool:
        """See the contract."""
        return lifecycle.generation_retire(self._database, generation_id, force=force)

    def generation_drop(self, generation_id: int) -> bool:
        """See the contract."""
        dropped = lifecycle.generation_drop(self._database, generation_id)
        if dropped:
            self._catalog.generation_forget(generation_id)
        return dropped

    def generations_bytes(self, source_id: int) -> Mapping[int, int]:
        """See the contract."""
        return lifecycle.generations_bytes(self._database, source_id)

    def models(self) -> Sequence[RegisteredModel]:
        """See the contract."""
        return models.models_list(self._database) if self._begun() else ()

    def model_probe(self, model: ModelIdentity, probe: NDArray[np.float32], *, replace: bool = False) -> None:
        """See the contract."""
        models.model_probe(self._database, model, probe, replace=replace)

    def model_drift(self, model: ModelIdentity, drift: str | None) -> None:
        """See the contract."""
        models.model_drift(self._database, model, drift)

    def generation_backoff(self, generation_id: int, seconds: float, error: str | None) -> None:
        """See the contract."""
        generations.generation_backoff(self._database, generation_id, seconds, error)

    def generation_maintain(self, generation_id: int, *, idle: bool) -> bool:
        """See the contract."""
        return upkeep.generation_maintain(self._database, self._catalog, generation_id, idle=idle)

    def upkeep_cancel(self) -> None:
        """See the contract."""
        self._database.cancel()

    # --- adoption

    def generation_adopt(self, source: Source, spec: GenerationSpec) -> Generation:
        """See the contract."""
        return generations.generation_adopt(self._database, self._catalog, source, spec)

    def adopt_look(self, source: Source, generation_id: int, keys: Sequence[Key]) -> tuple[AdoptableRows, int]:
        """See the contract."""
        return adopt.adopt_look(self._database, self._catalog, source, generation_id, keys)

    def adopt_read(self, source: Source, generation_id: int, place: VectorPlace, after: Key | None, limit: int) -> ForeignBatch:
        """See the contract."""
        return adopt.adopt_read(self._database, self._catalog, source, generation_id, place, after, limit)

    def rows_adopt(self, source: Source, generation_id: int, batch: WholeBatch) -> int:
        """See the contract."""
        return adopt.rows_adopt(self._database, self._catalog, source, generation_id, batch)

    def adopt_end(self, source: Source, generation_id: int, rows: int) -> None:  # noqa: ARG002 SQLite has words by source
        """See the contract."""
        adopt.adopt_end(self._database, self._catalog, generation_id, rows)

    # --- work

    def lease_claim(self, generation_id: int, worker: str, limit: int, seconds: float, *, first: Lane = "fresh") -> Claim:
        """See the contract."""
        return work.lease_claim(self._database, self._catalog, generation_id, worker, limit, seconds, first=first)

    def lease_read(self, source: Source, lease: Lease, characters: int) -> Reading:
        """See the contract."""
        return work.lease_read(self._database, self._catalog, source, lease, characters)

    def lease_renew(self, leases: Sequence[Lease], seconds: float) -> Sequence[int]:
        """See the contract."""
        return work.lease_renew(self._database, leases, seconds)

    def lease_release(self, lease: Lease) -> None:
        """See the contract."""
        work.lease_release(self._database, lease)

    def lease_settle(
        self, source: Source, lease: Lease, batch: VectorBatch | LexicalBatch, failed: Sequence[FailedRow]
    ) -> Settled | None:
        """See the contract."""
        return settle.lease_settle(self._database, self._catalog, source, lease, batch, failed)

    def vectors_known(
        self, generation_id: int, keys: Sequence[Key], held: Sequence[Key], digests: Collection[bytes]
    ) -> Mapping[bytes, StoredVectors]:
        """See the contract."""
        return vectors.vectors_known(self._database, self._catalog, generation_id, keys, held, digests)

    def vectors_pass_on(
        self,
        source: Source,  # noqa: ARG002 SQLite has words by source
        lease: Lease,
        keys: Sequence[Key],
        settled: Mapping[bytes, int],
    ) -> None:
        """See the contract."""
        vectors.vectors_pass_on(self._database, self._catalog, lease, keys, settled)

    def kept_trim(self, source_id: int) -> int:
        """See the contract."""
        return vectors.kept_trim(self._database, self._catalog, source_id)

    def journal_trim(self, source_id: int) -> int:
        """See the contract."""
        return work.journal_trim(self._database, self._catalog, source_id)

    # --- failures

    def failures(self, source: Source, generation_id: int, limit: int) -> Sequence[Failure]:
        """See the contract."""
        width = len(source.table.key)
        with self._database.connection() as connection:
            rows = self._database.run(connection, "failures", self._words(source, generation_id), {"limit": limit}).fetchall()
        return [Failure(generation_id, row[:width], *row[width:]) for row in rows]

    def failures_retry(self, source: Source, generation_id: int, keys: Sequence[Key] | None) -> int:
        """See the contract."""
        name = "failures_retry" if keys is None else "failures_retry_keys"
        values = {} if keys is None else codec.keys_columns(keys, len(source.table.key))

        def retry() -> int:
            with self._database.connection() as connection:
                return self._database.run(connection, name, self._words(source, generation_id), values).rowcount

        return self._database.retried(retry)

    # --- what there is

    def rows_scan(self, source: Source, seq: int, limit: int, characters: int) -> Sequence[SourceRow]:
        """See the contract."""
        return work.rows_scan(self._database, self._catalog, source, seq, limit, characters)

    def digests_known(
        self, source: Source, model: ModelIdentity, precision: str, keys: Sequence[Key], digests: Collection[bytes]
    ) -> frozenset[bytes]:
        """See the contract."""
        return vectors.digests_known(self._database, self._catalog, source, model, precision, keys, digests)

    def vectors_put(self, generation_id: int, digests: Sequence[bytes], vectors: StoredVectors) -> None:
        """See the contract."""
        batches.vectors_put(self._database, generation_id, digests, vectors)

    def batch_begin(self, generation_id: int, after: int, seconds: float) -> ProviderBatch | None:
        """See the contract."""
        return batches.batch_begin(self._database, generation_id, after, seconds)

    def batches(self, generation_id: int) -> Sequence[ProviderBatch]:
        """See the contract."""
        return batches.batches_list(self._database, generation_id)

    def batch_take(self, generation_id: int, owner: str, seconds: float, *, force: bool = False) -> ProviderBatch | None:
        """See the contract."""
        return batches.batch_take(self._database, generation_id, owner, seconds, force=force)

    def batch_write(self, batch: ProviderBatch, owner: str, seconds: float | None) -> bool:
        """See the contract."""
        return batches.batch_write(self._database, batch, owner, seconds)

    def batch_end(self, batch: ProviderBatch, owner: str, seconds: float, spent: Spent) -> bool:
        """See the contract."""
        return batches.batch_end(self._database, batch, owner, seconds, spent)

    def spend_add(self, generation_id: int, worker: str, spent: Spent) -> None:
        """See the contract."""
        vectors.spend_add(self._database, generation_id, worker, spent)

    def spends(self, source_id: int) -> Mapping[int, Spent]:
        """See the contract."""
        return vectors.spends(self._database, source_id)

    def journal_end(self, source: Source) -> int:
        """See the contract."""
        with self._database.connection() as connection:
            [(end,)] = self._database.run(connection, "journal_end", self._catalog.words(source.id)).fetchall()
        return end

    def pending(self, source: Source, generation_id: int, upto: int) -> bool:
        """See the contract."""
        values = {"generation": generation_id, "upto": upto}
        with self._database.connection() as connection:
            row = self._database.run(connection, "pending", self._words(source, generation_id), values).fetchone()
        return row is not None and row[0]

    def coverage(self, source: Source, generation_ids: Sequence[int]) -> Mapping[int, Coverage]:
        """See the contract."""
        with self._database.snapshot() as connection:
            [(journal,)] = self._database.run(connection, "coverage_live", self._catalog.words(source.id)).fetchall()
            return {number: self._coverage(connection, source, number, journal) for number in generation_ids}

    def _coverage(self, connection: Connection, source: Source, generation_id: int, journal: int) -> Coverage:
        words, values = self._words(source, generation_id), {"generation": generation_id}
        pending = self._database.run(connection, "coverage_pending", words, values).fetchone()
        if pending is None:
            raise StoreError(f"there is no generation {generation_id}; it may have been dropped since")
        few = pending[0] is None or pending[0] < PENDING_FEW
        self._database.run(connection, "serial" if few else "parallel", {})
        [row] = self._database.run(connection, "coverage", words, values).fetchall()
        phantom, blank, failed, retrying, missing, oldest, now, truncated, leased = row
        live = journal - phantom
        return Coverage(
            live=live,
            embedded=live - blank - missing - failed,
            blank=blank,
            missing=missing,
            failed=failed,
            truncated=truncated,
            leases=leased,
            retrying=retrying,
            oldest_missing_seconds=None if oldest is None else max(0, now - oldest) / 1e6,
        )

    def worker_beat(self, beat: WorkerBeat) -> None:
        """See the contract."""
        if not self._begun():
            return
        rates = Jsonb({str(generation): rate for generation, rate in beat.rates.items()})
        values = {"id": beat.id, "host": beat.host, "pid": beat.pid, "rates": rates}
        with self._database.transaction() as connection:
            self._database.run(connection, "worker_beat", {}, values)
            self._database.run(connection, "workers_expire", {}, {"microseconds": WORKER_KEPT_SECONDS * 1_000_000})

    def worker_forget(self, worker: str) -> None:
        """See the contract."""
        if not self._begun():
            return
        with self._database.connection() as connection:
            self._database.run(connection, "worker_forget", {}, {"id": worker})

    def workers(self, seconds: float) -> Sequence[WorkerBeat]:
        """See the contract."""
        if not self._begun():
            return ()
        with self._database.connection() as connection:
            rows = self._database.run(connection, "workers", {}, {"microseconds": round(seconds * 1e6)}).fetchall()
        return [
            WorkerBeat(id_, host, pid, started_at, beat_at, {int(generation): rate for generation, rate in rates.items()})
            for id_, host, pid, started_at, beat_at, rates in rows
        ]

    # --- SQL for users

    def sql(self, query: str, values: Sequence[object], seconds: float) -> Rows:
        """See the contract."""
        self._begun()
        return sql(self._database, query, values, seconds)

    def views(self) -> Views:
        """See the contract."""
        return Views((), views_names(list(self.sources()))) if self._begun() else Views((), ())

    # --- search

    @contextmanager
    def snapshot(self) -> Generator[Reader]:
        """See the contract."""
        with self._database.snapshot() as connection:
            yield PostgresReader(self._database, self._catalog, connection)

    def _words(self, source: Source, generation_id: int) -> Words:
        return self._catalog.words(source.id) | generation_words(generation_id)
