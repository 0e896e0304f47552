"""BM25 is what the formula says, and reads no more than its budget of postings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamark.core import ranking
from seamark.core.ranking import K1, B, Collection, Plan, Scores, plan
from seamark.model import POSTING, TermStatistics


def _postings(*entries):
    return np.array(list(entries), dtype=POSTING)


def _known(**postings):
    return [TermStatistics(term, 1, count, count * 10) for term, count in postings.items()]


def _formula(collection, query, postings):
    """Score by the formula, term by term and document by document."""
    scores = {}
    for term, occurrences in query.items():
        df = len(postings[term])
        weight = math.log(1 + (collection.documents - df + 0.5) / (df + 0.5)) * occurrences
        for doc, frequency, length in postings[term].tolist():
            norm = K1 * (1 - B + B * length / collection.average_length)
            scores[doc] = scores.get(doc, 0.0) + weight * frequency * (K1 + 1) / (frequency + norm)
    return sorted(scores.items(), key=lambda scored: (-scored[1], scored[0]))


def _scores(collection, query, postings):
    scores = Scores(collection)
    for term, occurrences in query.items():
        scores.add(term, occurrences, postings[term])
    return scores


@pytest.fixture(params=["dense", "sparse"])
def accumulation(request, monkeypatch):
    if request.param == "sparse":
        monkeypatch.setattr(ranking, "DENSE_DOCUMENTS", 0)


@pytest.mark.usefixtures("accumulation")
@pytest.mark.parametrize("limit", [1, 7, 100, 1000])
def test_scores_are_those_of_the_formula(limit):
    random = np.random.default_rng(7)
    postings = {}
    for term, count in {"rare": 3, "middling": 90, "common": 700}.items():
        documents = np.sort(random.choice(1000, count, replace=False))
        lengths = documents % 40 + 5
        postings[term] = _postings(*zip(documents, random.integers(1, 6, count), lengths, strict=True))
    collection = Collection(1000, 24.5, {term: len(found) for term, found in postings.items()})
    query = {"rare": 1, "middling": 2, "common": 1}
    scores = _scores(collection, query, postings)
    documents, values = scores.top(limit)
    expected = _formula(collection, query, postings)
    assert values.tolist() == pytest.approx([score for _, score in expected[:limit]], rel=1e-5)
    assert scores.of(documents).tolist() == values.tolist()
    asked = np.arange(0, 2000, 3)
    assert scores.of(asked).tolist() == pytest.approx([dict(expected).get(int(document), 0.0) for document in asked], rel=1e-5)


@pytest.mark.usefixtures("accumulation")
def test_ties_go_by_document_number_and_a_shorter_list_begins_a_longer_one():
    postings = {"word": _postings(*((document, 1, 10) for document in (9, 2, 30, 4, 11, 5)))}
    scores = _scores(Collection(50, 10.0, {"word": 6}), {"word": 1}, postings)
    assert scores.top(6)[0].tolist() == [2, 4, 5, 9, 11, 30]
    assert scores.top(4)[0].tolist() == [2, 4, 5, 9]


@pytest.mark.usefixtures("accumulation")
def test_without_postings_nothing_has_a_score():
    scores = Scores(Collection(0, 0.0, {}))
    assert scores.top(5)[0].tolist() == []
    assert scores.of(np.array([0, 3])).tolist() == [0.0, 0.0]


def test_a_term_added_again_replaces_its_postings():
    collection = Collection(10, 5.0, {"word": 2})
    scores = Scores(collection)
    scores.add("word", 1, _postings((1, 1, 5)))
    before = scores.top(5)[1].tolist()
    scores.add("word", 1, _postings((1, 1, 5), (2, 1, 5)))
    assert scores.top(5)[0].tolist() == [1, 2]
    assert scores.top(1)[1].tolist() == before


def test_a_term_in_every_document_still_counts_in_favour():
    collection = Collection(3, 5.0, {"all": 3, "more": 4})
    assert collection.weight("all") > 0
    assert collection.weight("more") > 0


def test_rare_terms_are_read_first_and_the_commonest_are_left():
    assert plan(_known(the=900, fish=40, red=60), 150) == Plan(("fish", "red"), None, ("the",))
    assert plan(_known(the=900, fish=40, red=60), 1000) == Plan(("fish", "red", "the"), None, ())


def test_of_terms_that_are_all_too_common_the_rarest_is_read_in_part():
    assert plan(_known(the=900, of=800), 150) == Plan((), "of", ("the",))


def test_no_terms_no_plan():
    assert plan([], 100) == Plan((), None, ())


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 500), max_size=12), st.integers(1, 1000))
def test_a_plan_keeps_to_the_budget_and_loses_no_term(postings, budget):
    chosen = plan(_known(**postings), budget)
    assert sum(postings[term] for term in chosen.whole) <= budget
    assert sorted([*chosen.whole, *([chosen.part] if chosen.part else []), *chosen.left]) == sorted(postings)
    assert (chosen.part is not None) == (not chosen.whole and bool(postings))
