"""Faults on this side: errors of ours, a machine that is short of something, a table that has changed."""

from __future__ import annotations

import errno
import tempfile
from itertools import islice

import pytest

from seamark.core import batch as batches
from seamark.core.registry import PROBES
from seamark.edges import worker
from seamark.embed.http import OpenAIEmbedder
from seamark.errors import StoreError
from seamark.testing.batch_server import billed
from seamark.testing.batched import ROWS, proven, sent_by_a_worker, states


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("batch_start", "it may be at the provider, with seamark="),
        ("batch_look", "given up here; batch_0 goes on at the provider, which could not be asked to cancel it"),
    ],
)
def test_what_is_no_fault_of_the_providers_ends_a_batch_and_is_kept(step, told, backend, notes, service, server, monkeypatch):
    """It would be there again at the next look; the passages go back to ordinary work, and `status` says why."""

    def broken(*_):
        raise TypeError("a mistake of ours")

    tracked = service.attach("notes", text="body")
    tracked.batch()
    monkeypatch.setattr(OpenAIEmbedder, step, broken)
    for _ in range(2):
        service.batches_advance("w1")
    [failed] = tracked.batches()
    assert failed.state == "failed"
    assert failed.error.startswith(f"openai:oracle raised TypeError: a mistake of ours; {told}")
    [status] = service.status()
    assert [one.batch_failed for one in status.generations] == [None, failed]
    service.work(until="current")
    [status] = service.status()
    assert [one.batch_failed for one in status.generations] == [None, None], "nothing is missing"
    proven(backend, service, tracked, notes)


def test_a_batch_that_an_error_of_ours_ends_is_cancelled_at_the_provider(service, server, monkeypatch):
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    whole, broken = OpenAIEmbedder.batch_look, [TypeError("a mistake of ours")]

    def look(embedder, batch):
        if broken:
            raise broken.pop()
        return whole(embedder, batch)

    monkeypatch.setattr(OpenAIEmbedder, "batch_look", look)
    [failed] = service.batches_advance("w1")
    assert failed.error.endswith("a mistake of ours; given up, and batch_0 is cancelled at the provider")
    assert [one.status for one in server.batches] == ["cancelled"]


def test_what_a_batch_has_answered_before_an_error_of_ours_is_kept_and_counted(backend, notes, service, server, monkeypatch):
    """It is billed, and the workers ask only for the rest."""
    monkeypatch.setattr(batches, "ANSWERS_AT_ONCE", 10)
    tracked = service.attach("notes", text="body")
    tracked.batch()
    service.batches_advance("w1")
    server.finish()
    whole, looked = OpenAIEmbedder.batch_results, []

    def results(embedder, name):
        looked.append(name)
        yield from islice(whole(embedder, name), 30 if looked[1:] else None)  # first for the sentences alone
        if looked[1:]:
            raise TypeError("a mistake of ours")

    monkeypatch.setattr(OpenAIEmbedder, "batch_results", results)
    [failed] = service.batches_advance("w1")
    assert (failed.state, failed.answered) == ("failed", 26), "four of the thirty are sentences"
    assert failed.error.endswith("a mistake of ours; given up; batch_0 had ended at the provider already")
    generation = service.store.generations(tracked.source.id)[-1]
    spent = service.store.spends(tracked.source.id)[generation.id]
    assert (spent.texts, spent.tokens) == (26, sum(billed(f"the body of note {n}") for n in range(ROWS - 25, ROWS + 1)))
    service.work(until="current")
    assert len(server.asked()) == ROWS - 26
    proven(backend, service, tracked, notes)


@pytest.mark.parametrize("step", ["send", "collect"])
def test_a_machine_that_is_short_of_something_fails_no_batch(step, backend, notes, service, server, monkeypatch):
    """A full disk, or too little memory, passes: the step is taken again."""

    def short_of(*_):
        raise (OSError(errno.ENOSPC, "no space left on device") if step == "send" else MemoryError)

    tracked = service.attach("notes", text="body")
    tracked.batch()
    if step == "collect":
        service.batches_advance("w1")
        server.finish()
    with monkeypatch.context() as poor:
        poor.setattr(tempfile, "TemporaryFile", short_of)
        poor.setattr(OpenAIEmbedder, "batch_results", short_of)
        service.batches_advance("w1")
    assert states(tracked) == ["sending" if step == "send" else "submitted"]
    service.batches_advance("w1")
    server.finish()
    service.batches_advance("w1")
    assert states(tracked) == ["done"]
    service.work(until="current")
    assert server.asked() == []
    proven(backend, service, tracked, notes)


def test_the_batch_of_a_table_that_is_no_longer_as_it_was_stops_no_worker_and_no_other_batch(
    notes, service, server, monkeypatch
):
    """Whoever waits for that one batch is told."""
    monkeypatch.setattr(worker, "TRIM_SECONDS", 0.0)
    service.attach("notes", text="body").batch()
    notes.run("CREATE TABLE papers(id BIGINT PRIMARY KEY, body TEXT)")
    notes.run("INSERT INTO papers VALUES (1, 'a paper')")
    papers = service.attach("papers", text="body")
    papers.batch()
    notes.run("ALTER TABLE notes RENAME COLUMN body TO words")
    with pytest.raises(StoreError, match="body"):
        service.batches_advance("w1", only="notes")
    sent_by_a_worker(service, papers)
    assert sorted(line["body"]["input"] for batch in server.batches for line in batch.lines) == sorted(["a paper", *PROBES])
