"""Tables that go, and do not come, under a worker."""

from __future__ import annotations

import threading

import apsw
import pytest

import seamark
from seamark.edges import indexed, report, worker, worklist
from seamark.errors import InvalidRequestError, SourceUnfinishedError, StoreError
from seamark.model import SourceSpec, TextColumn
from seamark.testing.beside import working
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.tables import ROWS, notes_and_tasks
from seamark.testing.waiting import until


def test_a_worker_goes_on_when_the_table_it_works_on_is_detached(backend):
    application = notes_and_tasks(backend)
    gate = threading.Event()
    embedder = OracleEmbedder(gate=gate)
    with seamark.open(backend.url, embedder=embedder) as service:
        service.attach("notes", text="body")
        tasks = service.attach("tasks", text="body")
        with working(service, threads=1):
            assert embedder.entered.wait(30)
            service.detach("notes")
            gate.set()
            until(lambda: tasks.coverage().embedded == ROWS)
            application.run("INSERT INTO tasks VALUES (1000, 'one more')")
            until(lambda: tasks.coverage().embedded == ROWS + 1)


def test_a_worker_that_tells_how_far_it_is_goes_on_with_others_where_a_journal_is_gone(sqlite_backend, monkeypatch):
    """As after the restore of a backup from before the attach: the count fails, and goes on failing once that is known."""
    monkeypatch.setattr(worklist, "CATALOG_SECONDS", 0.05)
    monkeypatch.setattr(report, "REPORT_SECONDS", 0.05)
    application = notes_and_tasks(sqlite_backend)
    counts = []
    count = report.Report._count
    monkeypatch.setattr(report.Report, "_count", lambda self: counts.append(self) or count(self))
    with seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as service:
        service.attach("notes", text="body")
        tasks = service.attach("tasks", text="body")
        service.work(until="current")
        with working(service, threads=1, progress=lambda _: None) as at_work:
            until(lambda: counts)
            application.run("DROP TABLE notes")
            application.run("DROP TABLE seamark_journal_notes")
            counts.clear()
            at_work.until(lambda: len(counts) > 10)
            application.run("INSERT INTO tasks VALUES (1000, 'one more')")
            at_work.until(lambda: tasks.coverage().embedded == ROWS + 1)


def drop(backend, application, name):
    """Drop a table of ours."""
    if backend.name == "postgres":
        application.run(f"DROP TABLE seamark.{name}")
        return
    sidecar = apsw.Connection(str(backend.sidecar))
    sidecar.set_busy_timeout(10_000)
    sidecar.execute(f"DROP TABLE {name}")
    sidecar.close()


@pytest.mark.parametrize("table", ["kept", "owed"])
def test_a_worker_goes_on_with_others_where_a_table_of_ours_goes(backend, table):
    """One that is looked into only now and then, so that the worker meets with it unprepared."""
    application = notes_and_tasks(backend)
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        notes = service.attach("notes", text="body", stamp="has_embedding")
        tasks = service.attach("tasks", text="body")
        service.work(until="current")
        with working(service, threads=1) as at_work:
            application.run("INSERT INTO notes (id, body) VALUES (1000, 'one more')")
            until(lambda: notes.coverage().embedded == ROWS + 1)
            generation = service.store.generations(notes.source.id)[-1]
            name = f"{table}_{generation.id if table == 'kept' else notes.source.id}"
            drop(backend, application, name)
            application.run("UPDATE notes SET body = 'edited' WHERE id > 50")
            at_work.until(lambda: any(name in problem for problem in service.status()[0].problems))
            application.run("INSERT INTO tasks VALUES (1000, 'one more')")
            at_work.until(lambda: tasks.coverage().embedded == ROWS + 1)


@pytest.mark.parametrize(
    "cut", ["source_enroll", "generations_begin"], ids=["while rows are entered", "before the indexes are made"]
)
def test_an_attach_that_was_cut_short_is_told_by_everyone_and_attaching_again_mends_it(backend, monkeypatch, cut):
    monkeypatch.setattr(indexed, "ATTACH_STALLED_SECONDS", 0.0)
    notes_and_tasks(backend)
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        tasks = service.attach("tasks", text="body")
        with monkeypatch.context() as patched:
            patched.setattr(service.store, cut, interrupted)
            with pytest.raises(KeyboardInterrupt):
                service.attach("notes", text="body")
        with pytest.raises(SourceUnfinishedError, match=r"'notes' .* attach it again"):
            service.work(until="current")
        assert (ROWS, 0) == (tasks.coverage().embedded, tasks.coverage().missing), "the others are done all the same"
        assert {"tasks": False, "notes": True} == {status.source.name: status.unfinished for status in service.status()}
        with pytest.raises(InvalidRequestError, match="the attach is under way, or was cut short: run it again"):
            service.source("notes").search("anything")
        notes = service.attach("notes", text="body")
        service.work(until="current")
        assert (ROWS, [False, False]) == (notes.coverage().embedded, [status.unfinished for status in service.status()])


def interrupted(*_):
    raise KeyboardInterrupt


def test_an_attach_that_goes_on_is_waited_for(opened, monkeypatch):
    service = opened(OracleEmbedder())
    spec = SourceSpec("notes", (TextColumn("body"),))
    source = service.store.source_create("notes", spec, service.store.table_inspect("notes"))
    monkeypatch.setattr(indexed, "ATTACH_STALLED_SECONDS", 0.0)
    waited = indexed.Indexed(service)
    assert not waited.whole()
    service.store.source_enroll(source, 10)
    assert not waited.whole()
    with pytest.raises(SourceUnfinishedError, match="attach it again"):
        waited.whole()


def test_who_waits_for_an_attach_that_was_cut_short_is_told(opened):
    service = opened(OracleEmbedder())
    spec = SourceSpec("notes", (TextColumn("body"),))
    service.store.source_create("notes", spec, service.store.table_inspect("notes"))
    told = []
    report.Report(service, told.append).tell()
    assert "'notes' is still being attached" in told[0].problem


def test_a_table_is_looked_at_now_and_then_and_at_once_when_reading_fails(opened, application, monkeypatch):
    service = opened(OracleEmbedder())
    tracked = service.attach("notes", text="body")
    looks = []
    look = service.source_problems
    monkeypatch.setattr(service, "source_problems", lambda source: looks.append(source.name) or look(source))
    monkeypatch.setattr(worklist, "CATALOG_SECONDS", 0.0)
    one = worker.Worker(service, until=None, stop=threading.Event())
    one._catalog.open()
    one._catalog.close()
    work = [[one._catalog.current() for _ in range(5)] for _ in range(2)]
    assert [[2] * 5] * 2 == [[len(each) for each in looked] for looked in work]
    assert ["notes"] == looks
    application.run("ALTER TABLE notes RENAME COLUMN body TO text")
    assert 2 == len(one._catalog.current())
    with one._unless_detached([known.id for known in service.store.generations(tracked.source.id)]):
        raise StoreError("no such column")
    assert () == one._catalog.current()
