"""One piece of work, from claim to settle: what a worker thread does over and over.

No transaction is open while a model is called. Every way out of a step either settles the lease, gives it back, or leaves it
to expire; none loses a row.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from seamark.core.analysis import lexical_batch
from seamark.core.budget import Meter, Tally
from seamark.core.chunking import render
from seamark.core.retry import CONFIGURATION_DELAY_SECONDS, outage_delay, row_delay
from seamark.core.reuse import NOTHING_STORED, Vectors
from seamark.embed.validation import embedder_errors, stored_vectors
from seamark.errors import (
    BudgetSpentError,
    EmbedderConfigurationError,
    EmbedderError,
    EmbedderInputError,
    EmbedderTransientError,
    EmbedderUnavailableError,
)
from seamark.model import FailedRow, IndexedRow, Outcome, VectorBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from seamark.core.analysis import Analyzer
    from seamark.core.budget import Budget
    from seamark.core.chunking import Chunker
    from seamark.core.reuse import Stored
    from seamark.embed.contract import Embedder
    from seamark.model import Chunk, FailureKind, Generation, Lease, LexicalBatch, Precision, Settled, Source, SourceRow
    from seamark.store.contract import Store

    Call = Callable[[Sequence[str]], NDArray[np.float32]]

LEASE_SECONDS = 30.0
"""A dead worker's rows are back within this time; a live one renews three times in it."""
READ_CHARACTERS = 4_000_000
"""Text read under one lease at most, which bounds a worker's memory whatever the rows' size."""


class CancelledError(Exception):
    """The worker was asked to stop between two embedding calls; the lease is given back."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """What an indexer made of some rows."""

    batch: VectorBatch | LexicalBatch
    failed: tuple[FailedRow, ...]

    def passages(self) -> Counter[bytes]:
        """Return how often which passages are in it, by digest."""
        return Counter(chunk.digest for chunk in self.batch.chunks) if isinstance(self.batch, VectorBatch) else Counter()


class Indexer(Protocol):
    """Turns rows of one generation into what a settle writes."""

    @property
    def lease_rows(self) -> int:
        """How many rows to claim at once."""
        ...

    @property
    def concurrency(self) -> int:
        """How many threads can index at once to some use."""
        ...

    def index(self, rows: Sequence[SourceRow], cancelled: Callable[[], bool], tally: Tally) -> Indexed:
        """Index the rows; every one of them is in the batch or in the failures, exactly once. `tally` counts what it costs.

        Raises EmbedderConfigurationError, EmbedderUnavailableError and BudgetSpentError, which are not the rows' fault, and
        CancelledError.
        """
        ...


class LexicalIndexer:
    """Indexes words."""

    lease_rows = 2048
    concurrency = 1

    def __init__(self, analyzer: Analyzer) -> None:
        self._analyzer = analyzer

    def index(self, rows: Sequence[SourceRow], cancelled: Callable[[], bool], tally: Tally) -> Indexed:  # noqa: ARG002
        """Index the words of the rows' rendered text. Nothing can fail here, it is quick, and it costs nothing."""
        texts = [render(row.texts) if row.live else None for row in rows]
        outcomes = [_plain_row(row, text, 1) for row, text in zip(rows, texts, strict=True)]
        return Indexed(lexical_batch(self._analyzer, list(zip(outcomes, texts, strict=True))), ())


class VectorIndexer:
    """Chunks and embeds what no vector is known of.

    `slot` bounds the calls to the embedder that are under way in this process; `stored` has the vectors that are there.
    """

    def __init__(
        self,
        embedder: Embedder,
        chunker: Chunker,
        slot: AbstractContextManager[object],
        jitter: Callable[[], float],
        stored: Stored = NOTHING_STORED,
        precision: Precision = "float16",
        budget: Budget | None = None,
    ) -> None:
        self._embedder = embedder
        self._chunker = chunker
        self._slot = slot
        self._jitter = jitter
        self._stored = stored
        self._precision: Precision = precision
        self._meter = Meter(embedder, budget)

    @property
    def lease_rows(self) -> int:
        """As many rows as fill a good call, within bounds."""
        return lease_rows(self._embedder)

    @property
    def concurrency(self) -> int:
        """As many as the embedder takes."""
        return self._embedder.concurrency

    def index(self, rows: Sequence[SourceRow], cancelled: Callable[[], bool], tally: Tally | None = None) -> Indexed:
        """Chunk the rows and embed what is not known of them, a call's worth at a time."""
        failed: list[FailedRow] = []
        call = partial(self._call, cancelled, tally or Tally())
        work = [piece for row in rows if (piece := self._chunked(row, failed)) is not None]
        vectors = Vectors(self._embedder.identity.dimension, self._precision)
        if wanted := {chunk.digest for piece in work for chunk in piece.chunks}:
            keys = [piece.row.key for piece in work if piece.chunks]
            # Those of rows that are gone, too: a row whose key was changed is a row gone and a new one with the same passages.
            held = [piece.row.key for piece in work if piece.row.held]
            vectors.add_stored(self._stored.known(keys, held, wanted))
        done: list[_Work] = []
        try:
            for group in _groups(work, vectors, self._embedder.batch_items):
                self._embed(group, vectors, done, failed, call)
        except (CancelledError, BudgetSpentError, EmbedderUnavailableError, EmbedderConfigurationError):
            self._keep(vectors)
            raise
        return Indexed(_batch(done, vectors), tuple(failed))

    def _keep(self, vectors: Vectors) -> None:
        """Put what is paid for by: whoever is given this work next finds it there."""
        digests, paid = vectors.paid()
        if digests:
            self._stored.keep(digests, paid)

    def _chunked(self, row: SourceRow, failed: list[FailedRow]) -> _Work | None:
        """Return the row cut into passages; None, and a failure in `failed`, where the embedder cannot measure them."""
        if not row.live:
            return _Work(row, IndexedRow(row.key, row.seq, Outcome.GONE), (), ())
        text = render(row.texts)
        try:
            split = self._chunker.split(text, self._excess)
        except (EmbedderInputError, EmbedderTransientError) as error:
            failed.append(self._failed(row, error))
            return None
        outcome = Outcome.INDEXED if split.chunks else Outcome.BLANK
        indexed = IndexedRow(row.key, row.seq, outcome, len(split.chunks), split.truncated)
        return _Work(row, indexed, split.chunks, tuple(text[chunk.start : chunk.stop] for chunk in split.chunks))

    def _excess(self, texts: Sequence[str]) -> Sequence[bool]:
        name = self._embedder.identity.name
        with embedder_errors(name):
            flags = self._embedder.token_excess(texts)
        if len(flags) != len(texts):
            raise EmbedderTransientError(f"embedder {name!r} measured {len(flags)} texts of {len(texts)}")
        return flags

    def _embed(
        self,
        group: Sequence[_Work],
        vectors: Vectors,
        done: list[_Work],
        failed: list[FailedRow],
        call: Call,
    ) -> None:
        """Embed a group; halve it to find the rows to blame when the embedder refuses the texts.

        A call that fails in another way spends an attempt of each of its rows. Rows that failed before are halved as well, so
        that a text that breaks the server cannot take its neighbours with it: at most 1 + 2k⌈log₂n⌉ calls for k bad rows of n.
        """
        done.extend(work for work in group if not work.lacks(vectors))
        group = [work for work in group if work.lacks(vectors)]
        try:
            self._add(group, vectors, call)
            done.extend(group)
        except (EmbedderInputError, EmbedderTransientError) as error:
            blamed = isinstance(error, EmbedderInputError) or any(work.row.attempts for work in group)
            if blamed and len(group) > 1:
                middle = len(group) // 2
                self._embed(group[:middle], vectors, done, failed, call)
                self._embed(group[middle:], vectors, done, failed, call)
            else:
                failed.extend(self._failed(work.row, error) for work in group)

    def _add(self, group: Sequence[_Work], vectors: Vectors, call: Call) -> None:
        """Embed what the rows lack; equal passages once."""
        size = max(1, self._embedder.batch_items)
        lacking = {digest: passage for work in group for digest, passage in work.digests() if digest not in vectors}
        digests, passages = list(lacking), list(lacking.values())
        for start in range(0, len(digests), size):
            texts = passages[start : start + size]
            answer = stored_vectors(call(texts), len(texts), self._embedder.identity, self._precision)
            vectors.add(digests[start : start + size], answer)

    def _call(self, cancelled: Callable[[], bool], tally: Tally, texts: Sequence[str]) -> NDArray[np.float32]:
        with self._slot:
            if cancelled():  # looked at here, since the wait for the slot may have been long
                raise CancelledError
            with embedder_errors(self._embedder.identity.name):
                return self._meter.embed(texts, tally)

    def _failed(self, row: SourceRow, error: EmbedderError) -> FailedRow:
        attempts = row.attempts + 1
        refused = isinstance(error, EmbedderInputError)
        kind: FailureKind = "input" if refused else "transient"
        return FailedRow(row.key, row.seq, kind, str(error), attempts, None if refused else row_delay(attempts, self._jitter()))


def lease_rows(embedder: Embedder) -> int:
    """Return how many rows are embedded under one lease."""
    return max(64, min(embedder.batch_items, 1024))


@dataclass(frozen=True, slots=True)
class _Work:
    row: SourceRow
    indexed: IndexedRow
    chunks: tuple[Chunk, ...]
    passages: tuple[str, ...]

    def digests(self) -> Iterator[tuple[bytes, str]]:
        """Return each passage with its digest."""
        return zip((chunk.digest for chunk in self.chunks), self.passages, strict=True)

    def lacks(self, vectors: Vectors) -> bool:
        """Say whether the vector of a passage is lacking."""
        return any(chunk.digest not in vectors for chunk in self.chunks)


def _batch(done: Sequence[_Work], vectors: Vectors) -> VectorBatch:
    chunks = tuple(chunk for work in done for chunk in work.chunks)
    return VectorBatch(tuple(work.indexed for work in done), chunks, vectors.of(chunk.digest for chunk in chunks))


def _groups(works: Sequence[_Work], vectors: Vectors, size: int) -> list[list[_Work]]:
    """Split into runs of at most `size` passages that are to be embedded; a row of more than that is a run of its own."""
    groups: list[list[_Work]] = []
    room = 0
    met: set[bytes] = set()
    for work in works:
        new = {chunk.digest for chunk in work.chunks if chunk.digest not in vectors} - met
        met |= new
        if not groups or len(new) > max(room, 0):
            groups.append([])
            room = size
        groups[-1].append(work)
        room -= len(new)
    return groups


def _plain_row(row: SourceRow, text: str | None, chunks: int) -> IndexedRow:
    if text is None:
        return IndexedRow(row.key, row.seq, Outcome.GONE)
    if not text.strip():
        return IndexedRow(row.key, row.seq, Outcome.BLANK)
    return IndexedRow(row.key, row.seq, Outcome.INDEXED, chunks)


# --- the step -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """How a step ended: `settled` is None when the lease was lost or given back, `spent` says that the budget was why.

    `doubtful` says that the embedder gave nothing but errors, as a server does that is being started again.
    """

    settled: Settled | None = None
    outage: EmbedderError | None = None
    doubtful: bool = False
    spent: BudgetSpentError | None = None


class LeaseKeeper(Protocol):
    """Renews the leases it holds until they are dropped."""

    def hold(self, lease: Lease) -> None:
        """Begin to renew."""
        ...

    def drop(self, lease: Lease) -> None:
        """Stop renewing."""
        ...


def step(
    store: Store,
    source: Source,
    generation: Generation,
    indexer: Indexer,
    lease: Lease,
    keeper: LeaseKeeper,
    cancelled: Callable[[], bool],
    outages: int,
) -> Step:
    """See a lease through that has just been claimed.

    `outages` is how often in a row this generation's embedder was out, for the length of the back-off. Raises nothing that
    an embedder raises: an outage is in the answer, recorded, and the lease is given back.
    """
    keeper.hold(lease)
    try:
        reading = store.lease_read(source, lease, READ_CHARACTERS)
        lease = reading.lease
        indexed = _indexed(store, generation, indexer, lease, reading.rows, cancelled)
        if generation.model is not None and (gone := [row.key for row in reading.rows if row.held and not row.live]):
            store.vectors_pass_on(source, lease, gone, indexed.passages())
        settled = store.lease_settle(source, lease, indexed.batch, indexed.failed)
        return Step(settled, doubtful=not indexed.batch.rows and any(row.kind == "transient" for row in indexed.failed))
    except CancelledError:
        store.lease_release(lease)
        return Step()
    except BudgetSpentError as error:
        store.lease_release(lease)
        return Step(spent=error)
    except EmbedderUnavailableError as error:
        delay = outage_delay(outages + 1, error.retry_after_seconds)
        store.generation_backoff(generation.id, delay, str(error))
        store.lease_release(lease)  # not before: another thread would take it up, and embed with who may be another by now
        return Step(outage=error, doubtful=True)
    except EmbedderConfigurationError as error:
        store.generation_backoff(generation.id, CONFIGURATION_DELAY_SECONDS, str(error))
        store.lease_release(lease)
        return Step(outage=error, doubtful=True)
    finally:
        keeper.drop(lease)


def _indexed(
    store: Store,
    generation: Generation,
    indexer: Indexer,
    lease: Lease,
    rows: Sequence[SourceRow],
    cancelled: Callable[[], bool],
) -> Indexed:
    """Index the rows; what the calls cost is recorded however that ends, for it is spent."""
    tally = Tally()
    try:
        return indexer.index(rows, cancelled, tally)
    finally:
        if tally.spent.calls:
            store.spend_add(generation.id, lease.worker, tally.spent)
