"""The README's examples are run as they stand."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from seamark.edges.cli.main import app

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


@pytest.fixture
def application(tmp_path, monkeypatch):
    """The folder of an application, with the database that the examples speak of."""
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("app.db")) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("CREATE TABLE notes(id INTEGER PRIMARY KEY, org_id INT, title TEXT, body TEXT, deleted_at TEXT)")
        connection.executemany(
            "INSERT INTO notes(org_id, title, body) VALUES (?, ?, ?)",
            [(7, "Signing keys", "To rotate the keys, publish the new pair first."), (8, "Canteen", "Soup on Mondays.")],
        )
        connection.commit()
    return tmp_path


def test_the_python_example(application, capsys):
    [example] = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    names = {}
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102 it is our own
    names["sm"].close()
    assert "To rotate the keys" in capsys.readouterr().out


def test_the_table_of_commands_has_them_all():
    listed = set(re.findall(r"^\| `seamark (\w+)", README.read_text(), re.MULTILINE))
    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    assert known == listed


def test_the_files_it_links_to_are_there():
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", README.read_text()):
        assert (ROOT / link).exists(), link


def test_hooks_and_ci_run_what_a_hand_runs():
    hooks = re.findall(r"entry: make (\w+)", (ROOT / ".pre-commit-config.yaml").read_text())
    [targets] = re.findall(r"^make (.+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    rules = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert hooks == targets.split()
    assert {"demo", *targets.split()} <= set(rules)
