"""`sql` and `views`: what SQL users and other programs read, on both databases."""

from __future__ import annotations

import json
import subprocess
import sys

import psycopg

import seamark

ASKED = "SELECT key, status, kind FROM embedding_jobs ORDER BY kind, CAST(key AS integer)"
DONE = [[str(key), "done", kind] for kind in ("lexical", "vector") for key in (1, 2, 3)]
OTHER_PROGRAM = """
import json, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
for statement in json.loads(sys.argv[2]):
    connection.execute(statement)
print(json.dumps([connection.execute(query).fetchall() for query in json.loads(sys.argv[3])]))
connection.close()
"""


def test_a_query_is_shown_as_a_table_and_as_json(cli, backend, attached):
    shown = cli("sql", ASKED, db=backend.url)
    assert shown.code == 0, shown.err
    assert [line.split() for line in shown.out.splitlines() if "done" in line] == DONE
    assert shown.err == "6 rows\n"
    found = cli("sql", ASKED, "--json", db=backend.url).json()
    assert found == {"columns": ["key", "status", "kind"], "rows": DONE}


def test_the_users_table_is_joined_with_its_embeddings(cli, backend, attached):
    attached.run("UPDATE notes SET title = 'Keys' WHERE id = 1")
    query = (
        "SELECT n.id, e.model_id, e.model_version, e.embedded_at FROM notes n JOIN notes_embeddings e ON e.id = n.id"
        " WHERE NOT e.current"
    )
    [[key, model, version, moment]] = cli("sql", query, "--json", db=backend.url).json()["rows"]
    assert (key, model) == (1, "static:seamark-static-256")
    assert version
    assert moment.endswith("Z")
    stale = "SELECT key FROM embedding_jobs WHERE status <> 'done' AND kind = 'vector'"
    assert cli("sql", stale, "--json", db=backend.url).json()["rows"] == [["1"]]


def test_what_would_change_something_is_refused(cli, backend, attached):
    for statement in ("DELETE FROM notes", "SELECT 1; DELETE FROM notes", "  "):
        refused = cli("sql", statement, "--json", db=backend.url)
        assert (refused.code, refused.json()["error"]["type"]) == (2, "InvalidRequestError"), statement
    assert attached.run("SELECT count(*) FROM notes") == [(4,)]


def test_values_that_json_has_no_form_for(cli, backend, attached):
    blob = "x'00ff'" if backend.name == "sqlite" else "'\\x00ff'::bytea"
    found = cli("sql", f"SELECT {blob}, NULL, 1.5, 'a', count(*) FROM notes", "--json", db=backend.url)
    assert found.json()["rows"] == [[{"hex": "00ff"}, None, 1.5, "a", 4]]


def test_another_programs_connection_has_the_views(cli, backend, attached):
    """SQLite: after the statements that are printed, run by the interpreter's own library; PostgreSQL: at once."""
    told = cli("views", "--json", db=backend.url).json()
    queries = [
        "SELECT status, count(*) FROM embedding_jobs GROUP BY status",
        "SELECT id, current FROM notes_embeddings WHERE model_version <> '' ORDER BY id",
    ]
    if backend.name == "sqlite":
        assert told["views"] == ['"notes_embeddings"', '"embedding_jobs"']
        printed = cli("views", db=backend.url)
        assert printed.out == "".join(f"{statement};\n" for statement in told["statements"])
        words = (str(backend.path), json.dumps(told["statements"]), json.dumps(queries))
        ran = subprocess.run([sys.executable, "-c", OTHER_PROGRAM, *words], check=True, capture_output=True, text=True)
        found = json.loads(ran.stdout)
    else:
        assert told == {"views": ['seamark."embedding_jobs"', 'seamark."notes_embeddings"'], "statements": []}
        with psycopg.connect(backend.url) as connection:
            connection.execute("SET search_path = public, seamark")
            found = [[list(row) for row in connection.execute(query).fetchall()] for query in queries]
    assert found == [[["done", 6]], [[1, 1], [2, 1], [3, 1]]]


def test_without_anything_attached_there_are_no_jobs(cli, backend, notes):
    assert cli("views", db=backend.url).code == 0
    if backend.name == "sqlite":
        assert cli("sql", ASKED, "--json", db=backend.url).json()["rows"] == []
    assert cli("sql", "SELECT count(*) FROM notes", "--json", db=backend.url).json()["rows"] == [[4]]


def test_a_program_reads_rows_with_their_columns(backend, attached):
    with seamark.open(backend.url) as service:
        mark = "?" if backend.name == "sqlite" else "$1"
        found = service.sql(f"SELECT id, title FROM notes WHERE id > {mark} ORDER BY id", [2])
    assert (found.columns, found.rows) == (("id", "title"), ((3, "Canteen"), (4, "Old news")))


def test_stamps_from_attach_to_detach(cli, backend, notes):
    before = backend.schema()
    words = ("attach", "notes", "--text", "title", "--text", "body", "--stamp", "has_embedding,embedded_model_id")
    done = cli(*words, "--stamp", "embed_gen", "--json", db=backend.url)
    assert done.json()["source"]["stamp"] == ["embedded_model_id", "has_embedding", "embed_gen"]
    assert cli("work", "--until", "current", db=backend.url).code == 0
    told = "SELECT id, embedded_model_id FROM notes WHERE has_embedding AND embed_gen IS NOT NULL ORDER BY id"
    assert notes.run(told) == [(key, "static:seamark-static-256") for key in (1, 2, 3, 4)]
    again = cli(*words, db=backend.url)
    assert (again.code, "stamp is" in again.err) == (1, True), "other words"
    notes.run("UPDATE notes SET title = 'Keys' WHERE id = 1")
    assert [key for key, _ in notes.run(told)] == [2, 3, 4]
    assert cli("detach", "notes", "--drop-stamps", db=backend.url).code == 0
    assert backend.schema() == before


def test_a_stamp_that_there_is_not(cli, backend, notes):
    refused = cli("attach", "notes", "--text", "body", "--stamp", "embedded", db=backend.url)
    assert (refused.code, "has_embedding" in refused.err) == (2, True)
    refused = cli("attach", "notes", "--text", "body", "--stamp", "has_embedding", "--where", '{"nothing": 1}', db=backend.url)
    assert refused.code == 2
    notes.run(f"ALTER TABLE notes ADD COLUMN embed_gen {backend.type('text')}")
    refused = cli("attach", "notes", "--text", "body", "--stamp", "embed_gen", db=backend.url)
    assert (refused.code, "cannot hold the stamp" in refused.err) == (1, True)
    assert cli("status", "--json", db=backend.url).json() == {"sources": []}
