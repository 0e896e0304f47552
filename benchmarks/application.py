"""An application beside the workers, on SQLite: it writes 500 rows a second with no busy timeout while four workers fill.

    python benchmarks/application.py [--rows N]

Counts every SQLITE_BUSY it gets, and what its file grew by for tracking.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import apsw
import material

import seamark

PER_SECOND = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    with material.database("sqlite") as place:
        place.load("notes", material.rows(options.rows))
        place.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        place.execute("VACUUM")
        place.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file = place.folder / "app.db"
        before = file.stat().st_size
        with seamark.open(place.url) as service:
            service.attach("notes", text=["title", "body"])
        place.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        attached = file.stat().st_size
        command = [sys.executable, "-m", "seamark", "work", "--db", place.url, "--until", "current"]
        workers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(4)]
        written, busy, slowest = write(str(file), options.rows, workers)
        codes = [worker.wait() for worker in workers]
        with seamark.open(place.url) as service:
            coverage = service.source("notes").coverage()
    print(f"{options.rows:,} rows filled by 4 workers (exit codes {codes}); the application wrote {written:,} rows meanwhile,")
    print(
        f"got SQLITE_BUSY {busy} times, its slowest write took {slowest * 1e3:.1f} ms; missing at the end: {coverage.missing}"
    )
    print(f"the application's file grew by {(attached - before) / options.rows:.1f} bytes a row for tracking")


def write(path: str, start: int, workers: list[subprocess.Popen]) -> tuple[int, int, float]:
    connection = apsw.Connection(path)
    connection.set_busy_timeout(0)
    written = busy = 0
    slowest = 0.0
    began = time.perf_counter()
    texts = material.commits()
    while any(worker.poll() is None for worker in workers) and written < 60 * PER_SECOND:
        due = began + written / PER_SECOND
        time.sleep(max(due - time.perf_counter(), 0))
        title, body = texts[written % len(texts)]
        asked = time.perf_counter()
        try:
            connection.execute("INSERT INTO notes VALUES (?, ?, ?, ?)", (start + written + 1, 1, f"{title} again", body))
        except apsw.BusyError:
            busy += 1
        slowest = max(slowest, time.perf_counter() - asked)
        written += 1
    connection.close()
    return written, busy, slowest


if __name__ == "__main__":
    main()
