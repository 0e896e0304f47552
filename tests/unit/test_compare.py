"""Rankings compared: against published numbers, and against another implementation."""

from __future__ import annotations

import random

import ir_measures
import pytest
from ir_measures import Qrel, ScoredDoc

from seamark.core.compare import comparison, ndcg, overlap, qrels_parse, queries_parse, rbo, recall
from seamark.errors import InvalidRequestError


def test_overlap_counts_what_both_have():
    assert 1.0 == overlap("abc", "cab", 3)
    assert 0.5 == overlap("abcd", "abxy", 4)
    assert 0.5 == overlap("ab", "b", 10), "of as many as the longer one has"
    assert 1.0 == overlap("", "", 10)
    assert 0.0 == overlap("abc", "xyz", 3)


def test_rbo_of_equal_rankings_is_one_and_of_disjoint_ones_none():
    assert 1.0 == pytest.approx(rbo("abcdefghij", "abcdefghij"))
    assert 0.0 == pytest.approx(rbo("abcde", "vwxyz"))
    assert (1.0, 0.0) == (rbo("", ""), rbo("", "a"))


def test_rbo_is_that_of_its_definition():
    """By hand from the sums of the paper: p = 0.9, lists of three that agree on 0, 2 and 2 of their first ranks."""
    p, agreed = 0.9, {1: 0, 2: 2, 3: 2}
    sums = (1 - p) / p * sum(agreed[depth] / depth * p**depth for depth in agreed)
    assert sums + agreed[3] / 3 * p**3 == pytest.approx(rbo("abx", "bay"))


def test_rbo_of_lists_of_unequal_length_is_that_of_a_longer_look_at_one_that_agrees():
    """Extrapolated: a prefix of a ranking is as like it as can be told."""
    assert 1.0 == pytest.approx(rbo("abc", "abcdef"))
    assert rbo("abc", "xbcdef") == rbo("xbcdef", "abc")
    assert rbo("abc", "xbcdef") < 1


def test_rbo_weighs_the_first_ranks_most():
    assert rbo("abcdefghij", "abcdefghxy") > rbo("abcdefghij", "xycdefghij")


def test_ndcg_and_recall_are_those_of_ir_measures():
    rng = random.Random(7)
    for _ in range(200):
        keys = [str(number) for number in range(30)]
        judged = {key: rng.choice([0, 0, 1, 2, 3]) for key in rng.sample(keys, 12)}
        judged[keys[0]] = 1
        ranking = rng.sample(keys, rng.randint(1, 20))
        run = [ScoredDoc("q", key, -float(rank)) for rank, key in enumerate(ranking)]
        qrels = [Qrel("q", key, grade) for key, grade in judged.items()]
        found = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.R @ 10], qrels, run)
        assert found[ir_measures.nDCG @ 10] == pytest.approx(ndcg(ranking, judged))
        assert found[ir_measures.R @ 10] == pytest.approx(recall(ranking, judged, 10))


def test_means_are_over_all_queries_and_measures_over_those_that_are_judged():
    answers = {(1, "x"): list("abc"), (2, "x"): list("abc"), (1, "y"): list("abc"), (2, "y"): list("xyz")}
    found = comparison(
        (1, 2), {"q1": "x", "q2": "y"}, lambda one, query: answers[one, query], {"q2": {"c": 1}, "q1": {"a": 0}}, 3
    )
    assert (0.5, 1, (1.0, 0.0)) == (found.overlap, found.judged, found.recall)
    assert (pytest.approx(0.5), 0.0) == found.ndcg
    assert [None, (pytest.approx(0.5), 0.0)] == [one.ndcg for one in found.queries]
    with pytest.raises(InvalidRequestError):
        comparison((1, 2), {}, lambda *_: [], None, 3)


@pytest.mark.parametrize(
    "text",
    [
        "q1\thow to rotate keys\nq2\tsoup",
        '{"q1": "how to rotate keys", "q2": "soup"}',
        '{"_id": "q1", "text": "how to rotate keys"}\n{"_id": "q2", "text": "soup"}\n',
        '[{"id": "q1", "query": "how to rotate keys"}, {"id": "q2", "text": "soup"}]',
    ],
)
def test_queries_in_their_usual_forms(text):
    assert {"q1": "how to rotate keys", "q2": "soup"} == queries_parse(text)


def test_a_query_a_line_is_named_by_its_line():
    assert {"1": "how to rotate keys", "3": "soup"} == queries_parse("how to rotate keys\n\nsoup\n")
    assert {"1": "soup"} == queries_parse('{"text": "soup"}')
    with pytest.raises(InvalidRequestError, match="query 1"):
        queries_parse('{"id": 7, "text": 8}')


@pytest.mark.parametrize(
    "text",
    [
        "q1 0 7 2\nq1 0 8 0\nq2 0 a 1\n",
        "query-id\tcorpus-id\tscore\nq1\t7\t2\nq1\t8\t0\nq2\ta\t1\n",
        '{"q1": {"7": 2, "8": 0}, "q2": {"a": 1}}',
    ],
)
def test_judgements_in_their_usual_forms(text):
    assert {"q1": {"7": 2, "8": 0}, "q2": {"a": 1}} == qrels_parse(text)


@pytest.mark.parametrize("text", ["q1 0 7 2\nq1 0 8 good", "q1 0 7 2\nq1", '{"q1": [7]}', '{"q1": {"7": null}}'])
def test_what_is_no_judgement_is_said(text):
    with pytest.raises(InvalidRequestError, match="judgements"):
        qrels_parse(text)
