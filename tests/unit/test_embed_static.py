"""The static embedder gives model2vec's own vectors, valid ones for any text, from any number of threads."""

import hashlib
import logging
import threading
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model2vec import StaticModel

from seamark.embed import static
from seamark.embed.static import StaticEmbedder
from seamark.embed.validation import stored_vectors

WEIGHTS = files("seamark.embed") / "weights"

TEXTS = [
    "How do I rotate the keys?",
    "Fix `ActiveRecord::Base#save!` (see #1234) -- don't drop UTF-8 e.g. naïve café",
    "TABS\tand\r\nnewlines\n\n\n  and   spaces",
    "control\x01char\x7facters join\x00ed up, and so do zero\u200bwidth ones",
    "[PAD] and [UNK] [unk] [Pad] are special[PAD]ly treated",
    "汉字没有空格 and 日本語 mixed",
    "non\u00a0breaking\u2003spaces — “quotes”… İstanbul ΣΑΣ ﬁ Ǆ",
    "e\u0301 combining \u0301 alone",
    "a" * 101 + " known",
    "deadbeef0123 550e8400-e29b-41d4-a716-446655440000",
    "x",
    "word " * 5000,
]


@pytest.fixture(scope="module")
def embedder():
    return StaticEmbedder()


@pytest.fixture(scope="module")
def reference():
    logging.getLogger("model2vec").setLevel(logging.ERROR)
    return StaticModel.from_pretrained(str(WEIGHTS), max_length=None)


def test_vectors_are_those_of_model2vec(embedder, reference):
    vectors = embedder.embed_documents(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, reference.encode(TEXTS), atol=1e-5)
    np.testing.assert_array_equal(embedder.embed_queries(TEXTS), vectors)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.text("aZ9 .[]PADUNK\x00é\n"), min_size=1, max_size=5))
def test_any_text_gets_the_vector_that_model2vec_gives_it(embedder, reference, texts):
    expected = reference.encode(texts)
    known = expected.any(axis=1)
    np.testing.assert_allclose(embedder.embed_documents(texts)[known], expected[known], atol=1e-5)


def test_a_text_has_the_same_vector_in_any_company(embedder, monkeypatch):
    alone = np.concatenate([embedder.embed_documents([text]) for text in TEXTS])
    monkeypatch.setattr(static, "_SLICE_CHARACTERS", 50)
    monkeypatch.setattr(static, "_SLICE_BLOCKS", 3)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), alone, atol=1e-6)


@pytest.mark.parametrize("text", ["🎉", "🎉 🎊", "z" * 200, "", "   ", "\x00", "\ud800", "[UNK]", "[PAD]"])
def test_a_text_without_known_tokens_has_a_valid_vector_of_its_own(embedder, text):
    vectors = embedder.embed_documents([text, "an ordinary sentence", text])
    stored_vectors(vectors, 3, embedder.identity)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert abs(vectors[0] @ vectors[1]) < 0.3


def test_texts_of_the_same_odd_characters_are_alike(embedder):
    party, parties, knife = embedder.embed_documents(["🎉", "🎉 🎉\n🎉", "🔪"])
    assert party @ parties > 0.999
    assert abs(party @ knife) < 0.3


def test_no_texts_give_no_vectors(embedder):
    assert embedder.embed_documents([]).shape == (0, 256)


def test_meaning_is_in_the_vectors(embedder):
    question, answer, other = embedder.embed_documents(
        ["how do I change my password", "resetting the login credentials of an account", "the weather in the mountains"]
    )
    assert question @ answer > question @ other + 0.1


def test_no_text_is_too_long(embedder):
    text = "needle " + "hay " * 100_000
    assert embedder.token_excess([text, "x"]) == [False, False]
    with_needle, without = embedder.embed_documents(["hay " * 600 + "needle", "hay " * 601])
    assert not np.allclose(with_needle, without, atol=1e-6)


def test_threads_at_once_get_the_same_vectors(reference):
    embedder = StaticEmbedder()
    texts = [f"{text} number {n}" for n in range(50) for text in TEXTS[:10]]
    found = [np.empty(0)] * 4
    start = threading.Barrier(4)

    def work(place):
        start.wait()
        found[place] = embedder.embed_documents(texts)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for vectors in found:
        np.testing.assert_allclose(vectors, reference.encode(texts), atol=1e-5)


def test_the_table_of_words_stops_growing(monkeypatch):
    monkeypatch.setattr(static, "_WORDS_MAX", 20)
    embedder = StaticEmbedder()
    embedder.embed_documents([f"word{n} " + "q" * 60 for n in range(100)])
    assert len(embedder._weights()._words) == 20


def test_the_version_is_the_digest_of_the_weights(embedder):
    digest = hashlib.sha256(b"".join((WEIGHTS / name).read_bytes() for name in static.WEIGHTS_FILES)).hexdigest()
    assert digest.startswith(embedder.identity.version)
    assert len(embedder.identity.version) == 12
