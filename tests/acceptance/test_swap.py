"""Models come and go beneath a table that is searched and written to all the while, on both databases."""

from __future__ import annotations

import pytest

import seamark
from seamark.errors import (
    EmbedderConfigurationError,
    GenerationIncompleteError,
    GenerationInUseError,
    InvalidRequestError,
    NoRollbackError,
    SourceConflictError,
    SourceDriftError,
    UnknownGenerationError,
)
from seamark.testing.beside import beside, working
from seamark.testing.oracle import OracleEmbedder, oracle_proves
from seamark.testing.tables import application_with, numbered
from seamark.testing.waiting import until

ROWS = 300


@pytest.fixture
def notes(backend):
    return application_with(backend, notes=numbered("the body of note", ROWS))


def states(tracked, kind="vector"):
    return [one.generation.state for one in tracked.generations() if one.generation.kind == kind]


def proven(backend, application, tracked, generation, model):
    """The generation's chunks are those of the present texts, each by that model."""
    texts = {(key,): body for key, body in application.run("SELECT id, body FROM notes")}
    chunks = backend.chunks(tracked.source, generation)
    assert sorted(texts) == sorted(chunk.key for chunk in chunks)
    assert [chunk.key for chunk in chunks if not oracle_proves(chunk.vector, texts[chunk.key], model)] == []


def test_a_searcher_and_a_writer_notice_nothing_of_a_swap(backend, notes, opened, old, new):
    """Never an error, never an empty answer, never a row less, never two generations in one; then one that is dropped."""
    opened(old).attach("notes", text="body")
    opened(old).work(until="current")
    service, seen = opened(new, old), []
    tracked = service.source("notes")
    searcher = opened(new, old).source("notes")

    def search(stop):
        number = 0
        while not stop.is_set():
            number = number % ROWS + 1
            found = searcher.search(f"the body of note {number}", limit=3)
            assert found.degraded == ()
            assert found.hits[0].key == number, f"note {number} is not found"
            assert found.hits[0].vector is not None
            assert found.hits[0].vector.score == pytest.approx(1.0, abs=2e-3)
            assert len({hit.generation for hit in found.hits}) == 1
            seen.append(found.hits[0].generation)

    def write(stop):
        application, number = backend.application(), ROWS
        while not stop.wait(0.01):
            number += 1
            application.run("INSERT INTO notes VALUES (?, ?)", number, f"added {number}")
            application.run("UPDATE notes SET body = body WHERE id = ?", number % ROWS + 1)

    with beside(search), working(service), beside(write):
        [first] = [one.generation for one in tracked.generations() if one.generation.kind == "vector"]
        [second] = tracked.swap()
        until(lambda: states(tracked) == ["retired", "active"])
        until(lambda: seen and seen[-1] == second.id)
        tracked.drop(first.id)
        begun = len(seen)
        until(lambda: len(seen) > begun + 20)
        tracked.search("the body of note 7")
    assert [first.id, second.id] == sorted(set(seen))
    assert seen == sorted(seen)
    service.work(until="current")
    proven(backend, notes, tracked, second, "oracle-b")


def test_live_writes_are_indexed_by_both_and_rollback_is_at_once(backend, notes, opened, old, new):
    service = opened(new, old)
    tracked = opened(old).attach("notes", text="body")
    service.work(until="current")
    tracked = service.source("notes")
    [vector] = tracked.swap(manual=True)
    notes.run("UPDATE notes SET body = 'written during the swap' WHERE id = 1")
    service.work(until="current")
    assert ["active", "building"] == states(tracked)
    for found in (tracked.search("written during the swap", mode="vector", generation=one) for one in (2, vector.id)):
        assert (1, pytest.approx(1.0, abs=2e-3)) == (found.hits[0].key, found.hits[0].score)
    assert "active" == tracked.activate().generation.state
    notes.run("UPDATE notes SET body = 'written after the swap' WHERE id = 1")
    service.work(until="current")
    calls = old.texts.total()
    done = tracked.rollback()
    back = done.generation
    assert (2, "active", 1, 0) == (back.id, back.state, done.missing, done.failed)
    found = tracked.search("written during the swap", mode="vector")
    assert (1, True) == (found.hits[0].key, found.hits[0].stale)
    assert ["vector: generation 2 is catching up; rows it has not reached are missing or old"] == list(found.degraded)
    service.work(until="current")
    assert calls + 1 == old.texts.total(), "the journal says which row is to be done"
    assert () == tracked.search("written after the swap", mode="vector").degraded
    proven(backend, notes, tracked, back, "oracle-a")


def test_swapping_to_what_there_is_changes_nothing(notes, opened, old, new):
    service = opened(old)
    tracked = service.attach("notes", text="body")
    assert tracked.swap() == (), "it is not active, but it is what search reads"


def test_swapping_to_a_retired_model_pays_for_what_has_changed_only(notes, opened, old, new):
    service = opened(old, new)
    tracked = service.attach("notes", text="body")
    service.work(until="current")
    opened(new, old).source("notes").swap()
    service.work(until="current")
    notes.run("UPDATE notes SET body = 'edited' WHERE id = 9")
    service.work(until="current")
    calls = old.texts.total()
    [again] = tracked.swap()
    assert 2 == again.id
    service.work(until="current")
    assert calls + 1 == old.texts.total()
    assert ["active", "retired"] == states(tracked)


def test_the_newest_swap_counts(notes, opened, old, new):
    """What an earlier one began would else be activated after it; it is kept, and can be taken up again."""
    third = OracleEmbedder("oracle-c")
    opened(old).attach("notes", text="body")
    service = opened(third, new, old)
    service.work(until="current")
    [first] = opened(new).source("notes").swap()
    tracked = service.source("notes")
    assert 1 == len(tracked.swap())
    assert ["active", "retired", "building"] == states(tracked)
    service.work(until="current")
    assert ["retired", "retired", "active"] == states(tracked)
    [again] = opened(new).source("notes").swap()
    assert first.id == again.id
    assert () == opened(third).source("notes").swap(), "that is the active one"


def test_other_chunks_and_another_language_are_swaps_too(notes, opened, old):
    service = opened(old)
    tracked = service.attach("notes", text="body")
    service.work(until="current")
    made = tracked.swap(chunk=200, language="german")
    assert ["lexical", "vector"] == [one.kind for one in made]
    service.work(until="current")
    assert ["retired", "active"] == states(tracked) == states(tracked, "lexical")
    assert () == tracked.swap()
    assert tracked.search("body of note 3").degraded == ()


def test_attaching_at_the_start_of_a_program_goes_on_with_what_was_swapped_to(notes, opened, old, new):
    """What it does not say is as it is; what it says is held against it, and points to swap."""
    opened(old).attach("notes", text="body")
    service = opened(new, old)
    service.work(until="current")
    tracked = service.source("notes")
    tracked.swap(chunk=200)
    service.work(until="current")
    service.attach("notes", text="body")
    service.attach("notes", text="body", chunk=200)
    with pytest.raises(SourceConflictError, match="model swap notes"):
        service.attach("notes", text="body", chunk=300)
    with pytest.raises(SourceConflictError, match="model swap notes"):
        service.attach("notes", text="body", language="german")


def test_activating_what_is_not_whole_says_what_would_be_missing(notes, opened, old, new):
    opened(old).attach("notes", text="body")
    service = opened(new, old)
    opened(old).work(until="current")
    tracked = service.source("notes")
    with pytest.raises(InvalidRequestError, match="being built: none"):
        tracked.activate()
    [vector] = tracked.swap(manual=True)
    with pytest.raises(GenerationIncompleteError) as raised:
        tracked.activate()
    assert (ROWS, 0) == (raised.value.missing, raised.value.failed)
    assert f"{ROWS} rows are not indexed yet" in str(raised.value)
    forced = tracked.activate(vector.id, force=True)
    assert ("active", ROWS, 0, ()) == (forced.generation.state, forced.missing, forced.failed, forced.precedes)
    found = tracked.search("the body of note 7")
    assert ["vector: generation 3 is catching up; rows it has not reached are missing or old"] == list(found.degraded)
    service.work(until="current")
    assert () == tracked.search("the body of note 7").degraded


def test_a_hit_is_stale_by_what_it_was_found_by(notes, opened, old, new):
    """The index of meaning lacks the row, and the words that found it are as they are."""
    opened(old).attach("notes", text="body")
    opened(old).work(until="current")
    tracked = opened(new, old).source("notes")
    tracked.swap(manual=True)
    tracked.activate(force=True)
    found = tracked.search("the body of note 7")
    assert {(True, False, False)} == {(hit.lexical is not None, hit.vector is not None, hit.stale) for hit in found}
    notes.run("UPDATE notes SET body = 'something else' WHERE id = 7")
    assert [7] == [hit.key for hit in tracked.search("the body of note 7", limit=20) if hit.stale]


def test_an_object_of_another_version_is_told_apart_from_none(notes, opened, old):
    opened(old).attach("notes", text="body")
    opened(old).work(until="current")
    other = OracleEmbedder("oracle-a", dimension=48)
    with pytest.raises(EmbedderConfigurationError, match=r"passed to seamark.open has dimension 48, not 32"):
        opened(other).source("notes").search("note", mode="vector")
    with pytest.raises(EmbedderConfigurationError, match=r"oracle-a@1 \(32 dimensions\) is an object of your program"):
        opened(OracleEmbedder("oracle-c")).source("notes").search("note", mode="vector")


def test_a_table_that_cannot_be_read_any_more_is_told(notes, opened, old):
    """In the words of status, and with what mends it; another table is searched."""
    service = opened(old)
    tracked = service.attach("notes", text="body")
    service.work(until="current")
    notes.run("ALTER TABLE notes RENAME COLUMN body TO content")
    for mode in ("hybrid", "lexical", "vector"):
        with pytest.raises(SourceDriftError, match=r"has no column 'body' any more.*seamark verify"):
            tracked.search("note 7", mode=mode)
    notes.run("DROP TABLE notes")
    with pytest.raises(SourceDriftError, match="there is no table 'notes'"):
        tracked.search("note 7")


def test_rows_that_failed_keep_a_swap_from_being_activated_until_it_is_forced(notes, opened, old):
    opened(old).attach("notes", text="body")
    opened(old).work(until="current")
    refusing = OracleEmbedder("oracle-b", refused={"the body of note 5"})
    service = opened(refusing, old)
    tracked = service.source("notes")
    [vector] = tracked.swap()
    service.work(until="current")
    assert ["active", "building"] == states(tracked)
    with pytest.raises(GenerationIncompleteError) as raised:
        tracked.activate()
    assert (0, 1) == (raised.value.missing, raised.value.failed)
    tracked.activate(force=True)
    assert ["retired", "active"] == states(tracked)
    assert vector.id == tracked.coverage().generation


def test_retire_drop_and_rollback_say_when_they_cannot(notes, opened, old, new):
    service = opened(old)
    tracked = service.attach("notes", text="body")
    service.work(until="current")
    with pytest.raises(NoRollbackError):
        tracked.rollback()
    with pytest.raises(UnknownGenerationError, match="it has 1, 2"):
        tracked.drop(77)
    with pytest.raises(UnknownGenerationError):
        tracked.search("note", generation=77)
    for refused in (tracked.retire, tracked.drop):
        with pytest.raises(GenerationInUseError):
            refused(2)
    assert "retired" == tracked.retire(2, force=True).state
    assert ["vector: there is no vector index"] == list(tracked.search("note").degraded)
    assert "active" == tracked.rollback().generation.state


def test_a_retired_index_with_rows_missing_is_activated_by_force_only(notes, opened, old, new):
    """It was active once; what has been written since is missing in it, and nobody is at it."""
    opened(old).attach("notes", text="body")
    service = opened(new, old)
    service.work(until="current")
    tracked = service.source("notes")
    tracked.swap()
    service.work(until="current")
    assert tracked.activate(2).missing == 0, "nothing is missing yet"
    tracked.activate(3)
    notes.run("UPDATE notes SET body = 'edited' WHERE id < 20")
    service.work(until="current")
    with pytest.raises(GenerationIncompleteError, match=r"19 rows are not indexed yet.*retired"):
        tracked.activate(2)
    assert ["retired", "active"] == states(tracked)
    assert 19 == tracked.activate(2, force=True).missing
    service.work(until="current")
    assert 0 == tracked.activate(2).missing


def test_rollback_goes_to_what_was_searched_before(notes, opened, old, new):
    """In the order in which they were searched, whatever the order in which they were made."""
    third = OracleEmbedder("oracle-c")
    opened(old).attach("notes", text="body")
    service = opened(new, old, third)
    service.work(until="current")
    tracked = service.source("notes")
    tracked.swap()
    service.work(until="current")
    tracked.activate(2)
    assert 3 == tracked.rollback().generation.id
    with pytest.raises(NoRollbackError):
        tracked.rollback()
    tracked.activate(2)
    opened(third).source("notes").swap()
    service.work(until="current")
    assert ["retired", "retired", "active"] == states(tracked)
    assert [2, 3] == [tracked.rollback().generation.id for _ in range(2)]
    tracked.activate(4)
    assert 3 == tracked.rollback().generation.id, "it was searched before 4, the last time"


def test_rollback_is_at_once_also_to_one_that_never_was_whole(notes, opened, old, new):
    opened(old).attach("notes", text="body")
    opened(old).work(until="current")
    service = opened(new, old)
    tracked = service.source("notes")
    tracked.swap(manual=True)
    tracked.activate(force=True)
    tracked.activate(2)
    assert ROWS == tracked.rollback().missing
    assert ["retired", "active"] == states(tracked)


def test_what_somebody_activates_is_not_replaced_by_an_earlier_swap(notes, opened, old, new):
    """The newest word counts."""
    third = OracleEmbedder("oracle-c")
    opened(old).attach("notes", text="body")
    opened(old).work(until="current")
    service = opened(third, new, old)
    tracked = service.source("notes")
    [chosen] = opened(new).source("notes").swap(manual=True)
    [earlier] = tracked.swap()
    done = tracked.activate(chosen.id, force=True)
    assert (earlier.id,) == done.precedes
    service.work(until="current")
    assert ["retired", "active", "building"] == states(tracked)
    assert () == tracked.activate(chosen.id).precedes
    assert [earlier.id] == [one.id for one in tracked.swap()], "another swap to it is a newer word"
    service.work(until="current")
    assert ["retired", "retired", "active"] == states(tracked)


def test_a_model_that_is_gone_can_be_swapped_away_from(notes, opened, old, new):
    """Its worker is not here; the swap is filled and activated all the same."""
    opened(old).attach("notes", text="body")
    opened(old).work(until="current")
    notes.run("INSERT INTO notes VALUES (1000, 'a late one')")
    service = opened(new)
    tracked = service.source("notes")
    tracked.swap()
    service.work(until="current")
    assert ["retired", "active"] == states(tracked)
    assert 1000 == tracked.search("a late one", mode="vector").hits[0].key


def test_retired_generations_are_dropped_when_their_time_has_come(backend, notes, old, new, monkeypatch):
    with seamark.open(backend.url, embedder=[old, new]) as service:
        tracked = service.attach("notes", text="body")
        service.work(until="current")
    monkeypatch.setenv("SEAMARK_RETENTION_DAYS", "30")
    with seamark.open(backend.url, embedder=[new, old]) as service:
        service.source("notes").swap()
        service.work(until="current")
        assert () == service.generations_expire()
    monkeypatch.setenv("SEAMARK_RETENTION_DAYS", "0")
    with seamark.open(backend.url, embedder=[new, old]) as service:
        assert (2,) == service.generations_expire()
        tracked = service.source("notes")
        assert ["active"] == states(tracked)
        assert 7 == tracked.search("the body of note 7", mode="vector").hits[0].key


def test_the_listing_has_all_generations_and_what_they_take(notes, opened, old, new):
    service = opened(old, new)
    tracked = service.attach("notes", text="body")
    service.work(until="current")
    opened(new).source("notes").swap()
    service.work(until="current")
    notes.run("INSERT INTO notes VALUES (1000, 'a late one')")
    listed = tracked.generations()
    assert ["active", "retired", "active"] == [one.generation.state for one in listed]
    assert [ROWS, ROWS, ROWS] == [one.coverage.embedded for one in listed]
    assert [1, 1, 1] == [one.coverage.missing for one in listed]
    assert all(one.bytes > ROWS * 16 for one in listed)
    assert all(0 <= one.age_seconds < 600 for one in listed)
