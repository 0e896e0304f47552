"""What `doctor` says of a SQLite file."""

import subprocess
import sys

import apsw
import pytest

from seamark.store.sqlite.store import SqliteStore
from seamark.testing.workbench import Workbench

LOOK = """
import sys
{loaded}
from seamark.store.sqlite.store import SqliteStore
store = SqliteStore(sys.argv[1])
print(*[check.name for check in store.checks() if not check.ok], sep=",")
store.close()
"""


@pytest.mark.parametrize(("loaded", "expected"), [("", ""), ("import sqlite3", "one library")])
def test_a_second_sqlite_library_in_the_process_is_told(sqlite_path, loaded, expected):
    command = [sys.executable, "-c", LOOK.format(loaded=loaded), str(sqlite_path)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == expected


@pytest.mark.parametrize(("mode", "well"), [("delete", False), ("wal", True)])
def test_a_file_that_is_not_in_wal_mode_is_told(tmp_path, mode, well):
    path = tmp_path / "app.db"
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("CREATE TABLE a(b)")
    connection.close()
    store = SqliteStore(path)
    found = {check.name: check.ok for check in store.checks()}
    store.close()
    assert found["journal mode"] is well


def test_rows_without_a_key_are_told(sqlite_backend):
    bench = Workbench(sqlite_backend)
    bench.notes("a")
    bench.app.run("CREATE TABLE things (key TEXT PRIMARY KEY, body TEXT)")
    bench.app.run("CREATE TABLE pairs (org INTEGER, key TEXT, body TEXT, PRIMARY KEY (org, key))")
    bench.attach("things", ("body",))
    bench.attach("pairs", ("body",))

    def keys():
        return next(check for check in bench.store.checks() if check.name == "keys")

    assert keys().ok
    bench.app.run("INSERT INTO things VALUES ('a', 'x'), (NULL, 'lost'), (NULL, 'too')")
    bench.app.run("INSERT INTO pairs VALUES (1, 'a', 'x'), (1, NULL, 'lost')")
    assert not keys().ok
    assert not keys().required
    assert "2 of 'things', 1 of 'pairs'" in keys().detail
    bench.app.run("DROP TABLE things")
    assert "1 of 'pairs'" in keys().detail
