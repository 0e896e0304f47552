"""An embedder whose vectors prove which text and which model they were made from."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from seamark.errors import EmbedderInputError
from seamark.model import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from seamark.model import StoredVectors

TOLERANCE = 2e-3
"""Twice what rounding to float16 changes a member of a unit vector by, after one more normalisation."""
GATE_SECONDS = 60.0
"""A gate that nobody opens fails its test instead of hanging it."""


def oracle_vector(text: str, model: str, dimension: int) -> NDArray[np.float32]:
    """Return the unit vector, shape (dimension,), that only this text under this model has."""
    seed = hashlib.sha256(json.dumps([model, text]).encode("ascii")).digest()
    blocks = (hashlib.sha256(seed + block.to_bytes(4, "little")).digest() for block in range(-(-dimension // 8)))
    numbers = np.frombuffer(b"".join(blocks), dtype="<u4")[:dimension].astype(np.float64) / 2**31 - 1
    return (numbers / np.linalg.norm(numbers)).astype(np.float32)


def oracle_proves(vector: StoredVectors, text: str, model: str) -> bool:
    """Say whether the stored vector was made from exactly this text by exactly this model."""
    expected = oracle_vector(text, model, vector.shape[0])
    return bool(np.abs(vector.astype(np.float32) - expected).max() < TOLERANCE)


class OracleEmbedder:
    """An embedder that counts what it is asked and misbehaves on request.

    Args:
        model: the model's name, part of every vector.
        dimension: the length of the vectors.
        log: a file that every document text is appended to as one JSON line before it is embedded, for counting over processes.
        refused: a call with one of these texts in it raises EmbedderInputError.
        errors: the first calls raise these, one each; None lets its call pass.
        gate: every call waits for this event, after setting `entered`.
        token_limit: texts of more characters are too long for the model; None: none is.
        concurrency: what the contract's member of that name says.
        batch_items: what the contract's member of that name says.
    """

    def __init__(
        self,
        model: str = "oracle-a",
        dimension: int = 32,
        log: Path | None = None,
        *,
        refused: Collection[str] = (),
        errors: Iterable[Exception | None] = (),
        gate: threading.Event | None = None,
        token_limit: int | None = None,
        concurrency: int = 1,
        batch_items: int = 64,
    ) -> None:
        self.identity = ModelIdentity(name=model, version="1", dimension=dimension)
        self.fusion_weight = 0.5
        self.concurrency = concurrency
        self.batch_items = batch_items
        self.gate = gate
        self.entered = threading.Event()
        self.refused = set(refused)
        self.errors = list(errors)
        self.calls = 0
        self.texts: Counter[str] = Counter()
        self._log = log
        self._token_limit = token_limit
        self._lock = threading.Lock()

    def token_excess(self, texts: Sequence[str]) -> Sequence[bool]:
        """Say which texts are longer than the limit."""
        return [self._token_limit is not None and len(text) > self._token_limit for text in texts]

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the texts' proofs, having counted them."""
        with self._lock:
            self.calls += 1
            self.texts.update(texts)
            error = self.errors.pop(0) if self.errors else None
        if self._log is not None:
            _append(self._log, texts)
        self.entered.set()
        if self.gate is not None and not self.gate.wait(GATE_SECONDS):
            raise TimeoutError("nobody opened the gate that holds this call")
        if error is not None:
            raise error
        if not self.refused.isdisjoint(texts):
            raise EmbedderInputError("the oracle was told to refuse one of these texts")
        return self.embed_queries(texts)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the texts' proofs: a query finds the passage that equals it, at similarity 1."""
        identity = self.identity
        vectors = [oracle_vector(text, identity.name, identity.dimension) for text in texts]
        return np.stack(vectors) if vectors else np.empty((0, identity.dimension), np.float32)


def _append(log: Path, texts: Sequence[str]) -> None:
    """Append with one write, so that lines of several processes never mix and a killed process leaves whole lines."""
    lines = "".join(json.dumps(text) + "\n" for text in texts).encode("ascii")
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, lines)
    finally:
        os.close(descriptor)


def log_counts(log: Path) -> Counter[str]:
    """Return how often each text was given to any embedder with this log."""
    if not log.exists():
        return Counter()
    return Counter(json.loads(line) for line in log.read_text(encoding="ascii").splitlines())
