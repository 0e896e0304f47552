"""The program as a user runs it: within this process for what it says, as a process of its own for how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from seamark.edges.cli.main import app

NOTES = (
    (1, 7, "Signing keys", "How to rotate the signing keys: make a new pair, publish it, and retire the old one.", None),
    (2, 7, "Backups", "Every night a copy of the database is taken and kept for thirty days.", None),
    (3, 8, "Canteen", "Soup on Mondays, fish on Fridays.", None),
    (4, 8, "Old news", "This note was deleted long ago.", "2020-01-01"),
)


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    def json(self):
        return json.loads(self.out)


@pytest.fixture
def cli():
    """Run a command line within this process."""

    def run(*words, db=None, **environment):
        environment = {"SEAMARK_DB": db, "SEAMARK_MODEL": None, "SEAMARK_DEBUG": None, **environment}
        result = CliRunner().invoke(app, [str(word) for word in words], env=environment, prog_name="seamark")
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def environment():
    """The environment of a process: no setting of ours from outside, and resources left open are told."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SEAMARK_")}
    return {**clean, "PYTHONWARNINGS": "error"}


@pytest.fixture
def program(environment, tmp_path):
    """Start the program as a process of its own, in a folder of its own; what is left of it is killed at the end."""
    started = []

    def start(*words, db=None, **more):
        variables = {**environment, **({"SEAMARK_DB": db} if db else {}), **more.pop("env", {})}
        command = [sys.executable, "-P", "-m", "seamark", *map(str, words)]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path, **more}
        started.append(subprocess.Popen(command, env=variables, **streams))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def ran(program):
    """Run the program as a process of its own to its end."""

    def run(*words, **more):
        process = program(*words, **more)
        out, err = process.communicate(timeout=120)
        return Ran(process.returncode, out.decode(), err.decode())

    return run


@pytest.fixture
def notes(backend):
    """An application with a table of four notes, one of them marked as deleted."""
    application = backend.application()
    integer, text = backend.type("integer"), backend.type("text")
    application.run(
        f"CREATE TABLE notes(id {integer} PRIMARY KEY, org_id {integer}, title {text}, body {text}, deleted_at {text})"
    )
    application.many("INSERT INTO notes VALUES (?, ?, ?, ?, ?)", NOTES)
    return application


@pytest.fixture
def attached(cli, backend, notes):
    """The notes, attached and embedded; returns their application."""
    done = cli("attach", "notes", "--text", "title", "--text", "body", "--where", '{"deleted_at": null}', db=backend.url)
    assert done.code == 0, done.err
    done = cli("work", "--until", "current", db=backend.url)
    assert done.code == 0, done.err
    return notes
