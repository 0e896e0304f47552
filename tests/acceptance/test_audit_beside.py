"""An audit beside writers and workers, and by the worker itself."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager, suppress
from random import Random

import apsw
import pytest

import seamark
from seamark.core import audit
from seamark.edges import auditor
from seamark.edges.auditor import Auditor
from seamark.errors import StoreError
from seamark.model.findings import Reason
from seamark.testing.audited import TEXTS, WORDS, Audited, both
from seamark.testing.beside import beside, working
from seamark.testing.judgement import judge
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.waiting import until


def test_nothing_is_found_beside_writers_and_workers(backend, monkeypatch):
    """A row that changes between two looks, or is indexed anew, is as it should be at either."""
    monkeypatch.setattr(audit, "PAGE_ROWS", 7)
    monkeypatch.setattr(audit, "ENTRIES", 11)
    database = Audited.of(backend)

    def write(stop):
        application = backend.application()
        random = Random(7)
        while not stop.is_set():
            number = random.randrange(1, 60)
            text = " ".join(random.choices(WORDS, k=random.randrange(1, 9)))
            statements = (
                (
                    "INSERT INTO notes (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                    (number, text),
                ),
                ("UPDATE notes SET body = ? WHERE id = ?", (text, number)),
                ("DELETE FROM notes WHERE id = ?", (number,)),
            )
            statement, values = statements[random.randrange(3)]
            with suppress(apsw.BusyError):
                application.run(statement, *values)
            written.append(number)
            time.sleep(0.002)

    written = []
    with (
        closing(database.service),
        seamark.open(backend.url, embedder=database.embedder) as service,
        beside(write),
        working(service, threads=1),
    ):
        deadline = time.monotonic() + 5
        looks = 0
        while time.monotonic() < deadline or len(written) < 100:
            found = []
            findings = database.tracked.verify(found=found.append)
            assert (found, findings.problems) == ([], ())
            looks += 1
    assert looks > 2
    assert len(written) >= 100


def test_a_repair_beside_writers_loses_none_of_their_writes(backend, monkeypatch):
    monkeypatch.setattr(audit, "PAGE_ROWS", 7)
    database = Audited.of(backend)
    database.blindly(lambda: [database.update(number, f"a zebra {number}") for number in range(1, 30)])
    texts = dict(database.texts)

    def write(stop):
        application = backend.application()
        random = Random(11)
        while not stop.is_set():
            number = random.randrange(4, 43)  # however fast the writer is, the first three are left to the repair
            text = " ".join(random.choices(WORDS, k=random.randrange(1, 9)))
            with suppress(apsw.BusyError):
                if random.random() < 0.3 and number in texts:
                    application.run("DELETE FROM notes WHERE id = ?", number)
                    del texts[number]
                else:
                    application.run(
                        "INSERT INTO notes (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                        number,
                        text,
                    )
                    texts[number] = text

    with beside(write):
        repaired = sum(database.tracked.verify(repair=True).repaired for _ in range(5))
    assert repaired > 0
    database.texts = texts
    database.mend()
    database.service.close()


def test_stamps_come_back_with_their_table(backend):
    """What empties them, and what is in them."""
    application = backend.application()
    stamp = "INTEGER NOT NULL DEFAULT 0" if backend.name == "sqlite" else "boolean NOT NULL DEFAULT false"
    create = (
        f"CREATE TABLE notes (id {backend.type('integer')} PRIMARY KEY, body {backend.type('text')}, has_embedding {stamp})"
    )
    application.run(create)
    application.run("INSERT INTO notes (id, body) VALUES (1, 'a text')")
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        tracked = service.attach("notes", text="body", stamp=["has_embedding"])
        service.work(until="current")
        assert [bool(one) for (one,) in application.run("SELECT has_embedding FROM notes")] == [True]
        application.run("DROP TABLE notes")
        application.run(create)
        application.run("INSERT INTO notes (id, body) VALUES (1, 'another text')")
        assert not tracked.verify(repair=True).clean
        service.work(until="current")
        assert [bool(one) for (one,) in application.run("SELECT has_embedding FROM notes")] == [True]
        application.run("UPDATE notes SET body = 'edited'")
        assert [bool(one) for (one,) in application.run("SELECT has_embedding FROM notes")] == [False]
        service.work(until="current")
        assert tracked.verify().clean


# --- by the worker ------------------------------------------------------------------------------------------------


@contextmanager
def auditing(database, seconds):
    """Let a worker with this interval work for the length of a block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEAMARK_AUDIT_INTERVAL_SECONDS", str(seconds))
        service = seamark.open(database.backend.url, embedder=database.embedder)
    with service, working(service, threads=1):
        yield service


def test_a_worker_finds_and_mends_by_itself(database):
    database.blindly(lambda: database.update(1, "a zebra that nobody saw"))
    assert not database.hits("a zebra that nobody saw")
    assert database.tracked.coverage().missing == 0
    with auditing(database, 0.3):
        until(lambda: database.hits("a zebra that nobody saw"))
        audits = until(lambda: [one.audit for one in database.service.status()[0].generations if one.audit is not None])
        assert audits[0].rows == len(TEXTS)
    database.service.work(until="current")
    assert database.found() == {}
    judge(database.backend, {(number,): text or "" for number, text in database.texts.items()})


def test_what_a_worker_found_is_in_status(database):
    database.blindly(lambda: database.update(1, "a zebra that nobody saw"))
    database.service.audit_interval_seconds = 0.0
    assert Auditor(database.service, "w", lambda _: False).audit(database.tracked.source)
    audits = [one.audit for one in database.service.status()[0].generations]
    assert [(one.rows, one.findings, one.repaired) for one in audits] == [(len(TEXTS), 1, 1)] * 2


@pytest.mark.parametrize("seconds", [0, 3600])
def test_a_worker_audits_no_more_often_than_it_is_told(database, seconds, monkeypatch):
    monkeypatch.setattr(auditor, "LOOK_SECONDS", 0.05)
    database.blindly(lambda: database.update(1, "a zebra that nobody saw"))
    with auditing(database, seconds) as service:
        database.insert(1000, "a row by which the worker is seen to work")
        until(lambda: service.source("notes").coverage().missing == 0)
        time.sleep(1.0)
    assert all(one.audit is None for one in database.service.status()[0].generations)
    assert database.found() == both(1, Reason.OUTDATED)


def test_an_audit_that_fails_or_is_stopped_does_not_count(database, monkeypatch):
    source, store = database.tracked.source, database.service.store
    database.service.audit_interval_seconds = 0.0
    stopped = Auditor(database.service, "w1", lambda _: True)
    assert not stopped.audit(source)
    assert store.audits(source.id) == {}

    def failing(*_, **__):
        raise StoreError("a page of it cannot be read")

    monkeypatch.setattr(auditor, "verify", failing)
    with pytest.raises(StoreError, match="a page"):
        Auditor(database.service, "w2", lambda _: False).audit(source)
    monkeypatch.undo()
    assert store.audits(source.id) == {}
    assert not Auditor(database.service, "w3", lambda _: False).audit(source)  # left for a while to the one that failed
    assert store.audit_renew(source.id, "w2", -1)
    assert Auditor(database.service, "w3", lambda _: False).audit(source)
    assert {one.rows for one in store.audits(source.id).values()} == {len(TEXTS)}


def test_a_broken_source_is_left_alone_by_workers(database):
    database.triggers_drop()
    database.service.audit_interval_seconds = 0.0
    assert not Auditor(database.service, "w1", lambda _: False).audit(database.tracked.source)
    assert database.triggers() == []
