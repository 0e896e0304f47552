"""`failures list` and `failures retry`: rows that could not be indexed."""

from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from seamark.edges import serialise
from seamark.edges.cli.arguments import keys
from seamark.edges.cli.session import Session, command
from seamark.edges.cli.status import failure_line
from seamark.edges.cli.text import counted, line

FAILURES_MAX = 100_000
"""Failures among which the rows named are looked for."""


class ListedFirst(TyperGroup):
    """A group whose first command is meant when none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, putting `list` before options of its own."""
        named = args and (not args[0].startswith("-") or args[0] == "--help")
        return super().parse_args(ctx, args if named else ["list", *args])


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = typer.Typer(cls=ListedFirst, help="Show the rows that could not be indexed, and have them tried again.")
    command(group, "list", "seamark failures list", "seamark failures list notes --json")(failures_list)
    command(group, "retry", "seamark failures retry notes", "seamark failures retry notes 17 18")(failures_retry)
    app.add_typer(group, name="failures")


def failures_list(
    session: Session,
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", help="Only of this one; of all otherwise.")] = None,
    *,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many of each index, newest first.")] = 100,
) -> None:
    """Show the rows that could not be indexed: which, why, how often tried, and when they are tried again."""
    with session.service() as service:
        chosen = service.sources() if source is None else (service.source(source),)
        found = [(tracked.name, failure) for tracked in chosen for failure in tracked.failures(limit)]
    session.show(
        {"failures": [{"source": name, **serialise.failure(failure)} for name, failure in found]},
        *([Text(f"{line(name)} {failure_line(failure)}") for name, failure in found] or ["No row has failed."]),
    )


def failures_retry(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What was attached.")],
    key: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY…", help="The rows; a key of several columns as a JSON list. All otherwise."),
    ] = None,
) -> None:
    """Have failed rows tried again at once, with all their attempts before them."""
    with session.service() as service:
        tracked = service.source(source)
        chosen = keys(tracked.failures(FAILURES_MAX), key) if key else None
        retried = tracked.failures_retry(chosen)
    session.show({"source": source, "retried": retried}, f"{line(source)}: {counted(retried, 'row')} will be tried again")
