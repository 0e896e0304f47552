"""Reading for an audit: pages of the user's table, of the journal and of what the generations hold, each in one snapshot."""

from __future__ import annotations

from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from seamark.model import precision
from seamark.model.findings import AuditEntries, AuditHeld, AuditPage, AuditPostings, AuditStrays
from seamark.store.blocks import postings_sum
from seamark.store.sqlite.connection import integers
from seamark.store.sqlite.keys import key_marks, key_read, key_sound
from seamark.store.sqlite.words import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from seamark.model import Generation, Key, Precision
    from seamark.model.findings import Passage
    from seamark.store.sqlite.connection import Connection, Connections, Row
    from seamark.store.sqlite.words import Words

_LAST = 2**63 - 1
PIECE_ROWS = 256
"""Rows taken at once, as long as their text is short."""
_FLOATS: dict[Precision, tuple[np.dtype[np.unsignedinteger[Any]], int, int]] = {
    "float16": (np.dtype(np.uint16), 0x7FFF, 0x7C00),
    "float32": (np.dtype(np.uint32), 0x7FFF_FFFF, 0x7F80_0000),
}


# --- the user's table ---------------------------------------------------------------------------------------------


def audit_page(
    connections: Connections,
    words: Words,
    generations: Sequence[tuple[Generation, Words]],
    after: Key | None,
    limit: int,
    characters: int,
) -> AuditPage:
    """Read the next rows of the user's table; keys are read as they are, and where that cannot be done as bytes."""
    with connections.snapshot() as connection:
        page = _Page(connection, connections.codec, words, after)
        try:
            last = page.read(limit, characters, raw=False)
        except UnicodeDecodeError:
            last = page.read(limit, characters, raw=True)
        held = {one.id: page.held(one, its) for one, its in generations} if page.keys else {}
        return page.page(held, last)


class _Page:
    """One page, within its snapshot."""

    def __init__(self, connection: Connection, codec: str, words: Words, after: Key | None) -> None:
        self._connection = connection
        self._codec = codec
        self._words = words
        self._columns = [f"t.{quoted(column)}" for column in words.source.table.key]
        self._after = after or ()
        self._until: Key = ()
        self._dropped: frozenset[int] = frozenset()
        self._rows: list[Row] = []
        self.keys: list[Key] = []
        self._texts: list[list[str | None]] = []

    def read(self, limit: int, characters: int, *, raw: bool) -> Key | None:
        """Read the rows themselves; return where the next page begins."""
        width = len(self._columns)
        statement = self._words.fill("audit_page", **self._range(), keys_read=self._keys_read(raw=raw))
        wide = 3 + (2 * width if raw else width)
        with self._connection.stream(statement, (*self._after, limit)) as stream:
            rows = _taken(stream, wide, characters)
            done = len(rows) < limit and next(stream, None) is None
        self._rows = rows
        if raw:
            self.keys = [key_read(row[3:wide], self._codec) for row in rows]
            self._dropped = frozenset(place for place, key in enumerate(self.keys) if not key_sound(key))
        else:
            self.keys = [row[3:wide] for row in rows]
        self._texts = [self._decoded(column) for column in list(zip(*rows, strict=True))[wide:]]
        self._until = self.keys[-1] if rows else ()
        return None if done else self._until

    def _keys_read(self, *, raw: bool) -> str:
        if not raw:
            return ", ".join(self._columns)
        return self._words.word("table_keys_raw")

    def _decoded(self, column: Sequence[bytes | None]) -> list[str | None]:
        """Return a column of texts, as `text_decode` would one by one."""
        codec = self._codec
        joined = b"\0".join([value or b"" for value in column])
        # None has a NUL of its own, so that all are decoded at once; in UTF-16, a byte that is 0 divides nothing.
        if codec == "utf-8" and joined.count(b"\0") == len(column) - 1:
            try:
                texts = joined.decode(codec).split("\0")
            except UnicodeDecodeError:
                pass
            else:
                return [None if value is None else text for value, text in zip(column, texts, strict=True)]
        return [None if value is None else value.decode(codec, "replace").replace("\0", "\ufffd") for value in column]

    def _range(self) -> dict[str, str]:
        columns = ", ".join(self._columns)
        after = f"({columns}) > ({key_marks(self._after)})" if self._after else "1"
        return {"after": after, "until": f"({columns}) <= ({key_marks(self._until)})"}

    def _of(self, words: Words, statement: str) -> list[Row]:
        return self._connection.rows(words.fill(statement, **self._range()), (*self._after, *self._until))

    def held(self, generation: Generation, words: Words) -> AuditHeld:
        """Read what a generation holds of the page's rows."""
        lexical = generation.model is None
        rows = self._of(words, "audit_held_lexical" if lexical else "audit_held_vector")
        seqs, chunks, truncated, *rest = zip(*rows, strict=True)
        if lexical:
            return AuditHeld(seqs, chunks, truncated, documents=rest[0])
        starts, stops, digests, embeddings = rest
        passages: list[Sequence[Passage]] = [(one,) for one in zip(starts, stops, digests, strict=True)]
        places: Sequence[int] = range(len(rows))
        if None in digests:
            places = [place for place in places if digests[place] is not None]
            passages = [() if digest is None else one for one, digest in zip(passages, digests, strict=True)]
        found = [embeddings[place] for place in places]
        damaged = {places[at] for at in _damaged(found, generation)}
        if max(chunks) > 1:
            self._further(words, generation, passages, damaged)
        return AuditHeld(seqs, chunks, truncated, passages, damaged)

    def _further(self, words: Words, generation: Generation, passages: list[Sequence[Passage]], damaged: set[int]) -> None:
        """Add the chunks of each row beyond the first, and the places of rows with one whose vector is none."""
        places = {key: place for place, key in enumerate(self.keys)}
        further = self._of(words, "audit_passages")
        damaged.update(places[further[at][4:]] for at in _damaged([row[3] for row in further], generation))
        for key, several in groupby(further, key=lambda row: row[4:]):
            place = places[key]
            passages[place] = (*passages[place], *(row[:3] for row in several))

    def page(self, held: dict[int, AuditHeld], last: Key | None) -> AuditPage:
        """Return the page, without the rows whose key is not well-formed."""
        rows, keys, texts = self._rows, self.keys, self._texts
        if self._dropped:
            kept = [place for place in range(len(keys)) if place not in self._dropped]
            held = {number: _kept(one, kept) for number, one in held.items()}
            rows, keys = [rows[place] for place in kept], [keys[place] for place in kept]
            texts = [[column[place] for place in kept] for column in texts]
        live, seqs, deleted = list(zip(*rows, strict=True))[:3] if rows else ((), (), ())
        return AuditPage(keys, live, texts, seqs, deleted, held, last)


def _taken(stream: Iterator[Row], wide: int, characters: int) -> list[Row]:
    """Take rows until their text passes the budget, a piece at a time: as many as are likely to fit, and one at least."""
    rows: list[Row] = []
    size, piece = 0, 1
    while size <= characters and (taken := list(islice(stream, piece))):
        rows += taken
        texts = cast("list[Sequence[bytes | None]]", list(zip(*taken, strict=True))[wide:])
        size += sum(sum(map(len, filter(None, column))) for column in texts)
        piece = max(1, min(PIECE_ROWS, (characters - size) * len(rows) // max(size, 1)))
    return rows


def _kept(held: AuditHeld, kept: Sequence[int]) -> AuditHeld:
    def column(values: Sequence[Any]) -> list[Any]:
        return [values[place] for place in kept] if values else []

    damaged = frozenset(at for at, place in enumerate(kept) if place in held.damaged)
    return AuditHeld(
        column(held.seqs), column(held.chunks), column(held.truncated), column(held.passages), damaged, column(held.documents)
    )


def _damaged(embeddings: Sequence[bytes], generation: Generation) -> Sequence[int]:
    """Return the places of those that are no vector of that dimension and precision: finite, and not zero."""
    assert generation.model is not None
    dimension = generation.model.dimension
    # The bits of a float without its sign order like the numbers: infinity is this, NaN lies above, zero is 0.
    kind, sign, infinity = _FLOATS[precision(generation.identity)]
    size = kind.itemsize * dimension
    whole = [one if len(one) == size else bytes(size) for one in embeddings]
    if not whole:
        return []
    high = (np.frombuffer(b"".join(whole), dtype=kind).reshape(len(whole), dimension) & sign).max(axis=1)
    return np.flatnonzero((high >= infinity) | (high == 0)).tolist()


# --- the journal, and what is held of no row -----------------------------------------------------------------------


def audit_journal(connections: Connections, words: Words, after: int, limit: int) -> AuditEntries:
    """Look at the next entries above a `seq`."""
    with connections.snapshot() as connection:
        upto = connection.value(words["journal_step"], (after, _LAST, limit - 1))
        within = (after, _LAST if upto is None else upto)
        gone, tombstones = (
            _keys(connection.rows(words[statement], within), connections.codec)
            for statement in ("audit_gone", "audit_tombstones")
        )
    return AuditEntries(gone, tombstones, upto)


def audit_missing(connections: Connections, words: Words, keys: Sequence[Key]) -> Sequence[Key]:
    """Return those whose entry no lane will come by."""
    with connections.snapshot() as connection:
        return connection.many_rows(words["audit_missing"], keys)


def audit_rows(connections: Connections, words: Words, after: Key | None, limit: int) -> AuditStrays:
    """Look at the next rows that a generation holds."""
    return _strays(connections, words, "r", ("audit_rows_end", "audit_rows"), after, limit)


def audit_chunks(connections: Connections, words: Words, after: Key | None, limit: int) -> AuditStrays:
    """Look at the next chunks of a vector generation."""
    return _strays(connections, words, "c", ("audit_chunks_end", "audit_chunks"), after, limit)


def _strays(
    connections: Connections, words: Words, alias: str, statements: tuple[str, str], after: Key | None, limit: int
) -> AuditStrays:
    """Find where the next so many end, and then what is astray among them."""
    end, look = statements
    keys = ", ".join(f"{alias}.k{place}" for place in range(1, len(words.source.table.key) + 1))
    passed = after or ()
    beyond = f"({keys}) > ({key_marks(passed)})" if passed else "1"
    with connections.snapshot() as connection:
        found = connection.row(words.fill(end, after=beyond), (*passed, limit - 1))
        last = None if found is None else key_read(found, connections.codec)
        until = f"({keys}) <= ({key_marks(last)})" if last else "1"
        rows = connection.rows(words.fill(look, after=beyond, until=until), (*passed, *(last or ())))
    return AuditStrays(_keys(rows, connections.codec), last)


def _keys(rows: Sequence[Row], codec: str) -> list[Key]:
    """Return those of the keys that are well-formed."""
    return [key for row in rows if key_sound(key := key_read(row, codec))]


# --- postings -----------------------------------------------------------------------------------------------------


def audit_postings(connections: Connections, words: Words, first: int, documents: int) -> AuditPostings:
    """Sum up all postings of a range of documents."""
    with connections.snapshot() as connection, connection.stream(words["audit_postings"]) as blocks:
        return postings_sum(blocks, first, documents)


def audit_documents(connections: Connections, words: Words) -> int:
    """Return the highest document that is current."""
    with connections.use() as connection:
        return int(connection.value(words["audit_documents"]))


# --- dropping -----------------------------------------------------------------------------------------------------


def strays_drop(connections: Connections, words: Words, keys: Sequence[Key], *, vector: bool) -> int:
    """Drop what a generation holds of rows that are not entered, and chunks too many."""
    with connections.transaction() as connection:
        rows = connection.many_rows(words["strays_drop_rows"], keys)
        return len(rows) + (_chunks_drop(connection, words, "strays_drop_chunks", keys) if vector else 0)


def rows_outdate(connections: Connections, words: Words, keys: Sequence[Key]) -> int:
    """Let versions that are held and were never given out be old ones."""
    with connections.transaction() as connection:
        return len(connection.many_rows(words["rows_outdate"], keys))


def chunks_drop(connections: Connections, words: Words, keys: Sequence[Key]) -> int:
    """Drop all chunks of some rows."""
    with connections.transaction() as connection:
        return _chunks_drop(connection, words, "chunks_delete", keys)


def _chunks_drop(connection: Connection, words: Words, statement: str, keys: Sequence[Key]) -> int:
    """Drop chunks, and tell the shards what their files hold in vain."""
    dropped = [number for (number,) in connection.many_rows(words[statement], keys)]
    if dropped:
        values = {"chunks": integers(dropped), "generation": words.generation, "lowest": min(dropped)}
        connection.run(words["shard_bury"], values)
    return len(dropped)
