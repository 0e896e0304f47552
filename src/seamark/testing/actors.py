"""Processes that a fault befalls, and processes that watch: a worker, a writer, a searcher. Each logs to a file of its own.

`python -m seamark.testing.actors` reads one JSON order a line from its standard input and forks, so that an actor begins at
once; the actor goes on until it is asked to end by SIGTERM. A log has one JSON line per event, written with one write, so that
a killed process leaves whole lines. Times in it are those of CLOCK_MONOTONIC, which is one for all processes of a machine.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import apsw

import seamark
from seamark.errors import StoreError
from seamark.testing.oracle import OracleEmbedder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from seamark.model import Lease, Settled, Source
    from seamark.store.contract import Store

Role = Literal["worker", "writer", "searcher"]
_monotonic = time.monotonic


@dataclass(frozen=True, slots=True)
class Order:
    """What an actor is to do.

    `log` is the file that it logs to, `watched` are the logs of writers that a searcher reads. `first` is the lowest key of a
    writer's own rows, `seed` what its choices follow from. `constants` are set before it begins: `module:NAME` → value. `model`
    is the locator of the embedder; None: an oracle in its own process. `clock_seconds` is how far Python's clocks are off, and
    `machine_seconds` how far the one is that SQLite asks. `sleep_after` makes a worker stop itself (SIGSTOP) when that many
    calls of its oracle are answered.
    """

    role: Role
    url: str
    log: str
    watched: tuple[str, ...] = ()
    first: int = 0
    seed: int = 0
    constants: Mapping[str, float] = field(default_factory=dict[str, float])
    model: str | None = None
    threads: int = 3
    clock_seconds: float = 0.0
    machine_seconds: float = 0.0
    sleep_after: int = 0


class Log:
    """A file of events."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._lock = threading.Lock()

    def write(self, event: str, **members: object) -> None:
        """Add an event."""
        line = json.dumps({"event": event, "at": _monotonic(), **members}) + "\n"
        with self._lock:
            os.write(self._descriptor, line.encode("ascii"))


class Reading:
    """A log that is read on, as far as it has got."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._offset = 0

    def events(self) -> list[dict[str, Any]]:
        """Return the events since the last call, whole lines only."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            found = file.read()
        whole = found[: found.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


STOP_SECONDS = 1.0


class SleepyOracle(OracleEmbedder):
    """An oracle whose process stops itself once a number of calls are answered."""

    def __init__(self, log: Path, sleep_after: int) -> None:
        super().__init__(log=log, concurrency=2, batch_items=8)
        self._sleep_after = sleep_after

    def embed_documents(self, texts: Sequence[str]) -> NDArray[Any]:
        """Answer, and perhaps sleep before the answer is used."""
        found = super().embed_documents(texts)
        if self._sleep_after and self.calls == self._sleep_after:
            os.kill(os.getpid(), signal.SIGSTOP)
            # Another thread may be the one that takes the signal: until it has, this one must not go on and settle.
            time.sleep(STOP_SECONDS)
        return found


def _shift(seconds: float) -> None:
    """Put Python's clocks forward or back."""
    originals = {name: getattr(time, name) for name in ("time", "monotonic", "time_ns", "monotonic_ns")}
    time.time = lambda: originals["time"]() + seconds
    time.monotonic = lambda: originals["monotonic"]() + seconds
    time.time_ns = lambda: originals["time_ns"]() + int(seconds * 1e9)
    time.monotonic_ns = lambda: originals["monotonic_ns"]() + int(seconds * 1e9)

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return super().now(tz) + timedelta(seconds=seconds)

    for name, module in list(sys.modules.items()):
        if name.startswith("seamark") and getattr(module, "datetime", None) is datetime:
            module.datetime = Shifted  # type: ignore[attr-defined]


class _Shifted(apsw.VFS):
    """The file system of SQLite, with another time."""

    def __init__(self, seconds: float) -> None:
        self._milliseconds = round(seconds * 1000)
        super().__init__("shifted", "", makedefault=True)

    def xCurrentTimeInt64(self) -> int:  # noqa: N802 the name it has there
        return super().xCurrentTimeInt64() + self._milliseconds


def _work(order: Order, stop: threading.Event, log: Log) -> None:
    """Do what users run: a worker that goes on by itself."""
    embedder = None if order.model else SleepyOracle(Path(order.log + "-oracle"), order.sleep_after)
    with seamark.open(order.url, model=order.model, embedder=embedder) as service:
        _watch_settles(service.store, log)
        log.write("settled", rows=service.work(stop=stop, threads=order.threads))


def _watch_settles(store: Store, log: Log) -> None:
    """Log of each settle of this process how many rows it wrote, None where the lease was not its own; or its error."""
    settle = store.lease_settle

    def watched(source: Source, lease: Lease, *made: Any) -> Settled | None:
        try:
            settled = settle(source, lease, *made)
        except StoreError as error:
            log.write("lost", lease=lease.id, error=f"{type(error).__name__}: {error}"[:300])
            raise
        log.write("settle", lease=lease.id, written=None if settled is None else settled.written)
        return settled

    store.lease_settle = watched  # type: ignore[method-assign]


def _play(order: Order, answer: int) -> None:
    """Play a role until SIGTERM; say first that it has begun, and what it takes for the time."""
    from seamark.testing import searcher, writer  # noqa: PLC0415 they need what is above

    for place, value in order.constants.items():
        module, _, name = place.partition(":")
        found = importlib.import_module(module)
        assert hasattr(found, name), place
        setattr(found, name, value)
    stop = threading.Event()

    def end(number: int, frame: object) -> None:  # noqa: ARG001
        stop.set()

    signal.signal(signal.SIGTERM, end)
    if order.clock_seconds:
        _shift(order.clock_seconds)
    shifted = _Shifted(order.machine_seconds) if order.machine_seconds else None
    os.write(answer, (json.dumps({"pid": os.getpid(), "time": time.time(), "monotonic": time.monotonic()}) + "\n").encode())
    roles = {"worker": _work, "writer": writer.write, "searcher": searcher.search}
    roles[order.role](order, stop, Log(order.log))
    del shifted


def _child(order: Order) -> None:
    """Play a role and end; never return."""
    status = 1
    try:
        _play(order, 1)
        status = 0
    except BaseException:  # noqa: BLE001 the story ends here, in the test's captured output
        traceback.print_exc()
    finally:
        os._exit(status)


def serve() -> None:
    """Begin an actor for each order, and tell of each pid that is asked about whether that one has ended."""
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, dict):
            order = Order(**cast("dict[str, Any]", asked))
            if os.fork() == 0:
                _child(order)
        else:
            ended, status = os.waitpid(asked, os.WNOHANG)
            sys.stdout.write(json.dumps(os.waitstatus_to_exitcode(status) if ended else None) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    # By its own name, so that there is one of each class.
    importlib.import_module("seamark.testing.actors").serve()
