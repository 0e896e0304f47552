"""When a failed row is tried again, and how long a generation waits for an embedder that is out."""

from __future__ import annotations

ATTEMPTS_MAX = 5
"""Failed attempts after which a row is parked. With the delays below it has then been tried for some eight minutes."""

ROW_DELAY_SECONDS = 10.0
ROW_DELAY_MAX_SECONDS = 600.0
OUTAGE_DELAY_SECONDS = 1.0
OUTAGE_DELAY_MAX_SECONDS = 60.0
CONFIGURATION_DELAY_SECONDS = 30.0
"""How long a generation whose embedder is configured wrongly is left alone before a worker looks again."""


def row_delay(attempts: int, jitter: float) -> float | None:
    """Return the seconds to wait after so many failed attempts, None to park; `jitter` in [0, 1) spreads them by a quarter."""
    if attempts >= ATTEMPTS_MAX:
        return None
    delay = min(ROW_DELAY_SECONDS * 3 ** (attempts - 1), ROW_DELAY_MAX_SECONDS)
    return delay * (1 + jitter / 4)


def outage_delay(outages: int, retry_after_seconds: float | None) -> float:
    """Return the seconds a generation backs off after the n-th outage in a row, never less than the server asked for."""
    delay = min(OUTAGE_DELAY_SECONDS * 2 ** min(outages - 1, 16), OUTAGE_DELAY_MAX_SECONDS)
    return max(delay, retry_after_seconds or 0.0)
