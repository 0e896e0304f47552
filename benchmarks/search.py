"""Search latency and recall: hybrid, lexical and vector, for people's questions and for questions of the commonest words.

python benchmarks/search.py [sqlite|postgresql] [--rows N] [--questions N]
"""

from __future__ import annotations

import argparse
import time

import material

import seamark


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(material.DATABASES))
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=300)
    options = parser.parse_args()
    asked = material.questions(options.questions)
    common = material.commonest_questions(material.commits(), options.questions)
    for kind in options.kinds:
        with material.database(kind) as place:
            place.load("notes", material.rows(options.rows))
            with seamark.open(place.url) as service:
                notes = service.attach("notes", text=["title", "body"])
                service.work(until="current")
                place.tidy()
                report(place, notes, options.rows, asked, common)
                print(
                    f"{kind}: {options.rows:,} rows: recall@10 of the vector leg {recall(service, notes, asked):.3f}",
                    flush=True,
                )


def report(place: material.Database, notes, rows: int, asked: list[str], common: list[str]) -> None:
    for mode in ("hybrid", "lexical", "vector"):
        for name, questions in (("questions", asked), ("commonest words", common)):
            for question in questions[:20]:
                notes.search(question, mode=mode)
            seconds = []
            for question in questions:
                began = time.perf_counter()
                hits = notes.search(question, mode=mode)
                seconds.append(time.perf_counter() - began)
                assert hits or mode == "lexical", question
            print(f"{place.kind}: {rows:,} rows, {mode}, {name}: {material.milliseconds(seconds)}", flush=True)
    seconds = []
    for number, question in enumerate(asked):
        began = time.perf_counter()
        hits = notes.search(question, filter={"org_id": number % 50})
        seconds.append(time.perf_counter() - began)
        assert len(list(hits)) == min(10, rows // 50), question
    print(f"{place.kind}: {rows:,} rows, hybrid, filter on a fiftieth: {material.milliseconds(seconds)}", flush=True)


def recall(service, notes, asked: list[str]) -> float:
    store = service.store
    generation = next(g for g in store.generations(notes.source.id) if g.kind == "vector")
    embedder, _ = service.embedders.default()
    found = 0.0
    with store.snapshot() as reader:
        for question in asked[:100]:
            vector = embedder.embed_queries([question])[0]
            # As ANN-Benchmarks counts: whatever is as near as the tenth is right, since equal texts have equal vectors.
            exact = reader.chunks_nearest(generation.id, vector, 10, exact=True)()
            tenth = exact[-1].similarity - 1e-6
            near = reader.chunks_nearest(generation.id, vector, 10)()
            found += sum(hit.similarity >= tenth for hit in near) / len(exact)
    return found / len(asked[:100])


if __name__ == "__main__":
    main()
