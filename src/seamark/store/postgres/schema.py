"""Our schema in the user's database: what must be there, bringing it up to date, and what `doctor` looks at."""

from __future__ import annotations

from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING

from seamark.errors import SeamarkError, StoreIncompatibleError, StorePermissionError
from seamark.model import Check
from seamark.store.migrate import lost_check, lost_tell, migrations, shared, steps
from seamark.store.postgres.extension import VECTOR_MIN, extension_check, extension_create, version_parts
from seamark.store.postgres.views import views_refresh

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seamark.store.postgres.connection import Connection, Database

SERVER_MIN = 140000
SCHEMA_LOCK = 0x5EA3A12C
"""Our advisory lock; the number is arbitrary."""
MIGRATIONS = migrations(files("seamark.store.postgres") / "migrations")
SHARED = shared(MIGRATIONS)


def schema_open(database: Database, connection: Connection) -> bool:
    """Bring our schema up to date where there is one; say whether there is. Where there is none nothing is changed."""
    _server_check(database, connection)
    version = schema_version(database, connection)
    if version == 0:
        return False
    extension_check(database, connection)
    if version != len(MIGRATIONS):
        schema_migrate(database, connection)
    with suppress(StorePermissionError):  # a role that may only read is told by `doctor`
        schema_mend(database, connection)
    return True


def schema_create(database: Database, connection: Connection) -> None:
    """Make our schema, and add pgvector to the database, where they are not there."""
    version, _, available = database.run(connection, "extension", {}).fetchall()[0]
    if version is None:
        extension_create(database, connection, available)
    extension_check(database, connection)
    schema_migrate(database, connection)


def schema_version(database: Database, connection: Connection) -> int:
    """Return the version of our schema, 0 when there is none. StoreIncompatibleError when it is not ours."""
    *_, there, ours = database.run(connection, "schema_state", {}).fetchall()[0]
    if not there:
        return 0
    version = database.run(connection, "schema_version", {}).fetchall()[0][0] if ours else None
    if version is None:
        raise StoreIncompatibleError(
            "this database has a schema named seamark that is not Seamark's; rename it, or use another database"
        )
    steps(MIGRATIONS, version)
    return version


def schema_migrate(database: Database, connection: Connection, target: int | None = None) -> None:
    """Migrate to a version (None means the newest), one process at a time, all or nothing."""
    with connection.transaction():
        database.run(connection, "schema_lock", {}, {"lock": SCHEMA_LOCK})
        for step in steps(MIGRATIONS, schema_version(database, connection), target):
            connection.execute(step.script.encode())
            if step.version:
                database.run(connection, "schema_version_write", {}, {"version": step.version})
        if target is None:
            views_refresh(database, connection)


def schema_mend(database: Database, connection: Connection) -> None:
    """Make anew, empty, what somebody has dropped of what all sources share; StoreIncompatibleError where that cannot be."""
    if not _gone(database, connection):
        return
    with connection.transaction():
        database.run(connection, "schema_lock", {}, {"lock": SCHEMA_LOCK})
        gone = _gone(database, connection)
        if not gone:  # somebody else has just made them
            return
        for name in gone:
            connection.execute(SHARED[name].encode())
        if "postings_upkeep" in gone:
            database.run(connection, "postings_upkeep_again", {})
        views_refresh(database, connection)
    lost_tell(gone, "schema seamark")


def _gone(database: Database, connection: Connection) -> list[str]:
    gone = [name for (name,) in database.run(connection, "shared_gone", {}, {"names": list(SHARED)})]
    lost_check(SHARED, gone, "schema seamark", "DROP SCHEMA seamark CASCADE")
    return gone


def _server_check(database: Database, connection: Connection) -> None:
    number, version, encoding, *_ = database.run(connection, "schema_state", {}).fetchall()[0]
    if number < SERVER_MIN:
        raise StoreIncompatibleError(f"PostgreSQL {version} is too old; Seamark needs {SERVER_MIN // 10000} or later")
    if encoding == "SQL_ASCII":
        raise StoreIncompatibleError(
            "the database's encoding is SQL_ASCII, which is none; Seamark needs one that is, such as UTF8"
        )


# --- doctor -------------------------------------------------------------------------------------------------------


def checks(database: Database) -> Sequence[Check]:
    """Look at the database and say what is wrong with it."""
    looks: tuple[tuple[str, Callable[[Database, Connection], Check]], ...] = (
        ("server", _check_server),
        ("pgvector", _check_extension),
        ("schema", _check_schema),
        ("rights", _check_rights),
    )
    found: list[Check] = []
    for name, look in looks:
        try:
            with database.connection() as connection:
                found.append(look(database, connection))
        except SeamarkError as exc:
            found.append(Check(name, ok=False, detail=str(exc), remedy="mend what the message says, then run doctor again"))
    return found


def _check_server(database: Database, connection: Connection) -> Check:
    _server_check(database, connection)
    _, version, encoding, *_ = database.run(connection, "schema_state", {}).fetchall()[0]
    return Check("server", ok=True, detail=f"PostgreSQL {version}, encoding {encoding}")


def _check_extension(database: Database, connection: Connection) -> Check:
    version, schema, available = database.run(connection, "extension", {}).fetchall()[0]
    if version is not None:
        if version_parts(version) < VECTOR_MIN:
            remedy = "ALTER EXTENSION vector UPDATE, to 0.8 or later"
            return Check("pgvector", ok=False, detail=f"version {version}", remedy=remedy)
        return Check("pgvector", ok=True, detail=f"version {version} in schema {schema}")
    if available is None:
        remedy = "install it (see github.com/pgvector/pgvector), then CREATE EXTENSION vector"
        return Check("pgvector", ok=False, detail="not installed on this server", remedy=remedy)
    [(may_add,)] = database.run(connection, "extension_rights", {}).fetchall()
    if not may_add:
        remedy = "let a superuser run CREATE EXTENSION vector"
        return Check("pgvector", ok=False, detail="not in this database, and this role may not add it", remedy=remedy)
    return Check("pgvector", ok=True, detail=f"not in this database yet; the first attach adds version {available}")


def _check_schema(database: Database, connection: Connection) -> Check:
    version = schema_version(database, connection)
    if version == 0:
        return Check("schema", ok=True, detail="not there yet; the first attach makes it")
    if version != len(MIGRATIONS):
        return Check(
            "schema", ok=False, detail=f"version {version}", remedy="open the database with this Seamark to migrate it"
        )
    if gone := _gone(database, connection):
        remedy = "run doctor as the role that owns schema seamark, which makes them anew, empty"
        return Check("schema", ok=False, detail=f"gone: {', '.join(gone)}", remedy=remedy)
    return Check("schema", ok=True, detail=f"version {version}")


def _check_rights(database: Database, connection: Connection) -> Check:
    role, may_create, there, may_use, may_work = database.run(connection, "rights", {}).fetchall()[0]
    if not there and may_create:
        return Check("rights", ok=True, detail=f"role {role} may create schema seamark")
    if may_work:
        return Check("rights", ok=True, detail=f"role {role} may attach, detach and work in schema seamark")
    if may_use:
        return Check("rights", ok=True, detail=f"role {role} may read schema seamark: search, status, failures")
    raise StorePermissionError(
        f"role {role} may not use schema seamark; GRANT USAGE ON SCHEMA seamark TO {role}, and what the README says of rights"
        if there
        else f"role {role} may not create schema seamark; GRANT CREATE ON DATABASE … TO {role}"
    )
