"""Adopting vectors that exist already: which of them belong to a row's present text, and a generation made of them.

The generation is set aside while that goes on: nobody else works at it, so that no row is embedded that has a vector already.
One vector of a row stands for the whole of its text. So the generation's chunker has to leave that in one piece, and rows that
it would cut are not adopted. What is not adopted is missing, and embedded by the workers like anything else.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from seamark.core.ahead import when_asked
from seamark.core.chunking import CHUNK_CHARACTERS_MAX, render
from seamark.core.keys import keys_given
from seamark.embed.validation import unit_vectors
from seamark.errors import InvalidRequestError, StoreUnavailableError, UnknownColumnError
from seamark.model import (
    AdoptableRows,
    Adopted,
    ForeignBatch,
    Progress,
    VectorPlace,
    WholeBatch,
    precision,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike

    from seamark.core.ahead import Ahead
    from seamark.core.chunking import Chunker
    from seamark.embed.contract import Embedder
    from seamark.model import Digest, Generation, GenerationSpec, Key, KeyValue, Source, Table
    from seamark.store.contract import Store

    Batch = tuple[Sequence[KeyValue | Key], ArrayLike, Sequence[Digest] | None]
    """Keys, their vectors, and the digests of the texts that these were made from."""
    Passage = tuple[int, int, bytes]
    """The members of a `Chunk`: a plain tuple of plain values is nothing to the collector."""

WHOLE_ROW_CHARACTERS = CHUNK_CHARACTERS_MAX
"""A text of up to so many characters is one passage, unless the model says that it is too long."""
BATCH_BYTES = 8 * 2**20
BATCH_ROWS_MAX = 4096
"""Vectors, as float32, and rows that are read and written at once."""
LEASE_ROWS = 512
"""Rows of those missing in the end that one worker takes at once."""
_UNTOLD = (
    "whether the texts are those that the vectors were made from is not known: give digests of the texts (text_hash), or say "
    "that they are (trust_text)"
)
_NONE = AdoptableRows((), (), ())
_OTHERS = {
    "edited": "with another text by now",
    "divided": "with none or several passages",
    "unusable": "unusable",
    "unknown": "of no row",
}
_NONSENSE = 1.5
"""Where more than a third of the vectors are not finite, they are none."""
_DIGESTS: dict[int, tuple[str, ...]] = {
    16: ("md5",),
    20: ("sha1",),
    28: ("sha224",),
    32: ("sha256",),
    48: ("sha384",),
    64: ("sha512", "blake2b"),
}
"""Which digests are of that many bytes."""


class Adopting:
    """One adoption, from setting the generation aside to giving it to the workers."""

    def __init__(
        self,
        store: Store,
        source: Source,
        spec: GenerationSpec,
        embedder: Embedder,
        chunker: Chunker,
        supersede: Callable[[Sequence[Generation]], None],
        ahead: Ahead = when_asked,
    ) -> None:
        """Take what is needed; `supersede` gives up what would be activated after this generation."""
        self._store, self._source, self._spec = store, source, spec
        self._embedder, self._chunker = embedder, chunker
        self._supersede, self._ahead = supersede, ahead
        self._writing: Callable[[], int] | None = None
        self._under_way: frozenset[Key] = frozenset()
        self._retired: list[Generation] = []
        self._counts: Counter[str] = Counter()
        self._progress: Callable[[Progress], None] | None = None
        self._keyed = False

    def adopt(
        self,
        vectors: VectorPlace | Iterable[Batch],
        *,
        trusted: bool,
        manual: bool,
        progress: Callable[[Progress], None] | None = None,
    ) -> Adopted:
        """Adopt vectors; `trusted` are those that come without a digest of their text."""
        self._progress, self._keyed = progress, not isinstance(vectors, VectorPlace)
        before = {one.id for one in self._store.generations(self._source.id)}
        generation = self._store.generation_adopt(self._source, self._spec)
        if generation.state == "active":
            return self._adopted(generation.id)  # it was done before, and may not have been seen to end
        try:
            self._read(generation, vectors, trusted=trusted)
            self._any(generation)
        except StoreUnavailableError:
            raise  # nothing can be given back now; run again, it goes on
        except Exception:
            # Whoever's fault it is, it may not be tried again: what was made for it goes, and what was there is given back.
            for other in self._retired:
                self._store.generation_create(self._source, other.spec, manual=other.manual)
            if generation.id not in before and not self._counts["rows"]:
                self._store.generation_drop(generation.id)
            else:
                self._end(generation, manual=generation.manual)
            raise
        if not manual:
            self._supersede((generation,))
        return self._end(generation, manual=manual)

    def _any(self, generation: Generation) -> None:
        """Raise where no vector has been adopted, now or earlier, though there are rows: all of them would be embedded."""
        if not self._counts["rows"]:
            held = self._store.coverage(self._source, [generation.id])[generation.id]
            if held.missing and not held.embedded:
                others = ", ".join(f"{self._counts[name]:,} {words}" for name, words in _OTHERS.items())
                raise InvalidRequestError(
                    f"not one vector could be adopted ({others}): nothing has changed; to have the rows of "
                    f"{self._source.name!r} embedded with {self._embedder.identity.name}, swap to it"
                )

    def _read(self, generation: Generation, vectors: VectorPlace | Iterable[Batch], *, trusted: bool) -> None:
        """Read the vectors, wherever they are; what is read is written while the next are read."""
        try:
            if isinstance(vectors, VectorPlace):
                self._place(generation, vectors, trusted=trusted)
            else:
                self._batches(generation, vectors, trusted=trusted)
        finally:
            self._written()

    def _others_retire(self, generation: Generation) -> None:
        """Retire what is being built of the same model, where nothing is active: this generation is in its place."""
        known = [one for one in self._store.generations(self._source.id) if one.kind == "vector" and one.id != generation.id]
        if all(one.state != "active" for one in known):
            for one in known:
                if one.state == "building" and not one.manual and one.model == generation.model:
                    self._store.generation_retire(one.id)
                    self._retired.append(one)

    def _place(self, generation: Generation, place: VectorPlace, *, trusted: bool) -> None:
        dimension = self._embedder.identity.dimension
        limit = max(64, min(BATCH_ROWS_MAX, BATCH_BYTES // (4 * dimension)))
        after: Key | None = None
        while True:
            found = self._store.adopt_read(self._source, generation.id, place, after, limit)
            if after is None:
                self._plausible(place, found)
                self._others_retire(generation)
            keys = found.rows.keys
            self._adopt(generation, found, trusted=trusted)
            if len(keys) < limit:
                return
            after = keys[-1]

    def _plausible(self, place: VectorPlace, found: ForeignBatch) -> None:
        """Raise where what is in the column is none of the model's vectors, as the first of them show."""
        dimension, name = self._embedder.identity.dimension, self._embedder.identity.name
        if len(found.sized) and not found.sized.any():
            raise InvalidRequestError(
                f"column {place.vector!r} has no vectors of {dimension} dimensions, as {name} makes: they are of another model"
            )
        finite = int((np.isfinite(found.vectors).all(axis=1) & found.sized).sum())
        if finite * _NONSENSE < int(found.sized.sum()):
            raise InvalidRequestError(
                f"column {place.vector!r} has as many bytes as vectors of {dimension} dimensions, as {name} makes them; but "
                "read as that, most are not finite: they are of another dimension and precision, and of another model"
            )

    def _batches(self, generation: Generation, batches: Iterable[Batch], *, trusted: bool) -> None:
        for number, (keys, vectors, digests) in enumerate(_pieces(batches)):
            matrix = np.asarray(vectors, np.float32)
            if matrix.ndim != 2 or len(matrix) != len(keys) or (digests is not None and len(digests) != len(keys)):  # noqa: PLR2004
                raise InvalidRequestError(
                    f"{len(keys)} keys come with vectors of the shape {matrix.shape}; one of each is needed"
                )
            if matrix.shape[1] != self._embedder.identity.dimension:
                raise InvalidRequestError(
                    f"the vectors have {matrix.shape[1]} dimensions, and {self._embedder.identity.name} makes vectors of "
                    f"{self._embedder.identity.dimension}: they are of another model"
                )
            if digests is None and not trusted:
                raise InvalidRequestError(_UNTOLD)
            whole = keys_given(self._source.table, keys)
            if number == 0:
                self._others_retire(generation)
            places = dict(zip(reversed(whole), range(len(whole) - 1, -1, -1), strict=True))  # of several of one key, the first
            asked = [key for key in places if key not in self._under_way]
            rows, live = self._store.adopt_look(self._source, generation.id, asked) if asked else (_NONE, 0)
            self._counts["unknown"] += len(asked) - live
            at = [places[key] for key in rows.keys]
            told = [None] * len(at) if digests is None else [digests[place] for place in at]
            found = ForeignBatch(rows, matrix[at], np.ones(len(at), np.bool_), told)
            self._adopt(generation, found, trusted=trusted)

    def _end(self, generation: Generation, *, manual: bool) -> Adopted:
        """Give the generation to the workers, and to search if nothing is missing in it."""
        self._store.adopt_end(self._source, generation.id, LEASE_ROWS)
        self._store.generation_create(self._source, self._spec, manual=manual)
        while self._store.lease_claim(generation.id, "adopt", 1, 0.0).again:
            pass
        self._store.generation_activate(generation.id)
        return self._adopted(generation.id)

    def _adopted(self, generation_id: int) -> Adopted:
        """Return what came of it."""
        [after] = [one for one in self._store.generations(self._source.id) if one.id == generation_id]
        missing = self._store.coverage(self._source, [after.id])[after.id].missing
        counts = {name: self._counts[name] for name in ("rows", "edited", "divided", "unusable")}
        return Adopted(generation=after, missing=missing, unknown=self._counts["unknown"] if self._keyed else None, **counts)

    def _adopt(self, generation: Generation, found: ForeignBatch, *, trusted: bool) -> None:
        """Write those of the rows whose vector can be used and is of the whole of their present text."""
        whole = self._whole(found, trusted=trusted)
        at = list(whole)
        keys, seqs = [found.rows.keys[place] for place in at], [found.rows.seqs[place] for place in at]
        vectors = unit_vectors(found.vectors[at]).astype(precision(generation.identity))
        self._written()
        if whole:
            self._under_way = frozenset(keys)
            passages = whole.values()
            spans = [start for start, _, _ in passages], [stop for _, stop, _ in passages]
            batch = WholeBatch(keys, seqs, *spans, [digest for _, _, digest in passages], vectors)
            self._writing = self._ahead(partial(self._store.rows_adopt, self._source, generation.id, batch))

    def _written(self) -> None:
        """Wait until what was read is written, and count it."""
        if self._writing is not None:
            answer, self._writing = self._writing, None
            written = answer()
            self._counts["rows"] += written
            self._counts["edited"] += len(self._under_way) - written
            self._under_way = frozenset()
        if self._progress is not None:
            self._progress(Progress(f"adopt {self._source.name}", self._counts["rows"], None, 0.0))

    def _whole(self, found: ForeignBatch, *, trusted: bool) -> Mapping[int, Passage]:
        """Return the place and the passage of each row whose text is one and has not changed; count the others."""
        usable = (found.sized & np.isfinite(found.vectors).all(axis=1) & found.vectors.any(axis=1)).tolist()
        whole: dict[int, Passage] = {}
        passages: list[str] = []
        before: Key | None = None
        rows = zip(found.rows.keys, usable, found.digests, zip(*found.rows.texts, strict=True), strict=True)
        for at, (key, fine, digest, texts) in enumerate(rows):
            if key == before:
                continue  # a user's other table has it twice
            before = key
            text = render(texts)
            if not fine:
                self._counts["unusable"] += 1
            elif not (trusted if digest is None else digest_is(text, digest)):
                self._counts["edited"] += 1
            elif (chunk := self._chunker.whole(text)) is None:
                self._counts["divided"] += 1
            else:
                whole[at] = (chunk.start, chunk.stop, chunk.digest)
                passages.append(text[chunk.start : chunk.stop])
        excess = self._embedder.token_excess(passages) if passages else ()
        if any(excess):
            whole = {at: passage for (at, passage), divided in zip(whole.items(), excess, strict=True) if not divided}
            self._counts["divided"] += len(passages) - len(whole)
        return whole


def place_check(place: VectorPlace, source: Source, inspect: Callable[[str], Table], *, trusted: bool) -> None:
    """Raise InvalidRequestError, before anything is set aside, where vectors cannot be read there or must not be believed."""
    if place.digest is None and not trusted:
        raise InvalidRequestError(_UNTOLD)
    table = source.table if place.table is None else inspect(place.table)
    for name in (place.vector, *place.key, *([place.digest] if place.digest else [])):
        if table.column(name) is None:
            raise UnknownColumnError(table.name, name, tuple(column.name for column in table.columns))
    if place.table is not None and len(place.key) != len(source.table.key):
        raise InvalidRequestError(
            f"{len(place.key)} key column(s) of {place.table!r} are named, and {source.name!r} has {len(source.table.key)}"
        )


def digest_is(text: str, digest: bytes | str) -> bool:
    """Say whether it is a digest of the text as UTF-8, in bytes or hexadecimal; which one is told by its length."""
    if isinstance(digest, str):
        try:
            digest = bytes.fromhex(digest)
        except ValueError:
            return False
    data = text.encode("utf-8", "surrogatepass")
    if any(hashlib.new(name, data, usedforsecurity=False).digest() == digest for name in _DIGESTS.get(len(digest), ())):
        return True
    return (
        0 < len(digest) <= hashlib.blake2b.MAX_DIGEST_SIZE and hashlib.blake2b(data, digest_size=len(digest)).digest() == digest
    )


def _pieces(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Cut batches to the size in which they are read and written."""
    for keys, vectors, digests in batches:
        for start in range(0, len(keys), BATCH_ROWS_MAX):
            stop = start + BATCH_ROWS_MAX
            yield keys[start:stop], np.asarray(vectors)[start:stop], None if digests is None else digests[start:stop]
