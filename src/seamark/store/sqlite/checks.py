"""What `doctor` looks at."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import apsw

from seamark.errors import SeamarkError, TableUnusableError
from seamark.model import Check
from seamark.store.sqlite import tables
from seamark.store.sqlite.schema import MIGRATIONS, schema_version
from seamark.store.sqlite.source import sources_list
from seamark.store.sqlite.words import STATEMENTS, journal_name, table_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from seamark.model import Source
    from seamark.store.sqlite.connection import Connection, Connections

SQLITE_MIN = (3, 51, 3)
"""Older ones can lose committed pages when a WAL is reset at the wrong moment."""


def checks(connections: Connections) -> list[Check]:
    """Look at everything, each on its own."""
    looks: dict[str, Callable[[Connections], list[Check]]] = {
        "file": _file,
        "rights": _rights,
        "sqlite": _sqlite,
        "journal mode": _journal_mode,
        "sidecar": _sidecar,
        "journals": _orphans,
        "keys": _keys,
    }
    found: list[Check] = []
    for name, look in looks.items():
        try:
            found += look(connections)
        except SeamarkError as error:
            found.append(Check(name, ok=False, detail=str(error), remedy="mend that, and run doctor again"))
    return found


def _file(connections: Connections) -> list[Check]:
    with connections.use() as connection:
        sane = connection.value("SELECT count(*) FROM app.sqlite_schema")
    return [Check("file", ok=True, detail=f"{connections.path} is a SQLite database of {sane} tables, indexes and triggers")]


def _rights(connections: Connections) -> list[Check]:
    with connections.user_transaction():
        return [Check("rights", ok=True, detail=f"{connections.path} can be written, which attach and detach need")]


def _sqlite(_connections: Connections) -> list[Check]:
    version = apsw.sqlite_lib_version()
    ok = tuple(int(part) for part in version.split(".")) >= SQLITE_MIN
    carray = "ENABLE_CARRAY" in apsw.compile_options
    detail = f"SQLite {version}, with{'' if carray else 'out'} carray"
    found = [Check("sqlite", ok=ok and carray, detail=detail, remedy="pip install --upgrade apsw, from PyPI")]
    if "_sqlite3" in sys.modules:
        # POSIX file locks belong to the process: two libraries in one do not keep each other out.
        remedy = "run workers in processes of their own (`seamark work`), or use apsw for this file in this process"
        detail = "Python's sqlite3 is loaded in this process, and does not see the locks that Seamark's SQLite takes"
        found.append(Check("one library", ok=False, detail=detail, remedy=remedy, required=False))
    return found


def _journal_mode(connections: Connections) -> list[Check]:
    with connections.use() as connection:
        mode = connection.pragma("journal_mode", schema="app")
    detail = f"{connections.path} is in journal mode {mode}"
    remedy = "PRAGMA journal_mode = WAL, once; until then readers and writers wait for each other"
    return [Check("journal mode", ok=mode == "wal", detail=detail, remedy=remedy, required=False)]


def _orphans(connections: Connections) -> list[Check]:
    """Look for journals that the sidecar knows nothing of: it was deleted, or the file was copied without it."""
    with connections.use() as connection:
        known = {journal_name(source.table.name) for source in sources_list(connection)}
        statement = "SELECT name FROM app.sqlite_schema WHERE type = 'table' AND name LIKE 'seamark\\_journal\\_%' ESCAPE '\\'"
        orphans = [name for (name,) in connection.rows(statement) if name not in known]
    detail = f"{connections.sidecar} knows nothing of {', '.join(orphans)}" if orphans else "each belongs to a source"
    remedy = "attach the table again with the same words; then it may be detached, too"
    return [Check("journals", ok=not orphans, detail=detail, remedy=remedy)]


def _keys(connections: Connections) -> list[Check]:
    """Look for rows without a key, which SQLite allows, and which cannot be told from one another."""
    with connections.use() as connection:
        counts = {source.table.name: _keyless(connection, source) for source in sources_list(connection)}
    found = [f"{count} of {name!r}" for name, count in counts.items() if count]
    detail = f"rows with NULL in their key are left out: {', '.join(found)}" if found else "every row has one"
    return [Check("keys", ok=not found, detail=detail, remedy="give them a key", required=False)]


def _keyless(connection: Connection, source: Source) -> int:
    try:
        present = tables.table_inspect(connection, source.table.name)
    except TableUnusableError:
        return 0  # that it is gone is another check's to tell
    if present.key != source.table.key:
        return 0
    return int(connection.value(STATEMENTS["keyless"].format_map(table_words(source.table))))


def _sidecar(connections: Connections) -> list[Check]:
    with connections.use() as connection:
        version = schema_version(connection)
        sound = connection.pragma("quick_check", 1, schema="main")
    ok = version == len(MIGRATIONS) and sound == "ok"
    detail = f"{connections.sidecar} has schema version {version} of {len(MIGRATIONS)}; integrity: {sound}"
    remedy = f"move {connections.sidecar} away and attach again: it holds nothing that cannot be made anew"
    return [Check("sidecar", ok=ok, detail=detail, remedy=remedy)]
