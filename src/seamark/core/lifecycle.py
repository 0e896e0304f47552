"""What becomes of a table's generations: swapped, activated, rolled back, retired, dropped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from seamark.core import catalog
from seamark.core.analysis import Analyzer
from seamark.core.batch import batch_check, batch_open, batch_withdraw
from seamark.core.chunking import Chunker
from seamark.core.search import generation_named, generation_read
from seamark.errors import (
    GenerationIncompleteError,
    GenerationInUseError,
    InvalidRequestError,
    NoRollbackError,
)
from seamark.model import Activated, GenerationListing, GenerationSpec, SwapPlan, SwapStep, precision
from seamark.model.cost import NOTHING_SPENT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

    from seamark.core.registry import Embedders, Registry
    from seamark.model import Coverage, Generation, GenerationKind, ModelIdentity, Source, SourceSpec
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
            return read.spec
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
        return read.spec if read is not None and kept and not anew else meant

    def _model(self, read: Generation | None, embedders: Embedders) -> tuple[ModelIdentity, str | None]:
        if self.model is not None:
            return embedders.named(self.model).identity, self.model
        if (given := embedders.given()) is not None:
            return given.identity, None
        if read is not None and read.model is not None:
            return read.model, read.locator
        embedder, locator = embedders.default()
        return embedder.identity, locator


def swap_plan(store: Store, embedders: Embedders, registry: Registry, source: Source, words: Words) -> SwapPlan:
    """Say what a swap would begin; see `Tracked.swap_plan`."""
    meant = _meant(store, embedders, source, words)
    for model, locator in _models(meant):
        registry.check(model, locator, recording=False)
    read = generation_read(store.generations(source.id), "vector")
    asked = {found.id for found in (read, *(held for _, held in meant)) if found is not None}
    counts = store.coverage(source, sorted(asked))
    steps = tuple(
        SwapStep(spec.kind, spec.model, held.id if held else None, counts[held.id].embedded if held else 0)
        for spec, held in meant
    )
    return SwapPlan(max((count.live for count in counts.values()), default=0), steps)


def swap_batch_check(store: Store, embedders: Embedders, source: Source, words: Words) -> None:
    """Raise InvalidRequestError where nothing that a swap would begin can go through a batch; see `Tracked.batch_check`."""
    meant = _meant(store, embedders, source, words)
    models = _models(meant)
    for model, locator in models:
        batch_check(embedders.provider(model, locator))
    if meant and not models:
        raise InvalidRequestError("only an index of words would be begun, which calls no model: there is nothing to batch")


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


def _models(meant: Sequence[tuple[GenerationSpec, Generation | None]]) -> list[tuple[ModelIdentity, str | None]]:
    """Return the models of what a swap would begin, with their locators."""
    return [(spec.model, spec.locator) for spec, _ in meant if spec.model is not None]


def swap(
    store: Store, embedders: Embedders, registry: Registry, source: Source, words: Words, *, manual: bool
) -> tuple[Generation, ...]:
    """Begin, or go on with, the generations that are meant and that search does not read; see `Tracked.swap`."""
    if source.state != "ready":
        raise InvalidRequestError(f"{source.name!r} is still being attached; swap when that is done")
    meant = _meant(store, embedders, source, words)
    for model, locator in _models(meant):
        registry.check(model, locator, recording=True)  # nothing could be written
    made = tuple(store.generation_create(source, spec, manual=manual) for spec, _ in meant)
    for generation in made:
        if generation.model is not None:
            registry.register(embedders.of(generation.model, generation.locator))
    if not manual:
        about = words.about(given=embedders.given() is not None)
        about.update(generation.kind for generation in made)
        supersede(store, embedders, source, about, made)
    return made


def supersede(
    store: Store, embedders: Embedders, source: Source, about: AbstractSet[GenerationKind], made: Sequence[Generation]
) -> None:
    """Retire what has been begun earlier of the kinds that this is about: it would be activated after what is made now."""
    kept = {generation.id for generation in made}
    for known in store.generations(source.id):
        if known.state == "building" and not known.manual and known.kind in about and known.id not in kept:
            _retired(store, source, known, force=False)
            withdraw(store, embedders, source, known.id)


def activate(store: Store, source: Source, generation_id: int | None, *, force: bool) -> Activated:
    """Make a generation the active one, the only one that is being built where none is named; see `Tracked.activate`."""
    chosen = _building(store, source) if generation_id is None else _found(store, source, generation_id)
    counts = store.coverage(source, [chosen.id])[chosen.id]
    # One that is being built may hold all that search finds now, although something is written all the while: the store knows.
    sure = force or chosen.state == "active" or not (counts.missing or counts.failed)
    done = _activated(store, source, chosen, counts, sure=sure) if sure or chosen.state == "building" else None
    if done is None:
        raise GenerationIncompleteError(
            source.name, chosen.id, counts.missing, counts.failed, retired=chosen.state == "retired"
        )
    return done


def rollback(store: Store, source: Source, kind: GenerationKind) -> Activated:
    """Activate the generation that was searched before the active one; see `Tracked.rollback`.

    It came before the active one, too: a rollback that is done again, because it was not seen to end, must not go forward.
    """
    came = [found for found in store.generations(source.id) if found.kind == kind and found.activated_at is not None]
    present = min((found.activated_at or 0 for found in came if found.state == "active"), default=math.inf)
    before = [found for found in came if found.state == "retired" and (found.activated_at or 0) < present]
    if not before:
        raise NoRollbackError(source.name, kind)
    chosen = max(before, key=lambda found: (found.retired_at or 0, found.activated_at or 0))
    done = _activated(store, source, chosen, store.coverage(source, [chosen.id])[chosen.id], back=True)
    assert done is not None
    return done


def _activated(
    store: Store, source: Source, chosen: Generation, counts: Coverage, *, sure: bool = True, back: bool = False
) -> Activated | None:
    """Activate a generation with what has to be done about stamps; None where it is not `sure` to be activated, and was not."""
    automatic = {one.id for one in store.generations(source.id) if one.state == "building" and not one.manual}

    def activated() -> bool:
        done = store.generation_activate(chosen.id, asked=True, force=sure and not back, back=back)
        return done or _found(store, source, chosen.id).state == "active"

    if not _read_anew(store, source, chosen, activated, sure=sure):
        return None
    generations = store.generations(source.id)
    now = generation_named(source, generations, chosen.id)
    precedes = tuple(one.id for one in generations if one.id in automatic and one.state == "building" and one.manual)
    return Activated(now, counts.missing, counts.failed, precedes)


def _read_anew(store: Store, source: Source, read: Generation | None, change: Callable[[], bool], *, sure: bool = True) -> bool:
    """Have search read another generation, or none, and clear the stamps that are untrue by that; say whether it does.

    Before the change where that is `sure`, and again after it, of rows that workers have stamped for the one before meanwhile.
    """
    if sure:
        stamps_clear(store, source, read)
    if not change():
        return False
    stamps_clear(store, source, read)
    return True


def stamps_clear(store: Store, source: Source, read: Generation | None) -> None:
    """Empty the stamps of the rows that a generation does not hold, of all where search reads none; see `store.stamps`."""
    if read is None or read.kind == "vector":
        read_id = read.id if read is not None else None
        after = store.stamps_clear(source, read_id, None)
        while after is not None:
            after = store.stamps_clear(source, read_id, after)


def retire(store: Store, embedders: Embedders, source: Source, generation_id: int, *, force: bool) -> Generation:
    """Retire a generation; see `Tracked.retire`."""
    if not _retired(store, source, _found(store, source, generation_id), force=force):
        raise GenerationInUseError(source.name, generation_id)
    withdraw(store, embedders, source, generation_id)
    return _found(store, source, generation_id)


def drop(store: Store, embedders: Embedders, source: Source, generation_id: int) -> tuple[ProviderBatch, ...]:
    """Drop a generation that is not the active one; see `Tracked.drop`."""
    if not _retired(store, source, _found(store, source, generation_id), force=False):
        raise GenerationInUseError(source.name, generation_id)
    withdrawn = withdraw(store, embedders, source, generation_id)
    if not store.generation_drop(generation_id):
        raise GenerationInUseError(source.name, generation_id)  # somebody has taken it up again meanwhile
    return withdrawn


def _retired(store: Store, source: Source, chosen: Generation, *, force: bool) -> bool:
    """Retire a generation, unless it is retired; False where it is the active one, and `force` is not given."""
    if chosen.state == "active" and not force:
        return False

    def retired() -> bool:
        return chosen.state == "retired" or store.generation_retire(chosen.id, force=force)

    generations = store.generations(source.id)
    read = generation_read(generations, chosen.kind)
    if chosen.kind == "lexical" or (read is not None and read.id != chosen.id):
        return retired()
    left = generation_read([one for one in generations if one.id != chosen.id], chosen.kind)
    return _read_anew(store, source, left, retired)


def withdraw(
    store: Store, embedders: Embedders, source: Source, generation_id: int | None = None, *, planned: bool = False
) -> tuple[ProviderBatch, ...]:
    """Give up what is under way with a provider for a source, or one generation of it; return how each batch has ended.

    With `planned` only what has not been sent.
    """
    withdrawn: list[ProviderBatch | None] = []
    for one in store.generations(source.id):
        if one.model is None or generation_id not in (None, one.id):
            continue
        batch = batch_open(store.batches(one.id))
        if batch is not None and (batch.state == "planned" or not planned):
            withdrawn.append(batch_withdraw(store, one, partial(embedders.provider, one.model, one.locator)))
    return tuple(batch for batch in withdrawn if batch is not None)


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
            batch_open(store.batches(found.id)),
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
