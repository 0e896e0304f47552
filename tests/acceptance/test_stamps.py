"""Stamps on the user's own rows while models come and go, on both databases."""

from __future__ import annotations

from importlib import import_module

import apsw
import pytest
from psycopg import errors

import seamark
from seamark.errors import SourceDriftError, TableUnusableError
from seamark.testing.tables import application_with, numbered

ROWS = 300


@pytest.fixture
def notes(backend):
    return application_with(backend, notes=numbered("the body of note", ROWS))


def stamps(application):
    """How many rows are stamped by each generation."""
    found = application.run("SELECT embed_gen, count(*) FROM notes WHERE has_embedding GROUP BY embed_gen ORDER BY embed_gen")
    return dict(found)


def test_stamps_are_never_true_of_rows_that_search_does_not_find(notes, opened, old, new):
    """By force, and back, and without any index at all."""
    opened(old).attach("notes", text="body", stamp=["has_embedding", "embed_gen"])
    service = opened(new, old)
    opened(old).work(until="current")
    tracked = service.source("notes")
    [vector] = tracked.swap(manual=True)
    assert {2: ROWS} == stamps(notes)
    tracked.activate(force=True)
    assert {} == stamps(notes)
    service.work(until="current")
    assert {vector.id: ROWS} == stamps(notes)
    notes.run("UPDATE notes SET body = 'edited' WHERE id <= 40")
    service.work(until="current")
    tracked.rollback()
    assert {vector.id: ROWS - 40} == stamps(notes)
    service.work(until="current")
    assert {2: ROWS} == stamps(notes)
    tracked.retire(2, force=True)
    assert {} == stamps(notes)
    service.work(until="current")
    assert {} == stamps(notes)
    tracked.rollback()
    service.work(until="current")
    assert {2: ROWS} == stamps(notes)


def test_a_repair_has_stamps_mended_that_somebody_has_edited(notes, opened, old, backend):
    """Emptied, or made up; by the next worker."""
    yes, no = (True, False) if backend.name == "postgres" else (1, 0)
    service = opened(old)
    tracked = service.attach("notes", text="body", stamp=["has_embedding", "embed_gen"])
    service.work(until="current")
    notes.run("INSERT INTO notes (id, body, has_embedding) VALUES (1000, '', ?)", no)
    notes.run("UPDATE notes SET has_embedding = ?, embed_gen = NULL WHERE id = 10", no)
    notes.run("UPDATE notes SET has_embedding = ?, embed_gen = 77 WHERE id = 1000", yes)
    service.work(until="current")
    assert {2: ROWS - 1, 77: 1} == stamps(notes), "they were compared a moment ago"
    assert tracked.verify(repair=True).clean
    service.work(until="current")
    assert {2: ROWS} == stamps(notes)


def test_a_swap_by_itself_clears_what_the_new_index_lacks(notes, opened, old, new, backend):
    """Rows that a worker of the old index has stamped at the last moment: before anything more is embedded."""
    opened(old).attach("notes", text="body", stamp=["has_embedding", "embed_gen"])
    service = opened(new, old)
    service.work(until="current")
    tracked = service.source("notes")
    tracked.swap()
    activate, clear, seen = service.store.generation_activate, service.store.stamps_clear, []

    def activated(generation, **words):
        done = activate(generation, **words)
        if done:
            notes.run("UPDATE notes SET body = 'late' WHERE id <= 30")
            notes.run("UPDATE notes SET embed_gen = 2, has_embedding = ? WHERE id <= 30", backend.name == "postgres" or 1)
        return done

    def cleared(*words):
        after = clear(*words)
        seen.append(stamps(notes))
        return after

    service.store.generation_activate, service.store.stamps_clear = activated, cleared
    service.work(until="current")
    assert [ROWS - 30] == [sum(found.values()) for found in seen]
    assert {3: ROWS} == stamps(notes)


def test_a_row_that_is_settled_while_stamps_are_cleared_keeps_its_stamp(bench, monkeypatch):
    """Between the look at what the index holds and the write."""
    bench.notes_table("a", "b")
    source = bench.attach("notes", ("body",), stamp=("has_embedding",))
    generation = bench.vector(source)
    lease = bench.lease(generation)
    read = bench.read(source, lease)
    stamps = import_module(f"seamark.store.{bench.backend.name}.stamps")
    name = {"sqlite": "_empty", "postgres": "_mend_or_owe"}[bench.backend.name]
    write, settled = getattr(stamps, name), []

    def late(*words):
        if not settled:
            settled.append(True)
            bench.settle(source, generation, lease, read)
        return write(*words)

    monkeypatch.setattr(stamps, name, late)
    assert bench.store.stamps_clear(source, generation.id, None) is None
    assert [True] == settled
    assert [(1,), (2,)] == bench.app.run("SELECT id FROM notes WHERE has_embedding ORDER BY id")
    assert bench.store.stamps_owed(source) == 0


def test_a_stamp_column_cannot_be_dropped_by_mistake(notes, opened, old):
    """Every later write would fail on SQLite: the database itself refuses, for the triggers look at the column."""
    service = opened(old)
    service.attach("notes", text="body", stamp=["has_embedding", "embed_gen"])
    service.work(until="current")
    for name in ("has_embedding", "embed_gen"):
        with pytest.raises((apsw.SQLError, errors.DependentObjectsStillExist), match=name):
            notes.run(f"ALTER TABLE notes DROP COLUMN {name}")
    notes.run("INSERT INTO notes (id, body) VALUES (1000, 'one more')")
    assert () == service.status()[0].problems
    service.work(until="current")
    assert {2: ROWS + 1} == stamps(notes)
    service.detach("notes", drop_stamps=True)


def test_triggers_that_were_made_before_columns_were_named_with_their_table_go_on(sqlite_backend, old):
    application = sqlite_backend.application()
    application.run("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)")
    application.run("INSERT INTO notes VALUES (1, 'a'), (2, 'b')")
    with seamark.open(sqlite_backend.url, embedder=old) as service:
        tracked = service.attach("notes", text="body", stamp=["has_embedding"])
        triggers = application.run("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
        former = {name: sql.replace('"notes"."has_embedding" IS NOT', '"has_embedding" IS NOT') for name, sql in triggers}
        changed = [name for name, sql in triggers if former[name] != sql]
        assert len(changed) == 3
        for name in changed:
            application.run(f'DROP TRIGGER "{name}"')
            application.run(former[name])
        assert () == service.status()[0].problems
        service.work(until="current")
        assert [(1, 1), (2, 1)] == application.run("SELECT id, has_embedding FROM notes")
        application.run("UPDATE notes SET body = 'c' WHERE id = 1")
        assert [(1, 0), (2, 1)] == application.run("SELECT id, has_embedding FROM notes")
        service.work(until="current")
        assert tracked.verify().clean
        service.detach("notes")
        service.attach("notes", text="body", stamp=["has_embedding"])
        assert dict(triggers) == dict(application.run("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"))


@pytest.mark.parametrize("name", ["has_embedding", "embed_gen"])
def test_a_stamp_column_that_is_gone_all_the_same_is_made_again(notes, opened, old, backend, name):
    """Others go on meanwhile."""
    service = opened(old)
    tracked = service.attach("notes", text="body", stamp=["has_embedding", "embed_gen"])
    notes.run("CREATE TABLE others(id INTEGER PRIMARY KEY, body TEXT)")
    others = service.attach("others", text="body")
    service.work(until="current")
    if backend.name == "sqlite":
        notes.run("PRAGMA legacy_alter_table = ON")
        notes.run(f"ALTER TABLE notes DROP COLUMN {name}")
        with pytest.raises(apsw.SQLError, match="no such column"):
            notes.run("INSERT INTO notes (id, body) VALUES (1000, 'one more')")
    else:
        notes.run(f"ALTER TABLE notes DROP COLUMN {name} CASCADE")
    notes.run("INSERT INTO others VALUES (1, 'goes on')")
    assert (f"stamp columns are gone: {name}",) == service.status()[0].problems[:1]
    with pytest.raises(SourceDriftError, match=name):
        service.work(until="current")
    assert (1, 0) == (others.coverage().embedded, others.coverage().missing)
    findings = tracked.verify(repair=True)
    assert f"stamp columns made anew, empty: {name}" in findings.mended
    assert () == findings.unmended
    assert ROWS == len(notes.run("SELECT id FROM notes")), "SQLite reads a schema anew for a statement that it can begin"
    notes.run("INSERT INTO notes (id, body) VALUES (1000, 'one more')")
    service.work(until="current")
    assert {2: ROWS + 1} == stamps(notes)
    assert tracked.verify().clean
    assert sorted(service.store.stamps_made(tracked.source)) == ["embed_gen", "has_embedding"]
    service.detach("notes", drop_stamps=True)
    assert 2 == len(notes.run("SELECT * FROM notes")[0])


def test_a_table_whose_text_is_generated_cannot_be_stamped_on_postgres(postgres_backend, old):
    application = postgres_backend.application()
    application.run("CREATE TABLE notes(id integer PRIMARY KEY, a text, body text GENERATED ALWAYS AS (a || '!') STORED)")
    with seamark.open(postgres_backend.url, embedder=old) as service:
        with pytest.raises(TableUnusableError, match=r"'notes' cannot be stamped: .* is generated"):
            service.attach("notes", text="body", stamp="has_embedding")
        assert (0, ()) == (len(application.run("SELECT * FROM notes")), service.sources())
        service.attach("notes", text="body")
