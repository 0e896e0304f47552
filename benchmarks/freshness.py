"""How soon a fresh row is started on, and found, on a quiet system with one worker running.

python benchmarks/freshness.py [sqlite|postgresql] [--rows N]
"""

from __future__ import annotations

import argparse
import random
import threading
import time

import material

import seamark


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(material.DATABASES))
    parser.add_argument("--rows", type=int, default=100)
    options = parser.parse_args()
    for kind in options.kinds:
        with material.database(kind) as place:
            place.load("notes", material.rows(1000))
            with seamark.open(place.url) as service:
                notes = service.attach("notes", text=["title", "body"])
                service.work(until="current")
                measure(place, service, notes, options.rows)


def measure(place: material.Database, service, notes, rows: int) -> None:
    embedder, _ = service.embedders.default()
    called = threading.Event()
    plain = embedder.embed_documents

    def watched(texts):
        called.set()
        return plain(texts)

    embedder.embed_documents = watched
    stop = threading.Event()
    worker = threading.Thread(target=service.work, kwargs={"stop": stop})
    worker.start()
    started, found = [], []
    for number in range(rows):
        time.sleep(random.uniform(0.3, 0.6))
        called.clear()
        began = time.perf_counter()
        place.execute(f"INSERT INTO notes VALUES ({100_000 + number}, 1, 'zebra number {number}', 'crossing')")
        called.wait()
        started.append(time.perf_counter() - began)
        while notes.coverage().missing:
            time.sleep(0.001)
        found.append(time.perf_counter() - began)
    stop.set()
    worker.join()
    print(
        f"{place.kind}: fresh row started on: {material.milliseconds(started)}; whole: {material.milliseconds(found)}",
        flush=True,
    )


if __name__ == "__main__":
    main()
