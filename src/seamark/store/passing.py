"""Rows whose key is changed: one is gone and another is new, perhaps in different leases. What holds on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

UNSETTLED_ROWS = 4096
"""Rows that wait among which the other half of a key that was changed is looked for: some leases' worth."""
PASSED_ROWS = 64
"""Rows whose vectors are put by together: a row may have a thousand."""

T = TypeVar("T")


def left_over(gone: Iterable[tuple[bytes, T]], settled: dict[bytes, int]) -> dict[bytes, T]:
    """Return what is gone, by digest, and not settled under another key in the same lease, each as often as it is there.

    What is matched is taken from `settled`.
    """
    found: dict[bytes, T] = {}
    for digest, vector in gone:
        if settled.get(digest, 0):
            settled[digest] -= 1
        else:
            found[digest] = vector
    return found
