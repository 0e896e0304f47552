"""What the reply of an embedding server can hold, and what it is taken for."""

from __future__ import annotations

import json

import pytest

from seamark.embed import http
from seamark.embed.replies import tei_info
from seamark.errors import (
    EmbedderTransientError,
)


@pytest.mark.parametrize("odd", ["", "many", "-3", "0", "1.5", "٣", "9" * 5000])
def test_what_cannot_be_a_number_of_tokens_is_not_believed(odd):
    vectors, tokens = http.tei_answer(b"[[1.0, 0.0]]", 1, "m", {"x-compute-tokens": odd})
    assert (vectors.shape, tokens) == ((1, 2), None)


def test_a_tei_whose_model_only_ranks_is_a_matter_of_configuration():
    told = {"model_id": "m", "model_type": {"reranker": {"id2label": {}}}}
    assert not tei_info(json.dumps(told).encode(), "tei:m").embeds
    assert tei_info(json.dumps(told | {"model_type": {"embedding": {"pooling": "cls"}}}).encode(), "tei:m").embeds


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"data": None},
        {"data": [{"index": 0}]},
        {"data": [None]},
        {"data": [{"embedding": [1.0]}]},
        {"data": [{"index": True, "embedding": [1.0]}]},
        {"data": [{"index": "0", "embedding": [1.0]}]},
        {"data": [{"index": 0, "embedding": "!!!"}]},
        {"data": [{"index": 0, "embedding": "AAA="}]},
        {"data": [{"index": 0, "embedding": []}]},
        {"data": [{"index": 0, "embedding": None}]},
        {"data": [{"index": 0, "embedding": {"a": 1}}]},
        {"data": [{"index": 0, "embedding": [[1.0]]}]},
        {"data": [{"index": 0, "embedding": [10**400]}]},
        {"error": {"message": "busy"}},
    ],
)
def test_odd_bodies_are_transient(body):
    with pytest.raises(EmbedderTransientError):
        http.openai_answer(json.dumps(body).encode(), 1, "m")


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 100_000, b"9" * 10_000, b"{}", b'{"embeddings": {}}', b"[]", b"[null]"])
def test_odd_bytes_are_transient(body):
    for parse in (http.openai_answer, http.ollama_answer, http.tei_answer):
        with pytest.raises(EmbedderTransientError):
            parse(body, 1, "m")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"model_id": null}', b'"m"'])
def test_odd_bytes_about_a_tei_are_transient(body):
    with pytest.raises(EmbedderTransientError):
        tei_info(body, "tei:m")
