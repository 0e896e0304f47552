"""A stage for faults: a database with rows that stay as they are, and processes that work, write and search on it meanwhile.

What comes of it is judged by the processes' logs and by the final database, and by nothing that was seen on the way.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil

import seamark
from seamark.core.chunking import render
from seamark.testing.actors import Order, Reading, Role
from seamark.testing.fork_server import ForkServer
from seamark.testing.judgement import judge_source
from seamark.testing.oracle import OracleEmbedder, log_counts, oracle_proves
from seamark.testing.searcher import STEADY, steady_row
from seamark.testing.waiting import until
from seamark.testing.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack
    from pathlib import Path

    from seamark.model import Key
    from seamark.testing.backend import Backend

QUICK: Mapping[str, float] = {
    "seamark.core.sync:LEASE_SECONDS": 2.0,
    "seamark.edges.worker:LEASE_SECONDS": 2.0,
    "seamark.edges.worker:KEEPER_SECONDS": 0.5,
    "seamark.edges.worker:KEEPER_LOOK_SECONDS": 0.1,
    "seamark.edges.worker:STORE_RETRY_SECONDS": 0.1,
    "seamark.edges.worker:TRIM_SECONDS": 1.0,
    "seamark.core.retry:ROW_DELAY_SECONDS": 0.05,
    "seamark.core.retry:OUTAGE_DELAY_SECONDS": 0.05,
    "seamark.core.retry:OUTAGE_DELAY_MAX_SECONDS": 0.2,
    "seamark.core.retry:ATTEMPTS_MAX": 1000,
}
"""Constants of a worker whose patience a test can wait for. No row is parked: what is scripted passes."""


class Troupe(ForkServer):
    """The process that all actors are children of."""

    def __init__(self) -> None:
        super().__init__("seamark.testing.actors")

    def begin(self, order: Order) -> Actor:
        """Let an actor begin."""
        return Actor(order, self, self.ask(asdict(order)))

    def status(self, pid: int) -> int | None:
        """Return how an actor ended, as `subprocess` tells it; None while it goes on."""
        return self.ask(pid)


@dataclass
class Actor:
    """A process on the stage. `began` is what it said as it began: its pid, and what it takes for the time."""

    order: Order
    troupe: Troupe
    began: Mapping[str, Any]
    status: int | None = None

    def events(self) -> list[dict[str, Any]]:
        """Return all that it has logged."""
        return Reading(self.order.log).events()

    def count(self, event: str) -> int:
        """Return how many events of a kind it has logged."""
        return sum(found["event"] == event for found in self.events())

    def running(self) -> bool:
        """Say whether it has not ended."""
        if self.status is None:
            self.status = self.troupe.status(self.began["pid"])
        return self.status is None

    def stopped(self) -> bool:
        """Say whether it sleeps by SIGSTOP."""
        return self.running() and psutil.Process(self.began["pid"]).status() == psutil.STATUS_STOPPED

    def send(self, number: int) -> None:
        """Send it a signal."""
        if self.running():
            os.kill(self.began["pid"], number)

    def end(self) -> None:
        """Ask it to end, and see that it ends well."""
        self.send(signal.SIGTERM)
        until(lambda: not self.running(), f"the {self.order.role} ends")
        assert self.status == 0, f"a {self.order.role} ended with {self.status}"

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        self.send(signal.SIGKILL)
        until(lambda: not self.running(), f"the {self.order.role} is killed")


class Stage:
    """One table `notes(id, title, body, org)`, attached, its steady rows indexed; actors come and go."""

    def __init__(
        self, troupe: Troupe, backend: Backend, folder: Path, teardown: ExitStack, *, model: str | None = None
    ) -> None:
        self.backend, self.model = backend, model
        self.bench = Workbench(backend)
        self.actors: list[Actor] = []
        self._troupe, self._folder, self._teardown = troupe, folder, teardown
        integer, text = backend.type("integer"), backend.type("text")
        self.bench.app.run(f"CREATE TABLE notes (id {integer} PRIMARY KEY, title {text}, body {text}, org {integer})")
        self.bench.app.many("INSERT INTO notes VALUES (?, ?, ?, ?)", [steady_row(key) for key in STEADY])
        with self.service() as service:
            service.attach("notes", text=["title", "body"], where={"org": {"$ne": 9}})
            service.work(until="current")

    def service(self) -> seamark.Seamark:
        """Open the database in this process, with an embedder whose calls are logged like any."""
        embedder = None if self.model else OracleEmbedder(log=self._folder / "here-oracle")
        return seamark.open(self.backend.url, model=self.model, embedder=embedder)

    def enter(self, role: Role, **members: Any) -> Actor:
        """Let an actor begin; it ends with the test at the latest."""
        number = len(self.actors)
        members = {"url": self.backend.url, "model": self.model, "seed": number, "first": 10_000 * number} | members
        if role == "worker":
            members["constants"] = {**QUICK, **members.get("constants", {})}
        if role == "searcher":
            members["watched"] = tuple(actor.order.log for actor in self.actors if actor.order.role == "writer")
        order = Order(role, log=str(self._folder / f"{role}-{number}"), **members)
        actor = self._troupe.begin(order)
        self._teardown.callback(actor.kill)
        self.actors.append(actor)
        return actor

    def those(self, role: Role) -> list[Actor]:
        """Return the actors of a role."""
        return [actor for actor in self.actors if actor.order.role == role]

    def end(self) -> None:
        """Let the writers end, then everybody; all must end well but those that were killed."""
        for role in ("writer", "worker", "searcher"):
            for actor in self.those(role):
                if actor.status != -signal.SIGKILL:
                    actor.end()

    def finish(self) -> None:
        """Let what is left be done, by a worker of this process, as fast as it goes."""
        with self.service() as service:
            service.work(until="current")

    # --- judgement ------------------------------------------------------------------------------------------------

    def committed(self) -> dict[int, list[str | None]]:
        """Return what the writers' logs say is in the table, steady rows included: key → title and body."""
        rows: dict[int, list[str | None]] = {key: [*steady_row(key)[1:3]] for key in STEADY}
        for writer in self.those("writer"):
            for event in writer.events():
                for key, row in event.get("rows", {}).items():
                    if row is None:
                        rows.pop(int(key), None)
                    else:
                        rows[int(key)] = row
        return rows

    def judge(self, *, lost: int = 0, calls: Counter[str] | None = None) -> None:
        """Check, by the logs and the database alone, I1, I2, I5 and I15, and that no searcher saw I2, I9 or I13 broken.

        Args:
            lost: how often at most a call of the model may have been in vain for any one text.
            calls: how often each text was embedded, where the model is not an oracle in the processes.
        """
        committed = self.committed()
        stored = {key: [title, body] for key, title, body in self.bench.app.run("SELECT id, title, body FROM notes")}
        assert stored == committed, "what was acknowledged is there, and nothing else"
        texts: dict[Key, str] = {(key,): render(row) for key, row in committed.items()}
        [source] = self.bench.store.sources()
        judge_source(self.bench, source, texts, "moving", proves=_proves)
        self._judge_calls({text for text in texts.values() if text}, lost, self._calls() if calls is None else calls)
        self.judge_searches()

    def judge_searches(self) -> None:
        """Check that searches were made, and what the searchers said of them."""
        for searcher in self.those("searcher"):
            events = searcher.events()
            assert [event for event in events if event["event"] == "violation"] == []
            assert events[-1].get("searches", 0) > 0, events[-1]

    def _calls(self) -> Counter[str]:
        return sum((log_counts(path) for path in self._folder.glob("*-oracle")), Counter[str]())

    def _judge_calls(self, live: set[str], lost: int, calls: Counter[str]) -> None:
        """Check I5: a text is embedded no more often than rows were given it, but for what was lost."""
        assert live <= calls.keys(), "all that is live was embedded"
        written = Counter(steady_text for key in STEADY if (steady_text := render(steady_row(key)[1:3])))
        for writer in self.those("writer"):
            for event in writer.events():
                written.update(render(row) for row in event.get("rows", {}).values() if row is not None)
        over = {text: (count, written[text]) for text, count in calls.items() if count > written[text] + lost}
        assert over == {}, "text: (calls, versions of rows that had it)"


def _proves(vector: Any, text: str, model: str) -> bool:
    return oracle_proves(vector, text, model.rpartition(":")[2])
