"""The reader: one snapshot, live rows only."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from seamark.model import Condition
from seamark.testing.oracle import oracle_vector
from seamark.testing.workbench import DIMENSION

if TYPE_CHECKING:
    from seamark.model import Generation, Key, Source
    from seamark.store.reader import Reader
    from seamark.testing.workbench import Workbench

KEYS: list[Key] = [(3,), (9,), (1,), (2,), (5,)]


class Snapshots:
    """`snapshot`, `keys_live`, `rows_live`, `generations`."""

    def look(self, reader: Reader, source: Source, vector: Generation, lexical: Generation) -> object:
        """Return all that a reader shows."""
        query = oracle_vector("a", "oracle-a", DIMENSION)
        everything = Condition("id", ">", 0)
        postings = reader.postings_read(lexical.id, ["", "a", "new"])
        documents = sorted({doc for found in postings.values() for doc in found["doc"].tolist()})
        return (
            list(reader.generations(source.id)),
            list(reader.keys_live(source, KEYS, None)),
            list(reader.rows_live(source, KEYS, (vector.id, lexical.id))),
            {term: found.tolist() for term, found in postings.items()},
            sorted(reader.terms_statistics(lexical.id, ["", "a", "new"]), key=lambda one: one.term),
            dict(reader.documents_keys(lexical.id, documents)),
            dict(reader.documents_resolve(source, lexical.id, documents, None)),
            dict(reader.documents_matching(source, lexical.id, everything, 100)),
            list(reader.chunks_nearest(vector.id, query, 100, exact=True)()),
            list(reader.chunks_nearest(vector.id, query, 100)()),
            list(reader.chunks_matching(source, vector.id, query, everything, 100)),
        )

    def test_all_methods_see_one_moment(self, bench: Workbench) -> None:
        """That of the first answer: neither the application's writes nor a worker's settles change what a reader shows."""
        source = bench.notes("a", "b", "a c")
        vector, lexical = bench.vector(source), bench.lexical(source)
        bench.drain(source, vector, lexical)
        other = bench.backend.store()
        with bench.store.snapshot() as before:
            at_first = self.look(before, source, vector, lexical)
        with other.snapshot() as reader:
            assert list(reader.keys_live(source, [(1,)], None)) == [(1,)]
            bench.app.run("INSERT INTO notes (id, body) VALUES (5, 'new')")
            bench.app.run("UPDATE notes SET body = 'new' WHERE id = 1")
            bench.app.run("DELETE FROM notes WHERE id = 2")
            bench.drain(source, vector, lexical)
            bench.store.generation_activate(vector.id)
            assert self.look(reader, source, vector, lexical) == at_first
            bench.app.run("UPDATE notes SET body = 'newer' WHERE id = 1")
            bench.drain(source, vector, lexical)
            assert self.look(reader, source, vector, lexical) == at_first
        with other.snapshot() as after:
            assert self.look(after, source, vector, lexical) != at_first

    def test_a_deleted_row_is_not_live_before_anybody_settles_it(self, bench: Workbench) -> None:
        """However far a worker lags (I2): only what looks at nothing but the index may still name it."""
        source = bench.notes("a", "b")
        vector, lexical = bench.vector(source), bench.lexical(source)
        bench.drain(source, vector, lexical)
        bench.app.run("DELETE FROM notes WHERE id = 1")
        everything = Condition("id", ">", 0)
        with bench.store.snapshot() as reader:
            documents = reader.postings_read(lexical.id, [""])[""]["doc"].tolist()
            assert set(reader.documents_keys(lexical.id, documents).values()) == {(1,), (2,)}
            assert list(reader.documents_resolve(source, lexical.id, documents, None).values()) == [(2,)]
            assert list(reader.documents_matching(source, lexical.id, everything, 10).values()) == [(2,)]
            query = oracle_vector("a", "oracle-a", DIMENSION)
            assert [hit.key for hit in reader.chunks_matching(source, vector.id, query, everything, 10)] == [(2,)]
            assert list(reader.keys_live(source, [(1,), (2,)], None)) == [(2,)]
            assert [row.key for row in reader.rows_live(source, [(1,), (2,)])] == [(2,)]

    def test_a_row_that_left_the_where_is_not_live(self, bench: Workbench) -> None:
        """Before anybody settles that it is gone."""
        bench.notes_table(*"abcd")
        source = bench.attach("notes", ("body",), Condition("org", "=", 1))
        vector, lexical = bench.vector(source), bench.lexical(source)
        bench.drain(source, vector, lexical)
        bench.app.run("UPDATE notes SET org = 2 WHERE id = 1")
        everything = Condition("id", ">", 0)
        with bench.store.snapshot() as reader:
            documents = reader.postings_read(lexical.id, [""])[""]["doc"].tolist()
            query = oracle_vector("a", "oracle-a", DIMENSION)
            assert list(reader.documents_resolve(source, lexical.id, documents, None).values()) == [(4,)]
            assert list(reader.documents_matching(source, lexical.id, everything, 10).values()) == [(4,)]
            assert [hit.key for hit in reader.chunks_matching(source, vector.id, query, everything, 10)] == [(4,)]
            assert list(reader.keys_live(source, [(1,), (2,), (4,)], None)) == [(4,)]
            assert [row.key for row in reader.rows_live(source, [(1,), (2,), (4,)])] == [(4,)]

    def test_live_rows_come_in_the_order_given(self, bench: Workbench) -> None:
        """With their present text and seq; those that are not there are left out."""
        source = bench.notes("a", None, "c")
        bench.app.run("UPDATE notes SET body = 'A' WHERE id = 1")
        journal = bench.backend.journal(source)
        with bench.store.snapshot() as reader:
            rows = reader.rows_live(source, KEYS)
            assert list(reader.keys_live(source, KEYS, None)) == [(3,), (1,), (2,)]
            assert list(reader.keys_live(source, [], None)) == []
            assert list(reader.rows_live(source, [])) == []
        assert [(row.key, row.texts) for row in rows] == [((3,), ("c",)), ((1,), ("A",)), ((2,), (None,))]
        assert [row.seq for row in rows] == [journal[row.key][0] for row in rows]

    def test_live_rows_tell_what_each_generation_holds(self, bench: Workbench) -> None:
        """The older version of an edited row; None for what it has never held; in the order of the generations asked about."""
        source = bench.notes("a", "b", "")
        vector, lexical = bench.vector(source), bench.lexical(source)
        bench.drain(source, vector)
        held = {key: seq for key, (seq, *_) in bench.backend.journal(source).items()}
        bench.app.run("UPDATE notes SET body = 'A' WHERE id = 1")
        bench.app.run("INSERT INTO notes (id, body) VALUES (9, 'i')")
        keys: list[Key] = [(1,), (2,), (3,), (9,)]
        with bench.store.snapshot() as reader:
            rows = reader.rows_live(source, keys, (lexical.id, vector.id))
            assert [row.indexed for row in rows] == [(None, held.get(key)) for key in keys]
            assert [row.indexed for row in reader.rows_live(source, keys)] == [(), (), (), ()]

    def test_generations_of_the_source(self, bench: Workbench) -> None:
        """As the store lists them."""
        source = bench.notes("a")
        bench.vector(source)
        bench.lexical(source)
        with bench.store.snapshot() as reader:
            assert list(reader.generations(source.id)) == list(bench.store.generations(source.id))
            assert list(reader.generations(source.id + 1)) == []

    def test_many_keys_at_once(self, bench: Workbench) -> None:
        """More than a statement may have parameters."""
        source = bench.notes(*(f"t{number}" for number in range(100)))
        generation = bench.vector(source)
        bench.drain(source, generation)
        keys: list[Key] = [(number,) for number in range(70_000, 0, -1)]
        with bench.store.snapshot() as reader:
            assert list(reader.keys_live(source, keys, None)) == keys[-100:]
            assert [row.key for row in reader.rows_live(source, keys)] == keys[-100:]
            assert len([row for row in reader.rows_live(source, keys, (generation.id,)) if row.indexed[0] is not None]) == 100

    def test_readers_in_several_threads(self, bench: Workbench) -> None:
        """A reader in one, writes and other readers in another."""
        source = bench.notes(*"abc")
        generation = bench.vector(source)
        bench.drain(source, generation)
        query = oracle_vector("a", "oracle-a", DIMENSION)

        def search(_: int) -> list[Key]:
            with bench.store.snapshot() as reader:
                return sorted(hit.key for hit in reader.chunks_nearest(generation.id, query, 10)())

        with bench.store.snapshot() as reader, ThreadPoolExecutor(4) as pool:
            assert list(pool.map(search, range(20))) == [[(1,), (2,), (3,)]] * 20
            assert list(reader.keys_live(source, KEYS, None)) == [(3,), (1,), (2,)]
