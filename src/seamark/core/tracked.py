"""An attached table: searching it, and how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from seamark.core import catalog, lifecycle
from seamark.core.adopt import WHOLE_ROW_CHARACTERS, Adopting, place_check
from seamark.core.audit import verify
from seamark.core.batch import batch_begin
from seamark.core.chunking import Chunker
from seamark.core.compare import NDCG_RANKS, Comparison, comparison, key_text
from seamark.core.estimate import estimate
from seamark.core.filters import filter_parse
from seamark.core.keys import key_given
from seamark.core.search import Request, SearchResult, generation_named, generation_read, search
from seamark.core.sync import lease_rows
from seamark.errors import (
    EmbedderError,
    InvalidRequestError,
    ModelDriftError,
    SourceDriftError,
    StoreError,
    StoreIncompatibleError,
    StorePermissionError,
    StoreUnavailableError,
)
from seamark.model import SourceCoverage, VectorPlace
from seamark.model import precision as stored_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seamark.core.adopt import Batch
    from seamark.core.search import Mode
    from seamark.core.service import Seamark
    from seamark.model import (
        Activated,
        Adopted,
        Failure,
        Generation,
        GenerationKind,
        GenerationListing,
        Key,
        KeyValue,
        Progress,
        Source,
        StampName,
        SwapPlan,
    )
    from seamark.model.cost import Estimate, ProviderBatch
    from seamark.model.findings import Finding, Findings

    QueryVector = tuple[NDArray[np.float32], float]


class _GenerationSwappedError(Exception):
    """Between the embedding of a query and the search's snapshot another generation became active, or its model drifted."""


@dataclass(frozen=True, slots=True)
class _Question:
    """A query embedded ahead for one generation, or why it could not be."""

    asked: Generation | None
    answer: QueryVector | EmbedderError | None

    def __call__(self, generation: Generation, query: str) -> QueryVector:  # noqa: ARG002 it was embedded ahead
        if self.asked is None or generation.id != self.asked.id or self.answer is None:
            raise _GenerationSwappedError
        if generation.drift is not None and generation.model is not None:
            if self.asked.drift is None and not isinstance(self.answer, EmbedderError):
                raise _GenerationSwappedError  # somebody else has found it, and the model may be back: it is compared
            raise ModelDriftError(generation.model.name, generation.drift)
        if isinstance(self.answer, EmbedderError):
            raise self.answer
        return self.answer


class Tracked:
    """An attached table."""

    def __init__(self, service: Seamark, source: Source) -> None:
        self._service = service
        self.source = source
        self._read: Generation | None = None  # what search read last; one that has been swapped since is noticed

    @property
    def name(self) -> str:
        """The name it was attached by."""
        return self.source.name

    def search(
        self,
        query: str,
        *,
        limit: int = 10,
        mode: Literal["hybrid", "lexical", "vector"] = "hybrid",
        filter: Mapping[str, object] | None = None,  # noqa: A002 the word users of search tools expect
        fusion: Literal["convex", "rrf"] = "convex",
        generation: int | None = None,
    ) -> SearchResult:
        """Find rows by meaning and by words; iterate over the result for the hits, best first.

        Args:
            query: any text; its words are never combined with AND.
            limit: how many hits at most.
            mode: "hybrid" fuses both legs, "lexical" is BM25 alone, "vector" is similarity alone.
            filter: on the table's own columns: `{"org_id": 7, "created": {"$gte": "2026-01-01"}, "tag": {"$in": ["a", "b"]}}`;
                also `$ne`, `$gt`, `$lt`, `$lte`, null, `$and`, `$or`, and members of JSON columns as `column.member`.
            fusion: how two legs become one list; see docs/architecture.md.
            generation: the id of one that is to be read for its kind, whatever its state (`generations()` has them).

        Raises:
            UnknownGenerationError: the table has none of that id.
            InvalidRequestError: an empty query, a limit below 1, a malformed filter; UnknownColumnError for its columns.
            SourceDriftError: the table is not as it was attached any more, and cannot be read so.
        """
        where = filter_parse(filter, self.source.table) if filter else None
        request = Request(query, limit=limit, mode=mode, where=where, fusion=fusion, generation=generation)
        again = True
        while True:
            question = self._question(request)
            try:
                with self._service.store.snapshot() as reader:
                    return search(reader, self.source, request, question)
            except _GenerationSwappedError:
                self._read = None
            except (StoreUnavailableError, StorePermissionError, StoreIncompatibleError):
                raise
            except StoreError as error:  # its tables may have been dropped since it was looked up
                if not again:
                    if problems := self._service.source_problems(self.source):
                        raise SourceDriftError(self.name, problems) from error
                    raise
                again, self._read = False, None

    def _question(self, request: Request) -> _Question:
        """Embed the query for the generation that search is about to read: before the snapshot, since a model may be slow."""
        if request.mode == "lexical":
            return _Question(None, None)
        generation = self._vector_read(request.generation)
        if generation is None:
            return _Question(None, None)
        try:
            return _Question(generation, self._service.registry.query_vector(generation, request.query))
        except EmbedderError as error:
            return _Question(generation, error)

    def _vector_read(self, chosen: int | None) -> Generation | None:
        if self._read is not None and chosen is None:
            return self._read
        found = generation_read(self._service.store.generations(self.source.id), "vector", chosen)
        if chosen is None and (found is None or found.drift is None):  # a drift may be over the next time
            self._read = found
        return found

    # --- generations ------------------------------------------------------------------------------------------

    def generations(self) -> tuple[GenerationListing, ...]:
        """Return every generation, oldest first, in whatever state: what it holds, takes on disk, and how old it is."""
        return lifecycle.listing(self._service.store, self.source)

    def swap(
        self,
        model: str | None = None,
        chunk: int | None = None,
        language: str | None = None,
        precision: str | None = None,
        *,
        manual: bool = False,
    ) -> tuple[Generation, ...]:
        """Begin indexes by another model, chunk size, precision or language beside those searched; return those being built.

        Workers fill them while search goes on with the old ones, and index whatever is committed meanwhile for both. When
        nothing that search finds would be missing a worker activates the new one and retires the old, unless it is `manual`:
        then it is left to `activate`. An earlier swap that is not active yet is given up. A retired index of the same identity
        is taken up again, with all that it holds. Nothing is begun where all is as it is asked for; called again after an
        interruption it goes on.

        Args:
            model: which embedder; otherwise the object given to `open`, or the one that is in use.
            chunk: the size of a passage, in characters; as it is otherwise.
            language: of the index of words; as it is otherwise.
            precision: how a vector's numbers are stored; as it is otherwise.
            manual: to be activated by `activate` only.

        Raises:
            ModelDriftError: the model that is meant is another one than was registered; nothing is begun.
        """
        service, words = self._service, lifecycle.Words(model, chunk, language, precision)
        return lifecycle.swap(service.store, service.embedders, service.registry, self.source, words, manual=manual)

    def swap_plan(
        self,
        model: str | None = None,
        chunk: int | None = None,
        language: str | None = None,
        precision: str | None = None,
    ) -> SwapPlan:
        """Say what `swap` would begin with the same words, or raise what it would; nothing is changed."""
        service, words = self._service, lifecycle.Words(model, chunk, language, precision)
        return lifecycle.swap_plan(service.store, service.embedders, service.registry, self.source, words)

    def activate(self, generation: int | None = None, *, force: bool = False) -> Activated:
        """Make a generation, or the only one that is being built, the one that search reads, in one transaction.

        With `force`, also one in which rows are missing; returns how many, and a leg that reads it says so in `degraded`. What
        was swapped to earlier, and is still being built, is left to `activate` from then on: the newest word counts.

        Raises:
            GenerationIncompleteError: rows would be missing; says how many.
        """
        return lifecycle.activate(self._service.store, self.source, generation, force=force)

    def rollback(self, kind: GenerationKind = "vector") -> Activated:
        """Go back, at once, to the generation that was searched before the active one; it catches up from the journal.

        Returns how many rows it has yet to catch up with. Done again it goes back one further, never forward: that is for
        `activate`.

        Raises:
            NoRollbackError: there is none.
        """
        return lifecycle.rollback(self._service.store, self.source, kind)

    def retire(self, generation: int, *, force: bool = False) -> Generation:
        """Stop work on a generation and keep what it holds; the active one only with `force`: search is left without it.

        What is under way for it with a provider is cancelled there; `batches` says so, or why it could not be.

        Raises:
            GenerationInUseError: it is the active one.
        """
        return lifecycle.retire(self._service.store, self._service.embedders, self.source, generation, force=force)

    def drop(self, generation: int) -> tuple[ProviderBatch, ...]:
        """Drop a generation with its vectors; the active one cannot be.

        Returns the batch that was under way for it with a provider: its `error` says whether it is cancelled there.

        Raises:
            GenerationInUseError: it is the active one.
        """
        return lifecycle.drop(self._service.store, self._service.embedders, self.source, generation)

    def compare(
        self,
        first: int,
        second: int,
        queries: Sequence[str] | Mapping[str, str],
        qrels: Mapping[str, Mapping[str, int]] | None = None,
        *,
        limit: int = 10,
        mode: Literal["hybrid", "alone"] = "alone",
    ) -> Comparison:
        """Search by two generations of a kind, in whatever state, and say how their answers differ, and which is better.

        Args:
            first: a generation's id.
            second: another one's.
            queries: questions, with their ids where there are `qrels`.
            qrels: query's id → row's key as text → judgement, 0 for not relevant.
            limit: how many ranks are looked at.
            mode: "alone" ranks by these generations only, "hybrid" by each of them together with the other kind's.
        """
        generations = self._service.store.generations(self.source.id)
        kind = generation_named(self.source, generations, first).kind
        other = generation_named(self.source, generations, second).kind
        if kind != other:
            raise InvalidRequestError(f"generation {first} is {kind} and {second} is {other}: compare two of one kind")
        named = queries if isinstance(queries, Mapping) else {str(at): query for at, query in enumerate(queries, start=1)}
        wanted = max(limit, NDCG_RANKS)

        def ranked(generation: int, query: str) -> list[str]:
            legs: Mode = "hybrid" if mode == "hybrid" else kind
            return [key_text(hit.key) for hit in self.search(query, limit=wanted, mode=legs, generation=generation)]

        return comparison((first, second), named, ranked, qrels, limit)

    def accept(self, generation: int) -> None:
        """Take the model of a generation, which is not what it was (`model_drift`), for the one that was registered."""
        found = generation_named(self.source, self._service.store.generations(self.source.id), generation)
        self._service.registry.accept(found)

    def adopt(
        self,
        model: str | None = None,
        *,
        column: str | None = None,
        table: str | None = None,
        key: str | Sequence[str] = (),
        batches: Iterable[Batch] | None = None,
        text_hash: str | None = None,
        trust_text: bool = False,
        chunk: int = WHOLE_ROW_CHARACTERS,
        manual: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Adopted:
        """Make an index of vectors that exist already, without one call to the model.

        An index of this model and these passages that is searched already is left as it is, and nothing is read. Each vector
        stands for the whole text of its row. Rows whose text has changed since are left to the workers, like those
        that have no vector. Killed and called again, it goes on where it was; meanwhile no worker embeds a row of this index.
        Unless it is `manual`, an earlier swap or adoption that is not whole yet is given up for it.

        Args:
            model: whose vectors they are; the default one otherwise.
            column: the column with the vectors: of this table, or of `table`.
            table: another table that the column is of.
            key: its column(s) that hold this table's key.
            batches: vectors from elsewhere: keys, an array of as many vectors, and the digests of their texts or None.
            text_hash: a column with the digest of the text (MD5, SHA-1, SHA-2 or BLAKE2b of it as UTF-8, bytes or hexadecimal).
            trust_text: there are no digests; the texts are those that the vectors were made from.
            chunk: the most characters of a row that one vector stands for; longer rows are left to the workers.
            manual: leave it to `activate` to let search read it; otherwise that is done when nothing is missing.
            progress: called with the rows adopted so far.

        Raises:
            InvalidRequestError: neither digests nor `trust_text`, another dimension than the model's, no such column, not one
                vector that could be adopted. Nothing has changed then.
        """
        place = None
        if column is not None and batches is None:
            place = VectorPlace(column, table, (key,) if isinstance(key, str) else tuple(key), text_hash)
            place_check(place, self.source, self._service.store.table_inspect, trusted=trust_text)
        elif batches is None or column is not None:
            raise InvalidRequestError("name the column that the vectors are in, or give them as batches")
        embedders = self._service.embedders
        embedder, locator = (embedders.named(model), model) if model else embedders.default()
        chunker = Chunker(chunk)
        spec = catalog.vector_spec(self.source.spec, embedder.identity, locator, chunker.identity())
        about: set[GenerationKind] = {"vector"}
        supersede = partial(lifecycle.supersede, self._service.store, embedders, self.source, about)
        adopting = Adopting(self._service.store, self.source, spec, embedder, chunker, supersede, self._service.ahead)
        found = adopting.adopt(place or batches or (), trusted=trust_text, manual=manual, progress=progress)
        self._service.registry.register(embedder)
        return found

    # --- how it stands ----------------------------------------------------------------------------------------

    def coverage(self) -> SourceCoverage:
        """Return exact counts, per generation and for the one that vector search reads."""
        store = self._service.store
        generations = [found for found in store.generations(self.source.id) if found.state != "retired"]
        counts = store.coverage(self.source, [found.id for found in generations])
        read = generation_read(generations, "vector")
        shown = counts[read.id] if read is not None else None
        return SourceCoverage(
            live=shown.live if shown else 0,
            embedded=shown.embedded if shown else 0,
            blank=shown.blank if shown else 0,
            missing=shown.missing if shown else 0,
            failed=shown.failed if shown else 0,
            truncated=shown.truncated if shown else 0,
            generation=read.id if read else None,
            generations=counts,
        )

    def stamps_made(self) -> tuple[StampName, ...]:
        """Return the stamp columns that an attach has made, this one or an earlier; `detach` drops them if it is asked to."""
        return tuple(self._service.store.stamps_made(self.source))

    def batch(self) -> ProviderBatch:
        """Have what is left of a backfill embedded through the provider's batch interface, for less, within a day.

        Search and fresh rows go on as ever; the backfill waits for the provider. Workers see to it, on any machine, and go on
        where one was cut off; `batches_advance` of the service takes one step. Called again, it returns the batch there is.

        Raises:
            InvalidRequestError: the model's provider has no batch interface, or nothing is left to backfill.
        """
        store = self._service.store
        for generation in reversed(store.generations(self.source.id)):
            if generation.model is not None and generation.state != "retired":
                embedder = self._service.embedders.of(generation.model, generation.locator)
                if (batch := batch_begin(store, generation, embedder)) is not None:
                    return batch
        raise InvalidRequestError(
            f"nothing is left to backfill in {self.name!r}: a batch is for a new index, before `work` has filled it"
        )

    def batch_withdraw(self, *, planned: bool = False) -> tuple[ProviderBatch, ...]:
        """Give up what is under way with a provider, and cancel it there; the `error` of each batch says so, or why not.

        With `planned` only what has not been sent.
        """
        return lifecycle.withdraw(self._service.store, self._service.embedders, self.source, planned=planned)

    def batch_check(
        self,
        model: str | None = None,
        chunk: int | None = None,
        language: str | None = None,
        precision: str | None = None,
    ) -> None:
        """Raise InvalidRequestError where what `swap` would begin with the same words cannot go through `batch`."""
        service, words = self._service, lifecycle.Words(model, chunk, language, precision)
        lifecycle.swap_batch_check(service.store, service.embedders, self.source, words)

    def batches(self) -> tuple[ProviderBatch, ...]:
        """Return the batches of the generations there are, oldest first."""
        store = self._service.store
        return tuple(batch for one in store.generations(self.source.id) for batch in store.batches(one.id))

    def estimate(
        self, model: str | None = None, chunk: int | None = None, precision: str | None = None, *, calibrate: bool = True
    ) -> Estimate:
        """Estimate what it costs to embed the rows as they are now, less what is there already; see `Estimate`.

        Args:
            model: which embedder; the one that search reads the vectors of, otherwise.
            chunk: the size of a passage, in characters; as it is otherwise.
            precision: how vectors are to be stored; as they are otherwise. What is stored in another one is not there already.
            calibrate: ask a provider whose tokens are not known here for the vectors of up to 128 passages, for what it bills.
        """
        embedders = self._service.embedders
        read = generation_read(self._service.store.generations(self.source.id), "vector")
        if model is None and read is not None and read.model is not None:
            embedder = embedders.of(read.model, read.locator)
        else:
            embedder = embedders.named(model) if model else embedders.default()[0]
        chunker = Chunker(chunk) if chunk else Chunker.like(read.identity if read else {})
        stored = catalog.precision_check(precision) if precision else stored_precision(read.identity if read else {})
        slot, rows = embedders.slot(embedder), lease_rows(embedder)
        return estimate(self._service.store, self.source, embedder, slot, chunker, stored, rows, calibrate=calibrate)

    def verify(
        self,
        *,
        repair: bool = False,
        progress: Callable[[Progress], None] | None = None,
        found: Callable[[Finding], None] | None = None,
    ) -> Findings:
        """Compare the table, its journal and what the indexes hold of it, row by row and by content.

        Workers and writers may go on meanwhile: what they have under way is no finding. Takes bounded memory.

        Args:
            repair: make good what feeds the journal, and give rows that are wrong a new version; `work` then indexes them anew,
                and compares all stamps, which are not looked at here.
            progress: called with the rows compared so far.
            found: called with every finding; the first thousand are returned, too.
        """
        ahead = self._service.ahead
        findings = verify(self._service.store, self.source, repair=repair, progress=progress, found=found, ahead=ahead)
        if repair and self.source.spec.stamp:
            self._service.store.stamps_compare(self.source)
        return findings

    def failures(self, limit: int = 100) -> tuple[Failure, ...]:
        """Return the rows that could not be indexed: which, why, how often, and when they are tried again.

        Up to `limit` of each generation, one generation after the other, newest first in each.
        """
        store = self._service.store
        generations = (found for found in store.generations(self.source.id) if found.state != "retired")
        return tuple(failure for found in generations for failure in store.failures(self.source, found.id, limit))

    def failures_retry(self, keys: Sequence[KeyValue | Key] | None = None) -> int:
        """Make failed rows, all or those of the keys, due at once with all their attempts before them; return how many."""
        store = self._service.store
        chosen = None if keys is None else [key_given(self.source.table, key) for key in keys]
        retried = 0
        for generation in store.generations(self.source.id):
            if generation.state != "retired":
                retried += store.failures_retry(self.source, generation.id, chosen)
                store.generation_backoff(generation.id, 0.0, None)
        return retried
