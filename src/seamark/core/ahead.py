"""Beginning a call before its answer is needed, so that a database and this process work at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Ahead(Protocol):
    """Begins a call, and returns what waits for its answer."""

    def __call__(self, call: Callable[[], T], /) -> Callable[[], T]:
        """Begin it; what is returned gives its answer, or raises what it raised."""
        ...


def when_asked(call: Callable[[], T], /) -> Callable[[], T]:
    """Begin nothing: the call is made by whoever waits for its answer."""
    return call
