"""Two ranked lists become one."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamark.core.fusion import convex, ordered, rrf

LEXICAL = [((1,), 8.0), ((2,), 4.0), ((3,), 2.0)]
VECTOR = [((3,), 0.9), ((2,), 0.6), ((4,), 0.5)]


def test_convex_adds_scaled_scores_by_weight():
    assert convex(LEXICAL, VECTOR, 0.2) == [
        ((1,), pytest.approx(0.8)),
        ((2,), pytest.approx(0.8 * 0.5 + 0.2 * 0.25)),
        ((3,), pytest.approx(0.8 * 0.25 + 0.2)),
        ((4,), pytest.approx(0.0)),
    ]


def test_convex_at_either_end_keeps_the_order_of_one_leg():
    assert [key for key, _ in convex(LEXICAL, VECTOR, 0.0)][:3] == [(1,), (2,), (3,)]
    assert [key for key, _ in convex(LEXICAL, VECTOR, 1.0)][:2] == [(3,), (2,)]


def test_rrf_adds_reciprocal_ranks_from_one():
    assert rrf(LEXICAL, VECTOR) == [
        ((3,), pytest.approx(1 / 63 + 1 / 61)),
        ((2,), pytest.approx(1 / 62 + 1 / 62)),
        ((1,), pytest.approx(1 / 61)),
        ((4,), pytest.approx(1 / 63)),
    ]


@pytest.mark.parametrize("fused", [convex([((2,), 1.0), ((1,), 1.0)], [], 0.5), rrf([((2,), 1.0)], [((1,), 1.0)])])
def test_ties_go_by_key(fused):
    assert [key for key, _ in fused] == [(1,), (2,)]


def test_keys_of_different_types_have_an_order():
    keys = [(2,), ("b",), (b"x",), (1,), (UUID(int=1),), ("a",)]
    assert [key for key, _ in ordered(dict.fromkeys(keys, 1.0))] == [(UUID(int=1),), (b"x",), (1,), (2,), ("a",), ("b",)]


@given(
    st.lists(st.tuples(st.tuples(st.integers(0, 30)), st.floats(0.01, 50)), unique_by=lambda pair: pair[0]),
    st.lists(st.tuples(st.tuples(st.integers(0, 30)), st.floats(-1, 1)), unique_by=lambda pair: pair[0]),
    st.floats(0, 1),
)
def test_each_row_is_in_the_fused_list_once_with_a_score_from_0_to_1(lexical, vector, weight):
    lexical.sort(key=lambda pair: -pair[1])
    vector.sort(key=lambda pair: -pair[1])
    for fused in (convex(lexical, vector, weight), rrf(lexical, vector)):
        assert sorted(key for key, _ in fused) == sorted({key for key, _ in (*lexical, *vector)})
        assert all(0 <= score <= 1 + 1e-9 for _, score in fused)
        assert [score for _, score in fused] == sorted((score for _, score in fused), reverse=True)


def test_nothing_fused_with_nothing_is_nothing():
    assert convex([], [], 0.5) == rrf([], []) == []
