"""Rows whose key is changed: one is gone and another is new, perhaps in different leases. What holds on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

UNSETTLED_ROWS = 4096
"""Rows that wait among which the other half of a key that was changed is looked for: some leases' worth, in milliseconds."""

T = TypeVar("T")


def left_over(gone: Iterable[tuple[bytes, T]], settled: Mapping[bytes, int]) -> dict[bytes, T]:
    """Return what is gone, by digest, and not settled under another key in the same lease, each as often as it is there."""
    matched, found = dict(settled), dict[bytes, T]()
    for digest, vector in gone:
        if matched.get(digest, 0):
            matched[digest] -= 1
        else:
            found[digest] = vector
    return found
