"""What becomes of a table's generations: swapped, activated, rolled back, retired, dropped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from seamark.core import catalog
from seamark.core.analysis import Analyzer
from seamark.core.batch import batch_open, batch_withdraw
from seamark.core.chunking import Chunker
from seamark.core.search import generation_named, generation_read
from seamark.errors import (
    GenerationIncompleteError,
    GenerationInUseError,
    InvalidRequestError,
    NoRollbackError,
)
from seamark.model import GenerationListing, GenerationSpec, SwapPlan, SwapStep, precision
from seamark.model.cost import NOTHING_SPENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.core.registry import Embedders, Registry
    from seamark.model import Generation, GenerationKind, ModelIdentity, Source, SourceSpec
    from seamark.model.cost import ProviderBatch
    from seamark.store.contract import Store

MICROSECONDS_PER_DAY = 86_400 * 1_000_000


@dataclass(frozen=True, slots=True)
class Words:
    """What was said of a table's indexes; None means that nothing was said, so that it stays as it is."""

    model: str | None = None
    chunk: int | None = None
    language: str | None = None
    precision: str | None = None

    def about(self, *, given: bool) -> set[GenerationKind]:
        """Return which kinds something was said of, an embedder that was `given` to `open` included."""
        vector = given or not (self.model is None and self.chunk is None and self.precision is None)
        lexical = self.language is not None
        said: tuple[tuple[GenerationKind, bool], ...] = (("vector", vector), ("lexical", lexical))
        return {kind for kind, about in said if about}

    def specs(
        self, spec: SourceSpec, generations: Sequence[Generation], embedders: Embedders, *, anew: bool = False
    ) -> tuple[GenerationSpec, GenerationSpec]:
        """Return the two generations that are meant, the lexical one first, over those that search reads now.

        What was said of them before, and is said again, means what is there, also where this Seamark would make it otherwise;
        `anew` it means what this Seamark would make.
        """
        lexical = self._lexical(spec, generation_read(generations, "lexical"), anew=anew)
        return lexical, self._vector(spec, generations, embedders, anew=anew)

    def _lexical(self, spec: SourceSpec, read: Generation | None, *, anew: bool) -> GenerationSpec:
        there = Analyzer.like(read.identity if read else {}).language
        if read is not None and not anew and self.language in (None, there):
            return _kept(read)
        return catalog.lexical_spec(spec, Analyzer(self.language or there).identity())

    def _vector(
        self, spec: SourceSpec, generations: Sequence[Generation], embedders: Embedders, *, anew: bool
    ) -> GenerationSpec:
        read = generation_read(generations, "vector")
        if self.chunk is None:
            chunker = Chunker.like(read.identity if read else {})
        else:
            chunker = Chunker(self.chunk) if anew else catalog.chunker(generations, self.chunk)
        model, locator = self._model(read, embedders)
        if self.precision is not None:
            stored = catalog.precision_check(self.precision)
        else:
            stored = precision(read.identity) if read is not None else catalog.PRECISION
        meant = catalog.vector_spec(spec, model, locator, chunker.identity(), stored)
        kept = read is not None and model == read.model and self.chunk is None and stored == precision(read.identity)
        return _kept(read) if read is not None and kept and not anew else meant

    def _model(self, read: Generation | None, embedders: Embedders) -> tuple[ModelIdentity, str | None]:
        if self.model is not None:
            return embedders.named(self.model).identity, self.model
        if (given := embedders.given()) is not None:
            return given.identity, None
        if read is not None and read.model is not None:
            return read.model, read.locator
        embedder, locator = embedders.default()
        return embedder.identity, locator


def _kept(generation: Generation) -> GenerationSpec:
    return GenerationSpec(generation.kind, generation.fingerprint, generation.identity, generation.model, generation.locator)


def swap_plan(store: Store, embedders: Embedders, source: Source, words: Words) -> SwapPlan:
    """Say what a swap would begin; see `Tracked.swap_plan`."""
    meant = _meant(store, embedders, source, words)
    read = generation_read(store.generations(source.id), "vector")
    asked = {found.id for found in (read, *(held for _, held in meant)) if found is not None}
    counts = store.coverage(source, sorted(asked))
    steps = tuple(
        SwapStep(spec.kind, spec.model, held.id if held else None, counts[held.id].embedded if held else 0)
        for spec, held in meant
    )
    return SwapPlan(max((count.live for count in counts.values()), default=0), steps)


def _meant(
    store: Store, embedders: Embedders, source: Source, words: Words
) -> tuple[tuple[GenerationSpec, Generation | None], ...]:
    """Return what a swap would begin, each with the generation that would be taken up again for it, if there is one."""
    generations = store.generations(source.id)
    kinds: tuple[GenerationKind, ...] = ("lexical", "vector")
    read = {found.fingerprint for kind in kinds if (found := generation_read(generations, kind)) is not None}
    held = {found.fingerprint: found for found in sorted(generations, key=lambda found: (found.state != "retired", found.id))}
    specs = words.specs(source.spec, generations, embedders, anew=True)
    return tuple((spec, held.get(spec.fingerprint)) for spec in specs if spec.fingerprint not in read)


def swap(
    store: Store, embedders: Embedders, registry: Registry, source: Source, words: Words, *, manual: bool
) -> tuple[Generation, ...]:
    """Begin, or go on with, the generations that are meant and that search does not read; see `Tracked.swap`."""
    if source.state != "ready":
        raise InvalidRequestError(f"{source.name!r} is still being attached; swap when that is done")
    meant = _meant(store, embedders, source, words)
    made = tuple(store.generation_create(source, spec, manual=manual) for spec, _ in meant)
    for generation in made:
        if generation.model is not None:
            registry.register(embedders.of(generation.model, generation.locator))
    if not manual:
        _superseded(store, embedders, source, words, made)
    return made


def _superseded(store: Store, embedders: Embedders, source: Source, words: Words, made: Sequence[Generation]) -> None:
    """Retire what an earlier swap has begun of the kinds that this one is about: it would be activated after this one."""
    about = {generation.kind for generation in made} | words.about(given=embedders.given() is not None)
    kept = {generation.id for generation in made}
    for known in store.generations(source.id):
        if known.state == "building" and not known.manual and known.kind in about and known.id not in kept:
            store.generation_retire(known.id)
            withdraw(store, embedders, source, known.id)


def activate(store: Store, source: Source, generation_id: int | None, *, force: bool) -> Generation:
    """Make a generation the active one, the only one that is being built where none is named; see `Tracked.activate`."""
    chosen = _building(store, source) if generation_id is None else _found(store, source, generation_id)
    if chosen.state == "active" or store.generation_activate(chosen.id, asked=True, force=force):
        return _found(store, source, chosen.id)
    counts = store.coverage(source, [chosen.id])[chosen.id]
    if counts.missing or counts.failed:
        raise GenerationIncompleteError(source.name, chosen.id, counts.missing, counts.failed)
    # By an exact count nothing is missing, only that no worker has come by since to move the cursors.
    store.generation_activate(chosen.id, force=True)
    return _found(store, source, chosen.id)


def rollback(store: Store, source: Source, kind: GenerationKind) -> Generation:
    """Activate the generation that came before the active one; see `Tracked.rollback`.

    Not simply the one that was retired last: a rollback that is done again, because it was not seen to end, would go forward.
    """
    came = sorted(
        (found.activated_at, found.id, found.state)
        for found in store.generations(source.id)
        if found.kind == kind and found.state != "building" and found.activated_at is not None
    )
    present = next((at for at, one in enumerate(came) if one[-1] == "active"), len(came))
    if present == 0:
        raise NoRollbackError(source.name, kind)
    return activate(store, source, came[present - 1][1], force=False)


def retire(store: Store, embedders: Embedders, source: Source, generation_id: int, *, force: bool) -> Generation:
    """Retire a generation; see `Tracked.retire`."""
    _retired(store, source, generation_id, force=force)
    withdraw(store, embedders, source, generation_id)
    return _found(store, source, generation_id)


def drop(store: Store, embedders: Embedders, source: Source, generation_id: int) -> tuple[ProviderBatch, ...]:
    """Drop a generation that is not the active one; see `Tracked.drop`."""
    _retired(store, source, generation_id, force=False)
    withdrawn = withdraw(store, embedders, source, generation_id)
    if not store.generation_drop(generation_id):
        raise GenerationInUseError(source.name, generation_id)  # somebody has taken it up again meanwhile
    return withdrawn


def _retired(store: Store, source: Source, generation_id: int, *, force: bool) -> None:
    chosen = _found(store, source, generation_id)
    if chosen.state != "retired" and not store.generation_retire(chosen.id, force=force):
        raise GenerationInUseError(source.name, chosen.id)


def withdraw(store: Store, embedders: Embedders, source: Source, generation_id: int | None = None) -> tuple[ProviderBatch, ...]:
    """Give up what is under way with a provider for a source, or one generation of it; return how each batch has ended."""
    found = [
        batch_withdraw(store, generation, partial(embedders.of, generation.model, generation.locator))
        for generation in store.generations(source.id)
        if generation.model is not None and generation_id in (None, generation.id)
    ]
    return tuple(batch for batch in found if batch is not None)


def listing(store: Store, source: Source) -> tuple[GenerationListing, ...]:
    """Return every generation of the source with what it holds and takes."""
    generations = store.generations(source.id)
    sizes = store.generations_bytes(source.id)
    counts = store.coverage(source, [found.id for found in generations])
    spends = store.spends(source.id)
    now = store.clock()
    return tuple(
        GenerationListing(
            found,
            counts[found.id],
            sizes.get(found.id, 0),
            max(0.0, (now - found.created_at) / 1e6),
            batch_open(store, found.id),
            spends.get(found.id, NOTHING_SPENT),
        )
        for found in generations
    )


def expire(store: Store, days: float) -> tuple[int, ...]:
    """Drop generations that were retired so long ago; return their ids."""
    before = store.clock() - days * MICROSECONDS_PER_DAY
    expired = [
        found.id
        for found in store.generations()
        if found.state == "retired" and found.retired_at is not None and found.retired_at < before
    ]
    return tuple(number for number in expired if store.generation_drop(number))


def _found(store: Store, source: Source, generation_id: int) -> Generation:
    return generation_named(source, store.generations(source.id), generation_id)


def _building(store: Store, source: Source) -> Generation:
    building = [found for found in store.generations(source.id) if found.state == "building"]
    if len(building) != 1:
        told = ", ".join(str(found.id) for found in building) or "none"
        raise InvalidRequestError(f"name the generation of {source.name!r} to activate; being built: {told}")
    return building[0]
