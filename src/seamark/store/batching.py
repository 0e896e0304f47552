"""Batches at a provider, once for both databases: what is written together, over the statements that each database offers.

Everything here runs inside one transaction.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Protocol

from seamark.model.cost import BATCH_ENDED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model.cost import ProviderBatch, Spent


class Batching(Protocol):
    """The statements about batches, within their transaction."""

    def batches(self, generation_id: int) -> Sequence[ProviderBatch]:
        """Return the batches of a generation, oldest first."""
        ...

    def insert(self, generation_id: int, after: int, tag: str) -> bool:
        """Plan a batch of the rows above a `seq`; False where one is open, or nothing is left to backfill."""
        ...

    def write(self, batch: ProviderBatch, owner: str) -> bool:
        """Write a batch down; False where it is not the owner's any more."""
        ...

    def hold(self, generation_id: int, seconds: float) -> None:
        """Hold the backfill lane for so long; 0 lets go of it."""
        ...

    def spend(self, generation_id: int, owner: str, spent: Spent) -> None:
        """Add to what a generation has cost."""
        ...


def batch_begin(work: Batching, generation_id: int, after: int, seconds: float) -> ProviderBatch | None:
    """Plan a batch and hold the lane for it, or return the one that is open."""
    if _planned(work, generation_id, after):
        work.hold(generation_id, seconds)
    return next((batch for batch in work.batches(generation_id) if batch.state not in BATCH_ENDED), None)


def batch_write(work: Batching, batch: ProviderBatch, owner: str, seconds: float | None) -> bool:
    """Write what has become of a batch, and go on holding the lane; with None no longer than it is held anyway."""
    written = work.write(batch, owner)
    if written and seconds is not None:
        work.hold(batch.generation_id, seconds)
    return written


def batch_end(work: Batching, batch: ProviderBatch, owner: str, seconds: float, spent: Spent) -> bool:
    """Write how a batch has ended and what it has cost, and plan the next; without one the lane is let go of."""
    if not work.write(batch, owner):
        return False
    work.spend(batch.generation_id, owner, spent)
    following = seconds > 0 and _planned(work, batch.generation_id, batch.upto)
    work.hold(batch.generation_id, seconds if following else 0.0)
    return True


def _planned(work: Batching, generation_id: int, after: int) -> bool:
    return work.insert(generation_id, after, f"seamark-{uuid.uuid4().hex}")
