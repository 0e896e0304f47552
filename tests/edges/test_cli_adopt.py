"""`adopt`: vectors of a column, a table and of files, on both databases."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seamark.embed.static import StaticEmbedder

BODIES = ("Signing keys are rotated.", "Backups are taken at night.", "Soup on Mondays.", "Fish on Fridays.")


@pytest.fixture
def vectors():
    return np.asarray(StaticEmbedder().embed_documents(BODIES), np.float32)


@pytest.fixture
def papers(backend, cli):
    application = backend.application()
    application.run(f"CREATE TABLE papers (id {backend.type('integer')} PRIMARY KEY, body {backend.type('text')})")
    application.many("INSERT INTO papers VALUES (?, ?)", list(enumerate(BODIES, 1)))
    assert cli("attach", "papers", "--text", "body", db=backend.url).code == 0
    return application


@pytest.fixture
def unembedded(monkeypatch):
    """No document is embedded from here on, until what is given is called."""

    def embed(self, texts):
        raise AssertionError(f"embedded: {texts}")

    monkeypatch.setattr(StaticEmbedder, "embed_documents", embed)
    return monkeypatch.undo


def test_files_of_numpys(cli, backend, papers, vectors, unembedded, tmp_path):
    np.save(tmp_path / "vectors.npy", vectors)
    np.save(tmp_path / "keys.npy", np.array([1, 2, 3, 99]))
    files = ("--from-file", tmp_path / "vectors.npy", "--keys", tmp_path / "keys.npy")
    refused = cli("adopt", "papers", *files, db=backend.url)
    assert (refused.code, "--trust-text" in refused.err or "trust_text" in refused.err) == (2, True)
    found = cli("adopt", "papers", *files, "--trust-text", "--json", db=backend.url)
    assert found.code == 0, found.err
    told = found.json()
    counts = {name: told[name] for name in ("rows", "edited", "divided", "unusable", "unknown", "missing")}
    assert counts == {"rows": 3, "edited": 0, "divided": 0, "unusable": 0, "unknown": 1, "missing": 1}
    assert (told["source"], told["generation"]["state"]) == ("papers", "building")
    unembedded()
    found = cli("search", "papers", "backup every night", "--mode", "vector", "--json", db=backend.url).json()
    assert found["hits"][0]["key"] == 2


def test_parquet(cli, backend, papers, vectors, unembedded, tmp_path):
    hashes = [hashlib.sha256(body.encode()).hexdigest() for body in BODIES]
    hashes[3] = "00" * 32
    listed = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = pa.table({"paper": [1, 2, 3, 4], "embedding": listed, "sha": hashes})
    pq.write_table(table, tmp_path / "vectors.parquet")
    words = ("adopt", "papers", "--from-file", tmp_path / "vectors.parquet", "--key", "paper", "--vector", "embedding")
    found = cli(*words, "--text-hash", "sha", db=backend.url)
    assert found.code == 0, found.err
    assert "3 vectors adopted, 1 not: 1 with another text by now" in found.out
    refused = cli(*words[:-1], "nothing", "--trust-text", db=backend.url)
    assert (refused.code, "paper, embedding, sha" in refused.err) == (2, True)
    unembedded()
    found = cli("search", "papers", "soup", "--mode", "vector", "--json", db=backend.url).json()
    assert found["hits"][0]["key"] == 3


def test_a_table(cli, backend, papers, vectors, unembedded):
    papers.run(f"CREATE TABLE old (paper {backend.type('integer')} PRIMARY KEY, v {backend.type('blob')})")
    papers.many("INSERT INTO old VALUES (?, ?)", [(n, values.tobytes()) for n, values in enumerate(vectors, 1)])
    words = ("adopt", "papers", "--from-table", "old", "--key", "paper", "--vector", "v", "--trust-text")
    found = cli(*words, "--json", db=backend.url).json()
    assert (found["rows"], found["missing"], found["generation"]["state"]) == (4, 0, "active")
    assert cli("work", "--until", "current", db=backend.url).code == 0
    again = cli(*words, db=backend.url)
    assert (again.code, "0 vectors adopted" in again.out) == (0, True), "it was done before"


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--from-column", "a", "--from-table", "b"),
        ("--from-table", "b", "--key", "c"),
        ("--from-file", "x.npy"),
        ("--from-file", "x.parquet", "--vector", "v"),
        ("--from-file", "none.npy", "--keys", "none.npy"),
        ("--from-file", "none.parquet", "--key", "k", "--vector", "v"),
    ],
)
def test_what_cannot_be_meant_is_refused(cli, backend, papers, words):
    before = cli("status", "--json", db=backend.url).json()
    refused = cli("adopt", "papers", *words, "--trust-text", db=backend.url)
    assert refused.code == 2, refused.err
    after = cli("status", "--json", db=backend.url).json()
    ids = [[one["id"] for one in shown["sources"][0]["generations"]] for shown in (before, after)]
    assert ids[0] == ids[1]


def test_without_pyarrow_the_extra_is_named(cli, backend, papers, monkeypatch, tmp_path):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr("seamark.edges.vector_files.import_module", absent)
    words = ("--from-file", tmp_path / "x.parquet", "--key", "k", "--vector", "v", "--trust-text")
    refused = cli("adopt", "papers", *words, db=backend.url)
    assert (refused.code, "seamark[parquet]" in refused.err) == (2, True)
