"""The sidecar's schema, brought to the version that this Seamark knows."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

from seamark.errors import StoreIncompatibleError
from seamark.store.migrate import lost_check, lost_tell, migrations, shared, steps
from seamark.store.sqlite.words import STATEMENTS, generation_words, key_names

if TYPE_CHECKING:
    from seamark.store.sqlite.connection import Connection, Connections

APPLICATION_ID = 0x5345414D
"""`SEAM`, in the place that SQLite keeps for whose file it is."""
KEPT_VERSION = 4
"""From this version on a vector generation has a table of the vectors that are put by."""
MIGRATIONS = migrations(files("seamark.store.sqlite").joinpath("migrations"))
SHARED = shared(MIGRATIONS)


def schema_version(connection: Connection) -> int:
    """Return how many migrations the sidecar has had; StoreIncompatibleError when the file is somebody else's."""
    owner = connection.pragma("application_id")
    empty = connection.value("SELECT count(*) = 0 FROM main.sqlite_schema")
    if owner != APPLICATION_ID and not (owner == 0 and empty):
        path = connection.filename
        raise StoreIncompatibleError(f"{path} is not a sidecar of Seamark's; move it away, and attach again")
    return int(connection.pragma("user_version"))


def schema_migrate(connections: Connections, target: int | None = None) -> None:
    """Run what leads from the sidecar's version to `target` (None means the newest), in one transaction."""
    with connections.use() as connection:
        if not steps(MIGRATIONS, schema_version(connection), target):
            return
    with connections.transaction() as connection:
        for step in steps(MIGRATIONS, schema_version(connection), target):
            connection.run(step.script)
            connection.pragma("user_version", step.version)
            if step.version >= KEPT_VERSION:
                _kept_create(connection)
        connection.pragma("application_id", APPLICATION_ID)


def schema_mend(connections: Connections) -> None:
    """Make anew, empty, what somebody has dropped of what all sources share; StoreIncompatibleError where that cannot be."""
    with connections.use() as connection:
        if not _gone(connections, connection):
            return
    with connections.transaction() as connection:
        gone = _gone(connections, connection)
        if not gone:  # somebody else has just made them
            return
        for name in gone:
            connection.run(SHARED[name])
        if "postings_upkeep" in gone:
            connection.run(STATEMENTS["postings_upkeep_again"])
    lost_tell(gone, str(connections.sidecar))


def _gone(connections: Connections, connection: Connection) -> list[str]:
    gone = [name for (name,) in connection.rows(STATEMENTS["shared_gone"], (json.dumps(list(SHARED)),))]
    lost_check(SHARED, gone, str(connections.sidecar), "move it away")
    return gone


def _kept_create(connection: Connection) -> None:
    """Make that table for the generations of an older version."""
    for generation, key in connection.rows(STATEMENTS["generations_vector"]):
        keys = ", ".join(key_names(len(json.loads(key))))
        connection.run(STATEMENTS["kept_create"].format_map(generation_words(generation) | {"keys": keys}))
