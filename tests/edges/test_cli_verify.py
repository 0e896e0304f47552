"""`verify` as a user runs it, on both databases."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from seamark.edges.cli import array


@pytest.fixture
def past(backend, attached):
    """Change the table without its triggers."""

    def run(*statements):
        if backend.name == "postgres":
            attached.run("SET session_replication_role = replica")
            for statement in statements:
                attached.run(statement)
            attached.run("SET session_replication_role = DEFAULT")
            return
        triggers = attached.run("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
        for name, _ in triggers:
            attached.run(f'DROP TRIGGER "{name}"')
        for statement in statements:
            attached.run(statement)
        for _, sql in triggers:
            attached.run(sql)

    return run


def test_a_sound_database(cli, backend, attached):
    shown = cli("verify", db=backend.url)
    assert (shown.code, shown.out) == (0, "notes: 4 rows compared, all as they should be\n")
    document = cli("verify", "notes", "--json", db=backend.url).json()
    assert document == {
        "clean": True,
        "problems": [],
        "sources": [
            {
                "source": "notes",
                "clean": True,
                "rows": 4,
                "counts": [],
                "findings": [],
                "problems": [],
                "mended": [],
                "unmended": [],
                "repaired": 0,
            }
        ],
    }


def test_nothing_attached(cli, backend, notes):
    assert cli("verify", db=backend.url).code == 0
    unknown = cli("verify", "notes", db=backend.url)
    assert (unknown.code, unknown.out) == (1, "")
    assert "seamark attach" in unknown.err


def test_findings_are_listed_and_mended(cli, backend, past):
    past("UPDATE notes SET body = 'No trigger saw this.' WHERE id = 2", "INSERT INTO notes VALUES (9, 7, 'Unseen', NULL, NULL)")
    found = cli("verify", "notes", db=backend.url)
    assert found.code == 1
    lines = [text.strip() for text in found.out.splitlines()]
    assert lines[0] == "notes: 5 rows compared, 3 findings"
    assert {"journal: 1 row unentered", "index 1: 1 row outdated", "index 2: 1 row outdated"} <= set(lines)
    assert {"9 unentered", "2 outdated"} <= set(lines)
    assert lines[-1] == "Next: seamark verify notes --repair"
    [source] = cli("verify", "--json", db=backend.url).json()["sources"]
    assert sorted((one["key"], one["reason"], one["generation"]) for one in source["findings"] if one["generation"] != 1) == [
        (2, "outdated", 2),
        (9, "unentered", None),
    ]
    assert {"reason": "unentered", "generation": None, "rows": 1} in source["counts"]
    repaired = cli("verify", "--repair", db=backend.url)
    assert repaired.code == 1
    assert repaired.out.splitlines()[-1].strip() == "2 rows to be indexed anew. Next: seamark work"
    assert cli("work", "--until", "current", db=backend.url).code == 0
    assert cli("verify", db=backend.url).code == 0
    hits = cli("search", "notes", "no trigger saw this", "--json", db=backend.url).json()["hits"]
    assert hits[0]["key"] == 2


def test_the_document_has_every_finding_however_many_there_are(cli, backend, past, monkeypatch):
    """More of them than are kept in memory."""
    monkeypatch.setattr(array, "MEMORY_BYTES", 4096)
    past(*(f"INSERT INTO notes VALUES ({number}, 7, 'Unseen', NULL, NULL)" for number in range(1000, 2200)))
    [source] = cli("verify", "--json", db=backend.url).json()["sources"]
    assert [one["key"] for one in source["findings"]] == list(range(1000, 2200))
    assert [{"reason": "unentered", "generation": None, "rows": 1200}] == source["counts"]


def test_an_array_of_a_document_takes_no_memory_however_long_it_is():
    """Nor while it is written; and it is written as any other."""
    with array.KeptArray() as kept, Path(os.devnull).open("w", encoding="ascii") as nowhere:
        assert "[]" == json.dumps(kept, indent=2)
        kept.append({"key": 1})
        kept.append({"key": ["a", None]})
        assert [{"key": 1}, {"key": ["a", None]}] == json.loads(json.dumps({"all": list(kept)}))["all"]
        written = io.StringIO()
        json.dump({"all": kept}, written)
        assert {"all": [{"key": 1}, {"key": ["a", None]}]} == json.loads(written.getvalue())
        tracemalloc.start()
        try:
            for number in range(100_000):
                kept.append({"key": number, "reason": "unentered", "generation": None})
            json.dump({"all": kept}, nowhere)
            assert tracemalloc.get_traced_memory()[1] < 4 * array.MEMORY_BYTES
        finally:
            tracemalloc.stop()


def test_what_is_beyond_repair_is_said(cli, backend, attached):
    attached.run("ALTER TABLE notes RENAME COLUMN body TO text")
    for word in ([], ["--repair"]):
        shown = cli("verify", *word, db=backend.url)
        assert shown.code == 1
        assert "cannot be mended here: table 'notes' has no column 'body' any more" in shown.out
        assert "Next:" not in shown.out
    status = cli("status", db=backend.url)
    assert "broken: table 'notes' has no column 'body' any more" in status.out
    [source] = cli("status", "--json", db=backend.url).json()["sources"]
    assert source["state"] == "broken"
    doctor = cli("doctor", db=backend.url)
    assert doctor.code == 1
    assert "broken: table 'notes' has no column 'body' any more" in doctor.out


def test_a_missing_sidecar_is_told(cli, sqlite_backend):
    """Nothing is known to be attached, yet the file has a journal."""
    application = sqlite_backend.application()
    application.run("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)")
    assert cli("attach", "notes", "--text", "body", db=sqlite_backend.url).code == 0
    for file in sqlite_backend.sidecar.parent.glob(sqlite_backend.sidecar.name + "*"):
        file.unlink()
    shown = cli("verify", db=sqlite_backend.url)
    assert shown.code == 1
    assert "attach the table again with the same words" in shown.out
    assert cli("verify", "--json", db=sqlite_backend.url).json()["problems"][0]["name"] == "journals"
