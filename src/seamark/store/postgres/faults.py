"""What is wrong with what feeds a journal: triggers that do not fire, writes they let pass, partitions that came or went."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from seamark.store.postgres.generations import generations
from seamark.store.postgres.names import generation_words, identifier, qualified
from seamark.store.postgres.stamps import stamps_lost
from seamark.store.postgres.triggers import trigger_stems
from seamark.store.stamps import gone_told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seamark.model import Source
    from seamark.store.postgres.catalog import Catalog
    from seamark.store.postgres.connection import Connection, Database

_BEHIND = "its sequence was set back behind what is indexed"
_MISSED = "rows were written while a column that its triggers read, or a table, had another name or type; they are missing"


def source_faults(database: Database, catalog: Catalog, source: Source) -> Sequence[str]:
    """Say what is wrong; see the contract."""
    words = catalog.words(source.id)
    values = {
        "pattern": f"track\\_{source.id}\\_%",
        "truncate": f"^track_{source.id}_truncate_[0-9]+$",
        "source": source.id,
        "root": qualified(source.table).replace("%%", "%"),
    }
    with database.connection() as connection:
        if gone := tables_gone(database, connection, source):
            return [f"tables of ours are gone: {', '.join(gone)}"]
        if lost := stamps_lost(database, connection, source):
            return [gone_told(lost)]
        if source.spec.track == "triggers" and (unfed := _triggers(database, connection, catalog, source, values)):
            return unfed
        [(missed, behind)] = database.run(connection, "journal_state", words, values).fetchall()
    if missed:
        return [_MISSED]
    return [_BEHIND] if behind else []


def _triggers(
    database: Database, connection: Connection, catalog: Catalog, source: Source, values: Mapping[str, object]
) -> list[str]:
    """Say which triggers do not fire, and which partitions they do not speak for."""
    there = {name.removeprefix("track_") for (name,) in database.run(connection, "functions", {}, values)}
    if not there:
        return ["triggers are gone, with their functions; rows written since are missing"]
    bare = [(f"seamark_{stem}", None) for stem in trigger_stems(source) if stem not in there]
    if off := [*database.run(connection, "triggers_off", {}, values).fetchall(), *bare]:  # those that are gone come last
        return [_off(table, [name for name, _ in names]) for table, names in groupby(off, key=lambda row: row[1])]
    return _partitions(database, connection, catalog, source, values)


def tables_gone(database: Database, connection: Connection, source: Source) -> list[str]:
    """Return the names of the source's tables and sequences that are not there, retired generations' included."""
    kinds = ("journal", "seq", "missed", *(("owed",) if source.spec.stamp else ()))
    names = [f"seamark.{kind}_{source.id}" for kind in kinds]
    for one in generations(database, connection, source.id):
        words = generation_words(one.id)
        own = ("postings", "documents") if one.model is None else ("chunks", "kept")  # a retired one's are lent from
        names += [words[kind] for kind in ("rows", *own, "failures")]
    return [name for (name,) in database.run(connection, "tables_gone", {}, {"names": names}).fetchall()]


def _off(table: str | None, names: Sequence[str]) -> str:
    where = "gone" if table is None else f"switched off on table {table}"
    return f"triggers are {where}: {', '.join(names)}; rows written since are missing"


def _partitions(
    database: Database, connection: Connection, catalog: Catalog, source: Source, values: Mapping[str, object]
) -> list[str]:
    """Say which partitions came with rows, or went with theirs. One that was made empty is well: its rows come by triggers."""
    [(left,)] = database.run(connection, "partitions_left", {}, values).fetchall()
    told = [f"{left} of its partitions were dropped or detached; their rows are still counted"] if left else []
    if source.state != "ready":
        return told
    new = database.run(connection, "partitions_new", {}, values).fetchall()
    known = catalog.partitions_empty(source.id, [oid for oid, *_ in new])
    for oid, name, schema, table in new:
        if oid in known:
            continue
        words = catalog.words(source.id) | {"partition": f"{identifier(schema)}.{identifier(table)}"}
        [(unentered,)] = database.run(connection, "partition_unentered", words).fetchall()
        if unentered:
            told.append(f"partition {name} was attached with rows in it; they are missing")
        else:
            known.add(oid)
    return told
