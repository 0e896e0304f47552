"""The contract of a store: what each operation does, what is atomic in it, and what its answers mean.

One operation is one method; there are no SQL fragments and no dialect flags here. SQLite and PostgreSQL implement it side by
side, with the same file names and the same statement names, and one conformance suite (`seamark.testing.conformance`) runs on
both. Words (journal, generation, lane, lease, settle) are those of docs/architecture.md.

Rules that hold for every method:
- it raises StoreUnavailableError, StorePermissionError, StoreIncompatibleError or StoreError, never a driver's error;
- it may be called from any thread; a method is its own transaction unless it says otherwise;
- times are microseconds UTC by the database's clock; durations given are seconds;
- keys are tuples with one member per key column, in the order of `Source.table.key`;
- killed anywhere and called again, it ends where it would have (I16).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from seamark.store.auditing import Auditing

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from seamark.model import (
        AdoptableRows,
        Check,
        Claim,
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


class Store(Auditing, Protocol):
    """A database that Seamark keeps an eye on, and everything that Seamark keeps about it."""

    # --- the database itself ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close every connection, of every thread. The store cannot be used afterwards."""
        ...

    def checks(self) -> Sequence[Check]:
        """Look at the database as `doctor` does: version, extensions, rights, journal mode, schema. Never raises."""
        ...

    def clock(self) -> int:
        """Return the database's time, microseconds UTC."""
        ...

    # --- tables and sources -----------------------------------------------------------------------------------

    def table_inspect(self, name: str) -> Table:
        """Return the table as it stands.

        `name` is taken as it is, and on PostgreSQL as `schema.table` when no table has the name itself. TableUnusableError
        when there is none, naming tables that look alike.
        """
        ...

    def source_create(self, name: str, spec: SourceSpec, table: Table) -> Source:
        """Begin to track a table: its journal, the triggers that feed it, and the source in state `enrolling`.

        From the moment it returns, every committed change of the text columns, the filtered columns or the key gives the row a
        new, higher `seq`. `table` is what `table_inspect` returned. Called again for the same table it completes what an
        interrupted call left. SourceConflictError where the table or the name is taken by a source of another name, table or
        spec: of several calls at once one wins. The user's table itself is not altered, unless the spec has `stamp`: the
        columns are made that are not there. TableUnusableError where one is there and cannot hold a stamp.
        """
        ...

    def source_enroll(self, source: Source, limit: int) -> Enrolment:
        """Enter up to `limit` existing rows, next in key order, into the journal, and remember how far it got.

        Rows that the triggers have entered already keep their `seq`. When it has seen the last row the source becomes `ready`.
        """
        ...

    def source_drop(self, source_id: int, *, keep_vectors: bool = False, stamps: bool = False) -> None:
        """Stop tracking: drop the triggers, the journal and all generations. The user's schema is as it was before.

        With `keep_vectors` those of the vector generations stay, for `vectors_known` of generations that are made of the same
        table later. Without, those that stayed before go as well. Stamp columns stay as they are; with `stamps` those that
        `source_create` has made, now or for an earlier attach of the table, are dropped.
        """
        ...

    def donors_drop(self, table: str) -> int:
        """Drop the vectors that `source_drop` has left of a table of that name; return of how many generations."""
        ...

    def donors_trim(self, seconds: float) -> int:
        """Drop the vectors that were left longer ago than that, and those that an active generation holds by now.

        Returns of how many generations. Held: it is of the same table, the same model and the same precision.
        """
        ...

    def sources(self) -> Sequence[Source]:
        """Return all sources, by id."""
        ...

    def stamps_owed(self, source: Source) -> int:
        """Return how many rows are to be stamped yet: somebody was writing to them, or was killed, when they were settled."""
        ...

    def stamps_compare(self, source: Source) -> None:
        """Have the upkeep compare all stamps with what is true, as it does once a day: somebody may have written into them."""
        ...

    def stamps_made(self, source: Source) -> Sequence[StampName]:
        """Return the stamp columns that `source_create` has made, now or for an earlier attach, wanted now or not."""
        ...

    def stamps_clear(self, source: Source, generation_id: int | None, after: int | None) -> int | None:
        """Empty the stamps of some rows whose present text the generation does not hold; where it is None, of any.

        Looks at the next live rows of the journal beyond `after`, in the order of `seq`, or first beyond what the generation is
        known to hold; returns the last one's `seq`, None at the end. A row that somebody is just writing to is owed its stamp.
        Nothing is stamped. For before and after another generation is searched, see `seamark.store.stamps`.
        """
        ...

    def source_faults(self, source: Source) -> Sequence[str]:
        """Say what is wrong with what feeds the source; nothing when all is well.

        Its triggers are gone, switched off, or not as they were made; its journal is not the one that was indexed: restored
        from a backup, or its sequence set back, so that it gives out numbers that cursors have passed; writes were let pass
        while a column had another name; partitions came with rows, or went with theirs; one of our own tables is gone. Of
        several kinds the gravest is told.
        """
        ...

    def collection_create(self, name: str) -> None:
        """Make the table of a collection if it is not there: path (its key), title, body, added_at."""
        ...

    def collection_put(self, name: str, documents: Sequence[tuple[str, str, str]]) -> int:
        """Insert or update documents (path, title, body) by path; return how many rows changed. One transaction."""
        ...

    # --- generations ------------------------------------------------------------------------------------------

    def generation_create(self, source: Source, spec: GenerationSpec, *, manual: bool = False) -> Generation:
        """Begin a generation at the journal's present end: its tables, and its cursors (origin = highest `seq`).

        Where the source has a generation of that kind and fingerprint, that one is returned, with the spec's locator, if it
        names one. A building one is `manual` from now on if that is asked for, and not otherwise. A retired one is `building`
        again: its cursors and rows are kept, and it reads on from there.
        """
        ...

    def generations_begin(self, source: Source, specs: Sequence[GenerationSpec]) -> Sequence[Generation]:
        """Begin a source's first generations, all of them or none; return those of the source that are not retired.

        Where there are any already, none is begun: of several calls at once one wins, and the others are given what it began.
        A retired generation of that kind and fingerprint is taken up again, as by `generation_create`.
        """
        ...

    def generations(self, source_id: int | None = None) -> Sequence[Generation]:
        """Return generations, oldest first."""
        ...

    # --- adoption ---------------------------------------------------------------------------------------------

    def generation_adopt(self, source: Source, spec: GenerationSpec) -> Generation:
        """Set a generation aside to be made of vectors that exist: the one of that kind and fingerprint, else a new one.

        It is `retired`, so that nobody works at it until it is taken up with `generation_create`, and its backfill is done:
        whatever of the journal up to its origin it does not hold is found by the sweep. An active one is returned as it is.
        """
        ...

    def adopt_look(self, source: Source, generation_id: int, keys: Sequence[Key]) -> tuple[AdoptableRows, int]:
        """Return those of the keys' live rows that the generation does not hold as they stand, and how many are live.

        No key comes twice.
        """
        ...

    def adopt_read(self, source: Source, generation_id: int, place: VectorPlace, after: Key | None, limit: int) -> ForeignBatch:
        """Return the next live rows after a key, in its order, with the vector and the digest that the user keeps of each.

        Rows without a vector are passed over, and those that the generation holds in their present version. Text, `seq`, vector
        and digest are of one snapshot. A key may come twice where the user's other table has it twice.
        InvalidRequestError where the place cannot be read.
        """
        ...

    def rows_adopt(self, source: Source, generation_id: int, batch: WholeBatch) -> int:
        """Write rows that nobody has claimed, at least one, each only as `lease_settle` would; return how many were."""
        ...

    def adopt_end(self, source: Source, generation_id: int, rows: int) -> None:
        """Leave what a generation that was set aside does not hold as expired leases of at most so many rows each.

        So that several workers can take them at once. Where writers may still hold a `seq` below the origin, nothing is done:
        the sweep finds the rows one lease after the other.
        """
        ...

    def generation_activate(self, generation_id: int, *, asked: bool = False, force: bool = False, back: bool = False) -> bool:
        """Make a generation the active one of its kind, and retire the one that was, in one transaction.

        False, and nothing changed that anybody can see, unless `seamark.store.activation` allows it: a `building` one that is
        filled and, where it takes the place of another, has caught up and has no failures; a `manual` one only when `asked`; a
        `retired` one that is filled only when `asked`, and then at once: it catches up as the active one. With `force` also one
        that is not filled. With `back`, for a rollback, a `retired` one in any case, and its `activated_at` stays, which tells
        in which order they came. Never one that is active already. Where it was asked for in any of these ways, others of the
        kind that are being built are `manual` from then on: they would take over from what somebody has chosen.
        """
        ...

    def generation_retire(self, generation_id: int, *, force: bool = False) -> bool:
        """Retire a generation: nobody works on it any more, and its rows and cursors are kept.

        False, and nothing changed, unless it is `building`, or `active` and `force` is given: none of its kind is active then.
        """
        ...

    def generation_drop(self, generation_id: int) -> bool:
        """Drop a retired generation with all of its tables and files; False, and nothing changed, when it is not retired.

        A worker that still has a lease of it fails with StoreError or writes nothing. PostgreSQL gives the space back at once.
        """
        ...

    def generations_bytes(self, source_id: int) -> Mapping[int, int]:
        """Return what each generation of a source takes on disk, tables, indexes and files together."""
        ...

    def models(self) -> Sequence[RegisteredModel]:
        """Return all models that generations were ever made with, in no order."""
        ...

    def model_probe(self, model: ModelIdentity, probe: NDArray[np.float32], *, replace: bool = False) -> None:
        """Remember what a model makes of the fixed sentences, unless that is known already; with `replace` in any case."""
        ...

    def model_drift(self, model: ModelIdentity, drift: str | None) -> None:
        """Record in what a model is another one than was registered; None clears it.

        While there is any, no generation of the model is claimed from, and what is under way cannot be settled.
        """
        ...

    def generation_backoff(self, generation_id: int, seconds: float, error: str | None) -> None:
        """Let nobody claim from the generation for so long; `error` says why (None and 0 clear it)."""
        ...

    def generation_maintain(self, generation_id: int, *, idle: bool) -> bool:
        """Do one bounded piece of upkeep of the generation's index, if any is due; return whether something was done.

        Write stamps that are owed, and compare those that stand, if search reads this generation; where it reads no vectors,
        write those that are owed (`seamark.store.stamps`). Vector: build or extend the HNSW index once there are enough chunks
        outside it, and clear it of deleted ones where the database does not do so itself (both sooner when `idle`). Lexical:
        merge small blocks of postings and drop those of versions that are no longer current. Never changes what a search can
        find. One process at a time does it for a generation; another returns False at once.
        """
        ...

    def upkeep_cancel(self) -> None:
        """Break off what a `generation_maintain` of this store is at, where that could take longer than some seconds.

        It raises StoreUnavailableError then, and nothing is lost but its work. Where nothing is under way nothing happens.
        """
        ...

    # --- work -------------------------------------------------------------------------------------------------

    def lease_claim(self, generation_id: int, worker: str, limit: int, seconds: float, *, first: Lane = "fresh") -> Claim:
        """Claim the next piece of work, atomically, as `seamark.store.claim` lays down. Costs the same at any backlog.

        Lanes are tried in the order fresh, retry, sweep, backfill, after the one that is to be `first`.
        """
        ...

    def lease_read(self, source: Source, lease: Lease, characters: int) -> Reading:
        """Read the rows of a lease that its generation has not done, with their text, in one snapshot, by `seq`.

        Lane `retry`: the rows whose failures this lease has taken. Other lanes: rows in the range that are neither done nor
        recorded as failed at their present `seq`. At least one row is read; when the sum of their text passes `characters`, the
        rest of the range is given back as a lease that has expired already, and the reading has the narrower lease.
        Text is decoded from UTF-8 with U+FFFD for what is not UTF-8, and U+FFFD for NUL.
        """
        ...

    def vectors_known(
        self, generation_id: int, keys: Sequence[Key], held: Sequence[Key], digests: Collection[bytes]
    ) -> Mapping[bytes, StoredVectors]:
        """Return the vectors that are stored already of passages with these digests, bit for bit, shape (dimension,).

        `keys` are the rows that the passages are of, `held` those of them that the generation has chunks of. Looked at, until
        all are found: the generation's chunks of `held`; what is put by of the rows (they have been outside the source's
        `where`); its chunks of some thousands of rows that are gone, and not settled as that yet; what is put by of whatever
        row; the other generations of the source, and those that `source_drop` has left of the same table with the same key,
        where model and precision are the same. A row's vectors are put by when it is settled as gone and is in the table all
        the same; they go when it is back, or settled as gone and not in the table. Costs one look where nothing is there.
        """
        ...

    def vectors_pass_on(self, source: Source, lease: Lease, keys: Sequence[Key], settled: Mapping[bytes, int]) -> None:
        """Put the vectors of those rows by that have left the table, as `vectors_put` does, before they are settled as gone.

        They may be others' under another key: only where live rows wait outside of this lease, among some thousands of entries,
        and without those of `settled`, how often the lease settles which passages.
        """
        ...

    def kept_trim(self, source_id: int) -> int:
        """Drop what is put by of rows that have left the table with no trigger to tell; return how many vectors."""
        ...

    def lease_renew(self, leases: Sequence[Lease], seconds: float) -> Sequence[int]:
        """Put off the expiry of those leases that are still ours (same fence, not expired); return their ids."""
        ...

    def lease_release(self, lease: Lease) -> None:
        """Give a lease back untouched: whoever claims next gets it at once. Spends no attempt. No effect if not ours."""
        ...

    def lease_settle(
        self, source: Source, lease: Lease, batch: VectorBatch | LexicalBatch, failed: Sequence[FailedRow]
    ) -> Settled | None:
        """Write what the lease produced and retire the lease, in one transaction; None, and nothing written, if it is not ours.

        A row is written only where the journal still has the `seq` that was read and the generation holds an older one or none;
        its old chunks or document are replaced, its failure is deleted. Failures are recorded for rows whose `seq` is still the
        journal's. Rows that lost the compare count as superseded. Rows with chunks are stamped, where the spec has `stamp` and
        search reads this generation: with the same commit, or right after it where the user's table is in another file.
        """
        ...

    def vectors_put(self, generation_id: int, digests: Sequence[bytes], vectors: StoredVectors) -> None:
        """Put vectors that are paid for by, for `vectors_known` of this generation, whatever row the passages are of.

        They go an hour after they were put by, or later, once the generation is not being built any more, by `donors_trim`.
        """
        ...

    def batch_begin(self, generation_id: int, after: int, seconds: float) -> ProviderBatch | None:
        """Plan a batch of the rows above a `seq`, and hold the generation's backfill lane for so long.

        Where one is open already, that one is returned. None when there is no such generation, or nothing is left to backfill.
        """
        ...

    def batches(self, generation_id: int) -> Sequence[ProviderBatch]:
        """Return the batches of a generation, oldest first."""
        ...

    def batch_take(self, generation_id: int, owner: str, seconds: float, *, force: bool = False) -> ProviderBatch | None:
        """Take the open batch of a generation on for so long; None when there is none, or somebody else has it.

        With `force` it is taken from them: what they write of it from then on is not written.
        """
        ...

    def batch_write(self, batch: ProviderBatch, owner: str, seconds: float | None) -> bool:
        """Write what has become of a batch, and hold the generation's backfill lane for so long from now; None: as it is held.

        False, and nothing written, where the owner has lost the batch.
        """
        ...

    def batch_end(self, batch: ProviderBatch, owner: str, seconds: float, spent: Spent) -> bool:
        """Write how a batch has ended and what it has cost, and plan the next, in one transaction.

        The next one is of the rows above its `upto`, and holds the backfill lane for so long from now. With 0 seconds, or where
        no rows are left, none is planned and the lane is let go of. False, and nothing written, where the owner has lost it.
        """
        ...

    def spend_add(self, generation_id: int, worker: str, spent: Spent) -> None:
        """Add to what indexing of a generation has cost. Nothing is added to one that is no more."""
        ...

    def spends(self, source_id: int) -> Mapping[int, Spent]:
        """Return what each generation of a source has cost so far, by all workers there have been."""
        ...

    def journal_trim(self, source_id: int) -> int:
        """Drop tombstones that every generation has settled and no open lease begins below; return how many.

        SQLite: never the journal's last row, so that `seq` cannot be given out twice.
        """
        ...

    # --- failures ---------------------------------------------------------------------------------------------

    def failures(self, source: Source, generation_id: int, limit: int) -> Sequence[Failure]:
        """Return recorded failures of rows whose `seq` is still the journal's, newest first."""
        ...

    def failures_retry(self, source: Source, generation_id: int, keys: Sequence[Key] | None) -> int:
        """Make failures (all, or those of the keys) due now with no attempts spent; return how many."""
        ...

    # --- what there is ----------------------------------------------------------------------------------------

    def rows_scan(self, source: Source, seq: int, limit: int, characters: int) -> Sequence[SourceRow]:
        """Return the next rows by `seq`, above that one, with their text; none when there are no more.

        At least one, and no more than `limit`, nor than pass `characters` together. Deleted ones are left out; one that is
        outside the source's `where` is not `live`. `attempts` and `held` are 0.
        """
        ...

    def digests_known(
        self, source: Source, model: ModelIdentity, precision: str, keys: Sequence[Key], digests: Collection[bytes]
    ) -> frozenset[bytes]:
        """Return those of the digests of rows' passages that a generation of that model need not embed again.

        It is what `vectors_known` would find for one that is made now; `keys` are the rows that the passages are of.
        """
        ...

    def journal_end(self, source: Source) -> int:
        """Return the highest `seq` that has been committed, 0 when none has."""
        ...

    def pending(self, source: Source, generation_id: int, upto: int) -> bool:
        """Say whether the generation has work at or below a `seq`: missing rows, rows that are gone, failures, leases.

        Missing rows and failures to be tried again count as in `coverage`; rows that are gone until that is settled, but for
        those that the backfill will come by; leases when they begin below.
        """
        ...

    def coverage(self, source: Source, generation_ids: Sequence[int]) -> Mapping[int, Coverage]:
        """Count generations exactly, all in one snapshot.

        The journal is counted once; beyond that, the time does not grow with what is done already.
        """
        ...

    def worker_beat(self, beat: WorkerBeat) -> None:
        """Record a worker's heartbeat (`beat_at` and `started_at` are set by the database); forget those of a day ago.

        Nothing need be recorded in a database in which nothing was ever attached.
        """
        ...

    def worker_forget(self, worker: str) -> None:
        """Remove a worker that has stopped."""
        ...

    def workers(self, seconds: float) -> Sequence[WorkerBeat]:
        """Return the workers heard of within the last so many seconds."""
        ...

    # --- SQL for users ----------------------------------------------------------------------------------------

    def sql(self, query: str, values: Sequence[object], seconds: float) -> Rows:
        """Run one query of a user's, over the user's tables and the views of docs/sql.md, and return all its rows.

        The database sees to it that it changes nothing. `values` are bound to its placeholders, `?` on SQLite and `$1` on
        PostgreSQL. InvalidRequestError where the database refuses it, StoreUnavailableError where it takes longer than that.
        """
        ...

    def views(self) -> Views:
        """Return the views, and what a connection of another program has to run to have them (nothing on PostgreSQL)."""
        ...

    # --- search -----------------------------------------------------------------------------------------------

    def snapshot(self) -> AbstractContextManager[Reader]:
        """Open a reader on one snapshot of the whole database."""
        ...
