"""What `attach` takes a table for, and what it says when the words are not those of before."""

from __future__ import annotations

from functools import partial

import pytest

import seamark
from seamark.core import catalog
from seamark.core.chunking import Chunker
from seamark.errors import InvalidRequestError, SourceConflictError
from seamark.testing.oracle import OracleEmbedder, oracle_vector


def tables(backend):
    application = backend.application()
    integer = backend.type("integer")
    application.run(f"CREATE TABLE notes(id {integer} PRIMARY KEY, title TEXT, deleted_at TEXT)")
    for table in ("bodies", "heads"):
        application.run(f"CREATE TABLE {table}(id {integer} PRIMARY KEY, note_id {integer}, words TEXT)")


@pytest.mark.parametrize(("kind", "other"), [("sqlite", "NOTES"), ("postgres", "public.notes")])
def test_a_table_is_one_source_by_whichever_of_its_names(request, kind, other):
    backend = request.getfixturevalue(f"{kind}_backend")
    tables(backend)
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        first = service.attach("notes", text="title")
        assert first.source == service.attach(other, text="title").source
        assert ["notes"] == [tracked.name for tracked in service.sources()]


def test_related_tables_are_the_same_in_any_order(sqlite_backend):
    tables(sqlite_backend)
    with seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as service:
        text = ["bodies.words", "heads.words"]
        first = service.attach("notes", text=text, touch={"bodies": "note_id", "heads": "note_id"})
        assert first.source == service.attach("notes", text=text, touch={"heads": "note_id", "bodies": "note_id"}).source


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"text": ["title"]}, "where is {'deleted_at': None}, now asked for None"),
        ({"text": ["title"], "where": {"deleted_at": {"$gt": "a"}}}, "now asked for {'deleted_at': {'$gt': 'a'}}"),
        (
            {"text": ["title", "bodies.words"], "where": {"deleted_at": None}, "touch": {"bodies": "note_id"}},
            "text is ['title'], now asked for ['title', 'bodies.words']; touch is {}, now asked for {'bodies': ['note_id']}",
        ),
    ],
)
def test_what_differs_is_told_in_the_words_that_attach_takes(sqlite_backend, words, told):
    tables(sqlite_backend)
    with seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as service:
        service.attach("notes", text="title", where={"deleted_at": None})
        with pytest.raises(SourceConflictError) as raised:
            service.attach("notes", **words)
        assert told in str(raised.value)


def test_what_an_earlier_version_attached_is_found_by_the_same_words(backend, monkeypatch):
    """And is worked on as it was begun: an upgrade that cuts texts otherwise changes nothing that is there."""
    tables(backend)
    backend.application().run("INSERT INTO notes VALUES (1, 'a title', NULL)")
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        with monkeypatch.context() as patched:
            patched.setattr(catalog, "Chunker", partial(Chunker, sections=False))
            service.attach("notes", text="title", chunk=1000)
        before = service.store.generations()
        assert all("sections" not in found.identity["chunker"] for found in before if found.kind == "vector")
        assert service.attach("notes", text="title").name == "notes"
        assert service.attach("notes", text="title", chunk=1000).name == "notes"
        assert service.store.generations() == before
        service.work(until="current")
        assert service.source("notes").coverage().embedded == 1
        with pytest.raises(SourceConflictError, match="'characters': 500"):
            service.attach("notes", text="title", chunk=500)


def test_vectors_are_stored_as_precisely_as_asked_for(backend):
    tables(backend)
    backend.application().run("INSERT INTO notes VALUES (1, 'a title', NULL)")
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        with pytest.raises(InvalidRequestError, match=r"'int8'.*float16, float32"):
            service.attach("notes", text="title", precision="int8")
        assert service.sources() == ()
        notes = service.attach("notes", text="title", precision="float32")
        service.work(until="current")
        [generation] = [found for found in service.store.generations() if found.kind == "vector"]
        [chunk] = backend.chunks(notes.source, generation)
        assert (chunk.vector == oracle_vector("a title", "oracle-a", 32)).all()
        [hit] = notes.search("a title", mode="vector")
        assert hit.score == pytest.approx(1, abs=1e-6)
        with pytest.raises(SourceConflictError, match="precision is float32, now asked for float16"):
            service.attach("notes", text="title", precision="float16")
