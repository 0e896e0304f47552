"""Reading for an audit, and what mends: what is shown of sound databases, and that nothing sound is called wrong.

What is really wrong takes a hand in the tables of the store, which differ: `tests/acceptance/test_audit*.py` have that.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from seamark.model import Audited, Condition, FailedRow, SourceSpec, TextColumn
from seamark.store.blocks import term_weight
from seamark.testing.workbench import CHARACTERS, LONG, passages, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from seamark.model import Generation, Key, Source
    from seamark.model.findings import AuditHeld, AuditPage, Passage
    from seamark.testing.workbench import Workbench

TEXTS: tuple[str | None, ...] = ("a b", None, "c|d|e", " ", "f " * LONG)


def pages(
    bench: Workbench, source: Source, generations: Sequence[Generation] = (), limit: int = 1000, characters: int = CHARACTERS
) -> Iterator[AuditPage]:
    """Read all pages of a source."""
    after: Key | None = None
    while True:
        page = bench.store.audit_page(source, [one.id for one in generations], after, limit, characters)
        yield page
        if page.last is None:
            return
        after = page.last


def one_page(bench: Workbench, source: Source, *generations: Generation) -> AuditPage:
    """Read what must be a single page."""
    [page] = pages(bench, source, generations)
    return page


def stored_of(held: AuditHeld) -> list[Sequence[Passage]]:
    """Return the stored chunks of each row of a page."""
    assert held.passages is not None
    return [held.passages.of(place) for place in range(len(held.seqs))]


class AuditPages:
    """`audit_page`."""

    def test_rows_with_all_that_is_known_of_them(self, bench: Workbench) -> None:
        """Of the table, of the journal, and of each generation, in key order."""
        source = bench.notes(*TEXTS)
        vector, lexical = bench.vector(source), bench.lexical(source)
        bench.drain(source, vector, lexical)
        page = one_page(bench, source, vector, lexical)
        journal = bench.backend.journal(source)
        assert list(page.keys) == [(number,) for number in range(1, 6)]
        assert [list(column) for column in page.texts] == [list(TEXTS)]
        assert list(page.live) == [True] * 5
        assert list(page.seqs) == [journal[key][0] for key in page.keys]
        assert list(page.deleted) == [False] * 5
        held = page.held[vector.id]
        assert list(held.seqs) == list(page.seqs)
        assert list(held.chunks) == [1, 0, 3, 0, 1]
        assert [bool(one) for one in held.truncated] == [False, False, False, False, True]
        stored = [[(start, stop, bytes(digest)) for start, stop, digest in several] for several in stored_of(held)]
        wanted = [[(one.start, one.stop, one.digest) for one in passages(text or "")] for text in TEXTS]
        assert stored == wanted
        assert held.passages is not None
        assert not held.passages.damaged.any()
        held = page.held[lexical.id]
        assert list(held.seqs) == list(page.seqs)
        assert list(held.chunks) == [1, 0, 1, 0, 1]
        assert held.documents is not None
        assert [document < 0 for document in held.documents] == [False, True, False, True, False]

    def test_what_is_not_held_and_not_entered(self, bench: Workbench) -> None:
        """An edited row with the version that is held, a new one with none, a deleted one not at all."""
        source = bench.notes("a", "b", "c")
        generation = bench.vector(source)
        bench.drain(source, generation)
        before = one_page(bench, source, generation)
        bench.app.run("UPDATE notes SET body = 'A' WHERE id = 1")
        bench.app.run("DELETE FROM notes WHERE id = 2")
        bench.app.run("INSERT INTO notes (id, body) VALUES (9, 'i')")
        page = one_page(bench, source, generation)
        assert list(page.keys) == [(1,), (3,), (9,)]
        held = page.held[generation.id]
        assert list(held.seqs) == [before.seqs[0], before.seqs[2], -1]
        assert list(held.chunks) == [1, 1, -1]
        assert page.seqs[0] != held.seqs[0]
        assert [len(several) for several in stored_of(held)] == [1, 1, 0]

    def test_rows_outside_the_where_are_shown_as_such(self, bench: Workbench) -> None:
        """With no entry, or the tombstone that they have."""
        bench.notes_table(*"abcd")
        source = bench.attach("notes", ("body",), Condition("org", "=", 1))
        bench.app.run("UPDATE notes SET org = 2 WHERE id = 1")
        page = one_page(bench, source)
        assert list(page.live) == [False, False, False, True]
        assert list(page.deleted) == [True, True, True, False]
        assert [seq < 0 for seq in page.seqs] == [False, True, True, False]

    def test_pages_follow_one_another(self, bench: Workbench) -> None:
        """Each row is on one; of a table without rows there is one page, which is empty."""
        source = bench.notes(*(f"text {number}" for number in range(10)))
        generation = bench.vector(source)
        bench.drain(source, generation)
        for limit in (1, 3, 5, 10, 11):
            found = list(pages(bench, source, [generation], limit))
            assert [key for page in found for key in page.keys] == [(number,) for number in range(1, 11)]
            assert [seq for page in found for seq in (page.held[generation.id].seqs if page.keys else ())] == [
                seq for page in found for seq in page.seqs
            ]
            assert max(len(page.keys) for page in found) <= limit
        bench.app.run("DELETE FROM notes")
        [page] = pages(bench, source, [generation])
        assert (list(page.keys), page.last) == ([], None)

    def test_a_page_ends_where_its_text_gets_long(self, bench: Workbench) -> None:
        """With one row at least."""
        source = bench.notes("a" * 50, "b" * 50, "c" * 300, "d")
        found = [len(page.keys) for page in pages(bench, source, characters=90)]
        assert sum(found) == 4
        assert len(found) >= 3
        assert [len(page.keys) for page in pages(bench, source, limit=2, characters=1)][:3] == [1, 1, 1]

    def test_keys_of_several_columns(self, bench: Workbench) -> None:
        """In the order of the key, across pages."""
        integer, text = bench.backend.type("integer"), bench.backend.type("text")
        bench.app.run(f"CREATE TABLE pairs (a {text}, b {integer}, body {text}, PRIMARY KEY (a, b))")
        keys = [(letter, number) for letter in ("x", "y", "é'\\") for number in (1, 2, 10)]
        bench.app.many("INSERT INTO pairs VALUES (?, ?, 'u|v')", keys)
        source = bench.attach("pairs", ("body",))
        generation = bench.vector(source)
        bench.drain(source, generation)
        for limit in (1, 2, 4):
            found = list(pages(bench, source, [generation], limit))
            assert sorted(key for page in found for key in page.keys) == sorted(keys)
            held = [page.held[generation.id] for page in found if page.keys]
            assert all(len(several) == 2 for each in held for several in stored_of(each))


class AuditWalks:
    """`audit_journal`, `audit_rows`, `audit_chunks`, `audit_postings`, `audit_documents`."""

    def clean(self, bench: Workbench, source: Source, *generations: Generation, limit: int = 2) -> None:
        """Check that nothing is called wrong, in steps of that size."""
        journal = bench.backend.journal(source)
        tombstones: list[Key] = []
        upto: int | None = 0
        while upto is not None:
            entries = bench.store.audit_journal(source, upto, limit)
            assert list(entries.gone) == []
            tombstones += entries.tombstones
            assert entries.upto is None or entries.upto > upto
            upto = entries.upto
        assert sorted(tombstones) == sorted(key for key, (_, deleted) in journal.items() if deleted)
        for generation in generations:
            assert list(bench.store.audit_missing(source, generation.id, sorted(journal))) == []
            for look in (bench.store.audit_rows, bench.store.audit_chunks)[: 2 if generation.kind == "vector" else 1]:
                after: Key | None = None
                while True:
                    strays = look(source, generation.id, after, limit)
                    assert list(strays.keys) == []
                    if strays.last is None:
                        break
                    after = strays.last

    def test_work_at_every_stage_is_not_missing(self, bench: Workbench) -> None:
        """Nothing claimed, under a lease, failed, done, edited, deleted and trimmed."""
        source = bench.notes(*(f"a|b {number}" for number in range(8)))
        vector, lexical = bench.vector(source), bench.lexical(source)
        self.clean(bench, source, vector, lexical)
        lease = bench.lease(vector, limit=3)
        self.clean(bench, source, vector, lexical)
        bench.expire(lease)
        self.clean(bench, source, vector, lexical)
        lease = bench.lease(vector, limit=3)
        rows = bench.read(source, lease)
        refused = [FailedRow(rows[0].key, rows[0].seq, "input", "refused", 1, None)]
        assert bench.settle(source, vector, lease, rows[1:], refused) is not None
        self.clean(bench, source, vector, lexical)
        bench.drain(source, vector, lexical)
        self.clean(bench, source, vector, lexical)
        bench.app.run("UPDATE notes SET body = 'new' WHERE id = 1")
        bench.app.run("DELETE FROM notes WHERE id = 2")
        self.clean(bench, source, vector, lexical)
        bench.drain(source, vector, lexical)
        self.clean(bench, source, vector, lexical)
        bench.store.journal_trim(source.id)
        self.clean(bench, source, vector, lexical)

    def test_postings_are_summed_up_by_document(self, bench: Workbench) -> None:
        """All of them, those of superseded versions included, before and after blocks are merged."""
        texts = ["a b b", "b c", " ", "d d d d"]
        source = bench.notes(*texts)
        generation = bench.lexical(source)
        bench.drain(source, generation, limit=1)
        bench.app.run("UPDATE notes SET body = 'e e' WHERE id = 2")
        bench.drain(source, generation)
        live = ["a b b", "e e", " ", "d d d d"]
        highest = bench.store.audit_documents(generation.id)
        for _ in range(2):
            documents = one_page(bench, source, generation).held[generation.id].documents
            sums = bench.store.audit_postings(generation.id, 1, highest)
            assert documents is not None
            for document, text in zip(documents.tolist(), live, strict=True):
                if document < 0:
                    assert not text.strip()
                    continue
                counts = Counter(words(text))
                weight = sum(term_weight(term) * count for term, count in counts.items()) % 2**64
                place = document - sums.first
                assert int(sums.weights[place]) == weight
                assert int(sums.counts[place]) == int(sums.lengths[place]) == len(words(text))
            bench.maintain(generation)
        documents = one_page(bench, source, generation).held[generation.id].documents
        assert documents is not None
        assert highest == documents.max()
        whole = bench.store.audit_postings(generation.id, 1, highest)
        part = bench.store.audit_postings(generation.id, highest, 5)
        assert int(part.weights[0]) == int(whole.weights[highest - 1]) > 0
        assert not part.weights[1:].any()

    def test_documents_of_an_index_without_any(self, bench: Workbench) -> None:
        """None."""
        source = bench.notes()
        generation = bench.lexical(source)
        assert bench.store.audit_documents(generation.id) == 0
        assert len(bench.store.audit_postings(generation.id, 1, 0).weights) == 0


class Mending:
    """`journal_renew`, `strays_drop`, `chunks_drop`, `source_mend`, `source_trust`."""

    def test_renewed_rows_are_indexed_again(self, bench: Workbench) -> None:
        """With a higher `seq` than any, and as live or gone as they are."""
        source = bench.notes("a", "b", "c", "d")
        vector, lexical = bench.vector(source), bench.lexical(source)
        bench.drain(source, vector, lexical)
        bench.app.run("DELETE FROM notes WHERE id = 2")
        bench.drain(source, vector, lexical)
        before = bench.backend.journal(source)
        assert bench.store.journal_renew(source, [(1,), (2,), (77,)]) == 2
        after = bench.backend.journal(source)
        highest = max(seq for seq, _ in before.values())
        assert after.keys() == before.keys()
        assert all(after[key,][0] > highest for key in (1, 2))
        assert (after[1,][1], after[2,][1]) == (False, True)
        assert after[3,] == before[3,]
        assert bench.drain(source, vector, lexical) >= 2
        bench.verify(source, vector)
        bench.verify(source, lexical)
        bench.coverage_check(source, vector)

    def test_many_rows_are_renewed(self, bench: Workbench) -> None:
        """In several transactions."""
        source = bench.notes(*(f"text {number}" for number in range(1200)))
        before = bench.backend.journal(source)
        assert bench.store.journal_renew(source, sorted(before)) == 1200
        after = bench.backend.journal(source)
        assert min(seq for seq, _ in after.values()) > max(seq for seq, _ in before.values())

    def test_rows_outside_the_where_are_renewed_as_gone(self, bench: Workbench) -> None:
        """Those that the journal has; others are not entered."""
        bench.notes_table(*"abcd")
        source = bench.attach("notes", ("body",), Condition("org", "=", 1))
        bench.app.run("UPDATE notes SET org = 2 WHERE id = 1")
        assert bench.store.journal_renew(source, [(1,), (2,), (4,)]) == 2
        assert {key: deleted for key, (_, deleted) in bench.backend.journal(source).items()} == {(1,): True, (4,): False}

    def test_nothing_that_belongs_to_a_row_is_dropped_as_astray(self, bench: Workbench) -> None:
        """Whatever keys are given."""
        source = bench.notes("a|b", "c")
        vector, lexical = bench.vector(source), bench.lexical(source)
        bench.drain(source, vector, lexical)
        for generation in (vector, lexical):
            assert bench.store.strays_drop(source, generation.id, [(1,), (2,), (99,)]) == 0
            bench.verify(source, generation)

    def test_dropped_chunks_are_lacking_until_the_row_is_renewed(self, bench: Workbench) -> None:
        """They are found by nobody."""
        source = bench.notes("a|b", "c")
        generation = bench.vector(source)
        bench.drain(source, generation)
        assert bench.store.chunks_drop(source, generation.id, [(1,)]) == 2
        held = one_page(bench, source, generation).held[generation.id]
        assert list(held.chunks) == [2, 1]
        assert [len(several) for several in stored_of(held)] == [0, 1]
        bench.store.journal_renew(source, [(1,)])
        bench.drain(source, generation)
        bench.verify(source, generation)

    def test_what_is_well_is_not_mended(self, bench: Workbench) -> None:
        """Nor changed."""
        source = bench.notes("a", "b")
        vector, lexical = bench.vector(source), bench.lexical(source)
        bench.drain(source, vector, lexical)
        schema, journal = bench.backend.schema(), bench.backend.journal(source)
        assert list(bench.store.source_faults(source)) == []
        assert list(bench.store.source_mend(source)) == []
        bench.store.source_trust(source)
        assert (bench.backend.schema(), bench.backend.journal(source)) == (schema, journal)
        assert list(bench.store.source_faults(source)) == []
        bench.app.run("UPDATE notes SET body = 'A' WHERE id = 1")
        bench.drain(source, vector, lexical)
        bench.verify(source, vector)


class AuditTurns:
    """`audit_begin`, `audit_renew`, `audit_end`, `audits`."""

    def active(self, bench: Workbench) -> tuple[Source, Generation]:
        """Return a source with an active generation that is whole."""
        source = bench.notes("a", "b")
        generation = bench.vector(source)
        bench.drain(source, generation)
        assert bench.store.generation_activate(generation.id)
        return source, generation

    def test_it_is_not_time_before_the_interval_has_passed(self, bench: Workbench) -> None:
        """Since the generation became active; nor ever while none is."""
        source = bench.notes("a")
        generation = bench.vector(source)
        assert not bench.store.audit_begin(source.id, "w1", 60, 0)
        bench.drain(source, generation)
        assert bench.store.generation_activate(generation.id)
        assert not bench.store.audit_begin(source.id, "w1", 60, 3600)
        assert bench.store.audit_begin(source.id, "w1", 60, 0)

    def test_one_worker_at_a_time(self, bench: Workbench) -> None:
        """Until its time has passed."""
        source, generation = self.active(bench)
        store = bench.store
        assert store.audit_begin(source.id, "w1", 60, 0)
        assert not store.audit_begin(source.id, "w2", 60, 0)
        assert store.audit_renew(source.id, "w1", -1)
        assert store.audit_begin(source.id, "w2", 60, 0)
        assert not store.audit_renew(source.id, "w1", 60)
        store.audit_end(source.id, "w1", [Audited(generation.id, 0, 1, 2, 3)])
        assert store.audits(source.id) == {}
        assert not store.audit_begin(source.id, "w3", 60, 0)
        assert store.audit_renew(source.id, "w2", 60)

    def test_what_came_of_it_is_remembered(self, bench: Workbench) -> None:
        """The last time; and it is not time again before the interval has passed."""
        source, generation = self.active(bench)
        store = bench.store
        for rows in (10, 20):
            before = store.clock()
            assert store.audit_begin(source.id, "w1", 60, 0)
            store.audit_end(source.id, "w1", [Audited(generation.id, 0, rows, 2, 1), Audited(10_000, 0, 1, 1, 1)])
            [audited] = store.audits(source.id).values()
            assert before <= audited.audited_at <= store.clock()
            assert (audited.generation_id, audited.rows, audited.findings, audited.repaired) == (generation.id, rows, 2, 1)
        assert not store.audit_begin(source.id, "w1", 60, 3600)
        assert store.audits(source.id + 1) == {}

    def test_an_audit_of_which_nothing_came_does_not_count(self, bench: Workbench) -> None:
        """It may be begun again at once."""
        source, _ = self.active(bench)
        assert bench.store.audit_begin(source.id, "w1", 60, 0)
        bench.store.audit_end(source.id, "w1", ())
        assert bench.store.audits(source.id) == {}
        assert bench.store.audit_begin(source.id, "w2", 60, 0)

    def test_a_dropped_source_leaves_nothing(self, bench: Workbench) -> None:
        """Neither its audits nor one under way."""
        source, generation = self.active(bench)
        assert bench.store.audit_begin(source.id, "w1", 60, 0)
        bench.store.audit_end(source.id, "w1", [Audited(generation.id, 0, 1, 0, 0)])
        assert bench.store.audit_begin(source.id, "w1", 60, 0)
        bench.store.source_drop(source.id)
        assert bench.store.audits(source.id) == {}
        assert not bench.store.audit_begin(source.id, "w1", 60, 0)
        bench.store.audit_end(source.id, "w1", ())


class Polling:
    """`source_poll`, `keys_polled`."""

    def polled(self, bench: Workbench, *bodies: str) -> Source:
        """Make the table of notes, and attach it without triggers."""
        bench.notes_table(*bodies)
        spec = SourceSpec("notes", (TextColumn("body"),), track="poll")
        source = bench.store.source_create("notes", spec, bench.store.table_inspect("notes"))
        while not bench.store.source_enroll(source, 100).done:
            pass
        return bench.source(source.id)

    def entered(self, bench: Workbench, source: Source) -> list[Key]:
        """Return the keys of live rows that the journal has."""
        page = one_page(bench, source)
        return [key for key, deleted in zip(page.keys, page.deleted, strict=True) if not deleted]

    def test_new_rows_are_entered_in_the_order_of_their_keys(self, bench: Workbench) -> None:
        """Those that were there are entered by the enrolment; each further call looks at so many."""
        source = self.polled(bench, "a", "b")
        assert self.entered(bench, source) == [(1,), (2,)]
        assert bench.store.source_poll(source, 10) == 0
        bench.app.many("INSERT INTO notes (id, body) VALUES (?, 'new')", [(number,) for number in (7, 3, 9, 5)])
        assert self.entered(bench, source) == [(1,), (2,)]
        assert bench.store.source_poll(source, 3) == 3
        assert self.entered(bench, source) == [(1,), (2,), (3,), (5,), (7,)]
        assert bench.store.source_poll(source, 3) == 1
        assert bench.store.source_poll(source, 3) == 0
        page = one_page(bench, source)
        assert list(page.seqs) == sorted(seq or 0 for seq in page.seqs)

    def test_polled_rows_are_indexed(self, bench: Workbench) -> None:
        """By the lanes that there are."""
        source = self.polled(bench, "a|b", "c")
        vector, lexical = bench.vector(source), bench.lexical(source)
        bench.app.run("INSERT INTO notes (id, body) VALUES (9, 'i|j')")
        bench.store.source_poll(source, 10)
        bench.drain(source, vector, lexical)
        bench.verify(source, vector)
        bench.verify(source, lexical)

    def test_keys_are_passed_for_good_once_nobody_can_be_late(self, bench: Workbench) -> None:
        """Not at once."""
        source = self.polled(bench, "a", "b")
        bench.app.run("INSERT INTO notes (id, body) VALUES (9, 'i')")
        bench.store.source_poll(source, 10)
        assert list(bench.store.keys_polled(source, [(1,), (9,)])) == []
        passed: list[Key] = []
        for _ in range(200):
            time.sleep(0.05)
            bench.store.source_poll(source, 10)
            passed = list(bench.store.keys_polled(source, [(1,), (9,), (77,)]))
            if (9,) in passed:
                break
        assert sorted(passed) == [(1,), (9,)]

    def test_the_users_schema_is_untouched(self, bench: Workbench) -> None:
        """From the attach to the end."""
        bench.app.run(f"CREATE TABLE other (id {bench.backend.type('integer')} PRIMARY KEY)")
        source = self.polled(bench, "a")
        before = bench.backend.schema()
        assert "seamark" not in before
        bench.app.run("INSERT INTO notes (id, body) VALUES (9, 'i')")
        bench.store.source_poll(source, 10)
        assert list(bench.store.source_faults(source)) == []
        assert list(bench.store.source_mend(source)) == []
        bench.store.source_drop(source.id)
        assert bench.backend.schema() == before
