"""What the processes do that `seamark.testing.killer` kills: everything that takes more than one statement."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import apsw
import numpy as np
import psycopg

import seamark
from seamark.core import batch, sync
from seamark.core.chunking import render
from seamark.errors import InvalidRequestError, NoRollbackError, UnknownGenerationError, UnknownSourceError
from seamark.testing.oracle import OracleEmbedder, oracle_vector

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from seamark.core.adopt import Batch
    from seamark.core.budget import Tally
    from seamark.core.service import Seamark
    from seamark.core.sync import Indexed, Indexer
    from seamark.core.tracked import Tracked
    from seamark.model import Key, Lease, SourceRow
    from seamark.testing.killer import Moments, Order

Scenario = Literal[
    "life", "crew", "detach", "swap", "activate", "rollback", "drop", "repair", "adopt", "batch", "stamp", "open"
]
STEPS = 1000
"""More steps than a scenario takes: a loop that gets here does not end."""
BATCH_ROWS = 4
"""Rows of an enrolment batch and of a lease, so that a table of a dozen rows makes several of each."""
FIRST_VECTORS = 2
"""The id of the vector generation that an attach begins."""
CHARACTERS = 60
"""Text of one reading, so that some leases are split."""
EDITS = (
    "INSERT INTO notes (id, title, body, org) VALUES (30, 'late', 'a row that comes late', 1) ON CONFLICT DO NOTHING",
    "UPDATE notes SET body = 'edited since' WHERE id = 2",
    "DELETE FROM notes WHERE id = 3",
    "UPDATE notes SET id = 40, body = 'moved' WHERE id = 4",
    "UPDATE notes SET org = 9 WHERE id = 5",
    "UPDATE notes SET org = 1 WHERE id = 6",
    "UPDATE notes SET body = '' WHERE id = 7",
)
"""What the application does between two rounds of work; doing it again changes nothing."""
UNSEEN = {
    "sqlite": [f"DROP TRIGGER seamark_{event}_notes" for event in ("insert", "update", "rekey", "delete")],
    "postgresql": ["SET session_replication_role = replica"],
}
"""What keeps the triggers from seeing what comes after it on the same connection, by the URL's scheme."""
LONG = " ".join(f"word {number}" for number in range(300))
"""A text of several passages."""
EDITED = ("edited", "late", "moved")
"""A word of each text that the edits make."""


class _NoKeeper:
    def hold(self, lease: Lease) -> None: ...

    def drop(self, lease: Lease) -> None: ...


class _Small:
    """An indexer of small leases."""

    lease_rows = BATCH_ROWS
    concurrency = 1

    def __init__(self, indexer: Indexer) -> None:
        self._indexer = indexer

    def index(self, rows: Sequence[SourceRow], cancelled: Callable[[], bool], tally: Tally) -> Indexed:
        return self._indexer.index(rows, cancelled, tally)


def _work(here: Seamark) -> None:
    """Do in one thread, in a fixed order, all that a worker does."""
    for _ in range(STEPS):
        worked = False
        for source in here.store.sources():
            for generation in (one for one in here.store.generations(source.id) if one.state != "retired"):
                indexer = _Small(here.indexer(generation))
                claim = here.store.lease_claim(generation.id, "killer", indexer.lease_rows, sync.LEASE_SECONDS)
                worked |= claim.again or claim.lease is not None
                if claim.lease is not None:
                    sync.step(here.store, source, generation, indexer, claim.lease, _NoKeeper(), lambda: False, 0)
                if generation.state == "building":
                    worked |= here.store.generation_activate(generation.id)
        if not worked:
            break
    else:
        raise AssertionError("the work does not end")
    for generation in here.store.generations():
        while here.store.generation_maintain(generation.id, idle=True):
            pass
    for source in here.store.sources():
        here.store.journal_trim(source.id)


def _attach(here: Seamark) -> Tracked:
    return here.attach("notes", text=["title", "body"], where={"org": {"$ne": 9}})


def _edit(order: Order, moments: Moments) -> None:
    """Let the application edit, unharmed."""
    moments.paused = True
    edit(order.url)
    moments.paused = False


def _life(order: Order, moments: Moments) -> None:
    """Open, attach, work, let the application edit, work."""
    with seamark.open(order.url, embedder=OracleEmbedder(log=Path(order.log), batch_items=3)) as here:
        _attach(here)
        _work(here)
        _edit(order, moments)
        _work(here)


def _crew(order: Order, moments: Moments) -> None:
    """Do the same with the worker that users run, threads and all."""
    with seamark.open(order.url, embedder=OracleEmbedder(log=Path(order.log), batch_items=3, concurrency=2)) as here:
        _attach(here)
        here.work(until="current", threads=3)
        _edit(order, moments)
        here.work(until="current", threads=3)


def _detach(order: Order, moments: Moments) -> None:
    """Attach and work unharmed, then detach."""
    moments.paused = moments.kill_at > 0
    with seamark.open(order.url, embedder=OracleEmbedder(log=Path(order.log))) as here:
        if moments.paused:
            _attach(here)
            _work(here)
        moments.paused = False
        try:
            here.detach("notes")
        except UnknownSourceError:
            assert not order.kill_at


def _old(order: Order) -> OracleEmbedder:
    return OracleEmbedder("oracle-a", log=Path(order.log), batch_items=3)


def _new(order: Order) -> OracleEmbedder:
    return OracleEmbedder("oracle-b", 48, log=Path(order.log + "-new"), batch_items=3)


@contextmanager
def _swapping(order: Order, moments: Moments, *, manual: bool | None = None) -> Generator[tuple[Seamark, Tracked]]:
    """Attach by one model and work unharmed, unless that is done already, and open the database with another one beside it.

    Unless `manual` is None, a swap to the other one is begun and worked on, then the application edits.
    """
    moments.paused = True
    with seamark.open(order.url, embedder=_old(order)) as here:
        first = not here.sources()
        if first:
            _attach(here)
            _work(here)
    with seamark.open(order.url, embedder=[_new(order), _old(order)]) as here:
        tracked = here.source("notes")
        if first and manual is not None:
            tracked.swap(manual=manual)
            _work(here)
            edit(order.url)
            _work(here)
        moments.paused = False
        yield here, tracked


def _swap(order: Order, moments: Moments) -> None:
    """Swap, work until the new model is searched, let the application edit, work."""
    with _swapping(order, moments) as (here, tracked):
        tracked.swap()
        _work(here)
        _edit(order, moments)
        _work(here)


def _activate(order: Order, moments: Moments) -> None:
    """Activate what is whole, and work."""
    with _swapping(order, moments, manual=True) as (here, tracked):
        tracked.activate(next(one.generation.id for one in tracked.generations() if one.generation.manual))
        _work(here)


def _rollback(order: Order, moments: Moments) -> None:
    """Go back to the first model, and let it catch up."""
    with _swapping(order, moments, manual=False) as (here, tracked):
        with suppress(NoRollbackError):  # it was done when the one before was killed
            tracked.rollback()
        _work(here)


def _drop(order: Order, moments: Moments) -> None:
    """Drop the first model's vectors, and work."""
    with _swapping(order, moments, manual=False) as (here, tracked):
        with suppress(UnknownGenerationError):  # as above
            tracked.drop(FIRST_VECTORS)
        _work(here)


def _repair(order: Order, moments: Moments) -> None:
    """Attach and work unharmed, let the application edit with no trigger to tell, then repair, and work.

    Among what is deleted so is a row of several passages.
    """
    moments.paused = True
    with seamark.open(order.url, embedder=_old(order)) as here:
        if not here.sources():
            edit(order.url, statements=[f"INSERT INTO notes (id, body, org) VALUES (50, '{LONG}', 1)"])
            _attach(here)
            _work(here)
            [[passages]] = here.sql("SELECT count(*) FROM notes_embeddings WHERE id = 50").rows
            assert passages not in {0, 1}
            edit(order.url, [*UNSEEN[order.url.partition(":")[0]], "DELETE FROM notes WHERE id = 50"])
        moments.paused = False
        here.source("notes").verify(repair=True)
        _work(here)


def _adopt(order: Order, moments: Moments) -> None:
    """Attach, adopt a vector for every row, work, let the application edit, work."""
    with seamark.open(order.url, embedder=_old(order)) as here:
        tracked = _attach(here)
        rows = here.sql("SELECT id, title, body FROM notes ORDER BY id").rows
        told = {int(str(number)): [None if text is None else str(text) for text in row] for number, *row in rows}
        texts: dict[Key, str] = {(number,): render(row) for number, row in told.items()}
        # Those that the application has edited are the workers' to embed.
        keys = [key for key, text in texts.items() if text and not any(word in text for word in EDITED)]
        pieces = [keys[start : start + BATCH_ROWS] for start in range(0, len(keys), BATCH_ROWS)]
        batches: Iterator[Batch] = (
            (piece, np.stack([oracle_vector(texts[key], "oracle-a", 32) for key in piece]), None) for piece in pieces
        )
        with suppress(InvalidRequestError):  # it was done, and is searched, when the one before was killed
            tracked.adopt(batches=batches, trust_text=True)
        _work(here)
        _edit(order, moments)
        _work(here)


def _batch(order: Order, moments: Moments) -> None:
    """Attach, have a provider fill the index in several batches, work, let the application edit, work.

    The batches are begun once: whoever comes after has only to see to them, as any worker does.
    """
    batch.PASSAGES_MAX = batch.READ_ROWS = batch.ANSWERS_AT_ONCE = BATCH_ROWS
    with seamark.open(order.url, model=order.model) as here:
        tracked = _attach(here)
        if not tracked.batches():
            tracked.batch()
        for _ in range(STEPS):
            # By one name: as if the time that the one before was given had passed.
            if not here.batches_advance("killer"):
                break
        else:
            raise AssertionError("the batches do not end")
        _work(here)
        _edit(order, moments)
        _work(here)


def _stamp(order: Order, moments: Moments) -> None:
    """Attach with a stamp unharmed, and work."""
    moments.paused = True
    with seamark.open(order.url, embedder=_old(order)) as here:
        here.attach("notes", text=["title", "body"], where={"org": {"$ne": 9}}, stamp="has_embedding")
        moments.paused = False
        _work(here)


def _open(order: Order, moments: Moments) -> None:  # noqa: ARG001 every moment of it counts
    """Open a database, which brings its schema up to date."""
    with seamark.open(order.url, embedder=_old(order)):
        pass


def edit(url: str, before: Sequence[str] = (), statements: Sequence[str] = EDITS) -> None:
    """Do what the application does, on a connection of its own, and first what is to come before."""
    if url.startswith("sqlite:"):
        connection = apsw.Connection(url.removeprefix("sqlite:///"))
        try:
            for statement in (*before, *statements):
                connection.execute(statement)  # pyright: ignore[reportUnknownMemberType]
        finally:
            connection.close()
    else:
        with psycopg.connect(url, autocommit=True, application_name="user") as connection:
            for statement in (*before, *statements):
                connection.execute(statement.encode())


SCENARIOS: dict[str, Callable[[Order, Moments], None]] = {
    "life": _life,
    "crew": _crew,
    "detach": _detach,
    "swap": _swap,
    "activate": _activate,
    "rollback": _rollback,
    "drop": _drop,
    "repair": _repair,
    "adopt": _adopt,
    "batch": _batch,
    "stamp": _stamp,
    "open": _open,
}
