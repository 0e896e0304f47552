"""A backfill through a batch interface: what the acceptance tests of it ask of its server, its batches and its index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.testing.beside import working
from seamark.testing.oracle import oracle_proves

if TYPE_CHECKING:
    from seamark.core.service import Seamark
    from seamark.core.tracked import Tracked
    from seamark.model.cost import BatchState
    from seamark.testing.backend import Application, Backend

ROWS = 40
"""How many rows the table `notes` has."""


def proven(backend: Backend, service: Seamark, tracked: Tracked, notes: Application) -> None:
    """Prove that the active index holds what the model makes of the present texts, and nothing else."""
    generation = next(g for g in service.store.generations(tracked.source.id) if g.kind == "vector" and g.state == "active")
    chunks = backend.chunks(tracked.source, generation)
    texts = dict(notes.run("SELECT id, body FROM notes"))
    assert {chunk.key[0] for chunk in chunks} == texts.keys()
    assert [c.key for c in chunks if not oracle_proves(c.vector, texts[c.key[0]][c.start : c.stop], "oracle")] == []


def states(tracked: Tracked) -> list[BatchState]:
    """Return the states of the batches of a table, in the order of `batches`."""
    return [batch.state for batch in tracked.batches()]


def sent_by_a_worker(service: Seamark, tracked: Tracked) -> None:
    """Let a worker run until it has sent a batch; it has to outlive that."""
    with working(service) as worker:
        worker.until(lambda: states(tracked) == ["submitted"])
        assert worker.alive()
