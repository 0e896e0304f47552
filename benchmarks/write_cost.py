"""What tracking costs a writer: the same inserts without it, with it, and with a row trigger that fills a queue table.

    python benchmarks/write_cost.py [sqlite|postgresql] [--rows N] [--rounds N]

The three take turns within every round, each into a table of its own; medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import contextmanager

import apsw
import material
import psycopg

import seamark

TABLES = ("plain", "tracked", "queued")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(material.DATABASES))
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--commits", type=int, default=300)
    options = parser.parse_args()
    for kind in options.kinds:
        with material.database(kind) as place:
            prepare(place)
            report(place, options)


def prepare(place: material.Database) -> None:
    for table in TABLES:
        place.execute(f"CREATE TABLE {table}(id INTEGER PRIMARY KEY, org_id INTEGER, title TEXT, body TEXT)")
    with seamark.open(place.url) as service:
        service.attach("tracked", text=["title", "body"])
    if place.kind == "sqlite":
        place.execute(
            "CREATE TABLE queue(id INTEGER PRIMARY KEY, row_id INTEGER, status TEXT, attempts INTEGER, created_at INTEGER)"
        )
        place.execute("CREATE INDEX queue_status ON queue(status, id)")
        place.execute(
            "CREATE TRIGGER queued_insert AFTER INSERT ON queued BEGIN INSERT INTO queue(row_id, status, attempts, created_at) "
            "VALUES (NEW.id, 'pending', 0, strftime('%s', 'now')); END"
        )
        return
    place.execute(
        "CREATE TABLE queue(id bigserial PRIMARY KEY, row_id bigint, status text, attempts int, created_at timestamptz)"
    )
    place.execute("CREATE INDEX queue_status ON queue(status, id)")
    place.execute(
        "CREATE FUNCTION enqueue() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO queue(row_id, status, attempts, "
        "created_at) VALUES (NEW.id, 'pending', 0, now()); RETURN NULL; END $$"
    )
    place.execute("CREATE TRIGGER queued_insert AFTER INSERT ON queued FOR EACH ROW EXECUTE FUNCTION enqueue()")


def report(place: material.Database, options: argparse.Namespace) -> None:
    bulk: dict[str, list[float]] = {table: [] for table in TABLES}
    single: dict[str, list[float]] = {table: [] for table in TABLES}
    batch = list(material.rows(options.rows))
    with application(place) as app:
        for turn in range(options.rounds):
            order = TABLES[turn % 3 :] + TABLES[: turn % 3]
            for table in order:
                bulk[table].append(
                    app.bulk(table, [(turn * 10_000_000 + n, org, title, body) for n, org, title, body in batch])
                )
            for table in order:
                start = turn * 10_000_000 + 5_000_000
                single[table].append(app.commits(table, [(start + n, org, t, b) for n, org, t, b in batch[: options.commits]]))
    for name, seconds, per in (("bulk insert", bulk, options.rows), ("single-row commits", single, options.commits)):
        plain, tracked, queued = (statistics.median(seconds[table]) for table in TABLES)
        print(
            f"{place.kind}: {name}: plain {plain / per * 1e6:.1f} µs a row, tracked {tracked / plain:.2f} x, "
            f"queue trigger {queued / plain:.2f} x",
            flush=True,
        )


class SqliteApplication:
    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def bulk(self, table: str, rows: list[tuple]) -> float:
        began = time.perf_counter()
        with self._connection:
            self._connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", rows)
        return time.perf_counter() - began

    def commits(self, table: str, rows: list[tuple]) -> float:
        began = time.perf_counter()
        for row in rows:
            self._connection.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", row)
        return time.perf_counter() - began


class PostgresApplication:
    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def bulk(self, table: str, rows: list[tuple]) -> float:
        began = time.perf_counter()
        with (
            self._connection.transaction(),
            self._connection.cursor() as cursor,
            cursor.copy(f"COPY {table} FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row(row)
        return time.perf_counter() - began

    def commits(self, table: str, rows: list[tuple]) -> float:
        began = time.perf_counter()
        for row in rows:
            self._connection.execute(f"INSERT INTO {table} VALUES (%s, %s, %s, %s)", row)
        return time.perf_counter() - began


@contextmanager
def application(place: material.Database):
    if place.kind == "sqlite":
        connection = apsw.Connection(str(place.folder / "app.db"))
        connection.pragma("synchronous", "full")
        yield SqliteApplication(connection)
        connection.close()
    else:
        with psycopg.connect(place.url, autocommit=True) as connection:
            yield PostgresApplication(connection)


if __name__ == "__main__":
    main()
