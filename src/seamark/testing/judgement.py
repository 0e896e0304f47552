"""Judges a database at rest, after whatever has befallen it, by what is stored in it and by the log of an oracle embedder."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from seamark.core.analysis import Analyzer
from seamark.core.chunking import Chunker
from seamark.testing.oracle import log_counts, oracle_proves
from seamark.testing.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from seamark.model import Generation, Key, Source, StoredVectors
    from seamark.testing.backend import Backend

    Proof = Callable[[StoredVectors, str, str], bool]


def judge(backend: Backend, texts: Mapping[Key, str], gone: str = "", *, parked: Collection[Key] = ()) -> None:
    """Check I1, I2 and I15 of the one source there is.

    Args:
        backend: the database.
        texts: what is live, key → rendered text.
        gone: words of rows that are not live any more.
        parked: rows among the live ones that have no vector, because their failure is recorded and they are not tried again.
    """
    bench = Workbench(backend)
    [source] = bench.store.sources()
    judge_source(bench, source, texts, gone, parked=parked)


def judge_source(
    bench: Workbench,
    source: Source,
    texts: Mapping[Key, str],
    gone: str = "",
    *,
    parked: Collection[Key] = (),
    proves: Proof = oracle_proves,
) -> None:
    """Check I1, I2 and I15 of a source. `proves` says whether a stored vector is that of a text under a model."""
    generations = {one.kind: one for one in bench.store.generations(source.id) if one.state != "retired"}
    assert source.state == "ready"
    assert {generation.state for generation in generations.values()} == {"active"}
    assert {key for key, (_, deleted) in bench.backend.journal(source).items() if not deleted} == texts.keys()
    for generation in generations.values():
        lacking = parked if generation.kind == "vector" else ()
        coverage = bench.coverage_check(source, generation, texts)
        assert (coverage.missing, coverage.failed, coverage.leases) == (0, len(lacking), 0)
        assert coverage.live == len(texts)
    indexed = {key: text for key, text in texts.items() if key not in parked}
    _judge_vectors(bench.backend, source, generations["vector"], indexed, proves)
    _judge_words(bench, source, generations["lexical"], texts, gone)


def judge_calls(log: Path, texts: Mapping[Key, str], lost: int) -> None:
    """Check I5: every text has been embedded, once and at most once more for each time that work may have been lost."""
    calls = log_counts(log)
    assert {text for text in texts.values() if text} <= calls.keys()
    assert max(calls.values()) <= 1 + lost


def _judge_vectors(backend: Backend, source: Source, generation: Generation, texts: Mapping[Key, str], proves: Proof) -> None:
    assert generation.model is not None
    chunker = Chunker.of(generation.identity)
    expected = {key: chunker.split(text).chunks for key, text in texts.items()}
    stored = backend.chunks(source, generation)
    assert Counter(chunk.key for chunk in stored) == Counter({key: len(found) for key, found in expected.items() if found})
    for chunk in stored:
        wanted = expected[chunk.key][chunk.ordinal]
        assert (chunk.start, chunk.stop, bytes(chunk.digest)) == (wanted.start, wanted.stop, wanted.digest)
        assert proves(chunk.vector, texts[chunk.key][chunk.start : chunk.stop], generation.model.name)


def _judge_words(bench: Workbench, source: Source, generation: Generation, texts: Mapping[Key, str], gone: str) -> None:
    analyzer = Analyzer()
    wanted = {key: Counter(analyzer.terms(text)) for key, text in texts.items()}
    found: dict[Key, Counter[str]] = {key: Counter() for key in texts}
    with bench.store.snapshot() as reader:
        terms = sorted({term for counts in wanted.values() for term in counts} | set(analyzer.terms(gone)))
        for term, postings in reader.postings_read(generation.id, terms).items():
            keys = reader.documents_resolve(source, generation.id, postings["doc"].tolist(), None)
            for document, frequency, _ in postings.tolist():
                if document in keys:
                    assert term not in found[keys[document]]
                    found[keys[document]][term] = frequency
    assert found == wanted
