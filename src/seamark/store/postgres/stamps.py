"""Stamps on the user's table: its columns, the triggers that empty them, writing them as rows are settled, and mending them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors
from psycopg.types.json import Jsonb

from seamark.errors import StoreError, StoreUnavailableError, TableUnusableError
from seamark.store.activation import Standing
from seamark.store.postgres import codec
from seamark.store.postgres.names import identifier, key_columns, literal, qualified
from seamark.store.postgres.triggers import edited
from seamark.store.stamps import OWED_ROWS, PASS_ROWS, PASS_SECONDS, STAMP_MARK, stamps_empty, stamps_gone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Key, Source, StampName
    from seamark.store.postgres.catalog import Catalog, Tracked
    from seamark.store.postgres.connection import Connection, Database, Row
    from seamark.store.postgres.names import Words

_TYPES: dict[StampName, str] = {
    "embedded_model_id": "text",
    "embedded_model_version": "text",
    "embedded_at": "timestamptz",
    "has_embedding": "boolean NOT NULL DEFAULT false",
    "embed_gen": "integer",
}
_FUNCTION = """CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {body}"""
_BODY = "BEGIN RETURN pg_catalog.jsonb_populate_record(NEW, {empty}); END"
"""Unlike an assignment, this is no error in the user's write where a column has gone or has another name by now."""
_TRIGGER = """CREATE TRIGGER {name} BEFORE {event} ON {source} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION {function}()"""


# --- columns and triggers -----------------------------------------------------------------------------------------


def stamps_create(database: Database, connection: Connection, tracked: Tracked, words: Words) -> None:
    """Make the columns that are not there, the triggers that empty them, and the table of what is owed."""
    source = tracked.source
    stamps_restore(database, connection, source, words)
    asked = _asked(source)
    if unfit := [name for (name,) in database.run(connection, "stamp_unfit", {}, asked)]:
        raise TableUnusableError(
            f"table {source.table.name!r}: the stamp column {unfit[0]!r} is generated, or NOT NULL; let it be empty"
        )
    database.run(connection, "owed_create", words | owed_words(source))
    try:
        stamps_follow(connection, tracked)
    except errors.InvalidObjectDefinition as exc:  # a trigger that comes before the write cannot look at a generated column
        raise TableUnusableError(
            f"table {source.table.name!r} cannot be stamped: a column of its text or `where` is generated, and PostgreSQL "
            f"computes it only after the trigger that would empty the stamp ({exc.diag.message_primary})"
        ) from exc
    _types_check(database, connection, source, words)


def stamps_restore(database: Database, connection: Connection, source: Source, words: Words) -> list[StampName]:
    """Make the columns that are not there, and return them; remember which are ours."""
    lost = stamps_lost(database, connection, source)
    for name in lost:
        column = {"column": f"{identifier(name)} {_TYPES[name]}", "name": identifier(name), "mark": literal(STAMP_MARK)}
        database.run(connection, "stamp_add", words | column)
    marked = _marked(database, connection, source)
    kept = [name for name in source.spec.stamp if name in marked]
    database.run(connection, "stamps_made_write", {}, {"source": source.id, "columns": kept})
    return lost


def stamps_lost(database: Database, connection: Connection, source: Source) -> list[StampName]:
    """Return the columns that the user's table does not have."""
    if not source.spec.stamp:
        return []
    values = {"schema": source.table.schema, "table": source.table.name}
    return stamps_gone(source.spec.stamp, [name for name, _ in database.run(connection, "table_types", {}, values)])


def _asked(source: Source) -> dict[str, object]:
    """Return the values of the statements that look at the columns."""
    return {"table": qualified(source.table).replace("%%", "%"), "columns": list(_TYPES), "mark": STAMP_MARK}


def _marked(database: Database, connection: Connection, source: Source) -> set[str]:
    return {name for (name,) in database.run(connection, "stamps_marked", {}, _asked(source))}


def stamps_follow(connection: Connection, tracked: Tracked) -> None:
    """Make the triggers that empty them, where there are any."""
    for statement in _triggers(tracked) if tracked.source.spec.stamp else ():
        connection.execute(statement.encode(), {})


def stamps_made(database: Database, connection: Connection, source: Source) -> list[StampName]:
    """Return the columns that were made, now or for an earlier attach."""
    [(made,)] = database.run(connection, "stamps_made", {}, {"source": source.id}).fetchall()
    ours = {*made, *_marked(database, connection, source)}
    return [name for name in _TYPES if name in ours]


def stamps_drop(database: Database, connection: Connection, source: Source) -> None:
    """Take the columns away again that were made."""
    asked = _asked(source)
    for name in stamps_made(database, connection, source):
        used = [told for (told,) in database.run(connection, "stamp_used", {}, asked | {"column": name})]
        if used:  # PostgreSQL would drop an index and a constraint with the column
            raise _undroppable(source, name, f"{', '.join(used)} would go with it")
        try:
            database.run(connection, "stamp_remove", {"source": qualified(source.table), "column": identifier(name)})
        except errors.DependentObjectsStillExist as exc:
            raise _undroppable(source, name, exc.diag.message_detail or exc.diag.message_primary or str(exc)) from exc


def _undroppable(source: Source, name: str, why: str) -> TableUnusableError:
    told = "; ".join(why.splitlines())
    return TableUnusableError(
        f"column {name!r} of table {source.table.name!r} cannot be dropped: {told}; drop what uses it first"
    )


def stamps_owed(database: Database, source: Source) -> int:
    """Return how many rows are owed their stamp."""
    if not source.spec.stamp:
        return 0
    with database.connection() as connection:
        [(count,)] = database.run(connection, "owed_count", owed_words(source)).fetchall()
    return count


def owed_drop(database: Database, connection: Connection, source: Source) -> None:
    """Drop the table of what is owed."""
    database.run(connection, "owed_drop", owed_words(source))


def _types_check(database: Database, connection: Connection, source: Source, words: Words) -> None:
    """Stamp no rows, so that what cannot work fails here."""
    tried = words | _stamp_words(database, source, (0, "", ""))
    tried["rows"] = database.compose("stamp_rows_none", tried)
    try:
        database.run(connection, "stamp_mend", tried, codec.keys_columns([], len(source.table.key)))
    except (errors.DatatypeMismatch, errors.UndefinedFunction, errors.InvalidTextRepresentation) as exc:
        names = ", ".join(source.spec.stamp)
        raise TableUnusableError(
            f"table {source.table.name!r} cannot be stamped with {names}: {exc.diag.message_primary}"
        ) from exc


def _triggers(tracked: Tracked) -> list[str]:
    """Return the statements that make the triggers.

    Triggers fire in the order of their names: ours looks at what those of the user's have made of the row.
    """
    source = tracked.source
    empty = stamps_empty(source.spec.stamp)
    written = " OR ".join(f"NEW.{identifier(name)} IS DISTINCT FROM {literal(value)}" for name, value in empty.items())
    found: list[str] = []
    for event, condition in (("insert", written), ("update", edited(tracked))):
        function = f"seamark.track_{source.id}_stamp_{event}"
        body = _BODY.format(empty=f"'{json.dumps(empty)}'::pg_catalog.jsonb")
        found.append(_FUNCTION.format(function=function, body=literal(body)))
        words = {"name": identifier(f"~seamark_{source.id}_stamp_{event}"), "event": event.upper(), "condition": condition}
        found.append(_TRIGGER.format(**words, source=qualified(source.table), function=function))
    return found


# --- writing ------------------------------------------------------------------------------------------------------


def stamps_settle(
    database: Database, connection: Connection, words: Words, source: Source, generation_id: int, keys: Sequence[Key]
) -> None:
    """Stamp rows that have just been written, in the transaction that has written them; at its end, because it locks them.

    That a stamp cannot be written is no reason to lose the vectors: the row is owed its stamp then.
    """
    read = database.run(connection, "stamp_generation", {}, {"source": source.id}).fetchone()
    if not keys or read is None or read[0] != generation_id:
        return
    _mend_or_owe(database, connection, words | _stamp_words(database, source, read), keys)


def _mend_or_owe(database: Database, connection: Connection, words: Words, keys: Sequence[Key]) -> None:
    """Stamp the rows with what is true of them; those that somebody is at, or that refuse it, are owed it."""
    done: set[Key] = set()
    try:
        with connection.transaction():
            done = _mend(database, connection, words, keys)
    except psycopg.DatabaseError:
        done = set()
    _owe(database, connection, words, [key for key in keys if key not in done])


def _mend(database: Database, connection: Connection, words: Words, keys: Sequence[Key]) -> set[Key]:
    """Stamp those of the rows with what is true of them that nobody else is at; return which those are."""
    width = len(keys[0])
    held = {tuple(row) for row in database.run(connection, "stamp_hold", words, codec.keys_columns(keys, width))}
    if held:
        database.run(connection, "stamp_mend", words, codec.keys_columns(sorted(held, key=str), width))
    return held


def stamps_clear(
    database: Database, catalog: Catalog, source: Source, generation_id: int | None, after: int | None
) -> int | None:
    """Empty the stamps of the next rows that a generation does not hold; see the contract."""
    words = catalog.words(source.id)
    held, rows, unless = "false", database.compose("stamp_rows_none", words), ""
    if generation_id is not None:
        own = catalog.generation_words(generation_id)
        if own is None:
            return None
        words, held, rows = own, database.compose("stamp_held", {}), own["rows"]
        unless = database.compose("stamp_unless_held", own | {"held": held})  # it may have come to hold a row since
    with database.keyed() as connection:
        if after is None:  # what is emptied here is compared anew by whichever generation is read in the end
            _compare_anew(database, connection, source)
            after = _done_to(database, connection, words, generation_id)
        values = {"after": after, "limit": OWED_ROWS}
        found = database.run(connection, "stamp_holding", words | {"held": held, "rows": rows}, values).fetchall()
        keys = [tuple(row[:-2]) for row in found if not row[-1]]
        if keys:
            nothing = _words_none(database, source, words, rows)
            _mend_or_owe(database, connection, nothing | {"differs": f"({nothing['differs']}){unless}"}, keys)
        return found[-1][-2] if len(found) == OWED_ROWS else None


def stamps_compare(database: Database, source: Source) -> None:
    """Have all stamps compared anew by upkeep."""
    with database.connection() as connection:
        _compare_anew(database, connection, source)


def _compare_anew(database: Database, connection: Connection, source: Source) -> None:
    values = {"source": source.id, "generation": None, "key": None, "done": False}
    database.run(connection, "stamp_state_write", {}, values)


def _done_to(database: Database, connection: Connection, words: Words, generation_id: int | None) -> int:
    """Return up to where a generation holds everything."""
    if generation_id is None:
        return 0
    values = {"generation": generation_id}
    row = database.run(connection, "generation_standing", {}, values).fetchone()
    if (
        row is None
        or not Standing(*row).filled
        or database.run(connection, "generation_failing", words, values).fetchone() != (False,)
    ):
        return 0
    return Standing(*row).confirmed


def _owe(database: Database, connection: Connection, words: Words, keys: Sequence[Key]) -> None:
    if keys:
        database.run(connection, "owed_add", words, codec.keys_columns(keys, len(keys[0])))


# --- mending ------------------------------------------------------------------------------------------------------


def stamps_maintain(database: Database, catalog: Catalog, source: Source, generation_id: int) -> bool:
    """Write what is owed, or compare the next rows; say whether anything was done."""
    with database.connection() as connection:
        read = database.run(connection, "stamp_generation", {}, {"source": source.id}).fetchone()
    if read is None:
        words = catalog.words(source.id)
        return _owed_write(database, _words_none(database, source, words, database.compose("stamp_rows_none", words)))
    if read[0] != generation_id:
        return False
    words = (catalog.generation_words(generation_id) or {}) | _stamp_words(database, source, read)
    return _owed_write(database, words) or _pass(database, words, source, generation_id)


def _owed_write(database: Database, words: Words) -> bool:
    with database.connection() as connection:
        keys = [tuple(row) for row in database.run(connection, "owed_take", words, {"limit": OWED_ROWS})]
    if not keys:
        return False
    try:
        return _owed_mend(database, words, keys) > 0
    except StoreUnavailableError:
        raise
    except StoreError:  # one of the rows refuses it, by a trigger or a constraint of the user's
        return sum(_owed_mend_one(database, words, key) for key in keys) > 0


def _owed_mend(database: Database, words: Words, keys: Sequence[Key]) -> int:
    with database.keyed() as connection:
        done = _mend(database, connection, words, keys)
        gone = [key for key in keys if key not in done and not _there(database, connection, words, key)]
        if settled := [*done, *gone]:
            database.run(connection, "owed_remove", words, codec.keys_columns(settled, len(keys[0])))
        return len(settled)


def _owed_mend_one(database: Database, words: Words, key: Key) -> int:
    try:
        return _owed_mend(database, words, [key])
    except StoreUnavailableError:
        raise
    except StoreError:
        return 0


def _there(database: Database, connection: Connection, words: Words, key: Key) -> bool:
    """Say whether the table has the row at all."""
    return database.run(connection, "stamp_there", words, codec.keys_columns([key], len(key))).fetchone() is not None


def _pass(database: Database, words: Words, source: Source, generation_id: int) -> bool:
    """Compare the next rows of the table with what is true of them."""
    values = {"source": source.id, "microseconds": round(PASS_SECONDS * 1e6)}
    with database.keyed() as connection:
        state = database.run(connection, "stamp_state", {}, values).fetchone()
        if state is None:
            return False
        by, stored, under_way, old = state
        if by == generation_id and not under_way and not old:
            return False
        last = codec.key_load(stored, key_columns(source.table)) if by == generation_id and under_way else None
        found = _compared(database, connection, words, last)
        keys = [key for key, differs in found if differs]
        if keys:
            _owe(database, connection, words, keys)  # and it is written at once by the next piece
        done = len(found) < PASS_ROWS
        key = None if done else Jsonb(codec.key_dump(found[-1][0]))
        database.run(connection, "stamp_state_write", {}, values | {"generation": generation_id, "key": key, "done": done})
        return True


def _compared(database: Database, connection: Connection, words: Words, last: Key | None) -> list[tuple[Key, bool]]:
    after, values = "TRUE", dict[str, Any]()
    if last is not None:
        after = f"({words['k_s']}) > ({words['key_values']})"
        values = {f"k{position}": value for position, value in enumerate(last, start=1)}
    rows = database.run(connection, "stamp_next", words | {"after": after}, values | {"limit": PASS_ROWS}).fetchall()
    return [(tuple(row[:-1]), row[-1]) for row in rows]


# --- words --------------------------------------------------------------------------------------------------------


def owed_words(source: Source) -> Words:
    """Return the word for the table of what is owed."""
    return {"owed": f"seamark.owed_{source.id}"}


def _words_none(database: Database, source: Source, words: Words, rows: str) -> Words:
    """Return the words for stamping rows with nothing; `rows` stands for those of a generation."""
    return words | {"rows": rows} | _stamp_words(database, source, (0, "", "")) | {"held": "false"}


def _stamp_words(database: Database, source: Source, read: Row) -> Words:
    """Return the words for what a row is stamped with, `read` being the generation and its model."""
    generation, model, version = read
    written: dict[StampName, str] = {
        "embedded_model_id": f"CASE WHEN b.held THEN {literal(model)} END",
        "embedded_model_version": f"CASE WHEN b.held THEN {literal(version)} END",
        "embedded_at": "CASE WHEN b.held THEN timestamptz 'epoch' + b.embedded_at * interval '1 microsecond' END",
        "has_embedding": "b.held",
        "embed_gen": f"CASE WHEN b.held THEN {generation} END",
    }
    chosen = {identifier(name): written[name] for name in source.spec.stamp}
    return owed_words(source) | {
        "held": database.compose("stamp_held", {}),
        "stamps": ", ".join(f"{name} = {value}" for name, value in chosen.items()),
        "differs": " OR ".join(f"s.{name} IS DISTINCT FROM {value}" for name, value in chosen.items()),
    }
