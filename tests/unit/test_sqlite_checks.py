"""What `doctor` says of a SQLite file."""

import subprocess
import sys

import apsw
import pytest

from seamark.store.sqlite.store import SqliteStore

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
