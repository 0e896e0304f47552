"""What runs beside a test, in a thread, for the length of a block: a worker, or a loop of the test's own."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from seamark.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from seamark.core.service import Seamark
    from seamark.model import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Beside:
    """What runs beside a block; `stop` is set at the block's end, or by the block where it has to go on after that."""

    stop: threading.Event
    thread: threading.Thread

    def alive(self) -> bool:
        """Say whether it still runs."""
        return self.thread.is_alive()

    def until(self, reached: Callable[[], T]) -> T:
        """Wait until something has come about, and return what says so; fail at once where this has ended before."""

        def found() -> T:
            alive = self.alive()  # asked first: what was done last of all counts
            held = reached()
            assert held or alive, "it has ended before that"
            return held

        return until(found)


@contextmanager
def beside(loop: Callable[[threading.Event], object]) -> Generator[Beside]:
    """Run a loop for the length of a block, then set its event and wait for its end; whatever it raised is raised there."""
    stop, failed = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            loop(stop)
        except BaseException as error:  # noqa: BLE001 raised again below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield Beside(stop, thread)
    finally:
        stop.set()
        thread.join()
        if failed:
            raise failed[0]


def working(
    service: Seamark, threads: int | None = None, progress: Callable[[Progress], None] | None = None
) -> AbstractContextManager[Beside]:
    """Let a worker work for the length of a block."""
    return beside(lambda stop: service.work(stop=stop, threads=threads, progress=progress))
