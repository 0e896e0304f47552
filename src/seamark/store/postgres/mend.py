"""Making good what feeds a source, and giving rows a new `seq` when an audit has found them wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import errors

from seamark.errors import StoreUnavailableError
from seamark.store.postgres import codec
from seamark.store.postgres.faults import source_faults, tables_gone
from seamark.store.postgres.generations import generations
from seamark.store.postgres.names import generation_words, stored_type
from seamark.store.postgres.source import locking, triggers_create, triggers_drop
from seamark.store.postgres.stamps import owed_words, stamps_follow, stamps_restore
from seamark.store.postgres.views import views_refresh
from seamark.store.stamps import made_told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Generation, Key, Source
    from seamark.store.postgres.catalog import Catalog
    from seamark.store.postgres.connection import Connection, Database
    from seamark.store.postgres.names import Words

RENEW_ROWS = 500
"""Entries given a new `seq` in one transaction: a writer of one of them waits for some milliseconds."""


# --- entries ------------------------------------------------------------------------------------------------------


def journal_renew(database: Database, words: Words, keys: Sequence[Key]) -> int:
    """Give rows a new `seq`; see the contract.

    An entry is locked before it is looked up whether its row is live: a writer who is about to change that waits for us, and
    has the last word. Entries that a writer holds are left to him, so that we never wait with others waiting for us; but for a
    row that he enters just now, which is waited for as the enrolment does.
    """
    written, at, size = 0, 0, RENEW_ROWS
    while at < len(keys):
        try:
            written += database.retried(lambda: _renew(database, words, keys[at : at + size]))  # noqa: B023 called at once
        except StoreUnavailableError as exc:
            if not isinstance(exc.__cause__, errors.LockNotAvailable):
                raise
            if size > 1:
                size = max(1, size // 8)
                continue
        at += size
        size = RENEW_ROWS
    return written


def _renew(database: Database, words: Words, keys: Sequence[Key]) -> int:
    width = len(keys[0])
    with database.keyed() as connection:
        database.run(connection, "horizon_next", {})  # our transaction id, before any `seq` is drawn
        database.run(connection, "enroll_lock_timeout", {})
        found = database.run(connection, "journal_renew_lock", words, codec.keys_columns(keys, width)).fetchall()
        written = 0
        if found:
            written += database.run(connection, "journal_renew", words, codec.keys_columns(found, width)).rowcount
        return written + database.run(connection, "journal_enter", words, codec.keys_columns(keys, width)).rowcount


# --- what feeds a source ------------------------------------------------------------------------------------------


def source_mend(database: Database, catalog: Catalog, source: Source) -> list[str]:
    """Make good what can be; see the contract."""
    if not source_faults(database, catalog, source):
        return []
    words = catalog.words(source.id)

    def mend(connection: Connection) -> list[str]:
        database.run(connection, "source_lock", {}, {"source": source.id}).fetchone()
        gone = tables_gone(database, connection, source)
        _tables_create(database, connection, source, words, gone)
        if gone:
            views_refresh(database, connection)  # they went with what they look into
        done = [f"made anew, empty: {', '.join(gone)}"] if gone else []
        if lost := stamps_restore(database, connection, source, words) if source.spec.stamp else []:
            done.append(made_told(lost))
        if _sequence_forward(database, connection, source, words):
            done.append("the journal's sequence was set forward")
        return done

    done = locking(database, mend, source.name)
    if source_faults(database, catalog, source):
        locking(database, lambda connection: _triggers_mend(database, connection, catalog, source), source.name)
        done.append("triggers made anew")
    return done


def _triggers_mend(database: Database, connection: Connection, catalog: Catalog, source: Source) -> None:
    """Make the triggers anew, on the table and its partitions as they stand."""
    database.run(connection, "source_lock", {}, {"source": source.id}).fetchone()
    triggers_drop(database, connection, source.id)
    tracked, words = catalog.tracked(source.id), catalog.words(source.id)
    triggers_create(database, connection, tracked, words)
    stamps_follow(connection, tracked)


def _tables_create(database: Database, connection: Connection, source: Source, words: Words, gone: Sequence[str]) -> None:
    statements = {
        words["journal"]: ("journal_create", "journal_key", "journal_order"),
        words["sequence"]: ("sequence_create",),
        words["missed"]: ("missed_create",),
    }
    if source.spec.stamp:
        owed = owed_words(source)
        words |= owed
        statements[owed["owed"]] = ("owed_create",)
    for name, making in statements.items():
        if name in gone:
            for statement in making:
                database.run(connection, statement, words)
    for generation in generations(database, connection, source.id):
        its = words | generation_words(generation.id)
        for name, making in _tables(generation, its).items():
            if name in gone:
                for statement in making:
                    database.run(connection, statement, its | _vectors(generation))


def _tables(generation: Generation, words: Words) -> dict[str, tuple[str, ...]]:
    """Return what makes each table of a generation."""
    common = {words["failures"]: ("failures_create", "failures_index")}
    if generation.model is not None:
        return common | {
            words["rows"]: ("rows_create_vector", "rows_index"),
            words["chunks"]: ("chunks_create", "chunks_index"),
            words["kept"]: ("kept_create", "kept_index"),
        }
    return common | {
        words["rows"]: ("rows_create_lexical", "rows_index", "documents_index"),
        words["documents"]: ("documents_create", "documents_forward"),
        words["postings"]: ("postings_create",),
    }


def _vectors(generation: Generation) -> Words:
    """Return the words of the type of a generation's vectors."""
    if generation.model is None:
        return {}
    return {"dimension": str(generation.model.dimension), "stored": stored_type(generation.identity)}


def _sequence_forward(database: Database, connection: Connection, source: Source, words: Words) -> bool:
    """Set the journal's sequence to the highest `seq` that was given out, if it stands behind it."""
    [(floor, last)] = database.run(connection, "sequence_floor", words, {"source": source.id}).fetchall()
    if last >= floor:
        return False
    database.run(connection, "sequence_forward", words, {"seq": floor})
    return True


def source_trust(database: Database, words: Words) -> None:
    """Forget that writes were let pass: every row has been compared since."""
    with database.connection() as connection:
        database.run(connection, "missed_reset", words)
