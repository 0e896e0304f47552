"""The commands as a user runs them one after the other, on both databases."""

from __future__ import annotations

import json

import pytest

import seamark
from seamark.testing.oracle import OracleEmbedder

WHERE = '{"deleted_at": null}'
ATTACH = ("attach", "notes", "--text", "title", "--text", "body", "--where", WHERE)


def test_from_attach_to_search(cli, backend, notes):
    attached = cli(*ATTACH, "--json", db=backend.url)
    assert attached.code == 0
    assert attached.json()["source"] == {
        "name": "notes",
        "table": "notes",
        "key": ["id"],
        "text": ["title", "body"],
        "where": {"deleted_at": None},
        "touch": {},
        "stamp": [],
        "track": "triggers",
        "state": "ready",
    }
    assert attached.json()["coverage"]["missing"] == 3

    worked = cli("work", "--until", "current", "--json", db=backend.url)
    assert worked.code == 0
    assert {"missing": 0, "failed": 0, "died": 0, "stopped": None}.items() <= worked.json().items()

    found = cli("search", "notes", "changing signing keys", "--json", db=backend.url)
    assert found.code == 0
    hit = found.json()["hits"][0]
    assert (hit["rank"], hit["key"], hit["stale"]) == (1, 1, False)
    assert "rotate the signing keys" in hit["passage"]
    assert hit["lexical"]["rank"] == hit["vector"]["rank"] == 1
    assert found.json()["degraded"] == []


def test_attaching_again_with_the_same_words_changes_nothing(cli, backend, attached):
    assert cli(*ATTACH, db=backend.url).code == 0
    assert cli("work", "--until", "current", "--json", db=backend.url).json()["settled"] == 0


def test_attaching_again_with_other_words_says_what_differs(cli, backend, attached):
    again = cli("attach", "notes", "--text", "title", db=backend.url)
    assert again.code == 1
    assert "['title', 'body']" in again.err
    assert "detach" in again.err


def test_detach_leaves_the_schema_as_it_was(cli, backend, notes):
    assert cli("status", db=backend.url).code == 0  # whoever opens a PostgreSQL database first creates pgvector
    before = backend.schema()
    assert cli(*ATTACH, db=backend.url).code == 0
    assert backend.schema() != before
    assert cli("detach", "notes", db=backend.url).code == 0
    assert backend.schema() == before
    assert cli("status", "--json", db=backend.url).json() == {"sources": []}


def test_detach_leaves_the_vectors_unless_told_to_drop_them(cli, backend, attached):
    left = cli("detach", "notes", "--json", db=backend.url)
    assert left.json() == {"detached": "notes", "vectors": "left", "stamps": {"dropped": [], "left": []}, "batches": []}
    dropped = cli("detach", "notes", "--drop", "--json", db=backend.url)
    assert dropped.json() == {"detached": "notes", "vectors": "dropped", "stamps": {"dropped": [], "left": []}, "batches": []}
    again = cli("detach", "notes", "--drop", db=backend.url)
    assert (again.code, "notes" in again.err) == (1, True), "there is nothing any more"


def test_status_shows_every_index_and_its_counts(cli, backend, attached):
    attached.run("INSERT INTO notes VALUES (5, 7, 'Fresh', 'Not embedded yet.', NULL)")
    attached.run("INSERT INTO notes VALUES (6, 7, ' ', NULL, NULL)")
    shown = cli("status", db=backend.url)
    assert shown.code == 0
    assert shown.out.count("5 live = 3 embedded + 0 blank + 2 missing + 0 failed") == 2
    [source] = cli("status", "notes", "--json", db=backend.url).json()["sources"]
    assert [generation["kind"] for generation in source["generations"]] == ["lexical", "vector"]
    vector = source["generations"][1]
    assert vector["state"] == "active"
    assert vector["model"]["dimension"] == 256
    assert vector["coverage"]["missing"] == 2
    assert vector["coverage"]["oldest_missing_seconds"] >= 0
    assert cli("work", "--until", "current", db=backend.url).code == 0
    shown = cli("status", db=backend.url)
    assert shown.out.count("5 live = 4 embedded + 1 blank + 0 missing + 0 failed") == 2


def test_search_shows_rank_score_key_and_passage(cli, backend, attached):
    found = cli("search", "notes", "rotate signing keys", "--explain", "--limit", "1", db=backend.url)
    assert found.code == 0
    head, passage, legs = found.out.splitlines()
    assert head.split()[0] == "1"
    assert head.split()[2] == "1"
    assert "How to rotate the signing keys" in passage
    assert "words rank 1" in legs
    assert "meaning rank 1" in legs


def test_an_edited_row_is_marked_stale_until_a_worker_has_run(cli, backend, attached):
    attached.run("UPDATE notes SET body = 'Lobster thermidor, every day, with the signing keys.' WHERE id = 1")
    found = cli("search", "notes", "signing keys", db=backend.url)
    assert found.out.splitlines()[0].endswith("stale")
    assert "Lobster" in found.out
    assert cli("work", "--until", "current", db=backend.url).code == 0
    found = cli("search", "notes", "lobster thermidor", db=backend.url)
    assert "stale" not in found.out
    assert found.out.splitlines()[0].split()[2] == "1"


def test_a_deleted_row_is_not_found_though_no_worker_has_run(cli, backend, attached):
    attached.run("DELETE FROM notes WHERE id = 1")
    hits = cli("search", "notes", "rotate the signing keys", "--json", db=backend.url).json()["hits"]
    assert 1 not in [hit["key"] for hit in hits]


@pytest.mark.parametrize("mode", ["hybrid", "lexical", "vector"])
def test_a_filter_keeps_other_rows_out_in_every_mode(cli, backend, attached, mode):
    wanted = json.dumps({"org_id": {"$in": [8, 9]}})
    found = cli("search", "notes", "the signing keys and soup", "--filter", wanted, "--mode", mode, "--json", db=backend.url)
    assert [hit["key"] for hit in found.json()["hits"]] == [3]


def test_no_hit_is_no_error(cli, backend, attached):
    found = cli("search", "notes", "zyzzyva", "--mode", "lexical", db=backend.url)
    assert (found.code, found.out, found.err) == (0, "", "nothing found\n")


def test_a_search_before_any_worker_says_what_it_could_not_use(cli, backend, notes):
    assert cli(*ATTACH, db=backend.url).code == 0
    found = cli("search", "notes", "keys", db=backend.url)
    assert found.code == 0
    assert "degraded" in found.err


def test_text_of_rows_cannot_steer_the_terminal(cli, backend, attached):
    attached.run(
        "UPDATE notes SET body = ? WHERE id = 3", "[bold red]soup[/bold red] \x1b[31mred\x1b[0m \u202elive \x9b2J\r\ngone"
    )
    found = cli("search", "notes", "soup", "--limit", "1", "--mode", "lexical", db=backend.url)
    assert "[bold red]soup[/bold red]" in found.out
    assert not set(found.out) & {"\x1b", "\x9b", "\u202e", "\r"}


def test_failures_are_listed_with_their_error_and_retried(cli, backend, notes):
    refusing = OracleEmbedder(refused=["Canteen\n\nSoup on Mondays, fish on Fridays."])
    with seamark.open(backend.url, embedder=refusing) as service:
        service.attach("notes", text=["title", "body"])
        service.work(until="current")
    listed = cli("failures", "list", "--json", db=backend.url).json()["failures"]
    assert [(failure["source"], failure["key"], failure["kind"], failure["parked"]) for failure in listed] == [
        ("notes", 3, "input", True)
    ]
    for words in (("failures",), ("failures", "list", "notes")):
        shown = cli(*words, db=backend.url)
        assert shown.code == 0
        assert shown.out.startswith("notes 3: input error")
    assert cli("failures", "retry", "notes", "2", db=backend.url).code == 1
    assert cli("failures", "retry", "notes", "3", "--json", db=backend.url).json() == {"source": "notes", "retried": 1}


def test_failures_of_nothing(cli, backend, attached):
    assert cli("failures", db=backend.url).out == "No row has failed.\n"


def test_keys_of_several_columns_and_types(cli, backend):
    application = backend.application()
    uuid, text = backend.type("uuid"), backend.type("text")
    application.run(f"CREATE TABLE parts(a {text}, b {uuid}, body {text}, PRIMARY KEY (a, b))")
    key = "4c9d2f6e-8c0f-4a7e-9a3d-1f2e3d4c5b6a"
    application.run("INSERT INTO parts VALUES (?, ?, ?)", "x", key, "a small brass screw")
    refusing = OracleEmbedder(refused=["a small brass screw"])
    with seamark.open(backend.url, embedder=refusing) as service:
        service.attach("parts", text="body")
        service.work(until="current")
    assert cli("failures", "list", "--json", db=backend.url).json()["failures"][0]["key"] == ["x", key]
    retried = cli("failures", "retry", "parts", json.dumps(["x", key]), "--json", db=backend.url)
    assert retried.json()["retried"] == 1
    for wrong in ("x", '["x"]', '["x", "not a uuid"]'):
        assert cli("failures", "retry", "parts", wrong, db=backend.url).code == 1


def test_doctor_is_green_on_a_sound_database(cli, backend, attached):
    seen = cli("doctor", "--json", db=backend.url)
    assert seen.code == 0, seen.out
    assert seen.json()["ok"] is True
    assert seen.json()["checks"]
    assert "all is well" in cli("doctor", db=backend.url).out


def test_text_of_a_related_table(cli, backend):
    application = backend.application()
    integer, text = backend.type("integer"), backend.type("text")
    application.run(f"CREATE TABLE messages(id {integer} PRIMARY KEY, subject {text})")
    application.run(f"CREATE TABLE bodies(message_id {integer} PRIMARY KEY, body {text})")
    application.run("INSERT INTO messages VALUES (1, 'hello')")
    words = ("attach", "messages", "--text", "subject", "--text", "bodies.body", "--touch", "bodies=message_id", "--json")
    attached = cli(*words, db=backend.url)
    assert attached.code == 0, attached.err
    assert attached.json()["source"]["touch"] == {"bodies": ["message_id"]}
    application.run("INSERT INTO bodies VALUES (1, 'an umbrella was left behind')")
    assert cli("work", "--until", "current", db=backend.url).code == 0
    assert cli("search", "messages", "umbrella", "--json", db=backend.url).json()["hits"][0]["key"] == 1
