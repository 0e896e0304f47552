"""Upkeep of the indexes: building HNSW, merging and purging postings, and statistics for the planner.

One process at a time does it for a generation: it holds an advisory lock in a transaction of its own, on a connection that does
nothing else, since CREATE INDEX CONCURRENTLY cannot run inside one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from psycopg import errors

from seamark.model import POSTING
from seamark.store.blocks import BLOCK_POSTINGS, BLOCKS_LOOSE, blocks_loose, blocks_merge, postings_load
from seamark.store.postgres import codec
from seamark.store.postgres.stamps import stamps_maintain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seamark.store.blocks import Block
    from seamark.store.postgres.catalog import Catalog
    from seamark.store.postgres.connection import Connection, Database, Row
    from seamark.store.postgres.names import Words

UPKEEP_LOCK = 0x5EA3
"""The first half of our advisory locks for upkeep; the second is the generation. The number is arbitrary."""
INDEX_CHUNKS = 5_000
"""From so many chunks on a search of the HNSW index is faster than an exact one."""
INDEX_CHUNK_BYTES = 900
"""What building the graph takes for a chunk beyond its vector, 740 with these settings; a graph for which the memory does not
suffice is finished on disk, many times slower."""
INDEX_MEMORY_MIN_KB, INDEX_MEMORY_MAX_KB = 64 * 1024, 2 * 1024 * 1024
SETTLES_BUSY, BLOCKS_BUSY = 32, 16
"""While there is other work, so many settles are let go by between two passes, and so many blocks may a term have."""
POSTING_BYTES = np.dtype(POSTING).itemsize
TERMS_STEP = 2_000
POSTINGS_STEP = 2_000_000
"""Terms and postings that one step of a pass takes at most: 16 MB of postings."""
DOCUMENTS_CHECK = 10
"""A tenth of the documents is given out anew between two looks at how many are dead."""
DEAD_SHARE = 4
"""A quarter as many dead documents as current ones is worth a purge."""


def generation_maintain(database: Database, catalog: Catalog, generation_id: int, *, idle: bool) -> bool:
    """Do one piece of upkeep that is due; see the contract."""
    words = catalog.generation_words(generation_id)
    if words is None:
        return False
    with database.transaction() as holding:
        if not _held(database, holding, generation_id):
            return False
        if _analyze(database, generation_id, words):
            return True
        with database.connection() as connection:
            upkeep = database.run(connection, "generation_upkeep", {}, {"generation": generation_id}).fetchone()
        if upkeep is None:
            return False
        kind, dimension = upkeep
        source = catalog.tracked(int(words["source_id"])).source
        stamped = bool(source.spec.stamp) and stamps_maintain(database, catalog, source, generation_id)
        if stamped or kind == "vector":
            return stamped or _index_build(database, generation_id, words, dimension)
        return _Postings(database, generation_id, words).maintain(idle=idle)


def _held(database: Database, holding: Connection, generation_id: int) -> bool:
    """Take the lock, unless another process has it."""
    cursor = database.run(holding, "upkeep_lock", {"lock": str(UPKEEP_LOCK), "generation": str(generation_id)})
    cursor.nextset()
    return cursor.fetchall()[0][0]


def _analyze(database: Database, generation_id: int, words: Words) -> bool:
    """Gather statistics of tables that have been filled and never looked at; later autovacuum sees to it."""
    names = [f"rows_{generation_id}", f"chunks_{generation_id}", f"postings_{generation_id}", words["journal"].split(".")[1]]
    with database.connection() as connection:
        due = [name for (name,) in database.run(connection, "analyze_due", {}, {"tables": names})]
        for name in due:
            connection.execute(f"ANALYZE seamark.{name}".encode())
    return bool(due)


# --- HNSW ---------------------------------------------------------------------------------------------------------


def index_built(database: Database, connection: Connection, generation_id: int, words: Words) -> bool:
    """Say whether a generation needs no HNSW index that it does not have: it is of words, has it, or is small."""
    kind, _ = database.run(connection, "generation_upkeep", {}, {"generation": generation_id}).fetchone() or ("lexical", 0)
    if kind == "lexical":
        return True
    valid = database.run(connection, "index_state", {}, {"name": _index_name(generation_id)}).fetchone()
    if valid is not None and valid[0]:
        return True
    due = database.run(connection, "index_due", words, {"generation": generation_id, "enough": INDEX_CHUNKS}).fetchone()
    return due is None or not due[0]


def _index_name(generation_id: int) -> str:
    return f"chunks_{generation_id}_hnsw"


def _index_build(database: Database, generation_id: int, words: Words, dimension: int) -> bool:
    words = words | {"index": _index_name(generation_id)}
    with database.connection() as connection:
        if index_built(database, connection, generation_id, words):
            return False
        [(chunks,)] = database.run(connection, "index_size", words).fetchall()
        number = 4 if words["stored"] == "vector" else 2
        memory = min(max(chunks * (number * dimension + INDEX_CHUNK_BYTES) // 1024, INDEX_MEMORY_MIN_KB), INDEX_MEMORY_MAX_KB)
        try:
            connection.execute(f"SET maintenance_work_mem = '{memory}kB'".encode())
            with database.cancellable(connection):
                _index_build_now(database, connection, words)
        finally:
            if not connection.closed:
                connection.execute(b"RESET maintenance_work_mem")
    return True


def _index_build_now(database: Database, connection: Connection, words: Words) -> None:
    """Build the index; a parallel build can ask for more shared memory than a container has."""
    database.run(connection, "index_drop", words)
    try:
        database.run(connection, "index_build", words)
    except (errors.DiskFull, errors.OutOfMemory):
        database.run(connection, "index_drop", words)
        connection.execute(b"SET max_parallel_maintenance_workers = 0")
        try:
            database.run(connection, "index_build", words)
        finally:
            connection.execute(b"RESET max_parallel_maintenance_workers")


# --- postings -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stand:
    """Where the upkeep stands; see `seamark.postings_upkeep`. `issued` is the last document number given out."""

    merged: int
    upto: int
    term: str | None
    purging: bool
    checked: int
    issued: int


class _Postings:
    def __init__(self, database: Database, generation_id: int, words: Words) -> None:
        self._database, self._generation, self._words = database, generation_id, words

    def maintain(self, *, idle: bool) -> bool:
        """Take one step: of the pass under way, else of a pass that is due."""
        with self._database.transaction() as connection:
            row = self._run(connection, "postings_upkeep")
            stand = _Stand(*row[0])
            if stand.term is None:
                begun = self._begin(connection, stand, idle=idle)
                if begun is None:
                    return False
                stand = begun
            after = self._purge(connection, stand) if stand.purging else self._merge(connection, stand, idle=idle)
            self._write(connection, after)
            return True

    def _begin(self, connection: Connection, stand: _Stand, *, idle: bool) -> _Stand | None:
        [(settles,)] = self._run(connection, "blocks_since", merged=stand.merged)
        if settles > (BLOCKS_LOOSE if idle else SETTLES_BUSY):
            return replace(stand, term="", upto=stand.issued, purging=False)
        if stand.issued - stand.checked <= stand.checked // DOCUMENTS_CHECK:
            return None
        [(total, current)] = self._run(connection, "documents_dead")
        stand = replace(stand, checked=stand.issued)
        if total - current > current // DEAD_SHARE:
            return replace(stand, term="", upto=stand.issued, purging=True)
        self._write(connection, stand)
        return None

    def _merge(self, connection: Connection, stand: _Stand, *, idle: bool) -> _Stand:
        """Merge the newest blocks of the next crowded terms; what is dead in them is left to a purge."""
        found = self._run(
            connection,
            "terms_crowded",
            merged=stand.merged,
            upto=stand.upto,
            term=stand.term,
            first=stand.term == "",
            full=BLOCK_POSTINGS,
            loose=BLOCKS_LOOSE if idle else BLOCKS_BUSY,
            limit=TERMS_STEP,
        )
        runs = [(term, blocks[-run], blocks[-1]) for term, blocks, docs in found if (run := blocks_loose(docs))]
        if runs:
            terms, firsts, lasts = zip(*runs, strict=True)
            blobs: dict[str, list[bytes]] = {}
            values = {"terms": codec.array(terms), "firsts": codec.array(firsts), "lasts": codec.array(lasts)}
            for term, data in self._run(connection, "blocks_take", **values):
                blobs.setdefault(term, []).append(data)
            self._copy(connection, [(term, block) for term, data in blobs.items() for block in _merged(data)])
        if len(found) < TERMS_STEP:
            return replace(stand, term=None, merged=stand.upto)
        return replace(stand, term=found[-1][0])

    def _purge(self, connection: Connection, stand: _Stand) -> _Stand:
        """Drop dead postings of the next terms from all their blocks."""
        found = self._run(
            connection, "terms_next", term=stand.term, first=stand.term == "", limit=TERMS_STEP, postings=POSTINGS_STEP
        )
        if not found:
            return replace(stand, term=None, merged=stand.upto)
        runs = [(term, blocks) for term, blocks, _ in found]
        blobs: dict[str, list[bytes]] = {term: [] for term, _ in runs}
        for term, data in self._run(connection, "blocks_read", **_listed(runs)):
            blobs[term].append(data)
        live = self._current(connection, [data for each in blobs.values() for data in each])
        purged = {term: blocks_merge(each, live) for term, each in blobs.items()}
        changed = [
            (term, blocks) for term, blocks in runs if _postings(purged[term]) < sum(map(len, blobs[term])) // POSTING_BYTES
        ]
        if changed:
            self._run(connection, "blocks_delete", **_listed(changed))
            self._copy(connection, [(term, block) for term, _ in changed for block in purged[term]])
        return replace(stand, term=found[-1][0])

    def _current(self, connection: Connection, blobs: Sequence[bytes]) -> NDArray[np.uint32]:
        """Return those of the documents in the blobs that are current, ascending."""
        docs = np.unique(postings_load(blobs)["doc"])
        rows = self._run(connection, "documents_current", docs=codec.array(docs.tolist()))
        return np.array([doc for (doc,) in rows], np.uint32)

    def _copy(self, connection: Connection, blocks: Sequence[tuple[str, Block]]) -> None:
        rows = ((term, block.number, block.docs, block.lengths, block.data) for term, block in blocks)
        with self._database.copy(connection, "postings_copy", self._words) as copy:
            copy.write(codec.postings_encode(rows))

    def _write(self, connection: Connection, stand: _Stand) -> None:
        names = ("merged", "upto", "term", "purging", "checked")
        self._run(connection, "postings_upkeep_write", **{name: getattr(stand, name) for name in names})

    def _run(self, connection: Connection, name: str, **values: object) -> list[Row]:
        values["generation"] = self._generation
        cursor = self._database.run(connection, name, self._words, values, binary=name in ("blocks_read", "blocks_take"))
        return cursor.fetchall() if cursor.description else []


def _merged(blobs: Sequence[bytes]) -> Sequence[Block]:
    return blocks_merge(blobs, np.unique(postings_load(blobs)["doc"]))


def _postings(blocks: Sequence[Block]) -> int:
    return sum(block.docs for block in blocks)


def _listed(runs: Sequence[tuple[str, Sequence[int]]]) -> dict[str, str]:
    return {
        "terms": codec.array(term for term, blocks in runs for _ in blocks),
        "blocks": codec.array(block for _, blocks in runs for block in blocks),
    }
