"""Columns read all at once."""

import numpy as np
import pytest

from seamark.store.columns import digests_cut, rows_fitting, texts_cut

TEXTS = ("", "plain", None, "é", "naïve café", None, "日本語", "🌊 sea", "end")


def joined(texts, codec):
    encoded = [None if text is None else text.encode(codec) for text in texts]
    lengths = np.array([-1 if one is None else len(one) for one in encoded], np.int64)
    return b"".join(one or b"" for one in encoded), lengths


@pytest.mark.parametrize("codec", ["utf-8", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:3], (None, None), ("",), TEXTS[::-1]])
def test_texts_are_those_that_were_joined(texts, codec):
    assert list(texts_cut(*joined(texts, codec), codec)) == list(texts)


@pytest.mark.parametrize("codec", ["utf-8", "utf-16-le"])
def test_a_nul_is_a_replacement_character(codec):
    assert list(texts_cut(*joined(("a", "b\0c", None, "ü"), codec), codec)) == ["a", "b\ufffdc", None, "ü"]


def test_bytes_that_are_no_text_harm_no_neighbour():
    encoded = ["ü".encode(), b"\xff\xfe", b"", b"\xc3", b"\xa9", "日".encode()]
    lengths = np.array([len(one) for one in encoded], np.int64)
    assert list(texts_cut(b"".join(encoded), lengths, "utf-8")) == [
        "ü",
        "\ufffd\ufffd",
        "",
        "\ufffd",
        "\ufffd",
        "日",
    ]


def test_a_character_is_not_made_of_two_texts():
    lengths = np.array([2, 1, 1], np.int64)
    assert list(texts_cut(b"a\xc3\xa9b", lengths, "utf-8")) == ["a\ufffd", "\ufffd", "b"]


@pytest.mark.parametrize(
    ("sizes", "budget", "rows"),
    [([], 10, 1), ([5], 10, 1), ([50], 10, 1), ([50, 1], 10, 1), ([5, 5, 5], 10, 3), ([5, 6, 5], 10, 2), ([0, 0, 0], 0, 3)],
)
def test_rows_fit_until_their_text_passes_the_budget(sizes, budget, rows):
    assert rows_fitting(sizes, budget) == rows


def test_digests_are_rows():
    assert digests_cut(bytes(range(32)), 2)[1].tobytes() == bytes(range(16, 32))
