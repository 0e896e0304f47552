"""What no trigger saw is found by `verify`, exactly, and mended by `verify --repair` and a worker."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import Random

import apsw
import numpy as np
import pytest

import seamark
from seamark.core import audit
from seamark.edges import auditor
from seamark.edges.auditor import Auditor
from seamark.errors import SourceDriftError, StoreError, StoreIncompatibleError
from seamark.model.findings import Reason
from seamark.testing.judgement import judge
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.waiting import until

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dogs",
    "while",
    "seven",
    "wise",
    "owls",
    "watch",
    "from",
    "old",
    "oak",
    "trees",
]
UPSERT = "INSERT INTO notes (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
LONG = 20
"""The row of several chunks."""
TEXTS = {
    **{number: " ".join(WORDS[(number + place) % len(WORDS)] for place in range(3 + number % 5)) for number in range(1, 40)},
    LONG: "\n\n".join(" ".join(WORDS[(at + place) % len(WORDS)] for place in range(90)) for at in range(8)),
    5: "",
    6: None,
}


@dataclass
class Database:
    """An attached table with everything indexed, the application beside it, and a hand in Seamark's own tables."""

    backend: object
    application: object
    service: object
    embedder: OracleEmbedder
    texts: dict

    @property
    def tracked(self):
        return self.service.source("notes")

    def generation(self, kind):
        source = self.tracked.source
        [found] = [one for one in self.service.store.generations(source.id) if (one.kind, one.state) == (kind, "active")]
        return found

    def inside(self, statement, *values):
        """Run a statement on Seamark's own tables; `{rows}` are the vector generation's, `{words}` the other's."""
        vector, lexical = self.generation("vector").id, self.generation("lexical").id
        schema = "" if self.backend.name == "sqlite" else "seamark."
        names = {"rows": f"rows_{vector}", "chunks": f"chunks_{vector}", "words": f"rows_{lexical}"}
        names |= {"postings": f"postings_{lexical}", "lease": "lease", "generation": "generation"}
        statement = statement.format(**{word: schema + name for word, name in names.items()})
        if statement.startswith("DROP TABLE") and self.backend.name == "postgres":
            statement += " CASCADE"  # the views for SQL users look into it
        if self.backend.name == "postgres":
            return self.application.run(statement, *values)
        connection = apsw.Connection(str(self.backend.sidecar))
        connection.set_busy_timeout(10_000)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def found(self, findings=None):
        """Return what `verify` finds, as (key, reason, kind of the index or None), each as often as it is found."""
        source = self.tracked.source
        kinds = {one.id: one.kind for one in self.service.store.generations(source.id)} | {None: None}
        every = []
        self.findings = self.tracked.verify(found=every.append)
        assert self.findings.total == len(every)
        assert sum(self.findings.counts.values()) == len(every)
        return Counter((one.key[0], one.reason, kinds[one.generation]) for one in every)

    def mend(self):
        """Repair, which finds what is found without, work, and prove that all is as it should be."""
        told = self.tracked.verify()
        mended = self.tracked.verify(repair=True)
        assert mended.unmended == ()
        assert told.problems or mended.counts == told.counts
        self.service.work(until="current")
        after = self.tracked.verify()
        assert after.clean, after
        assert after.rows == len(self.texts)
        live = {(number,): text or "" for number, text in self.texts.items()}
        judge(self.backend, live, "zebra")
        return mended

    def insert(self, number, text):
        self.application.run("INSERT INTO notes (id, body) VALUES (?, ?)", number, text)
        self.texts[number] = text

    def update(self, number, text):
        self.application.run("UPDATE notes SET body = ? WHERE id = ?", text, number)
        self.texts[number] = text

    def delete(self, number):
        self.application.run("DELETE FROM notes WHERE id = ?", number)
        del self.texts[number]

    def blindly(self, work):
        """Do something without triggers."""
        if self.backend.name == "postgres":
            self.application.run("SET session_replication_role = replica")
            work()
            self.application.run("SET session_replication_role = DEFAULT")
            return
        triggers = self.application.run("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
        with self.application.transaction():
            for name, _ in triggers:
                self.application.run(f'DROP TRIGGER "{name}"')
            work()
            for _, sql in triggers:
                self.application.run(sql)

    def hits(self, text):
        """Return the keys whose text, or a passage of it, is exactly that one, as far as search knows."""
        return {hit.key for hit in self.tracked.search(text, mode="vector", limit=100) if hit.vector.score > 0.999}


def make(backend, texts=TEXTS, **words):
    application = backend.application()
    application.run(f"CREATE TABLE notes (id {backend.type('integer')} PRIMARY KEY, body {backend.type('text')})")
    application.many("INSERT INTO notes VALUES (?, ?)", list(texts.items()))
    embedder = OracleEmbedder()
    service = seamark.open(backend.url, embedder=embedder)
    service.attach("notes", text="body", **words)
    service.work(until="current")
    return Database(backend, application, service, embedder, dict(texts))


@pytest.fixture
def database(backend):
    made = make(backend)
    yield made
    made.service.close()


@pytest.fixture
def sqlite_database(sqlite_backend):
    made = make(sqlite_backend)
    yield made
    made.service.close()


@pytest.fixture
def postgres_database_(postgres_backend):
    made = make(postgres_backend)
    yield made
    made.service.close()


def both(number, reason):
    return {(number, reason, "vector"): 1, (number, reason, "lexical"): 1}


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
    made = make(sqlite_backend, {1: "中文", 2: "日本", 3: "韩国", 4: "with some ASCII", 5: None})
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


def triggers(database):
    if database.backend.name == "sqlite":
        return database.application.run("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'notes'")
    return database.application.run("SELECT tgname FROM pg_trigger WHERE tgrelid = 'notes'::regclass AND NOT tgisinternal")


def drop_triggers(database):
    for (name,) in triggers(database):
        database.application.run(f"DROP TRIGGER {name}" + (" ON notes" if database.backend.name == "postgres" else ""))


def test_triggers_dropped(database):
    before = triggers(database)
    assert len(before) > 3
    drop_triggers(database)
    assert triggers(database) == []
    database.insert(100, "a zebra that nobody saw")
    database.delete(3)
    assert "triggers are gone" in database.service.status()[0].problems[0]
    assert database.found() == {(100, Reason.UNENTERED, None): 1, (3, Reason.GONE, None): 1}
    assert "triggers made anew" in database.mend().mended[0]
    assert sorted(triggers(database)) == sorted(before)
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


# --- what the indexes have lost -----------------------------------------------------------------------------------


def test_a_hole_behind_the_cursors(database):
    """A row that the generation does not hold, and that no lane will come by (I3)."""
    database.inside("DELETE FROM {rows} WHERE k1 IN (3, 4)")
    database.inside("DELETE FROM {words} WHERE k1 = 4")
    database.service.work(until="current")
    found = database.found()
    assert found == {
        (3, Reason.MISSING, "vector"): 1,
        (4, Reason.MISSING, "vector"): 1,
        (4, Reason.MISSING, "lexical"): 1,
        (3, Reason.ORPHAN, "vector"): 1,
        (4, Reason.ORPHAN, "vector"): 1,
    }
    database.mend()


def test_a_version_that_was_never_given_out(database):
    """Whatever the journal gives out would lose against it."""
    database.inside("UPDATE {rows} SET seq = seq + 1000000 WHERE k1 = 9")
    database.inside("UPDATE {words} SET seq = seq + 1000000 WHERE k1 = 10")
    assert database.found() == {(9, Reason.MISSING, "vector"): 1, (10, Reason.MISSING, "lexical"): 1}
    assert database.mend().repaired == 2


def test_an_edit_of_a_row_whose_chunks_are_orphans(database):
    """The worker is not stopped by what stands in its place."""
    database.inside("DELETE FROM {rows} WHERE k1 = 3")
    database.update(3, "another text")
    database.service.work(until="current")
    assert database.hits("another text") == {3}
    assert database.found() == {}


def test_a_vector_table_that_lost_some_rows(database):
    stored = [row[0] for row in database.inside("SELECT k1 FROM {chunks} WHERE ordinal = 0 ORDER BY k1")]
    lost = {stored[0], stored[7]}
    database.inside("DELETE FROM {chunks} WHERE k1 = %d OR k1 = %d" % tuple(lost))  # noqa: UP031
    database.inside(f"DELETE FROM {{chunks}} WHERE k1 = {LONG} AND ordinal = 1")
    assert not database.hits(TEXTS[stored[0]])
    assert database.tracked.coverage().missing == 0
    assert database.found() == {(key, Reason.INCOMPLETE, "vector"): 1 for key in (*lost, LONG)}
    database.mend()
    assert database.hits(TEXTS[stored[0]]) == {stored[0]}


@pytest.mark.parametrize("statement", ["DELETE FROM {chunks}", "DROP TABLE {chunks}"])
def test_a_vector_table_that_was_emptied_or_dropped(database, statement):
    dropped = statement.startswith("DROP")
    database.inside(statement)
    live = [number for number, text in TEXTS.items() if text]
    if dropped:
        [status] = database.service.status()
        assert "gone" in status.problems[0]
        assert "chunks" in status.problems[0]
        findings = database.tracked.verify()
        assert (findings.clean, findings.problems) == (False, status.problems)
    else:
        assert database.found() == {(number, Reason.INCOMPLETE, "vector"): 1 for number in live}
    assert len(database.mend().findings) == len(live)


@pytest.mark.parametrize("table", ["rows", "words", "postings"])
def test_another_table_of_ours_that_was_dropped(database, table):
    name = database.inside("SELECT '{%s}'" % table)[0][0]  # noqa: UP031
    database.inside(f"DROP TABLE {name}")
    assert "gone" in database.service.status()[0].problems[0]
    assert name.removeprefix("seamark.") in database.tracked.verify().problems[0]
    database.mend()
    assert database.hits(TEXTS[1]) >= {1}


def test_entries_of_the_journal_that_were_lost(database):
    """The rows are there, so that what is held of them is no orphan."""
    journal = "seamark_journal_notes" if database.backend.name == "sqlite" else f"seamark.journal_{database.tracked.source.id}"
    database.application.run(f"DELETE FROM {journal} WHERE k1 IN (12, {LONG})")
    assert database.found() == {(12, Reason.UNENTERED, None): 1, (LONG, Reason.UNENTERED, None): 1}
    database.mend()


def test_a_journal_that_was_dropped(database):
    source = database.tracked.source
    name = '"seamark_journal_notes"' if database.backend.name == "sqlite" else f"seamark.journal_{source.id}"
    database.application.run(f"DROP TABLE {name}" + (" CASCADE" if database.backend.name == "postgres" else ""))
    assert "gone" in database.service.status()[0].problems[0]
    assert not database.tracked.verify().clean
    mended = database.mend()
    assert Counter(one.reason for one in mended.findings)[Reason.UNENTERED] == len(TEXTS)


def test_orphan_chunks(database):
    """Of a row that is not held, and beyond those of one that is."""
    columns = "start, stop, digest, embedding"
    number = "id, " if database.backend.name == "sqlite" else ""
    for key, ordinal, identity in ((777, 0, 100_001), (1, 5, 100_002)):
        given = f"{identity}, " if number else ""
        database.inside(
            f"INSERT INTO {{chunks}} ({number}k1, ordinal, {columns}) SELECT {given}{key}, {ordinal}, {columns}"
            " FROM {chunks} WHERE k1 = 1 AND ordinal = 0"
        )
    assert database.found() == {(777, Reason.ORPHAN, "vector"): 1, (1, Reason.ORPHAN, "vector"): 1}
    assert database.mend().repaired == 0


def test_rows_without_a_journal_entry(database):
    for table, more, value in (("rows", "", ""), ("words", ", doc", ", 900001")):
        database.inside(
            f"INSERT INTO {{{table}}} (k1, seq, chunks, truncated, embedded_at, worker{more})"
            f" SELECT 777, seq, chunks, truncated, embedded_at, worker{value} FROM {{{table}}} WHERE k1 = 1"
        )
    assert database.found() == both(777, Reason.ORPHAN)
    database.mend()


def damage(database, key, vector, kind=np.float16):
    if database.backend.name == "sqlite":
        database.inside("UPDATE {chunks} SET embedding = ? WHERE k1 = ?", np.array(vector, kind).tobytes(), key)
    else:
        shown = "[" + ",".join(map(str, vector)) + "]"
        database.inside(f"UPDATE {{chunks}} SET embedding = '{shown}' WHERE k1 = {key}")


def test_vectors_that_are_none(database):
    """Of zeros anywhere; on SQLite also NaN, infinity and another dimension, which pgvector's types refuse."""
    dimension = database.embedder.identity.dimension
    wrong = {1: [0.0] * dimension, LONG: [0.0] * dimension}
    if database.backend.name == "sqlite":
        wrong |= {2: [float("nan")] + [0.5] * (dimension - 1), 3: [0.5] * (dimension - 1) + [float("inf")], 4: [0.5] * 3}
    for key, vector in wrong.items():
        damage(database, key, vector)
    assert database.found() == {(key, Reason.DAMAGED, "vector"): 1 for key in wrong}
    calls = database.embedder.calls
    database.mend()
    assert database.embedder.calls > calls


def test_vectors_of_single_precision_that_are_none(backend):
    """Half of one is of another dimension."""
    database = make(backend, precision="float32")
    dimension = database.embedder.identity.dimension
    assert database.found() == {}
    wrong = {1: [0.0] * dimension}
    if backend.name == "sqlite":
        wrong |= {
            2: [float("nan")] + [0.5] * (dimension - 1),
            3: [0.5] * (dimension - 1) + [float("inf")],
            4: [0.5] * (dimension // 2),
        }
    for key, vector in wrong.items():
        damage(database, key, vector, np.float32)
    assert database.found() == {(key, Reason.DAMAGED, "vector"): 1 for key in wrong}
    database.mend()
    database.inside("DROP TABLE {chunks}")
    database.mend()
    database.service.close()


def test_vectors_of_another_dimension_in_a_column_that_was_altered(postgres_database_):
    database = postgres_database_
    database.inside("ALTER TABLE {chunks} ALTER COLUMN embedding TYPE public.halfvec")
    damage(database, 3, [0.5, 0.5])
    assert database.found() == {(3, Reason.DAMAGED, "vector"): 1}
    database.mend()


def test_postings_that_are_lost(database):
    """Of some words, and of the empty one that every document has."""
    holders = {number for number, text in TEXTS.items() if text and "owls" in text.split()}
    assert holders
    database.inside("DELETE FROM {postings} WHERE term = 'owl'")
    assert not database.tracked.search("owls", mode="lexical", limit=100).hits
    assert database.found() == {(number, Reason.INCOMPLETE, "lexical"): 1 for number in holders}
    database.mend()
    database.inside("DELETE FROM {postings} WHERE term = ''")
    live = {number for number, text in TEXTS.items() if text}
    assert database.found() == {(number, Reason.INCOMPLETE, "lexical"): 1 for number in live}
    database.mend()


# --- what is beyond repair ----------------------------------------------------------------------------------------


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
    drop_triggers(database)  # PostgreSQL does not let a column be retyped that a trigger looks at
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
    drop_triggers(database)
    database.application.run("ALTER TABLE notes ALTER COLUMN body TYPE varchar(9000)")
    assert "triggers" in database.service.status()[0].problems[0]
    database.mend()
    database.update(1, "a text of another length")
    assert database.tracked.coverage().missing == 1


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


# --- beside writers -----------------------------------------------------------------------------------------------


def test_nothing_is_found_beside_writers_and_workers(backend, monkeypatch):
    """A row that changes between two looks, or is indexed anew, is as it should be at either."""
    monkeypatch.setattr(audit, "PAGE_ROWS", 7)
    monkeypatch.setattr(audit, "ENTRIES", 11)
    database = make(backend)
    stop = threading.Event()

    def write():
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
    worker = seamark.open(backend.url, embedder=database.embedder)
    threads = [threading.Thread(target=write), threading.Thread(target=worker.work, kwargs={"stop": stop, "threads": 1})]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + 5
        looks = 0
        while time.monotonic() < deadline or len(written) < 100:
            found = []
            findings = database.tracked.verify(found=found.append)
            assert (found, findings.problems) == ([], ())
            looks += 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        worker.close()
        database.service.close()
    assert looks > 2
    assert len(written) >= 100


def test_a_repair_beside_writers_loses_none_of_their_writes(backend, monkeypatch):
    monkeypatch.setattr(audit, "PAGE_ROWS", 7)
    database = make(backend)
    database.blindly(lambda: [database.update(number, f"a zebra {number}") for number in range(1, 30)])
    stop = threading.Event()
    texts = dict(database.texts)

    def write():
        application = backend.application()
        random = Random(11)
        while not stop.is_set():
            number = random.randrange(1, 40)
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

    thread = threading.Thread(target=write)
    thread.start()
    try:
        repaired = sum(database.tracked.verify(repair=True).repaired for _ in range(5))
    finally:
        stop.set()
        thread.join()
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


@pytest.fixture
def working(backend):
    """Let a worker with this interval work in a thread until the end of a block."""

    @contextmanager
    def working(seconds, embedder):
        stop = threading.Event()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SEAMARK_AUDIT_INTERVAL_SECONDS", str(seconds))
            service = seamark.open(backend.url, embedder=embedder)
        raised = []

        def work():
            try:
                service.work(stop=stop, threads=1)
            except BaseException as error:  # noqa: BLE001 raised again below
                raised.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield service
        finally:
            stop.set()
            thread.join()
            service.close()
        assert raised == []

    return working


def test_a_worker_finds_and_mends_by_itself(database, working):
    database.blindly(lambda: database.update(1, "a zebra that nobody saw"))
    assert not database.hits("a zebra that nobody saw")
    assert database.tracked.coverage().missing == 0
    with working(0.3, database.embedder):
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
def test_a_worker_audits_no_more_often_than_it_is_told(database, working, seconds, monkeypatch):
    monkeypatch.setattr(auditor, "LOOK_SECONDS", 0.05)
    database.blindly(lambda: database.update(1, "a zebra that nobody saw"))
    with working(seconds, database.embedder):
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
    drop_triggers(database)
    database.service.audit_interval_seconds = 0.0
    assert not Auditor(database.service, "w1", lambda _: False).audit(database.tracked.source)
    assert triggers(database) == []
