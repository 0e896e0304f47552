"""What a worker that is to return waits for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from seamark.core.catalog import attached
from seamark.core.polling import poll
from seamark.errors import SourceDriftError, SourceUnfinishedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from seamark.core.service import Seamark
    from seamark.errors import EmbedderConfigurationError, SeamarkError
    from seamark.model import Generation, Source

ATTACH_STALLED_SECONDS = 10.0
"""An attach enters some thousand rows in each second, unless somebody holds them."""

_NONE: Mapping[int, EmbedderConfigurationError] = {}


class Indexed:
    """Whether everything is indexed that had been committed when this was first asked of its source."""

    def __init__(self, service: Seamark) -> None:
        self._service = service
        self._ends: dict[int, int] = {}
        self._attaching: dict[int, tuple[object, float]] = {}

    def whole(self, refused: Mapping[int, EmbedderConfigurationError] = _NONE) -> bool:
        """Say whether every generation is active, and has nothing missing, leased or to be tried again up to its journal's end.

        One that is activated only when somebody asks for it need not be active.

        That is where the journal ended when its source was first seen attached: what is written later is not waited for, or
        there would be no end while others write. A source that is no longer as it was attached is not waited for either, nor
        one whose attach was cut short, nor a generation whose model was `refused`: that is raised, once all else is whole.
        """
        never: SeamarkError | None = None
        sources = self._service.store.sources()
        problems = [self._service.source_problems(source) for source in sources]
        ends = [None if found else self._end(source) for source, found in zip(sources, problems, strict=True)]
        for source, end, found in zip(sources, ends, problems, strict=True):
            if found:
                never = SourceDriftError(source.name, found)
            elif end is None:
                if not self._stalled(source):
                    return False
                never = SourceUnfinishedError(source.name)
            elif not self._source_whole(source, end, refused.keys()):
                return False
            else:
                never = never or self._refusal(source, refused)
        if never is not None:
            raise never
        return True

    def _end(self, source: Source) -> int | None:
        """Return where the source's journal ended when it was first seen attached; None if it is not attached to the end."""
        store = self._service.store
        if source.id not in self._ends and attached(source, store.generations(source.id)):
            poll(store, source)
            self._ends[source.id] = store.journal_end(source)
        return self._ends.get(source.id)

    def _refusal(self, source: Source, refused: Mapping[int, EmbedderConfigurationError]) -> EmbedderConfigurationError | None:
        found = (one.id for one in self._service.store.generations(source.id) if one.state != "retired")
        return next((refused[number] for number in found if number in refused), None)

    def _source_whole(self, source: Source, end: int, refused: AbstractSet[int]) -> bool:
        store = self._service.store
        generations = [generation for generation in store.generations(source.id) if generation.state != "retired"]
        building = [generation for generation in generations if generation.state == "building"]
        active = {generation.kind for generation in generations if generation.state == "active"}
        waited = [generation for generation in building if generation.id not in refused]
        if any(not self._left(source, generation, replaces=generation.kind in active) for generation in waited):
            return False
        given_up = {generation.kind for generation in building if not generation.manual}
        return not any(
            store.pending(source, generation.id, end)
            for generation in generations
            if generation.id not in refused
            and not (_out(generation) and generation.state == "active" and generation.kind in given_up)
        )

    def _left(self, source: Source, generation: Generation, *, replaces: bool) -> bool:
        """Say whether it is left to somebody to activate a generation: as was asked for, or because rows failed in it.

        Failed rows keep none from becoming the first of its kind, which takes the place of nothing.
        """
        store = self._service.store
        return generation.manual or (replaces and store.coverage(source, [generation.id])[generation.id].failed > 0)

    def _stalled(self, source: Source) -> bool:
        """Say whether the attach has not moved for so long that nobody can be at it."""
        now = time.monotonic()
        place = (source.state, source.enrolled)
        known, since = self._attaching.get(source.id, (None, now))
        if place != known:
            self._attaching[source.id] = (place, now)
            return False
        return now - since >= ATTACH_STALLED_SECONDS


def _out(generation: Generation) -> bool:
    """Say whether a generation's model is not to be had, so that what is pending in it cannot be waited for."""
    return generation.backoff_error is not None or generation.drift is not None
