"""What SQL users read: the views, recounted row by row from what is stored, and queries that can only read."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from seamark.errors import InvalidRequestError, StoreUnavailableError
from seamark.testing.backend import quoted
from seamark.testing.workbench import STEPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Generation, Key, Lease, Source
    from seamark.testing.workbench import Workbench

SECONDS = 30.0


def asked(bench: Workbench, query: str, *values: object) -> list[tuple[object, ...]]:
    """Return the rows of a query."""
    return list(bench.store.sql(query, values, SECONDS).rows)


def statuses(bench: Workbench, source: Source, generation: Generation) -> dict[Key, str]:
    """Return key → status of the jobs of a generation; no key twice."""
    rows = asked(
        bench,
        f"SELECT key, status FROM embedding_jobs WHERE generation = {generation.id}",
    )
    assert len({key for key, _ in rows}) == len(rows), "a job stands twice"
    width = len(source.table.key)
    return {tuple(json.loads(str(key))) if width > 1 else (json.loads(str(key)),): str(status) for key, status in rows}


def recounted(bench: Workbench, source: Source, generation: Generation, held: Sequence[Lease]) -> dict[Key, str]:
    """Return the same from the journal, the rows and the failures that are stored, and the leases that a test holds."""
    rows = bench.backend.rows(source, generation)
    failed = {failure.key: failure.seq for failure in bench.store.failures(source, generation.id, STEPS)}
    found: dict[Key, str] = {}
    for key, (seq, deleted) in bench.backend.journal(source).items():
        row = rows.get(key)
        if deleted or (row is not None and row.seq == seq and row.chunks < 0):
            continue
        if row is not None and row.seq == seq:
            found[key] = "done"
        elif failed.get(key) == seq:
            found[key] = "failed"
        else:
            under = any(lease.lo < seq <= lease.hi for lease in held if lease.lane != "retry")
            found[key] = "running" if under else "pending"
    return found


class Views:
    """`<source>_embeddings` and `embedding_jobs`."""

    def test_every_chunk_with_the_model_that_made_it(self, bench: Workbench) -> None:
        """Of every generation; current where the row's text is still the one that it was made from."""
        source = bench.notes("a|b", "c", "", None)
        first, second = bench.vector(source, "oracle-a"), bench.vector(source, "oracle-b")
        bench.lexical(source)
        bench.drain(source, first, second)
        bench.app.run("UPDATE notes SET body = 'd|e|f' WHERE id = 1")
        bench.drain(source, second)
        columns = "id, ordinal, start, stop, model_id, model_version, current, generation, state"
        found = asked(bench, f"SELECT {columns} FROM notes_embeddings ORDER BY generation, id, ordinal")
        assert [tuple(map(int, row[:4])) for row in found] == [  # pyright: ignore[reportArgumentType]
            (chunk.key[0], chunk.ordinal, chunk.start, chunk.stop)
            for generation in (first, second)
            for chunk in bench.backend.chunks(source, generation)
        ]
        told = Counter((row[4], row[5], bool(row[6]), row[7], row[8]) for row in found)
        assert told == {
            ("oracle-a", "1", False, first.id, "building"): 2,
            ("oracle-a", "1", True, first.id, "building"): 1,
            ("oracle-b", "1", True, second.id, "building"): 4,
        }
        made = asked(bench, "SELECT id FROM notes_embeddings WHERE model_id = 'oracle-b' AND model_version = '1' AND id = 1")
        assert len(made) == 3

    def test_a_deleted_rows_chunks_are_not_current(self, bench: Workbench) -> None:
        """And gone once the tombstone is settled."""
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        bench.drain(source, generation)
        bench.app.run("DELETE FROM notes WHERE id = 1")
        found = asked(bench, "SELECT id, current FROM notes_embeddings ORDER BY id")
        assert [(key, bool(current)) for key, current in found] == [(1, False), (2, True)]
        bench.drain(source, generation)
        assert asked(bench, "SELECT id FROM notes_embeddings") == [(2,)]

    def test_the_state_is_that_of_now(self, bench: Workbench) -> None:
        """Activation changes it, and what a retired generation lacks is nobody's job."""
        source = bench.notes("a", "b")
        first = bench.vector(source, "oracle-a")
        bench.drain(source, first)
        assert bench.store.generation_activate(first.id)
        second = bench.vector(source, "oracle-b")
        bench.drain(source, second)
        assert bench.store.generation_activate(second.id)
        states = asked(bench, "SELECT DISTINCT generation, state FROM notes_embeddings ORDER BY generation")
        assert states == [(first.id, "retired"), (second.id, "active")]
        assert asked(bench, "SELECT DISTINCT generation FROM embedding_jobs") == [(second.id,)]

    def test_a_dropped_generation_is_in_no_view(self, bench: Workbench) -> None:
        """The others are."""
        source = bench.notes("a")
        first, second = bench.vector(source, "oracle-a"), bench.vector(source, "oracle-b")
        bench.drain(source, first, second)
        assert bench.store.generation_retire(first.id)
        assert bench.store.generation_drop(first.id)
        assert asked(bench, "SELECT model_id FROM notes_embeddings") == [("oracle-b",)]
        assert asked(bench, "SELECT generation, status FROM embedding_jobs") == [(second.id, "done")]

    def test_a_job_is_told_with_its_failure_and_its_times(self, bench: Workbench) -> None:
        """Pending, running, failed, tried again, done."""
        source = bench.notes("a")
        generation = bench.vector(source)
        columns = "source, key, model_id, model_version, status, attempts, last_error, kind, generation"
        own = ("notes", "1", "oracle-a", "1")

        def job() -> tuple[object, ...]:
            [found] = asked(bench, f"SELECT {columns} FROM embedding_jobs")
            assert (found[:4], found[7:]) == (own, ("vector", generation.id))
            return found[4:7]

        assert job() == ("pending", 0, None)
        lease = bench.lease(generation)
        assert job() == ("running", 0, None)
        [row] = bench.read(source, lease)
        bench.settle(source, generation, lease, [row], [bench.fail(row, -1.0, "no 'good'")])
        assert job() == ("failed", 1, "no 'good'")
        again = bench.lease(generation)
        assert (again.lane, job()) == ("retry", ("running", 1, "no 'good'"))
        bench.expire(again)
        assert job() == ("failed", 1, "no 'good'")
        bench.drain(source, generation)
        assert job() == ("done", 0, None)
        [(inserted, updated)] = asked(bench, "SELECT inserted_at, updated_at FROM embedding_jobs")
        assert str(inserted)[:19] <= str(updated)[:19]

    @pytest.mark.parametrize("seed", range(4))
    def test_a_random_history_is_told_right_at_every_step(self, bench: Workbench, seed: int) -> None:
        """Writes, claims, splits, settles, failures, expiries and trims in any order; the counts are those of coverage."""
        chance = random.Random(seed)
        source = bench.notes(*(f"t{number}" for number in range(12)))
        generation = bench.vector(source)
        held: list[Lease] = []
        seen: Counter[str] = Counter()
        for step in range(60):
            key = chance.randrange(1, 18)
            match chance.choice(["write", "write", "delete", "claim", "claim", "settle", "fail", "expire", "trim"]):
                case "write":
                    body = chance.choice(["", None, f"s{step}", f"s{step}|two"])
                    statement = "INSERT INTO notes (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
                    bench.app.run(statement, key, body)
                case "delete":
                    bench.app.run("DELETE FROM notes WHERE id = ?", key)
                case "claim":
                    lease = bench.claim(generation, limit=chance.randint(1, 4)).lease
                    if lease is not None:
                        held = [one for one in held if one.id != lease.id]
                        held += [bench.store.lease_read(source, lease, chance.choice([1, 4, 1000])).lease]
                case "expire" if held:
                    bench.expire(held.pop(chance.randrange(len(held))))
                case "settle" | "fail" as word if held:
                    lease = held.pop(chance.randrange(len(held)))
                    rows = bench.read(source, lease)
                    failed = [bench.fail(row) for row in rows if row.live] if word == "fail" else []
                    bench.settle(source, generation, lease, rows, failed)
                case "trim":
                    bench.store.journal_trim(source.id)
                case _:
                    pass
            found = statuses(bench, source, generation)
            assert found == recounted(bench, source, generation, held)
            counts = Counter(found.values())
            coverage = bench.store.coverage(source, [generation.id])[generation.id]
            assert counts["done"] == coverage.embedded + coverage.blank
            assert counts["pending"] + counts["running"] == coverage.missing
            assert counts["failed"] == coverage.failed
            seen += counts
        assert seen.keys() == {"done", "pending", "running", "failed"}, "all of them should have been there"

    def test_sources_beside_each_other_and_gone(self, bench: Workbench) -> None:
        """Each has a view, all have one of jobs, and a detached one has neither."""
        notes = bench.notes("a")
        other = f"papers (id {bench.backend.type('integer')} PRIMARY KEY, body {bench.backend.type('text')})"
        bench.app.run(f"CREATE TABLE {other}")
        bench.app.run("INSERT INTO papers VALUES (7, 'b')")
        papers = bench.attach("papers", ("body",))
        assert asked(bench, "SELECT * FROM papers_embeddings") == []
        for source in (notes, papers):
            bench.drain(source, bench.vector(source))
        assert asked(bench, "SELECT source, key FROM embedding_jobs ORDER BY 1") == [("notes", "1"), ("papers", "7")]
        bench.store.source_drop(notes.id)
        assert asked(bench, "SELECT source FROM embedding_jobs") == [("papers",)]
        assert asked(bench, "SELECT id FROM papers_embeddings") == [(7,)]
        with pytest.raises(InvalidRequestError):
            asked(bench, "SELECT * FROM notes_embeddings")
        assert len(bench.store.views().names) == 2

    @pytest.mark.parametrize("name", ["no%s {te}", 'a"b', "o'clock", "Schlüssel-ü", "select", "x; DROP TABLE y"])
    def test_a_hostile_name(self, bench: Workbench, name: str) -> None:
        """The view's is the table's and `_embeddings`, quoted; its key has a hostile name as well."""
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        bench.app.run(f"CREATE TABLE {quoted(name)} ({quoted(name)} {integer} PRIMARY KEY, body {text})")
        bench.app.run(f"INSERT INTO {quoted(name)} VALUES (1, 'a')")
        source = bench.attach(name, ("body",))
        bench.drain(source, bench.vector(source, name))
        found = bench.store.sql(f"SELECT * FROM {quoted(name + '_embeddings')}", (), SECONDS)
        assert found.columns[0] == name
        assert (found.rows[0][0], found.rows[0][4]) == (1, name)
        assert asked(bench, "SELECT source, model_id, status FROM embedding_jobs") == [(name, name, "done")]

    def test_names_too_long_for_a_view_are_cut_and_told_apart(self, bench: Workbench) -> None:
        """At 63 bytes, in whole characters, with a digest."""
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        names = ["é" * 31, "é" * 30 + "a", "n" * 52, "n" * 53]
        for key, name in enumerate(names):
            bench.app.run(f"CREATE TABLE {quoted(name)} (id {integer} PRIMARY KEY, body {text})")
            bench.app.run(f"INSERT INTO {quoted(name)} VALUES ({key}, 'a')")
            source = bench.attach(name, ("body",))
            bench.drain(source, bench.vector(source))
        views = [name.removeprefix("seamark.") for name in bench.store.views().names if "embedding_jobs" not in name]
        assert all(len(view.strip('"').encode()) <= 63 for view in views)
        assert [asked(bench, f"SELECT id FROM {view}") for view in views] == [[(key,)] for key in range(len(names))]
        assert f'"{"n" * 52}_embeddings"' in views

    def test_keys_of_several_columns_and_of_names_that_the_view_has(self, bench: Workbench) -> None:
        """They come after `key_`; a job's key is a list in JSON."""
        types = {kind: bench.backend.type(kind) for kind in ("integer", "text", "uuid", "blob")}
        bench.app.run(
            f"CREATE TABLE odd (start {types['integer']}, key_start {types['text']}, model_id {types['uuid']},"
            f" raw {types['blob']}, body {types['text']}, PRIMARY KEY (start, key_start, model_id, raw))"
        )
        number = UUID(int=5)
        uuid = str(number) if bench.backend.name == "sqlite" else number
        bench.app.run("INSERT INTO odd VALUES (?, ?, ?, ?, ?)", 3, 'é"\n', uuid, b"\x00\xff", "a")
        source = bench.attach("odd", ("body",))
        bench.drain(source, bench.vector(source))
        found = bench.store.sql("SELECT * FROM odd_embeddings", (), SECONDS)
        assert found.columns[:6] == ("key_key_start", "key_start", "key_model_id", "raw", "ordinal", "start")
        assert found.rows[0][:4] == (3, 'é"\n', uuid, b"\x00\xff")
        [(key,)] = asked(bench, "SELECT key FROM embedding_jobs")
        assert key == f'[3, "é\\"\\n", "{number}", {{"hex": "00ff"}}]'
        assert json.loads(str(key)) == [3, 'é"\n', str(number), {"hex": "00ff"}]


class Sql:
    """`sql`."""

    def test_the_names_of_the_columns_also_of_no_rows(self, bench: Workbench) -> None:
        """In order, as the query gives them."""
        bench.notes("a")
        assert bench.store.sql("SELECT id, body AS text FROM notes", (), SECONDS).columns == ("id", "text")
        empty = bench.store.sql("SELECT id, body AS text FROM notes WHERE id < 0", (), SECONDS)
        assert (empty.columns, empty.rows) == (("id", "text"), ())

    def test_a_name_is_told_as_it_is_written_in_a_query(self, bench: Workbench) -> None:
        """A percent sign among them."""
        bench.app.run(f"CREATE TABLE {quoted('50% off')} (id {bench.backend.type('integer')} PRIMARY KEY, body TEXT)")
        bench.attach("50% off", ("body",))
        [view] = [name for name in bench.store.views().names if "embedding_jobs" not in name]
        assert view.removeprefix("seamark.") == '"50% off_embeddings"'
        assert asked(bench, f"SELECT count(*) FROM {view}") == [(0,)]

    def test_our_view_is_found_before_a_table_of_the_users_of_that_name(self, bench: Workbench) -> None:
        """Whose table has its schema's name before it."""
        bench.notes_table("a")
        for name in ("embedding_jobs", "notes_embeddings"):
            bench.app.run(f"CREATE TABLE {name} (source TEXT, state TEXT)")
            bench.app.run(f"INSERT INTO {name} VALUES ('theirs', 'theirs')")
        source = bench.attach("notes", ("body",))
        bench.drain(source, bench.vector(source))
        assert asked(bench, "SELECT DISTINCT source FROM embedding_jobs") == [("notes",)]
        assert asked(bench, "SELECT DISTINCT state FROM notes_embeddings") == [("building",)]
        schema = "main" if bench.backend.name == "sqlite" else "public"
        assert asked(bench, f"SELECT source FROM {schema}.embedding_jobs") == [("theirs",)]
        assert asked(bench, "SELECT body FROM notes") == [("a",)]

    def test_values_are_bound_and_percent_signs_are_plain(self, bench: Workbench) -> None:
        """With the database's own placeholders."""
        bench.notes("a", "b%s")
        mark = "?" if bench.backend.name == "sqlite" else "$1"
        assert asked(bench, f"SELECT id FROM notes WHERE body = {mark}", "b%s") == [(2,)]
        assert asked(bench, "SELECT id FROM notes WHERE body LIKE 'b%'") == [(2,)]

    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO notes VALUES (9, 'x', 1)",
            "UPDATE notes SET body = 'x'",
            "DELETE FROM notes",
            "DROP TABLE notes",
            "CREATE TABLE more (id INTEGER)",
            "CREATE TEMP TABLE more (id INTEGER)",
            "SELECT 1; DELETE FROM notes",
            "COMMIT",
            "BEGIN",
            "VACUUM",
            "WITH gone AS (DELETE FROM notes RETURNING id) SELECT id FROM gone",
            "SELECT body FROM nowhere",
            "SELEC",
            "SELECT '",
            "SELECT id FROM notes WHERE id = ? AND id = $1 AND id = $2",
        ],
    )
    def test_what_is_no_query_is_refused_and_changes_nothing(self, bench: Workbench, statement: str) -> None:
        """By the database itself, which goes on answering."""
        bench.notes("a")
        before = bench.app.run("SELECT id, body FROM notes")
        with pytest.raises(InvalidRequestError):
            asked(bench, statement)
        assert bench.app.run("SELECT id, body FROM notes") == before
        assert asked(bench, "SELECT count(*) FROM notes") == [(1,)]

    def test_a_query_without_end_is_ended(self, bench: Workbench) -> None:
        """After the time it is given."""
        bench.notes("a")
        endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        with pytest.raises(StoreUnavailableError, match=r"longer than 0\.2 seconds"):
            bench.store.sql(endless, (), 0.2)
        assert asked(bench, "SELECT count(*) FROM notes") == [(1,)]

    def test_it_leaves_no_connection_open(self, bench: Workbench) -> None:
        """Whatever became of the query."""
        bench.notes("a")
        asked(bench, "SELECT 1")
        open_before = bench.backend.connections()
        for statement in ("SELECT 1", "SELEC", "SELECT 2", "SELEC"):
            try:
                asked(bench, statement)
            except InvalidRequestError:
                assert statement == "SELEC"
        assert bench.backend.connections() == open_before
