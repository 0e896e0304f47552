"""When it is time for an audit, who is at it, and what came of the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.model import Audited

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.store.postgres.connection import Database


def audit_begin(database: Database, source_id: int, worker: str, seconds: float, interval_seconds: float) -> bool:
    """Take an audit on, if it is time for one and nobody is at it."""
    values = {
        "source": source_id,
        "worker": worker,
        "microseconds": round(seconds * 1e6),
        "interval": round(interval_seconds * 1e6),
    }
    with database.connection() as connection:
        return database.run(connection, "audit_begin", {}, values).fetchone() is not None


def audit_renew(database: Database, source_id: int, worker: str, seconds: float) -> bool:
    """Go on with an audit that is ours."""
    values = {"source": source_id, "worker": worker, "microseconds": round(seconds * 1e6)}
    with database.connection() as connection:
        return database.run(connection, "audit_renew", {}, values).fetchone() is not None


def audit_end(database: Database, source_id: int, worker: str, audited: Sequence[Audited]) -> None:
    """Let an audit go that is ours, and record what came of it."""
    with database.transaction() as connection:
        if database.run(connection, "audit_release", {}, {"source": source_id, "worker": worker}).fetchone() is None:
            return
        for one in audited:
            values = {"generation": one.generation_id, "rows": one.rows, "findings": one.findings, "repaired": one.repaired}
            database.run(connection, "audit_record", {}, values)


def audits(database: Database, source_id: int) -> dict[int, Audited]:
    """Return the last audit of each generation."""
    with database.connection() as connection:
        return {row[0]: Audited(*row) for row in database.run(connection, "audits", {}, {"source": source_id})}
