"""Verify and adopt: rows a second of an audit of a sound table, and vectors a second of those that exist already.

python benchmarks/verify_adopt.py [sqlite|postgresql] [--rows N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import material
import numpy as np

import seamark
from seamark.core.chunking import render
from seamark.edges.vector_files import numpy_batches


def verify(notes, rows: int) -> float:
    """Return how long an audit takes, of the words and of the vectors; nothing is to be found."""
    began = time.perf_counter()
    found = notes.verify()
    seconds = time.perf_counter() - began
    assert found.rows == rows, found
    assert not found.total, found
    return seconds


def adopt(service, rows: int, folder: Path) -> float:
    """Return how long it takes to adopt a vector for every row of another table with the same text."""
    embedder, _ = service.embedders.default()
    generator = np.random.default_rng(7)
    vectors = generator.standard_normal((rows, embedder.identity.dimension), np.float32)
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "keys.npy", np.arange(1, rows + 1))
    others = service.attach("others", text=["title", "body"])
    began = time.perf_counter()
    batches = numpy_batches(folder / "vectors.npy", folder / "keys.npy", None)
    done = others.adopt("static", batches=batches, trust_text=True, chunk=100_000)
    seconds = time.perf_counter() - began
    blank = sum(not render((title, body)).strip() for _, _, title, body in material.rows(rows))
    assert (done.rows, done.divided) == (rows - blank, blank), done
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(material.DATABASES))
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    for kind in options.kinds:
        with material.database(kind) as place, tempfile.TemporaryDirectory() as folder:
            for table in ("notes", "others"):
                place.load(table, material.rows(options.rows))
            with seamark.open(place.url) as service:
                notes = service.attach("notes", text=["title", "body"])
                service.work(until="current")
                place.tidy()
                audited = verify(notes, options.rows)
                adopted = adopt(service, options.rows, Path(folder))
            print(
                f"{kind}: {options.rows:,} rows: verify {options.rows / audited:,.0f} rows/s, "
                f"adopt {options.rows / adopted:,.0f} vectors/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
