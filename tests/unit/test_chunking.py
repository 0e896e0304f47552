"""Passages cover the text, fit the model, and are found at their offsets."""

from __future__ import annotations

import random
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seamark.core import chunking
from seamark.core.chunking import CHUNK_CHARACTERS, Chunker, render
from seamark.errors import EmbedderConfigurationError, InvalidRequestError

PARAGRAPHS = "\n\n".join(
    f"Paragraph {number}. " + "It says something of no weight. " * (number % 5 + 3) for number in range(60)
)


def _passages(text, split):
    return [text[chunk.start : chunk.stop] for chunk in split.chunks]


def _check(text, split, characters):
    position = 0
    for chunk in split.chunks:
        assert position <= chunk.start < chunk.stop <= len(text)
        assert not text[position : chunk.start].strip()
        assert 0 < chunk.stop - chunk.start <= characters
        assert text[chunk.start : chunk.stop].strip()
        position = chunk.stop
    assert not text[position:].strip()


def test_a_short_text_is_one_passage_without_the_white_space_around_it():
    assert _passages("  a note\n", Chunker().split("  a note\n")) == ["a note"]


@pytest.mark.parametrize("text", ["", " ", "\n\t \u2003\n"])
def test_blank_text_has_no_passages(text):
    assert Chunker().split(text).chunks == ()


def test_long_text_is_split_at_paragraphs():
    split = Chunker(300).split(PARAGRAPHS)
    _check(PARAGRAPHS, split, 300)
    assert len(split.chunks) > 20
    assert all(passage.startswith("Paragraph") for passage in _passages(PARAGRAPHS, split))


@pytest.mark.parametrize("unit", ["x", "word ", "漢字", "e\u0301", "\U0001f469\u200d\U0001f680", "\ud800 ", "a\0"])
def test_text_without_paragraphs_is_covered_as_well(unit):
    text = unit * 5000
    _check(text, Chunker(200).split(text), 200)


@given(st.text(st.sampled_from("ab .\n\t漢é\U0001f680\u0301\u2028\x1c\ud800"), max_size=400), st.integers(20, 90))
def test_passages_cover_any_text(text, characters):
    _check(text, Chunker(characters).split(text), characters)


def test_passages_are_the_same_on_each_side_of_the_short_way():
    text = "One sentence. " * 14
    at_most = len(text.strip())
    assert len(Chunker(at_most).split(text).chunks) == len(Chunker(len(text)).split(text).chunks) == 1


# --- sections -----------------------------------------------------------------------------------------------------


def _document(seed, chunks=50):
    """Return paragraphs of a sentence to a chunk, some fifty chunks of 200 characters in all."""
    draw = random.Random(seed)
    paragraphs, length = [], 0
    while length < chunks * 200:
        words = " ".join(draw.choice(["alpha", "beta", "gamma", "delta"]) + str(draw.randrange(1000)) for _ in range(30))
        paragraphs.append(words[: draw.randint(20, 200)].strip())
        length += len(paragraphs[-1]) + 2
    return paragraphs


@pytest.mark.parametrize("seed", range(20))
def test_an_edited_paragraph_of_a_long_text_changes_three_passages_at_most(seed):
    paragraphs = _document(seed)
    before = Chunker(200).split("\n\n".join(paragraphs)).chunks
    known = {chunk.digest for chunk in before}
    assert len(before) >= 50
    for at in range(len(paragraphs)):
        edited = [*paragraphs[:at], paragraphs[at][:150] + " and some words more", *paragraphs[at + 1 :]]
        text = "\n\n".join(edited)
        split = Chunker(200).split(text)
        _check(text, split, 200)
        assert 1 <= sum(chunk.digest not in known for chunk in split.chunks) <= 3


def test_without_sections_more_of_them_change():
    """What the sections are for: the passages after an edit would all be cut otherwise."""
    worst = 0
    for seed in range(20):
        paragraphs = _document(seed)
        chunker = Chunker(200, sections=False)
        known = {chunk.digest for chunk in chunker.split("\n\n".join(paragraphs)).chunks}
        for at in range(len(paragraphs)):
            edited = [*paragraphs[:at], paragraphs[at][:150] + " and some words more", *paragraphs[at + 1 :]]
            split = chunker.split("\n\n".join(edited))
            worst = max(worst, sum(chunk.digest not in known for chunk in split.chunks))
    assert worst > 3


def test_a_text_that_repeats_one_paragraph_is_not_cut_to_pieces():
    text = "\n\n".join(["The same again."] * 1000)
    split = Chunker(500).split(text)
    _check(text, split, 500)
    assert len(split.chunks) <= len(text) / 400


def test_a_generation_made_before_there_were_sections_goes_on_without_them():
    identity = Chunker(300, sections=False).identity()
    assert "sections" not in identity
    old = Chunker.of({"chunker": identity})
    assert old.identity() == identity
    assert Chunker(300).identity() != identity
    assert old.split(PARAGRAPHS) != Chunker(300).split(PARAGRAPHS)


def test_a_digest_is_of_the_passage():
    split = Chunker().split(" one ")
    assert [chunk.digest for chunk in split.chunks] == [blake2b(b"one", digest_size=16).digest()]


def test_passages_too_long_for_the_model_are_halved_until_they_fit():
    text = " ".join(str(number) for number in range(400))
    calls = []

    def excess(texts):
        calls.append(len(texts))
        return [len(passage) > 30 for passage in texts]

    split = Chunker(500).split(text, excess)
    _check(text, split, 30)
    assert " ".join(_passages(text, split)) == text
    assert calls[0] == len(Chunker(500).split(text).chunks)


def test_a_model_that_takes_nothing_ends_at_single_characters():
    assert _passages("ab cd", Chunker().split("ab cd", lambda texts: [True] * len(texts))) == ["a", "b", "c", "d"]


def test_text_beyond_the_limit_is_cut_and_said_to_be(monkeypatch):
    monkeypatch.setattr(chunking, "TEXT_CHARACTERS", 1000)
    text = "word " * 300
    split = Chunker(100).split(text)
    assert split.truncated
    _check(text[:1000], split, 100)
    assert not Chunker(100).split(text[:1000]).truncated


def test_the_identity_has_the_size_and_the_exact_version():
    assert Chunker().identity() != Chunker(500).identity()
    assert Chunker(500).identity()["characters"] == 500
    assert Chunker().identity()["version"]


def test_a_generations_chunker_comes_from_its_identity():
    identity = {"chunker": Chunker(700).identity()}
    assert Chunker.of(identity).characters == 700
    assert Chunker.like({"kind": "lexical"}).characters == CHUNK_CHARACTERS


@pytest.mark.parametrize("chunker", [{}, None, {**Chunker().identity(), "version": "0.0.1"}])
def test_another_versions_chunker_is_refused_for_indexing_and_stood_in_for_in_search(chunker):
    with pytest.raises(EmbedderConfigurationError):
        Chunker.of({"chunker": chunker})
    assert Chunker.like({"chunker": chunker}).characters == CHUNK_CHARACTERS


@pytest.mark.parametrize("characters", [0, -1, 10**9])
def test_an_impossible_size_is_refused(characters):
    with pytest.raises(InvalidRequestError):
        Chunker(characters)


def test_texts_are_joined_with_a_blank_line_leaving_out_blank_ones():
    assert render(["Title", None, " ", "", "Body\n"]) == "Title\n\nBody\n"
    assert render([None, " \n"]) == ""
