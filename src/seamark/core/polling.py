"""Polling: entering the new rows of tables that have no triggers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seamark.model import Source
    from seamark.store.contract import Store

POLL_ROWS = 2_000
"""Rows looked at in one transaction: some milliseconds."""


def poll(store: Store, source: Source) -> int:
    """Enter all rows that have come to a polled table since the last time; return how many were looked at."""
    looked = 0
    while source.spec.track == "poll" and source.state == "ready":
        rows = store.source_poll(source, POLL_ROWS)
        looked += rows
        if rows < POLL_ROWS:
            break
    return looked
