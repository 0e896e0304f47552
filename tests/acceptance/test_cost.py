"""Never pay twice: what costs no call of the model, and what costs as few as it can, on both databases."""

from __future__ import annotations

from collections import Counter

import apsw
import numpy as np
import pytest

import seamark
from seamark.core import catalog
from seamark.core.chunking import Chunker
from seamark.errors import EmbedderUnavailableError
from seamark.testing.oracle import OracleEmbedder, oracle_proves
from seamark.testing.waiting import until

ROWS = 60


@pytest.fixture
def notes(backend):
    """An application with a table of sixty notes."""
    application = backend.application()
    integer, text = backend.type("integer"), backend.type("text")
    application.run(f"CREATE TABLE notes(id {integer} PRIMARY KEY, body {text}, org {integer}, hidden {text})")
    application.many("INSERT INTO notes VALUES (?, ?, 1, NULL)", [(n, f"the body of note {n}") for n in range(1, ROWS + 1)])
    return application


def indexed(service, **words):
    tracked = service.attach("notes", text="body", where={"hidden": None}, **words)
    service.work(until="current")
    return tracked


def vector_generation(service, tracked):
    return next(g for g in service.store.generations(tracked.source.id) if g.kind == "vector" and g.state == "active")


def proven(backend, service, tracked, application) -> None:
    """Every chunk of every live row is stored, and proves its text."""
    chunks = backend.chunks(tracked.source, vector_generation(service, tracked))
    texts = dict(application.run("SELECT id, body FROM notes WHERE hidden IS NULL"))
    assert {chunk.key[0] for chunk in chunks} == texts.keys()
    wrong = [c.key for c in chunks if not oracle_proves(c.vector, texts[c.key[0]][c.start : c.stop], "oracle-a")]
    assert wrong == []


CHANGES = {
    "a column that is not embedded": ["UPDATE notes SET org = 7"],
    "the same text once more": ["UPDATE notes SET body = body"],
    "edited and edited back": [
        "UPDATE notes SET body = body || '!'",
        "UPDATE notes SET body = substr(body, 1, length(body) - 1)",
    ],
    "rows rewritten in another order": [
        "CREATE TABLE copy AS SELECT * FROM notes",
        "DELETE FROM notes",
        "INSERT INTO notes SELECT * FROM copy ORDER BY body DESC",
    ],
    "another key": ["UPDATE notes SET id = 1007 WHERE id = 7", "UPDATE notes SET id = 1008 WHERE id = 8"],
    "out of the where and back": ["UPDATE notes SET hidden = 'yes'", "UPDATE notes SET hidden = NULL"],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_leaves_the_text_costs_no_call(backend, notes, opened, change):
    """All of it before a worker looks."""
    service = opened(OracleEmbedder())
    tracked = indexed(service)
    again = OracleEmbedder()
    service = opened(again)
    for statement in CHANGES[change]:
        notes.run(statement)
    service.work(until="current")
    assert again.calls == 0
    proven(backend, service, tracked, notes)
    assert tracked.coverage().embedded == ROWS


MOVES = {
    "in place": ["UPDATE notes SET id = id + 100000"],
    "new ones first": [
        "INSERT INTO notes SELECT id + 100000, body, org, hidden FROM notes",
        "DELETE FROM notes WHERE id < 100000",
    ],
    "old ones first": [
        "CREATE TABLE copy AS SELECT * FROM notes",
        "DELETE FROM notes",
        "INSERT INTO notes SELECT id + 100000, body, org, hidden FROM copy",
    ],
}


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("move", MOVES)
def test_other_keys_for_many_rows_at_once_cost_no_call(backend, notes, opened, move, threads):
    """The two halves of a row are in different leases, in whichever order these are settled."""
    service = opened(OracleEmbedder())
    notes.many("INSERT INTO notes VALUES (?, ?, 1, NULL)", [(n, f"the body of note {n}") for n in range(ROWS + 1, 5 * ROWS)])
    tracked = indexed(service)
    again = OracleEmbedder(concurrency=threads)
    service = opened(again)
    notes.run("DELETE FROM notes WHERE id = 1")
    with notes.transaction():
        for statement in MOVES[move]:
            notes.run(statement)

    def settled():
        """Rows that are gone are not waited for by a worker that is to return."""
        service.work(until="current", threads=threads)
        chunks = backend.chunks(tracked.source, vector_generation(service, tracked))
        return all(chunk.key[0] > 100000 for chunk in chunks)

    until(settled)
    assert again.texts == Counter()
    proven(backend, service, tracked, notes)


def test_a_restart_costs_no_call(notes, opened):
    tracked = indexed(opened(OracleEmbedder()))
    again = OracleEmbedder()
    assert opened(again).work(until="current") == 0
    assert again.calls == 0
    assert tracked.coverage().embedded == ROWS


@pytest.mark.parametrize("edited", [False, True])
def test_out_of_the_where_and_back_costs_no_call(backend, notes, opened, edited):
    """Indexed as gone in between; what was edited there costs what was edited."""
    embedder = OracleEmbedder()
    service = opened(embedder)
    tracked = indexed(service)
    before = {c.key: c.vector for c in backend.chunks(tracked.source, vector_generation(service, tracked))}
    embedder.texts.clear()
    notes.run("UPDATE notes SET hidden = 'yes' WHERE id <= 10")
    service.work(until="current")
    assert tracked.coverage().live == ROWS - 10
    if edited:
        notes.run("UPDATE notes SET body = 'other words' WHERE id = 3")
        service.work(until="current")
    notes.run("UPDATE notes SET hidden = NULL")
    service.work(until="current")
    assert embedder.texts == Counter(["other words"] if edited else [])
    proven(backend, service, tracked, notes)
    after = {c.key: c.vector for c in backend.chunks(tracked.source, vector_generation(service, tracked))}
    assert all(np.array_equal(before[key], after[key]) for key in before if key != (3,) or not edited)


def test_a_row_that_was_deleted_is_paid_for_when_it_comes_back(notes, opened):
    """Nothing of it was kept."""
    embedder = OracleEmbedder()
    service = opened(embedder)
    indexed(service)
    embedder.texts.clear()
    notes.run("UPDATE notes SET hidden = 'yes' WHERE id = 1")
    service.work(until="current")
    notes.run("DELETE FROM notes WHERE id IN (1, 2)")
    service.work(until="current")
    notes.run("INSERT INTO notes VALUES (1, 'the body of note 1', 1, NULL), (2, 'the body of note 2', 1, NULL)")
    service.work(until="current")
    assert embedder.texts == Counter(["the body of note 1", "the body of note 2"])


@pytest.mark.parametrize("chunk", [1000, 500])
def test_detached_and_attached_again_costs_no_call(backend, notes, opened, chunk):
    """With the same words, or another size of passages where the passages are the same; what changed meanwhile is paid for."""
    embedder = OracleEmbedder()
    service = opened(embedder)
    schema = backend.schema()
    tracked = indexed(service)
    before = {c.key: c.vector for c in backend.chunks(tracked.source, vector_generation(service, tracked))}
    embedder.texts.clear()
    service.detach("notes")
    assert backend.schema() == schema
    notes.run("UPDATE notes SET body = 'edited meanwhile' WHERE id = 1")
    notes.run("DELETE FROM notes WHERE id = 2")
    tracked = indexed(service, chunk=chunk)
    assert embedder.texts == Counter(["edited meanwhile"])
    proven(backend, service, tracked, notes)
    after = {c.key: c.vector for c in backend.chunks(tracked.source, vector_generation(service, tracked))}
    assert all(np.array_equal(before[key], after[key]) for key in after if key != (1,))


@pytest.mark.parametrize("when", ["at once", "afterwards"])
def test_detached_with_its_vectors_a_table_is_paid_for_again(notes, opened, when):
    embedder = OracleEmbedder()
    service = opened(embedder)
    indexed(service)
    embedder.texts.clear()
    service.detach("notes", drop_vectors=when == "at once")
    if when == "afterwards":
        service.detach("notes", drop_vectors=True)
    indexed(service)
    assert embedder.texts.total() == ROWS


def test_another_model_pays_for_every_row(notes, opened):
    """No vector is ever shared between models, nor between versions of one."""
    service = opened(OracleEmbedder())
    indexed(service)
    service.detach("notes")
    other = OracleEmbedder("oracle-b")
    indexed(opened(other))
    assert other.texts.total() == ROWS


def test_another_size_of_passages_beside_the_live_one_pays_for_other_passages_only(backend, notes, opened):
    """A new generation of the same model borrows from the one that is live."""
    embedder = OracleEmbedder()
    service = opened(embedder)
    tracked = indexed(service)
    notes.run("UPDATE notes SET body = ? WHERE id = 1", "words of one sentence. " * 40)
    service.work(until="current")
    embedder.texts.clear()
    spec = catalog.vector_spec(tracked.source.spec, embedder.identity, None, Chunker(100).identity())
    service.store.generation_create(tracked.source, spec)
    service.work(until="current")
    assert embedder.texts
    assert [text for text in embedder.texts if "the body of note" in text] == []
    assert vector_generation(service, tracked).fingerprint == spec.fingerprint
    proven(backend, service, tracked, notes)


def paragraph(number: int, words: str = "") -> str:
    """A paragraph of some 800 characters, so that two of them are not one passage."""
    return f"Paragraph {number} says {words}" + " ".join(f"word{number}x{at}" for at in range(75)) + "."


@pytest.mark.parametrize("at", [0, 24, 49])
@pytest.mark.parametrize("edit", ["a word", "longer", "removed", "inserted"])
def test_a_paragraph_of_fifty_costs_three_passages_at_most(backend, notes, opened, at, edit):
    """The first, one in the middle, the last."""
    embedder = OracleEmbedder()
    service = opened(embedder)
    paragraphs = [paragraph(number) for number in range(50)]
    notes.run("DELETE FROM notes")
    notes.run("INSERT INTO notes VALUES (1, ?, 1, NULL)", "\n\n".join(paragraphs))
    tracked = indexed(service)
    assert len(backend.chunks(tracked.source, vector_generation(service, tracked))) >= 50
    embedder.texts.clear()
    embedder.calls = 0
    changed = {
        "a word": [paragraph(at, "something else and ")],
        "longer": [paragraph(at), "And a paragraph that was appended to it. " * 6],
        "removed": [],
        "inserted": [paragraph(at), paragraph(99)],
    }
    paragraphs[at : at + 1] = changed[edit]
    notes.run("UPDATE notes SET body = ? WHERE id = 1", "\n\n".join(paragraphs))
    service.work(until="current")
    assert embedder.texts.total() <= 3
    assert embedder.calls <= 1
    proven(backend, service, tracked, notes)


def test_damaged_vectors_are_not_reused(backend, notes, opened):
    """What an administrator broke by hand is made anew with the row, not carried on."""
    embedder = OracleEmbedder()
    service = opened(embedder)
    tracked = indexed(service)
    generation = vector_generation(service, tracked)
    dimension = embedder.identity.dimension
    if backend.name == "sqlite":
        connection = apsw.Connection(str(backend.sidecar))
        connection.execute(f"UPDATE chunks_{generation.id} SET embedding = zeroblob({2 * dimension}) WHERE k1 = 1")
        connection.execute(f"UPDATE chunks_{generation.id} SET embedding = zeroblob(6) WHERE k1 = 2")
        connection.close()
    else:
        vector = "[" + ",".join(["3"] * dimension) + "]"
        notes.run(f"UPDATE seamark.chunks_{generation.id} SET embedding = '{vector}' WHERE k1 IN (1, 2)")
    embedder.texts.clear()
    notes.run("UPDATE notes SET hidden = 'yes' WHERE id <= 3")
    notes.run("UPDATE notes SET hidden = NULL")
    service.work(until="current")
    assert embedder.texts == Counter(["the body of note 1", "the body of note 2"])
    proven(backend, service, tracked, notes)


def test_what_was_detached_goes_once_it_is_embedded_again(backend, notes, opened):
    """It would take the room twice for nothing."""
    service = opened(OracleEmbedder())
    indexed(service)
    service.detach("notes")
    indexed(service)
    service.store.donors_trim(1e9)
    assert service.store.donors_drop("notes") == 0


def test_what_a_lease_has_paid_for_is_not_lost_when_it_is_given_back(backend, notes):
    """The model goes out in the middle of a lease: what it had answered is found by whoever takes the lease up."""
    embedder = OracleEmbedder(batch_items=8, errors=[None, None, EmbedderUnavailableError("out", 0.1)])
    with seamark.open(backend.url, embedder=embedder) as service:
        tracked = service.attach("notes", text="body")
        service.work(until="current", threads=1)
        assert tracked.coverage().embedded == ROWS
        twice = [text for text, count in embedder.texts.items() if count > 1]
        assert len(twice) == 8, "only those of the call that failed"
