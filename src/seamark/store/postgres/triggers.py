"""The triggers that feed a journal, and the functions that they call: SQL text from a source, no database.

Bulk statements are the reason for statement triggers with transition tables: they cost less than half of row triggers. A
partitioned table, a partition and a child of an inheritance tree get row triggers instead: those are cloned to new partitions
and fire whichever table of the tree the write names.

The functions run with their owner's rights and a fixed search path, so that the application's role needs none on our schema.
What is not in `pg_catalog` is written with its schema. `seq` is always drawn after the writer has its transaction id (its row
is written by then); docs/architecture.md says what rests on that.

A function knows columns by name, and they may be renamed under it. Its SQL is planned only when it is executed, so a guard in
front of it keeps a write from failing: where the names no longer fit, the write is not entered. The sequence `missed` is drawn
from instead, which nobody waits for, and which tells that rows are missing even when the names have come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seamark.model import filter_columns
from seamark.store.postgres.filters import filter_compile
from seamark.store.postgres.names import identifier, literal, pairs, qualified
from seamark.store.stamps import stamps_empty

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from seamark.model import Column, Source, Table, Touch
    from seamark.store.postgres.catalog import Tracked
    from seamark.store.postgres.names import Words

_FUNCTION = """CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS {body}"""

_BODY = """
DECLARE
    moment bigint := (extract(epoch FROM statement_timestamp()) * 1000000)::bigint;
    gone boolean;
    fits boolean;
BEGIN
{guard}
{body}
    RETURN NULL;
END
"""

_GUARD = """    IF to_regclass({table}) {is_it} THEN
        fits := seamark.fits({table}::regclass, {columns}, {types}, {keys});
    ELSE
        fits := seamark.fits({relation}, {columns}, {types}, {keys});
    END IF;
    IF NOT fits THEN
        PERFORM nextval('{missed}'::regclass);
        RETURN NULL;
    END IF;"""
"""The first look is at a constant, so that it is part of a plan, costs next to nothing, and is made anew when that table is
altered. The second is for a table that has another name by now, and for parts of one; it costs as much as the write itself."""

_UPSERT = """    INSERT INTO {journal} AS j ({k}, seq, deleted, changed_at)
    SELECT {keys}, nextval('{sequence}'::regclass), {deleted}, moment FROM {rows}
    ON CONFLICT ({k}) DO UPDATE
    SET seq = nextval('{sequence}'::regclass), deleted = EXCLUDED.deleted, changed_at = EXCLUDED.changed_at;"""

_UPSERT_ONE = """    INSERT INTO {journal} AS j ({k}, seq, deleted, changed_at)
    VALUES ({keys}, nextval('{sequence}'::regclass), {deleted}, moment)
    ON CONFLICT ({k}) DO UPDATE
    SET seq = nextval('{sequence}'::regclass), deleted = EXCLUDED.deleted, changed_at = EXCLUDED.changed_at;"""

_KEY_CHANGED = """    IF {changed} THEN
        EXECUTE 'SELECT NOT EXISTS (SELECT FROM ' || TG_RELID::regclass || {condition} INTO gone USING {old};
        -- The key is still there where a deferrable one moved on within this statement.
    {upsert}
    END IF;"""

_TRUNCATE = """    EXECUTE 'UPDATE {journal} j SET seq = nextval(''{sequence}''::regclass), deleted = true, changed_at = $1'
        ' WHERE NOT j.deleted AND NOT EXISTS (SELECT FROM ' || {root} || {condition} USING moment;"""

_EACH_ROW = "FOR EACH ROW"
_NEW_ROWS = "REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT"
_OLD_ROWS = "REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT"

_TOUCH = """    INSERT INTO {journal} AS j ({k}, seq, deleted, changed_at)
    SELECT {k_s}, nextval('{sequence}'::regclass), ({where}) IS NOT TRUE, moment
    FROM {source} s JOIN (SELECT DISTINCT {references} FROM {rows} t) t ON {s_is_t} ORDER BY {k_s}
    -- Whether the row is live is for its own triggers to say: they hold its lock, this one looks at it from outside.
    ON CONFLICT ({k}) DO UPDATE SET seq = nextval('{sequence}'::regclass), changed_at = EXCLUDED.changed_at;"""

_TOUCH_STAMPS = """
    -- After the journal's rows are ours: whoever stamps locks them, too, so that a stamp cannot come after this and be old.
    BEGIN
        UPDATE {source} s SET {empty} FROM (SELECT DISTINCT {references} FROM {rows} t) t WHERE {s_is_t} AND ({stamped});
    EXCEPTION WHEN undefined_column THEN
        NULL;
    END;"""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger with its function. `table` is quoted; `before` and `after` are the words around it."""

    table: str
    name: str
    function: str
    guard: str
    body: str
    before: str
    after: str

    def statements(self) -> tuple[str, str]:
        """Return the two statements that make it."""
        return (
            _FUNCTION.format(name=self.function, body=_text(_BODY.format(guard=self.guard, body=self.body))),
            f"CREATE TRIGGER {self.name} {self.before} ON {self.table} {self.after} EXECUTE FUNCTION {self.function}()",
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """What the catalog says of the tables, by quoted names.

    `row_wise` need row triggers. `roots` hold rows of the source: itself, and the partitions there are now. A `deferrable` key
    may stand twice in the rows of one statement, which one upsert refuses. `types` are those of each table's columns.
    """

    row_wise: frozenset[str]
    roots: tuple[str, ...]
    deferrable: bool
    types: Mapping[str, Mapping[str, str]]


def triggers(tracked: Tracked, words: Words, shape: Shape) -> tuple[Trigger, ...]:
    """Return all triggers of a source."""
    found = list(_own(tracked, words, shape))
    for position, (touch, table) in enumerate(zip(tracked.source.spec.touch, tracked.touching, strict=True), start=1):
        found += _touching(tracked, words, shape, position, touch, table)
    return tuple(found)


def trigger_stems(source: Source) -> tuple[str, ...]:
    """Return what the names of those triggers, and of their functions, end in that a source always has, partitions or none."""
    events = ("insert", "delete", "update", "truncate")
    touching = [f"touch_{position}_{event}" for position in range(1, len(source.spec.touch) + 1) for event in events]
    stamps = [f"stamp_{event}" for event in events[::2]] if source.spec.stamp else []
    return tuple(f"{source.id}_{stem}" for stem in (*events, *touching, *stamps))


def edited(tracked: Tracked) -> str:
    """Return the condition under which an update is a change of a row's text, its key, or whether it is live."""
    table = tracked.source.table
    return _distinct(table, [*table.key, *_own_texts(tracked), *filter_columns(tracked.source.spec.where)])


def _own(tracked: Tracked, words: Words, shape: Shape) -> Iterable[Trigger]:
    source, table = tracked.source, tracked.source.table
    where = words["where"]
    name = qualified(table)
    fired = _guard(words, shape, name, _used(source), len(table.key))

    def trigger(event: str, body: str, before: str, after: str, on: str = name, guard: str = fired) -> Trigger:
        return Trigger(on, f"seamark_{source.id}_{event}", f"seamark.track_{source.id}_{event}", guard, body, before, after)

    if name in shape.row_wise:
        yield trigger("insert", _one(words, table, "NEW", _outside(tracked, "NEW")), "AFTER INSERT", _EACH_ROW)
        yield trigger("delete", _one(words, table, "OLD", "true"), "AFTER DELETE", _EACH_ROW)
    else:
        keys = words["k_s"]
        columns = ", ".join(f"s.{identifier(column)}" for column in _used(source))
        once = f"(SELECT DISTINCT ON ({keys}) {columns} FROM new_rows s ORDER BY {keys}) s"
        # Nobody else can have written these keys, so the order in which their journal rows are locked is of no account.
        new = once if shape.deferrable else "new_rows s"
        live = _UPSERT.format(**words, keys=keys, rows=new, deleted="false" if where == "TRUE" else f"({where}) IS NOT TRUE")
        old = f"(SELECT DISTINCT ON ({keys}) {keys} FROM old_rows s ORDER BY {keys}) s"
        yield trigger("insert", live, "AFTER INSERT", _NEW_ROWS)
        yield trigger("delete", _UPSERT.format(**words, keys=keys, rows=old, deleted="true"), "AFTER DELETE", _OLD_ROWS)
    yield trigger("update", _update(tracked, words, where), "AFTER UPDATE", f"{_EACH_ROW} WHEN ({edited(tracked)})")
    condition = _text(f" s WHERE {words['j_is_s']})")
    for position, root in enumerate(shape.roots):
        own = root == name
        body = _TRUNCATE.format(**words, root="TG_RELID::regclass" if own else _text(name), condition=condition)
        guard = fired if own else _guard_named(words, shape, name, _used(source), len(table.key))
        event = "truncate" if own else f"truncate_{position}"
        yield trigger(event, body, "AFTER TRUNCATE", "FOR EACH STATEMENT", root, guard)


def _update(tracked: Tracked, words: Words, where: str) -> str:
    table = tracked.source.table
    old = [f"OLD.{identifier(name)}" for name in table.key]
    same = pairs([f"s.{identifier(name)}" for name in table.key], [f"${position}" for position in range(1, len(old) + 1)])
    tombstone = _UPSERT_ONE.format(**words, keys=", ".join(old), deleted="gone")
    changed = _KEY_CHANGED.format(
        changed=_distinct(table, table.key),
        condition=_text(f" s WHERE {same} AND {where})"),
        old=", ".join(old),
        upsert=tombstone.strip(),
    )
    return changed + "\n" + _one(words, table, "NEW", _outside(tracked, "NEW"))


def _touching(tracked: Tracked, words: Words, shape: Shape, position: int, touch: Touch, table: Table) -> Iterable[Trigger]:
    source = tracked.source
    name = qualified(table)
    references = [identifier(column) for column in touch.columns]
    keys = [f"s.{identifier(column)}" for column in source.table.key]
    read = "\n" + _guard_named(words, shape, qualified(source.table), _used(source), len(source.table.key))
    fired = _guard(words, shape, name, touch.columns) + read

    empty = {identifier(name): literal(value) for name, value in stamps_empty(source.spec.stamp).items()}
    form = _TOUCH + _TOUCH_STAMPS if empty else _TOUCH

    def body(rows: str) -> str:
        return form.format(
            **words,
            references=", ".join(f"t.{reference}" for reference in references),
            rows=rows,
            s_is_t=pairs(keys, [f"t.{reference}" for reference in references]),
            empty=", ".join(f"{name} = {value}" for name, value in empty.items()),
            stamped=" OR ".join(f"s.{name} IS DISTINCT FROM {value}" for name, value in empty.items()),
        )

    def one(row: str) -> str:
        listed = ", ".join(f"{row}.{reference} AS {reference}" for reference in references)
        return f"(SELECT {listed})"

    def trigger(event: str, body: str, before: str, after: str, guard: str = fired) -> Trigger:
        stem = f"{source.id}_touch_{position}_{event}"
        return Trigger(name, f"seamark_{stem}", f"seamark.track_{stem}", guard, body, before, after)

    if name in shape.row_wise:
        yield trigger("insert", body(one("NEW")), "AFTER INSERT", _EACH_ROW)
        yield trigger("delete", body(one("OLD")), "AFTER DELETE", _EACH_ROW)
    else:
        yield trigger("insert", body("new_rows"), "AFTER INSERT", _NEW_ROWS)
        yield trigger("delete", body("old_rows"), "AFTER DELETE", _OLD_ROWS)
    texts = [text.column for text in source.spec.text if text.table == touch.table]
    watched = _distinct(table, [*table.key, *touch.columns, *texts])
    both = f"({one('OLD')[1:-1]} UNION {one('NEW')[1:-1]})"
    yield trigger("update", body(both), "AFTER UPDATE", f"{_EACH_ROW} WHEN ({watched})")
    # Before, while one can still see whose rows they are; the transaction id is drawn first, as always.
    truncate = "    PERFORM pg_current_xact_id();\n" + body(name)
    named = _guard_named(words, shape, name, touch.columns) + read
    yield trigger("truncate", truncate, "BEFORE TRUNCATE", "FOR EACH STATEMENT", named)


def _used(source: Source) -> tuple[str, ...]:
    """Return the columns that the functions read of the source's own table, those of its key first."""
    return tuple(dict.fromkeys((*source.table.key, *filter_columns(source.spec.where))))


def _guard(words: Words, shape: Shape, name: str, columns: Sequence[str], keys: int = 0) -> str:
    """Return at once where the table that was written has not these columns, or the first of them are not its key any more.

    A partition's are named as its root's are.
    """
    return _guarded(words, shape, name, columns, keys, "IS NOT NULL" if name in shape.row_wise else "= TG_RELID", "TG_RELID")


def _guard_named(words: Words, shape: Shape, name: str, columns: Sequence[str], keys: int = 0) -> str:
    """Return at once where there is no table of that name with these columns, the first of them its key."""
    return _guarded(words, shape, name, columns, keys, "IS NOT NULL", "NULL")


def _guarded(words: Words, shape: Shape, name: str, columns: Sequence[str], keys: int, is_it: str, relation: str) -> str:
    names, types = (", ".join(map(literal, each)) for each in (columns, [shape.types[name][column] for column in columns]))
    return _GUARD.format(
        **words,
        table=_text(name),
        is_it=is_it,
        relation=relation,
        columns=f"ARRAY[{names}]::name[]",
        types=f"ARRAY[{types}]::name[]",
        keys=keys,
    )


def _one(words: Words, table: Table, row: str, deleted: str) -> str:
    keys = ", ".join(f"{row}.{identifier(name)}" for name in table.key)
    return _UPSERT_ONE.format(**words, keys=keys, deleted=deleted)


def _outside(tracked: Tracked, row: str) -> str:
    where = filter_compile(tracked.source.spec.where, tracked.source.table, literal, row)
    return f"({where}) IS NOT TRUE"


def _own_texts(tracked: Tracked) -> list[str]:
    return [text.column for text in tracked.source.spec.text if text.table is None]


def _distinct(table: Table, names: Sequence[str]) -> str:
    columns = [column for name in dict.fromkeys(names) if (column := table.column(name)) is not None]
    return " OR ".join(_differs(column) for column in columns)


def _differs(column: Column) -> str:
    """Compare old with new byte by byte: a collation, citext or JSON may call different texts equal, or not compare."""
    name = identifier(column.name)
    if column.kind in ("integer", "uuid", "blob", "boolean"):
        return f"OLD.{name} IS DISTINCT FROM NEW.{name}"
    return f'OLD.{name}::text COLLATE "C" IS DISTINCT FROM NEW.{name}::text COLLATE "C"'


def _text(text: str) -> str:
    """Quote a piece of SQL as text within SQL. Its percent signs are doubled already."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
