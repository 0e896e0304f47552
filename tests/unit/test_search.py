"""Search over both databases: what is found, in which order, with what said of it, whatever the filter leaves."""

from __future__ import annotations

import re
import zlib
from contextlib import ExitStack

import numpy as np
import pytest

import seamark
from seamark.core import legs
from seamark.core.analysis import Analyzer
from seamark.core.search import LIMIT_MAX, Request, generation_read, search
from seamark.errors import EmbedderUnavailableError, InvalidRequestError, SourceConflictError, UnknownColumnError
from seamark.model import Generation, ModelIdentity

BACKENDS = ("sqlite", "postgres")
ROWS = 1200
CONCEPTS = {"car": 0, "automobile": 0, "ship": 1, "vessel": 1, "bread": 2, "loaf": 2}


class ConceptEmbedder:
    """Words of one meaning point in one direction; other words hardly matter."""

    identity = ModelIdentity("concepts", "1", 8)
    fusion_weight = 0.5
    concurrency = 1
    batch_items = 256
    fails = False

    def token_excess(self, texts):
        return [False] * len(texts)

    def embed_documents(self, texts):
        vectors = np.full((len(texts), 8), 0.01, np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                place = CONCEPTS.get(word)
                vectors[row, 3 + zlib.crc32(word.encode()) % 5 if place is None else place] += 0.05 if place is None else 1.0
        return vectors

    def embed_queries(self, texts):
        if self.fails:
            raise EmbedderUnavailableError("nobody answers")
        return self.embed_documents(texts)


def _text(number):
    """Every row has `note`; of 60 rows one has the row's `topic`; one in three is about cars without the word."""
    thing = ("automobile", "vessel", "loaf")[number % 3]
    return f"note {number} on topic{number % 60} and a {thing}" + " filler" * (number % 5)


class World:
    def __init__(self, backend) -> None:
        self.application = backend.application()
        integer, text = backend.type("integer"), backend.type("text")
        self.application.run(f"CREATE TABLE notes (id {integer} PRIMARY KEY, body {text}, org {integer}, lang {text})")
        self.embedder = ConceptEmbedder()
        self.seamark = seamark.open(backend.url, embedder=self.embedder)

    def fill(self, rows):
        self.application.many("INSERT INTO notes (id, body, org, lang) VALUES (?, ?, ?, ?)", rows)

    def attach(self):
        self.notes = self.seamark.attach("notes", text="body", chunk=100)

    def index(self):
        self.seamark.work(until="current", threads=2)

    def search(self, query, **words):
        return self.notes.search(query, **words)


def _world(backend, teardown, rows):
    world = World(backend)
    teardown.callback(world.seamark.close)
    world.fill(rows)
    world.attach()
    world.index()
    return world


@pytest.fixture(scope="module", params=BACKENDS)
def library(request, backend_open, tmp_path_factory):
    """A table of many rows that no test changes."""
    with ExitStack() as teardown:
        backend = backend_open(request.param, tmp_path_factory.mktemp("library"), teardown)
        rows = [(number, _text(number), number % 100, "en" if number % 2 else None) for number in range(1, ROWS + 1)]
        yield _world(backend, teardown, rows)


@pytest.fixture
def shelf(backend):
    """A table of few rows, to be changed."""
    long = "\n\n".join(
        [*(f"Paragraph {number} tells of nothing much at all." for number in range(8)), "A ship sails to Genoa."]
    )
    rows = [
        (1, "the red car", 1, "en"),
        (2, "an automobile in blue", 1, None),
        (3, "fresh loaf", 2, "en"),
        (4, long, 2, "en"),
        (5, "", 1, "en"),
        (6, None, 1, "en"),
    ]
    with ExitStack() as teardown:
        yield _world(backend, teardown, rows)


def _keys(result):
    return [hit.key for hit in result]


def _having(query, where=None):
    terms = set(Analyzer().query_terms(query))
    return {n for n in range(1, ROWS + 1) if (where is None or where(n)) and terms & set(Analyzer().terms(_text(n)))}


# --- what is found ------------------------------------------------------------------------------------------------


def test_words_are_joined_by_or_and_the_better_match_comes_first(shelf):
    result = shelf.search("red automobile, steel", mode="lexical")
    assert set(_keys(result)[:2]) == {1, 2}
    assert [hit.lexical.rank for hit in result] == list(range(1, len(result) + 1))
    assert all(hit.score == hit.lexical.score > 0 and hit.vector is None for hit in result)


def test_words_are_cut_as_the_language_of_the_index_cuts_them(backend, teardown):
    """The query's too: `Häusern` and `Haus` are one word in German, and not in English."""
    world = World(backend)
    teardown.callback(world.seamark.close)
    world.fill([(1, "Das alte Haus am Hafen", 1, "de"), (2, "Ein Boot im Hafen", 1, "de")])
    notes = world.seamark.attach("notes", text="body", language="german")
    world.index()
    found = notes.search("in Häusern", mode="lexical")
    assert _keys(found) == [1]
    assert found.hits[0].passage == "Das alte Haus am Hafen"
    with pytest.raises(SourceConflictError, match="snowball-german"):
        world.seamark.attach("notes", text="body", language="english")


def test_meaning_is_found_without_the_word(shelf):
    result = shelf.search("vessel", mode="vector", limit=1)
    assert _keys(result) == [4]
    assert result.hits[0].vector.rank == 1
    assert result.hits[0].score == result.hits[0].vector.score == pytest.approx(1.0, abs=0.1)
    assert result.hits[0].lexical is None


@pytest.mark.parametrize("fusion", ["convex", "rrf"])
def test_hybrid_finds_by_either_and_shows_both_legs(shelf, fusion):
    result = shelf.search("red automobile", fusion=fusion, limit=4)
    assert set(_keys(result)[:2]) == {1, 2}
    first = result.hits[0]
    assert first.lexical.rank in (1, 2)
    assert first.vector.rank in (1, 2)
    assert result.degraded == ()
    assert len(result.generations) == 2
    assert first.generation in result.generations


def test_the_modes_find_the_same_rows_whatever_the_words_punctuation(shelf):
    expected = _keys(shelf.search("red car", mode="lexical"))
    for query in ('"red" car', "red-car", "red: car*", "RED AND car NOT", "red' OR car --", "(red car", "réd cár"):
        assert _keys(shelf.search(query, mode="lexical"))[:1] == expected[:1]


def test_a_deleted_row_is_not_found_though_no_worker_has_seen_the_delete(shelf):
    assert 1 in _keys(shelf.search("red car"))
    shelf.application.run("DELETE FROM notes WHERE id = 1")
    for mode in ("hybrid", "lexical", "vector"):
        assert 1 not in _keys(shelf.search("red car", mode=mode))


@pytest.mark.parametrize("mode", ["hybrid", "lexical", "vector"])
def test_rows_long_gone_leave_no_gap_though_they_fill_the_index(shelf, mode):
    """Deletes that no worker has seen: the next rows move up, with the ranks and scores they have once it has."""
    shelf.fill([(number, "a red car " * (2 if number < 900 else 1), 1, "en") for number in range(100, 1000)])
    shelf.index()
    shelf.application.run("DELETE FROM notes WHERE id BETWEEN 100 AND 899")
    before = shelf.search("red car", mode=mode, limit=20)
    shelf.index()
    after = shelf.search("red car", mode=mode, limit=20)
    assert len(before) == 20
    assert [(hit.key, hit.stale) for hit in before] == [(hit.key, hit.stale) for hit in after]
    ranks = [hit.vector.rank if mode == "vector" else hit.lexical.rank for hit in before]
    assert sorted(ranks) == list(range(1, 21)), "what is gone has no rank"


def test_the_limit_is_kept_and_blank_rows_are_not_found(shelf):
    assert len(shelf.search("car", limit=2)) == 2
    assert set(_keys(shelf.search("car", limit=100))) == {1, 2, 3, 4}


def test_composite_keys_are_tuples(backend):
    application = backend.application()
    integer, text = backend.type("integer"), backend.type("text")
    application.run(f"CREATE TABLE parts (a {integer}, b {text}, body {text}, PRIMARY KEY (a, b))")
    application.run("INSERT INTO parts (a, b, body) VALUES (1, 'x', 'a red car')")
    with seamark.open(backend.url, embedder=ConceptEmbedder()) as opened:
        parts = opened.attach("parts", text="body")
        opened.work(until="current")
        assert [hit.key for hit in parts.search("car")] == [(1, "x")]


# --- passages and staleness ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hybrid", "lexical", "vector"])
def test_the_passage_is_the_part_of_a_long_row_that_matches(shelf, mode):
    hit = shelf.search("ship to Genoa", mode=mode).hits[0]
    assert hit.key == 4
    assert "A ship sails to Genoa." in hit.passage
    assert len(hit.passage) <= 100
    assert hit.stop - hit.start == len(hit.passage)
    assert hit.start > 0
    assert not hit.stale


@pytest.mark.parametrize("mode", ["hybrid", "lexical", "vector"])
def test_an_edited_row_is_stale_until_it_is_indexed_and_shows_its_present_text(shelf, mode):
    shelf.application.run("UPDATE notes SET body = 'now: a green car' WHERE id = 1")
    hit = next(hit for hit in shelf.search("car", mode=mode) if hit.key == 1)
    assert hit.stale
    assert hit.passage == "now: a green car"
    shelf.index()
    hit = next(hit for hit in shelf.search("car", mode=mode) if hit.key == 1)
    assert not hit.stale
    assert hit.passage == "now: a green car"


def test_a_row_whose_text_is_gone_shows_an_empty_passage_while_it_is_stale(shelf):
    shelf.application.run("UPDATE notes SET body = NULL WHERE id = 1")
    hit = shelf.search("red", mode="lexical").hits[0]
    assert (hit.key, hit.passage, hit.stale) == (1, "", True)


# --- filters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hybrid", "lexical", "vector"])
@pytest.mark.parametrize(
    ("where", "passes"),
    [
        ({"org": 7}, lambda number: number % 100 == 7),
        ({"id": {"$lte": 5}}, lambda number: number <= 5),
        ({"id": {"$gt": 3, "$lt": 1100}, "lang": None}, lambda number: 3 < number < 1100 and number % 2 == 0),
        ({"$or": [{"org": 1}, {"id": {"$in": [2, 3]}}]}, lambda number: number % 100 == 1 or number in (2, 3)),
        ({"lang": {"$ne": "en"}}, lambda number: number % 2 == 0),
        ({"id": -1}, lambda number: number < 0),
    ],
)
@pytest.mark.parametrize("limit", [3, 40])
def test_a_filtered_search_returns_all_it_may(library, mode, where, passes, limit):
    """Also where the best rows of all are not among those that pass, and where only the commonest word is in them."""
    result = library.search("note car topic3", mode=mode, filter=where, limit=limit)
    passing = _having("note", passes)
    assert set(_keys(result)) <= passing
    assert len(result) == min(limit, len(passing))


@pytest.mark.parametrize("where", [{"org": {"$gte": 50}}, {"id": {"$lt": 30}}])
@pytest.mark.parametrize("mode", ["hybrid", "lexical", "vector"])
def test_the_ways_to_apply_a_filter_give_one_order(library, mode, where, monkeypatch):
    """All that match are ranked, or the best of all are filtered, deeper and deeper: the hits are the same."""
    words = {"mode": mode, "filter": where, "limit": 10}
    ranked = _keys(library.search("topic3 topic9 vessel", **words))
    monkeypatch.setattr(legs, "MATCHING_ROWS", 1)
    assert _keys(library.search("topic3 topic9 vessel", **words)) == ranked
    assert len(ranked) == 10 or mode == "lexical"


def test_a_filter_is_the_same_as_taking_the_rows_out_of_the_whole_ranking(library):
    everything = library.search("topic3 loaf", mode="lexical", limit=LIMIT_MAX)
    expected = [hit.key for hit in everything if hit.key % 100 == 3][:5]
    assert _keys(library.search("topic3 loaf", mode="lexical", filter={"org": 3}, limit=5)) == expected


def test_an_unknown_column_is_an_error(library):
    with pytest.raises(UnknownColumnError):
        library.search("note", filter={"nope": 1})


# --- common words -------------------------------------------------------------------------------------------------


def test_common_words_are_left_out_where_rarer_ones_fill_the_list(library, monkeypatch):
    monkeypatch.setattr(legs, "POSTINGS_READ", 100)
    result = library.search("note topic3", mode="lexical", limit=10)
    assert set(_keys(result)) <= _having("topic3")
    assert len(result) == 10


def test_common_words_are_taken_up_where_the_list_would_be_short(library, monkeypatch):
    monkeypatch.setattr(legs, "POSTINGS_READ", 300)
    result = library.search("note topic3", mode="lexical", limit=200)
    assert len(result) == 200
    assert _having("topic3") <= set(_keys(result))


def test_of_nothing_but_common_words_the_rarest_still_finds(library, monkeypatch):
    monkeypatch.setattr(legs, "POSTINGS_READ", 100)
    assert len(library.search("note", mode="lexical", limit=10)) == 10


@pytest.mark.parametrize("budget", [1, 100, 1000])
def test_a_filter_finds_rows_that_have_only_words_left_out(library, monkeypatch, budget):
    monkeypatch.setattr(legs, "POSTINGS_READ", budget)
    result = library.search("note topic3", mode="lexical", filter={"id": {"$in": [4, 5, 63]}}, limit=10)
    assert set(_keys(result)) == {4, 5, 63}
    assert _keys(result)[0] == 63


# --- what does not work, said -------------------------------------------------------------------------------------


def test_a_failing_embedder_is_named_and_words_answer_alone(shelf):
    shelf.embedder.fails = True
    result = shelf.search("red car")
    assert _keys(result)[0] == 1
    assert result.degraded == ("vector: nobody answers",)
    with pytest.raises(EmbedderUnavailableError):
        shelf.search("red car", mode="vector")


def test_a_query_without_words_is_answered_by_meaning(shelf):
    result = shelf.search("?!")
    assert set(_keys(result)) == {1, 2, 3, 4}
    assert result.degraded == ("lexical: the query has no word in it",)
    with pytest.raises(InvalidRequestError, match="no word"):
        shelf.search("?!", mode="lexical")


def test_when_no_leg_can_run_the_embedders_error_is_raised(shelf):
    shelf.embedder.fails = True
    with pytest.raises(EmbedderUnavailableError):
        shelf.search("?!")


def test_an_index_being_built_is_searched_and_named(backend):
    with ExitStack() as teardown:
        world = World(backend)
        teardown.callback(world.seamark.close)
        world.fill([(1, "a red car", 1, None)])
        world.attach()
        result = world.search("red car")
        assert len(result) == 0
        assert [note.split(":")[0] for note in result.degraded] == ["lexical", "vector"]
        world.index()
        assert world.search("red car").degraded == ()


def test_a_source_without_an_index_cannot_be_searched(shelf):
    class Empty:
        def generations(self, source_id):
            return ()

    with pytest.raises(InvalidRequestError, match=r"no lexical index.*no vector index"):
        search(Empty(), shelf.notes.source, Request("car"), None)


@pytest.mark.parametrize(
    "words",
    [
        {"query": ""},
        {"query": " \n"},
        {"limit": 0},
        {"limit": -3},
        {"limit": LIMIT_MAX + 1},
        {"mode": "fuzzy"},
        {"fusion": "sum"},
    ],
)
def test_a_request_that_cannot_be_meant_is_an_error(words):
    with pytest.raises(InvalidRequestError):
        Request(**{"query": "car", **words})


@pytest.mark.parametrize(
    ("states", "read"),
    [
        ([], None),
        (["retired"], None),
        (["building"], 1),
        (["building", "building"], 1),
        (["retired", "active", "building"], 2),
        (["building", "active"], 2),
    ],
)
def test_the_active_generation_is_read_or_else_the_oldest_being_built(states, read):
    generations = [
        Generation(number, 1, "vector", "f", {}, state, None, None, 0, 0, 0, 0, 0, 0, None, 0, None)
        for number, state in enumerate(states, start=1)
    ]
    found = generation_read(generations, "vector")
    assert (found.id if found else None) == read
    assert generation_read(generations, "lexical") is None
