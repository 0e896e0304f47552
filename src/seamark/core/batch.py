"""A backfill through a provider's batch interface: one step at a time, each of which can be repeated.

A batch only fills in vectors beforehand (`vectors_put`): rows are claimed and settled by the ordinary workers, who find them
there. While a batch is under way the generation's backfill lane is held; the hold lapses by itself a little after the time that
the provider has, so that a backfill is never stopped for good. Before a batch is sent it is written down under
its tag, and the provider is asked whether it has that already.

A batch may be as much as the whole index, and is answered much later. So the model is compared with what is registered right
before a batch is sent, and before it is put by, however short a time ago that was done. The batch of a model that has changed
stays as it is, to be gone on with when the old model is back or the new one is accepted, or to be given up. The registry's
sentences go along in each, from its first line to its last, and tell which model has answered it, whatever was there meanwhile:
another's answers are not used, nor those of a batch that has answered none of the sentences.

So a passage is sent twice only where that cannot be known: by one who sleeps between the last look at whether the batch is
still theirs and the arrival of the request, for longer than it is theirs (`TAKE_SECONDS`); or where a provider makes a batch of
a request that has been given up, and does not list it yet when it is asked. No provider refuses a second batch of the same tag.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from seamark.core.chunking import render
from seamark.core.registry import PROBES
from seamark.embed.batches import Batched
from seamark.embed.tokens import tokens_count
from seamark.embed.validation import embedder_errors, stored_vectors
from seamark.errors import (
    BudgetSpentError,
    EmbedderConfigurationError,
    EmbedderError,
    EmbedderInputError,
    EmbedderTransientError,
    InvalidRequestError,
    ModelDriftError,
    StoreError,
)
from seamark.model import precision
from seamark.model.cost import BATCH_ENDED, NOTHING_SPENT, Spent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from seamark.core.budget import Budget
    from seamark.core.chunking import Chunker
    from seamark.core.registry import Registry
    from seamark.embed.batches import BatchAnswer, BatchLook
    from seamark.embed.contract import Embedder
    from seamark.model import Generation, Source, StoredVectors
    from seamark.model.cost import ProviderBatch
    from seamark.store.contract import Store

TOKEN_PRICE_SHARE = 0.5
"""What a token costs, of what one costs in an ordinary call, at every provider that has batches."""
HOLD_SECONDS = 26 * 3600.0
"""A provider has 24 hours; then the ordinary workers go on, and pay what is left."""
TAKE_SECONDS = 600.0
"""Whoever was at a step and says nothing for so long is not at it any more."""
PASSAGES_MAX = 20_000
"""OpenAI takes 50,000 in a batch, and a file of 200 MB."""
CHARACTERS_MAX = 60_000_000
GIVEN_UP = "given up"
"""What the error of a batch begins with that nothing was wrong with, but that nobody wants any more."""
READ_ROWS = 500
READ_CHARACTERS = 4_000_000
ANSWERS_AT_ONCE = 256
_digest_named = re.compile("[0-9a-f]{32}").fullmatch
_PROBE_PLACES = {f"probe-{place}": place for place in range(len(PROBES))}


def batch_begin(store: Store, generation: Generation, embedder: Embedder) -> ProviderBatch | None:
    """Plan a batch for what is left of a generation's backfill; None where nothing is left.

    Raises:
        InvalidRequestError: the model's provider has no batch interface.
    """
    batch_check(embedder)
    return store.batch_begin(generation.id, 0, HOLD_SECONDS)


def batch_check(embedder: Embedder) -> None:
    """Raise InvalidRequestError where the model's provider has no batch interface."""
    if not isinstance(embedder, Batched):
        raise InvalidRequestError(
            f"{embedder.identity.name} has no batch interface; servers that speak OpenAI's have one: openai:<model>"
        )


def batch_advance(
    store: Store,
    source: Source,
    generation: Generation,
    embedder: Embedder,
    registry: Registry,
    chunker: Chunker,
    owner: str,
    budget: Budget | None = None,
) -> ProviderBatch | None:
    """Take one step of the open batch; return how it stands, None where there is none, or somebody else is at it.

    Between steps nobody is at it, and whoever comes next may take the next one. After an outage, or where this machine is short
    of something, it stays with its owner for a while: what was asked for may have arrived, and is not seen there yet. What can
    not work, and an error of ours, which would be there again, fail it.

    Raises:
        BudgetSpentError: it would cost more than is left; it is not sent.
        ModelDriftError: the model is another one than was registered; it is neither sent nor put by.
        EmbedderConfigurationError: the provider has it, or may have it, and cannot be asked as things are (a key that is
            refused): it waits until that is mended, and its `error` says so.
    """
    batch = store.batch_take(generation.id, owner, TAKE_SECONDS) if isinstance(embedder, Batched) else None
    if batch is None or not isinstance(embedder, Batched):
        return None
    step = _Step(batch, store, source, generation, embedder, embedder, registry, chunker, owner, budget)
    try:
        after = step.take()
    except (BudgetSpentError, EmbedderConfigurationError):
        store.batch_take(
            generation.id, owner, 0.0
        )  # whoever has more to spend, the old model, or another key may go on with it
        raise
    except EmbedderError:
        return batch
    store.batch_take(generation.id, owner, 0.0)
    return after


def batch_open(batches: Sequence[ProviderBatch]) -> ProviderBatch | None:
    """Return the one of a generation's batches that its backfill waits for."""
    return next((batch for batch in batches if batch.state not in BATCH_ENDED), None)


def batch_failed(batches: Sequence[ProviderBatch]) -> ProviderBatch | None:
    """Return the latest of a generation's batches, if it has failed; one that somebody has given up has not."""
    latest = max(batches, key=lambda batch: batch.id, default=None)
    failed = latest is not None and latest.state == "failed" and not (latest.error or "").startswith(GIVEN_UP)
    return latest if failed else None


def batch_withdraw(store: Store, generation: Generation, opened: Callable[[], Embedder]) -> ProviderBatch | None:
    """Give up the open batch of a generation, with its provider, too; return how it has ended, None where there is none.

    Its `error` says what has become of it at the provider: what cannot be cancelled from here goes on there, and is billed.
    """
    owner = f"withdraw:{generation.id}"
    batch = store.batch_take(generation.id, owner, TAKE_SECONDS, force=True)  # first: nobody else goes on with it meanwhile
    if batch is None:
        return None
    name = generation.model.name if generation.model is not None else ""
    ended = replace(_cancelled(batch, name, opened), state="failed")
    store.batch_end(ended, owner, 0.0, NOTHING_SPENT)
    return ended


def _cancelled(batch: ProviderBatch, name: str, opened: Callable[[], Embedder]) -> ProviderBatch:
    there = batch.provider_id
    try:
        embedder = opened()
        with embedder_errors(name):
            assert isinstance(embedder, Batched), "what began a batch has batches"
            there = there or embedder.batch_find(batch.tag)
            if there is None:
                sent = "" if batch.state == "planned" else ", unless it was just being sent"
                return replace(batch, error=f"{GIVEN_UP} before it was sent{sent}")
            if embedder.batch_look(there).ended:
                return replace(batch, provider_id=there, error=f"{GIVEN_UP}; {there} had ended at the provider already")
            embedder.batch_cancel(there)
            return replace(batch, provider_id=there, error=f"{GIVEN_UP}, and {there} is cancelled at the provider")
    except EmbedderError as error:
        if batch.state == "planned":
            return replace(batch, error=f"{GIVEN_UP} before it was sent")
        name = there or f"the one with seamark={batch.tag} in its metadata, if it has arrived,"
        said = f"{GIVEN_UP} here; {name} goes on at the provider, which could not be asked to cancel it: {error}"
        return replace(batch, provider_id=there, error=said)


class _Step:
    def __init__(
        self,
        batch: ProviderBatch,
        store: Store,
        source: Source,
        generation: Generation,
        embedder: Embedder,
        provider: Batched,
        registry: Registry,
        chunker: Chunker,
        owner: str,
        budget: Budget | None,
    ) -> None:
        assert generation.model is not None
        self._store, self._source, self._generation, self._model = store, source, generation, generation.model
        self._embedder, self._provider, self._chunker, self._owner = embedder, provider, chunker, owner
        self._registry, self._budget = registry, budget
        self._batch = batch
        """As it is written down."""
        self._there = batch.state in ("sending", "submitted")
        """Whether the provider has it, as far as is known."""
        self._answered = self._tokens = 0
        self._complaint = ""

    def take(self) -> ProviderBatch:
        """Take the step that is next; what cannot work fails the batch."""
        batch = self._batch
        try:
            return self.collect(batch) if batch.state == "submitted" else self.send(batch)
        except (BudgetSpentError, ModelDriftError, StoreError):
            raise
        except EmbedderConfigurationError as error:
            if self._there:
                self._told(str(error))
                raise
            return self._failed(str(error))
        except EmbedderInputError as error:
            return self._failed(str(error))
        except EmbedderError:
            raise
        except (OSError, MemoryError) as error:  # a full disk, no more descriptors: that passes
            raise EmbedderTransientError(f"{self._model.name} raised {type(error).__name__}: {error}") from error
        except Exception as error:  # noqa: BLE001 kept with the batch: its passages go back to ordinary work, and others go on
            return self._failed(f"{self._model.name} raised {type(error).__name__}: {error}")

    def _failed(self, error: str) -> ProviderBatch:
        """End the batch, with what it has answered so far, which is put by, and with what becomes of it at the provider."""
        batch, there = self._batch, ""
        if batch.state == "sending":
            there = f"; it may be at the provider, with seamark={batch.tag} in its metadata"
        elif batch.state == "submitted":
            there = f"; {_cancelled(batch, self._model.name, lambda: self._embedder).error}"
        return self.ended(replace(batch, state="failed", answered=self._answered, error=error + there), self._spent())

    def _spent(self) -> Spent:
        return Spent(1, self._answered, self._tokens) if self._answered or self._tokens else NOTHING_SPENT

    def _told(self, error: str | None) -> None:
        """Write down what the batch waits for; the lane is held no longer for that."""
        if self._batch.error != error and not self._store.batch_write(replace(self._batch, error=error), self._owner, None):
            raise self._lost(self._batch)
        self._batch = replace(self._batch, error=error)

    def send(self, batch: ProviderBatch) -> ProviderBatch:
        """Send the next passages, unless the provider has them already."""
        # Also of one that is only planned: a crash of the database's server may have taken back that it was being sent.
        if (there := self._provider.batch_find(batch.tag)) is not None:
            return self._written(replace(batch, state="submitted", provider_id=there, error=None))
        self._there = False
        self._registry.embedder(self._generation, recording=True, anew=True)
        passages, upto = self._passages(batch.after)
        if not passages:
            return self.ended(replace(batch, state="done", upto=upto))
        expected = self._reserved(list(passages.values()))
        billed = 0
        try:
            sending = self._written(replace(batch, state="sending", upto=upto, requests=len(passages), error=None))
            named = [(digest.hex(), text) for digest, text in passages.items()]
            file = self._provider.batch_upload(batch.tag, named, list(zip(_PROBE_PLACES, PROBES, strict=True)))
            if self._store.batch_take(self._generation.id, self._owner, TAKE_SECONDS) is None:  # an upload may take long
                raise self._lost(batch)
            billed = expected  # whatever is heard of it, it may have arrived
            there = self._provider.batch_start(batch.tag, file)
        finally:
            if self._budget is not None:
                self._budget.settle(expected, billed)
        return self._written(replace(sending, state="submitted", provider_id=there))

    def _reserved(self, texts: Sequence[str]) -> int:
        """Set aside what a batch will be billed; BudgetSpentError when there is not so much left."""
        if self._budget is None:
            return 0
        expected = math.ceil(TOKEN_PRICE_SHARE * tokens_count(self._embedder, texts))
        self._budget.reserve(expected)
        return expected

    def _passages(self, after: int) -> tuple[dict[bytes, str], int]:
        """Return the next passages, by digest, that there is no vector of, and up to which row."""
        store, found, size, seq = self._store, dict[bytes, str](), 0, after
        end = self._generation.backfill
        while len(found) < PASSAGES_MAX and size < CHARACTERS_MAX:
            rows = [row for row in store.rows_scan(self._source, seq, READ_ROWS, READ_CHARACTERS) if row.seq <= end]
            if not rows:
                return found, max(seq, end)
            lacking: dict[bytes, str] = {}
            live = [row for row in rows if row.live]
            for row in live:
                text = render(row.texts)
                chunks = self._chunker.split(text, self._embedder.token_excess).chunks
                lacking |= {chunk.digest: text[chunk.start : chunk.stop] for chunk in chunks if chunk.digest not in found}
            if lacking:
                known = store.vectors_known(self._generation.id, [row.key for row in live], (), lacking)
                lacking = {digest: text for digest, text in lacking.items() if digest not in known}
            found |= lacking
            size += sum(map(len, lacking.values()))
            seq = rows[-1].seq
        return found, seq

    def collect(self, batch: ProviderBatch) -> ProviderBatch:
        """Look whether the provider is done, and put by what it has answered."""
        assert batch.provider_id is not None
        look = self._provider.batch_look(batch.provider_id)
        if not look.ended:
            self._told(None)
            return self._batch
        self._registry.embedder(self._generation, recording=True, anew=True)
        strange = self._strange(look)
        results = self._results(look)
        while answers := list(islice(results, ANSWERS_AT_ONCE)):
            self._tokens += sum(answer.tokens for answer in answers if answer.name not in _PROBE_PLACES)
            self._answered += self._put(answers) if strange is None else 0
            if self._store.batch_take(self._generation.id, self._owner, TAKE_SECONDS) is None:
                return batch  # somebody else is at it, and does all of this again
        error = look.error if strange is None else f"batch {batch.provider_id} {strange}"
        if error is None and batch.requests and not self._answered:
            error = f"batch {batch.provider_id} has answered none of {batch.requests:,} requests{self._complaint}"
        ended = replace(batch, state="done" if error is None else "failed", answered=self._answered, error=error)
        return self.ended(ended, Spent(1, self._answered, self._tokens))

    def _results(self, look: BatchLook) -> Iterator[BatchAnswer]:
        return iter(()) if look.results is None else _once(self._provider.batch_results(look.results))

    def _strange(self, look: BatchLook) -> str | None:
        """Say why the answers cannot be used: the model that has made them is not the one that is registered, or may not be.

        A batch that has ended before its time has some answers, of whichever lines; the sentences are all over it.
        """
        probes: dict[int, NDArray[np.float32]] = {}
        answered = False
        for answer in self._results(look):
            if answer.vector is None or len(answer.vector) != self._model.dimension or not np.linalg.norm(answer.vector) > 0:
                continue
            if answer.name in _PROBE_PLACES:
                probes[_PROBE_PLACES[answer.name]] = answer.vector
            else:
                answered = True
            if len(probes) == len(PROBES):
                break
        if answered and not probes and self._registry.comparable(self._model):
            return "has answered none of the sentences that tell which model it was"
        drift = self._registry.drift(self._model, probes)
        return None if drift is None else f"was answered by another model: {drift}"

    def _put(self, answers: Sequence[BatchAnswer]) -> int:
        """Put the vectors by, checked as those of a call are; return how many."""
        found: dict[bytes, StoredVectors] = {}
        for answer in answers:
            if answer.vector is not None and _digest_named(answer.name):
                try:
                    vector = stored_vectors([answer.vector], 1, self._model, precision(self._generation.identity))
                except EmbedderError as error:  # as good as unanswered: the workers ask for it again
                    self._complaint = f": {error}"
                else:
                    found[bytes.fromhex(answer.name)] = vector
        if found:
            self._store.vectors_put(self._generation.id, list(found), np.concatenate(list(found.values())))
        return len(found)

    def ended(self, batch: ProviderBatch, spent: Spent = NOTHING_SPENT) -> ProviderBatch:
        """Write down how a batch has ended; plan the next, or let go of the backfill lane where it failed or was the last."""
        if not self._store.batch_end(batch, self._owner, HOLD_SECONDS if batch.state == "done" else 0.0, spent):
            raise self._lost(batch)
        return batch

    def _written(self, batch: ProviderBatch) -> ProviderBatch:
        if not self._store.batch_write(batch, self._owner, HOLD_SECONDS):
            raise self._lost(batch)
        self._batch = batch
        return batch

    @staticmethod
    def _lost(batch: ProviderBatch) -> EmbedderTransientError:
        return EmbedderTransientError(f"batch {batch.tag} has been taken over by another worker")


def _once(answers: Iterator[BatchAnswer]) -> Iterator[BatchAnswer]:
    """Give the first answer of each name: what is there twice is billed once."""
    seen: set[str] = set()
    for answer in answers:
        if answer.name not in seen:
            seen.add(answer.name)
            yield answer
