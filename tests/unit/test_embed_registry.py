"""A locator names an embedder, and can be stored because it never holds a secret."""

import pytest

from seamark.embed.http import OllamaEmbedder, OpenAIEmbedder
from seamark.embed.registry import embedder_open
from seamark.embed.static import StaticEmbedder
from seamark.errors import InvalidRequestError


@pytest.mark.parametrize("locator", ["static", "static:seamark-static-256"])
def test_the_static_model_is_opened_by_name(locator):
    assert isinstance(embedder_open(locator), StaticEmbedder)


def test_settings_come_from_the_locator_and_from_the_caller_who_wins():
    embedder = embedder_open(
        "openai:bge-m3?base_url=http://localhost:8080/v1&dimensions=512&query_prefix=query%3A+&fusion_weight=0.7",
        dimensions=256,
    )
    assert isinstance(embedder, OpenAIEmbedder)
    assert embedder.identity.name == "openai:bge-m3"
    assert (embedder.identity.dimension, embedder.identity.query_prefix, embedder.fusion_weight) == (256, "query: ", 0.7)


def test_a_tag_is_part_of_the_model():
    embedder = embedder_open("ollama:nomic-embed-text:v1.5", dimensions=8, version="1")
    assert isinstance(embedder, OllamaEmbedder)
    assert embedder.identity.name == "ollama:nomic-embed-text:v1.5"


@pytest.mark.parametrize("locator", ["", "opneai:x", "http://localhost", "word2vec:x"])
def test_an_unknown_scheme_is_answered_with_those_there_are(locator):
    with pytest.raises(InvalidRequestError, match=r"static, sentence-transformers:.*openai:.*ollama:.*tei:"):
        embedder_open(locator)


@pytest.mark.parametrize(
    ("locator", "named"),
    [
        ("openai:m?dimension=3", "dimension"),
        ("openai:m?dimensions=many", "dimensions"),
        ("openai:m?dimensions=0", "dimensions"),
        ("openai:m?concurrency=0", "concurrency"),
        ("openai:m?nonsense", "name=value"),
        ("openai:", "openai:<model>"),
        ("ollama:", "ollama:<model>"),
        ("tei:", "tei:<model>"),
        ("static?dimensions=3", "no settings"),
        ("static:large", "one static model"),
        ("openai:m?base_url=localhost:8080", "base_url"),
        ("openai:m?base_url=http://[::1", "base_url"),
        ("openai:m?base_url=http://h:99999/v1", "base_url"),
        ("openai:m?base_url=file:///etc/passwd", "base_url"),
    ],
)
def test_settings_that_will_not_do_are_named(locator, named):
    with pytest.raises(InvalidRequestError, match=named):
        embedder_open(locator)


@pytest.mark.parametrize(
    "locator",
    [
        "openai:m?api_key=sk-canary",
        "openai:m?API-KEY=sk-canary",
        "openai:m?token=sk-canary",
        "openai:m?base_url=https://user:sk-canary@host/v1",
        "openai:m?base_url=https://sk-canary@host/v1",
        "openai:m?base_url=https%3A%2F%2Fhost%2Fv1%3Fkey%3Dsk-canary",
    ],
)
def test_a_secret_in_a_locator_is_refused_and_not_repeated(locator):
    with pytest.raises(InvalidRequestError, match="SEAMARK_EMBED_API_KEY") as caught:
        embedder_open(locator)
    assert "canary" not in str(caught.value)


def test_a_secret_setting_of_the_wrong_type_is_not_repeated():
    with pytest.raises(InvalidRequestError) as caught:
        embedder_open("openai:m", api_key=["sk-canary"])
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
