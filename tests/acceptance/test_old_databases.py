"""Databases made by every earlier version of the schema (tests/data/v<N>) open, are searched and go on without re-embedding."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

import seamark
from seamark.core.chunking import Chunker, render
from seamark.embed.static import StaticEmbedder
from seamark.store.postgres.schema import MIGRATIONS
from seamark.testing.judgement import judge_source
from seamark.testing.killer import Killer, Order
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.workbench import Workbench

VERSIONS = sorted(Path(__file__).parent.with_name("data").glob("v*"), key=lambda folder: int(folder.name[1:]))
COLUMNS = {"notes": ("id", ("title", "body")), "articles": ("path", ("body",))}
SAMPLES = 12
PARKED = {"notes": {(29,)}, "articles": set()}


@pytest.fixture(params=["sqlite", "postgres"])
def restored(request, backend_open, tmp_path):
    """Return a function that gives a backend on a copy of an old database, until the end or for as long as is said."""
    with ExitStack() as end:

        def restore(folder, teardown=end):
            backend = backend_open(request.param, tmp_path, teardown)
            if request.param == "sqlite":
                (backend.path).write_bytes(unpacked(folder / "app.sqlite.gz"))
                backend.sidecar.write_bytes(unpacked(folder / "app-seamark.sqlite.gz"))
            else:
                psql = backend._dump.with_name("psql")
                command = [str(psql), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={backend.url}"]
                subprocess.run(command, input=unpacked(folder / "dump.sql.gz"), check=True, stdout=subprocess.DEVNULL)
            return backend

        yield restore


@pytest.fixture
def embedded(monkeypatch):
    """Every text that the static model is asked for as a document."""
    texts = []
    embed = StaticEmbedder.embed_documents
    monkeypatch.setattr(StaticEmbedder, "embed_documents", lambda self, given: texts.extend(given) or embed(self, given))
    return texts


def unpacked(path):
    return gzip.decompress(path.read_bytes())


def live(application, table):
    """Return what the user's table holds, key → rendered text."""
    key, columns = COLUMNS[table]
    rows = application.run(f"SELECT {key}, {', '.join(columns)} FROM {table}")
    return {(row[0],): render(row[1:]) for row in rows}


def passages(texts):
    chunker = Chunker()
    return {text[chunk.start : chunk.stop] for text in texts.values() for chunk in chunker.split(text).chunks}


def proves_static(vector, text, model):
    assert model == "static:seamark-static-256"
    [expected] = StaticEmbedder().embed_queries([text])
    return bool(np.abs(vector.astype(np.float32) - expected).max() < 2e-3)


def judge(backend, texts):
    bench = Workbench(backend)
    for source in bench.store.sources():
        proof = {"proves": proves_static} if source.name == "articles" else {}
        judge_source(bench, source, texts[source.name], "gone deleted", parked=PARKED[source.name], **proof)


def test_there_is_a_database_of_every_version_before_this_one():
    """Whoever adds a migration makes these first, with tests/data/make.py and the code as it was."""
    found = [int(folder.name[1:]) for folder in VERSIONS]
    assert list(range(1, len(MIGRATIONS))) == [number for number in found if number < len(MIGRATIONS)]
    for folder in VERSIONS:
        names = sorted(path.name for path in folder.iterdir())
        assert ["app-seamark.sqlite.gz", "app.sqlite.gz", "dump.sql.gz"] == names, folder.name


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_an_old_database_is_searched_and_goes_on_without_a_call_of_the_model(folder, restored, embedded):
    backend = restored(folder)
    application = backend.application()
    texts = {table: live(application, table) for table in COLUMNS}
    assert [28, 29] == [len(texts[table]) for table in COLUMNS], "the database came whole"
    known = passages(texts["notes"]) | passages(texts["articles"])
    oracle = OracleEmbedder()
    with seamark.open(backend.url, embedder=oracle) as service:
        notes, articles = service.source("notes"), service.source("articles")
        [first, *_] = notes.search("note 5\n\nthe body of note 5, about rope", mode="vector").hits
        assert (5, 1.0) == (first.key, pytest.approx(first.score, abs=2e-3))
        assert ["a/7"] == [hit.key for hit in articles.search("closed", mode="lexical")]
        assert "a/7" in [hit.key for hit in articles.search("harbour that was closed", limit=3)]
        assert [29] == [failure.key[0] for failure in notes.failures()]
        service.work(until="current")
        jobs = service.sql("SELECT DISTINCT source, status FROM embedding_jobs WHERE kind = 'vector' ORDER BY 1, 2")
        assert (("articles", "done"), ("notes", "done"), ("notes", "failed")) == jobs.rows
        assert [] == [text for text in [*oracle.texts, *embedded] if text in known], "nothing is embedded again"
        judge(backend, texts)
        application.run("UPDATE notes SET body = 'new words under new code' WHERE id = 8")
        application.run("INSERT INTO articles VALUES ('a/99', 'A harbour that came later.')")
        service.work(until="current")
    texts = {table: live(application, table) for table in COLUMNS}
    new = (passages(texts["notes"]) | passages(texts["articles"])) - known
    assert 2 == len(new)
    assert sorted(new) == sorted(text for text in [*oracle.texts.elements(), *embedded] if text in new), "once each"
    judge(backend, texts)


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("folder", VERSIONS[:1], ids=lambda folder: folder.name)
def test_killed_anywhere_in_the_migrations_an_old_database_is_brought_up_to_date_by_the_next(folder, restored, tmp_path):
    """All of a step or none of it: another process opens it, and it serves what it held."""
    log = str(tmp_path / "calls")
    with Killer() as killer:
        unharmed = restored(folder)
        count = killer.run(Order(unharmed.url, "open", 0, log)).moments
        with seamark.open(unharmed.url, embedder=OracleEmbedder()) as service:
            held = [service.source(table).coverage() for table in COLUMNS]
        assert count > 2 * len(MIGRATIONS), "each migration takes a statement or more"
        stride = int(os.environ.get("SEAMARK_KILL_STRIDE", "0")) or max(1, count // SAMPLES)
        for moment in range(1, count + 1, stride):
            with ExitStack() as teardown:
                backend = restored(folder, teardown)
                ending = killer.run(Order(backend.url, "open", moment, log))
                assert ending.signal == signal.SIGKILL, f"the kill at moment {moment} of {count} did not fire"
                oracle = OracleEmbedder()
                with seamark.open(backend.url, embedder=oracle) as service:
                    assert held == [service.source(table).coverage() for table in COLUMNS]
                    service.work(until="current")
                    assert not oracle.texts
                    judge(backend, {table: live(backend.application(), table) for table in COLUMNS})
