"""Tables that must not get triggers: new rows within a second, edits and deletes by the audit."""

from __future__ import annotations

import time

import pytest
from psycopg.conninfo import conninfo_to_dict

import seamark
from seamark.core.polling import poll
from seamark.edges.auditor import Auditor
from seamark.errors import InvalidRequestError, SourceConflictError, TableUnusableError
from seamark.model.findings import Reason
from seamark.testing.beside import working
from seamark.testing.judgement import judge
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.waiting import until

TEXTS = {number: f"text {number}" for number in range(1, 31)}


@pytest.fixture
def application(backend):
    application = backend.application()
    application.run(f"CREATE TABLE notes (id {backend.type('integer')} PRIMARY KEY, body {backend.type('text')}, live INTEGER)")
    application.many("INSERT INTO notes VALUES (?, ?, 1)", list(TEXTS.items()))
    return application


@pytest.fixture
def service(backend, application):
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        yield service


def attach(service, **words):
    tracked = service.attach("notes", text="body", track="poll", **words)
    service.work(until="current")
    return tracked


def triggers(backend, application):
    if backend.name == "sqlite":
        return application.run("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
    return application.run("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")


def hits(tracked, text):
    return {hit.key for hit in tracked.search(text, mode="vector", limit=100) if hit.vector.score > 0.999}


def live(texts):
    return {(number,): text for number, text in texts.items()}


def test_nothing_of_ours_is_in_the_users_schema(backend, application, service):
    before = backend.schema()
    tracked = attach(service)
    assert triggers(backend, application) == []
    assert backend.schema() == before
    application.run("INSERT INTO notes VALUES (100, 'a new row', 1)")
    service.work(until="current")
    assert hits(tracked, "a new row") == {100}
    assert tracked.verify(repair=True).clean
    assert backend.schema() == before
    service.detach("notes")
    assert backend.schema() == before


def test_new_rows_are_seen_within_a_second(backend, application, service):
    tracked = attach(service)
    with working(service, threads=1):
        until(lambda: service.store.workers(15.0))
        waits = []
        for number in (101, 102, 103):
            application.run("INSERT INTO notes VALUES (?, ?, 1)", number, f"a new row {number}")
            began = time.monotonic()
            until(lambda number=number: (number,) in backend_journal(service, tracked))
            waits.append(time.monotonic() - began)
            until(lambda number=number: hits(tracked, f"a new row {number}") == {number})
    assert min(waits) < 1.0, waits


def backend_journal(service, tracked):
    """Return the keys of rows that have been entered, as the store tells them."""
    page = service.store.audit_page(tracked.source, [], None, 1000, 1_000_000)
    return {key for key, deleted in zip(page.keys, page.deleted, strict=True) if not deleted}


def test_edits_and_deletes_are_found_by_the_next_audit(backend, application, service):
    tracked = attach(service)
    application.run("UPDATE notes SET body = 'edited' WHERE id = 3")
    application.run("DELETE FROM notes WHERE id = 4")
    application.run("INSERT INTO notes VALUES (100, 'new', 1)")
    service.work(until="current")
    assert hits(tracked, "edited") == set()
    assert hits(tracked, "new") == {100}
    found = []
    findings = tracked.verify(found=found.append)
    assert {(one.key[0], one.reason) for one in found} == {(3, Reason.OUTDATED), (4, Reason.GONE)}
    assert findings.problems == ()
    service.audit_interval_seconds = 0.0
    assert Auditor(service, "w", lambda _: False).audit(tracked.source)
    service.work(until="current")
    assert hits(tracked, "edited") == {3}
    assert tracked.verify().clean
    if backend.name == "postgres":  # the judge looks for SQLite's journals in the user's file
        judge(backend, live({number: text for number, text in {**TEXTS, 3: "edited", 100: "new"}.items() if number != 4}))


def test_status_says_so(service, application):
    attach(service)
    [status] = service.status()
    assert (status.source.spec.track, status.edits_seconds, status.problems) == ("poll", 86_400.0, ())
    service.audit_interval_seconds = 0.0
    assert service.status()[0].edits_seconds is None


def test_rows_outside_the_where_are_not_entered(backend, application, service):
    application.run("UPDATE notes SET live = 0 WHERE id > 20")
    tracked = attach(service, where={"live": 1})
    application.many("INSERT INTO notes VALUES (?, ?, ?)", [(100, "in", 1), (101, "out", 0), (102, "in, too", 1)])
    service.work(until="current")
    assert tracked.coverage().live == 22
    assert hits(tracked, "out") == set()
    assert hits(tracked, "in, too") == {102}
    assert tracked.verify().clean
    application.run("UPDATE notes SET live = 1 WHERE id = 101")
    # What has just been passed, the poller comes by once more; it enters the row then.
    until(lambda: poll(service.store, tracked.source) or tracked.coverage().live == 23)
    service.work(until="current")
    assert hits(tracked, "out") == {101}


def test_a_row_that_commits_late_below_where_the_poller_stands(postgres_backend):
    application, slow = postgres_backend.application(), postgres_backend.application()
    application.run("CREATE TABLE notes (id bigserial PRIMARY KEY, body text)")
    application.run("INSERT INTO notes (body) SELECT 'text ' || n FROM generate_series(1, 10) n")
    with seamark.open(postgres_backend.url, embedder=OracleEmbedder()) as service:
        tracked = attach(service)
        with slow.transaction():
            [(late,)] = slow.run("INSERT INTO notes (body) VALUES ('late') RETURNING id")
            [(early,)] = application.run("INSERT INTO notes (body) VALUES ('early') RETURNING id")
            assert late < early
            service.work(until="current")
            assert hits(tracked, "early") == {early}
            deadline = time.monotonic() + 4.0  # longer than the margin: the poller waits for the transaction
            while time.monotonic() < deadline:
                poll(service.store, tracked.source)
                time.sleep(0.2)
        assert (late,) not in backend_journal(service, tracked)
        until(lambda: poll(service.store, tracked.source) or (late,) in backend_journal(service, tracked), seconds=10.0)
        service.work(until="current")
        assert hits(tracked, "late") == {late}
        assert tracked.verify().clean


def test_nothing_is_written_while_nothing_comes(backend, application, service):
    tracked = attach(service)
    until(lambda: not poll(service.store, tracked.source) and _rests(backend, service, tracked), seconds=10.0)


def _rests(backend, service, tracked):
    before = backend.writes()
    for _ in range(5):
        poll(service.store, tracked.source)
    return backend.writes() == before


def test_a_poller_goes_on_where_another_has_ended(backend, application, service):
    attach(service)
    service.close()
    application.run("INSERT INTO notes VALUES (100, 'written meanwhile', 1)")
    with seamark.open(backend.url, embedder=OracleEmbedder()) as again:
        tracked = again.attach("notes", text="body", track="poll")
        again.work(until="current")
        assert hits(tracked, "written meanwhile") == {100}


def test_other_words_are_a_conflict(service):
    attach(service)
    with pytest.raises(SourceConflictError, match="track"):
        service.attach("notes", text="body")


def test_keys_that_cannot_be_polled(backend, application, service):
    text = backend.type("text")
    application.run(f"CREATE TABLE pairs (a INTEGER, b INTEGER, body {text}, PRIMARY KEY (a, b))")
    application.run(f"CREATE TABLE named (name {text} PRIMARY KEY, body {text})")
    with pytest.raises(TableUnusableError, match="2 columns"):
        service.attach("pairs", text="body", track="poll")
    with pytest.raises(InvalidRequestError, match="poll='name'"):
        service.attach("named", text="body", track="poll")
    with pytest.raises(InvalidRequestError, match="cannot be stamped"):
        service.attach("notes", text="body", track="poll", stamp=["has_embedding"])
    with pytest.raises(InvalidRequestError, match="track"):
        service.attach("notes", text="body", track="telepathy")
    application.run("INSERT INTO named VALUES ('2026-01-01', 'a'), ('2026-01-02', 'b')")
    tracked = service.attach("named", text="body", track="poll", poll="name")
    application.run("INSERT INTO named VALUES ('2026-01-03', 'c')")
    service.work(until="current")
    assert hits(tracked, "c") == {"2026-01-03"}


def test_a_polled_table_may_be_read_only(postgres_backend):
    """On a role that may only read it."""
    application = postgres_backend.application()
    application.run("CREATE TABLE notes (id bigint PRIMARY KEY, body text)")
    application.run("INSERT INTO notes VALUES (1, 'a')")
    application.run("CREATE EXTENSION IF NOT EXISTS vector")
    [(database,)] = application.run("SELECT current_database()")
    role = f"reader_{database}"
    application.run(f"CREATE ROLE {role} LOGIN")
    application.run(f"GRANT CREATE ON DATABASE {database} TO {role}")
    application.run(f"GRANT SELECT ON notes TO {role}")
    try:
        url = seamark_url(postgres_backend.url, role)
        with seamark.open(url, embedder=OracleEmbedder()) as service:
            tracked = attach(service)
            application.run("INSERT INTO notes VALUES (2, 'b')")
            service.work(until="current")
            assert hits(tracked, "b") == {2}
            assert tracked.verify(repair=True).clean
            service.detach("notes")
    finally:
        application.run(f"DROP OWNED BY {role} CASCADE")
        application.run(f"DROP ROLE {role}")


def seamark_url(url, role):
    parts = conninfo_to_dict(url)
    host = parts.get("host", "")
    return f"postgresql://{role}@/{parts['dbname']}?host={host}&port={parts.get('port', 5432)}"
