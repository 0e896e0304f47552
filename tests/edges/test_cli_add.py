"""`add`: text and Markdown files become a collection."""

from __future__ import annotations

import os

import pytest

import seamark
from seamark.edges.cli.documents import batches, documents_find


@pytest.fixture
def library(tmp_path):
    """A folder of documents, and of what is none."""
    folder = tmp_path / "library"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "keys.md").write_text("Preface.\n\n# Rotating keys #\n\nMake a new pair, and retire the old one.\n")
    (folder / "deep" / "soup.txt").write_text("Soup is served on Mondays.")
    (folder / "deep" / "er" / "utf16.txt").write_text("Ärger mit dem Leuchtturm", encoding="utf-16")
    (folder / "latin.rst").write_bytes("Der Süden".encode("latin-1"))
    (folder / "picture.png").write_bytes(b"\x89PNG\0\0")
    (folder / ".hidden.md").write_text("hidden")
    (folder / ".git" / "notes.md").write_text("hidden")
    return folder


def documents(*paths):
    skipped = []
    found = [document for batch in batches(documents_find(paths), skipped) for document in batch]
    return found, skipped


def test_folders_are_read_to_their_depth_and_hidden_files_left_out(library):
    found, skipped = documents(library, library / "keys.md")
    assert skipped == []
    assert {(os.path.relpath(path, library), title) for path, title, _ in found} == {
        ("keys.md", "Rotating keys"),
        ("latin.rst", "latin"),
        ("deep/soup.txt", "soup"),
        ("deep/er/utf16.txt", "utf16"),
    }
    bodies = {title: body for _, title, body in found}
    assert bodies["utf16"] == "Ärger mit dem Leuchtturm"
    assert bodies["latin"] == "Der S\ufffdden"


def test_a_file_that_is_no_text_is_named(library):
    found, [skipped] = documents(library / "picture.png", library / "keys.md")
    assert len(found) == 1
    assert skipped.path.endswith("picture.png")
    assert "not text" in skipped.reason


def test_add_makes_the_database_and_the_collection_and_can_be_searched(cli, library, tmp_path):
    url = f"sqlite:///{tmp_path}/new.db"
    added = cli("add", library, "--json", db=url)
    assert added.code == 0, added.err
    assert added.json() == {"collection": "documents", "files": 4, "changed": 4, "skipped": []}
    assert cli("work", "--until", "current", db=url).code == 0
    hit = cli("search", "documents", "how do I rotate keys", "--json", db=url).json()["hits"][0]
    assert hit["passage"].startswith("Rotating keys")
    assert hit["key"] == str(library / "keys.md")


def test_adding_again_updates_what_changed(cli, backend, library):
    assert cli("add", library, "--collection", "shelf", db=backend.url).code == 0
    assert cli("add", library, "--collection", "shelf", "--json", db=backend.url).json()["changed"] == 0
    (library / "keys.md").write_text("# Locks\n\nThere are no keys any more, but an umbrella.")
    assert cli("add", library / "keys.md", "--collection", "shelf", "--json", db=backend.url).json()["changed"] == 1
    assert cli("work", "--until", "current", db=backend.url).code == 0
    hit = cli("search", "shelf", "umbrella", "--json", db=backend.url).json()["hits"][0]
    assert hit["passage"].startswith("Locks")


def test_of_one_path_that_is_given_twice_the_last_text_counts_once(backend):
    with seamark.open(backend.url) as service:
        assert service.add("shelf", [("a", "first", "text"), ("a", "second", "text"), ("b", "other", "text")]) == 2
        service.work(until="current")
        assert [hit.passage for hit in service.source("shelf").search("second", mode="lexical")] == ["second\n\ntext"]


def test_a_path_object_names_a_database_too(tmp_path):
    with seamark.open(tmp_path / "new.db", create=True) as service:
        assert service.sources() == ()


def test_a_file_that_is_not_there_adds_nothing(cli, library, tmp_path):
    ended = cli("add", library, library / "gone.md", db=f"sqlite:///{tmp_path}/new.db")
    assert ended.code == 1
    assert "gone.md" in ended.err
    assert not (tmp_path / "new.db").exists()


def test_a_skipped_file_is_named_and_told_by_the_exit_code(cli, library, tmp_path):
    ended = cli("add", library / "picture.png", library / "keys.md", db=f"sqlite:///{tmp_path}/new.db")
    assert ended.code == 1
    assert f"skipped {library}/picture.png: not text" in ended.err
    assert "1 file," in ended.out


def test_a_collection_of_no_file_is_made_all_the_same(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    url = f"sqlite:///{tmp_path}/new.db"
    assert cli("add", tmp_path / "empty", "--json", db=url).json()["files"] == 0
    assert cli("work", "--until", "current", db=url).code == 0
    assert cli("search", "documents", "anything", "--json", db=url).json()["hits"] == []


@pytest.mark.parametrize("name", ["", " ", "sqlite_notes", "SQLite_x"])
def test_a_collection_has_a_name_that_every_database_takes(cli, backend, library, name):
    before = backend.schema()
    ended = cli("add", library, "--collection", name, db=backend.url)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert "collection" in ended.err
    assert backend.schema() == before


def test_a_folder_that_is_not_there_is_named(cli, library, tmp_path):
    ended = cli("add", library, db=f"sqlite:///{tmp_path}/nowhere/new.db")
    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
    assert f"there is no folder {tmp_path}/nowhere" in ended.err


def test_a_collection_may_not_take_the_name_of_a_table_of_the_users(cli, backend, notes, library):
    ended = cli("add", library, "--collection", "notes", db=backend.url)
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert notes.run("SELECT count(*) FROM notes") == [(4,)]
