"""When it is time for an audit, who is at it, and what came of the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.model import Audited
from seamark.store.sqlite.claims import MICROSECONDS, clock
from seamark.store.sqlite.words import STATEMENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.store.sqlite.connection import Connections


def audit_begin(connections: Connections, source_id: int, worker: str, seconds: float, interval_seconds: float) -> bool:
    """Take an audit on, if it is time for one and nobody is at it."""
    with connections.transaction() as connection:
        now = clock(connection)
        values = {
            "source": source_id,
            "worker": worker,
            "now": now,
            "expires_at": now + int(seconds * MICROSECONDS),
            "before": now - int(interval_seconds * MICROSECONDS),
        }
        return connection.value(STATEMENTS["audit_begin"], values) is not None


def audit_renew(connections: Connections, source_id: int, worker: str, seconds: float) -> bool:
    """Go on with an audit that is ours."""
    with connections.transaction() as connection:
        values = (clock(connection) + int(seconds * MICROSECONDS), source_id, worker)
        return connection.value(STATEMENTS["audit_renew"], values) is not None


def audit_end(connections: Connections, source_id: int, worker: str, audited: Sequence[Audited]) -> None:
    """Let an audit go that is ours, and record what came of it."""
    with connections.transaction() as connection:
        if connection.value(STATEMENTS["audit_release"], (source_id, worker)) is not None:
            now = clock(connection)
            rows = [(one.generation_id, now, one.rows, one.findings, one.repaired) for one in audited]
            connection.many(STATEMENTS["audit_record"], rows)


def audits(connections: Connections, source_id: int) -> dict[int, Audited]:
    """Return the last audit of each generation."""
    with connections.use() as connection:
        return {row[0]: Audited(*row) for row in connection.rows(STATEMENTS["audits"], (source_id,))}
