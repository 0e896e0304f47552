"""A table that is no longer what was attached: everyone who asks is told, nothing is claimed to be current, others go on."""

import pytest

import seamark
from seamark.errors import SourceDriftError
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
    application.run("CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT, live INTEGER)")
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


def test_attaching_again_does_not_pretend_that_all_is_well_and_detaching_first_mends_it(service, application):
    drop_again(application)
    with pytest.raises(SourceDriftError, match="Detach it"):
        service.attach("notes", text="body", where={"live": 1})
    service.detach("notes")
    tracked = service.attach("notes", text="body", where={"live": 1})
    service.work(until="current")
    assert [hit.key for hit in tracked.search("a bird")] == [4]
