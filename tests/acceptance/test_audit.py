"""What no trigger saw is found by `verify`, exactly, and mended by `verify --repair` and a worker."""

from __future__ import annotations

import apsw
import pytest

from seamark.errors import SourceDriftError
from seamark.model.findings import Reason
from seamark.testing.audited import LONG, TEXTS, Audited, both


def test_a_sound_database_has_no_findings_and_verify_changes_nothing(database):
    before = database.backend.writes()
    assert database.found() == {}
    assert database.findings.clean
    assert database.findings.rows == len(TEXTS)
    if database.backend.name == "sqlite":
        assert database.backend.writes() == before
    repaired = database.mend()
    assert (repaired.clean, repaired.repaired, repaired.mended) == (True, 0, ())


# --- what the triggers did not see --------------------------------------------------------------------------------


def test_rows_written_without_triggers(database):
    """As by `session_replication_role = replica`, or between a trigger's drop and its return."""

    def work():
        database.insert(100, "a zebra that nobody saw")
        database.update(1, "a zebra in the place of the first")
        database.update(LONG, TEXTS[LONG] + "\n\nand a zebra at the end")
        database.update(5, "no more blank")
        database.update(7, "  ")
        database.delete(2)

    database.blindly(work)
    assert database.service.status()[0].problems == ()
    assert not database.hits("a zebra that nobody saw")
    assert database.tracked.coverage().missing == 0
    assert database.found() == {
        (100, Reason.UNENTERED, None): 1,
        (2, Reason.GONE, None): 1,
        **both(1, Reason.OUTDATED),
        **both(LONG, Reason.OUTDATED),
        **both(5, Reason.OUTDATED),
        **both(7, Reason.OUTDATED),
    }
    assert database.mend().repaired == 6
    assert database.hits("a zebra that nobody saw") == {100}


def test_a_row_of_several_chunks_that_is_gone(database):
    """Deleted with no worker come by yet, which is no finding; and without triggers."""
    database.delete(LONG)
    assert database.found() == {}
    database.service.work(until="current")
    database.insert(LONG, TEXTS[LONG])
    database.service.work(until="current")
    database.blindly(lambda: database.delete(LONG))
    assert database.found() == {(LONG, Reason.GONE, None): 1}
    database.mend()


def test_a_file_in_utf_16(sqlite_backend):
    """In which a byte that is 0 divides no texts."""
    sqlite_backend.application().run("PRAGMA encoding = 'UTF-16le'")
    made = Audited.of(sqlite_backend, {1: "中文", 2: "日本", 3: "韩国", 4: "with some ASCII", 5: None})
    try:
        assert made.found() == {}
        made.blindly(lambda: made.update(2, "日光"))
        assert made.found() == both(2, Reason.OUTDATED)
        made.mend()
    finally:
        made.service.close()


def test_an_edit_that_only_moves_words(database):
    """The words are the same, in as many; the passages are not."""
    was = TEXTS[9].split()
    database.blindly(lambda: database.update(9, " ".join(reversed(was))))
    assert database.found() == {(9, Reason.OUTDATED, "vector"): 1}
    database.mend()


def test_an_edit_of_one_word_for_another(database):
    """As many words, of the same length."""
    database.blindly(lambda: database.update(9, TEXTS[9].replace("owls", "cats").replace("wise", "mild")))
    assert database.texts[9] != TEXTS[9]
    assert database.found() == both(9, Reason.OUTDATED)
    database.mend()


def test_triggers_switched_off(postgres_database_):
    database = postgres_database_
    database.application.run("ALTER TABLE notes DISABLE TRIGGER USER")
    database.insert(100, "a zebra that nobody saw")
    database.update(1, "a zebra in the place of the first")
    [status] = database.service.status()
    assert "switched off" in status.problems[0]
    assert database.found() == {(100, Reason.UNENTERED, None): 1, **both(1, Reason.OUTDATED)}
    assert "switched off" in database.findings.problems[0]
    assert database.mend().mended == ("triggers made anew",)
    database.insert(101, "seen again")
    assert database.tracked.coverage().missing == 1


def test_triggers_dropped(database):
    before = database.triggers()
    assert len(before) > 3
    database.triggers_drop()
    assert database.triggers() == []
    database.insert(100, "a zebra that nobody saw")
    database.delete(3)
    assert "triggers are gone" in database.service.status()[0].problems[0]
    assert database.found() == {(100, Reason.UNENTERED, None): 1, (3, Reason.GONE, None): 1}
    assert "triggers made anew" in database.mend().mended[0]
    assert sorted(database.triggers()) == sorted(before)
    database.insert(101, "seen again")
    assert database.tracked.coverage().missing == 1


def test_trigger_functions_dropped(postgres_database_):
    database = postgres_database_
    source = database.tracked.source.id
    functions = database.application.run(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE proname LIKE ?", f"track\\_{source}\\_%"
    )
    assert functions
    for (function,) in functions:
        database.application.run(f"DROP FUNCTION {function} CASCADE")
    database.insert(100, "a zebra that nobody saw")
    assert "triggers are gone" in database.service.status()[0].problems[0]
    assert database.found() == {(100, Reason.UNENTERED, None): 1}
    database.mend()


def test_a_table_dropped_and_made_again(database):
    database.application.run("DROP TABLE notes")
    database.application.run(f"CREATE TABLE notes (id {database.backend.type('integer')} PRIMARY KEY, body TEXT)")
    database.texts = {1: TEXTS[1], 2: "another text", 300: "another row"}
    database.application.many("INSERT INTO notes VALUES (?, ?)", list(database.texts.items()))
    assert database.service.status()[0].problems
    gone = {(number, Reason.GONE, None): 1 for number in TEXTS if number not in database.texts}
    assert database.found() == {**gone, (300, Reason.UNENTERED, None): 1, **both(2, Reason.OUTDATED)}
    database.mend()


def test_a_backup_loaded_past_the_triggers(postgres_database_):
    """As by pg_restore --disable-triggers: the rows of yesterday, those of today gone."""
    database = postgres_database_
    yesterday = dict(database.texts)
    database.insert(100, "a row of today")
    database.update(1, "a text of today")
    database.delete(2)
    database.service.work(until="current")

    def load():
        database.application.run("TRUNCATE notes")
        database.application.many("INSERT INTO notes VALUES (?, ?)", list(yesterday.items()))

    database.blindly(load)
    database.texts = yesterday
    assert database.found() == {(100, Reason.GONE, None): 1, (2, Reason.UNENTERED, None): 1, **both(1, Reason.OUTDATED)}
    database.mend()


def test_a_file_restored_from_a_backup(sqlite_database):
    """The journal goes back with it, and takes numbers again that the indexes have met with."""
    database = sqlite_database
    connection = database.application.connection
    backup = apsw.Connection(":memory:")
    with backup.backup("main", connection, "main") as copy:
        copy.step()
    yesterday = dict(database.texts)
    database.insert(100, "a row of today")
    database.update(1, "a text of today")
    database.service.work(until="current")
    with connection.backup("main", backup, "main") as copy:
        copy.step()
    backup.close()
    database.texts = yesterday
    database.insert(101, "a row written after the restore")
    [status] = database.service.status()
    assert "backup" in status.problems[0]
    found = database.found()
    assert {(key, reason) for key, reason, _ in found} == {
        (1, Reason.MISSING),
        (100, Reason.ORPHAN),
        (101, Reason.MISSING),
    }
    assert "backup" in database.findings.problems[0]
    database.mend()
    assert database.service.status()[0].problems == ()
    database.insert(102, "and on it goes")
    database.service.work(until="current")
    assert database.hits("and on it goes") == {102}


def test_a_sequence_that_was_set_back(postgres_database_):
    database = postgres_database_
    sequence = f"seamark.seq_{database.tracked.source.id}"
    [(last,)] = database.application.run(f"SELECT last_value FROM {sequence}")
    low = min(seq for seq, _ in database.backend.journal(database.tracked.source).values())
    for number in (30, 31, 32):  # their entries move up, and leave their numbers free
        database.update(number, f"text {number}")
    database.service.work(until="current")
    free = sorted(set(range(low, last)) - {seq for seq, _ in database.backend.journal(database.tracked.source).values()})
    database.application.run(f"SELECT setval('{sequence}', ?, false)", free[0])
    database.insert(100, "entered behind every cursor")
    assert "set back" in database.service.status()[0].problems[0]
    assert not database.hits("entered behind every cursor")
    found = database.found()
    assert found == {(100, Reason.MISSING, "vector"): 1, (100, Reason.MISSING, "lexical"): 1}
    assert database.mend().mended == ("the journal's sequence was set forward",)
    assert database.hits("entered behind every cursor") == {100}


def test_a_sequence_that_gives_out_numbers_again(postgres_database_):
    """Writes go through all the same; what stays below the cursors is found and mended."""
    database = postgres_database_
    database.application.run(f"SELECT setval('seamark.seq_{database.tracked.source.id}', 1)")
    for number in (30, 31, 32):
        database.update(number, f"a zebra of number {number}")
    database.insert(100, "a new zebra")
    database.delete(33)
    assert "set back" in database.service.status()[0].problems[0]
    with pytest.raises(SourceDriftError, match="verify notes --repair"):
        database.service.work(until="current")
    assert database.found()
    assert database.mend().mended == ("the journal's sequence was set forward",)
    assert database.hits("a new zebra") == {100}
