"""Nothing but finite unit vectors, as many as were asked for and of the registered dimension, is ever stored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from seamark.embed.validation import embedder_errors, encodable_texts, stored_vectors, unit_vectors
from seamark.errors import (
    BudgetSpentError,
    EmbedderConfigurationError,
    EmbedderTransientError,
    EmbedderUnavailableError,
    StoreUnavailableError,
)
from seamark.model import ModelIdentity

MODEL = ModelIdentity(name="m", version="1", dimension=4)


def test_vectors_are_stored_as_float16_of_length_one():
    stored = stored_vectors([[3, 0, 4, 0], [0, -2, 0, 0]], 2, MODEL)
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, [[0.6, 0, 0.8, 0], [0, -1, 0, 0]], atol=1e-3)


@pytest.mark.parametrize("size", [1e-300, 1e-45, 1e-30, 1.0, 1e30, 1e300])
def test_very_small_and_very_large_vectors_keep_their_direction(size):
    stored = stored_vectors(np.array([[1.0, -1.0, 1.0, 1.0]]) * size, 1, MODEL)
    np.testing.assert_array_equal(stored, [[0.5, -0.5, 0.5, 0.5]])


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_whatever_is_finite_and_not_zero_becomes_a_unit_vector(vectors):
    vectors[:, 0] = np.where(vectors.any(axis=1), vectors[:, 0], 1)
    lengths = np.linalg.norm(stored_vectors(vectors, 3, MODEL).astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=2e-3)


def test_no_vectors_are_stored_for_no_texts():
    assert stored_vectors(np.empty((0, 4), np.float32), 0, MODEL).shape == (0, 4)


@pytest.mark.parametrize(
    ("vectors", "numbers"),
    [
        ([[1, 0, 0, 0]], "1 vectors for 2 texts"),
        ([[1, 0, 0, 0]] * 3, "3 vectors for 2 texts"),
        ([[1, 0, 0, 0], [0, float("nan"), float("inf"), 1]], "2 of 4 numbers of vector 1"),
        ([[1, 0, 0, 0], [0, 0, 0, 0]], "zero vector.*vector 1"),
        ([[1, 0, 0, 0], [1, 0, 0, None]], "else than numbers"),
        ([[1, 0, 0, 0], ["1", "0", "0", "0"]], "else than numbers"),
        ([[True, False, False, False]] * 2, "else than numbers"),
        ([[1, 0, 0, 0], [1, 0, 0]], "differing lengths"),
        ([1, 0], r"shape \(2,\)"),
        ([[], []], r"shape \(2, 0\)"),
    ],
)
def test_what_is_wrong_with_vectors_is_said_in_numbers(vectors, numbers):
    with pytest.raises(EmbedderTransientError, match=numbers):
        stored_vectors(vectors, 2, MODEL)


def test_another_dimension_is_a_matter_of_configuration():
    with pytest.raises(EmbedderConfigurationError, match=r"3 dimensions.*registered with 4"):
        stored_vectors([[1, 0, 0]], 1, MODEL)


def test_the_vectors_given_are_left_as_they_are():
    given_vectors = np.full((1, 4), 2.0)
    unit_vectors(given_vectors)
    np.testing.assert_array_equal(given_vectors, np.full((1, 4), 2.0))


def test_lone_surrogates_become_replacement_characters_one_for_one():
    assert encodable_texts(["plain", "é\ud800\udfff!"]) == ["plain", "é\ufffd\ufffd!"]


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), BudgetSpentError(2, 1), EmbedderUnavailableError("out")])
def test_what_is_said_already_is_said_as_it_is(error):
    """What the database or the budget has to say within a call is no fault of the embedder's."""
    with pytest.raises(type(error)) as raised, embedder_errors("m"):
        raise error
    assert raised.value is error
    with pytest.raises(EmbedderTransientError, match="embedder 'm' raised KeyError"), embedder_errors("m"):
        raise KeyError("other people's code")
