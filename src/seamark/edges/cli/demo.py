"""`demo`: the whole of it on real text, in a database of its own: attach, embed, search, edit, search again."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import apsw
import typer
from rich.text import Text

import seamark
from seamark.core.search import SearchResult
from seamark.core.service import Seamark
from seamark.core.tracked import Tracked
from seamark.edges import serialise
from seamark.edges.cli.docstrings import docstrings
from seamark.edges.cli.progress import progress
from seamark.edges.cli.search import rendered_hit
from seamark.edges.cli.session import Session, command
from seamark.edges.cli.status import counts
from seamark.edges.cli.text import counted
from seamark.edges.serialise import Json
from seamark.errors import SeamarkError

FILE = "seamark-demo.db"
APPLICATION_ID = 0x5EA3A2C
"""In the header of a demo's file, so that no other file is ever taken for one and overwritten."""
TABLE = "docstrings"
QUESTIONS: tuple[tuple[str, dict[str, object]], ...] = (
    ("make a secret token that nobody can guess", {}),
    ("delay for a number of seconds", {}),
    ("send an e-mail", {}),
    ("split text at a separator", {"module": "builtins"}),
)
EDITED = "calendar.isleap"
OLD_QUESTION = "is it a leap year"
NEW_TEXT = "The keeper of the lighthouse changes its signing keys every ninety days, and after each storm."
NEW_QUESTION = "how often are the keys of the lighthouse changed"
HITS = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for a question, and how long it took."""

    question: str
    only: dict[str, object]
    found: SearchResult
    milliseconds: float


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(app, "demo", "seamark demo", "seamark demo --keep /tmp", database=False)(demo)


def demo(
    session: Session,
    *,
    keep: Annotated[Path, typer.Option(metavar="DIR", help=f"The folder that {FILE} is made in.")] = Path(),
) -> None:
    """See it work: embed the docstrings of Python's standard library, ask, edit a row, and ask again.

    It needs no network, no key and no server, makes one database, and leaves it for you to play with.
    """
    path = keep / FILE
    url = f"sqlite:///{quote(str(path))}"
    began = time.monotonic()
    with closing(_made(path)) as user:
        stage = Stage(session, user)
        rows = stage.fill()
        with seamark.open(url) as service:
            document = stage.play(service)
    seconds = time.monotonic() - began
    stage.say("", ("The end. ", "bold"), f"{rows:,} rows in {seconds:.0f} s; {path} is yours to play with:")
    for suggestion in _suggestions(url):
        stage.say("  ", (suggestion, "cyan"))
    session.show({"database": str(path), "rows": rows, "seconds": round(seconds, 1), **document})


class Stage:
    """Where the demo is played; `user` is the connection of the program that owns the table and knows nothing of Seamark."""

    def __init__(self, session: Session, user: apsw.Connection) -> None:
        self._session = session
        self._user = user

    def say(self, *parts: str | Text | tuple[str, str]) -> None:
        """Print a line, unless all that is wanted is a JSON document."""
        if not self._session.as_json:
            self._session.out.print(Text.assemble(*parts))

    def fill(self) -> int:
        """Make the table and fill it; return how many rows there are."""
        rows = [(each.module, each.name, each.kind, each.doc) for each in docstrings()]
        with self._user:
            _execute(self._user, f"CREATE TABLE {TABLE}(id INTEGER PRIMARY KEY, module TEXT, name TEXT, kind TEXT, doc TEXT)")
            for row in rows:
                _execute(self._user, f"INSERT INTO {TABLE}(module, name, kind, doc) VALUES (?, ?, ?, ?)", *row)
        self.say(f"A table of {len(rows):,} docstrings of Python's standard library: {TABLE}(id, module, name, kind, doc)")
        return len(rows)

    def play(self, service: Seamark) -> Json:
        """Attach, embed, ask, edit and ask again; return all of it as a document."""
        tracked = self._attach(service)
        self._work(service, tracked)
        answers = [self._ask(tracked, question, only) for question, only in QUESTIONS]
        before = [self._ask(tracked, OLD_QUESTION), self._ask(tracked, NEW_QUESTION)]
        self._edit()
        between = self._ask(tracked, OLD_QUESTION)
        self._work(service, tracked)
        after = self._ask(tracked, NEW_QUESTION)
        coverage = tracked.coverage()
        self.say("")
        for number, each in coverage.generations.items():
            self.say(f"Coverage of index {number}: ", *counts(each))
        return {
            "questions": [_document(answer) for answer in answers],
            "edit": {"before": [_document(each) for each in before], "between": _document(between), "after": _document(after)},
            "coverage": serialise.source_coverage(coverage),
        }

    def _attach(self, service: Seamark) -> Tracked:
        self.say(("\n$ seamark ", "dim"), (f"attach {TABLE} --text name --text doc", "cyan"))
        with progress(self._session) as report:
            return service.attach(TABLE, text=["name", "doc"], progress=report)

    def _work(self, service: Seamark, tracked: Tracked) -> None:
        self.say(("\n$ seamark ", "dim"), ("work --until current", "cyan"))
        began = time.monotonic()
        with progress(self._session) as report:
            service.work(until="current", progress=report)
        seconds = time.monotonic() - began
        self.say(f"{counted(tracked.coverage().embedded, 'row')} embedded, all current after {seconds:.1f} s")

    def _ask(self, tracked: Tracked, question: str, only: dict[str, object] | None = None) -> Answer:
        told = f" --filter '{json.dumps(only)}'" if only else ""
        self.say(("\n$ seamark ", "dim"), (f'search {TABLE} "{question}"{told} --limit {HITS}', "cyan"))
        began = time.monotonic()
        found = tracked.search(question, limit=HITS, filter=only)
        answer = Answer(question, only or {}, found, 1000 * (time.monotonic() - began))
        for rank, hit in enumerate(found.hits, start=1):
            for rendered in rendered_hit(rank, hit, question):
                self.say(rendered)
        return answer

    def _edit(self) -> None:
        self.say("\nThe program that owns the table changes a row, and tells nobody:")
        self.say(("$ sqlite3 ", "dim"), (f"{FILE} \"UPDATE {TABLE} SET doc = '{NEW_TEXT}' WHERE name = '{EDITED}'\"", "cyan"))
        _execute(self._user, f"UPDATE {TABLE} SET doc = ? WHERE name = ?", NEW_TEXT, EDITED)


def _made(path: Path) -> apsw.Connection:
    """Make the file anew; refuse to if there is one that no demo has made."""
    if path.exists() and not _is_demo(path):
        raise SeamarkError(f"{path} is there and was not made by the demo; move it away, or choose a folder with --keep")
    if not path.parent.is_dir():
        raise SeamarkError(f"{path.parent} is not a folder")
    for old in (path, *path.parent.glob(f"{FILE}-*")):
        old.unlink(missing_ok=True)
    connection = apsw.Connection(str(path))
    _execute(connection, f"PRAGMA application_id = {APPLICATION_ID}")
    _execute(connection, "PRAGMA journal_mode = wal")
    return connection


def _execute(connection: apsw.Connection, statement: str, *values: str) -> None:
    connection.execute(statement, values)  # pyright: ignore[reportUnknownMemberType]  its stubs need Python 3.12


def _is_demo(path: Path) -> bool:
    """Read the application id where SQLite's file format has it, without opening what may be no database at all."""
    with path.open("rb") as file:
        header = file.read(100)
    return len(header) == 0 or header[68:72] == APPLICATION_ID.to_bytes(4, "big")


def _document(answer: Answer) -> Json:
    found = serialise.search_result(answer.found)
    return {"query": answer.question, "filter": answer.only, "milliseconds": round(answer.milliseconds, 1), **found}


def _suggestions(url: str) -> Iterator[str]:
    program = _program()
    yield f'{program} search {TABLE} "parse a date" --explain --db {url}'
    yield f"{program} status --db {url}"
    yield f"{program} work --db {url}    (in one terminal, and change rows in another)"


def _program() -> str:
    """Return how this program is called where it is: not everybody has it on the search path."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{sys.executable} -m seamark"
    return "seamark" if shutil.which("seamark") else str(called)
