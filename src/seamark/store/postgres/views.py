"""The views for SQL users, made anew in the transaction in which a source or a generation comes or goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.store.postgres.catalog import tracked_load
from seamark.store.postgres.names import generation_words, identifier, key_columns, literal, pairs
from seamark.store.views import JOBS, key_names, view_name

if TYPE_CHECKING:
    from seamark.model import Column, Source
    from seamark.store.postgres.connection import Connection, Database, Row
    from seamark.store.postgres.names import Words

VIEWS_LOCK = 0x5EA3A71E
"""Our advisory lock; the number is arbitrary."""
_JOBS = ("view_jobs_done", "view_jobs_failed", "view_jobs_retried", "view_jobs_running", "view_jobs_pending")
_PARTS = {"state": "view_state", "open": "view_open", "held": "view_held", "changed_at": "view_changed_at"}
"""What stands in several views, by its word."""


def views_refresh(database: Database, connection: Connection) -> None:
    """Make the views of what there is, as this transaction sees it.

    Called after every change of which sources and generations there are, and before the tables go that the old views look into.
    """
    # One at a time, so that each sees the others' generations.
    database.run(connection, "schema_lock", {}, {"lock": VIEWS_LOCK})
    sources = [tracked_load(row).source for row in database.run(connection, "sources", {}).fetchall()]
    generations = database.run(connection, "views_generations", {}).fetchall()
    jobs = [database.compose("view_jobs_none", {})]
    for source in sources:
        parts = [database.compose("view_embeddings_none", _source_words(source))]
        for row in generations:
            if row[0] == source.id:
                words = _words(database, source, row)
                parts += [database.compose("view_embeddings", words)] if row[2] == "vector" else []
                jobs += [database.compose(name, words) for name in _JOBS]
        _view_write(database, connection, view_name(source.name), parts)
    _view_write(database, connection, JOBS, jobs)


def view_drop(database: Database, connection: Connection, source_name: str) -> None:
    """Drop the view of a source that is no more."""
    database.run(connection, "view_drop", {"view": identifier(view_name(source_name))})


def views_names(sources: list[Source]) -> tuple[str, ...]:
    """Return the names of all views."""
    names = [JOBS, *(view_name(source.name) for source in sources)]
    return tuple(f"seamark.{identifier(name)}".replace("%%", "%") for name in names)  # it is not run from here


def views_hidden(database: Database, connection: Connection) -> list[str]:
    """Return the names of views of ours that mean another table on this connection's search path."""
    return [name for (name,) in database.run(connection, "views_hidden", {})]


def _view_write(database: Database, connection: Connection, name: str, parts: list[str]) -> None:
    database.run(connection, "view_write", {"view": identifier(name), "select": " UNION ALL ".join(parts)})


def _source_words(source: Source) -> Words:
    columns = key_columns(source.table)
    ours = [f"k{position}" for position in range(1, len(columns) + 1)]
    shown = [identifier(name) for name in key_names(source.table.key)]
    lists = {alias: [f"{alias}.{name}" for name in ours] for alias in "jrcf"}
    words = {
        "journal": f"seamark.journal_{source.id}",
        "source_name": f"{literal(source.name)}::text",
        "key": _key_json(columns, lists["j"]),
        "r_is_c": pairs(lists["r"], lists["c"]),
    }
    words |= {f"{alias}_is_j": pairs(lists[alias], lists["j"]) for alias in "rf"}
    words |= {f"j_is_{alias}": pairs(lists["j"], lists[alias]) for alias in "rcf"}
    for alias in "jc":
        words[f"keys_{alias}"] = ", ".join(f"{ours} AS {theirs}" for ours, theirs in zip(lists[alias], shown, strict=True))
    return words


def _words(database: Database, source: Source, row: Row) -> Words:
    _, generation, kind, model, version = row
    words = _source_words(source) | generation_words(generation)
    words |= {
        "generation": str(generation),
        "kind": f"{literal(kind)}::text",
        "model_id": f"{literal(model)}::text",
        "model_version": f"{literal(version)}::text",
    }
    return words | {word: database.compose(name, words) for word, name in _PARTS.items()}


def _key_json(columns: tuple[Column, ...], values: list[str]) -> str:
    """Write a key as docs/cli.md has it: plain where it is of one column, else a list."""
    members = [_member_json(column, value) for column, value in zip(columns, values, strict=True)]
    return members[0] if len(members) == 1 else "'[' || " + " || ', ' || ".join(members) + " || ']'"


def _member_json(column: Column, value: str) -> str:
    if column.kind == "integer":
        return f"{value}::text"
    if column.kind == "blob":
        return f"""'{{"hex": "' || encode({value}, 'hex') || '"}}'"""
    return f"to_json({value}::text)::text"
