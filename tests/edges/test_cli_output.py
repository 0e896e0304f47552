"""What is written where, and how the program ends: as a process of its own, on a SQLite database."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from seamark import __version__
from seamark.edges.cli.main import app
from seamark.edges.cli.progress import duration, figures
from seamark.edges.cli.text import cleaned, line, masked, shortened
from seamark.model import Progress

COMMANDS = (
    *("attach", "detach", "add", "estimate", "work", "status", "search", "doctor", "demo", "sql", "verify", "views", "reembed"),
    "compare",
    *("batch", "adopt"),
    *("failures list", "failures retry"),
    *(f"model {name}" for name in ("list", "swap", "activate", "rollback", "retire", "drop", "accept")),
)


@pytest.fixture
def library(cli, sqlite_path, tmp_path):
    """A collection of one document, embedded; returns its URL."""
    url = f"sqlite:///{sqlite_path}"
    (tmp_path / "note.md").write_text("# Lighthouse\n\n" + "The lamp is lit at dusk. " * 20)
    assert cli("add", tmp_path / "note.md", db=url).code == 0
    assert cli("work", "--until", "current", db=url).code == 0
    return url


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_parses(cli, command):
    shown = cli(*command.split(), "--help", COLUMNS="200")
    assert shown.code == 0
    examples = re.findall(rf"^\s+(seamark {command}.*?)\s*$", shown.out, re.MULTILINE)
    assert examples
    for example in examples:
        assert cli(*shlex.split(example)[1:], "--help").code == 0


def test_the_program_names_its_commands_and_exit_codes(cli):
    shown = cli(COLUMNS="200")
    assert shown.code == 0
    assert shown.out == cli("--help", COLUMNS="200").out
    for command in COMMANDS:
        assert f" {command.split()[0]} " in shown.out
    assert "Exit codes" in shown.out


def test_version(ran):
    assert ran("--version").out == f"seamark {__version__}\n"


def test_the_console_script_is_the_same_program():
    script = Path(sys.executable).parent / "seamark"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"seamark {__version__}\n"


def test_processes_end_with_the_codes_of_the_commands(ran, library):
    assert ran("search", "documents", "lamp", db=library).code == 0
    ended = ran("search", "nothing", "lamp", db=library)
    assert (ended.code, ended.err.count("\n"), ended.out) == (1, 1, "")
    assert ran("search", db=library).code == 2


def test_lines_for_another_program_are_not_wrapped(ran, library):
    found = ran("search", "documents", "when is the lamp lit", db=library)
    assert len(found.out.splitlines()) == 2
    assert max(map(len, found.out.splitlines())) > 200


@pytest.mark.parametrize("words", [("--help",), ("search", "documents", "lamp", "--json")])
def test_a_reader_that_leaves_is_not_told_off(program, library, words):
    reading, writing = os.pipe()
    os.close(reading)
    process = program(*words, db=library, stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, b"")


def test_a_terminal_that_takes_only_ascii_gets_all_the_same(ran, library, tmp_path, cli):
    (tmp_path / "note.md").write_text("# Phare\n\nLa lumière du phare: ☀")
    assert cli("add", tmp_path / "note.md", db=library).code == 0
    found = ran("search", "documents", "phare", db=library, env={"PYTHONIOENCODING": "ascii"})
    assert (found.code, found.err) == (0, "")
    assert "lumi\\xe8re" in found.out
    found = ran("search", "documents", "phare", "--json", db=library, env={"PYTHONIOENCODING": "ascii"})
    assert "lumière" in found.json()["hits"][0]["passage"]


def test_a_terminal_is_shown_a_bar_and_colours(environment, library, tmp_path, cli):
    """On a terminal, progress is drawn and not written as JSON, and the hit's key stands out."""
    (tmp_path / "note.md").write_text("# Lighthouse\n\nThe lamp is lit at dawn.")
    assert cli("add", tmp_path / "note.md", db=library).code == 0
    shown = on_terminal(["work", "--until", "current"], {**environment, "SEAMARK_DB": library})
    assert "1 row, all current" in shown
    assert '{"label"' not in shown
    shown = on_terminal(["search", "documents", "lamp"], {**environment, "SEAMARK_DB": library})
    assert "\x1b[1" in shown


def on_terminal(words, variables):
    here, there = pty.openpty()
    command = [sys.executable, "-P", "-m", "seamark", *words]
    variables = {**variables, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(command, env=variables, stdin=there, stdout=there, stderr=there) as process:
        os.close(there)
        shown = b""
        while True:
            try:
                piece = os.read(here, 10_000)
            except OSError:  # Linux says so when nobody holds the other end any more
                break
            if not piece:
                break
            shown += piece
    os.close(here)
    assert process.returncode == 0, shown
    return shown.decode()


def test_json_is_one_document_and_nothing_else(cli, library, tmp_path):
    for words in (
        ("status",),
        ("search", "documents", "lamp"),
        ("failures", "list"),
        ("failures", "retry", "documents"),
        ("doctor",),
        ("sql", "SELECT 1"),
        ("views",),
        ("work", "--until", "current"),
        ("add", tmp_path / "note.md"),
        ("attach", "documents", "--text", "title", "--text", "body"),
        ("detach", "documents"),
    ):
        done = cli(*words, "--json", db=library)
        assert done.code == 0, (words, done.err)
        assert isinstance(json.loads(done.out), dict)
        assert all(isinstance(json.loads(written), dict) for written in done.err.splitlines())


def test_text_is_made_harmless():
    assert cleaned("a\x1b[31mb\x07\x9b\u202e\ud800é\tc\nd") == "a[31mbé\tc\nd"
    assert line(" a\r\n\tb \x00 c ") == "a b  c"
    assert shortened("one two three", 8) == "one two…"
    assert shortened("one two", 8) == "one two"


@pytest.mark.parametrize(
    ("text", "url", "shown"),
    [
        ("at postgresql://ann:secret@host/db?x=1", None, "at postgresql://ann:***@host/db?x=1"),
        ("at postgresql://ann:se:cr/et@host/db", None, None),
        ("host=a password='se cret' user=b", None, "host=a password=*** user=b"),
        ("postgresql://host/db?password=secret&user=b", None, "postgresql://host/db?password=***&user=b"),
        ("bad token: s%cret", "postgresql://ann:s%cret@host/db", "bad token: ***"),
        ("wrong: sécret", "postgresql://ann:s%C3%A9cret@host/db", "wrong: ***"),
        ("no password here", "postgresql://ann@host/db", "no password here"),
        ("at postgresql://[::1", "postgresql://[::1", "at postgresql://[::1"),
    ],
)
def test_passwords_are_hidden(text, url, shown):
    hidden = masked(text, url)
    assert "ecret" not in hidden
    if shown is not None:
        assert hidden == shown


def test_progress_is_told_in_words():
    assert figures(Progress("embed", 1200, 5000, 812.4, 5.2, 61.0)) == "1,200/5,000 rows  812 rows/s  5s to go  lag 1m 1s"
    assert figures(Progress("attach", 1, None, 0.0)) == "1 row"
    assert figures(Progress("attach", 1200, None, 0.0, problem="the model\nis out")) == "1,200 rows  the model is out"
    assert [duration(seconds) for seconds in (0.4, 59.6, 3600, 90_061)] == ["0s", "1m 0s", "1h 0m", "1d 1h"]


def test_every_command_is_tested_here():
    groups = [group.name for group in app.registered_groups]
    assert {command.split()[0] for command in COMMANDS} == {command.name for command in app.registered_commands} | set(groups)
