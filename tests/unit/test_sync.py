"""One piece of work: what is called, what is blamed, and what is written, on a real database."""

from __future__ import annotations

import math
import threading
from collections import Counter
from contextlib import nullcontext

import pytest

import seamark
from seamark.core.chunking import Chunker
from seamark.core.sync import CancelledError, VectorIndexer, step
from seamark.errors import EmbedderUnavailableError
from seamark.model import SourceRow
from seamark.testing.oracle import OracleEmbedder, oracle_proves

ROWS = 64


def rows(count: int, attempts: int = 0) -> list[SourceRow]:
    return [SourceRow((n,), n, live=True, texts=(f"text {n}",), attempts=attempts) for n in range(1, count + 1)]


def indexer(embedder: OracleEmbedder) -> VectorIndexer:
    return VectorIndexer(embedder, Chunker(), nullcontext(), lambda: 0.0)


def never() -> bool:
    return False


class Keeper:
    def hold(self, lease):
        pass

    def drop(self, lease):
        pass


@pytest.fixture
def service(sqlite_backend):
    application = sqlite_backend.application()
    application.run("CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT)")
    application.many("INSERT INTO notes VALUES (?, ?)", [(n, f"text {n}") for n in range(1, ROWS + 1)])
    with seamark.open(sqlite_backend.url, embedder=OracleEmbedder()) as opened:
        opened.attach("notes", text="body")
        yield opened


def vector_step(service, embedder, cancelled):
    source = service.source("notes").source
    generation = next(known for known in service.store.generations(source.id) if known.kind == "vector")
    lease = service.store.lease_claim(generation.id, "worker", ROWS, 60).lease
    assert lease is not None
    outcome = step(service.store, source, generation, indexer(embedder), lease, Keeper(), cancelled, 0)
    return outcome, service.store.coverage(source, [generation.id])[generation.id]


# --- blame --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 100])
@pytest.mark.parametrize("spread", ["together", "apart"])
def test_bad_rows_are_found_within_the_bound_and_their_neighbours_are_done(count, spread):
    for bad in {1, 2, 3, count // 2, count}:
        if not 1 <= bad <= count:
            continue
        numbers = range(1, bad + 1) if spread == "together" else range(1, count + 1, count // bad)[:bad]
        embedder = OracleEmbedder(refused={f"text {n}" for n in numbers}, batch_items=count)
        indexed = indexer(embedder).index(rows(count), never)
        assert set(numbers) == {failure.seq for failure in indexed.failed}
        assert set(range(1, count + 1)) - set(numbers) == {row.seq for row in indexed.batch.rows}
        assert embedder.calls <= 1 + 2 * bad * math.ceil(math.log2(count))


def test_rows_that_failed_before_are_halved_so_that_one_which_breaks_the_server_stands_alone():
    class Breaking(OracleEmbedder):
        def embed_documents(self, texts):
            if "text 3" in texts:
                raise ConnectionResetError("the server died")
            return super().embed_documents(texts)

    indexed = indexer(Breaking()).index(rows(8, attempts=1), never)
    assert [(3, "transient", 2)] == [(failure.seq, failure.kind, failure.attempts) for failure in indexed.failed]


@pytest.mark.parametrize("answer", [ValueError("no tokenizer"), []], ids=["raises", "too short"])
def test_a_row_that_the_embedder_cannot_measure_fails_alone(answer):
    class Odd(OracleEmbedder):
        def token_excess(self, texts):
            if "text 3" not in texts:
                return super().token_excess(texts)
            if isinstance(answer, Exception):
                raise answer
            return answer

    indexed = indexer(Odd()).index(rows(5), never)
    assert [(3, "transient")] == [(failure.seq, failure.kind) for failure in indexed.failed]
    assert [1, 2, 4, 5] == [row.seq for row in indexed.batch.rows]


# --- what is paid for ---------------------------------------------------------------------------------------------


def test_equal_texts_are_embedded_once_and_stay_rows_of_their_own():
    embedder = OracleEmbedder()
    different = [SourceRow((n,), n, live=True, texts=(f"text {n % 3}",)) for n in range(1, 31)]
    indexed = indexer(embedder).index(different, never)
    assert Counter({f"text {n}": 1 for n in range(3)}) == embedder.texts
    assert [row.key for row in different] == [row.key for row in indexed.batch.rows]
    assert all(oracle_proves(vector, f"text {n % 3}", "oracle-a") for n, vector in enumerate(indexed.batch.vectors, start=1))


# --- the end of a worker ------------------------------------------------------------------------------------------


def test_told_to_stop_the_search_for_a_bad_row_ends_after_the_call_under_way():
    embedder = OracleEmbedder(refused={"text 3"})
    with pytest.raises(CancelledError):
        indexer(embedder).index(rows(64), lambda: embedder.calls > 0)
    assert embedder.calls == 1


def test_told_to_stop_a_step_gives_its_lease_back_without_an_attempt(service):
    embedder = OracleEmbedder(refused={"text 3"})
    outcome, coverage = vector_step(service, embedder, lambda: embedder.calls > 0)
    assert (None, 1) == (outcome.settled, embedder.calls)
    assert (64, 0) == (coverage.missing, coverage.failed)
    outcome, coverage = vector_step(service, OracleEmbedder(), never)
    assert (64, 0) == (outcome.settled.written, coverage.missing), "at once, by whoever claims next"


def test_an_outage_gives_the_lease_back_without_an_attempt(service):
    outcome, coverage = vector_step(service, OracleEmbedder(errors=[EmbedderUnavailableError("503")]), never)
    assert "503" == str(outcome.outage)
    assert (64, 0) == (coverage.missing, coverage.failed)


def test_no_transaction_is_open_while_the_model_is_called(sqlite_backend, service):
    embedder = OracleEmbedder(gate=threading.Event())
    working = threading.Thread(target=vector_step, args=(service, embedder, never))
    working.start()
    try:
        assert embedder.entered.wait(30)
        with sqlite_backend._reading(sqlite_backend.sidecar) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
            assert [(0, 0, 0)] == other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall(), "no reader holds the log"
    finally:
        embedder.gate.set()
        working.join()


# --- search -------------------------------------------------------------------------------------------------------


def test_whatever_an_embedder_raises_a_search_answers_from_words_and_says_so(service):
    service.work(until="current")
    embedder = service.embedders.default()[0]

    def embed_queries(texts):
        raise KeyError("bug in your embedder")

    embedder.embed_queries = embed_queries
    result = service.source("notes").search("text 3")
    assert result.hits
    assert any("KeyError" in reason for reason in result.degraded)
