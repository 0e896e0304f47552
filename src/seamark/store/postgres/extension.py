"""The extension pgvector: whether it is there, where, and in which version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import errors

from seamark.errors import StoreIncompatibleError
from seamark.store.postgres.names import identifier

if TYPE_CHECKING:
    from seamark.store.postgres.connection import Connection, Database

VECTOR_MIN = (0, 8)
"""pgvector 0.8 brought iterative scans, without which a filter may leave a search short."""


def vector_schema(database: Database, connection: Connection) -> str:
    """Return the name of the schema that pgvector is in."""
    _, schema, _ = database.run(connection, "extension", {}).fetchall()[0]
    if schema is None:
        raise StoreIncompatibleError("the extension pgvector was dropped from this database; run CREATE EXTENSION vector")
    return schema


def extension_check(database: Database, connection: Connection) -> None:
    """Raise StoreIncompatibleError where what is installed is too old."""
    version, *_ = database.run(connection, "extension", {}).fetchall()[0]
    if version is not None and version_parts(version) < VECTOR_MIN:
        raise StoreIncompatibleError(
            f"pgvector {version} is too old; install 0.8 or later and run ALTER EXTENSION vector UPDATE"
        )


def extension_create(database: Database, connection: Connection, available: str | None) -> None:
    """Install it into this database, in the version that the server has."""
    if available is None:
        raise StoreIncompatibleError(
            "pgvector is not installed on this PostgreSQL server; install it (see github.com/pgvector/pgvector), then run "
            "CREATE EXTENSION vector"
        )
    try:
        [(home,)] = database.run(connection, "extension_home", {}).fetchall()
        database.run(connection, "extension_create", {"home": identifier(home)})
    except errors.UniqueViolation:
        # Another process has created it at the same moment.
        return
    except errors.InsufficientPrivilege as exc:
        raise StoreIncompatibleError(
            "the extension pgvector is not in this database, and this role may not add it; let a superuser run "
            "CREATE EXTENSION vector"
        ) from exc


def version_parts(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version, to be compared."""
    return tuple(int(part) for part in version.split(".")[:2])
