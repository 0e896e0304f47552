"""The promises of docs/architecture.md, kept by the whole of Seamark on both databases, faults included."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import Counter

import pytest

import seamark
from seamark.core import retry
from seamark.errors import (
    EmbedderConfigurationError,
    EmbedderTransientError,
    EmbedderUnavailableError,
    InvalidRequestError,
    SourceConflictError,
    TableUnusableError,
    UnknownColumnError,
    UnknownSourceError,
)
from seamark.testing.beside import working
from seamark.testing.oracle import OracleEmbedder, log_counts, oracle_proves

ROWS = 60


@pytest.fixture
def notes(backend):
    """An application with a table of sixty notes."""
    application = backend.application()
    integer, text = backend.type("integer"), backend.type("text")
    application.run(
        f"CREATE TABLE notes(id {integer} PRIMARY KEY, org_id {integer}, title {text}, body {text}, deleted_at {text})"
    )
    application.many(
        "INSERT INTO notes VALUES (?, ?, ?, ?, NULL)",
        [(n, n % 3, f"title {n}", f"the body of note {n}") for n in range(1, ROWS + 1)],
    )
    return application


@pytest.fixture
def opened(backend):
    """Open services on the database that are closed at the end."""
    services = []

    def make(embedder=None):
        services.append(seamark.open(backend.url, embedder=embedder or OracleEmbedder()))
        return services[-1]

    yield make
    for service in services:
        service.close()


def attached(service):
    return service.attach("notes", text=["title", "body"], where={"deleted_at": None})


def vector_generation(service, tracked):
    return next(g for g in service.store.generations(tracked.source.id) if g.kind == "vector" and g.state != "retired")


def proven(backend, service, tracked, expected: dict[int, str]) -> None:
    """Every live row's only chunk is that of its present text, and there is no other."""
    chunks = backend.chunks(tracked.source, vector_generation(service, tracked))
    assert [(key,) for key in sorted(expected)] == sorted(chunk.key for chunk in chunks)
    wrong = [chunk.key for chunk in chunks if not oracle_proves(chunk.vector, expected[chunk.key[0]], "oracle-a")]
    assert wrong == []


def texts(application) -> dict[int, str]:
    rows = application.run("SELECT id, title, body FROM notes WHERE deleted_at IS NULL")
    return {key: f"{title}\n\n{body}" for key, title, body in rows}


# --- the main road ------------------------------------------------------------------------------------------------


def test_a_table_is_attached_embedded_and_found(backend, notes, opened):
    service = opened()
    tracked = attached(service)
    service.work(until="current")
    coverage = tracked.coverage()
    assert (ROWS, ROWS, 0, 0, 0) == (coverage.live, coverage.embedded, coverage.blank, coverage.missing, coverage.failed)
    proven(backend, service, tracked, texts(notes))
    best = tracked.search("title 7\n\nthe body of note 7", limit=5, mode="vector").hits[0]
    assert (7, False) == (best.key, best.stale)
    assert best.vector.score == pytest.approx(1.0, abs=2e-3)
    assert all(generation.state == "active" for generation in service.store.generations(tracked.source.id))


def test_every_kind_of_change_is_followed(backend, notes, opened):
    service = opened()
    tracked = attached(service)
    service.work(until="current")
    notes.run("UPDATE notes SET body = 'new words' WHERE id = 1")
    notes.run("DELETE FROM notes WHERE id = 2")
    notes.run("UPDATE notes SET deleted_at = 'now' WHERE id = 3")
    notes.run("UPDATE notes SET id = 1004 WHERE id = 4")
    notes.run("INSERT INTO notes VALUES (1005, 1, 'fresh', 'row', NULL)")
    notes.run("UPDATE notes SET org_id = 9 WHERE id = 6")
    assert tracked.coverage().missing == 3, "the edited, the moved and the new row"
    service.work(until="current")
    proven(backend, service, tracked, texts(notes))
    assert tracked.coverage().live == ROWS - 1


def test_a_deleted_or_filtered_row_is_not_found_even_before_any_worker_ran(notes, opened):
    service = opened()
    tracked = attached(service)
    service.work(until="current")
    notes.run("DELETE FROM notes WHERE id = 7")
    notes.run("UPDATE notes SET deleted_at = 'now' WHERE id = 8")
    for mode in ("hybrid", "lexical", "vector"):
        found = {hit.key for hit in tracked.search("title 7 body of note 8", mode=mode, limit=100)}
        assert found, mode
        assert not found & {7, 8}, mode


def test_an_edited_row_is_marked_stale_until_it_is_embedded_again(notes, opened):
    service = opened()
    tracked = attached(service)
    service.work(until="current")
    notes.run("UPDATE notes SET title = 'something else' WHERE id = 7")
    assert [hit.stale for hit in tracked.search("note 7", limit=100) if hit.key == 7] == [True]
    service.work(until="current")
    assert [hit.stale for hit in tracked.search("note 7", limit=100) if hit.key == 7] == [False]


def test_search_answers_from_words_when_the_embedder_is_out_and_says_so(notes, opened):
    service = opened()
    attached(service)
    service.work(until="current")
    other = opened(OracleEmbedder(model="another"))
    result = other.source("notes").search("note 7")
    assert result.hits
    assert any("oracle-a" in reason for reason in result.degraded)


@pytest.mark.parametrize("filter_", [{"org_id": 1}, {"org_id": {"$in": [1, 2]}}, {"$or": [{"id": 5}, {"id": {"$gte": 58}}]}])
def test_a_filtered_search_returns_as_many_as_match(notes, opened, filter_):
    service = opened()
    tracked = attached(service)
    service.work(until="current")
    allowed = {"{'org_id': 1}": 20, "{'org_id': {'$in': [1, 2]}}": 40, "{'$or': [{'id': 5}, {'id': {'$gte': 58}}]}": 4}
    assert len(tracked.search("title of a note", limit=100, filter=filter_)) == allowed[str(filter_)]


def test_keys_of_mixed_types_that_score_alike_are_found(sqlite_backend):
    application = sqlite_backend.application()
    application.run("CREATE TABLE mixed(id INT PRIMARY KEY, body TEXT)")
    application.many("INSERT INTO mixed VALUES (?, 'same dog')", [(1,), ("b",), (b"c",)])
    with seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as service:
        tracked = service.attach("mixed", text="body")
        service.work(until="current")
        for mode in ("hybrid", "lexical", "vector"):
            assert {hit.key for hit in tracked.search("same dog", mode=mode)} == {1, "b", b"c"}


# --- attaching ----------------------------------------------------------------------------------------------------


def test_attaching_again_with_the_same_words_changes_nothing(backend, notes, opened):
    service = opened()
    first = attached(service)
    service.work(until="current")
    before = backend.journal(first.source), backend.rows(first.source, vector_generation(service, first))
    again = attached(service)
    assert before == (backend.journal(again.source), backend.rows(again.source, vector_generation(service, again)))
    assert again.coverage().missing == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"text": ["title"]}, "text"),
        ({"text": ["title", "body"], "where": {"org_id": 1}}, "where"),
        ({"text": ["title", "body"], "where": {"deleted_at": None}, "chunk": 500}, "chunker"),
    ],
)
def test_attaching_again_with_other_words_says_what_differs(notes, opened, words, told):
    service = opened()
    attached(service)
    with pytest.raises(SourceConflictError, match=told):
        service.attach("notes", **words)


def test_detach_leaves_the_schema_as_it_was(backend, notes, opened):
    service = opened()
    before = backend.schema()
    attached(service)
    service.work(until="current")
    assert backend.schema() != before
    service.detach("notes")
    assert backend.schema() == before
    with pytest.raises(UnknownSourceError, match="notes"):
        service.source("notes")


def test_what_cannot_be_attached_is_refused_in_one_line(backend, notes, opened):
    notes.run("CREATE TABLE keyless(a TEXT)")
    service = opened()
    refusals = [
        (TableUnusableError, "keyless", {"text": "a"}),
        (TableUnusableError, "nowhere", {"text": "a"}),
        (TableUnusableError, "notes", {"text": "org_id"}),
        (UnknownColumnError, "notes", {"text": "nothing"}),
        (UnknownColumnError, "notes", {"text": "title", "where": {"nothing": 1}}),
        (InvalidRequestError, "notes", {"text": []}),
    ]
    for error, table, words in refusals:
        with pytest.raises(error) as raised:
            service.attach(table, **words)
        assert "\n" not in str(raised.value)
    assert list(service.sources()) == []


# --- changes while a model call is under way (I1, I4) -----------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (["UPDATE notes SET body = 'changed' WHERE id = 1"], {1: "title 1\n\nchanged"}),
        (["DELETE FROM notes WHERE id = 1"], {}),
        (["UPDATE notes SET id = 900 WHERE id = 1"], {900: "title 1\n\nthe body of note 1"}),
        (
            ["UPDATE notes SET body = 'B' WHERE id = 1", "UPDATE notes SET body = 'the body of note 1' WHERE id = 1"],
            {1: "title 1\n\nthe body of note 1"},
        ),
    ],
    ids=["edit", "delete", "key change", "edit and back"],
)
def test_a_late_settle_changes_nothing_of_a_newer_version(backend, notes, opened, change, left):
    notes.run("DELETE FROM notes WHERE id > 1")
    gate = threading.Event()
    slow = OracleEmbedder(gate=gate)
    held = opened(slow)
    tracked = attached(held)
    with working(held, threads=1):
        try:
            assert slow.entered.wait(30)
            for statement in change:
                notes.run(statement)
            opened().work(until=None, stop=_current(backend, tracked, left, opened))
            settled = backend.rows(tracked.source, vector_generation(held, tracked))
            proven(backend, held, tracked, left)
        finally:
            gate.set()
    assert settled == backend.rows(tracked.source, vector_generation(held, tracked)), "the late one wrote nothing"
    proven(backend, held, tracked, left)


def _current(backend, tracked, left, opened):
    """A stop signal that comes once the chunks are those of the newest version, whatever leases others hold."""
    service = opened()
    generation = vector_generation(service, tracked)

    class Reached(threading.Event):
        def is_set(self) -> bool:
            chunks = backend.chunks(tracked.source, generation)
            journal = backend.journal(tracked.source)
            rows = backend.rows(tracked.source, generation)
            behind = [key for key, (seq, _) in journal.items() if key not in rows or rows[key].seq != seq]
            return {chunk.key[0] for chunk in chunks} == set(left) and not behind

        def wait(self, timeout=None) -> bool:
            super().wait(min(timeout or 0.02, 0.02))
            return self.is_set()

    return Reached()


# --- failures -----------------------------------------------------------------------------------------------------


def test_one_bad_text_is_parked_and_its_neighbours_are_done(notes, opened):
    bad = "title 30\n\nthe body of note 30"
    embedder = OracleEmbedder(refused={bad})
    service = opened(embedder)
    tracked = attached(service)
    service.work(until="current")
    coverage = tracked.coverage()
    assert (ROWS - 1, 1, 0) == (coverage.embedded, coverage.failed, coverage.missing)
    [failure] = tracked.failures()
    assert ((30,), "input", 1, None) == (failure.key, failure.kind, failure.attempts, failure.retry_at)
    assert embedder.calls <= 1 + 2 * ROWS.bit_length(), "1 + 2k⌈log₂n⌉ calls for k = 1"
    embedder.refused.clear()
    assert tracked.failures_retry() == 1
    service.work(until="current")
    assert (tracked.coverage().embedded, tracked.failures()) == (ROWS, ())


def test_a_failing_call_spends_an_attempt_and_is_tried_again(notes, opened):
    embedder = OracleEmbedder(errors=[EmbedderTransientError("500")])
    service = opened(embedder)
    tracked = attached(service)
    with working(service) as at_work:
        failures = at_work.until(tracked.failures)
        assert {("transient", 1)} == {(failure.kind, failure.attempts) for failure in failures}
        assert all(failure.retry_at is not None for failure in failures)
        assert tracked.failures_retry([failure.key for failure in failures]) == len(failures)
        at_work.until(lambda: tracked.coverage().embedded == ROWS)
    assert tracked.failures() == ()


def test_a_row_that_fails_again_and_again_is_parked(notes, opened, monkeypatch):
    """And is left alone until somebody says that it is to be tried again."""
    monkeypatch.setattr(retry, "ROW_DELAY_SECONDS", 0.0)
    notes.run("DELETE FROM notes WHERE id > 1")
    embedder = OracleEmbedder(errors=[EmbedderTransientError("500")] * retry.ATTEMPTS_MAX)
    service = opened(embedder)
    tracked = attached(service)
    with working(service) as at_work:
        at_work.until(lambda: any(failure.retry_at is None for failure in tracked.failures()))
    service.work(until="current")
    [failure] = tracked.failures()
    assert (retry.ATTEMPTS_MAX, "transient", None) == (failure.attempts, failure.kind, failure.retry_at)
    assert embedder.calls == retry.ATTEMPTS_MAX
    assert (tracked.coverage().failed, tracked.coverage().missing) == (1, 0)
    assert tracked.failures_retry() == 1
    service.work(until="current")
    assert (tracked.coverage().embedded, tracked.failures()) == (1, ())


def test_an_outage_spends_no_attempt_and_loses_nothing(backend, notes, opened):
    embedder = OracleEmbedder(errors=[EmbedderUnavailableError("503", 0.2), EmbedderUnavailableError("refused")])
    service = opened(embedder)
    tracked = attached(service)
    service.work(until="current")
    assert not embedder.errors, "the outage happened"
    assert (tracked.coverage().embedded, tracked.failures()) == (ROWS, ())
    proven(backend, service, tracked, texts(notes))


def test_a_wrong_configuration_is_raised_and_spends_no_attempt(notes, opened):
    service = opened(OracleEmbedder(errors=[EmbedderConfigurationError("401: bad key")] * 9))
    tracked = attached(service)
    with pytest.raises(EmbedderConfigurationError, match="bad key"):
        service.work(until="current")
    coverage = tracked.coverage()
    assert (ROWS, 0) == (coverage.missing, coverage.failed)
    [status] = service.status()
    assert "401: bad key" in [generation.generation.backoff_error for generation in status.generations]


def test_an_embedder_that_raises_anything_at_all_stops_no_worker(notes, opened):
    embedder = OracleEmbedder(errors=[KeyError("bug in your embedder")])
    service = opened(embedder)
    tracked = attached(service)
    with working(service) as at_work:
        assert "KeyError" in at_work.until(tracked.failures)[0].error


# --- many workers -------------------------------------------------------------------------------------------------

WORKER = """
import signal, sys, threading
from pathlib import Path
import seamark
from seamark.testing.oracle import OracleEmbedder
from seamark.core import sync
url, log, until, lease_seconds = sys.argv[1:]
sync.LEASE_SECONDS = float(lease_seconds)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
gate = threading.Event() if until == "held" else None
embedder = OracleEmbedder(log=Path(log), batch_items=8, gate=gate)
with seamark.open(url, embedder=embedder) as service:
    if gate is not None:
        def announce():
            embedder.entered.wait()
            print("entered", flush=True)
            stop.wait()
            gate.set()
        threading.Thread(target=announce).start()
    service.work(until="current" if until == "current" else None, stop=stop)
"""


def worker(backend, log, until="current", lease_seconds=30):
    command = [sys.executable, "-c", WORKER, backend.url, str(log), until, str(lease_seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_eight_workers_embed_no_row_twice(backend, notes, opened, tmp_path):
    notes.many(
        "INSERT INTO notes VALUES (?, 0, ?, ?, NULL)", [(n, f"title {n}", f"the body of note {n}") for n in range(1000, 3000)]
    )
    service = opened()
    tracked = attached(service)
    log = tmp_path / "calls.jsonl"
    workers = [worker(backend, log) for _ in range(8)]
    assert [process.wait(120) for process in workers] == [0] * 8
    for process in workers:
        process.stdout.close()
    expected = texts(notes)
    assert Counter(expected.values()) == log_counts(log)
    proven(backend, service, tracked, expected)
    coverage = tracked.coverage()
    assert (len(expected), len(expected), 0) == (coverage.live, coverage.embedded, coverage.missing)


def test_a_terminated_worker_hands_its_work_on_without_spending_an_attempt(backend, notes, opened, tmp_path):
    service = opened()
    tracked = attached(service)
    log = tmp_path / "calls.jsonl"
    process = worker(backend, log, "held")
    assert process.stdout.readline() == "entered\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    process.stdout.close()
    generation = vector_generation(service, tracked)
    assert service.store.failures(tracked.source, generation.id, 10) == []
    service.work(until="current")
    proven(backend, service, tracked, texts(notes))


def test_a_killed_workers_rows_come_back(backend, notes, opened, tmp_path):
    service = opened()
    tracked = attached(service)
    process = worker(backend, tmp_path / "calls.jsonl", "held", lease_seconds=3)
    assert process.stdout.readline() == "entered\n"
    process.kill()
    process.wait(30)
    process.stdout.close()
    assert any(counts.leases for counts in tracked.coverage().generations.values()), "the dead worker's lease is there"
    assert json.loads((tmp_path / "calls.jsonl").read_text().splitlines()[0]), "and it had called the model"
    service.work(until="current")
    proven(backend, service, tracked, texts(notes))
