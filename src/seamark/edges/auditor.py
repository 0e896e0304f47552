"""The daily audit by a worker: one source after another, in its spare time, and mended at once."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from seamark.core.audit import verify
from seamark.model import Audited

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from seamark.core.service import Seamark
    from seamark.model import Source
    from seamark.model.findings import Findings

LOOK_SECONDS = 10.0
"""How often it is looked whether an audit is due; more often where the interval is that short."""
LOOK_SHARE = 10
HELD_SECONDS = 120.0
"""An audit of a worker that died, or that failed, is begun anew by another after so long."""
RENEW_SECONDS = 10.0
REST = 3
"""After each piece of an audit a rest of three times as long: it takes a quarter of one processor at most."""


class _LeftError(Exception):
    """The worker is to stop, or another one has taken the audit over."""


class Auditor:
    """Audits the sources whose time has come.

    Args:
        service: whose sources.
        worker: the worker's id.
        wait: waits so many seconds, and says whether the worker is to end.
    """

    def __init__(self, service: Seamark, worker: str, wait: Callable[[float], bool]) -> None:
        self._service, self._worker, self._wait = service, worker, wait
        self._interval = service.audit_interval_seconds
        self._renewed = 0.0

    @property
    def look_seconds(self) -> float | None:
        """How long to wait between two looks; None when nothing is to be audited."""
        return min(LOOK_SECONDS, self._interval / LOOK_SHARE) if self._interval > 0 else None

    def audit(self, source: Source) -> bool:
        """Audit a source, if it is time; say whether it was audited to the end.

        A source that is no longer as it was attached is left alone: what feeds it is for its owner to mend.
        """
        store = self._service.store
        if self._service.source_problems(source):
            return False
        if not store.audit_begin(source.id, self._worker, HELD_SECONDS, self._interval):
            return False
        self._renewed = time.monotonic()
        try:
            findings = verify(store, source, repair=True, throttle=lambda: self._resting(source))
        except _LeftError:
            store.audit_end(source.id, self._worker, ())
            return False
        store.audit_end(source.id, self._worker, _audited(findings))
        return bool(findings.audited)

    @contextmanager
    def _resting(self, source: Source) -> Generator[None]:
        """Rest after a piece of the audit, and keep hold of it."""
        began = time.monotonic()
        yield
        if self._wait(REST * (time.monotonic() - began)):
            raise _LeftError
        if time.monotonic() - self._renewed >= RENEW_SECONDS:
            if not self._service.store.audit_renew(source.id, self._worker, HELD_SECONDS):
                raise _LeftError
            self._renewed = time.monotonic()


def _audited(findings: Findings) -> list[Audited]:
    """Return what came of an audit for each generation; the time is the database's to say."""
    return [
        Audited(
            generation,
            0,
            findings.rows,
            sum(count for (_, owner), count in findings.counts.items() if owner in (None, generation)),
            findings.repaired,
        )
        for generation in findings.audited
    ]
