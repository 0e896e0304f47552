"""The views for SQL users: statements that a connection runs which has the user's file as its main database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.model import Views
from seamark.store.sqlite.filters import literal
from seamark.store.sqlite.source import sources_list
from seamark.store.sqlite.words import STATEMENTS, generation_words, journal_name, quoted, source_words
from seamark.store.views import COLUMNS, JOBS, JOBS_COLUMNS, key_names, view_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Source
    from seamark.store.sqlite.connection import Connection, Connections, Row

_JOBS = ("view_jobs_done", "view_jobs_failed", "view_jobs_retried", "view_jobs_running", "view_jobs_pending")
_PARTS = {"state": "view_state", "open": "view_open", "held": "view_held", "changed_at": "view_changed_at"}
"""What stands in several views, by its word."""


def views(connections: Connections) -> Views:
    """Return the views of what there is, and the statements that make them."""
    with connections.snapshot() as connection:
        made = views_select(connection)
    attach = STATEMENTS["views_attach"].format(sidecar=literal(str(connections.sidecar)))
    return Views((attach, *views_statements(made)), tuple(quoted(name) for name in made))


def views_statements(made: dict[str, str]) -> tuple[str, ...]:
    """Return the statements that make the views, once our file is attached."""
    return tuple(STATEMENTS["view_write"].format(view=quoted(name), select=select) for name, select in made.items())


def views_select(connection: Connection) -> dict[str, str]:
    """Return name → query of each view. Sources whose journal is gone are left out: the others go on."""
    generations = connection.rows(STATEMENTS["views_generations"])
    found: dict[str, str] = {}
    jobs: list[str] = []
    for source in sources_list(connection):
        if (
            not connection.value(STATEMENTS["journal_there"], (journal_name(source.table.name),))
            and source.spec.track != "poll"
        ):
            continue
        parts = [(row[2], _words(source, row)) for row in generations if row[0] == source.id]
        embeddings = [_fill("view_embeddings", words) for kind, words in parts if kind == "vector"]
        found[view_name(source.name)] = _union(embeddings, (*key_names(source.table.key), *COLUMNS))
        own = [_fill(name, words) for _, words in parts for name in _JOBS]
        jobs += [_fill("view_group", {"select": _union(own, JOBS_COLUMNS)})]
    return found | {JOBS: _union(jobs, JOBS_COLUMNS)}


def _union(parts: Sequence[str], columns: Sequence[str]) -> str:
    """Return all parts as one query, or one that finds nothing but has the columns."""
    return "\nUNION ALL\n".join(parts) or _fill(
        "view_none", {"columns": ", ".join(f"NULL AS {quoted(one)}" for one in columns)}
    )


def _words(source: Source, row: Row) -> dict[str, str]:
    _, generation, kind, model, version = row
    words = source_words(source) | generation_words(generation)
    keys = [f"k{place}" for place in range(1, len(source.table.key) + 1)]
    shown = [quoted(name) for name in key_names(source.table.key)]
    words |= {
        "source_name": literal(source.name),
        "key": _key_json([f"j.{key}" for key in keys]),
        "keys_c": ", ".join(f"c.{ours} AS {theirs}" for ours, theirs in zip(keys, shown, strict=True)),
        "r_is_c": " AND ".join(f"r.{key} = c.{key}" for key in keys),
        "j_is_c": " AND ".join(f"j.{key} = c.{key}" for key in keys),
        "kind": literal(kind),
        "model_id": literal(model),
        "model_version": literal(version),
    }
    return words | {word: _fill(name, words) for word, name in _PARTS.items()}


def _key_json(columns: list[str]) -> str:
    """Write a key as docs/cli.md has it: plain where it is of one column, else a list."""
    members = [
        f"""CASE typeof({one}) WHEN 'blob' THEN '{{"hex": "' || lower(hex({one})) || '"}}' ELSE json_quote({one}) END"""
        for one in columns
    ]
    return members[0] if len(members) == 1 else "'[' || " + " || ', ' || ".join(members) + " || ']'"


def _fill(name: str, words: dict[str, str]) -> str:
    return STATEMENTS[name].format_map(words)
