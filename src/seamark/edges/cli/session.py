"""What all commands share: `--db`, `--json` and `--debug`, the opened service, and how a command ends."""

import functools
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Concatenate, ParamSpec, TextIO

import typer
from rich.console import Console, RenderableType
from rich.markup import escape

import seamark
from seamark.core.service import Seamark
from seamark.edges.cli.text import line, masked
from seamark.errors import InvalidRequestError, SeamarkError

FOUND_A_PROBLEM = 1
CALLED_WRONGLY = 2
INTERRUPTED = 130
READER_LEFT = 141
SIGNALLED = 128
"""Added to the number of the signal that ended the program, as shells do."""
PIPED_COLUMNS = 10_000
"""Lines for another program are not wrapped."""

P = ParamSpec("P")

Database = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        help="sqlite:///app.db, a path, or postgresql://…; otherwise SEAMARK_DB, or db in seamark.toml.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document (docs/cli.md has its shape).")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. Also: SEAMARK_DEBUG=1.")]


def _console(file: TextIO) -> Console:
    piped = not file.isatty()
    return Console(
        file=file, width=PIPED_COLUMNS if piped else None, soft_wrap=piped, highlight=False, markup=False, emoji=False
    )


@dataclass(frozen=True)
class Session:
    """One run of a command: which database, and where to write what in which form."""

    url: str | None
    as_json: bool
    debug: bool
    out: Console = field(default_factory=lambda: _console(sys.stdout))
    err: Console = field(default_factory=lambda: _console(sys.stderr))

    @contextmanager
    def service(self, *, create: bool = False) -> Generator[Seamark]:
        """Open the database for the length of a block."""
        with seamark.open(self.url, create=create) as service:
            yield service

    def show(self, document: object, *lines: RenderableType) -> None:
        """Print the document with `--json`, and the lines otherwise."""
        if self.as_json:
            json.dump(document, self.out.file, indent=2 if self.out.is_terminal else None)
            self.out.file.write("\n")
        else:
            for renderable in lines:
                self.out.print(renderable)

    def note(self, message: str) -> None:
        """Say one line on stderr."""
        self.err.print(line(masked(message, self.url)))


def command(
    app: typer.Typer, name: str, *examples: str, database: bool = True
) -> Callable[[Callable[Concatenate[Session, P], int | None]], Callable[Concatenate[Session, P], int | None]]:
    """Register a function as a command: it is given the session first, and returns the exit code (None is 0).

    The options that all commands share are added to its own, so that each is written once; `database=False` leaves out `--db`.
    """
    shared = {"db": Database, "as_json": AsJson, "debug": Debug}
    if not database:
        del shared["db"]

    def register(function: Callable[Concatenate[Session, P], int | None]) -> Callable[Concatenate[Session, P], int | None]:
        @functools.wraps(function)
        def run(*, db: str | None = None, as_json: bool, debug: bool, **given: object) -> None:
            session = Session(db or os.environ.get("SEAMARK_DB"), as_json, debug or os.environ.get("SEAMARK_DEBUG") == "1")
            raise typer.Exit(ended(session, functools.partial(function, session, **given)))  # type: ignore[arg-type]

        own = list(inspect.signature(function).parameters.values())[1:]
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None if name == "db" else False, annotation=kind)
            for name, kind in shared.items()
        ]
        parameters = [*own, *options]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, help=_help(inspect.getdoc(function) or "", examples))(run)
        return function

    return register


def _help(doc: str, examples: Sequence[str]) -> str:
    """Return the docstring's paragraphs, to be wrapped, and the examples, to be left as they are."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in doc.split("\n\n")]
    lines = ("For example:", *(f"  {escape(example)}" for example in examples))
    return "\n\n".join((*paragraphs, "\b\n" + "\n".join(lines)))


def ended(session: Session, call: Callable[[], int | None]) -> int:
    """Run a command to its end and return its exit code; whatever went wrong is one line on stderr."""
    try:
        return call() or 0
    except SeamarkError as error:
        told = _told(session, error, str(error))
        return CALLED_WRONGLY if isinstance(error, InvalidRequestError) else told
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return READER_LEFT
    except (typer.TyperException, typer.Exit, typer.Abort):
        raise
    except Exception as error:  # noqa: BLE001 here the story ends: no traceback reaches a user
        hint = "" if session.debug else " (please report it; --debug shows where it happened)"
        return _told(session, error, f"unexpected {type(error).__name__}: {error}{hint}")


def _told(session: Session, error: Exception, message: str) -> int:
    if session.debug:
        session.err.print(masked("".join(traceback.format_exception(error)), session.url), end="")
    session.note(f"seamark: {message}")
    if session.as_json:
        session.show(error_document(type(error).__name__, line(masked(message, session.url))))
    return FOUND_A_PROBLEM


def error_document(kind: str, message: str) -> dict[str, object]:
    """Return what `--json` prints of an error."""
    return {"error": {"type": kind, "message": message}}
