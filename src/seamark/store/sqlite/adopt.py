"""Adopting vectors that exist already: a generation set aside for it, the user's vectors read, and rows written with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.errors import UnknownColumnError
from seamark.model import ForeignBatch, Lease, SourceRow
from seamark.store.claim import hand_out
from seamark.store.foreign import vectors_decode
from seamark.store.sqlite.claims import SqliteClaiming, text_decode
from seamark.store.sqlite.keys import key_marks
from seamark.store.sqlite.settle import Settling
from seamark.store.sqlite.tables import table_inspect
from seamark.store.sqlite.words import quoted

if TYPE_CHECKING:
    from seamark.model import Key, Table, VectorBatch, VectorPlace
    from seamark.store.sqlite.connection import Connection, Connections
    from seamark.store.sqlite.words import Words


def rows_adopt(connections: Connections, words: Words, batch: VectorBatch) -> int:
    """Write rows that were not claimed; see the contract."""
    nobody = Lease(0, words.generation, words.source.id, "backfill", 0, 0, "adopt", 0, 0)
    with connections.transaction() as connection:
        return Settling(connection, words, nobody).adopt(batch)


def adopt_read(
    connections: Connections, words: Words, dimension: int, place: VectorPlace, after: Key | None, limit: int
) -> ForeignBatch:
    """Read the next rows of the source that have a vector in a column of the user's; see the contract."""
    columns = ", ".join(f"t.{quoted(column)}" for column in words.source.table.key)
    beyond = f"({columns}) > ({key_marks(after)})" if after else "1"
    width = len(words.source.table.key)
    with connections.snapshot() as connection:
        statement = words.fill("adopt_read", after=beyond, **_place_words(connection, words, place))
        found = connection.rows(statement, (*(after or ()), limit))
    rows = tuple(
        SourceRow(row[:width], row[width], live=True, texts=text_decode(row[width + 3 :], connections.codec)) for row in found
    )
    vectors, sized = vectors_decode([row[width + 1] for row in found], dimension)
    return ForeignBatch(rows, vectors, sized, tuple(row[width + 2] for row in found))


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
