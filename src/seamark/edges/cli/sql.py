"""`sql` and `views`: what SQL users read."""

import json
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from seamark.core.service import SQL_SECONDS
from seamark.edges import serialise
from seamark.edges.cli.session import Session, command
from seamark.edges.cli.text import counted, line
from seamark.model import Rows


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    command(
        app,
        "sql",
        """seamark sql "SELECT key, last_error FROM embedding_jobs WHERE status = 'failed'\"""",
        """seamark sql "SELECT model_id, model_version, count(*) FROM notes_embeddings GROUP BY 1, 2" --json""",
    )(sql)
    command(app, "views", "seamark views --db app.db")(views)


def sql(
    session: Session,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One statement; it can only read.")],
    *,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="A query that takes longer is ended.")] = SQL_SECONDS,
) -> None:
    """Ask the database in SQL, which can only read.

    Beside your own tables there are SOURCE_embeddings, every passage and which model made its vector, and embedding_jobs, every
    row's state in every index. docs/sql.md has their columns.
    """
    with session.service() as service:
        found = service.sql(query, timeout_seconds=timeout)
    session.show(serialise.rows(found), _table(found))
    if not session.as_json:
        session.note(counted(len(found.rows), "row"))


def views(session: Session) -> None:
    """Print what a connection of another program has to run to have the views; on PostgreSQL they are there.

    On SQLite that connection must have the application's own file as its main database.
    """
    with session.service() as service:
        found = service.views()
    session.show(serialise.views(found), *(f"{statement};" for statement in found.statements))
    if not session.as_json and not found.statements:
        session.note(
            "the views are there for every connection: " + (", ".join(found.names) or "none yet; attach a table first")
        )


def _table(found: Rows) -> Table:
    table = Table(*(line(name) for name in found.columns), box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in found.rows:
        table.add_row(*(_told(serialise.cell(value)) for value in row))
    return table


def _told(value: object) -> str:
    if value is None:
        return ""
    return line(value) if isinstance(value, str) else json.dumps(value)
