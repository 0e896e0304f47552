"""When a generation may become the active one, once for both databases, over the few statements that each of them offers.

Everything here runs inside one short transaction that holds the rows of all generations of that source and kind.

A building generation is *filled* when everything that was there as it began is done: its backfill, the sweep behind it, and
every lease that began below its origin. Where it is the first of its kind that is enough. Where it takes the place of another
one, rows that were edited or added while it was filled are found through that one and might not be through this one yet. So
it is *due*: when it is first seen filled, the journal's end is written down, and it has caught up once `confirmed` has come
as far. What is written from then on it may lack for as long as it lags. It waits no longer than that, or a slow model would
never be activated beneath an endless stream of writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from seamark.model import GenerationState


@dataclass(frozen=True, slots=True)
class Standing:
    """What the decision depends on. `replaces`: another generation of the kind is active."""

    state: GenerationState
    manual: bool
    filled: bool
    due: int | None
    confirmed: int
    replaces: bool


class Activating(Protocol):
    """The statements of one activation, within its transaction."""

    def standing(self) -> Standing | None:
        """Lock the generations of the kind until the transaction ends; None when there is no such generation."""
        ...

    def due_write(self) -> int:
        """Write down, and return, that the journal's present end is due."""
        ...

    def failing(self) -> bool:
        """Say whether a live row has failed at its present version."""
        ...

    def searchable(self) -> bool:
        """Say whether the index that makes a search fast is there, where it takes one."""
        ...

    def swap(self, *, back: bool) -> None:
        """Retire the active generation of the kind, if there is one, and activate this one; `back`: it keeps its place."""
        ...

    def precede(self) -> None:
        """Make the other generations of the kind that are being built manual."""
        ...


def activate(work: Activating, *, asked: bool, force: bool, back: bool) -> bool:
    """Activate the generation if it may be; see `Store.generation_activate`."""
    at = work.standing()
    if at is None or at.state == "active" or (back and at.state != "retired"):
        return False
    if not _allowed(work, at, asked=asked or force, force=force or back):
        return False
    if at.state == "retired":
        work.due_write()  # search says that it is behind until it has come so far
    work.swap(back=back)
    if asked or force or back:
        work.precede()  # or one that was begun earlier would take over by itself from what somebody has just chosen
    return True


def _allowed(work: Activating, at: Standing, *, asked: bool, force: bool) -> bool:
    if force:
        return True
    if not at.filled or not (asked or (at.state == "building" and not at.manual)):
        return False
    if at.state == "retired" or not at.replaces:
        return True
    return _caught_up(work, at) and not work.failing() and work.searchable()


def _caught_up(work: Activating, at: Standing) -> bool:
    due = at.due if at.due is not None else work.due_write()
    return at.confirmed >= due
