"""Whether tables are still as they were attached, asked often and looked at now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seamark.core.service import Seamark
    from seamark.model import Source

DRIFT_SECONDS = 10.0
"""To look at a table and its triggers takes a dozen statements, and what has become of them is seldom news."""


class Drift:
    """The problems of sources, each looked at again after a while."""

    def __init__(self, service: Seamark) -> None:
        self._service = service
        self._seen: dict[int, tuple[float, tuple[str, ...]]] = {}

    def problems(self, source: Source) -> tuple[str, ...]:
        """Return in what the table is no longer as it was attached, as of some seconds ago at most."""
        now = time.monotonic()
        looked, problems = self._seen.get(source.id, (-DRIFT_SECONDS, ()))
        if now - looked >= DRIFT_SECONDS:
            problems = self._service.source_problems(source)
            self._seen[source.id] = (now, problems)
        return problems
