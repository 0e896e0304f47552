"""What `verify` cannot mend is said; a sidecar that is lost, old or damaged is made good by what is left."""

from __future__ import annotations

import pytest

import seamark
from seamark.errors import StoreIncompatibleError
from seamark.model.findings import Reason
from seamark.testing.audited import TEXTS, Audited, both
from seamark.testing.judgement import judge


@pytest.mark.parametrize("column", ["body", "id"])
def test_a_renamed_column_is_broken_until_it_has_its_name_again(database, column):
    """What was written meanwhile is found then: PostgreSQL's triggers let it pass, where they read that column."""
    database.application.run(f"ALTER TABLE notes RENAME COLUMN {column} TO renamed")
    [status] = database.service.status()
    findings = database.tracked.verify(repair=True)
    assert (findings.clean, findings.rows, findings.unmended) == (False, 0, status.problems)
    assert column in status.problems[0]
    key, text = ("id", "renamed") if column == "body" else ("renamed", "body")
    database.application.run(f"INSERT INTO notes ({key}, {text}) VALUES (100, 'a zebra that nobody saw')")
    database.application.run(f"ALTER TABLE notes RENAME COLUMN renamed TO {column}")
    database.texts[100] = "a zebra that nobody saw"
    if database.backend.name == "postgres" and column == "id":
        assert "missing" in database.service.status()[0].problems[0]
        assert database.found() == {(100, Reason.UNENTERED, None): 1}
    database.mend()
    assert database.service.status()[0].problems == ()


@pytest.mark.parametrize("column", ["body", "id"])
def test_a_retyped_column_is_broken(postgres_database_, column):
    database = postgres_database_
    into = "integer USING length(body)" if column == "body" else "integer"
    database.triggers_drop()  # PostgreSQL does not let a column be retyped that a trigger looks at
    database.application.run(f"ALTER TABLE notes ALTER COLUMN {column} TYPE {into}")
    [status] = database.service.status()
    assert f"column '{column}'" in status.problems[0]
    assert "integer" in status.problems[0]
    findings = database.tracked.verify(repair=True)
    assert (findings.clean, findings.unmended) == (False, status.problems)


def test_a_text_column_that_holds_no_text_any_more(sqlite_database):
    database = sqlite_database
    database.application.run("DROP TABLE notes")
    database.application.run("CREATE TABLE notes (id INTEGER PRIMARY KEY, body INTEGER)")
    assert "not text" in database.service.status()[0].problems[0]
    assert database.tracked.verify(repair=True).unmended == database.service.status()[0].problems


def test_a_text_column_of_another_length_is_well(postgres_database_):
    database = postgres_database_
    database.triggers_drop()
    database.application.run("ALTER TABLE notes ALTER COLUMN body TYPE varchar(9000)")
    assert "triggers" in database.service.status()[0].problems[0]
    database.mend()
    database.update(1, "a text of another length")
    assert database.tracked.coverage().missing == 1


@pytest.mark.parametrize("stem", ["insert", "update", "delete", "truncate", "touch_1_update", "stamp_update"])
def test_a_trigger_that_is_gone_with_its_function_is_told_and_made_anew(stem, postgres_backend):
    application = postgres_backend.application()
    application.run("CREATE TABLE pages (note bigint PRIMARY KEY, words text)")
    database = Audited.of(postgres_backend, text=("body", "pages.words"), touch={"pages": "note"}, stamp="has_embedding")
    source = database.tracked.source
    database.application.run(f"DROP FUNCTION seamark.track_{source.id}_{stem}() CASCADE")
    told = f"triggers are gone: seamark_{source.id}_{stem}; rows written since are missing"
    assert database.service.status()[0].problems == (told,)
    assert database.tracked.verify().problems == (told,)
    database.mend()
    database.update(1, "edited since")
    database.delete(2)
    database.mend()
    assert database.hits("edited since") == {1}


def test_a_broken_source_does_not_stop_the_others(database):
    database.application.run(f"CREATE TABLE others (id {database.backend.type('integer')} PRIMARY KEY, body TEXT)")
    tracked = database.service.attach("others", text="body")
    database.inside("DROP TABLE {chunks}")
    database.application.run("INSERT INTO others VALUES (1, 'goes on')")
    with pytest.raises(seamark.SeamarkError, match="chunks_"):
        database.service.work(until="current")
    assert tracked.coverage().embedded == 1
    problems = {status.source.name: status.problems for status in database.service.status()}
    assert problems["others"] == ()
    assert "chunks_" in problems["notes"][0]


# --- the sidecar --------------------------------------------------------------------------------------------------


def sidecar_files(database):
    return sorted(database.backend.sidecar.parent.glob(database.backend.sidecar.name + "*"))


def test_a_sidecar_that_was_deleted(sqlite_database):
    """Nobody knows any more what was attached; attached again with the same words, the journal is taken up."""
    database = sqlite_database
    database.service.close()
    for file in sidecar_files(database):
        file.unlink()
    with seamark.open(database.backend.url, embedder=database.embedder) as service:
        assert [check.name for check in service.doctor() if check.required and not check.ok] == ["journals"]
        tracked = service.attach("notes", text="body")
        service.work(until="current")
        assert tracked.verify().clean
    judge(database.backend, {(number,): text or "" for number, text in TEXTS.items()})


def test_a_sidecar_that_is_older_than_the_file(sqlite_database):
    """The journal is ahead of it, and it reads on; rows that came and went in between leave nothing behind."""
    database = sqlite_database
    database.insert(100, "a row that will be gone")
    database.service.work(until="current")
    database.service.close()
    older = {file: file.read_bytes() for file in sidecar_files(database)}
    database.service = seamark.open(database.backend.url, embedder=database.embedder)
    database.delete(100)
    database.update(1, "a zebra in the place of the first")
    database.insert(101, "a row of today")
    database.service.work(until="current")
    source = database.tracked.source
    assert database.service.store.journal_trim(source.id) >= 1
    database.service.close()
    for file in sidecar_files(database):
        file.unlink()
    for file, data in older.items():
        file.write_bytes(data)
    database.service = seamark.open(database.backend.url, embedder=database.embedder)
    assert (100,) not in database.backend.journal(source)
    assert database.hits("a row that will be gone") == set()
    database.service.work(until="current")
    assert database.found() == both(100, Reason.ORPHAN)
    database.mend()


@pytest.mark.parametrize("damaged", ["header", "page"])
def test_a_sidecar_that_is_corrupt(sqlite_database, damaged):
    """One line says what to do; moved away and attached again, everything is back."""
    database = sqlite_database
    database.service.close()
    sidecar = database.backend.sidecar
    data = bytearray(sidecar.read_bytes())
    if damaged == "header":
        data[:16] = b"nothing of ours!"
    else:
        data[8192:] = b"\xff" * (len(data) - 8192)
    for file in sidecar_files(database):
        file.unlink()
    sidecar.write_bytes(data)
    with (
        pytest.raises(StoreIncompatibleError, match=r"move .*-seamark away and attach again"),
        seamark.open(database.backend.url, embedder=database.embedder) as service,
    ):
        service.source("notes").verify(repair=True)
    sidecar.rename(sidecar.with_suffix(".away"))
    with seamark.open(database.backend.url, embedder=database.embedder) as service:
        tracked = service.attach("notes", text="body")
        service.work(until="current")
        assert tracked.verify().clean
