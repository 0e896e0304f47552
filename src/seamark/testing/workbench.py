"""A worker reduced to its loop, and the recounts that its work is judged by.

It knows nothing of core: rows are rendered, cut and tokenised in the plainest way, so that a test can say what must come out.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from seamark.errors import SeamarkError
from seamark.model import (
    POSTING,
    Chunk,
    Coverage,
    FailedRow,
    GenerationSpec,
    IndexedRow,
    LexicalBatch,
    ModelIdentity,
    Outcome,
    SourceSpec,
    TextColumn,
    VectorBatch,
    precision,
)
from seamark.testing.oracle import oracle_proves, oracle_vector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from seamark.model import (
        Claim,
        Filter,
        Generation,
        GenerationKind,
        Key,
        Lease,
        Precision,
        Settled,
        Source,
        SourceRow,
        StampName,
        Touch,
    )
    from seamark.store.contract import Store
    from seamark.testing.backend import Application, Backend

T = TypeVar("T")

DIMENSION = 16
LEASE_SECONDS = 3600.0
"""No lease of a test expires but by the test's own doing."""
CHARACTERS = 1_000_000
LONG = 200
"""Texts of more characters than this are said to be truncated; they are not cut."""
STEPS = 10_000
"""More steps than any test's work takes: a loop that gets here does not end."""


# --- what becomes of a row ----------------------------------------------------------------------------------------


def render(texts: Sequence[str | None]) -> str:
    """Return the one text of a row."""
    return "\n".join(text for text in texts if text is not None)


def passages(text: str) -> list[Chunk]:
    """Cut the text at each bar; a blank one has no passages."""
    if not text.strip():
        return []
    return [
        Chunk(match.start(), match.end(), hashlib.sha256(match.group().encode()).digest()[:16])
        for match in re.finditer(r"[^|]+", text)
    ]


def words(text: str) -> list[str]:
    """Return the terms of a text."""
    return re.findall(r"\w+", text.lower())


def _indexed(row: SourceRow, chunks: int) -> IndexedRow:
    if not row.live:
        return IndexedRow(row.key, row.seq, Outcome.GONE)
    if chunks == 0:
        return IndexedRow(row.key, row.seq, Outcome.BLANK)
    return IndexedRow(row.key, row.seq, Outcome.INDEXED, chunks, truncated=len(render(row.texts)) > LONG)


def vector_batch(rows: Iterable[SourceRow], model: str, stored: Precision = "float16") -> VectorBatch:
    """Index rows by the oracle's vectors of their passages."""
    indexed: list[IndexedRow] = []
    chunks: list[Chunk] = []
    texts: list[str] = []
    for row in rows:
        text = render(row.texts)
        found = passages(text)
        indexed.append(_indexed(row, len(found)))
        chunks += found
        texts += [text[chunk.start : chunk.stop] for chunk in found]
    vectors = np.array([oracle_vector(text, model, DIMENSION) for text in texts], np.float32).reshape(-1, DIMENSION)
    return VectorBatch(tuple(indexed), tuple(chunks), vectors.astype(stored))


def lexical_batch(rows: Iterable[SourceRow]) -> LexicalBatch:
    """Index rows by their words; the empty term is in every row that has any."""
    indexed: list[IndexedRow] = []
    lengths: list[int] = []
    postings: dict[str, list[tuple[int, int, int]]] = {}
    for position, row in enumerate(rows):
        terms = words(render(row.texts))
        indexed.append(_indexed(row, 1 if terms else 0))
        lengths.append(len(terms))
        counts = Counter(terms) + Counter({"": 1} if terms else {})
        for term, frequency in counts.items():
            postings.setdefault(term, []).append((position, frequency, len(terms)))
    terms = tuple(sorted(postings))
    flat = [posting for term in terms for posting in postings[term]]
    offsets = np.cumsum([0, *(len(postings[term]) for term in terms)], dtype=np.int64)
    return LexicalBatch(tuple(indexed), tuple(lengths), terms, offsets, np.array(flat, POSTING))


# --- the bench ----------------------------------------------------------------------------------------------------


def at_once(calls: Sequence[Callable[[], T]]) -> list[T | SeamarkError]:
    """Call all of them at the same moment, each in a thread of its own; return what each returned or raised, in their order."""
    ready = threading.Barrier(len(calls))

    def called(call: Callable[[], T]) -> T | SeamarkError:
        ready.wait()
        try:
            return call()
        except SeamarkError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(called, calls))


@dataclass
class Workbench:
    """A store under test, the application beside it, and a hand for every tool."""

    backend: Backend
    store: Store = field(init=False)
    app: Application = field(init=False)

    def __post_init__(self) -> None:
        self.store = self.backend.store()
        self.app = self.backend.application()

    # --- sources and generations

    def notes(self, *bodies: str | None) -> Source:
        """Make and attach the table `notes(id, body, org)` with these bodies, ids from 1."""
        self.notes_table(*bodies)
        return self.attach("notes", ("body",))

    def notes_table(self, *bodies: str | None) -> None:
        """Make the table `notes(id, body, org)` with these bodies, ids from 1."""
        integer, text = self.backend.type("integer"), self.backend.type("text")
        self.app.run(f"CREATE TABLE notes (id {integer} PRIMARY KEY, body {text}, org {integer})")
        rows = [(number, body, number % 3) for number, body in enumerate(bodies, 1)]
        self.app.many("INSERT INTO notes (id, body, org) VALUES (?, ?, ?)", rows)

    def attach(
        self,
        table: str,
        text: Sequence[str | TextColumn],
        where: Filter | None = None,
        touch: tuple[Touch, ...] = (),
        batch: int = 1000,
        stamp: tuple[StampName, ...] = (),
    ) -> Source:
        """Attach a table under its own name and enrol what it holds."""
        columns = tuple(TextColumn(column) if isinstance(column, str) else column for column in text)
        spec = SourceSpec(table, columns, where, touch, stamp)
        source = self.store.source_create(table, spec, self.store.table_inspect(table))
        for _ in range(STEPS):
            if self.store.source_enroll(self.source(source.id), batch).done:
                return self.source(source.id)
        raise AssertionError("the enrolment does not end")

    def source(self, source_id: int) -> Source:
        """Return the source as it stands now."""
        return next(source for source in self.store.sources() if source.id == source_id)

    def vector(self, source: Source, model: str = "oracle-a", stored: Precision = "float16") -> Generation:
        """Begin a vector generation."""
        identity = {"model": model, "dimension": DIMENSION, "precision": stored}
        known = ModelIdentity(model, "1", DIMENSION)
        fingerprint = f"vector-{model}-{stored}"
        return self.store.generation_create(source, GenerationSpec("vector", fingerprint, identity, known, f"test:{model}"))

    def lexical(self, source: Source, analyzer: str = "words") -> Generation:
        """Begin a lexical generation."""
        return self.store.generation_create(source, GenerationSpec("lexical", f"lexical-{analyzer}", {"analyzer": analyzer}))

    def generation(self, source: Source, kind: GenerationKind) -> Generation:
        """Begin a generation of that kind."""
        return self.vector(source) if kind == "vector" else self.lexical(source)

    def now(self, generation: Generation) -> Generation:
        """Return the generation as it stands now."""
        return next(one for one in self.store.generations(generation.source_id) if one.id == generation.id)

    # --- work

    def claim(self, generation: Generation, worker: str = "w1", limit: int = 100) -> Claim:
        """Claim until there is a lease, or none to be had without waiting."""
        for _ in range(STEPS):
            found = self.store.lease_claim(generation.id, worker, limit, LEASE_SECONDS)
            if not found.again:
                return found
        raise AssertionError("the claim asks to be called again for ever")

    def lease(self, generation: Generation, worker: str = "w1", limit: int = 100) -> Lease:
        """Claim a lease that must be there."""
        lease = self.claim(generation, worker, limit).lease
        assert lease is not None, "there should be work to claim"
        return lease

    def read(self, source: Source, lease: Lease) -> tuple[SourceRow, ...]:
        """Read all rows of a lease."""
        return self.store.lease_read(source, lease, CHARACTERS).rows

    def expire(self, lease: Lease) -> None:
        """Let a lease expire now."""
        assert list(self.store.lease_renew([lease], -1)) == [lease.id]

    def batch(self, generation: Generation, rows: Iterable[SourceRow]) -> VectorBatch | LexicalBatch:
        """Index rows for the generation."""
        if generation.kind == "lexical":
            return lexical_batch(rows)
        assert generation.model is not None
        return vector_batch(rows, generation.model.name, precision(generation.identity))

    def settle(
        self,
        source: Source,
        generation: Generation,
        lease: Lease,
        rows: Iterable[SourceRow],
        failed: Sequence[FailedRow] = (),
    ) -> Settled | None:
        """Settle a lease with these rows indexed, but for those that failed."""
        lost = {row.key for row in failed}
        batch = self.batch(generation, [row for row in rows if row.key not in lost])
        return self.store.lease_settle(source, lease, batch, failed)

    def step(self, source: Source, generation: Generation, worker: str = "w1", limit: int = 100) -> bool:
        """Claim, read and settle once; return whether there was anything to do."""
        lease = self.claim(generation, worker, limit).lease
        if lease is None:
            return False
        reading = self.store.lease_read(source, lease, CHARACTERS)
        assert self.settle(source, generation, reading.lease, reading.rows) is not None
        return True

    def drain(self, source: Source, *generations: Generation, limit: int = 100) -> int:
        """Work until there is nothing to claim in any of the generations; return how many leases that took."""
        taken = 0
        for generation in generations:
            while self.step(source, generation, limit=limit):
                taken += 1
                assert taken < STEPS, "the work does not end"
        return taken

    def maintain(self, generation: Generation, *, idle: bool = True) -> int:
        """Do all the upkeep that is due; return how many pieces that took."""
        for pieces in range(STEPS):
            if not self.store.generation_maintain(generation.id, idle=idle):
                return pieces
        raise AssertionError("the upkeep does not end")

    def fail(self, row: SourceRow, retry_seconds: float | None = None, error: str = "refused") -> FailedRow:
        """Return the failure of a row that was read, its attempts counted on."""
        return FailedRow(row.key, row.seq, "input", error, row.attempts + 1, retry_seconds)

    # --- judgement

    def live(self, source: Source) -> dict[Key, str]:
        """Return key → rendered text of every row of the user's table, the `where` not considered."""
        keys = self.all_keys(source)
        with self.store.snapshot() as reader:
            return {row.key: render(row.texts) for row in reader.rows_live(source, keys)}

    def all_keys(self, source: Source) -> list[Key]:
        """Return the keys in the user's table, asked as the user would."""
        columns = ", ".join(f'"{column.replace(chr(34), chr(34) * 2)}"' for column in source.table.key)
        table = '"' + source.table.name.replace('"', '""') + '"'
        return sorted(tuple(row) for row in self.app.run(f"SELECT {columns} FROM {table}"))

    def verify(self, source: Source, generation: Generation, live: Mapping[Key, str] | None = None) -> None:
        """Check that the generation holds exactly what the live rows' texts come to (I1, I2). `live` is what should be live."""
        expected = self.live(source) if live is None else live
        if generation.kind == "vector":
            self.verify_vector(source, generation, expected)
        else:
            self.verify_lexical(source, generation, expected)

    def verify_vector(self, source: Source, generation: Generation, live: Mapping[Key, str]) -> None:
        """Compare the stored chunks with the passages of the texts, and prove each vector."""
        assert generation.model is not None
        stored = self.backend.chunks(source, generation)
        wanted = {(key, number): (chunk, text) for key, text in live.items() for number, chunk in enumerate(passages(text))}
        assert {(chunk.key, chunk.ordinal) for chunk in stored} == wanted.keys()
        for chunk in stored:
            passage, text = wanted[chunk.key, chunk.ordinal]
            assert (chunk.start, chunk.stop, bytes(chunk.digest)) == (passage.start, passage.stop, passage.digest)
            assert oracle_proves(chunk.vector, text[chunk.start : chunk.stop], generation.model.name), chunk.key

    def verify_lexical(self, source: Source, generation: Generation, live: Mapping[Key, str]) -> None:
        """Compare the current postings with the words of the texts."""
        wanted: dict[str, dict[Key, tuple[int, int]]] = {}
        for key, text in live.items():
            terms = words(text)
            for term, frequency in (Counter(terms) + Counter({"": 1} if terms else {})).items():
                wanted.setdefault(term, {})[key] = (frequency, len(terms))
        found: dict[str, dict[Key, tuple[int, int]]] = {}
        with self.store.snapshot() as reader:
            for term, postings in reader.postings_read(generation.id, sorted(wanted)).items():
                keys = reader.documents_resolve(source, generation.id, postings["doc"].tolist(), None)
                current = [posting for posting in postings.tolist() if posting[0] in keys]
                assert len(current) == len({posting[0] for posting in current}), f"a document has {term!r} twice"
                found[term] = {keys[document]: (frequency, length) for document, frequency, length in current}
        assert {term: entries for term, entries in found.items() if entries} == wanted

    def recount(self, source: Source, generation: Generation, live: Mapping[Key, str] | None = None) -> Coverage:
        """Count the coverage row by row, from what is stored and from the user's table; compare with `coverage_counts`."""
        expected = self.live(source) if live is None else live
        journal = self.backend.journal(source)
        rows = self.backend.rows(source, generation)
        failed = {failure.key for failure in self.store.failures(source, generation.id, STEPS)}
        current = {key for key in expected if key in rows and rows[key].seq == journal[key][0]}
        blank = {key for key in current if rows[key].chunks == 0}
        return Coverage(
            live=len(expected),
            embedded=len(current - blank),
            blank=len(blank),
            missing=len(expected.keys() - current - failed),
            failed=len((expected.keys() & failed) - current),
            truncated=sum(rows[key].truncated for key in current),
        )

    def coverage_check(self, source: Source, generation: Generation, live: Mapping[Key, str] | None = None) -> Coverage:
        """Check that the store's coverage equals the recount, and return it."""
        found = self.store.coverage(source, [generation.id])[generation.id]
        counted = self.recount(source, generation, live)
        counts = Coverage(found.live, found.embedded, found.blank, found.missing, found.failed, found.truncated)
        assert counts == counted
        assert found.live == found.embedded + found.blank + found.missing + found.failed
        assert (found.oldest_missing_seconds is None) == (found.missing == 0)
        return found
