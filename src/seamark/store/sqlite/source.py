"""Following a user's table: its journal, the triggers that feed it, the enrolment of what is there, and the way back.

The user's file is another file than the sidecar, and no transaction spans the two. Attaching writes the sidecar's row first and
then, in one transaction, everything in the user's file; detaching goes the other way round. Killed in between and run again,
each finds the row that says what to complete.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from seamark.model import Enrolment, filter_columns
from seamark.store.conflict import conflict_check
from seamark.store.sqlite.catalog import columns_dump, generations_list, journal_exists, source_load, spec_dump
from seamark.store.sqlite.filters import filter_literal
from seamark.store.sqlite.keys import key_dump, key_marks, key_read
from seamark.store.sqlite.stamps import (
    owed_name,
    stamp_empty,
    stamp_empty_before,
    stamps_drop,
    stamps_lost,
    stamps_made,
    stamps_make,
    stamps_plan,
)
from seamark.store.sqlite.tables import columns_generated, key_collations
from seamark.store.sqlite.words import STATEMENTS, generation_words, journal_name, quoted, source_words, table_words
from seamark.store.stamps import gone_told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from seamark.model import Generation, Source, SourceSpec, Table, Touch
    from seamark.store.sqlite.connection import Connection, Connections
    from seamark.store.sqlite.words import Words


def sources_list(connection: Connection) -> list[Source]:
    """Return all sources, by id, each with its table as it was when it was attached."""
    return [source_load(row) for row in connection.rows(STATEMENTS["sources"])]


def journal_transaction(
    connections: Connections, source: Source, *, durable: bool = True
) -> AbstractContextManager[Connection]:
    """Begin a transaction on the file that has the source's journal; keep it short."""
    return connections.transaction() if source.spec.track == "poll" else connections.user_transaction(durable=durable)


def source_create(connections: Connections, name: str, spec: SourceSpec, table: Table) -> Source:
    """Make the source's row, its journal and its triggers."""
    assert table.key
    with connections.user_transaction() if spec.track == "triggers" else nullcontext():
        pass  # a file that cannot be written is refused here, before the sidecar has a source that nothing follows
    values = (name, table.name, columns_dump(table), key_dump(table.key), spec_dump(spec))
    with connections.transaction() as connection:
        conflict_check(sources_list(connection), name, spec, table)
        connection.run(STATEMENTS["source_insert"], values)
        found = next(one for one in sources_list(connection) if one.name == name)
        stamps_plan(connection, found)
        shape = _shape(connection, found)
        kept = bool(generations_list(connection, found.id))
    with journal_transaction(connections, found) as connection:
        stamps_make(connection, found)
        _follow(connection, found, shape, keep=kept or found.enrolled is not None or found.state == "ready")
    return found


def source_enroll(connections: Connections, words: Words, limit: int) -> Enrolment:
    """Enter the next rows in key order, and remember the last of them."""
    source = words.source
    if source.state == "ready":
        return Enrolment(0, done=True)
    with connections.use() as connection:
        stored = next((one for one in sources_list(connection) if one.id == source.id), source)
    if stored.state == "ready":
        return Enrolment(0, done=True)
    columns = ", ".join(f"t.{quoted(column)}" for column in source.table.key)
    passed = stored.enrolled or ()
    beyond = f"({columns}) > ({key_marks(passed)})" if passed else "1"
    with journal_transaction(connections, source) as connection:
        found = connection.row(words.fill("enroll_last", after=beyond), (*passed, limit))
        last = () if found is None else key_read(found[:-1], connections.codec)
        if last:
            statement = words.fill("enroll", after=beyond, until=f"({columns}) <= ({key_marks(last)})")
            connection.run(statement, (*passed, *last))
    rows = 0 if found is None else found[-1]
    done = rows < limit
    with connections.transaction() as connection:
        enrolled = key_dump(last) if last else None
        state = "ready" if done else "enrolling"
        connection.run(STATEMENTS["source_enrolled"], (enrolled, state, source.id))
    return Enrolment(rows, done=done)


def source_forget(connections: Connections, source: Source, *, stamps: bool) -> None:
    """Take everything of ours out of the user's file; the stamp columns that were made only if that is asked for."""
    words = source_words(source)
    with connections.use() as connection:
        made = stamps_made(connection, source) if stamps else []
    with journal_transaction(connections, source) as connection:
        for trigger in _triggers(source, _Shape()):
            connection.run(f"DROP TRIGGER IF EXISTS {quoted(trigger)}")
        connection.run(STATEMENTS["journal_drop"].format_map(words))
        stamps_drop(connection, source, made)


def collection_create(connections: Connections, name: str) -> None:
    """Make the table of a collection if it is not there."""
    with connections.user_transaction() as connection:
        connection.run(STATEMENTS["collection_create"].format(table_here=quoted(name)))


def collection_put(connections: Connections, name: str, documents: Sequence[tuple[str, str, str]]) -> int:
    """Insert or update documents by path; return how many changed."""
    rows = [tuple(_storable(text) for text in document) for document in documents]
    with connections.user_transaction() as connection:
        statement = STATEMENTS["collection_put"].format(table_here=quoted(name))
        return len(connection.many_rows(statement, rows))


def source_restore(connections: Connections, source: Source) -> list[str]:
    """Make stamps and the journal, if they are gone, and triggers that are not as they were made; return the triggers' names.

    The journal of a table that was dropped and made again is kept: an audit finds what is not true of it any more.
    """
    with connections.use() as connection:
        shape = _shape(connection, source)
        wanted = _triggers(source, shape)
        standing = _standing(connection, wanted, "app")
    with journal_transaction(connections, source) as connection:
        stamps_make(connection, source)
        _follow(connection, source, shape, keep=True)
    return sorted(name for name in wanted if standing.get(name) != wanted[name])


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the triggers have to know of a table, but for its columns' names."""

    generated: frozenset[str] = frozenset()
    collations: tuple[str | None, ...] = ()


def _shape(connection: Connection, source: Source) -> _Shape:
    generated = columns_generated(connection, source.table.name)
    return _Shape(generated, key_collations(connection, source.table))


def _follow(connection: Connection, source: Source, shape: _Shape, *, keep: bool) -> None:
    """Bring journal and triggers about, in the transaction that is open.

    A journal that is there already is kept when what feeds it is just what would be made now (the sidecar has been lost), or
    when the sidecar counts on its `seq` values (`keep`). Else it was made for other words, and is begun anew.
    """
    words = source_words(source)
    wanted = _triggers(source, shape)
    standing = _standing(connection, wanted, "main")
    present = journal_exists(connection, source, "main")
    if present and standing == wanted:
        return
    for trigger in wanted:
        connection.run(f"DROP TRIGGER IF EXISTS {quoted(trigger)}")
    if present and not keep:
        connection.run(STATEMENTS["journal_drop"].format_map(words))
    if not present or not keep:
        for statement in ("journal_create", "journal_key", "journal_deleted"):
            connection.run(STATEMENTS[statement].format_map(words))
    if any(shape.collations):
        collated = ", ".join(_collated(f"k{place}", name) for place, name in enumerate(shape.collations, 1))
        connection.run(STATEMENTS["journal_alike"].format_map(words | {"keys_collated": collated}))
    for sql in wanted.values():
        connection.run(sql)


def source_faults(connection: Connection, source: Source) -> list[str]:
    """Say which tables or triggers are not as they were made, and whether the file is older than what was indexed of it."""
    gone = tables_gone(connection, source)
    faults = [f"tables of ours are gone: {', '.join(gone)}"] if gone else []
    if lost := stamps_lost(connection, source):
        faults.append(gone_told(lost))
    wanted = _triggers(source, _shape(connection, source))
    standing = _standing(connection, wanted, "app")
    before = partial(stamp_empty_before, source.table, source.spec.stamp)
    missing = sorted(name for name, sql in wanted.items() if standing.get(name) not in (sql, before(sql)))
    if missing:
        faults.append(f"triggers are gone or changed: {', '.join(missing)}")
    if faults:
        return faults
    statement = STATEMENTS["witness_broken"].format_map(source_words(source))
    if connection.value(statement, {"source": source.id}):
        return ["the file is older than what was indexed of it, as after a restored backup"]
    return []


def tables_gone(connection: Connection, source: Source) -> list[str]:
    """Return the names of the source's tables of ours that are not there, retired generations' included, which lend vectors."""
    ours = [name for one in generations_list(connection, source.id) for name in _tables(one)]
    ours += [owed_name(source)] if source.spec.stamp else []
    place = "main" if source.spec.track == "poll" else "app"
    looked = ((place, [journal_name(source.table.name)]), ("main", ours))
    statement = STATEMENTS["tables_gone"]
    return [
        name for schema, names in looked for (name,) in connection.rows(statement.format(schema=schema), (json.dumps(names),))
    ]


def _tables(generation: Generation) -> list[str]:
    words = generation_words(generation.id)
    kinds = ("rows", "postings", "failures") if generation.model is None else ("rows", "chunks", "kept", "failures")
    return [words[kind] for kind in kinds]


def _standing(connection: Connection, wanted: Mapping[str, str], schema: str) -> dict[str, str]:
    statement = STATEMENTS["triggers"].format(schema=schema, names=", ".join("?" * len(wanted)))
    return dict(connection.rows(statement, tuple(wanted)))


def _triggers(source: Source, shape: _Shape) -> dict[str, str]:
    """Return name → statement of all triggers of a source; a polled one has none."""
    if source.spec.track == "poll":
        return {}
    table, spec = source.table, source.spec
    on = quoted(table.name)
    own = [text.column for text in spec.text if text.table is None]
    watched = list(dict.fromkeys([*own, *filter_columns(spec.where)]))
    key_changed = _changed(table.key)
    # No list of columns catches a generated column, nor a key that is set by one of the names of SQLite's rowid.
    of = "" if shape.generated.intersection(watched) else " OF " + ", ".join(quoted(column) for column in watched)
    new, tombstone = _upsert(source, "NEW"), _upsert(source, "OLD", deleted="1")
    emptied = stamp_empty(table, spec.stamp, _row_is(table, "NEW"))
    arrived = _displace(source, shape) + new + emptied
    found = {
        f"seamark_insert_{table.name}": f"AFTER INSERT ON {on} BEGIN\n{arrived}\nEND",
        f"seamark_delete_{table.name}": f"AFTER DELETE ON {on} BEGIN\n{tombstone}\nEND",
        f"seamark_rekey_{table.name}": f"AFTER UPDATE ON {on} WHEN {key_changed} BEGIN\n{tombstone}\n{arrived}\nEND",
    }
    if watched:
        changed = f"NOT ({key_changed}) AND ({_changed(watched)})"
        found[f"seamark_update_{table.name}"] = f"AFTER UPDATE{of} ON {on} WHEN {changed} BEGIN\n{new}{emptied}\nEND"
    for number, touch in enumerate(spec.touch, 1):
        found |= _touch_triggers(source, touch, number)
    return {name: f"CREATE TRIGGER {quoted(name)} {body}" for name, body in found.items()}


def _touch_triggers(source: Source, touch: Touch, number: int) -> dict[str, str]:
    on = quoted(touch.table)
    texts = [text.column for text in source.spec.text if text.table == touch.table]
    watched = list(dict.fromkeys([*texts, *touch.columns]))
    of = ", ".join(quoted(column) for column in watched)
    moved = _changed(touch.columns)
    place = f"{number}_{source.table.name}"
    new, old = _touch(source, touch, "NEW"), _touch(source, touch, "OLD")
    left = _touch(source, touch, "OLD", f"({moved})")
    return {
        f"seamark_touch_insert_{place}": f"AFTER INSERT ON {on} BEGIN\n{new}\nEND",
        f"seamark_touch_delete_{place}": f"AFTER DELETE ON {on} BEGIN\n{old}\nEND",
        f"seamark_touch_update_{place}": f"AFTER UPDATE OF {of} ON {on} WHEN {_changed(watched)} BEGIN\n{left}\n{new}\nEND",
    }


def _upsert(source: Source, row: str, deleted: str | None = None) -> str:
    columns = [f"{row}.{quoted(column)}" for column in source.table.key]
    words = table_words(source.table) | {
        "deleted": _deleted(source, row) if deleted is None else deleted,
        "row": ", ".join(columns),
        "row_present": " AND ".join(f"{column} IS NOT NULL" for column in columns),
        "j_is_row": _entry_is(columns),
    }
    return STATEMENTS["journal_upsert"].format_map(words) + ";"


def _displace(source: Source, shape: _Shape) -> str:
    """Return what an arriving key does to those that its collation calls equal; nothing where it has none."""
    if not any(shape.collations):
        return ""
    columns = [f"NEW.{quoted(column)}" for column in source.table.key]
    alike = [_collated(column, name) for column, name in zip(columns, shape.collations, strict=True)]
    words = table_words(source.table) | {"j_is_row": _entry_is(columns), "j_is_alike": _entry_is(alike)}
    return STATEMENTS["journal_displace"].format_map(words) + ";\n"


def _entry_is(values: Sequence[str]) -> str:
    return " AND ".join(f"k{place} = +{value}" for place, value in enumerate(values, 1))


def _collated(column: str, collation: str | None) -> str:
    return column if collation is None else f"{column} COLLATE {quoted(collation)}"


def _touch(source: Source, touch: Touch, row: str, condition: str = "1") -> str:
    pairs = list(zip(source.table.key, touch.columns, strict=True))
    words = table_words(source.table) | {
        "deleted": _deleted(source, "t"),
        "t_is_reference": " AND ".join(f"t.{quoted(key)} = {row}.{quoted(column)}" for key, column in pairs),
        "condition": condition,
    }
    row_is = " AND ".join(f"{quoted(key)} = {row}.{quoted(column)}" for key, column in pairs)
    return STATEMENTS["journal_touch"].format_map(words) + ";" + stamp_empty(source.table, source.spec.stamp, row_is)


def _row_is(table: Table, row: str) -> str:
    return " AND ".join(f"{quoted(column)} = {row}.{quoted(column)}" for column in table.key)


def _deleted(source: Source, row: str) -> str:
    where = source.spec.where
    return "0" if where is None else f"NOT coalesce({filter_literal(where, row)}, 0)"


def _changed(columns: Sequence[str]) -> str:
    """Compare byte by byte: a column's own collation may hold another spelling for the same."""
    return " OR ".join(f"OLD.{quoted(one)} IS NOT NEW.{quoted(one)} COLLATE BINARY" for one in columns)


def _storable(text: str) -> str:
    """Return the text with U+FFFD for lone surrogates, which no database takes."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
