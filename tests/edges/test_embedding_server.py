"""The server that tests of embedders stand on: does it say what servers say?"""

from __future__ import annotations

import json
import subprocess
import sys

import httpx2
import numpy as np
import pytest

from seamark.embed.registry import embedder_open
from seamark.errors import EmbedderUnavailableError
from seamark.testing.embedding_server import EmbeddingServer
from seamark.testing.oracle import oracle_vector

TEXTS = ["one", "two and a half", "drei 漢字 \x00 \"'\\"]


def proofs(texts):
    return np.stack([oracle_vector(text, "m", 16) for text in texts])


@pytest.fixture
def server():
    with EmbeddingServer(dimension=16) as server:
        yield server


def test_the_server_runs_as_a_process_and_logs_its_calls(tmp_path):
    log = tmp_path / "calls.jsonl"
    command = [sys.executable, "-m", "seamark.testing.embedding_server", "--dimension", "16", "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            embedder = embedder_open(f"openai:m?base_url={url}/v1&dimensions=16")
            np.testing.assert_allclose(embedder.embed_documents(TEXTS), proofs(TEXTS), atol=1e-6)
            httpx2.post(f"{url}/faults", json=[{"kind": "status", "status": 503, "times": 1}]).raise_for_status()
            with pytest.raises(EmbedderUnavailableError):
                embedder.embed_documents(["again"])
            embedder.close()
        finally:
            process.terminate()
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(call["texts"], call["fault"]) for call in calls] == [(TEXTS, None), (["again"], "status")]


def test_the_server_speaks_teis_own_shape(server):
    found = httpx2.post(f"{server.url}/embed", json={"inputs": TEXTS, "truncate": False}).json()
    np.testing.assert_allclose(found, proofs(TEXTS), atol=1e-6)


def test_the_server_cuts_long_texts_in_silence_unless_told_not_to():
    with EmbeddingServer(dimension=16, token_limit=2) as server:
        found = httpx2.post(f"{server.openai_url}/embeddings", json={"model": "m", "input": "one two three"}).json()
        np.testing.assert_allclose(found["data"][0]["embedding"], proofs(["one two"])[0], atol=1e-6)
