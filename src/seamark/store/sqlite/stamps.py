"""Stamps on the user's table: its columns, what empties them, writing them after rows are settled, and mending them.

The user's file is another than ours, so that a settle puts down first that a stamp is owed, and then the stamp is written. Who
was killed in between has left the row owed. The user's file is locked before it is looked up what is true: nobody else can then
write an older truth after ours.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import apsw

from seamark.errors import StoreError, TableUnusableError
from seamark.store.activation import Standing
from seamark.store.sqlite.claims import MICROSECONDS, clock
from seamark.store.sqlite.filters import literal
from seamark.store.sqlite.keys import key_dump, key_load, key_marks, key_read, key_sound
from seamark.store.sqlite.words import STATEMENTS, quoted, table_words
from seamark.store.stamps import OWED_ROWS, PASS_ROWS, PASS_SECONDS, STAMP_MARK, stamps_empty, stamps_gone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Key, Source, StampName, Table
    from seamark.store.sqlite.connection import Connection, Connections, Row
    from seamark.store.sqlite.words import Words

_TYPES: dict[StampName, str] = {
    "embedded_model_id": "TEXT",
    "embedded_model_version": "TEXT",
    "embedded_at": "TEXT",
    "has_embedding": "INTEGER NOT NULL DEFAULT 0",
    "embed_gen": "INTEGER",
}
WAIT_MILLISECONDS = 200
"""An application that writes for longer is not waited for: the stamps are owed."""


# --- columns and triggers -----------------------------------------------------------------------------------------


def stamps_plan(connection: Connection, source: Source) -> None:
    """Remember which columns are to be made, and make the table of what is owed, in the transaction that is open."""
    names = source.spec.stamp
    if not names:
        return
    words = {"names": ", ".join(literal(name) for name in names)}
    unfit = connection.rows(STATEMENTS["stamp_unfit"].format_map(words), (source.table.name,))
    if unfit:
        raise TableUnusableError(
            f"table {source.table.name!r}: the stamp column {unfit[0][0]!r} is generated, or NOT NULL; let it be empty"
        )
    there = {column.name.lower() for column in source.table.columns}
    if not _planned(connection, source):
        written = connection.value(STATEMENTS["stamps_marked"], (source.table.name,)) or ""
        made = [name for name in names if name not in there or _marked(name) in written]
        connection.run(STATEMENTS["stamps_made_write"], (json.dumps(made), source.id))
    owed_create(connection, source)


def owed_create(connection: Connection, source: Source) -> None:
    """Make the table of what is owed, if it is not there."""
    connection.run(STATEMENTS["owed_create"].format_map(_owed(source) | table_words(source.table)))


def owed_name(source: Source) -> str:
    """Return the name of the table of what is owed."""
    return f"owed_{source.id}"


def stamps_make(connection: Connection, source: Source) -> None:
    """Make the columns that are not there, in the transaction on the user's file that is open."""
    there = [name for (name,) in connection.rows(STATEMENTS["stamp_columns"], (source.table.name,))]
    for name in stamps_gone(source.spec.stamp, there):
        words = table_words(source.table) | {"column": f"{_marked(name)} {_TYPES[name]}"}
        connection.run(STATEMENTS["stamp_add"].format_map(words))


def stamps_lost(connection: Connection, source: Source) -> list[StampName]:
    """Return the columns that the user's table has lost."""
    columns = connection.rows(STATEMENTS["table_columns"], (source.table.name,))
    return stamps_gone(source.spec.stamp, [column for column, *_ in columns])


def stamps_remade(connection: Connection, source: Source, names: Sequence[StampName]) -> None:
    """Remember that these columns are about to be made, too."""
    made = [name for name in source.spec.stamp if name in {*_planned(connection, source), *names}]
    connection.run(STATEMENTS["stamps_made_write"], (json.dumps(made), source.id))


def _marked(name: StampName) -> str:
    """Return how a column that we make begins in the table's definition, which SQLite keeps word for word."""
    return f"{quoted(name)} /* {STAMP_MARK} */"


def stamps_made(connection: Connection, source: Source) -> list[StampName]:
    """Return the columns that were made, now or for an earlier attach."""
    written = connection.value(STATEMENTS["stamps_marked"], (source.table.name,)) or ""
    ours = {*_planned(connection, source), *(name for name in _TYPES if _marked(name) in written)}
    return [name for name in _TYPES if name in ours]


def _planned(connection: Connection, source: Source) -> list[StampName]:
    """Return the columns that this attach was to make, or has found made."""
    return json.loads(connection.value(STATEMENTS["stamps_made"], (source.id,)) or "[]")


def stamps_drop(connection: Connection, source: Source, made: Sequence[str]) -> None:
    """Take columns away again, in the transaction on the user's file that is open."""
    there = {name for (name,) in connection.rows(STATEMENTS["stamp_columns"], (source.table.name,))}
    for name in made:
        if name in there:
            words = table_words(source.table) | {"column": quoted(name)}
            try:
                connection.run(STATEMENTS["stamp_remove"].format_map(words))
            except apsw.SQLError as error:
                raise TableUnusableError(
                    f"column {name!r} of table {source.table.name!r} cannot be dropped: {error}; drop what uses it first"
                ) from error


def owed_drop(connection: Connection, source: Source) -> None:
    """Drop the table of what is owed."""
    connection.run(STATEMENTS["owed_drop"].format_map(_owed(source)))


def stamps_owed(connection: Connection, source: Source) -> int:
    """Return how many rows are owed their stamp."""
    return connection.value(STATEMENTS["owed_count"].format_map(_owed(source))) if source.spec.stamp else 0


def stamp_empty(table: Table, names: tuple[StampName, ...], row_is: str) -> str:
    """Return what a trigger does to the stamp of a row; nothing where there are no stamps."""
    if not names:
        return ""
    empty = {quoted(name): literal(value) for name, value in stamps_empty(names).items()}
    words = table_words(table) | {
        "row_is": row_is,
        "empty": ", ".join(f"{name} = {value}" for name, value in empty.items()),
        "stamped": " OR ".join(f"{_there(table, name)} IS NOT {value}" for name, value in empty.items()),
    }
    return "\n" + STATEMENTS["stamp_empty"].format_map(words) + ";"


def _there(table: Table, name: str) -> str:
    """Name a column with its table: alone, a quoted name that is no column is a string, so that the column could be dropped."""
    return f"{quoted(table.name)}.{name}"


def stamp_empty_before(table: Table, names: tuple[StampName, ...], trigger: str) -> str:
    """Return a trigger as it was made when it named the columns alone: it does what it did."""
    for name in map(quoted, names):
        trigger = trigger.replace(f"{_there(table, name)} IS NOT ", f"{name} IS NOT ")
    return trigger


# --- writing ------------------------------------------------------------------------------------------------------


def stamps_owe(connection: Connection, words: Words, rows: Sequence[Row]) -> None:
    """Put down that rows (key and seq) are to be stamped, where search reads this generation, in the settle's transaction."""
    read = connection.row(STATEMENTS["stamp_generation"], (words.source.id,))
    if rows and read is not None and read[0] == words.generation:
        connection.many(words.fill("owed_add", **_owed(words.source)), rows)


def stamps_settle(connections: Connections, words: Words) -> None:
    """Write what is owed, unless somebody else is writing to the user's file."""
    while _owed_write(connections, words):
        pass


def stamps_maintain(connections: Connections, words: Words) -> bool:
    """Write what is owed, or compare the next rows; say whether anything was done."""
    with connections.use() as connection:
        read = connection.row(STATEMENTS["stamp_generation"], (words.source.id,))
    if read is not None and read[0] != words.generation:
        return False
    return _owed_write(connections, words) or (read is not None and _pass(connections, words, read))


def _owed_write(connections: Connections, words: Words) -> bool:
    owed = _owed(words.source)
    with connections.use() as connection:
        rows = connection.rows(words.fill("owed_take", **owed), (OWED_ROWS,))
        read = connection.row(STATEMENTS["stamp_generation"], (words.source.id,))
    if not rows or (read is not None and read[0] != words.generation):
        return False
    try:
        done = _mend(connections, words, read, [row[:-1] for row in rows])
    except StoreError:  # busy, or not ours to write: what was settled is settled, and the stamps stay owed
        return False
    with connections.transaction() as connection:
        connection.many(words.fill("owed_remove", **owed), [row for row in rows if row[:-1] in done])
    return bool(done)


def _mend(connections: Connections, words: Words, read: Row | None, keys: Sequence[Key]) -> set[Key]:
    """Stamp the rows with what is true of them; return those that no trigger or constraint of the user's has refused.

    Where search reads no generation, nothing is true of them, whatever the one at hand holds.
    """
    known, write = _statements(words, len(keys[0]))
    empty = tuple(stamps_empty(words.source.spec.stamp).values())
    done: set[Key] = set()
    with connections.user_transaction(durable=False, wait_milliseconds=WAIT_MILLISECONDS) as writing:
        with connections.use() as connection:
            if connection.row(STATEMENTS["stamp_generation"], (words.source.id,)) != read:
                return set()  # search reads another one since, and what that holds has been looked up before us
            true = connection.many_rows(known, keys)
        for key, (seq, held, moment) in zip(keys, true, strict=True):
            stamp = _stamp(words.source, read, moment) if held and read is not None else empty
            try:
                writing.run(write, (*key, *stamp, seq))
            except apsw.ConstraintError:
                continue
            done.add(key)
    return done


def stamps_clear(connections: Connections, words: Words, after: int | None) -> int | None:
    """Empty the stamps of the next rows that a generation, or no generation, holds; see the contract."""
    held, rows = (STATEMENTS["stamp_held"], words.word("rows")) if words.generation else ("0", words["stamp_rows_none"])
    if after is None:  # what is emptied here is compared anew by whichever generation is read in the end
        with connections.transaction() as connection:
            stamps_compare(connection, words.source)
            after = _done_to(connection, words)
    with connections.use() as connection:
        found = connection.rows(words.fill("stamp_holding", held=held, rows=rows), (after, OWED_ROWS))
    keys = [(key_read(row[:-2], connections.codec), *row[-2:]) for row in found]
    unheld = [(*key, seq) for key, seq, is_held in keys if not is_held and key_sound(key)]
    if unheld:
        _empty(connections, words, unheld)
    return found[-1][-2] if len(found) == OWED_ROWS else None


def stamps_compare(connection: Connection, source: Source) -> None:
    """Have all stamps compared anew by upkeep."""
    connection.run(STATEMENTS["stamp_state_write"], (None, None, None, source.id))


def _done_to(connection: Connection, words: Words) -> int:
    """Return up to where a generation holds everything."""
    row = connection.row(STATEMENTS["generation_standing"], {"generation": words.generation})
    if row is None or not Standing(*row).filled or connection.value(words["generation_failing"]):
        return 0
    return Standing(*row).confirmed


def _empty(connections: Connections, words: Words, rows: Sequence[Row]) -> None:
    """Empty the stamps of rows (key and seq) that the generation does not hold; those that cannot be written now are owed."""
    width = len(words.source.table.key)
    known, write = _statements(words, width)
    empty = tuple(stamps_empty(words.source.spec.stamp).values())
    refused: list[Row] = []
    try:
        with connections.user_transaction(durable=False, wait_milliseconds=WAIT_MILLISECONDS) as writing:
            if words.generation:  # which may have come to hold some since they were looked up
                with connections.use() as connection:
                    true = connection.many_rows(known, [row[:width] for row in rows])
                rows = [row for row, (_, held, _) in zip(rows, true, strict=True) if not held]
            for row in rows:
                try:
                    writing.run(write, (*row[:width], *empty, row[-1]))
                except apsw.ConstraintError:
                    refused.append(row)
    except StoreError:  # somebody is writing to the file
        refused = list(rows)
    if refused:
        with connections.transaction() as connection:
            connection.many(words.fill("owed_add", **_owed(words.source)), refused)


def _statements(words: Words, width: int) -> tuple[str, str]:
    """Return the statement that reads what is true of a row, and the one that writes it."""
    stamp = words.source.spec.stamp
    bound = {name: f"?{width + place}" for place, name in enumerate(stamp, 1)}
    j_is_given = " AND ".join(f"j.k{place} = ?{place}" for place in range(1, width + 1))
    return (
        words.fill("stamp_read", **_parts(), j_is_given=j_is_given),
        words.fill(
            "stamp_write",
            j_is_given=j_is_given,
            seq=f"?{width + len(bound) + 1}",
            stamps=", ".join(f"{quoted(name)} = {mark}" for name, mark in bound.items()),
            differs=" OR ".join(f"t.{quoted(name)} IS NOT {mark}" for name, mark in bound.items()),
        ),
    )


def _stamp(source: Source, read: Row, moment: str) -> tuple[Any, ...]:
    generation, model, version = read
    values: dict[StampName, Any] = {
        "embedded_model_id": model,
        "embedded_model_version": version,
        "embedded_at": moment,
        "has_embedding": 1,
        "embed_gen": generation,
    }
    return tuple(values[name] for name in source.spec.stamp)


# --- mending ------------------------------------------------------------------------------------------------------


def _pass(connections: Connections, words: Words, read: Row) -> bool:
    """Compare the next rows of the table with what is true of them."""
    source = words.source
    with connections.use() as connection:
        now = clock(connection)
        old = now - round(PASS_SECONDS * MICROSECONDS)
        by, stored, under_way, long_ago = connection.only(STATEMENTS["stamp_state"], (old, source.id))
        if by == read[0] and not under_way and not long_ago:
            return False
        last = key_load(stored) if stored is not None and by == read[0] and under_way else None
        found = connection.rows(*_next(words, read, last))
    keys = [key_read(row[:-2], connections.codec) for row in found]
    differing = [(*key, row[-1]) for key, row in zip(keys, found, strict=True) if row[-2] and key_sound(key)]
    done = len(found) < PASS_ROWS
    with connections.transaction() as connection:
        if differing:
            connection.many(words.fill("owed_add", **_owed(source)), differing)  # the next piece writes them
        state = (read[0], None if done else key_dump(keys[-1]), now if done else None, source.id)
        connection.run(STATEMENTS["stamp_state_write"], state)
    return True


def _next(words: Words, read: Row, last: Key | None) -> tuple[str, tuple[Any, ...]]:
    columns = ", ".join(f"t.{quoted(column)}" for column in words.source.table.key)
    after = f"({columns}) > ({key_marks(last)})" if last else "1"
    parts = _parts()
    generation, model, version = read
    true: dict[StampName, str] = {
        "embedded_model_id": literal(model),
        "embedded_model_version": literal(version),
        "embedded_at": parts["moment"],
        "has_embedding": "1",
        "embed_gen": str(generation),
    }
    differs = " OR ".join(
        f"t.{quoted(name)} IS NOT CASE WHEN {parts['held']} THEN {true[name]} ELSE {literal(nothing)} END"
        for name, nothing in stamps_empty(words.source.spec.stamp).items()
    )
    return words.fill("stamp_next", after=after, differs=f"({differs})"), (*(last or ()), PASS_ROWS)


def _parts() -> dict[str, str]:
    return {"held": STATEMENTS["stamp_held"], "moment": STATEMENTS["stamp_moment"]}


def _owed(source: Source) -> dict[str, str]:
    return {"owed": owed_name(source)}
