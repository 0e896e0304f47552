"""A table that is no longer what was attached: everyone who asks is told, nothing is claimed to be current, others go on."""

import apsw
import pytest

import seamark
from seamark.errors import SourceDriftError, StorePermissionError
from seamark.store.sqlite.connection import Connection
from seamark.testing.oracle import OracleEmbedder


@pytest.fixture
def application(backend):
    application = backend.application()
    for table in ("notes", "others"):
        application.run(
            f"CREATE TABLE {table}(id {backend.type('integer')} PRIMARY KEY, body {backend.type('text')}, live INTEGER)"
        )
        application.many(f"INSERT INTO {table} VALUES (?, ?, 1)", [(1, "a dog"), (2, "a cat")])
    return application


@pytest.fixture
def service(backend, application):
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        for table in ("notes", "others"):
            service.attach(table, text="body", where={"live": 1})
        service.work(until="current")
        yield service


def drop_again(application):
    application.run("DROP TABLE notes")
    application.run("CREATE TABLE notes(id BIGINT PRIMARY KEY, body TEXT, live INTEGER)")
    application.run("INSERT INTO notes VALUES (4, 'a bird', 1)")


DRIFTS = {
    "text column renamed": (lambda app: app.run("ALTER TABLE notes RENAME COLUMN body TO text"), "body"),
    "filtered column renamed": (lambda app: app.run("ALTER TABLE notes RENAME COLUMN live TO alive"), "live"),
    "key renamed": (lambda app: app.run("ALTER TABLE notes RENAME COLUMN id TO number"), "id"),
    "table renamed": (lambda app: app.run("ALTER TABLE notes RENAME TO papers"), "notes"),
    "table dropped": (lambda app: app.run("DROP TABLE notes"), "notes"),
    "table made anew": (drop_again, "trigger"),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_is_told_by_everyone_and_others_go_on(service, application, drift):
    change, told = DRIFTS[drift]
    change(application)
    application.run("INSERT INTO others VALUES (3, 'a horse', 1)")
    problems = {status.source.name: status.problems for status in service.status()}
    assert problems["others"] == ()
    assert told in "; ".join(problems["notes"])
    assert [check.name for check in service.doctor() if check.required and not check.ok] == ["source notes"]
    with pytest.raises(SourceDriftError, match="notes"):
        service.work(until="current")
    assert {hit.key for hit in service.source("others").search("a horse", mode="vector", limit=1)} == {3}


def test_a_related_table_that_was_dropped_is_told_and_others_go_on(backend, application):
    application.run(f"CREATE TABLE tags(id {backend.type('integer')} PRIMARY KEY, note_id INTEGER, tag TEXT)")
    application.run("INSERT INTO tags VALUES (1, 1, 'wet')")
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        service.attach("notes", text=["body", "tags.tag"], touch={"tags": "note_id"})
        service.attach("others", text="body")
        service.work(until="current")
    application.run("DROP TABLE tags")
    application.run("INSERT INTO others VALUES (3, 'a horse', 1)")
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        found = {status.source.name: status for status in service.status()}
        assert "tags" in "; ".join(found["notes"].problems)
        assert [2, 2] == [one.coverage.live for one in found["notes"].generations]
        assert ((), [3, 3]) == (found["others"].problems, [one.coverage.live for one in found["others"].generations])
        assert [2, 2] == [one.coverage.live for one in service.source("notes").generations()]
        assert [check.name for check in service.doctor() if check.required and not check.ok] == ["source notes"]
        with pytest.raises(SourceDriftError, match="tags"):
            service.work(until="current")
        assert {hit.key for hit in service.source("others").search("a horse", mode="vector", limit=1)} == {3}
        service.detach("notes")


def test_attaching_again_does_not_pretend_that_all_is_well_and_detaching_first_mends_it(service, application):
    drop_again(application)
    with pytest.raises(SourceDriftError, match="otherwise detach it"):
        service.attach("notes", text="body", where={"live": 1})
    service.detach("notes")
    tracked = service.attach("notes", text="body", where={"live": 1})
    service.work(until="current")
    assert [hit.key for hit in tracked.search("a bird")] == [4]


def test_a_sqlite_file_restored_from_a_backup_is_noticed_and_nothing_is_lost(sqlite_backend):
    """Also when writes after the restore have taken the numbers that were given out before it."""
    application = sqlite_backend.application()
    application.run("CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT)")
    application.many("INSERT INTO notes VALUES (?, ?)", [(1, "a dog"), (2, "a cat")])
    with seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as service:
        service.attach("notes", text="body")
        service.work(until="current")
        backup = apsw.Connection(":memory:")
        with backup.backup("main", application.connection, "main") as copy:
            copy.step()
        application.many("INSERT INTO notes VALUES (?, ?)", [(3, "a horse"), (4, "a snake")])
        service.work(until="current")
        with application.connection.backup("main", backup, "main") as copy:
            copy.step()
        backup.close()
        for rows in ([], [(5, "a parrot")], [(6, "a whale")], [(7, "an owl")]):
            application.many("INSERT INTO notes VALUES (?, ?)", rows)
            assert ["backup" in problem for status in service.status() for problem in status.problems] == [True]
            with pytest.raises(SourceDriftError, match="backup"):
                service.work(until="current")
        service.detach("notes")
        tracked = service.attach("notes", text="body")
        service.work(until="current")
        assert {hit.key for hit in tracked.search("a whale", limit=100, mode="vector")} == {1, 2, 5, 6, 7}


def test_a_sqlite_file_restored_from_before_the_attach_is_told_and_others_go_on(sqlite_backend):
    """It has no journal: whoever looks must not fall over that."""
    application = sqlite_backend.application()
    for table in ("notes", "others"):
        application.run(f"CREATE TABLE {table}(id INTEGER PRIMARY KEY, body TEXT)")
        application.run(f"INSERT INTO {table} VALUES (1, 'a dog')")
    with seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as service:
        service.attach("others", text="body")
        backup = apsw.Connection(":memory:")
        with backup.backup("main", application.connection, "main") as copy:
            copy.step()
        notes = service.attach("notes", text="body")
        service.work(until="current")
        with application.connection.backup("main", backup, "main") as copy:
            copy.step()
        backup.close()
        application.run("INSERT INTO others VALUES (2, 'a cat')")
        found = {status.source.name: status for status in service.status()}
        assert "seamark_insert_notes" in "; ".join(found["notes"].problems)
        assert [counted.coverage.live for counted in found["notes"].generations] == [0, 0]
        assert notes.failures() == ()
        with pytest.raises(SourceDriftError, match="tables of ours are gone: seamark_journal_notes"):
            notes.search("a dog")
        with pytest.raises(SourceDriftError, match="notes"):
            service.work(until="current")
        assert {hit.key for hit in service.source("others").search("a cat", mode="vector", limit=1)} == {2}
        service.detach("notes")
        tracked = service.attach("notes", text="body")
        service.work(until="current")
        assert [hit.key for hit in tracked.search("a dog")] == [1]


def test_a_sqlite_file_that_cannot_be_written_is_not_half_attached(sqlite_backend, monkeypatch):
    """Root, which these tests may run as, writes anywhere: what SQLite says of the file is said for it."""
    application = sqlite_backend.application()
    application.run("CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT)")
    monkeypatch.setattr(Connection, "writable", lambda _: False)
    with seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as service:
        with pytest.raises(StorePermissionError, match="cannot be written"):
            service.attach("notes", text="body")
        assert service.sources() == ()
        assert [check.name for check in service.doctor() if check.required and not check.ok] == ["rights"]


def test_a_postgres_sequence_that_was_set_back_is_noticed(postgres_backend):
    application = postgres_backend.application()
    application.run("CREATE TABLE notes(id integer PRIMARY KEY, body text)")
    application.many("INSERT INTO notes VALUES (?, ?)", [(1, "a dog"), (2, "a cat")])
    with seamark.open(postgres_backend.url, embedder=OracleEmbedder()) as service:
        tracked = service.attach("notes", text="body")
        service.work(until="current")
        application.run(f"SELECT setval('seamark.seq_{tracked.source.id}', 1)")
        with pytest.raises(SourceDriftError, match="set back"):
            service.work(until="current")


def test_a_journal_whose_sidecar_is_gone_is_told_and_taken_up_again(sqlite_backend):
    application = sqlite_backend.application()
    application.run("CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT)")
    application.run("INSERT INTO notes VALUES (1, 'a dog')")
    before = sqlite_backend.schema()
    with seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as service:
        service.attach("notes", text="body")
        service.work(until="current")
    for file in sqlite_backend.sidecar.parent.glob(sqlite_backend.sidecar.name + "*"):
        file.unlink()
    with seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as service:
        assert [check.name for check in service.doctor() if check.required and not check.ok] == ["journals"]
        tracked = service.attach("notes", text="body")
        service.work(until="current")
        assert [hit.key for hit in tracked.search("a dog")] == [1]
        service.detach("notes")
        assert sqlite_backend.schema() == before


def test_an_attach_that_was_cut_short_while_rows_were_entered_is_told_by_the_doctor_and_mended(
    backend, application, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt

    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        with monkeypatch.context() as patch:
            patch.setattr(service.store, "source_enroll", killed)
            with pytest.raises(KeyboardInterrupt):
                service.attach("notes", text="body")
        [check] = [check for check in service.doctor() if check.required and not check.ok]
        assert "cut short while its rows were entered" in check.detail
        assert "attach it again with the same words" in check.remedy
        service.attach("notes", text="body")
        assert [] == [check for check in service.doctor() if check.required and not check.ok]
