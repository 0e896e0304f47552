"""Adopting vectors that exist already: a generation set aside for it, the user's vectors read, and rows written with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.errors import UnknownColumnError
from seamark.model import AdoptableRows, ForeignBatch
from seamark.store.claim import hand_out
from seamark.store.foreign import columns, vectors_decode
from seamark.store.sqlite.claims import SqliteClaiming, clock, text_decode
from seamark.store.sqlite.connection import integers
from seamark.store.sqlite.keys import key_marks
from seamark.store.sqlite.settle import bury
from seamark.store.sqlite.tables import table_inspect
from seamark.store.sqlite.words import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Key, Table, VectorPlace, WholeBatch
    from seamark.store.sqlite.connection import Connection, Connections
    from seamark.store.sqlite.words import Words

DIGITS = 10
"""Of a place in a text."""


def rows_adopt(connections: Connections, words: Words, batch: WholeBatch) -> int:
    """Write rows that were not claimed; see the contract.

    Each table in one statement, so that whoever reads the next rows meanwhile has the interpreter to itself.
    """
    seqs = integers(batch.seqs)
    with connections.transaction() as connection:
        bury(connection, words, connection.rows(words["adopt_replace"], (seqs,)))
        first = int(connection.value(words["next_id"], (words.generation,)))
        connection.run(words["adopt_chunks"], {"seqs": seqs, "first": first, **_columns(batch, connections.codec)})
        connection.run(words["adopt_rows"], {"seqs": seqs, "now": clock(connection)})
        written = connection.changes()
        connection.run(words["next_id_write"], (first + len(batch.seqs), words.generation))
        if connection.value(words["kept_any"]) or connection.value(words["failures_any"]):
            keys = connection.rows(words["adopt_written"], (seqs,))
            connection.many(words["kept_delete"], keys)
            connection.many(words["failures_delete"], keys)
    return written


def _columns(batch: WholeBatch, codec: str) -> dict[str, bytes | int]:
    """Return the chunks' columns, each in one value, of so many bytes a row; SQL can take numbers from text only."""
    pairs = zip(batch.starts, batch.stops, strict=True)
    spans = "".join([f"{start:{DIGITS}}{stop:{DIGITS}}" for start, stop in pairs]).encode(codec)
    return {
        "spans": spans,
        "digits": len(spans) // (2 * len(batch.starts)),
        "digests": b"".join(batch.digests),
        "embeddings": batch.vectors.tobytes(),
        "width": batch.vectors.shape[1] * batch.vectors.itemsize,
    }


def adopt_look(connections: Connections, words: Words, keys: Sequence[Key]) -> tuple[AdoptableRows, int]:
    """Read the live rows of keys; see the contract."""
    with connections.snapshot() as connection:
        if all(len(key) == 1 and isinstance(key[0], int) for key in keys):
            found = connection.rows(words["adopt_look_numbered"], (integers([int(number) for (number,) in keys]),))
        else:
            found = connection.many_rows(words["adopt_look"], [(*key, place) for place, key in enumerate(keys, 1)])
    left = [row for row in found if not row[2]]
    places: list[int] = [row[0] for row in left]
    texts = [text_decode(column, connections.codec) for column in columns(left, 3)]
    return AdoptableRows([keys[place - 1] for place in places], [row[1] for row in left], texts), len(found)


def adopt_read(
    connections: Connections, words: Words, dimension: int, place: VectorPlace, after: Key | None, limit: int
) -> ForeignBatch:
    """Read the next rows of the source that have a vector in a column of the user's; see the contract."""
    key = ", ".join(f"t.{quoted(column)}" for column in words.source.table.key)
    beyond = f"({key}) > ({key_marks(after)})" if after else "1"
    width = len(words.source.table.key)
    with connections.snapshot() as connection:
        statement = words.fill("adopt_read", after=beyond, **_place_words(connection, words, place))
        found = connection.rows(statement, (*(after or ()), limit))
    texts = [text_decode(column, connections.codec) for column in columns(found, width + 3)]
    rows = AdoptableRows([row[:width] for row in found], [row[width] for row in found], texts)
    vectors, sized = vectors_decode([row[width + 1] for row in found], dimension)
    return ForeignBatch(rows, vectors, sized, [row[width + 2] for row in found])


def adopt_end(connections: Connections, words: Words, rows: int) -> None:
    """Leave what is missing as leases that have expired; see the contract."""
    while True:
        with connections.transaction() as connection:
            if not hand_out(SqliteClaiming(connection, words, "", rows, 0)):
                return


def _place_words(connection: Connection, words: Words, place: VectorPlace) -> dict[str, str]:
    source = words.source
    table = table_inspect(connection, place.table) if place.table is not None else source.table
    alias = "t" if place.table is None else "v"
    foreign = {
        "vector": f"{alias}.{_column(table, place.vector)}",
        "digest": "NULL" if place.digest is None else f"{alias}.{_column(table, place.digest)}",
        "foreign": "",
    }
    if place.table is not None:
        pairs = zip(place.key, source.table.key, strict=True)
        equal = " AND ".join(f"v.{_column(table, theirs)} = t.{quoted(ours)}" for theirs, ours in pairs)
        foreign["foreign"] = f"JOIN app.{quoted(table.name)} v ON {equal}"
    return foreign


def _column(table: Table, name: str) -> str:
    if table.column(name) is None:
        raise UnknownColumnError(table.name, name, tuple(known.name for known in table.columns))
    return quoted(name)
