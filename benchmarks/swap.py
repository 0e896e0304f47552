"""Swap: another model over a searched table, while somebody searches fifty times a second; against the fill before it.

    python benchmarks/swap.py [sqlite|postgresql] [--rows N]

The other model computes what `static` does under another name, so that every row is embedded anew and the two take the same
time. A worker process fills and swaps, and swaps once more with nobody beside it; this one searches throughout the first swap,
and stops at a search that fails, finds less than before, or reads two generations of a kind.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace

import material

import seamark
from seamark.embed.registry import embedder_open

SEARCHES_PER_SECOND = 50
LIMIT = 10


class Twin:
    """The static embedder under another name."""

    def __init__(self, name: str) -> None:
        self._static = embedder_open("static")
        self.identity = replace(self._static.identity, name=name)

    def __getattr__(self, name: str) -> object:
        return getattr(self._static, name)


def work(url: str, name: str | None) -> None:
    """Fill, or swap to the twin of that name, and tell how long it took until nothing was missing."""
    done: list[float] = []
    with seamark.open(url, embedder=Twin(name) if name else None) as service:
        [tracked] = service.sources()
        began = time.perf_counter()
        if name:
            tracked.swap()

        def told(progress: object) -> None:
            if progress.total and progress.rows >= progress.total and not done:
                done.append(time.perf_counter() - began)

        service.work(until="current", progress=told)
        done.append(time.perf_counter() - began)
    print(json.dumps({"seconds": done[0], "whole_seconds": done[-1]}))


def worker(url: str, name: str | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--work", url, *(["--swap", name] if name else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def search_throughout(place: material.Database, process: subprocess.Popen[str], questions: list[str]) -> list[float]:
    """Search until the process has ended; return the seconds each search took."""
    seconds: list[float] = []
    read: set[int] = set()
    with seamark.open(place.url, embedder=Twin("twin-a")) as service:
        [tracked] = service.sources()
        began = time.perf_counter()
        while process.poll() is None or len(seconds) < len(questions):
            due = began + len(seconds) / SEARCHES_PER_SECOND
            time.sleep(max(0.0, due - time.perf_counter()))
            asked = time.perf_counter()
            found = tracked.search(questions[len(seconds) % len(questions)], limit=LIMIT)
            seconds.append(time.perf_counter() - asked)
            assert len(found) == LIMIT, f"{len(found)} hits"
            assert not found.degraded, found.degraded
            assert len(found.generations) == 2, found.generations
            read.add(found.generations[1])
    assert len(read) == 2, f"searches read {read}: the old generation, then the new one"
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(material.DATABASES))
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--swap", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.swap)
        return
    asked = material.questions(300)
    for kind in options.kinds:
        with material.database(kind) as place:
            place.load("notes", material.rows(options.rows))
            with seamark.open(place.url) as service:
                service.attach("notes", text=["title", "body"])
            fill = json.loads(worker(place.url).communicate()[0])
            place.tidy()
            process = worker(place.url, "twin-a")
            seconds = search_throughout(place, process, asked)
            beside = json.loads(process.stdout.read())
            alone = json.loads(worker(place.url, "twin-b").communicate()[0])
            rate = {
                name: options.rows / found["seconds"] for name, found in (("fill", fill), ("swap", alone), ("beside", beside))
            }
            print(
                f"{kind}: {options.rows:,} rows: fill {rate['fill']:,.0f} rows/s, swap {rate['swap']:,.0f} rows/s "
                f"({rate['swap'] / rate['fill']:.2f} x), beside the searches {rate['beside']:,.0f} rows/s, active after "
                f"{beside['whole_seconds']:.1f} s; {len(seconds):,} searches, each with {LIMIT} hits: "
                f"{material.milliseconds(seconds)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
