"""The embedders of this process, and whether the model behind a name is still the one that was registered.

What a model makes of a few fixed sentences is kept when it is registered, and compared with what it makes of them now. They are
embedded as questions: that is the same model, and no text of a row's is embedded but for its row.
"""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from seamark.embed.validation import embedder_errors, stored_vectors
from seamark.errors import (
    EmbedderDimensionError,
    EmbedderError,
    EmbedderInputError,
    InvalidRequestError,
    ModelDriftError,
    StorePermissionError,
    StoreUnavailableError,
)
from seamark.model import precision

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from seamark.embed.contract import Embedder
    from seamark.errors import StoreError
    from seamark.model import Generation, ModelIdentity, RegisteredModel
    from seamark.store.contract import Store

PROBES = (
    "The ship's cook counted forty-one oranges before the storm.",
    "How do I rotate the signing keys of a production server?",
    "def median(values): return sorted(values)[len(values) // 2]",
    "Der Vertrag endet am 31. Dezember, sofern er nicht verlängert wird.",
    "港の灯台は霧の夜にだけ鳴る。",
    "no",
)
"""Prose, a question, code, two other languages, a word. What is stored was made of these: more may be added, none changed."""
COSINE_MIN = 0.999
"""How near a probe has to come to what was registered, the worst of them.

Measured with MiniLM (benchmarks/README.md): the same weights in other batches or threads, or rounded to float16, stay within
5·10⁻⁸, in bfloat16 within 1.4·10⁻⁴; of weights perturbed by 1 %, and of five steps of fine-tuning, the worst probe is off by
1.5·10⁻³ and more, and so it is with weights in int8: as far as another model is.
"""

_READING = (StorePermissionError, StoreUnavailableError)
"""Errors of the store that keep nobody from searching who may or can only read."""
PROBE_INTERVAL_SECONDS = 3600.0
"""How long a comparison holds in a process that runs on."""


class Embedders(Protocol):
    """The embedders of this process, opened when first needed and kept."""

    def given(self) -> Embedder | None:
        """Return the first object that was given to `open`."""
        ...

    def default(self) -> tuple[Embedder, str | None]:
        """Return the embedder new sources get, and its locator (None for an object given to `open`)."""
        ...

    def named(self, locator: str) -> Embedder:
        """Open an embedder by its locator."""
        ...

    def of(self, model: ModelIdentity, locator: str | None, *, anew: bool = False) -> Embedder:
        """Return the embedder of a generation; with `anew` one that knows by its server what it is may ask once more.

        EmbedderConfigurationError when it is not to be had here, ModelDriftError when its identity is not exactly that model's.
        """
        ...

    def provider(self, model: ModelIdentity, locator: str | None) -> Embedder:
        """Return who speaks with the provider of a generation, whatever model is behind its name by now: nobody is asked.

        EmbedderConfigurationError when it is not to be had here.
        """
        ...

    def slot(self, embedder: Embedder) -> AbstractContextManager[object]:
        """Return the semaphore that keeps calls under way within the embedder's concurrency."""
        ...


class _Compared(NamedTuple):
    """When a model was last compared, by this process's clock, and when it was last found to be what was registered.

    The latter by the database's clock; None: a server that refuses the sentences cannot be compared.
    """

    elapsed: float
    clean_at: int | None


class Registry:
    """Compares models with what was registered: when first used here, after an interval, after an outage, and after a drift.

    `now` is a clock in seconds that only goes forward. After an `interval` of 0 no comparison is repeated.
    """

    def __init__(
        self,
        store: Store,
        embedders: Embedders,
        now: Callable[[], float],
        interval: float = PROBE_INTERVAL_SECONDS,
    ) -> None:
        self.interval_seconds = interval
        self._store = store
        self._embedders = embedders
        self._now = now
        self._compared: dict[ModelIdentity, _Compared] = {}
        self._doubted: dict[ModelIdentity, float] = {}
        self._lock = threading.Lock()

    def register(self, embedder: Embedder) -> None:
        """Keep what the model makes of the probes, unless it is known; a model that cannot be asked now is left to a worker."""
        known = self._known(embedder.identity)
        if known is None or known.probe is not None:
            return
        try:
            self._store.model_probe(embedder.identity, self._embedded(embedder, PROBES))
        except EmbedderError:
            return

    def embedder(self, generation: Generation, *, recording: bool, anew: bool = False) -> Embedder:
        """Return a vector generation's embedder, after a comparison if one is due; ModelDriftError, and recorded, if drifted.

        Without `recording` nothing is written: for whoever only looks. `anew` one is always due.
        """
        assert generation.model is not None
        anew = anew or generation.drift is not None
        return self._opened(generation.model, generation.locator, recording=recording, anew=anew)

    def check(self, model: ModelIdentity, locator: str | None, *, recording: bool) -> None:
        """Raise ModelDriftError where a model that is registered is another one by now; compared if that is due, as above.

        One that cannot be asked is what it was when it was asked last, and one that is not registered yet cannot have drifted.
        """
        known = self._known(model)
        if known is None:
            return
        try:
            self._opened(model, locator, recording=recording, anew=known.drift is not None)
        except ModelDriftError:
            raise
        except EmbedderError as error:
            if known.drift is not None:
                raise ModelDriftError(f"{model.name}@{model.version}", known.drift) from error

    def _opened(self, model: ModelIdentity, locator: str | None, *, recording: bool, anew: bool) -> Embedder:
        due = anew or not self._done(model)
        with self._recorded(model, recording=recording):
            embedder = self._embedders.of(model, locator, anew=due)
            if due:
                self._compare(model, embedder, recording=recording)
        return embedder

    def query_vector(self, generation: Generation, query: str) -> tuple[NDArray[np.float32], float]:
        """Embed a query with a generation's own model; also return that model's weight in a fusion.

        When a comparison is due the sentences go along in the same call: ModelDriftError, and recorded, if drifted. It is where
        somebody has found a drift: the model may be back. A server that is asked again what it has is so by a worker only, for
        that is one more call, or after a drift: its vectors alone may say nothing of it.
        """
        assert generation.model is not None
        drifted = generation.drift is not None
        with self._recorded(generation.model, forgiven=_READING), self._doubted_if_out(generation.model):
            embedder = self._embedders.of(generation.model, generation.locator, anew=drifted)
            if not drifted and self._done(generation.model):
                answer = self._embedded(embedder, (query,))
            else:
                answer = self._compare(generation.model, embedder, (query,), forgiven=_READING)
        return answer[0].astype(precision(generation.identity)).astype(np.float32), embedder.fusion_weight

    def holds(self, generation: Generation) -> bool:
        """Say whether a model is what it was, and can be asked; recorded where not. Asks nobody unless that is due."""
        if generation.model is not None:
            try:
                self.embedder(generation, recording=True)
            except EmbedderError:
                return False
        return True

    def doubt(self, model: ModelIdentity) -> None:
        """Compare the model before it is used again: its server was out, and may have come back with another one."""
        with self._lock:
            self._doubted[model] = self._now()

    def comparable(self, model: ModelIdentity) -> bool:
        """Say whether it is registered what a model makes of the sentences."""
        known = self._known(model)
        return known is not None and known.probe is not None

    def drift(self, model: ModelIdentity, probes: Mapping[int, NDArray[np.float32]]) -> str | None:
        """Say in what some of the sentences, by their places, were made otherwise by who made these than is registered.

        None where they are the same, or where there is nothing to compare.
        """
        known = self._known(model)
        places = [
            place for place in sorted(probes) if known is not None and known.probe is not None and place < len(known.probe)
        ]
        if known is None or known.probe is None or not places:
            return None
        return _drift(known.probe[places], np.stack([probes[place] for place in places]), [PROBES[place] for place in places])

    def accept(self, generation: Generation) -> None:
        """Take the model as it is for what was registered: its vectors are mixed with those that are there."""
        if generation.model is None:
            raise InvalidRequestError(
                f"generation {generation.id} is an index of words, which calls no model: there is nothing to accept"
            )
        embedder = self._embedders.of(generation.model, generation.locator)
        self._store.model_probe(generation.model, self._embedded(embedder, PROBES), replace=True)
        self._store.model_drift(generation.model, None)

    def _done(self, model: ModelIdentity) -> bool:
        with self._lock:
            compared = self._compared.get(model)
            if compared is None or compared.elapsed <= self._doubted.get(model, -math.inf):
                return False
            return not self.interval_seconds or self._now() - compared.elapsed < self.interval_seconds

    @contextmanager
    def _recorded(
        self, model: ModelIdentity, *, recording: bool = True, forgiven: tuple[type[StoreError], ...] = ()
    ) -> Generator[None]:
        """Record a drift; one who is `forgiven` for not writing is told of it all the same."""
        try:
            yield
        except ModelDriftError as error:
            if recording:
                with suppress(*forgiven):
                    self._store.model_drift(model, error.drift)
            raise

    @contextmanager
    def _doubted_if_out(self, model: ModelIdentity) -> Generator[None]:
        try:
            yield
        except EmbedderError as error:
            if not isinstance(error, EmbedderInputError | ModelDriftError):
                self.doubt(model)
            raise

    def _compare(
        self,
        model: ModelIdentity,
        embedder: Embedder,
        queries: Sequence[str] = (),
        *,
        recording: bool = True,
        forgiven: tuple[type[StoreError], ...] = (),
    ) -> NDArray[np.float32]:
        """Compare a model; return the vectors of queries that were embedded in the same call."""
        begun = self._now()
        with self._lock:
            before = self._compared.get(model)
        clean_at = self._store.clock()
        try:
            found = self._embedded(embedder, (*PROBES, *queries))
        except EmbedderDimensionError as error:  # of a server that is asked for a length, nothing else tells that
            raise ModelDriftError(f"{model.name}@{model.version}", f"{error}{_since(before)}") from error
        except EmbedderInputError:
            # A server that takes no such text has never been asked; where it is the query that it refuses, that is said here.
            found = self._embedded(embedder, queries)
            clean_at = before.clean_at if before is not None else None
        else:
            known = self._judged(model, found[: len(PROBES)], before)
            if recording and known is not None:
                with suppress(*forgiven):
                    self._clean(known, found[: len(PROBES)])
            found = found[len(PROBES) :]
        with self._lock:
            self._compared[model] = _Compared(begun, clean_at)
        return found

    def _judged(self, model: ModelIdentity, found: NDArray[np.float32], before: _Compared | None) -> RegisteredModel | None:
        """Return what is registered, if it is what a model makes of the sentences now; ModelDriftError otherwise."""
        known = self._known(model)
        if known is not None and known.probe is not None and (drift := _drift(known.probe, found)) is not None:
            raise ModelDriftError(f"{model.name}@{model.version}", drift + _since(before))
        return known

    def _clean(self, known: RegisteredModel, found: NDArray[np.float32]) -> None:
        if known.probe is None:
            self._store.model_probe(known.identity, found)
        if known.drift is not None:
            self._store.model_drift(known.identity, None)

    def _embedded(self, embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, embedder.identity.dimension), np.float32)
        with self._embedders.slot(embedder), embedder_errors(embedder.identity.name):
            answer = embedder.embed_queries(texts)
        return stored_vectors(answer, len(texts), embedder.identity, "float32").astype(np.float32)

    def _known(self, model: ModelIdentity) -> RegisteredModel | None:
        return next((known for known in self._store.models() if known.identity == model), None)


def _since(compared: _Compared | None) -> str:
    """Say from when on vectors may be of either model, where this process has compared before."""
    if compared is None or compared.clean_at is None:
        return ""
    clean = datetime.fromtimestamp(compared.clean_at / 1e6, UTC).replace(microsecond=0).isoformat()
    return f" (the last comparison here that was clean began at {clean}: what was embedded after it may be of either)"


def _drift(known: NDArray[np.float32], found: NDArray[np.float32], sentences: Sequence[str] = PROBES) -> str | None:
    """Say which probe is farthest from what it was; None when all are near enough."""
    count = min(len(known), len(found))
    before, now = known[:count], found[:count]
    cosines = (before * now).sum(1) / (np.linalg.norm(before, axis=1) * np.linalg.norm(now, axis=1))
    worst = int(cosines.argmin())
    if cosines[worst] >= COSINE_MIN:
        return None
    return (
        f"what it makes of the sentence {sentences[worst]!r} has a cosine of {cosines[worst]:.4f} with what it made of it then"
    )
