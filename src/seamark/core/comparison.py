"""Comparing pages of a table with what one generation holds of it, for the audit.

Chunks are compared with what the chunker makes of the present text. A vector is only looked at whether it is one: that it was
replaced by another sound one is not noticed, since it is not known what it was.

Of an index of words all postings are summed up by document, since nobody could look up each word of each row, and the sums are
compared with those of the present text's words. They do not tell apart texts of the same words in another order, which are
indexed alike, and say nothing of rows of more than 65,535 words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from seamark.core.analysis import CAP, Analyzer
from seamark.core.chunking import DIGEST_BYTES, Chunker, passage_digest
from seamark.core.wordsums import WordSums
from seamark.errors import EmbedderConfigurationError
from seamark.model.findings import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from seamark.model import Generation, Key
    from seamark.model.findings import AuditHeld, AuditPage, AuditPassages, AuditPostings, Passage
    from seamark.store.contract import Store

DOCUMENTS = 4_000_000
"""Documents whose postings are summed up at once, in 64 MB; of an index of more the table is walked several times."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A document that does not fit its sums, and the page that its row is on."""

    document: int
    after: Key | None


class Comparison(Protocol):
    """Compares pages of a table with one generation."""

    generation: Generation
    active: bool

    def turn(self) -> bool:
        """Prepare for the next walk through the table; False, and not `active` in it, when there is nothing left to compare."""
        ...

    def compare(
        self, page: AuditPage, texts: Sequence[str], held: AuditHeld, after: Key | None
    ) -> Iterator[tuple[int, Reason]]:
        """Return the places of rows that are wrong. `texts` are rendered; `after` is where the page began."""
        ...


def _claimed(page: AuditPage, held: AuditHeld) -> NDArray[np.bool_]:
    """Say of which live rows the index claims to hold the version that the journal has."""
    return page.live & ~page.deleted & (page.seqs == held.seqs)


class ChunksComparison:
    """Compares chunks with what the chunker makes of the present text; a page is one snapshot, so that nothing is in doubt."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.active = True
        self._chunker = Chunker.of(generation.identity)
        self._turned = False

    def turn(self) -> bool:
        """Compare everything in the first walk."""
        self.active = not self._turned
        self._turned = True
        return self.active

    def compare(
        self,
        page: AuditPage,
        texts: Sequence[str],
        held: AuditHeld,
        after: Key | None,  # noqa: ARG002 there are no suspects
    ) -> Iterator[tuple[int, Reason]]:
        """Return the places of rows whose chunks are not those of their text."""
        passages = held.passages
        assert passages is not None
        fine = self._whole(texts, held, passages) & ~passages.damaged
        for place in np.flatnonzero(_claimed(page, held) & ~fine).tolist():
            if passages.damaged[place]:
                yield place, Reason.DAMAGED
                continue
            chunks, truncated = int(held.chunks[place]), bool(held.truncated[place])
            reason = self._reason(texts[place], chunks, passages.of(place), truncated=truncated)
            if reason is not None:
                yield place, reason

    def _whole(self, texts: Sequence[str], held: AuditHeld, passages: AuditPassages) -> NDArray[np.bool_]:
        """Say which rows have one chunk that is their whole present text: the chunker need not be asked about them."""
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        whole = (held.chunks == 1) & ~held.truncated & (passages.starts == 0) & (passages.stops == lengths)
        places = np.flatnonzero(whole & (lengths <= self._chunker.characters))
        digests = [passage_digest(texts[place]) for place in places.tolist()]
        same = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), DIGEST_BYTES) == passages.digests[places]
        whole[:] = False
        whole[places] = same.all(axis=1)
        return whole

    def _reason(self, text: str, chunks: int, stored: Sequence[Passage], *, truncated: bool) -> Reason | None:
        if chunks < 0:
            return Reason.OUTDATED
        if len(stored) != chunks:
            return Reason.INCOMPLETE
        split = self._chunker.split(text)
        wanted = [(chunk.start, chunk.stop, chunk.digest) for chunk in split.chunks]
        if bool(truncated) != split.truncated:
            return Reason.OUTDATED
        if list(stored) == wanted or _refines(text, stored, wanted):
            return None
        return Reason.OUTDATED


def _refines(text: str, stored: Sequence[Passage], wanted: Sequence[Passage]) -> bool:
    """Say whether the chunks are those that are wanted, cut further, as is done where a model takes less than a passage.

    They cover each of them but for white space, in order, and their digests are those of the text.
    """
    if not wanted or len(stored) < len(wanted):
        return False
    at = 0
    for start, stop, _ in wanted:
        place = start
        while at < len(stored) and stored[at][1] <= stop:
            begin, end, digest = stored[at]
            if begin < place or text[place:begin].strip() or digest != passage_digest(text[begin:end]):
                return False
            place = end
            at += 1
        if text[place:stop].strip():
            return False
    return at == len(stored)


@dataclass
class WordsComparison:
    """Compares the sums of a document's postings with the words of the present text."""

    generation: Generation
    store: Store
    active: bool = False
    suspects: dict[Key, Suspect] = field(default_factory=dict["Key", Suspect])

    def __post_init__(self) -> None:
        analyzer = Analyzer.like(self.generation.identity)
        if self.generation.identity.get("analyzer") != analyzer.identity():
            raise EmbedderConfigurationError(f"it was made with analyzer {self.generation.identity.get('analyzer')}")
        self._words = WordSums(analyzer)
        self._first = 1 - DOCUMENTS
        self._highest = 0
        self._sums: AuditPostings | None = None

    def turn(self) -> bool:
        """Take the next range of documents."""
        self._first += DOCUMENTS
        self.active = self._first == 1 or self._first <= self._highest
        if self.active:
            self.refresh()
        return self.active

    def refresh(self) -> None:
        """Sum up the postings as they are now."""
        self._sums = None  # before the next ones are made
        self._highest = self.store.audit_documents(self.generation.id)
        documents = max(0, min(DOCUMENTS, self._highest + 1 - self._first))
        self._sums = self.store.audit_postings(self.generation.id, self._first, documents)

    def compare(
        self, page: AuditPage, texts: Sequence[str], held: AuditHeld, after: Key | None
    ) -> Iterator[tuple[int, Reason]]:
        """Return the places of rows that are wrong for sure, and keep in `suspects` those that do not fit their sums."""
        for place, reason in self._wrong(page, texts, held):
            if held.chunks[place] <= 0 or not texts[place]:
                yield place, reason
            else:
                self.suspects[page.keys[place]] = Suspect(_document(held, place), after)

    def confirm(self, page: AuditPage, texts: Sequence[str], held: AuditHeld) -> list[tuple[int, Reason]]:
        """Return the places of those suspects that do not fit newer sums either, and are the same document still."""
        return [
            (place, reason)
            for place, reason in self._wrong(page, texts, held)
            if (suspect := self.suspects.get(page.keys[place])) is not None and suspect.document == _document(held, place)
        ]

    def _wrong(self, page: AuditPage, texts: Sequence[str], held: AuditHeld) -> Iterator[tuple[int, Reason]]:
        assert held.documents is not None
        claimed = _claimed(page, held)
        written = np.fromiter(map(bool, texts), np.bool_, len(texts))
        indexed = claimed & (held.chunks == 1) & (held.documents >= 0) & written
        if self._first == 1:
            for place in np.flatnonzero(claimed & ~indexed & ((held.chunks != 0) | written)).tolist():
                yield place, Reason.OUTDATED
        yield from self._unsummed(np.flatnonzero(indexed), held.documents, texts)

    def _unsummed(
        self, places: NDArray[np.int64], documents: NDArray[np.int64], texts: Sequence[str]
    ) -> Iterator[tuple[int, Reason]]:
        """Compare what the documents of this walk sum up to with the words of their rows' texts."""
        sums = self._sums
        assert sums is not None
        numbers = documents[places] - sums.first
        chosen = (numbers >= 0) & (numbers < len(sums.weights))
        places, numbers = places[chosen], numbers[chosen]
        rows: list[int] = places.tolist()
        totals, lengths = self._words.sums([texts[place] for place in rows])
        told = sums.lengths[numbers]
        fits = (totals == sums.weights[numbers]) & (told == lengths)
        for at in np.flatnonzero(~fits & (lengths <= CAP)).tolist():
            whole = told[at] > 0 and told[at] == sums.counts[numbers[at]]
            yield rows[at], Reason.OUTDATED if whole else Reason.INCOMPLETE


def _document(held: AuditHeld, place: int) -> int:
    assert held.documents is not None
    return int(held.documents[place])
