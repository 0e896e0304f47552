"""The demo does what it says, ends by itself, and can be run again."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

ROWS_MIN = 4000


@pytest.fixture
def demo(tmp_path):
    def run(*words):
        command = [sys.executable, "-P", "-m", "seamark", "demo", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=170, check=False)

    return run


def test_the_demo_embeds_answers_and_notices_an_edit(demo, tmp_path):
    done = demo("--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["rows"] > ROWS_MIN
    coverage = document["coverage"]
    assert coverage["live"] == document["rows"]
    assert coverage["embedded"] + coverage["blank"] == coverage["live"]
    assert all(question["hits"] for question in document["questions"])
    assert all(question["degraded"] == [] for question in document["questions"])

    with closing(sqlite3.connect(tmp_path / "seamark-demo.db")) as connection:
        [(edited,)] = connection.execute("SELECT id FROM docstrings WHERE name = 'calendar.isleap'")
    old, new = document["edit"]["before"]
    between, after = document["edit"]["between"], document["edit"]["after"]
    assert edited in [hit["key"] for hit in old["hits"]]
    assert edited not in [hit["key"] for hit in new["hits"]]
    assert [hit["stale"] for hit in between["hits"] if hit["key"] == edited] == [True]
    assert (after["hits"][0]["key"], after["hits"][0]["stale"]) == (edited, False)
    assert "lighthouse" in after["hits"][0]["passage"]


def test_the_demo_tells_what_it_does_and_may_be_run_again(demo, tmp_path):
    for _ in range(2):
        done = demo("--keep", tmp_path)
        assert done.returncode == 0, done.stderr
    told = done.stdout
    for word in (
        "attach docstrings",
        "work --until current",
        "secrets.token_",
        "stale",
        "Coverage",
        "-m seamark search docstrings",
    ):
        assert word in told
    assert "rows" in done.stderr  # progress


def test_the_demo_overwrites_nothing_that_is_not_its_own(demo, tmp_path):
    mine = tmp_path / "seamark-demo.db"
    with closing(sqlite3.connect(mine)) as connection:
        connection.execute("CREATE TABLE precious(x)")
        connection.commit()
    before = mine.read_bytes()
    done = demo()
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert mine.read_bytes() == before
    assert demo("--keep", tmp_path / "no" / "folder").returncode == 1
