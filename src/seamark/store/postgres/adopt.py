"""Adopting vectors that exist already: a generation set aside for it, the user's vectors read, and rows written with them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
from psycopg import errors

from seamark.errors import InvalidRequestError, TableUnusableError, UnknownColumnError
from seamark.model import AdoptableRows, ForeignBatch, WholeBatch
from seamark.store.claim import hand_out
from seamark.store.foreign import PLAIN, Form, columns, vectors_decode
from seamark.store.postgres import codec
from seamark.store.postgres.leases import claiming
from seamark.store.postgres.names import identifier, key_columns, key_width, pairs, qualified
from seamark.store.postgres.tables import table_inspect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Column, Key, Source, Table, VectorPlace
    from seamark.store.postgres.catalog import Catalog
    from seamark.store.postgres.connection import Connection, Database, Row
    from seamark.store.postgres.names import Words

_VECTOR = Form(4, 0, (">f4",))
_HALFVEC = Form(4, 0, (">f2",))
_ARRAY = Form(20, 4, (">f4",))
_EXTENDED = re.compile(r'(?:.*\.)?"?(vector|halfvec)"?(?:\(\d+\))?')


def rows_adopt(database: Database, catalog: Catalog, source: Source, generation_id: int, batch: WholeBatch) -> int:
    """Write rows that were not claimed; see the contract."""
    words = catalog.generation_words(generation_id)
    if words is None:
        return 0
    columns = key_columns(source.table)
    widths = [key_width(column) for column in columns]
    batch = replace(batch, keys=_uuids(batch.keys, [column.kind for column in columns]))
    values = {**codec.keys_columns(batch.keys, len(widths)), "seqs": codec.array(batch.seqs)}

    def adopt() -> int:
        with database.keyed() as connection:
            compared = database.run(connection, "adopt_compare", words, values).fetchall()
            current = _part(batch, [place - 1 for place, _, _ in compared])
            if not compared:
                return 0
            _, now, beside = compared[0]
            if not beside and _copied(database, connection, words, current, widths, now):
                return len(compared)
            written = {seq for (seq,) in database.run(connection, "adopt_rows", words, values)}
            won = _part(current, [place for place, seq in enumerate(current.seqs) if seq in written])
            if written:
                with database.copy(connection, "chunks_copy", words) as copy:
                    copy.write(_chunks_encode(won, widths))
            return len(written)

    return database.retried(adopt)


def _copied(
    database: Database, connection: Connection, words: Words, batch: WholeBatch, widths: Sequence[int], now: int
) -> bool:
    """Write rows that the generation holds no version of, in half the time that it takes to compare; False where it does."""
    try:
        with connection.transaction():
            with database.copy(connection, "rows_copy", words) as copy:
                copy.write(codec.rows_encode(batch.keys, widths, batch.seqs, now, "adopt"))
            with database.copy(connection, "chunks_copy", words) as copy:
                copy.write(_chunks_encode(batch, widths))
    except errors.UniqueViolation:
        return False
    return True


def _chunks_encode(batch: WholeBatch, widths: Sequence[int]) -> bytes:
    ordinals = np.zeros(len(batch.keys), np.int64)
    return codec.chunks_encode(batch.keys, widths, ordinals, batch.starts, batch.stops, batch.digests, batch.vectors)


def _part(batch: WholeBatch, places: list[int]) -> WholeBatch:
    """Return the rows of these places, in their order."""
    if places == list(range(len(batch.keys))):
        return batch
    return WholeBatch(
        [batch.keys[place] for place in places],
        [batch.seqs[place] for place in places],
        [batch.starts[place] for place in places],
        [batch.stops[place] for place in places],
        [batch.digests[place] for place in places],
        batch.vectors[places],
    )


def _uuids(keys: Sequence[Key], kinds: Sequence[str]) -> Sequence[Key]:
    """Return keys with their UUIDs as such: they may be given as text."""
    if "uuid" not in kinds:
        return keys
    return [
        tuple(
            [
                UUID(member) if kind == "uuid" and isinstance(member, str) else member
                for member, kind in zip(key, kinds, strict=True)
            ]
        )
        for key in keys
    ]


def adopt_look(
    database: Database, catalog: Catalog, source: Source, generation_id: int, keys: Sequence[Key]
) -> tuple[AdoptableRows, int]:
    """Read the live rows of keys; see the contract."""
    words = _words(catalog, generation_id)
    with database.keyed_snapshot() as connection:
        values = codec.keys_columns(keys, len(source.table.key))
        found = database.run(connection, "adopt_look", words, values, binary=True).fetchall()
    left = [row for row in found if not row[2]]
    places: list[int] = [row[0] for row in left]
    return AdoptableRows([keys[place - 1] for place in places], [row[1] for row in left], columns(left, 3)), len(found)


def adopt_read(
    database: Database, catalog: Catalog, source: Source, generation_id: int, place: VectorPlace, after: Key | None, limit: int
) -> ForeignBatch:
    """Read the next rows of the source that have a vector in a column of the user's; see the contract."""
    words = _words(catalog, generation_id)
    with database.connection() as connection:
        foreign, form, dimension = _place_words(database, connection, source, place, words, generation_id)
    words = words | foreign | {"after": "TRUE"}
    values: dict[str, Any] = {"limit": limit}
    if after is not None:
        words["after"] = f"({words['k_s']}) > ({words['key_values']})"
        values |= {f"k{position}": value for position, value in enumerate(after, start=1)}
    with database.keyed() as connection:
        try:
            found = database.run(connection, "adopt_read", words, values, binary=True).fetchall()
        except errors.DataError as exc:  # text, which is cast: of each type else a vector can be wrong, and is told as unusable
            raise TableUnusableError(
                f"column {place.vector!r} of table {place.table or source.table.name!r} holds what is no vector: "
                f"{exc.diag.message_primary}; text like [1,2,3] can be adopted"
            ) from exc
    width = len(source.table.key)
    rows = AdoptableRows(_keys(found, source), [row[width] for row in found], columns(found, width + 3))
    vectors, sized = vectors_decode([row[width + 1] for row in found], dimension, form)
    return ForeignBatch(rows, vectors, sized, [row[width + 2] for row in found])


def adopt_end(database: Database, catalog: Catalog, generation_id: int, rows: int) -> None:
    """Leave what is missing as leases that have expired; see the contract."""
    while True:
        with claiming(database, catalog, generation_id, "", rows, 0) as work:
            if work is None or not hand_out(work):
                return


def _words(catalog: Catalog, generation_id: int) -> Words:
    words = catalog.generation_words(generation_id)
    if words is None:
        raise InvalidRequestError(f"there is no generation {generation_id}; it may have been dropped since")
    return words


def _keys(found: Sequence[Row], source: Source) -> list[Key]:
    """Return the keys as they are elsewhere: text of an extension's type comes as bytes in the binary format."""
    columns = key_columns(source.table)
    if all(column.kind != "text" for column in columns):
        return [row[: len(columns)] for row in found]
    kinds = [column.kind for column in columns]
    return [
        tuple(
            member.decode() if kind == "text" and isinstance(member, bytes) else member
            for member, kind in zip(row[: len(columns)], kinds, strict=True)
        )
        for row in found
    ]


def _place_words(
    database: Database, connection: Connection, source: Source, place: VectorPlace, words: Words, generation_id: int
) -> tuple[Words, Form, int]:
    """Return the words for where the vectors are, how they are laid out, and the dimension of the generation."""
    table = table_inspect(database, connection, place.table) if place.table is not None else source.table
    alias = "s" if place.table is None else "v"
    column = _column(table, place.vector)
    expression, form = _expression(table, column, f"{alias}.{identifier(column.name)}", words["vector"])
    digest = "NULL::text"
    if place.digest is not None:
        digest = f"{alias}.{identifier(_column(table, place.digest).name)}"
    foreign = {"vector_sent": expression, "digest": digest, "there": f"{alias}.{identifier(column.name)}", "foreign": ""}
    if place.table is not None:
        keys = [f"v.{identifier(_column(table, name).name)}" for name in place.key]
        foreign["foreign"] = f"JOIN {qualified(table)} v ON {pairs(keys, words['k_s'].split(', '))}"
        values = {"table": qualified(table).replace("%%", "%"), "column": place.key[0]}
        if not database.run(connection, "adopt_indexed", {}, values).fetchall()[0][0]:
            raise InvalidRequestError(
                f"table {place.table!r} has no index that begins with {place.key[0]!r}, so that each row would be looked for "
                f"in all of it; CREATE INDEX ON {place.table} ({place.key[0]}), then run this again"
            )
    [(_, dimension)] = database.run(connection, "generation_upkeep", {}, {"generation": generation_id}).fetchall()
    return foreign, form, dimension


def _column(table: Table, name: str) -> Column:
    column = table.column(name)
    if column is None:
        raise UnknownColumnError(table.name, name, tuple(known.name for known in table.columns))
    return column


def _expression(table: Table, column: Column, value: str, vector: str) -> tuple[str, Form]:
    """Return what gives a column's vector as bytes, and how they are laid out."""
    if (extended := _EXTENDED.fullmatch(column.type)) is not None:
        return f"{vector}.{extended[1]}_send({value})", _VECTOR if extended[1] == "vector" else _HALFVEC
    if column.type in ("real[]", "double precision[]", "numeric[]"):
        return f"array_send({value}::real[])", _ARRAY
    if column.kind == "blob":
        return value, PLAIN
    if column.kind in ("text", "json"):
        return f"{vector}.vector_send({value}::text::{vector}.vector)", _VECTOR
    raise TableUnusableError(
        f"table {table.name!r}: column {column.name!r} is of type {column.type}; a vector, halfvec, array of numbers, bytea, "
        "or text like [1,2,3] can be adopted"
    )
