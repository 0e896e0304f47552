"""The program `seamark`: its commands in one place, and what stands around them."""

import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from seamark import __version__
from seamark.edges.cli import (
    adopt,
    batch,
    compare,
    demo,
    doctor,
    estimate,
    failures,
    model,
    search,
    sources,
    sql,
    status,
    verify,
    work,
)
from seamark.edges.cli.session import CALLED_WRONGLY, INTERRUPTED, READER_LEFT, error_document
from seamark.edges.cli.text import line, masked


class Program(TyperGroup):
    """A group whose usage errors are one line."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run, and exit with the code that the command came to."""
        try:
            code = super().main(*args, standalone_mode=False, **extra)
        except typer.TyperException as error:
            message = line(masked(error.format_message())).replace("Value error, ", "").removesuffix(".")
            sys.stderr.write(f"seamark: {message}{_hint(error)}\n")
            if _as_json(args[0] if args else extra.get("args")):
                sys.stdout.write(json.dumps(error_document("UsageError", message)) + "\n")
            code = CALLED_WRONGLY
        except SystemExit:  # what writes the help ends so when its reader has left
            code = READER_LEFT
        except typer.Abort:
            code = INTERRUPTED
        if standalone_mode:
            sys.exit(code or 0)
        return code


def _as_json(given: Sequence[str] | None) -> bool:
    """Say whether `--json` is among the options, where what was given could not be made sense of."""
    words = sys.argv[1:] if given is None else list(given)
    return "--json" in words[: words.index("--")] if "--" in words else "--json" in words


def _hint(error: typer.TyperException) -> str:
    context: typer.Context | None = getattr(error, "ctx", None)
    if context is None:
        return ""
    dash = f"; a query that begins with a dash goes after `--`: {context.command_path} SOURCE -- QUERY"
    taken = type(error).__name__ == "NoSuchOption" and context.command.name == "search"
    return f"{dash if taken else ''} (see `{context.command_path} --help`)"


HELP = """Keep the embeddings of a database's rows complete, current and attributed, and search them.

\b
  seamark demo                               see it work
  seamark attach notes --text title          track a table
  seamark work                               keep it embedded
  seamark search notes "rotate the keys"     find rows by meaning and by words
  seamark reembed notes --model ollama:NAME  put another model in the place of this one

\b
Exit codes:
  0    it worked
  1    it ran and found a problem: no such source, failed rows, a red doctor
  2    it was called wrongly
  130  Ctrl-C
  141  the reader of its output left
"""

app = typer.Typer(name="seamark", cls=Program, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
for group in (sources, estimate, adopt, work, batch, status, search, model, compare, failures, verify, sql, doctor, demo):
    group.register(app)


@app.callback(invoke_without_command=True, help=HELP)
def program(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Answer what is asked of the program itself; without a command, show the help."""
    if version:
        typer.echo(f"seamark {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run() -> None:
    """Run the program: the entry point of the console script and of `python -m seamark`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # What the driver would log in an outage is told by the command itself, in a form that other programs can read.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    try:
        app(prog_name="seamark")
    finally:
        _flush()


def _flush() -> None:
    """Flush stdout while a reader that has left can still be noticed without a word."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os._exit(READER_LEFT)
