"""Reading for an audit: pages of the user's table, of the journal and of what the generations hold, each in one snapshot."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from seamark.model import precision
from seamark.model.findings import AuditEntries, AuditHeld, AuditPage, AuditPassages, AuditPostings, AuditStrays
from seamark.store.blocks import postings_sum
from seamark.store.columns import digests_cut, rows_fitting, texts_cut
from seamark.store.sqlite.connection import integers
from seamark.store.sqlite.keys import key_marks, key_read, key_sound
from seamark.store.sqlite.words import quoted, text_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seamark.model import Generation, Key, Precision
    from seamark.model.findings import Passage
    from seamark.store.sqlite.connection import Connection, Connections, Row
    from seamark.store.sqlite.words import Words

_LAST = 2**63 - 1
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
        texts = page.texts() if page.keys else [()] * len(words.source.spec.text)
        return page.page(held, texts, last)


class _Page:
    """One page, within its snapshot."""

    def __init__(self, connection: Connection, codec: str, words: Words, after: Key | None) -> None:
        self._connection = connection
        self._codec = codec
        self._words = words
        self._columns = [f"t.{quoted(column)}" for column in words.source.table.key]
        self._after = after or ()
        self._until: Key = ()
        self._raw = False
        self._rows: list[Row] = []
        self.keys: list[Key] = []

    def read(self, limit: int, characters: int, *, raw: bool) -> Key | None:
        """Read the keys of as many rows as the text allows; return where the next page begins."""
        self._raw = raw
        keys = self._words.word("table_keys_raw") if raw else ", ".join(self._columns)
        statement = self._words.fill("audit_page", **self._range(), keys_read=keys)
        found = self._connection.rows(statement, (*self._after, limit))
        self._rows = found[: rows_fitting([row[3] for row in found], characters)]
        self.keys = [key_read(row[4:], self._codec) if raw else row[4:] for row in self._rows]
        self._until = self.keys[-1] if self.keys else ()
        return None if len(self._rows) == len(found) < limit else self._until

    def _range(self) -> dict[str, str]:
        columns = ", ".join(self._columns)
        after = f"({columns}) > ({key_marks(self._after)})" if self._after else "1"
        return {"after": after, "until": f"({columns}) <= ({key_marks(self._until)})"}

    def _of(self, words: Words, statement: str, **further: str) -> list[Row]:
        return self._connection.rows(words.fill(statement, **self._range(), **further), (*self._after, *self._until))

    def held(self, generation: Generation, words: Words) -> AuditHeld:
        """Read what a generation holds of the page's rows."""
        if generation.model is None:
            [row] = self._of(words, "audit_held_lexical")
            seqs, chunks, truncated, documents = map(_numbers, row)
            return AuditHeld(seqs, chunks, truncated > 0, documents=documents)
        size = str(_FLOATS[precision(generation.identity)][0].itemsize * generation.model.dimension)
        joined = {f"{name}_joined": _joined(name, self._codec) for name in ("digest", "embedding")}
        [(*numbers, digests, embeddings)] = self._of(words, "audit_held_vector", **joined, size=size)
        seqs, chunks, truncated, starts, stops = map(_numbers, numbers)
        damaged = _damaged(_bytes(embeddings), generation) & (stops >= 0)
        further = self._further(words, generation, damaged, size) if chunks.max() > 1 else {}
        passages = AuditPassages(starts, stops, digests_cut(_bytes(digests), len(seqs)), further, damaged)
        return AuditHeld(seqs, chunks, truncated > 0, passages)

    def _further(
        self, words: Words, generation: Generation, damaged: NDArray[np.bool_], size: str
    ) -> dict[int, Sequence[Passage]]:
        """Return the chunks of each row beyond the first, and add to the rows with one whose vector is none."""
        places = {key: place for place, key in enumerate(self.keys)}
        rows = self._of(words, "audit_passages", size=size)
        for at in np.flatnonzero(_damaged(b"".join([row[3] for row in rows]), generation)).tolist():
            damaged[places[rows[at][4:]]] = True
        return {places[key]: [row[:3] for row in several] for key, several in groupby(rows, key=lambda row: row[4:])}

    def texts(self) -> list[Sequence[str | None]]:
        """Read the texts of the page's rows."""
        names = text_names(self._words.source)
        joined = [f"group_concat(coalesce(octet_length({name}), -1)), {_joined(name, self._codec)}" for name in names]
        [row] = self._of(self._words, "audit_texts", texts_joined=", ".join(joined))
        return [
            texts_cut(_bytes(together), _numbers(lengths), self._codec)
            for lengths, together in zip(row[::2], row[1::2], strict=True)
        ]

    def page(self, held: dict[int, AuditHeld], texts: Sequence[Sequence[str | None]], last: Key | None) -> AuditPage:
        """Return the page, without the rows whose key is not well-formed."""
        keys = self.keys
        live, seqs, deleted = (np.array([row[column] for row in self._rows], np.int64) for column in range(3))
        kept = [place for place, key in enumerate(keys) if key_sound(key)] if self._raw else range(len(keys))
        if len(kept) < len(keys):
            held = {number: _kept(one, kept) for number, one in held.items()}
            keys, texts = [keys[place] for place in kept], [[column[place] for place in kept] for column in texts]
            live, seqs, deleted = live[kept], seqs[kept], deleted[kept]
        return AuditPage(keys, live > 0, texts, seqs, deleted > 0, held, last)


def _kept(held: AuditHeld, kept: Sequence[int]) -> AuditHeld:
    passages, documents = held.passages, held.documents
    if passages is not None:
        further = {at: passages.further[place] for at, place in enumerate(kept) if place in passages.further}
        columns = passages.starts[kept], passages.stops[kept], passages.digests[kept], further, passages.damaged[kept]
        passages = AuditPassages(*columns)
    if documents is not None:
        documents = documents[kept]
    return AuditHeld(held.seqs[kept], held.chunks[kept], held.truncated[kept], passages, documents)


def _joined(column: str, codec: str) -> str:
    """Return the expression that joins a column of bytes; where text is UTF-16, SQLite would take them for that."""
    return f"CAST(group_concat({column}, '') AS BLOB)" if codec == "utf-8" else f"group_concat(hex({column}), '')"


def _bytes(joined: bytes | str | None) -> bytes:
    """Return what was joined; there was nothing but nulls where it is null."""
    return bytes.fromhex(joined) if isinstance(joined, str) else joined or b""


def _numbers(joined: str) -> NDArray[np.int64]:
    return np.fromstring(joined, np.int64, sep=",")


def _damaged(embeddings: bytes, generation: Generation) -> NDArray[np.bool_]:
    """Say of each vector of these whether it is none: not finite, or zero."""
    assert generation.model is not None
    # The bits of a float without its sign order like the numbers: infinity is this, NaN lies above, zero is 0.
    kind, sign, infinity = _FLOATS[precision(generation.identity)]
    high = (np.frombuffer(embeddings, kind).reshape(-1, generation.model.dimension) & sign).max(axis=1)
    return (high >= infinity) | (high == 0)


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
