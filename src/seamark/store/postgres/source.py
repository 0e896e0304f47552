"""Tracking a table: the journal, the triggers, and the enrolment of the rows that were there before."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from psycopg import errors
from psycopg.types.json import Jsonb

from seamark.errors import StoreUnavailableError, TableUnusableError
from seamark.model import Enrolment, filter_columns
from seamark.store.conflict import conflict_check
from seamark.store.postgres import codec
from seamark.store.postgres.catalog import Tracked, source_words, tracked_load
from seamark.store.postgres.extension import vector_schema
from seamark.store.postgres.names import generation_words, identifier, key_columns, qualified
from seamark.store.postgres.stamps import owed_drop, stamps_create, stamps_drop
from seamark.store.postgres.tables import table_inspect
from seamark.store.postgres.triggers import Shape, triggers
from seamark.store.postgres.vectors import donors_forget, donors_write
from seamark.store.postgres.views import view_drop, views_refresh

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from seamark.model import Key, Source, SourceSpec, Table
    from seamark.store.postgres.catalog import Catalog
    from seamark.store.postgres.connection import Connection, Database, Row
    from seamark.store.postgres.names import Words

T = TypeVar("T")

ATTACH_LOCK = 0x5EA3A77A
"""Our advisory lock; the number is arbitrary."""
LOCK_TRIES = 20
LOCK_PAUSE_SECONDS = 0.25
"""Between two tries to lock the user's table; the statements have the time each may wait, and hold up writers, for it."""


# --- attach -------------------------------------------------------------------------------------------------------


def source_create(database: Database, name: str, spec: SourceSpec, table: Table) -> Source:
    """Make the source with its journal and triggers, in one transaction; see the contract."""
    key_columns(table)

    def create(connection: Connection) -> Source:
        # One at a time, so that each sees the others' tables.
        database.run(connection, "schema_lock", {}, {"lock": ATTACH_LOCK})
        touching = [table_inspect(database, connection, touch.table) for touch in spec.touch]
        values = {
            "name": name,
            "spec": Jsonb(codec.spec_dump(spec)),
            "tables": Jsonb([codec.table_dump(each) for each in (table, *touching)]),
        }
        inserted = database.run(connection, "source_insert", {}, values).fetchone()
        known = [tracked_load(row) for row in database.run(connection, "sources", {})]
        tracked = next(each for each in known if each.source.name == name)
        conflict_check([each.source for each in known], name, spec, table)
        if inserted is None:
            return tracked.source
        words = source_words(tracked, vector_schema(database, connection))
        _text_check(connection, tracked, words)
        database.run(connection, "journal_create", words)
        for statement in ("journal_key", "journal_order", "sequence_create", "missed_create"):
            database.run(connection, statement, words)
        if spec.track == "triggers":
            triggers_create(database, connection, tracked, words)
        if spec.stamp:
            stamps_create(database, connection, tracked, words)
        views_refresh(database, connection)
        return tracked.source

    return locking(database, create, table.name)


def _text_check(connection: Connection, tracked: Tracked, words: Words) -> None:
    """Run the expressions once over nothing, so that what cannot work fails here and not in a writer's trigger."""
    statement = f"SELECT {words['texts']}, {words['where']} FROM {words['source']} s LIMIT 0"
    try:
        connection.execute(statement.encode(), {})
    except (errors.DataError, errors.UndefinedFunction, errors.UndefinedColumn, errors.DatatypeMismatch) as exc:
        raise TableUnusableError(f"table {tracked.source.table.name!r} cannot be read so: {exc.diag.message_primary}") from exc


def triggers_create(database: Database, connection: Connection, tracked: Tracked, words: Words) -> None:
    """Make the functions and triggers of a source, as its tables stand."""
    row_wise: set[str] = set()
    roots: list[str] = []
    deferrable = False
    types: dict[str, dict[str, str]] = {}
    spec = tracked.source.spec
    read = [(*tracked.source.table.key, *filter_columns(spec.where)), *(touch.columns for touch in spec.touch)]
    for table, columns in zip((tracked.source.table, *tracked.touching), read, strict=True):
        values = {"schema": table.schema, "table": table.name}
        members = database.run(connection, "table_tree", {}, values).fetchall()
        if not members:
            raise TableUnusableError(f"table {table.name!r} is no longer there")
        found = types[qualified(table)] = dict(database.run(connection, "table_types", {}, values).fetchall())
        for name in columns:
            if name not in found:
                raise TableUnusableError(
                    f"table {table.name!r} has just lost column {name!r}; look at it, then attach it again"
                )
        if members[0][2]:
            row_wise.add(qualified(table))
        if table is tracked.source.table:
            roots = [f"{identifier(schema)}.{identifier(name)}" for schema, name, *_ in members]
            deferrable = members[0][3]
    for trigger in triggers(tracked, words, Shape(frozenset(row_wise), tuple(roots), deferrable, types)):
        for statement in trigger.statements():
            connection.execute(statement.encode(), {})


def locking(database: Database, work: Callable[[Connection], T], table: str) -> T:
    """Run a transaction that locks the user's table, trying again rather than queueing, since writers queue behind us."""
    for _ in range(LOCK_TRIES):
        try:
            with database.transaction() as connection:
                database.run(connection, "lock_timeout", {})
                return work(connection)
        except StoreUnavailableError as exc:
            if not isinstance(exc.__cause__, errors.LockNotAvailable | errors.DeadlockDetected):
                raise
            time.sleep(LOCK_PAUSE_SECONDS)
    raise StoreUnavailableError(
        f"table {table!r} is held by a long transaction, and triggers need it for an instant; end that transaction and run "
        "this again (pg_stat_activity shows it)"
    )


# --- enrolment ----------------------------------------------------------------------------------------------------


def source_enroll(database: Database, catalog: Catalog, source: Source, limit: int) -> Enrolment:
    """Enter the next rows; see the contract.

    A writer may be in the middle of a transaction that has entered one of them. We would wait for it while others wait for us,
    so a batch that cannot go on at once is taken back and tried smaller; a single row waits with nothing in hand.
    """
    rows = limit
    while True:
        try:
            return _enroll(database, catalog, source.id, rows)
        except StoreUnavailableError as exc:
            if not isinstance(exc.__cause__, errors.LockNotAvailable | errors.DeadlockDetected):
                raise
        if rows == 1:
            return Enrolment(0, done=False)
        rows = max(1, rows // 8)


def _enroll(database: Database, catalog: Catalog, source_id: int, limit: int) -> Enrolment:
    words = catalog.words(source_id)
    tracked = catalog.tracked(source_id)
    with database.transaction() as connection:
        # The lock gives us a transaction id before any `seq` is drawn.
        state, stored = database.run(connection, "source_lock", {}, {"source": source_id}).fetchone() or ("ready", None)
        if state == "ready":
            return Enrolment(0, done=True)
        columns = key_columns(tracked.source.table)
        last = codec.key_load(stored, columns)
        values: dict[str, Any] = {"limit": limit}
        words = words | {"after": "TRUE"}
        if last is not None:
            words["after"] = f"({words['k_s']}) > ({words['key_values']})"
            values |= {f"k{position}": value for position, value in enumerate(last, start=1)}
        database.run(connection, "enroll_lock_timeout", {})
        found = database.run(connection, "enroll", words, values).fetchall()
        count, key = len(found), max_key(found)
        done = count < limit
        database.run(
            connection,
            "source_enrolled",
            {},
            {"source": source_id, "key": Jsonb(codec.key_dump(key or last)), "state": "ready" if done else "enrolling"},
        )
        return Enrolment(count, done=done)


def max_key(found: Sequence[Row]) -> Key | None:
    """Return the last key; the statement gives them in order."""
    return tuple(found[-1]) if found else None


# --- detach -------------------------------------------------------------------------------------------------------


def source_drop(database: Database, source_id: int, *, keep_vectors: bool, stamps: bool) -> None:
    """Drop the functions, and the triggers with them wherever they are by now, and the tables; see the contract.

    Of several at once one does it, and the others find that it is done.
    """

    def drop(connection: Connection) -> None:
        if database.run(connection, "source_lock", {}, {"source": source_id}).fetchone() is None:
            return
        source = tracked_load(database.run(connection, "source", {}, {"source": source_id}).fetchall()[0]).source
        generations = database.run(connection, "generations", {}, {"source": source_id}).fetchall()
        left = [
            number
            for number, _, kind, *_ in generations
            if keep_vectors and kind == "vector" and not _lost(database, connection, number)
        ]
        donors_write(database, connection, source.table, left)
        if not keep_vectors:
            donors_forget(database, connection, source.table)
        triggers_drop(database, connection, source_id)
        if stamps:
            stamps_drop(database, connection, source)
        owed_drop(database, connection, source)
        database.run(connection, "source_delete", {}, {"source": source_id})
        views_refresh(database, connection)
        view_drop(database, connection, source.name)
        for generation_id, *_ in generations:
            drop = "generation_donate" if generation_id in left else "generation_tables_drop"
            database.run(connection, drop, generation_words(generation_id))
        ours = ("journal", "seq", "missed")
        journal, sequence, missed = (f"seamark.{name}_{source_id}" for name in ours)
        database.run(connection, "journal_drop", {"journal": journal, "sequence": sequence, "missed": missed})

    locking(database, drop, str(source_id))


def _lost(database: Database, connection: Connection, generation_id: int) -> bool:
    """Say whether a table is gone that others would look for vectors in."""
    words = generation_words(generation_id)
    return database.run(connection, "tables_gone", {}, {"names": [words["chunks"], words["kept"]]}).fetchone() is not None


def triggers_drop(database: Database, connection: Connection, source_id: int) -> None:
    """Drop the functions of a source, and the triggers with them wherever they are by now."""
    for (function,) in database.run(connection, "functions", {}, {"pattern": f"track\\_{source_id}\\_%"}).fetchall():
        connection.execute(f"DROP FUNCTION seamark.{identifier(function)} CASCADE".encode(), {})


# --- collections --------------------------------------------------------------------------------------------------


def collection_create(database: Database, name: str) -> None:
    """Make the collection's table."""
    with database.transaction() as connection:
        database.run(connection, "collection_create", {"table": identifier(name)})


def collection_put(database: Database, name: str, documents: Sequence[tuple[str, str, str]]) -> int:
    """Upsert documents by path; the last of several with one path counts."""
    latest = {codec.text_clean(path): (codec.text_clean(title), codec.text_clean(body)) for path, title, body in documents}
    ordered = sorted(latest.items())
    values = {
        "paths": codec.array(path for path, _ in ordered),
        "titles": codec.array(title for _, (title, _) in ordered),
        "bodies": codec.array(body for _, (_, body) in ordered),
    }

    def put() -> int:
        with database.transaction() as connection:
            return database.run(connection, "collection_put", {"table": identifier(name)}, values).rowcount

    return database.retried(put)
