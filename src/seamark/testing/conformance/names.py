"""Names and keys that people really have, and names that somebody made up to hurt: the whole way through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from seamark.model import Condition, TextColumn, Touch
from seamark.testing.backend import quoted
from seamark.testing.oracle import oracle_vector
from seamark.testing.workbench import DIMENSION

if TYPE_CHECKING:
    from seamark.model import ColumnKind, Key
    from seamark.testing.workbench import Workbench

NAMES = (
    "select",
    "User Data",
    'a"b; DROP TABLE x',
    "o'brien",
    "100%s {key} :a ?1 $1",
    "%(x)s %%",
    "täglich 日本",
    "x" * 63,
    "y" * 49 + "'\"",
    "a.b",
    "new",
    "seq",
    "k1",
    "back\\slash",
    "--comment",
    "/*",
)
KEYS: tuple[tuple[tuple[ColumnKind, ...], tuple[tuple[Any, ...], ...]], ...] = (
    (("integer",), ((0,), (-1,), (2**62,), (-(2**62),), (7,))),
    (
        ("text",),
        (
            ("",),
            ("a",),
            ("A",),
            ("é",),
            ("e\u0301",),
            ("'",),
            ('"',),
            ("100%",),
            ("\\",),
            ("a b",),
            ("日本🙂",),
            ("1",),
            ("01",),
        ),
    ),
    (("text", "integer"), (("a", 1), ("a", 2), ("b", 1), ("", 0))),
    (("integer", "text", "integer"), ((1, "x", 1), (1, "x", 2), (1, "X", 1), (2, "", -1))),
)


class Names:
    """Attach, write, work, search, detach."""

    @pytest.mark.parametrize("name", NAMES)
    def test_hostile_names(self, bench: Workbench, name: str) -> None:
        """Of the table, of the columns, of the touching table."""
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        table, other = quoted(name), quoted("t " + name[:61])
        key, body, filtered = quoted(name), quoted("b " + name[:61]), quoted("f " + name[:61])
        bench.app.run("CREATE TABLE x (id INTEGER)")
        bench.app.run(f"CREATE TABLE {table} ({key} {integer} PRIMARY KEY, {body} {text}, {filtered} {text})")
        bench.app.run(f"CREATE TABLE {other} ({key} {integer} PRIMARY KEY, {body} {text})")
        before = bench.backend.schema()
        bench.app.run(f"INSERT INTO {table} VALUES (1, 'one', 'in'), (2, 'two', 'out'), (3, 'three', 'in')")
        source = bench.attach(
            name,
            ("b " + name[:61], TextColumn("b " + name[:61], "t " + name[:61])),
            Condition("f " + name[:61], "=", "in"),
            (Touch("t " + name[:61], (name,)),),
        )
        vector, lexical = bench.vector(source), bench.lexical(source)
        bench.drain(source, vector, lexical)
        bench.app.run(f"INSERT INTO {other} VALUES (1, 'related')")
        bench.app.run(f"UPDATE {table} SET {body} = 'THREE' WHERE {key} = 3")
        bench.app.run(f"UPDATE {table} SET {filtered} = 'in' WHERE {key} = 2")
        bench.app.run(f"INSERT INTO {table} VALUES (4, 'four', 'in'), (5, 'five', 'in')")
        bench.app.run(f"DELETE FROM {table} WHERE {key} = 4")
        bench.app.run(f"UPDATE {table} SET {key} = 6 WHERE {key} = 5")
        bench.drain(source, vector, lexical)
        live: dict[Key, str] = {(1,): "one\nrelated", (2,): "two", (3,): "THREE", (6,): "five"}
        for generation in (vector, lexical):
            bench.verify(source, generation, live)
            bench.coverage_check(source, generation, live)
            assert bench.store.generation_activate(generation.id)
        where = Condition(name, ">", 2)
        with bench.store.snapshot() as reader:
            assert list(reader.keys_live(source, [(6,), (5,), (2,)], where)) == [(6,)]
            query = oracle_vector("five", "oracle-a", DIMENSION)
            assert [hit.key for hit in reader.chunks_matching(source, vector.id, query, where, 1)] == [(6,)]
            assert set(reader.documents_matching(source, lexical.id, where, 9).values()) == {(3,), (6,)}
        bench.store.journal_trim(source.id)
        bench.store.source_drop(source.id)
        assert bench.backend.schema() == before

    def test_the_users_tables_may_have_the_names_of_ours(self, bench: Workbench) -> None:
        """Ours are made, read and dropped, and theirs are left as they were, whatever number a generation gets."""
        numbered = [f"{kind}_{number}" for kind in ("rows", "chunks", "kept", "postings", "failures") for number in (1, 2, 3)]
        names = ("source", "generation", "model", "lease", "worker", "upkeep", "schema_version", *numbered)
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        for name in names:
            bench.app.run(f"CREATE TABLE {name} (id {integer} PRIMARY KEY, body {text})")
            bench.app.run(f"INSERT INTO {name} VALUES (1, 'one')")
        before = bench.backend.schema()
        for name in ("source", "chunks_1"):
            source = bench.attach(name, ("body",))
            for generation in (bench.lexical(source), bench.vector(source)):
                bench.drain(source, generation)
                bench.verify(source, generation, {(1,): "one"})
            bench.store.source_drop(source.id)
        assert bench.backend.schema() == before
        assert [bench.app.run(f"SELECT body FROM {name}") for name in names] == [[("one",)]] * len(names)

    @pytest.mark.parametrize(("kinds", "keys"), KEYS, ids=["integer", "text", "pair", "triple"])
    def test_keys_keep_their_value(
        self, bench: Workbench, kinds: tuple[ColumnKind, ...], keys: tuple[tuple[Any, ...], ...]
    ) -> None:
        """From the table to the hit, and back as an argument."""
        columns = [f"p{number}" for number in range(len(kinds))]
        declared = ", ".join(f"{column} {bench.backend.type(kind)}" for column, kind in zip(columns, kinds, strict=True))
        bench.app.run(
            f"CREATE TABLE things ({declared}, body {bench.backend.type('text')}, PRIMARY KEY ({', '.join(columns)}))"
        )
        bodies = {key: f"text {number}" for number, key in enumerate(keys)}
        half = len(keys) // 2
        marks = ", ".join("?" * (len(kinds) + 1))
        bench.app.many(f"INSERT INTO things VALUES ({marks})", [(*key, bodies[key]) for key in keys[:half]])
        source = bench.attach("things", ("body",), batch=1)
        bench.app.many(f"INSERT INTO things VALUES ({marks})", [(*key, bodies[key]) for key in keys[half:]])
        vector, lexical = bench.vector(source), bench.lexical(source)
        for generation in (vector, lexical):
            lease = bench.lease(generation, limit=1)
            rows = bench.read(source, lease)
            bench.settle(source, generation, lease, rows, [bench.fail(rows[0])])
            [failure] = bench.store.failures(source, generation.id, 10)
            assert failure.key == rows[0].key
            assert bench.store.failures_retry(source, generation.id, [rows[0].key]) == 1
            bench.drain(source, generation, limit=2)
            bench.verify(source, generation, bodies)
            bench.coverage_check(source, generation, bodies)
        with bench.store.snapshot() as reader:
            assert list(reader.keys_live(source, keys, None)) == list(keys)
            rows = reader.rows_live(source, keys, (vector.id,))
            assert [row.key for row in rows if row.indexed == (row.seq,)] == list(keys)
            for key in keys:
                hit = reader.chunks_nearest(vector.id, oracle_vector(bodies[key], "oracle-a", DIMENSION), 1)()[0]
                assert hit.key == key
                assert [type(part) for part in hit.key] == [type(part) for part in key]
        where = " AND ".join(f"{column} = ?" for column in columns)
        bench.app.run(f"DELETE FROM things WHERE {where}", *keys[0])
        bench.app.run(f"UPDATE things SET body = 'edited' WHERE {where}", *keys[1])
        bench.drain(source, vector, lexical)
        live = {**{key: bodies[key] for key in keys[2:]}, keys[1]: "edited"}
        for generation in (vector, lexical):
            bench.verify(source, generation, live)
        bench.store.journal_trim(source.id)
        bench.coverage_check(source, vector, live)
