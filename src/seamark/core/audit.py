"""Audit: compare a table, its journal and what the indexes hold of it, row by row and by content, in bounded memory.

Four walks: the table in key order, against journal, rows, chunks and postings; and beside it the journal in the order of `seq`,
against the table, and what each generation holds in key order, for what belongs to no row. Each look is one snapshot, and a
row is compared with an index only where the index claims to hold the very version that the journal has. So what is written
meanwhile is no finding: the index does not claim it yet.

What does not fit the sums of an index of words is looked at again in newer ones, and reported if it is the same document still.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing, nullcontext
from functools import partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from seamark.core import catalog
from seamark.core.ahead import when_asked
from seamark.core.chunking import render_columns
from seamark.core.comparison import ChunksComparison, WordsComparison
from seamark.core.polling import poll
from seamark.errors import EmbedderConfigurationError, StoreError, StorePermissionError, StoreUnavailableError
from seamark.model import Progress
from seamark.model.findings import Finding, Findings, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextlib import AbstractContextManager

    from seamark.core.ahead import Ahead
    from seamark.core.comparison import Comparison
    from seamark.model import Generation, Key, Source
    from seamark.model.findings import AuditEntries, AuditHeld, AuditPage, AuditStrays
    from seamark.store.contract import Store

Found = TypeVar("Found")
Place = TypeVar("Place")

AUDIT_INTERVAL_SECONDS = 86_400.0
"""Workers audit a source once a day, unless they are told otherwise."""
PAGE_ROWS = 4_000
"""Rows of the table read at once, with their text: some twenty milliseconds."""
PAGE_CHARACTERS = 4_000_000
ENTRIES = 10_000
"""Entries of the journal, rows or chunks that are looked at in one statement, which returns only what is wrong."""
JOURNAL_BEGIN = -(2**63)
"""Below every `seq`, also one that the journal has never given out: those are above 0."""
SUSPECTS = 10_000
"""Documents that do not fit their sums are looked at again together."""
PAGES_AGAIN = 3
"""A row is looked for again on the page that it was on, and the next ones, where rows have come in before it."""
FINDINGS_KEPT = 1_000
"""Findings that are returned; all of them are counted, and given to whoever asks for each."""


def verify(
    store: Store,
    source: Source,
    *,
    repair: bool = False,
    progress: Callable[[Progress], None] | None = None,
    found: Callable[[Finding], None] | None = None,
    throttle: Callable[[], AbstractContextManager[None]] = nullcontext,
    ahead: Ahead = when_asked,
) -> Findings:
    """Compare everything of a source, and with `repair` give rows that are wrong a new version, to be indexed again.

    Args:
        store: where it is.
        source: what was attached.
        repair: also make good what feeds it, and drop what belongs to no row.
        progress: called with the rows compared so far.
        found: called with every finding.
        throttle: entered around each piece of work.
        ahead: how to begin to read the next page while this one is compared; it is read in its turn otherwise.
    """
    every = store.generations(source.id)
    generations = [one for one in every if one.state != "retired"]
    audit = _Audit(store, source, generations, repair, progress, found, throttle, ahead)
    drift = catalog.source_drift(source, store.table_inspect)
    if not drift and not catalog.attached(source, generations):
        drift = ("it was not attached to the end: attach it again with the same words",)
    if drift:
        return audit.findings(drift, unmended=drift)
    faults = tuple(store.source_faults(source))
    mended = tuple(store.source_mend(source)) if repair and faults else ()
    if mended:  # tables of retired ones, too: what they have lost they must not claim to hold when they are searched again
        audit = _Audit(store, source, every, repair, progress, found, throttle, ahead)
    try:
        poll(store, source)
        audit.walk()
    except (StoreUnavailableError, StorePermissionError):
        raise
    except StoreError:
        if repair or not faults:
            raise
        return audit.findings(faults)  # with tables of ours gone there is nothing to compare with
    if repair:
        store.source_trust(source)
    unmended = tuple(store.source_faults(source)) if repair and faults else ()
    return audit.findings(faults, mended, unmended, whole=True)


class _Audit:
    """One walk through a source."""

    def __init__(
        self,
        store: Store,
        source: Source,
        generations: Sequence[Generation],
        repair: bool,  # noqa: FBT001 handed on
        progress: Callable[[Progress], None] | None,
        found: Callable[[Finding], None] | None,
        throttle: Callable[[], AbstractContextManager[None]],
        ahead: Ahead,
    ) -> None:
        self._ahead = ahead
        self._store, self._source, self._generations = store, source, generations
        self._repair, self._progress, self._told, self._throttle = repair, progress, found, throttle
        self._counts: Counter[tuple[Reason, int | None]] = Counter()
        self._kept: list[Finding] = []
        self._unmended: list[Finding] = []
        self._incomparable: list[str] = []
        self._rows = self._repaired = 0

    def findings(
        self,
        problems: Sequence[str],
        mended: Sequence[str] = (),
        unmended: Sequence[str] = (),
        *,
        whole: bool = False,
    ) -> Findings:
        """Return what was found so far."""
        return Findings(
            self._source.name,
            self._rows,
            dict(self._counts),
            tuple(self._kept),
            (*problems, *self._incomparable),
            tuple(mended),
            (*unmended, *self._incomparable),
            self._repaired,
            tuple(one.id for one in self._generations) if whole else (),
        )

    def walk(self) -> None:
        """Walk through everything: the table, where most of it is for this process to do, and beside it the rest."""
        with closing(self._tables()) as tables, closing(self._others()) as others:
            # A row that is mended in the table is no finding in the rest any more.
            for _ in chain(tables, others) if self._repair else zip_longest(others, tables):
                pass

    def _tables(self) -> Generator[None]:
        """Walk through the table, as often as there are ranges of documents."""
        comparisons = [comparison for one in self._generations if (comparison := self._comparison(one)) is not None]
        first = True
        while any([comparison.turn() for comparison in comparisons]) or first:  # noqa: C419 each of them turns
            yield from self._table(comparisons, first=first)
            first = False

    def _others(self) -> Generator[None]:
        """Walk through the journal, and through what each generation holds."""
        yield from self._journal()
        for generation in self._generations:
            yield from self._strays(generation, self._store.audit_rows, self._unlisted)
            if generation.model is not None:
                yield from self._strays(generation, self._store.audit_chunks)

    def _comparison(self, generation: Generation) -> Comparison | None:
        try:
            if generation.model is not None:
                return ChunksComparison(generation)
            return WordsComparison(generation, self._store)
        except EmbedderConfigurationError as error:
            self._incomparable.append(f"index {generation.id} cannot be compared: {error}")
            return None

    # --- the walks --------------------------------------------------------------------------------------------

    def _walk(
        self,
        look: Callable[[Place | None], Found],
        last: Callable[[Found], Place | None],
        do: Callable[[Found, Place | None], None],
    ) -> Generator[None]:
        """Look at one piece after the other, at the next one while something is done with this one."""
        after: Place | None = None
        answer: Callable[[], Found] | None = self._ahead(partial(look, after))
        try:
            while answer is not None:
                with self._throttle():
                    found, answer = answer(), None
                    upto = last(found)
                    if upto is not None:
                        answer = self._ahead(partial(look, upto))
                    do(found, after)
                after = upto
                yield
        finally:
            if answer is not None:
                answer()  # nothing is left under way

    def _table(self, comparisons: Sequence[Comparison], *, first: bool) -> Generator[None]:
        active = [comparison for comparison in comparisons if comparison.active]
        walked = self._generations if first else [comparison.generation for comparison in active]
        look = partial(self._read, [generation.id for generation in walked])
        yield from self._walk(look, lambda page: page.last, partial(self._page, active, first))
        self._look_again(active)
        self._mend()

    def _read(self, numbers: Sequence[int], after: Key | None) -> AuditPage:
        return self._store.audit_page(self._source, numbers, after, PAGE_ROWS, PAGE_CHARACTERS)

    def _page(
        self,
        active: Sequence[Comparison],
        first: bool,  # noqa: FBT001 bound where the walk begins
        page: AuditPage,
        after: Key | None,
    ) -> None:
        wrong: list[Finding] = []
        if first:
            self._rows += len(page.keys)
            wrong += [Finding(key, Reason.UNENTERED, None) for key in self._unentered(page, after)]
            for number, held in page.held.items():
                wrong += self._missing(number, _unclaimed(page, held))
        texts = render_columns(page.texts)
        for comparison in active:
            held = page.held.get(comparison.generation.id)
            if held is not None:
                for place, reason in comparison.compare(page, texts, held, after):
                    wrong.append(Finding(page.keys[place], reason, comparison.generation.id))
        self._report(wrong)
        # A row is looked at to the end before it is mended, so that the same is found with repair and without.
        many = len(self._unmended) >= SUSPECTS
        self._look_again(active, 1 if many else SUSPECTS)
        if many:
            self._mend()
        if self._progress is not None:
            self._progress(Progress(f"verify {self._source.name}", self._rows, None, 0.0))

    def _unentered(self, page: AuditPage, after: Key | None) -> Sequence[Key]:
        """Return the live rows that the journal does not have, but for those that a poller is still to come by."""
        keys = _unentered(page)
        if not keys or self._source.spec.track != "poll":
            return keys
        passed = set(self._store.keys_polled(self._source, keys))
        # It may have entered them since the page was read.
        return [key for key in _unentered(self._read([], after)) if key in passed] if passed else []

    def _look_again(self, active: Sequence[Comparison], enough: int = 1) -> None:
        """Compare the rows that an index of words did not fit with all of its postings read anew, once they are so many."""
        for comparison in active:
            if isinstance(comparison, WordsComparison) and len(comparison.suspects) >= enough:
                self._suspects(comparison)

    def _suspects(self, comparison: WordsComparison) -> None:
        suspects = comparison.suspects
        comparison.refresh()
        for after in dict.fromkeys(suspect.after for suspect in suspects.values()):
            wanted = {key for key, suspect in suspects.items() if suspect.after == after}
            place = after
            for _ in range(PAGES_AGAIN):
                page = self._page_again(comparison, place)
                wanted.difference_update(page.keys)
                if page.last is None or not wanted:
                    break
                place = page.last
        suspects.clear()

    def _page_again(self, comparison: WordsComparison, after: Key | None) -> AuditPage:
        number = comparison.generation.id
        with self._throttle():
            page = self._read([number], after)
            if number in page.held:
                wrong = comparison.confirm(page, render_columns(page.texts), page.held[number])
                self._report([Finding(page.keys[place], reason, number) for place, reason in wrong])
        return page

    def _journal(self) -> Generator[None]:
        def report(entries: AuditEntries, _after: int | None) -> None:
            self._report([Finding(key, Reason.GONE, None) for key in entries.gone])
            for generation in self._generations:
                self._report(self._missing(generation.id, entries.tombstones))
            self._mend()

        look = partial(self._store.audit_journal, self._source)
        return self._walk(
            lambda after: look(JOURNAL_BEGIN if after is None else after, ENTRIES), lambda entries: entries.upto, report
        )

    def _missing(self, number: int, keys: Sequence[Key]) -> list[Finding]:
        """Return those of the keys that a generation does not hold as they are, and that no lane will come by."""
        missing = self._store.audit_missing(self._source, number, keys) if keys else ()
        return [Finding(key, Reason.MISSING, number) for key in missing]

    def _strays(
        self,
        generation: Generation,
        look: Callable[[Source, int, Key | None, int], AuditStrays],
        astray: Callable[[Sequence[Key]], Sequence[Key]] = list,
    ) -> Generator[None]:
        def report(strays: AuditStrays, after: Key | None) -> None:
            if strays.keys:  # two files, or a row that comes and goes: what is a stray is one at the next look, too
                again = set(look(self._source, generation.id, after, ENTRIES).keys)
                keys = astray([key for key in strays.keys if key in again])
                self._report([Finding(key, Reason.ORPHAN, generation.id) for key in keys])
                self._mend()

        return self._walk(lambda after: look(self._source, generation.id, after, ENTRIES), lambda strays: strays.last, report)

    def _unlisted(self, keys: Sequence[Key]) -> Sequence[Key]:
        """Return those that are no live row: of one that is, the table's walk says that the journal does not have it."""
        with self._store.snapshot() as reader:
            live = set(reader.keys_live(self._source, keys, None))
        return [key for key in keys if key not in live]

    # --- what becomes of a finding ----------------------------------------------------------------------------

    def _report(self, wrong: Sequence[Finding]) -> None:
        if not wrong:
            return
        for finding in wrong:
            self._counts[finding.reason, finding.generation] += 1
            if len(self._kept) < FINDINGS_KEPT:
                self._kept.append(finding)
            if self._told is not None:
                self._told(finding)
        if self._repair:
            self._unmended += wrong

    def _mend(self) -> None:
        """Mend what has been found: drop what is nobody's, and what must not serve again; then have the rows indexed anew."""
        wrong, self._unmended = self._unmended, []
        for reason, drop in ((Reason.ORPHAN, self._store.strays_drop), (Reason.DAMAGED, self._store.chunks_drop)):
            for generation in self._generations:
                keys = [one.key for one in wrong if one.reason is reason and one.generation == generation.id]
                if keys:
                    drop(self._source, generation.id, keys)
        keys = list(dict.fromkeys(one.key for one in wrong if one.reason is not Reason.ORPHAN))
        if keys:
            self._repaired += self._store.journal_renew(self._source, keys)
        for generation in self._generations:
            keys = [one.key for one in wrong if one.reason is Reason.MISSING and one.generation == generation.id]
            if keys:
                self._store.rows_outdate(self._source, generation.id, keys)


def _unentered(page: AuditPage) -> list[Key]:
    """Return the keys of live rows that the journal does not have as such."""
    return [page.keys[place] for place in np.flatnonzero(page.live & page.deleted).tolist()]


def _unclaimed(page: AuditPage, held: AuditHeld) -> list[Key]:
    """Return the keys of live rows of which a generation does not hold the version that the journal has."""
    unclaimed = page.live & ~page.deleted & (page.seqs != held.seqs)
    return [page.keys[place] for place in np.flatnonzero(unclaimed).tolist()]
