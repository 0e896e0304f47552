"""Reading the postings of a lexical generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seamark.model import POSTING, Condition, TermStatistics

if TYPE_CHECKING:
    from seamark.model import Generation, Key, Source
    from seamark.testing.workbench import Workbench

BODIES = ("red fish", "blue fish fish", "", "red red red door", None, "one fish two")


class LexicalReading:
    """`terms_statistics`, `postings_read`, `documents_resolve`, `documents_matching`."""

    def indexed(self, bench: Workbench, *bodies: str | None) -> tuple[Source, Generation]:
        """Attach and index, one row a batch, so that terms have several blocks."""
        source = bench.notes(*bodies)
        generation = bench.lexical(source)
        bench.drain(source, generation, limit=1)
        return source, generation

    def test_statistics_count_postings_and_lengths(self, bench: Workbench) -> None:
        """Of those of the terms that have any; the empty term is every document."""
        _, generation = self.indexed(bench, *BODIES)
        with bench.store.snapshot() as reader:
            found = {one.term: one for one in reader.terms_statistics(generation.id, ["fish", "red", "none", "", "it's"])}
        assert found.keys() == {"fish", "red", ""}
        assert {term: (one.postings, one.lengths) for term, one in found.items()} == {
            "fish": (3, 2 + 3 + 3),
            "red": (2, 2 + 4),
            "": (4, 2 + 3 + 4 + 3),
        }
        assert all(1 <= one.blocks <= one.postings for one in found.values())
        assert all(isinstance(one, TermStatistics) for one in found.values())

    def test_postings_tell_document_frequency_and_length(self, bench: Workbench) -> None:
        """One for each document that has the term, in the stored form."""
        source, generation = self.indexed(bench, *BODIES)
        with bench.store.snapshot() as reader:
            found = reader.postings_read(generation.id, ["fish", "none", "red"])
            assert found.keys() == {"fish", "red"}
            assert found["fish"].dtype == np.dtype(POSTING)
            keys = reader.documents_resolve(source, generation.id, found["fish"]["doc"].tolist(), None)
        entries = {keys[doc]: (frequency, length) for doc, frequency, length in found["fish"].tolist()}
        assert entries == {(1,): (1, 2), (2,): (2, 3), (6,): (1, 3)}

    def test_no_terms_are_no_postings(self, bench: Workbench) -> None:
        """Neither are statistics, nor documents."""
        source, generation = self.indexed(bench, "a")
        with bench.store.snapshot() as reader:
            assert dict(reader.postings_read(generation.id, [])) == {}
            assert list(reader.terms_statistics(generation.id, [])) == []
            assert dict(reader.documents_resolve(source, generation.id, [], None)) == {}

    def test_a_limit_reads_the_newest_blocks(self, bench: Workbench) -> None:
        """Whole blocks until there are that many; all of them when there are not."""
        source, generation = self.indexed(bench)
        for number in range(1, 31):
            bench.app.run("INSERT INTO notes (id, body) VALUES (?, 'word')", number)
            bench.drain(source, generation)
        with bench.store.snapshot() as reader:
            everything = reader.postings_read(generation.id, ["word"])["word"]
            assert len(everything) == 30
            for limit in (1, 7, 29, 30, 31, 1000):
                part = reader.postings_read(generation.id, ["word"], limit)["word"]
                assert min(limit, 30) <= len(part) <= 30
                oldest = part["doc"].min()
                assert sorted(part["doc"]) == sorted(everything["doc"][everything["doc"] >= oldest])
            [statistics] = reader.terms_statistics(generation.id, ["word"])
            newest = reader.postings_read(generation.id, ["word"], 1)["word"]
            assert (len(newest) < 30) == (statistics.blocks > 1), "one block is enough for one posting"

    def test_odd_terms_are_terms_like_others(self, bench: Workbench) -> None:
        """Bytes are compared, not collations."""
        terms = ["é", "e\u0301", "ß", "ss", "日本", "x_1", "\u0131", "i"]
        _, generation = self.indexed(bench, *terms)
        with bench.store.snapshot() as reader:
            found = reader.postings_read(generation.id, [*terms, "E", "'", "%"])
        assert {
            term: len(postings) for term, postings in found.items() if term in terms and term != "e\u0301"
        } == dict.fromkeys((term for term in terms if term != "e\u0301"), 1)
        assert not {"E", "'", "%"} & found.keys()

    def test_superseded_and_deleted_documents_do_not_resolve(self, bench: Workbench) -> None:
        """Postings of old versions may be there; their documents are no longer current."""
        source, generation = self.indexed(bench, "old a", "old b", "old c")
        with bench.store.snapshot() as reader:
            old = reader.postings_read(generation.id, ["old"])["old"]["doc"].tolist()
            before = dict(reader.documents_resolve(source, generation.id, old, None))
        assert set(before.values()) == {(1,), (2,), (3,)}
        bench.app.run("UPDATE notes SET body = 'new' WHERE id = 1")
        bench.app.run("DELETE FROM notes WHERE id = 2")
        with bench.store.snapshot() as reader:
            resolved = reader.documents_resolve(source, generation.id, old, None)
        assert set(resolved.values()) == {(1,), (3,)}, "a deleted row is out at once, an edited one stale until it is settled"
        bench.drain(source, generation)
        with bench.store.snapshot() as reader:
            resolved = reader.documents_resolve(source, generation.id, [*old, 2**31], None)
            assert resolved == {doc: key for doc, key in before.items() if key == (3,)}
            assert reader.documents_keys(generation.id, [*old, 2**31]) == resolved
            new = reader.postings_read(generation.id, ["new"])["new"]["doc"].tolist()
            assert not set(new) & set(old), "a document number is never used again"
            assert list(reader.documents_resolve(source, generation.id, new, None).values()) == [(1,)]

    def test_documents_resolve_within_a_filter(self, bench: Workbench) -> None:
        """Only those of rows that satisfy it."""
        source, generation = self.indexed(bench, *"abcdef")
        with bench.store.snapshot() as reader:
            documents = reader.postings_read(generation.id, [""])[""]["doc"].tolist()
            found = reader.documents_resolve(source, generation.id, documents, Condition("org", "=", 1))
        assert sorted(found.values()) == [(1,), (4,)]

    def test_documents_matching_up_to_a_limit(self, bench: Workbench) -> None:
        """Live rows that satisfy the filter and are indexed; the same pairs that resolve gives."""
        source, generation = self.indexed(bench, *"abcdefghi")
        bench.app.run("DELETE FROM notes WHERE id = 4")
        where = Condition("org", "=", 1)
        with bench.store.snapshot() as reader:
            found = reader.documents_matching(source, generation.id, where, 100)
            assert set(found.values()) == {(1,), (7,)}
            assert dict(reader.documents_resolve(source, generation.id, list(found), where)) == dict(found)
            few = reader.documents_matching(source, generation.id, where, 1)
            assert len(few) == 1
            assert few.items() <= found.items()

    def test_statistics_and_postings_after_upkeep(self, bench: Workbench) -> None:
        """Compaction drops what is no longer current, and only that."""
        source, generation = self.indexed(bench, *(f"common word{number}" for number in range(40)))
        bench.app.run("UPDATE notes SET body = 'common edited' WHERE id <= 30")
        bench.app.run("DELETE FROM notes WHERE id > 35")
        bench.drain(source, generation)
        bench.maintain(generation)
        keys: set[Key] = {(number,) for number in range(1, 36)}
        with bench.store.snapshot() as reader:
            documents = reader.postings_read(generation.id, ["common"])["common"]["doc"].tolist()
            assert set(reader.documents_resolve(source, generation.id, documents, None).values()) == keys
            [statistics] = reader.terms_statistics(generation.id, ["common"])
        assert len(documents) == statistics.postings >= len(keys)
