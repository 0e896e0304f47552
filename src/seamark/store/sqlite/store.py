"""The SQLite store: the user's file is followed, and everything else is kept in a sidecar beside it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from seamark.errors import StoreError, TableUnusableError
from seamark.model import Claim
from seamark.store.sqlite import (
    adopt,
    batches,
    catalog,
    checks,
    claims,
    coverage,
    failures,
    generations,
    lifecycle,
    models,
    settle,
    tables,
    upkeep,
    vectors,
    workers,
)
from seamark.store.sqlite import source as following
from seamark.store.sqlite.ann import Neighbours
from seamark.store.sqlite.auditing import SqliteAuditing
from seamark.store.sqlite.connection import Connection, Connections
from seamark.store.sqlite.reader import SqliteReader
from seamark.store.sqlite.schema import schema_mend, schema_migrate
from seamark.store.sqlite.shards import Shards
from seamark.store.sqlite.sql import sql
from seamark.store.sqlite.stamps import (
    owed_drop,
    stamps_clear,
    stamps_compare,
    stamps_made,
    stamps_maintain,
    stamps_owed,
    stamps_settle,
)
from seamark.store.sqlite.views import views
from seamark.store.sqlite.words import STATEMENTS, Words

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seamark.model import (
        AdoptableRows,
        Check,
        Coverage,
        Enrolment,
        FailedRow,
        Failure,
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
        Views,
        WholeBatch,
        WorkerBeat,
    )
    from seamark.model.cost import ProviderBatch, Spent
    from seamark.store.reader import Reader


class SqliteStore(SqliteAuditing):
    """A `Store` on a SQLite file. `create` makes the file, in WAL mode, if it is not there."""

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        # Resolved, as SQLite itself does for its log: one file by two names has one sidecar.
        self._connections = Connections(Path(path).resolve(), create=create)
        self._shards = Shards(self._connections.sidecar)
        self._neighbours = Neighbours(self._shards)
        self._words: dict[tuple[int, int], Words] = {}
        self._sources: dict[int, Source] = {}
        try:
            schema_migrate(self._connections)
            schema_mend(self._connections)
        except BaseException:
            self.close()
            raise

    # --- the database itself ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close every connection, of every thread."""
        self._neighbours.close()
        self._connections.close()

    def checks(self) -> Sequence[Check]:
        """Look at the database as `doctor` does."""
        return checks.checks(self._connections)

    def clock(self) -> int:
        """Return the database's time, microseconds UTC."""
        with self._connections.use() as connection:
            return claims.clock(connection)

    # --- tables and sources -----------------------------------------------------------------------------------

    def table_inspect(self, name: str) -> Table:
        """Return the table as it stands."""
        with self._connections.use() as connection:
            return tables.table_inspect(connection, name)

    def source_create(self, name: str, spec: SourceSpec, table: Table) -> Source:
        """Begin to track a table."""
        return following.source_create(self._connections, name, spec, table)

    def source_enroll(self, source: Source, limit: int) -> Enrolment:
        """Enter up to `limit` existing rows, next in key order, into the journal."""
        return following.source_enroll(self._connections, self._words_for(source), limit)

    def source_drop(self, source_id: int, *, keep_vectors: bool = False, stamps: bool = False) -> None:
        """Stop tracking."""
        # What may be refused goes first, so that a refusal loses nothing; the source's row goes last, so that a call that was
        # interrupted can be repeated.
        with self._connections.use() as connection:
            found = next((one for one in following.sources_list(connection) if one.id == source_id), None)
        if found is None:
            return
        following.source_forget(self._connections, found, stamps=stamps)
        for number in generations.generations_drop(self._connections, source_id, keep_vectors=keep_vectors):
            self._neighbours.drop(number)
        if not keep_vectors:
            vectors.donors_drop(self._connections, found.table.name)
        with self._connections.transaction() as connection:
            owed_drop(connection, found)
            connection.run(STATEMENTS["source_delete"], {"source": source_id})

    def donors_drop(self, table: str) -> int:
        """Drop the vectors that detaches have left of a table; return of how many generations."""
        return vectors.donors_drop(self._connections, table)

    def donors_trim(self, seconds: float) -> int:
        """Drop what detaches left too long ago, or is of no more use; return of how many generations."""
        return vectors.donors_trim(self._connections, seconds)

    def sources(self) -> Sequence[Source]:
        """Return all sources, by id."""
        with self._connections.use() as connection:
            return [_present(connection, source) for source in following.sources_list(connection)]

    def stamps_owed(self, source: Source) -> int:
        """Return how many rows are to be stamped yet."""
        with self._connections.use() as connection:
            return stamps_owed(connection, source)

    def stamps_compare(self, source: Source) -> None:
        """Have all stamps compared anew by upkeep."""
        with self._connections.transaction() as connection:
            stamps_compare(connection, source)

    def stamps_made(self, source: Source) -> Sequence[StampName]:
        """Return the stamp columns that an attach has made."""
        with self._connections.use() as connection:
            return stamps_made(connection, source)

    def stamps_clear(self, source: Source, generation_id: int | None, after: int | None) -> int | None:
        """Empty the stamps of some rows that the generation does not hold."""
        if not source.spec.stamp:
            return None
        return stamps_clear(self._connections, self._words_for(source, generation_id or 0), after)

    def source_faults(self, source: Source) -> Sequence[str]:
        """Look at the triggers, and whether the journal is the one that was indexed."""
        with self._connections.use() as connection:
            return following.source_faults(connection, source)

    def collection_create(self, name: str) -> None:
        """Make the table of a collection if it is not there."""
        following.collection_create(self._connections, name)

    def collection_put(self, name: str, documents: Sequence[tuple[str, str, str]]) -> int:
        """Insert or update documents (path, title, body) by path; return how many rows changed."""
        return following.collection_put(self._connections, name, documents)

    # --- generations ------------------------------------------------------------------------------------------

    def generation_create(self, source: Source, spec: GenerationSpec, *, manual: bool = False) -> Generation:
        """Begin a generation at the journal's present end, or take up the one that there is."""
        return generations.generation_create(self._connections, source, spec, self._words_of, manual=manual)

    def generations_begin(self, source: Source, specs: Sequence[GenerationSpec]) -> Sequence[Generation]:
        """Begin the first generations of a source."""
        return generations.generations_begin(self._connections, source, specs, self._words_of)

    def generations(self, source_id: int | None = None) -> Sequence[Generation]:
        """Return generations, oldest first."""
        with self._connections.use() as connection:
            return catalog.generations_list(connection, source_id)

    def generation_activate(self, generation_id: int, *, asked: bool = False, force: bool = False, back: bool = False) -> bool:
        """Make a generation the active one of its kind, where that may be."""
        with self._connections.use() as connection:
            if not _exists(connection, generation_id):
                return False
            words = self._words_by_generation(connection, generation_id)
        return lifecycle.generation_activate(self._connections, words, asked=asked, force=force, back=back)

    def generation_retire(self, generation_id: int, *, force: bool = False) -> bool:
        """Retire a generation; an active one only with force."""
        return lifecycle.generation_retire(self._connections, generation_id, force=force)

    def generation_drop(self, generation_id: int) -> bool:
        """Drop a retired generation."""
        # The files go first: a call that is interrupted leaves a generation that can be dropped again, and is scanned until
        # then. They go once more for whoever was building one meanwhile.
        with self._connections.use() as connection:
            if not lifecycle.generation_retired(connection, generation_id):
                return False
        self._neighbours.drop(generation_id)
        dropped = lifecycle.generation_drop(self._connections, generation_id)
        self._neighbours.drop(generation_id)
        return dropped

    def generations_bytes(self, source_id: int) -> Mapping[int, int]:
        """Return what each generation of a source takes on disk."""
        with self._connections.use() as connection:
            return lifecycle.generations_bytes(connection, source_id)

    def models(self) -> Sequence[RegisteredModel]:
        """Return all models."""
        with self._connections.use() as connection:
            return models.models_list(connection)

    def model_probe(self, model: ModelIdentity, probe: NDArray[np.float32], *, replace: bool = False) -> None:
        """Remember what a model makes of the fixed sentences."""
        models.model_probe(self._connections, model, probe, replace=replace)

    def model_drift(self, model: ModelIdentity, drift: str | None) -> None:
        """Record in what a model is another one than was registered."""
        models.model_drift(self._connections, model, drift)

    def generation_backoff(self, generation_id: int, seconds: float, error: str | None) -> None:
        """Let nobody claim from the generation for so long."""
        generations.generation_backoff(self._connections, generation_id, seconds, error)

    def generation_maintain(self, generation_id: int, *, idle: bool) -> bool:
        """Do one bounded piece of upkeep of the generation's index, if any is due."""
        with self._connections.use() as connection:
            found = next((one for one in catalog.generations_list(connection) if one.id == generation_id), None)
            if found is None:
                return False
            words = self._words_by_generation(connection, generation_id)
        if words.source.spec.stamp and stamps_maintain(self._connections, words):
            return True
        if found.model is None:
            return upkeep.lexical_maintain(self._connections, words, idle=idle)
        return upkeep.vector_maintain(self._connections, words, self._shards, found.model.dimension, idle=idle)

    def upkeep_cancel(self) -> None:
        """Do nothing: every piece of upkeep is short."""

    # --- adoption ---------------------------------------------------------------------------------------------

    def generation_adopt(self, source: Source, spec: GenerationSpec) -> Generation:
        """Set a generation aside to be made of vectors that exist."""
        return generations.generation_adopt(self._connections, source, spec, self._words_of)

    def adopt_look(self, source: Source, generation_id: int, keys: Sequence[Key]) -> tuple[AdoptableRows, int]:
        """Return those of the keys' live rows that the generation does not hold as they stand, and how many are live."""
        return adopt.adopt_look(self._connections, self._words_for(source, generation_id), keys)

    def adopt_read(self, source: Source, generation_id: int, place: VectorPlace, after: Key | None, limit: int) -> ForeignBatch:
        """Return the next live rows that the generation does not hold, with the vector that the user keeps of each."""
        with self._connections.use() as connection:
            found = next(one for one in catalog.generations_list(connection, source.id) if one.id == generation_id)
        assert found.model is not None
        words = self._words_for(source, generation_id)
        return adopt.adopt_read(self._connections, words, found.model.dimension, place, after, limit)

    def rows_adopt(self, source: Source, generation_id: int, batch: WholeBatch) -> int:
        """Write rows that nobody has claimed; return how many were written."""
        return adopt.rows_adopt(self._connections, self._words_for(source, generation_id), batch)

    def adopt_end(self, source: Source, generation_id: int, rows: int) -> None:
        """Leave what is missing as leases that have expired."""
        adopt.adopt_end(self._connections, self._words_for(source, generation_id), rows)

    # --- work -------------------------------------------------------------------------------------------------

    def lease_claim(self, generation_id: int, worker: str, limit: int, seconds: float, *, first: Lane = "fresh") -> Claim:
        """Claim the next piece of work."""
        with self._connections.use() as connection:
            if not _exists(connection, generation_id):
                return Claim(None)
            words = self._words_by_generation(connection, generation_id)
        return claims.lease_claim(self._connections, words, worker, limit, seconds, first=first)

    def lease_read(self, source: Source, lease: Lease, characters: int) -> Reading:
        """Read the rows of a lease that its generation has not done."""
        return claims.lease_read(self._connections, self._words_for(source, lease.generation_id), lease, characters)

    def lease_renew(self, leases: Sequence[Lease], seconds: float) -> Sequence[int]:
        """Put off the expiry of those leases that are still ours; return their ids."""
        return claims.leases_renew(self._connections, leases, seconds)

    def lease_release(self, lease: Lease) -> None:
        """Give a lease back untouched."""
        claims.lease_release(self._connections, lease)

    def lease_settle(
        self, source: Source, lease: Lease, batch: VectorBatch | LexicalBatch, failed: Sequence[FailedRow]
    ) -> Settled | None:
        """Write what the lease produced and retire the lease."""
        words = self._words_for(source, lease.generation_id)
        settled = settle.lease_settle(self._connections, words, lease, batch, failed)
        if words.source.spec.stamp and settled is not None:
            stamps_settle(self._connections, words)
        return settled

    def vectors_known(
        self, generation_id: int, keys: Sequence[Key], held: Sequence[Key], digests: Collection[bytes]
    ) -> Mapping[bytes, StoredVectors]:
        """Return the vectors of those of the digests that are stored already."""
        with self._connections.use() as connection:
            words = self._words_by_generation(connection, generation_id)
        return vectors.vectors_known(self._connections, words, keys, held, digests)

    def vectors_pass_on(self, source: Source, lease: Lease, keys: Sequence[Key], settled: Mapping[bytes, int]) -> None:
        """Put the vectors of rows by that have left the table, where rows wait that may have the same passages."""
        vectors.vectors_pass_on(self._connections, self._words_for(source, lease.generation_id), lease, keys, settled)

    def kept_trim(self, source_id: int) -> int:
        """Forget vectors that are put by of rows that have left the table; return how many."""
        with self._connections.use() as connection:
            found = [one.id for one in catalog.generations_list(connection, source_id) if one.kind == "vector"]
            words = [self._words_by_generation(connection, number) for number in found]
        return sum(vectors.kept_trim(self._connections, one) for one in words)

    def journal_trim(self, source_id: int) -> int:
        """Drop tombstones that every generation has settled and no open lease begins below; return how many."""
        with self._connections.use() as connection:
            source = next((one for one in following.sources_list(connection) if one.id == source_id), None)
            if source is None:
                return 0
            numbers = [one.id for one in catalog.generations_list(connection, source_id)]
            words = [self._words_of(connection, source, number) for number in [0, *numbers]]
        return coverage.journal_trim(self._connections, words[1:], words[0])

    # --- failures ---------------------------------------------------------------------------------------------

    def failures(self, source: Source, generation_id: int, limit: int) -> Sequence[Failure]:
        """Return recorded failures of rows whose `seq` is still the journal's, newest first."""
        return failures.failures_list(self._connections, self._words_for(source, generation_id), limit)

    def failures_retry(self, source: Source, generation_id: int, keys: Sequence[Key] | None) -> int:
        """Make failures (all, or those of the keys) due now with no attempts spent; return how many."""
        return failures.failures_retry(self._connections, self._words_for(source, generation_id), keys)

    # --- what there is ----------------------------------------------------------------------------------------

    def rows_scan(self, source: Source, seq: int, limit: int, characters: int) -> Sequence[SourceRow]:
        """Return the next rows by `seq`, with their text."""
        return claims.rows_scan(self._connections, self._words_for(source), seq, limit, characters)

    def digests_known(
        self, source: Source, model: ModelIdentity, precision: str, keys: Sequence[Key], digests: Collection[bytes]
    ) -> frozenset[bytes]:
        """Return those of the digests that a generation of that model need not embed again."""
        return vectors.digests_known(self._connections, self._words_for(source), model, precision, keys, digests)

    def vectors_put(self, generation_id: int, digests: Sequence[bytes], vectors: StoredVectors) -> None:
        """Put vectors that are paid for by."""
        batches.vectors_put(self._connections, generation_id, digests, vectors)

    def batch_begin(self, generation_id: int, after: int, seconds: float) -> ProviderBatch | None:
        """Plan a batch of the rows above a `seq`, or return the one that is open."""
        return batches.batch_begin(self._connections, generation_id, after, seconds)

    def batches(self, generation_id: int) -> Sequence[ProviderBatch]:
        """Return the batches of a generation, oldest first."""
        return batches.batches_list(self._connections, generation_id)

    def batch_take(self, generation_id: int, owner: str, seconds: float, *, force: bool = False) -> ProviderBatch | None:
        """Take the open batch of a generation on for so long."""
        return batches.batch_take(self._connections, generation_id, owner, seconds, force=force)

    def batch_write(self, batch: ProviderBatch, owner: str, seconds: float | None) -> bool:
        """Write what has become of a batch, and hold the backfill lane for so long."""
        return batches.batch_write(self._connections, batch, owner, seconds)

    def batch_end(self, batch: ProviderBatch, owner: str, seconds: float, spent: Spent) -> bool:
        """Write how a batch has ended and what it has cost, and plan the next."""
        return batches.batch_end(self._connections, batch, owner, seconds, spent)

    def spend_add(self, generation_id: int, worker: str, spent: Spent) -> None:
        """Add to what indexing of a generation has cost."""
        vectors.spend_add(self._connections, generation_id, worker, spent)

    def spends(self, source_id: int) -> Mapping[int, Spent]:
        """Return what each generation of a source has cost so far."""
        return vectors.spends(self._connections, source_id)

    def journal_end(self, source: Source) -> int:
        """Return the highest `seq`, 0 when there is none."""
        with self._connections.use() as connection:
            return int(connection.value(self._words_for(source)["journal_end"]))

    def pending(self, source: Source, generation_id: int, upto: int) -> bool:
        """Say whether the generation has work at or below a `seq`."""
        return coverage.pending(self._connections, self._words_for(source, generation_id), upto)

    def coverage(self, source: Source, generation_ids: Sequence[int]) -> Mapping[int, Coverage]:
        """Count generations exactly, all in one snapshot."""
        words = [self._words_for(source, generation) for generation in generation_ids]
        return coverage.coverage(self._connections, self._words_for(source), words)

    def worker_beat(self, beat: WorkerBeat) -> None:
        """Record a worker's heartbeat."""
        workers.worker_beat(self._connections, beat)

    def worker_forget(self, worker: str) -> None:
        """Remove a worker that has stopped."""
        workers.worker_forget(self._connections, worker)

    def workers(self, seconds: float) -> Sequence[WorkerBeat]:
        """Return the workers heard of within the last so many seconds."""
        return workers.workers_list(self._connections, seconds)

    # --- SQL for users ----------------------------------------------------------------------------------------

    def sql(self, query: str, values: Sequence[object], seconds: float) -> Rows:
        """Run one query of a user's, which can only read."""
        return sql(self._connections, query, values, seconds)

    def views(self) -> Views:
        """Return the views, and what another program's connection has to run to have them."""
        return views(self._connections)

    # --- search -----------------------------------------------------------------------------------------------

    @contextmanager
    def snapshot(self) -> Generator[Reader]:
        """Open a reader on one snapshot of the whole database."""
        with self._connections.snapshot() as connection:
            codec = self._connections.codec
            yield SqliteReader(connection, codec, self._words_by_generation, self._words_of, self._neighbours)

    # --- the words that the statements are made with ----------------------------------------------------------

    def _words_for(self, source: Source, generation_id: int = 0) -> Words:
        with self._connections.use() as connection:
            return self._words_of(connection, source, generation_id)

    def _words_of(self, connection: Connection, source: Source, generation_id: int) -> Words:
        if (words := self._words.get((source.id, generation_id))) is None or not words.serves(source):
            orders = {touch.table: tables.table_order(connection, touch.table) for touch in source.spec.touch}
            words = Words(source, {table: order or ("rowid",) for table, order in orders.items()}, generation_id)
            if all(orders.values()):  # else its text cannot be read, and everything else can
                self._words[source.id, generation_id] = words
        return words

    def _words_by_generation(self, connection: Connection, generation_id: int) -> Words:
        source = self._sources.get(generation_id)
        if source is None:
            row = connection.row(STATEMENTS["generation_source"], (generation_id,))
            if row is None:
                raise StoreError(f"there is no generation {generation_id}; it has been dropped")
            source = next(one for one in following.sources_list(connection) if one.id == row[0])
            self._sources[generation_id] = source
        return self._words_of(connection, source, generation_id)


def _exists(connection: Connection, generation_id: int) -> bool:
    return connection.row(STATEMENTS["generation_source"], (generation_id,)) is not None


def _present(connection: Connection, source: Source) -> Source:
    """Return the source with its table's present columns; as it was when it was attached, if the table is gone."""
    try:
        table = tables.table_inspect(connection, source.table.name)
    except TableUnusableError:
        return source
    return replace(source, table=replace(table, key=source.table.key))
