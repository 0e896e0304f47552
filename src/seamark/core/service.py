"""The service: everything a user can ask of Seamark, whichever edge it is asked at."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from seamark.core import catalog, lifecycle
from seamark.core.ahead import when_asked
from seamark.core.analysis import Analyzer
from seamark.core.audit import AUDIT_INTERVAL_SECONDS
from seamark.core.batch import batch_advance, batch_failed, batch_open, batch_withdraw
from seamark.core.budget import Budget
from seamark.core.chunking import Chunker
from seamark.core.reuse import Stored
from seamark.core.sync import Indexer, LexicalIndexer, VectorIndexer
from seamark.core.tracked import Tracked
from seamark.errors import (
    MEND,
    EmbedderConfigurationError,
    EmbedderError,
    InvalidRequestError,
    ModelDriftError,
    SeamarkError,
    SourceDriftError,
    StoreError,
    StorePermissionError,
    StoreUnavailableError,
    UnknownSourceError,
)
from seamark.model import Check, GenerationStatus, Progress, SourceStatus, precision
from seamark.model.cost import NOTHING_SPENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

    from seamark.core.ahead import Ahead
    from seamark.core.registry import Embedders, Registry
    from seamark.model import Audited, Coverage, Generation, Rows, Source, Views, WorkerBeat
    from seamark.model.cost import ProviderBatch, Spent
    from seamark.store.contract import Store

ENROLL_ROWS = 2000
"""Rows that enter the journal in one transaction: some milliseconds, so that a writer beside it hardly waits."""
WORKER_SILENT_SECONDS = 15.0
"""A worker not heard of for this long does not count in the rates."""
STATUS_FAILURES = 5
RETENTION_DAYS = 30.0
"""How long a retired generation keeps its vectors, to be rolled back to."""
SQL_SECONDS = 30.0
UNSEARCHED = (
    "if an adoption was cut short, run it again; else `seamark model swap {0}` builds one, and `seamark model activate {0} ID` "
    "takes one back"
)
DRIFTED = (
    'bring the old model back, swap to the new one under a version of its own, `seamark model swap {0} --model "…?version=…"`, '
    "or, if its vectors are the same to you, `seamark model accept {0} {1}`"
)


class Runner(Protocol):
    """Runs worker threads in this process until told to stop; see `seamark.edges.worker`."""

    def __call__(
        self,
        service: Seamark,
        *,
        until: Literal["current"] | None,
        threads: int | None,
        progress: Callable[[Progress], None] | None,
        stop: StopSignal | None,
        budget: Budget | None,
    ) -> int:
        """Return how many rows were settled."""
        ...


class StopSignal(Protocol):
    """What `threading.Event` is, as far as a worker is concerned."""

    def is_set(self) -> bool:
        """Say whether it is time to stop."""
        ...

    def set(self) -> None:
        """Ask to stop."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until asked to stop, at most so many seconds; say whether it is time to stop."""
        ...


class Seamark:
    """A database under Seamark's care; made by `seamark.open`, closed by `close` or by leaving a `with` block."""

    def __init__(
        self,
        store: Store,
        embedders: Embedders,
        registry: Registry,
        runner: Runner,
        jitter: Callable[[], float],
        throttle: Callable[[], AbstractContextManager[None]],
        retention_days: float = RETENTION_DAYS,
        audit_interval_seconds: float = AUDIT_INTERVAL_SECONDS,
        ahead: Ahead = when_asked,
    ) -> None:
        self.store = store
        self.embedders = embedders
        self.registry = registry
        self._retention_days = retention_days
        self.audit_interval_seconds = audit_interval_seconds
        self.ahead = ahead
        self._runner = runner
        self._jitter = jitter
        self._throttle = throttle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self.store.close()

    # --- sources ----------------------------------------------------------------------------------------------

    def attach(
        self,
        table: str,
        *,
        text: str | Sequence[str],
        where: Mapping[str, object] | None = None,
        touch: Mapping[str, str | Sequence[str]] | None = None,
        chunk: int | None = None,
        language: str | None = None,
        precision: str | None = None,
        model: str | None = None,
        stamp: str | Sequence[str] = (),
        track: str = "triggers",
        poll: str | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Tracked:
        """Track a table: from now on every committed change of it is found, embedded and searchable.

        Args:
            table: the table's name; on PostgreSQL also `schema.table`.
            text: the text column, or several, joined with a blank line between them; `touching_table.column` for text of a
                related table named in `touch`.
            where: which rows are live, in the words of a search filter; rows outside it are treated as if deleted.
            touch: related tables whose changes must touch the row: name → the column(s) in it that hold this table's key.
            chunk: the size of a passage, in characters; 1,000 otherwise.
            language: whose word endings are cut in the index of words: `english`, `german`, …, or `none`; English otherwise.
            precision: how a vector's numbers are stored, `float16` or `float32`; float16 otherwise.
            model: which embedder; the one given to `open`, or the default one, otherwise.
            stamp: columns of this table that say of each row what is embedded, made where they are not there; some of
                `embedded_model_id`, `embedded_model_version`, `embedded_at`, `has_embedding`, `embed_gen` (docs/sql.md).
            track: "poll" for a table that must not get triggers, nor be written to: workers look for new rows every half
                second, by a key of one column that only ever grows; edits and deletes are found by their audit, once a day
                unless it is set otherwise.
            poll: that key, to be named where it is no integer.
            progress: called with the rows entered into the journal so far.

        Existing rows enter the journal in batches; an interrupted attach goes on where it was when called again. With the same
        words again, by whichever of the table's names, it changes nothing. What is not said (chunk, language, precision,
        model) is then as it is: a program that attaches at its start goes on with what `Tracked.swap` has made of it.

        Raises:
            TableUnusableError, UnknownColumnError: the table, its key or a column will not do.
            SourceConflictError: it is attached already, with other words.
            SourceDriftError: it is attached already, and has been renamed, recreated or lost its triggers since.
        """
        found = self.store.table_inspect(table)
        spec = catalog.source_spec(found, text, where, touch, self.store.table_inspect, stamp, track, poll)
        words = lifecycle.Words(model, chunk, language, precision)
        known = catalog.source_find(self.store.sources(), table, found)
        there = self.store.generations(known.id) if known is not None else ()
        specs = words.specs(spec, there, self.embedders)
        if known is not None:
            catalog.source_check(known, spec)
            if known.state == "ready" and (problems := self.source_problems(known)):
                raise SourceDriftError(known.name, problems)
            catalog.generations_check(known, there, specs)
        source = self.store.source_create(known.name if known else table, known.spec if known else spec, found)
        self._enroll(source, progress)
        begun = self.store.generations_begin(source, specs)
        catalog.generations_check(source, begun, specs)
        if known is None and source.spec.stamp:
            self._stamps_compare(begun)
        for generation in begun:
            if generation.model is not None and generation.state == "building":
                self.registry.register(self.embedders.of(generation.model, generation.locator))
        return self.source(source.name)

    def _stamps_compare(self, begun: Sequence[Generation]) -> None:
        """Empty stamps that columns of the user's hold from before."""
        for generation in begun:
            while generation.kind == "vector" and self.store.generation_maintain(generation.id, idle=False):
                pass

    def _enroll(self, source: Source, progress: Callable[[Progress], None] | None) -> None:
        rows = 0
        while source.state == "enrolling":
            with self._throttle():
                step = self.store.source_enroll(source, ENROLL_ROWS)
            rows += step.rows
            if progress is not None:
                progress(Progress(f"attach {source.name}", rows, None, 0.0))
            source = self._find(source.name)

    def detach(self, name: str, *, drop_vectors: bool = False, drop_stamps: bool = False) -> tuple[ProviderBatch, ...]:
        """Stop tracking a table: its triggers, journal and indexes go; its own schema is exactly as it was.

        Its vectors are left for a month, for an attach of it to the same model, unless `drop_vectors`, which also drops those
        that earlier detaches have left: of a table that is not attached any more, too. Stamp columns stay, and nobody keeps
        them true any more; with `drop_stamps` those that `attach` has made are dropped.

        Returns the batches that were under way with a provider: the `error` of each says whether it is cancelled there.
        """
        if drop_vectors and all(source.name != name for source in self.store.sources()) and self.store.donors_drop(name):
            return ()
        source = self._find(name)
        withdrawn = lifecycle.withdraw(self.store, self.embedders, source)
        self.store.source_drop(source.id, keep_vectors=not drop_vectors, stamps=drop_stamps)
        return withdrawn

    def source(self, name: str) -> Tracked:
        """Return an attached table; UnknownSourceError if there is none of that name."""
        return Tracked(self, self._find(name))

    def sources(self) -> tuple[Tracked, ...]:
        """Return every attached table."""
        return tuple(Tracked(self, source) for source in self.store.sources())

    def _find(self, name: str) -> Source:
        sources = self.store.sources()
        found = next((source for source in sources if source.name == name), None)
        if found is None:
            raise UnknownSourceError(name, tuple(source.name for source in sources))
        return found

    def add(self, collection: str, documents: Sequence[tuple[str, str, str]], *, model: str | None = None) -> int:
        """Put documents (path, title, body) into a collection, a table that Seamark makes for people who have none.

        Documents are told apart by path: one that is there already is updated, and of several in one call the last one is put.
        Returns how many rows were new or changed.
        """
        catalog.collection_check(collection)
        self.store.collection_create(collection)
        self.attach(collection, text=["title", "body"], model=model)
        latest = {document[0]: document for document in documents}
        return self.store.collection_put(collection, list(latest.values()))

    # --- work -------------------------------------------------------------------------------------------------

    def work(
        self,
        *,
        until: Literal["current"] | None = None,
        threads: int | None = None,
        progress: Callable[[Progress], None] | None = None,
        stop: StopSignal | None = None,
        budget_tokens: int | None = None,
    ) -> int:
        """Index whatever is missing, in this process, beside any number of other workers; return the rows settled.

        Args:
            until: "current" to return once everything is indexed that had been committed when this was called, whatever is
                written meanwhile; None to go on until `stop` is set.
            threads: worker threads; chosen by the embedder's concurrency otherwise.
            progress: called about once a second.
            stop: set it to end: work under way is finished or handed back, and no row's attempts are spent.
            budget_tokens: how many tokens may be billed in this call; see `seamark.embed.tokens` for how they are known.

        Raises:
            BudgetSpentError: the next call of a model would cost more than is left; work is handed back as with `stop`.
            EmbedderConfigurationError: with `until="current"`, when an embedder cannot work as configured, once all else is
                indexed.
            InvalidRequestError: no such `until`, or fewer threads than one.
        """
        if until not in (None, "current"):
            raise InvalidRequestError(f"work until {until!r}: there is 'current', or None to go on until told to stop")
        if threads is not None and threads < 1:
            raise InvalidRequestError(f"{threads} worker threads: at least one is wanted")
        budget = None if budget_tokens is None else Budget(budget_tokens)
        return self._runner(self, until=until, threads=threads, progress=progress, stop=stop, budget=budget)

    def indexer(self, generation: Generation, budget: Budget | None = None, *, recording: bool = True) -> Indexer:
        """Return what turns rows into this generation's index; EmbedderConfigurationError when its model is not here.

        The model is compared with what was registered, when first used here and now and then: ModelDriftError when it is
        another one by now, and `recording`, that is recorded, and holds all workers of that model.
        """
        if generation.model is None:
            analyzer = Analyzer.like(generation.identity)
            if generation.identity.get("analyzer") != analyzer.identity():
                raise EmbedderConfigurationError(
                    f"generation {generation.id} was made with analyzer {generation.identity.get('analyzer')}, and this "
                    f"Seamark has {analyzer.identity()}: run the version that made it, or swap it (`seamark model swap`)"
                )
            return LexicalIndexer(analyzer)
        embedder = self.registry.embedder(generation, recording=recording)
        chunker = Chunker.of(generation.identity)
        vectors = Stored(partial(self.store.vectors_known, generation.id), partial(self.store.vectors_put, generation.id))
        slot, stored = self.embedders.slot(embedder), precision(generation.identity)
        return VectorIndexer(embedder, chunker, slot, self._jitter, vectors, stored, budget)

    # --- SQL --------------------------------------------------------------------------------------------------

    def sql(self, query: str, values: Sequence[object] = (), *, timeout_seconds: float = SQL_SECONDS) -> Rows:
        """Run one SQL query that reads: over your tables, the views `SOURCE_embeddings` and `embedding_jobs` (docs/sql.md).

        Args:
            query: one statement; the database refuses whatever would change something.
            values: for its placeholders, which are `?` on SQLite and `$1`, `$2`, … on PostgreSQL.
            timeout_seconds: a query that takes longer is ended.

        Raises:
            InvalidRequestError: the database refuses the query, and why; StoreUnavailableError: it took too long.
        """
        if not query.strip() or timeout_seconds <= 0:
            raise InvalidRequestError("a query, and a time for it above 0 seconds, are needed")
        return self.store.sql(query, values, timeout_seconds)

    def views(self) -> Views:
        """Return the views for SQL users, and what another program's connection has to run to have them."""
        return self.store.views()

    def batches_advance(
        self, owner: str, budget: Budget | None = None, *, only: str | None = None
    ) -> tuple[ProviderBatch, ...]:
        """Take one step of every batch, `only` of one table otherwise, that is under way; return how each of them stands now.

        Raises:
            BudgetSpentError: a batch would cost more than is left of the budget; it is not sent.
            ModelDriftError: a model is another one than was registered, which is recorded, and its batch is neither sent nor
                put by; raised when all the others have had their step.
            EmbedderConfigurationError: likewise, where a provider that has a batch cannot be asked about it as things are.
        """
        found: list[ProviderBatch | None] = []
        waiting: EmbedderConfigurationError | None = None
        for source in (source for source in self.store.sources() if only in (None, source.name)):
            for generation in self.store.generations(source.id):
                if generation.model is None or batch_open(self.store.batches(generation.id)) is None:
                    continue
                try:
                    embedder = self.embedders.provider(generation.model, generation.locator)
                    chunker = Chunker.of(generation.identity)
                except EmbedderError:
                    continue  # told of where it is worked on; others may have the model
                if generation.state == "retired":  # by somebody who could not, or did not live to, cancel its batch
                    found.append(batch_withdraw(self.store, generation, lambda: embedder))  # noqa: B023 called at once
                    continue
                try:
                    step = batch_advance(self.store, source, generation, embedder, self.registry, chunker, owner, budget)
                    found.append(step)
                except EmbedderConfigurationError as error:
                    waiting = error
        if waiting is not None:
            raise waiting
        return tuple(batch for batch in found if batch is not None)

    def generations_expire(self) -> tuple[int, ...]:
        """Drop generations that were retired longer ago than they are to be kept; return their ids.

        What detaches have left is kept as long, unless it is of no use any more.
        """
        self.store.donors_trim(self._retention_days * 86_400)
        return lifecycle.expire(self.store, self._retention_days)

    # --- how it stands ----------------------------------------------------------------------------------------

    def status(self, problems: Callable[[Source], tuple[str, ...]] | None = None) -> tuple[SourceStatus, ...]:
        """Return how every source and each of its generations stands, exactly.

        `problems` is asked for those of a source; `source_problems` otherwise, which looks at the table each time.
        """
        workers = self.store.workers(WORKER_SILENT_SECONDS)
        told = problems or self.source_problems
        return tuple(self._source_status(source, workers, told(source)) for source in self.store.sources())

    def _source_status(self, source: Source, workers: Sequence[WorkerBeat], problems: tuple[str, ...]) -> SourceStatus:
        every = self.store.generations(source.id)
        generations = [found for found in every if found.state != "retired"]
        counted: tuple[GenerationStatus, ...] = ()
        try:
            counts = self.store.coverage(source, [found.id for found in generations])
            spent, audits = self.store.spends(source.id), self.store.audits(source.id)
            counted = tuple(
                self._generation_status(
                    source, found, counts[found.id], workers, spent.get(found.id, NOTHING_SPENT), audits.get(found.id)
                )
                for found in generations
            )
        except StoreError as error:
            if not problems or isinstance(error, StoreUnavailableError | StorePermissionError):
                raise  # else it cannot be counted, with tables of ours gone
        edits = self.audit_interval_seconds if source.spec.track == "poll" and self.audit_interval_seconds > 0 else None
        unfinished = not catalog.attached(source, generations)
        unsearched = catalog.unsearched(every)
        return SourceStatus(source, counted, problems, unfinished=unfinished, edits_seconds=edits, unsearched=unsearched)

    def source_problems(self, source: Source) -> tuple[str, ...]:
        """Say in what the table is no longer as it was attached; nothing when all is well."""
        return catalog.source_drift(source, self.store.table_inspect) or tuple(self.store.source_faults(source))

    def _generation_status(
        self,
        source: Source,
        generation: Generation,
        coverage: Coverage,
        workers: Sequence[WorkerBeat],
        spent: Spent,
        audit: Audited | None,
    ) -> GenerationStatus:
        rate = sum(worker.rates.get(generation.id, 0.0) for worker in workers)
        eta = 0.0 if coverage.missing == 0 else coverage.missing / rate if rate > 0 else None
        failures = self.store.failures(source, generation.id, STATUS_FAILURES) if coverage.failed else ()
        batches = self.store.batches(generation.id)
        failed = batch_failed(batches) if coverage.missing else None
        under_way = batch_open(batches)
        return GenerationStatus(generation, coverage, rate, eta, tuple(failures), spent, audit, under_way, failed)

    def doctor(self) -> tuple[Check, ...]:
        """Return what was looked at in this database and for the models in use, each well or with how to mend it."""
        checks = list(self.store.checks())
        if not all(check.ok for check in checks if check.required):
            return tuple(checks)
        tables = tuple(self._source_check(source) for source in self.store.sources())
        indexes = tuple(self._generation_check(found) for found in self.store.generations() if found.state != "retired")
        return (*checks, *tables, *self._stamp_checks(), *indexes)

    def _stamp_checks(self) -> Iterator[Check]:
        for source in self.store.sources():
            if source.spec.stamp and not self.source_problems(source):
                owed = self.store.stamps_owed(source)
                remedy = "`seamark work` writes them; one that a trigger or constraint of the table refuses stays owed"
                detail = f"{owed:,} rows are owed their stamp" if owed else "no row is owed its stamp"
                yield Check(f"stamps {source.name}", ok=not owed, detail=detail, remedy=remedy if owed else "", required=False)

    def _source_check(self, source: Source) -> Check:
        name = f"source {source.name}"
        if problems := self.source_problems(source):
            return Check(name, ok=False, detail=f"broken: {'; '.join(problems)}", remedy=MEND.format(source.name))
        if not catalog.attached(source, self.store.generations(source.id)):
            entering = "" if source.state == "ready" else " while its rows were entered"
            detail = f"an attach of it is under way, or was cut short{entering}"
            remedy = "if nobody is at it, attach it again with the same words"
            return Check(name, ok=False, detail=detail, remedy=remedy)
        if catalog.unsearched(self.store.generations(source.id)):
            detail = "all of its vector indexes are retired, so that none is built or searched"
            return Check(name, ok=False, detail=detail, remedy=UNSEARCHED.format(source.name), required=False)
        return Check(name, ok=True, detail="the table and its triggers are as they were attached")

    def _generation_check(self, generation: Generation) -> Check:
        name = f"generation {generation.id} ({generation.kind})"
        try:
            self.indexer(generation, recording=False)
        except ModelDriftError as error:
            table = next((source.name for source in self.store.sources() if source.id == generation.source_id), "TABLE")
            return Check(name, ok=False, detail=str(error), remedy=DRIFTED.format(table, generation.id))
        except SeamarkError as error:
            return Check(name, ok=False, detail=str(error), remedy="install or configure the model, then run doctor again")
        if generation.backoff_error is not None:
            return Check(name, ok=False, detail=generation.backoff_error, remedy="mend the embedder; workers look again soon")
        model = f"{generation.model.name}@{generation.model.version}" if generation.model else "words"
        return Check(name, ok=True, detail=f"{generation.state}, {model}")
