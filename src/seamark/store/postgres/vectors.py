"""Vectors that are there already: found for rows that are to be embedded, left by a detach, and dropped when of no more use.

And what those have cost that had to be made. What is listed may be dropped before it is read: other processes do so. It is then
as if it had not been listed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg import errors
from psycopg.types.json import Jsonb

from seamark.errors import StoreError
from seamark.model.cost import Spent
from seamark.store.passing import PASSED_ROWS, UNSETTLED_ROWS, left_over
from seamark.store.postgres import codec
from seamark.store.postgres.batches import vectors_put
from seamark.store.postgres.names import generation_words, key_columns, key_type

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from seamark.model import Key, Lease, ModelIdentity, Source, StoredVectors, Table
    from seamark.store.postgres.catalog import Catalog
    from seamark.store.postgres.connection import Connection, Database, Row
    from seamark.store.postgres.names import Words

PREPAID_SECONDS = 3600.0
"""Longer than a lease can be under way whose worker has found its vectors among those that are paid for."""
_HEADER_BYTES = 4
"""Of a vector in binary: its dimension, and two bytes that are not used."""


def vectors_known(
    database: Database,
    catalog: Catalog,
    generation_id: int,
    keys: Sequence[Key],
    held: Sequence[Key],
    digests: Collection[bytes],
) -> Mapping[bytes, StoredVectors]:
    """Look for digests among what is stored of the rows, nearest first, until all are found."""
    words = catalog.generation_words(generation_id)
    lacking = set(digests)
    found: dict[bytes, StoredVectors] = {}
    if words is None:
        return found
    if held:
        found |= _find(database, words, words["chunks"], held, lacking)
    for donor in _donors(database, catalog, generation_id, words) if lacking - found.keys() else ():
        tables = generation_words(donor)
        if donor == generation_id:
            # In this order: what is settled meanwhile has been put by before.
            for look in (_unsettled, _prepaid):
                if lacking - found.keys():
                    found |= look(database, words, generation_id, lacking - found.keys())
        else:
            found |= _find(database, words, tables["chunks"], keys, lacking - found.keys())
        if lacking - found.keys():
            found |= _find(database, words, tables["kept"], keys, lacking - found.keys())
        if lacking <= found.keys():
            break
    return found


def _donors(database: Database, catalog: Catalog, generation_id: int, words: Words) -> Sequence[int]:
    table = catalog.tracked(int(words["source_id"])).source.table
    values = {"generation": generation_id, **_identity(table)}
    with database.connection() as connection:
        donors = database.run(connection, "vectors_donors", _unsettled_words(database, words), values).fetchall()
    return [donor for (donor,) in donors]


def _unsettled_words(database: Database, words: Words) -> Words:
    return words | {"unsettled_above": database.compose("unsettled_above", {})}


def _prepaid(database: Database, words: Words, generation_id: int, digests: Collection[bytes]) -> dict[bytes, StoredVectors]:
    values = {"generation": generation_id, "digests": codec.array(digests)}
    with database.keyed() as connection:
        rows = database.run(connection, "vectors_prepaid", {}, values, binary=True).fetchall()
    stored = _stored(words)
    return {digest: np.frombuffer(data, stored).copy() for digest, data in rows}


def _unsettled(database: Database, words: Words, generation_id: int, digests: Collection[bytes]) -> dict[bytes, StoredVectors]:
    values = {"generation": generation_id, "limit": UNSETTLED_ROWS, "digests": codec.array(digests)}
    with database.keyed() as connection:
        rows = database.run(connection, "vectors_unsettled", _unsettled_words(database, words), values, binary=True).fetchall()
    return _decoded(words, rows)


def vectors_pass_on(
    database: Database, catalog: Catalog, lease: Lease, keys: Sequence[Key], settled: Mapping[bytes, int]
) -> None:
    """Put the vectors of rows by that have left the table, if rows wait that may be the same ones under another key."""
    words = catalog.generation_words(lease.generation_id)
    if words is None:
        return
    values = {"generation": lease.generation_id, "lo": lease.lo, "hi": lease.hi, "limit": UNSETTLED_ROWS}
    with database.keyed() as connection:
        [(waiting,)] = database.run(connection, "rows_waiting", _unsettled_words(database, words), values)
        if not waiting:
            return
    unmatched = dict(settled)
    for start in range(0, len(keys), PASSED_ROWS):
        asked = codec.keys_columns(keys[start : start + PASSED_ROWS], len(keys[0]))
        with database.keyed() as connection:
            rows = database.run(connection, "vectors_leaving", words, asked, binary=True).fetchall()
        if found := _decoded(words, list(left_over(rows, unmatched).items())):
            vectors_put(database, lease.generation_id, list(found), np.stack(list(found.values())))


def _stored(words: Words) -> np.dtype[np.float16 | np.float32]:
    return np.dtype(np.float32 if words["stored"] == "vector" else np.float16)


def _find(
    database: Database, words: Words, table: str, keys: Sequence[Key], digests: Collection[bytes]
) -> dict[bytes, StoredVectors]:
    return _decoded(words, _rows(database, "vectors_find", words, table, keys, digests))


def _decoded(words: Words, rows: Sequence[Row]) -> dict[bytes, StoredVectors]:
    """Return vectors by their digests, from rows in binary."""
    stored = _stored(words)
    return {digest: np.frombuffer(data[_HEADER_BYTES:], stored.newbyteorder(">")).astype(stored) for digest, data in rows}


def _rows(
    database: Database, name: str, words: Words, table: str, keys: Sequence[Key], digests: Collection[bytes]
) -> Sequence[Row]:
    """Look digests up in a table; none are found in one that has been dropped since."""
    values = {**codec.keys_columns(keys, len(keys[0])), "digests": codec.array(digests)}
    try:
        with database.keyed() as connection:
            return database.run(connection, name, words | {"vectors": table}, values, binary=True).fetchall()
    except StoreError as exc:
        if isinstance(exc.__cause__, errors.UndefinedTable):
            return ()
        raise


def digests_known(
    database: Database,
    catalog: Catalog,
    source: Source,
    model: ModelIdentity,
    precision: str,
    keys: Sequence[Key],
    digests: Collection[bytes],
) -> frozenset[bytes]:
    """Look for digests among what generations of a model hold of the rows."""
    words = catalog.words(source.id)
    values = {"source": source.id, "precision": precision, **asdict(model)}
    with database.connection() as connection:
        identity = _identity(catalog.tracked(source.id).source.table)
        donors = database.run(connection, "digests_donors", {}, values | identity).fetchall()
    found = set[bytes]()
    for (donor,) in donors if keys else ():
        for name in ("chunks", "kept"):
            table = generation_words(donor)[name]
            found.update(digest for (digest,) in _rows(database, "digests_find", words, table, keys, digests))
        prepaid = {"generation": donor, "digests": codec.array(digests)}
        with database.connection() as connection:
            rows = database.run(connection, "digests_prepaid", {}, prepaid, binary=True).fetchall()
        found.update(digest for (digest,) in rows)
    return frozenset(found)


def spend_add(database: Database, generation_id: int, worker: str, spent: Spent) -> None:
    """Add to what a generation has cost."""
    with database.keyed() as connection:
        database.run(connection, "spend_add", {}, {"generation": generation_id, "worker": worker, **asdict(spent)})


def spends(database: Database, source_id: int) -> dict[int, Spent]:
    """Return what each generation of a source has cost."""
    with database.connection() as connection:
        return {number: Spent(*found) for number, *found in database.run(connection, "spends", {}, {"source": source_id})}


def donors_write(database: Database, connection: Connection, table: Table, generations: Sequence[int]) -> None:
    """Leave the vectors of generations to those that come after, in the transaction that drops them; nobody searches them."""
    for generation in generations:
        database.run(connection, "donor_insert", {}, {"generation": generation, **_identity(table)})
        database.run(connection, "hnsw_drop", {"index": f"chunks_{generation}_hnsw"})


def _identity(table: Table) -> dict[str, Any]:
    key = [[column.name, key_type(column)] for column in key_columns(table)]
    return {"schema": table.schema, "table": table.name, "key": Jsonb(key)}


def donors_drop(database: Database, table: str) -> int:
    """Drop what detaches have left of a table, named as when it was attached; return how many generations that was."""
    schema, _, name = table.rpartition(".")
    with database.transaction() as connection:
        return _drop(database, connection, "donors_find", {"schema": None, "table": table}) or _drop(
            database, connection, "donors_find", {"schema": schema or None, "table": name}
        )


def donors_forget(database: Database, connection: Connection, table: Table) -> None:
    """Do the same for a table that is attached, in the transaction that detaches it."""
    _drop(database, connection, "donors_find", {"schema": table.schema, "table": table.name})


def donors_trim(database: Database, seconds: float) -> int:
    """Drop what was left longer ago than that, or is held by an active generation by now; return how many generations."""
    with database.connection() as connection:
        database.run(connection, "prepaid_trim", {}, {"microseconds": round(PREPAID_SECONDS * 1e6)})
    with database.transaction() as connection:
        return _drop(database, connection, "donors_spent", {"microseconds": round(seconds * 1e6)})


def _drop(database: Database, connection: Connection, name: str, values: Mapping[str, object]) -> int:
    donors = database.run(connection, name, {}, values).fetchall()
    for (donor,) in donors:
        database.run(connection, "donor_drop", generation_words(donor))
    return len(donors)


def kept_trim(database: Database, catalog: Catalog, source_id: int) -> int:
    """Drop what is put by of rows that are no longer in the table; return how many vectors."""
    with database.connection() as connection:
        found = database.run(connection, "generations", {}, {"source": source_id}).fetchall()
        numbers = [number for number, _, kind, *_ in found if kind == "vector"]
        words = [catalog.words(source_id) | generation_words(number) for number in numbers]
        return sum(database.run(connection, "kept_trim", one).rowcount for one in words)
