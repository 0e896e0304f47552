"""Waiting for what another thread or process brings about."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 60.0
"""Longer than anything takes that comes about at all, on a machine with others at it."""
LOOK_SECONDS = 0.01

T = TypeVar("T")


def until(reached: Callable[[], T], what: str = "what was waited for", seconds: float = PATIENCE_SECONDS) -> T:
    """Wait until something has come about, and return what says so."""
    deadline = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(LOOK_SECONDS)
    return found
