"""Finding work: a claim with nothing, a little and everything pending, against the anti-join over the same rows.

python benchmarks/finding_work.py [sqlite|postgresql] [--rows N]
"""

from __future__ import annotations

import argparse
import statistics

import material
import numpy as np

import seamark

CLAIMS = 40


class Counting:
    """An embedder that is never called here: the benchmark claims, and does not embed."""

    identity = seamark.model.ModelIdentity("benchmark", "1", 8)
    fusion_weight = 0.5
    concurrency = 1
    batch_items = 512

    def token_excess(self, texts):
        return [False] * len(texts)

    def embed_documents(self, texts):
        return np.ones((len(texts), 8), np.float32)

    embed_queries = embed_documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(material.DATABASES))
    parser.add_argument("--rows", type=int, default=1_150_000)
    options = parser.parse_args()
    for kind in options.kinds:
        with material.database(kind) as place:
            measure(place, options.rows)


def measure(place: material.Database, rows: int) -> None:
    place.load("notes", ((n + 1, n % 50, f"t{n}", "body") for n in range(rows)))
    with seamark.open(place.url, embedder=Counting()) as service:
        tracked = service.attach("notes", text=["title", "body"])
        store, source = service.store, tracked.source
        generation = next(g for g in store.generations(source.id) if g.kind == "vector")

        def claims() -> list[float]:
            return material.timed(lambda: store.lease_claim(generation.id, "bench", 512, 60.0), CLAIMS)

        everything = claims()
        settle_all(place, source, generation)
        store.lease_claim(generation.id, "bench", 512, 60.0)
        nothing = claims()
        place.execute(f"UPDATE notes SET title = title || '!' WHERE id <= {min(25_000, rows)}")
        little = claims()
        anti = material.timed(lambda: anti_join(place, source, generation), 3)
        counted = material.timed(lambda: store.coverage(source, [generation.id])[generation.id], 3)
    for name, seconds in (("nothing", nothing), ("25 k", little), ("everything", everything)):
        ratio = statistics.median(anti) / statistics.median(seconds)
        print(
            f"{place.kind}: {rows:,} rows, {name} pending: claim {material.milliseconds(seconds)}; {ratio:,.0f} x faster",
            flush=True,
        )
    print(f"{place.kind}: anti-join {material.milliseconds(anti)}; exact coverage {material.milliseconds(counted)}", flush=True)


def _tables(place: material.Database, source, generation) -> tuple[str, str]:
    if place.kind == "sqlite":
        return f'"seamark_journal_{source.name}"', f"seamark.rows_{generation.id}"
    return f"seamark.journal_{source.id}", f"seamark.rows_{generation.id}"


def sidecar(place: material.Database, statement: str) -> list[tuple]:
    if place.kind != "sqlite":
        return place.execute(statement)
    attach = f"ATTACH '{place.folder}/app.db-seamark' AS seamark; "
    return place.execute(attach + statement)


def settle_all(place: material.Database, source, generation) -> None:
    """Mark every row as done, as if a worker had done it: only the state of the tables matters here."""
    journal, done = _tables(place, source, generation)
    columns = "k1, seq, chunks, truncated, embedded_at, worker"
    sidecar(place, f"INSERT INTO {done}({columns}) SELECT k1, seq, 1, {truth(place)}, 0, '' FROM {journal}")
    sidecar(place, f"DELETE FROM seamark.lease WHERE generation_id = {generation.id}")
    sidecar(place, f"UPDATE seamark.generation SET backfill = 0, swept = origin WHERE id = {generation.id}")
    if place.kind == "postgresql":
        place.execute("VACUUM ANALYZE")


def truth(place: material.Database) -> str:
    return "0" if place.kind == "sqlite" else "false"


def anti_join(place: material.Database, source, generation) -> None:
    _, done = _tables(place, source, generation)
    sidecar(place, f"SELECT count(*) FROM notes s LEFT JOIN {done} r ON r.k1 = +s.id WHERE r.k1 IS NULL")


if __name__ == "__main__":
    main()
