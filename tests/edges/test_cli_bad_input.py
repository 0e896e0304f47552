"""What bad input gets: one line on stderr, an exit code that tells, and never a traceback."""

from __future__ import annotations

import json
from urllib.parse import urlsplit, urlunsplit

import apsw
import psycopg
import pytest

MONEY = (("work",), ("batch", "notes"), ("estimate", "notes"), ("reembed", "notes"), ("model", "swap", "notes"))
ATTACH = ("attach", "notes", "--text", "body")


def told(ran, code, *words):
    """Check that it ended so, with one line on stderr that has these words, and nothing on stdout."""
    assert ran.code == code, ran
    lines = ran.err.splitlines()
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("seamark: ")
    assert ran.out == ""
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bogus",), "bogus"),
        (("attach",), "TABLE"),
        (("attach", "notes"), "--text"),
        (("attach", "notes", "--text", "a", "--where", "{"), "not JSON"),
        (("attach", "notes", "--text", "a", "--where", "[1]"), "JSON object"),
        (("attach", "notes", "--text", "a", "--where", "[" * 100_000), "not JSON"),
        (("attach", "notes", "--text", "a", "--touch", "bodies"), "TABLE=COLUMN"),
        (("attach", "notes", "--text", "a", "--chunk", "many"), "--chunk"),
        (("search", "notes"), "QUERY"),
        (("search", "notes", "q", "--mode", "magic"), "magic"),
        (("search", "notes", "q", "--filter", "org_id=7"), "not JSON"),
        (("work", "--until", "tomorrow"), "tomorrow"),
        (("work", "--workers", "0"), "--workers"),
        *(((*command, "--price", price), "--price") for command in MONEY for price in ("inf", "nan", "-1")),
        (("work", "--budget", "inf", "--price", "1"), "--budget"),
        (("reembed", "notes", "--budget", "nan", "--price", "1"), "--budget"),
        (("work", "--workers", "1000"), "--workers"),
        (("status", "--nope"), "--nope"),
        (("failures", "forget"), "forget"),
        (("failures", "retry"), "SOURCE"),
        (("failures", "list", "--limit", "0"), "--limit"),
        (("add",), "FILES"),
    ],
)
def test_a_wrong_call_is_told_apart_from_a_problem(cli, words, said):
    told(cli(*words, db="sqlite:///never-opened.db"), 2, said)
    ended = cli(*words, "--json", db="sqlite:///never-opened.db")
    assert (ended.code, ended.json()["error"]["type"]) == (2, "UsageError")
    assert ended.err.startswith(f"seamark: {ended.json()['error']['message']}")


def test_a_query_that_begins_with_a_dash_goes_after_two(cli, backend, attached):
    told(cli("search", "notes", "-keys", db=backend.url), 2, "seamark search SOURCE -- QUERY", "seamark search --help")
    assert "seamark search notes -- " in cli("search", "--help", COLUMNS="200").out
    assert cli("search", "notes", "--json", "--", "-keys", db=backend.url).json()["hits"][0]["key"] == 1
    assert cli("search", "notes", "--", "-keys", "--json", db=backend.url).out == ""


@pytest.mark.parametrize("command", [ATTACH, ("status",), ("work",), ("search", "a", "b"), ("detach", "a"), ("failures",)])
def test_no_database_given(cli, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    told(cli(*command), 2, "SEAMARK_DB")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///no/such/folder/app.db", "no/such/folder/app.db"),
        ("sqlite:///missing.db", "missing.db"),
        ("postgresql://nobody:s3cr%et@127.0.0.1:1/nothing", ""),
        ("postgresql://nobody:s3cret-word@127.0.0.1:1/nothing", ""),
        ("postgresql://nobody@127.0.0.1:1/nothing?password=s3cret-word", ""),
        ("postgresql://[::1", ""),
    ],
)
def test_a_database_that_is_not_there(cli, url, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    ended = cli("status", db=url)
    told(ended, 1, said)
    assert "s3cr" not in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://host/db", "mysql://"),
        ("sqlite://", "names no file"),
        ("sqlite:///a%00b.db", "names no file"),
        ("sqlite:///:memory:", "in memory"),
        (":memory:", "in memory"),
    ],
)
def test_a_url_that_names_no_database(cli, url, said):
    told(cli("status", db=url), 2, said)


def test_a_password_is_in_no_output_with_debug_either(cli):
    ended = cli("status", "--json", "--debug", db="postgresql://nobody:s3cret-word@127.0.0.1:1/nothing")
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "s3cret" not in ended.err + ended.out


def test_a_file_that_is_no_database(cli, tmp_path):
    path = tmp_path / "app.db"
    path.write_text("Dear diary, today I was taken for a database. " * 30)
    told(cli("status", db=f"sqlite:///{path}"), 1, "app.db")
    assert path.read_text().startswith("Dear diary")
    assert cli("doctor", db=f"sqlite:///{path}").code == 1


def test_a_folder_where_a_file_should_be(cli, tmp_path):
    told(cli("status", db=str(tmp_path)), 1, f"{tmp_path} is a folder")
    (tmp_path / "app.db-seamark").mkdir()
    apsw.Connection(str(tmp_path / "app.db")).execute("CREATE TABLE notes(id INTEGER PRIMARY KEY)")
    told(cli("status", db=str(tmp_path / "app.db")), 1, "app.db-seamark is a folder")


def test_settings_that_cannot_be_read(cli, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for text in ("db = ", "color = 'red'", "db = 7"):
        (tmp_path / "seamark.toml").write_text(text)
        told(cli("status"), 2, "seamark.toml")


def test_the_settings_file_says_which_database(cli, backend, attached, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seamark.toml").write_text(f"db = {json.dumps(backend.url)}")
    assert cli("status", "--json").json()["sources"][0]["name"] == "notes"


@pytest.fixture
def tables(backend):
    """Tables that cannot be attached, and some with names that bite."""
    application = backend.application()
    integer, text = backend.type("integer"), backend.type("text")
    application.run(f"CREATE TABLE keyless(body {text})")
    application.run(f"CREATE TABLE numbers(id {integer} PRIMARY KEY, body {integer})")
    application.run(f"CREATE TABLE measured(id {backend.type('number')} PRIMARY KEY, body {text})")
    return backend


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("attach", "nowhere", "--text", "body"), "nowhere"),
        (("attach", "keyless", "--text", "body"), "primary key"),
        (("attach", "numbers", "--text", "body"), "not text"),
        (("attach", "measured", "--text", "body"), "key"),
        (("attach", 'a"b; DROP TABLE x', "--text", "body"), "DROP TABLE"),
        (("attach", "", "--text", "body"), ""),
        (("attach", "nul\0name", "--text", "body"), ""),
        (("attach", "keyless\nor not", "--text", "body"), ""),
        (("search", "nowhere", "words"), "nowhere"),
        (("detach", "nowhere"), "nowhere"),
        (("status", "nowhere"), "nowhere"),
        (("failures", "list", "nowhere"), "nowhere"),
        (("failures", "retry", "nowhere", "1"), "nowhere"),
    ],
)
def test_tables_and_sources_that_will_not_do(cli, tables, words, said):
    told(cli(*words, db=tables.url), 1, said)


def test_a_column_that_is_not_there(cli, tables):
    told(cli("attach", "numbers", "--text", "nothing", db=tables.url), 2, "id, body")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "empty"),
        (("--limit", "0"), "limit"),
        (("--limit", "100000"), "limit"),
        (("--filter", '{"colour": "red"}'), "colour"),
        (("--filter", '{"org_id": {"$near": 7}}'), "$near"),
        (("--filter", '{"org_id": "seven"}'), "org_id"),
        (("--filter", '{"org_id": 1e999}'), "org_id"),
    ],
)
def test_searches_that_cannot_be_meant(cli, backend, attached, words, said):
    asked = ("search", "notes", " \n" if words == () else "keys", *words)
    told(cli(*asked, db=backend.url), 2, said)
    ended = cli(*asked, "--json", db=backend.url)
    assert (ended.code, f"seamark: {ended.json()['error']['message']}\n") == (2, ended.err)


def test_models_that_are_not_there(cli, backend, notes):
    for model in ("sentence-transformers:/no/such/folder", "openai:m?base_url=http://127.0.0.1:1/v1"):
        told(cli(*ATTACH, "--model", model, db=backend.url), 1)
    for model in ("magic", "static:x"):
        told(cli(*ATTACH, "--model", model, db=backend.url), 2)
    told(cli(*ATTACH, "--chunk", "3", db=backend.url), 2, "chunk")
    assert cli("status", "--json", db=backend.url).json() == {"sources": []}


def test_an_error_is_a_document_too(cli, backend):
    ended = cli("status", "nowhere", "--json", db=backend.url)
    assert ended.code == 1
    assert ended.json()["error"]["type"] == "UnknownSourceError"
    assert f"seamark: {ended.json()['error']['message']}\n" == ended.err


def test_doctor_is_red_where_nothing_can_be_opened(cli, tmp_path):
    seen = cli("doctor", "--json", db=f"sqlite:///{tmp_path}/missing.db")
    assert seen.code == 1
    assert seen.json()["ok"] is False
    assert "missing.db" in seen.json()["checks"][0]["detail"]


def test_an_error_that_nobody_expected_is_one_line(cli, backend, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("one over\nnothing")

    monkeypatch.setattr("seamark.open", broken)
    told(cli("status", db=backend.url), 1, "ZeroDivisionError", "one over nothing", "--debug")
    assert "Traceback" in cli("status", "--debug", db=backend.url).err
    assert "Traceback" in cli("status", db=backend.url, SEAMARK_DEBUG="1").err


def test_an_interrupt_is_130_without_a_word(cli, backend, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("seamark.open", interrupted)
    ended = cli("status", db=backend.url)
    assert (ended.code, ended.out, ended.err) == (130, "", "")


def test_hostile_names_are_names(cli, backend):
    """A table's and its columns' names are quoted wherever they stand."""
    application = backend.application()
    table, column = 'a"b; DROP TABLE x', 'select "it" -- '
    quoted = ['"' + name.replace('"', '""') + '"' for name in (table, column)]
    application.run(f"CREATE TABLE {quoted[0]}(id {backend.type('integer')} PRIMARY KEY, {quoted[1]} {backend.type('text')})")
    application.run(f"INSERT INTO {quoted[0]} VALUES (1, 'an old lighthouse')")
    assert cli("attach", table, "--text", column, db=backend.url).code == 0
    assert cli("work", "--until", "current", db=backend.url).code == 0
    assert cli("search", table, "lighthouse", "--json", db=backend.url).json()["hits"][0]["key"] == 1
    assert table in cli("status", db=backend.url).out
    assert cli("detach", table, db=backend.url).code == 0


def test_a_role_without_rights(cli, postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE notes(id int PRIMARY KEY, body text)")
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute("CREATE ROLE reader LOGIN")
    url = url_of(postgres_url, "reader")
    told(cli(*ATTACH, db=url), 1, "superuser")
    assert cli("status", db=url).code == 0
    assert cli("doctor", "--json", db=url).json()["ok"] is False
    assert cli(*ATTACH, db=postgres_url).code == 0
    # The schema is there now, and is not the reader's to use.
    told(cli("status", db=url), 1)
    told(cli(*ATTACH, db=url), 1)


def url_of(url, user):
    """Return a server's URL for another of its users."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}"))


def test_a_database_of_a_later_version(cli, postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE notes(id int PRIMARY KEY, body text)")
        assert cli(*ATTACH, db=postgres_url).code == 0
        connection.execute("UPDATE seamark.schema_version SET version = 999")
    told(cli("status", db=postgres_url), 1, "999")
    assert cli("doctor", db=postgres_url).code == 1


def test_a_schema_that_is_somebody_elses(cli, postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA seamark")
        connection.execute("CREATE TABLE seamark.boats(id int)")
    told(cli("status", db=postgres_url), 1, "schema")


def test_cells_that_no_model_has_seen_before(cli, backend, notes):
    """Ten megabytes in one cell, blanks, and lone marks: each has a stated outcome, and its neighbours are unaffected."""
    notes.run("UPDATE notes SET body = ? WHERE id = 2", "ten megabytes of lighthouse " * 370_000)
    notes.run("UPDATE notes SET title = '', body = ? WHERE id = 3", " \t\n\u3000")
    notes.run("UPDATE notes SET title = NULL, body = ? WHERE id = 4", "\U0001f511\u0301\ufeff")
    assert cli("attach", "notes", "--text", "title", "--text", "body", db=backend.url).code == 0
    assert cli("work", "--until", "current", db=backend.url).code == 0
    [source] = cli("status", "--json", db=backend.url).json()["sources"]
    counts = {name: source["generations"][1]["coverage"][name] for name in ("live", "embedded", "blank", "truncated")}
    assert counts == {"live": 4, "embedded": 3, "blank": 1, "truncated": 1}
    assert "1 truncated" in cli("status", db=backend.url).out
    assert cli("search", "notes", "signing keys", "--json", db=backend.url).json()["hits"][0]["key"] == 1
