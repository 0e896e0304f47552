"""Tables of texts: all that a test needs of a table which it says nothing more about."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seamark.testing.backend import Application, Backend

ROWS = 100
"""How many rows `notes_and_tasks` makes in each table, where nothing else is said."""


def application_with(backend: Backend, **tables: Mapping[int, str | None]) -> Application:
    """Return a new application with tables of an `id` and a `body`: of each, its texts by id."""
    application = backend.application()
    for name, texts in tables.items():
        application.run(f"CREATE TABLE {name} (id {backend.type('integer')} PRIMARY KEY, body {backend.type('text')})")
        application.many(f"INSERT INTO {name} VALUES (?, ?)", list(texts.items()))
    return application


def numbered(text: str, rows: int) -> dict[int, str]:
    """Return texts by id, from 1: each is that text and its number."""
    return {number: f"{text} {number}" for number in range(1, rows + 1)}


def notes_and_tasks(backend: Backend, rows: int = ROWS) -> Application:
    """Return a new application with two tables, `notes` and `tasks`, whose texts are the table's name and a number."""
    return application_with(backend, notes=numbered("notes", rows), tasks=numbered("tasks", rows))
