"""`doctor`: what is wrong with a database, and how to mend it."""

from collections.abc import Iterator

import typer
from rich.text import Text

from seamark.edges import serialise
from seamark.edges.cli.session import FOUND_A_PROBLEM, Session, command
from seamark.edges.cli.text import line, masked
from seamark.errors import SeamarkError
from seamark.model import Check


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(app, "doctor", "seamark doctor --db postgresql://localhost/app")(doctor)


def doctor(session: Session) -> int:
    """Look for what is wrong with this database and the models in use, and say how to mend it.

    Exit codes: 0 all is well; 1 something that must be well is not.
    """
    try:
        with session.service() as service:
            checks = service.doctor()
    except SeamarkError as error:  # that it cannot be opened is the finding
        checks = (Check("open", ok=False, detail=masked(str(error), session.url)),)
    lines = [rendered for check in checks for rendered in _check(check)]
    well = serialise.healthy(checks)
    verdict = Text("all is well", "green") if well else Text("not well: mend what is marked ✗", "red")
    session.show(serialise.checks(checks), *lines, verdict)
    return 0 if well else FOUND_A_PROBLEM


def _check(check: Check) -> Iterator[Text]:
    mark, colour = ("✓", "green") if check.ok else ("✗", "red") if check.required else ("!", "yellow")
    yield Text.assemble((mark, colour), f" {line(check.name)}: {line(check.detail)}")
    if check.remedy is not None and not check.ok:
        yield Text(f"  → {line(check.remedy)}")
