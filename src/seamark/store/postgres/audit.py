"""Reading for an audit: pages of the user's table, of the journal and of what the generations hold, each in one snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby
from typing import TYPE_CHECKING

import numpy as np

from seamark.model.findings import AuditEntries, AuditHeld, AuditPage, AuditPassages, AuditPostings, AuditStrays
from seamark.store.blocks import postings_sum
from seamark.store.columns import digests_cut, rows_fitting, texts_cut
from seamark.store.postgres import codec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from seamark.model import Generation, Key, KeyValue, Source
    from seamark.model.findings import Passage
    from seamark.store.postgres.connection import Connection, Database, Row
    from seamark.store.postgres.names import Words

_LAST = 2**63 - 1
POSTINGS_ROWS = 5_000
"""Blocks fetched at a time: a few megabytes."""


# --- the user's table ---------------------------------------------------------------------------------------------


def audit_page(
    database: Database,
    words: Words,
    source: Source,
    generations: Sequence[tuple[Generation, Words]],
    after: Key | None,
    limit: int,
    characters: int,
) -> AuditPage:
    """Read the next rows of the user's table; see the contract."""
    begin = bound(words["k_s"], words, after, ">", "a")
    with database.keyed_snapshot() as connection:
        page = {**words, "after": begin.condition}
        found = database.run(connection, "audit_page", page, {**begin.values, "limit": limit}).fetchall()
        rows = found[: rows_fitting([row[3] for row in found], characters)]
        keys: list[Key] = [row[4:] for row in rows]
        end = bound(words["k_s"], words, keys[-1] if keys else None, "<=", "u")
        # The same range of our own tables, which are in the same order.
        span = {"after": begin.condition, "until": end.condition, **_range(words, begin, end, "rc")}
        database.run(connection, "audit_ranges", {})
        reading = _Reading(database, connection, keys, span, {**begin.values, **end.values})
        held = {one.id: reading.held(one, {**words, **its}) for one, its in generations} if keys else {}
        texts = reading.texts(words) if keys else [()] * len(source.spec.text)
    live, deleted = (np.array([row[column] for row in rows], np.bool_) for column in (0, 2))
    seqs = np.array([row[1] for row in rows], np.int64)
    last = None if len(rows) == len(found) < limit else keys[-1]
    return AuditPage(keys, live, texts, seqs, deleted, held, last)


class _Reading:
    """What there is of the rows of a page, within its snapshot."""

    def __init__(
        self, database: Database, connection: Connection, keys: Sequence[Key], span: Words, values: Mapping[str, KeyValue]
    ) -> None:
        self._database, self._connection, self._keys = database, connection, keys
        self._span, self._values = span, values

    def held(self, generation: Generation, words: Words) -> AuditHeld:
        words = words | self._span
        if generation.model is None:
            [(seqs, chunks, truncated, documents)] = self._run("audit_held_lexical", words)
            held = np.array(seqs, np.int64), np.array(chunks, np.int64), np.array(truncated, np.bool_)
            return AuditHeld(*held, documents=np.array(documents, np.int64))
        vectors = words | {"dimension": str(generation.model.dimension)}
        words |= {"damaged": self._database.compose("audit_damaged", vectors)}
        [(seqs, chunks, truncated, starts, stops, wrong, digests)] = self._run("audit_held_vector", words)
        held = np.array(seqs, np.int64), np.array(chunks, np.int64), np.array(truncated, np.bool_)
        damaged = np.array(wrong, np.bool_)
        further = self._further(words, damaged) if max(chunks) > 1 else {}
        first = np.array(starts, np.int64), np.array(stops, np.int64), digests_cut(digests, len(seqs))
        return AuditHeld(*held, AuditPassages(*first, further, damaged))

    def _further(self, words: Words, damaged: NDArray[np.bool_]) -> dict[int, Sequence[Passage]]:
        """Return the chunks of each row beyond the first, and add to the rows with one whose vector is none."""
        places = {key: place for place, key in enumerate(self._keys)}
        further: dict[int, Sequence[Passage]] = {}
        rows = self._run("audit_passages", words, binary=False)
        for key, several in groupby(rows, key=lambda row: row[4:]):
            place, chunks = places.get(key), list(several)
            if place is None:
                continue  # the row has gone from the table, and is still held
            further[place] = [chunk[:3] for chunk in chunks]
            damaged[place] |= any(chunk[3] for chunk in chunks)
        return further

    def texts(self, words: Words) -> list[Sequence[str | None]]:
        """Read the rows' texts."""
        [row] = self._run("audit_texts", words | self._span)
        columns = zip(row[::2], row[1::2], strict=True)
        return [texts_cut(joined or b"", np.array(lengths, np.int64), "utf-8") for lengths, joined in columns]

    def _run(self, name: str, words: Words, *, binary: bool = True) -> list[Row]:
        """Run a statement. Keys are not asked for in binary: they may be of a type that the driver does not know."""
        return self._database.run(self._connection, name, words, self._values, binary=binary).fetchall()


@dataclass(frozen=True, slots=True)
class Bound:
    """A comparison of a key's columns with a key, and its parameters."""

    condition: str = "TRUE"
    values: Mapping[str, KeyValue] = field(default_factory=dict[str, "KeyValue"])


def bound(columns: str, words: Words, key: Key | None, operator: str, prefix: str) -> Bound:
    """Compare with a key; anything will do where there is none."""
    if not key:
        return Bound()
    types = [one.rpartition("::")[2] for one in words["key_values"].split(", ")]
    names = [f"{prefix}{place}" for place in range(1, len(key) + 1)]
    marks = ", ".join(f"%({name})s::{type_}" for name, type_ in zip(names, types, strict=True))
    return Bound(f"({columns}) {operator} ({marks})", dict(zip(names, key, strict=True)))


def _range(words: Words, begin: Bound, end: Bound, tables: str) -> Words:
    """Return the words for a range of the user's keys in tables of ours, by their letters."""
    return {
        f"{word}_{alias}": bounding.condition.replace(words["k_s"], words[f"k_{alias}"], 1)
        for alias in tables
        for word, bounding in (("after", begin), ("until", end))
    }


# --- the journal, and what is held of no row ----------------------------------------------------------------------


def audit_journal(database: Database, words: Words, after: int, limit: int) -> AuditEntries:
    """Look at the next entries above a `seq`; see the contract."""
    with database.keyed_snapshot() as connection:
        [(upto,)] = database.run(connection, "journal_step", words, {"lo": after, "hi": _LAST, "rows": limit}).fetchall()
        values = {"lo": after, "hi": upto}
        gone = database.run(connection, "audit_gone", words, values).fetchall()
        tombstones = database.run(connection, "audit_tombstones", words, values).fetchall()
    return AuditEntries(gone, tombstones, None if upto == _LAST else upto)


def audit_missing(database: Database, words: Words, generation_id: int, keys: Sequence[Key]) -> Sequence[Key]:
    """Return those whose entry no lane will come by; see the contract."""
    values = {**codec.keys_columns(keys, len(keys[0])), "generation": generation_id}
    with database.keyed_snapshot() as connection:
        return database.run(connection, "audit_missing", words, values).fetchall()


def audit_rows(database: Database, words: Words, after: Key | None, limit: int) -> AuditStrays:
    """Look at the next rows that a generation holds; see the contract."""
    return _strays(database, words, "rj", ("audit_rows_end", "audit_rows"), after, limit)


def audit_chunks(database: Database, words: Words, after: Key | None, limit: int) -> AuditStrays:
    """Look at the next chunks of a vector generation; see the contract."""
    return _strays(database, words, "cr", ("audit_chunks_end", "audit_chunks"), after, limit)


def _strays(
    database: Database, words: Words, tables: str, statements: tuple[str, str], after: Key | None, limit: int
) -> AuditStrays:
    """Find where the next so many of the first table end, and then what the second one lacks of them."""
    end, look = statements
    begin = bound(words["k_s"], words, after, ">", "a")
    with database.keyed_snapshot() as connection:
        bounded = words | _range(words, begin, Bound(), tables)
        found = database.run(connection, end, bounded, {**begin.values, "limit": limit}).fetchone()
        until = bound(words["k_s"], words, found, "<=", "u")
        database.run(connection, "audit_ranges", {})
        bounded = words | _range(words, begin, until, tables)
        keys = database.run(connection, look, bounded, {**begin.values, **until.values}).fetchall()
    return AuditStrays(keys, found)


# --- postings -----------------------------------------------------------------------------------------------------


def audit_postings(database: Database, words: Words, first: int, documents: int) -> AuditPostings:
    """Sum up all postings of a range of documents, fetched piece by piece."""
    with database.transaction() as connection, connection.cursor(name="seamark_audit") as cursor:
        cursor.execute(database.compose("audit_postings", words).encode(), {}, binary=True)
        fetched = iter(partial(cursor.fetchmany, POSTINGS_ROWS), [])
        return postings_sum(chain.from_iterable(fetched), first, documents)


def audit_documents(database: Database, words: Words) -> int:
    """Return the highest document that is current."""
    with database.connection() as connection:
        [(highest,)] = database.run(connection, "audit_documents", words).fetchall()
        return highest


# --- dropping -----------------------------------------------------------------------------------------------------


def rows_outdate(database: Database, words: Words, keys: Sequence[Key]) -> int:
    """Let versions that are held and were never given out be old ones."""
    return _changed(database, "rows_outdate", words, keys)


def chunks_drop(database: Database, words: Words, keys: Sequence[Key]) -> int:
    """Drop all chunks of some rows."""
    return _changed(database, "chunks_delete", words, keys)


def _changed(database: Database, statement: str, words: Words, keys: Sequence[Key]) -> int:
    """Run a statement over keys in a transaction of its own; return how many rows it changed."""
    values = codec.keys_columns(keys, len(keys[0]))

    def change() -> int:
        with database.keyed() as connection:
            return database.run(connection, statement, words, values).rowcount

    return database.retried(change)


def strays_drop(database: Database, words: Words, keys: Sequence[Key], width: int, *, vector: bool) -> int:
    """Drop what a generation holds of rows that are not entered, and chunks too many."""
    values = codec.keys_columns(keys, width)

    def drop() -> int:
        with database.keyed() as connection:
            dropped = database.run(connection, "strays_drop_rows", words, values).rowcount
            if vector:
                dropped += database.run(connection, "strays_drop_chunks", words, values).rowcount
            return dropped

    return database.retried(drop)
