"""Vectors that are there already: found for rows that are to be embedded, left by a detach, and dropped when of no more use.

And what those have cost that had to be made.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from seamark.model.cost import Spent
from seamark.store.passing import PASSED_ROWS, UNSETTLED_ROWS, left_over
from seamark.store.sqlite.batches import vectors_put
from seamark.store.sqlite.claims import MICROSECONDS, clock
from seamark.store.sqlite.words import STATEMENTS, generation_words

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from seamark.model import Key, Lease, ModelIdentity, StoredVectors
    from seamark.store.sqlite.connection import Connection, Connections, Row
    from seamark.store.sqlite.words import Words


PREPAID_SECONDS = 3600.0
"""Longer than a lease can be under way whose worker has found its vectors among those that are paid for."""


def vectors_known(
    connections: Connections, words: Words, keys: Sequence[Key], held: Sequence[Key], digests: Collection[bytes]
) -> Mapping[bytes, StoredVectors]:
    """Look for digests among what is stored of the rows, nearest first, until all are found."""
    lacking = set(digests)
    found: dict[bytes, StoredVectors] = {}

    def look(name: str, keys: Iterable[Sequence[object]], **tables: str) -> None:
        rows: Iterable[Row] = connection.many_rows(words.fill(name, **tables), keys) if keys and lacking else ()
        for digest, embedding in rows:
            if digest in lacking:
                found[digest] = np.frombuffer(embedding, stored).copy()
                lacking.discard(digest)

    with connections.use() as connection, connection.transaction("BEGIN"):  # what is listed is not dropped meanwhile
        stored = np.dtype[np.float16 | np.float32](connection.value(words["generation_precision"], (words.generation,)))
        look("vectors_find", held)
        if lacking and connection.value(words["kept_any"]):
            look("vectors_kept", keys)
        if lacking:
            above = connection.value(STATEMENTS["unsettled_above"], (words.generation,))
            look("vectors_unsettled", [(above, UNSETTLED_ROWS, json.dumps([digest.hex() for digest in lacking]))])
        if lacking and connection.value(STATEMENTS["prepaid_any"], (words.generation,)):
            look("vectors_prepaid", [(words.generation, digest) for digest in lacking])
        if lacking:
            for (donor,) in connection.rows(words["vectors_donors"], {"generation": words.generation}):
                look("vectors_find", keys, **generation_words(donor))
                look("vectors_kept", keys, **generation_words(donor))
    return found


def vectors_pass_on(
    connections: Connections, words: Words, lease: Lease, keys: Sequence[Key], settled: Mapping[bytes, int]
) -> None:
    """Put the vectors of rows by that have left the table, if rows wait that may be the same ones under another key."""
    with connections.use() as connection:
        above = connection.value(STATEMENTS["unsettled_above"], (words.generation,))
        values = {"above": above, "lo": lease.lo, "hi": lease.hi, "limit": UNSETTLED_ROWS}
        if above is None or not connection.value(words["rows_waiting"], values):
            return
        stored = np.dtype[np.float16 | np.float32](connection.value(words["generation_precision"], (words.generation,)))
    unmatched = dict(settled)
    for start in range(0, len(keys), PASSED_ROWS):
        with connections.use() as connection:
            leaving = connection.many_rows(words["vectors_leaving"], keys[start : start + PASSED_ROWS])
        if found := left_over(leaving, unmatched):
            vectors = np.frombuffer(b"".join(found.values()), stored).reshape(len(found), -1)
            vectors_put(connections, words.generation, list(found), vectors)


def digests_known(
    connections: Connections,
    words: Words,
    model: ModelIdentity,
    precision: str,
    keys: Sequence[Key],
    digests: Collection[bytes],
) -> frozenset[bytes]:
    """Look for digests among what generations of a model hold of the rows."""
    wanted, found = set(digests), set[bytes]()
    with connections.use() as connection, connection.transaction("BEGIN"):
        donors = connection.rows(
            STATEMENTS["digests_donors"], {"source": words.source.id, "precision": precision, **asdict(model)}
        )
        for (donor,) in donors:
            for name in ("digests_find", "digests_kept"):
                rows = connection.many_rows(words.fill(name, **generation_words(donor)), keys)
                found |= wanted.intersection(digest for (digest,) in rows)
            if connection.value(STATEMENTS["prepaid_any"], (donor,)):
                rows = connection.many_rows(STATEMENTS["digests_prepaid"], [(donor, digest) for digest in wanted - found])
                found.update(digest for (digest,) in rows)
    return frozenset(found)


def spend_add(connections: Connections, generation: int, worker: str, spent: Spent) -> None:
    """Add to what a generation has cost."""
    with connections.transaction() as connection:
        connection.run(STATEMENTS["spend_add"], (worker, spent.calls, spent.texts, spent.tokens, generation))


def spends(connections: Connections, source_id: int) -> dict[int, Spent]:
    """Return what each generation of a source has cost."""
    with connections.use() as connection:
        return {number: Spent(*found) for number, *found in connection.rows(STATEMENTS["spends"], (source_id,))}


def donors_drop(connections: Connections, table: str) -> int:
    """Drop what detaches have left of a table; return how many generations that was."""
    with connections.transaction() as connection:
        return _drop(connection, connection.rows(STATEMENTS["donors_find"], (table,)))


def donors_trim(connections: Connections, seconds: float) -> int:
    """Drop what was left longer ago than that, or is held by an active generation by now; return how many generations."""
    with connections.use() as connection:
        before = {"before": clock(connection) - int(seconds * MICROSECONDS)}
        old = clock(connection) - int(PREPAID_SECONDS * MICROSECONDS)
        connection.run(STATEMENTS["prepaid_trim"], (old,))
        if not connection.rows(STATEMENTS["donors_spent"], before):
            return 0
    with connections.transaction() as connection:
        return _drop(connection, connection.rows(STATEMENTS["donors_spent"], before))


def _drop(connection: Connection, donors: Sequence[Row]) -> int:
    for (donor,) in donors:
        connection.run(STATEMENTS["donor_drop"].format_map(generation_words(donor)))
    return len(donors)


def kept_trim(connections: Connections, words: Words) -> int:
    """Drop what is put by of rows that are no longer in the table; return how many vectors."""
    with connections.use() as connection:
        if not connection.value(words["kept_any"]):
            return 0
    with connections.transaction() as connection:
        connection.run(words["kept_trim"])
        return connection.changes()
