"""Random histories on both databases end right, and would be caught if they did not.

SEAMARK_HISTORIES sets how many are run (200 unless told), three quarters of them on SQLite, where one takes a fifth of the
time; `make histories` runs 10,000 on each.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from seamark.store import claim
from seamark.store.postgres import settle as postgres_settle
from seamark.store.sqlite import settle as sqlite_settle
from seamark.testing import histories as replay
from seamark.testing.histories import histories
from seamark.testing.history import WrongError

COUNT = int(os.environ.get("SEAMARK_HISTORIES", "200"))
SHARES = {"sqlite": 3 * COUNT // 4, "postgres": COUNT // 4}
EVERYTHING = (
    "fresh",
    "backfill",
    "retry",
    "takeover",
    "lost",
    "superseded",
    "undone",
    "savepoint",
    "trimmed",
    "activated",
    "rolled back",
    "dropped",
    "hits",
)


@pytest.fixture
def backend_open(backend_on, postgres_server):
    """Return a function (name, folder, teardown) that gives a fresh backend; nothing here is about power cuts."""
    return lambda name, folder, teardown: backend_on(postgres_server, name, folder, teardown)


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("name", SHARES)
def test_every_history_ends_right(name, backend_open, tmp_path):
    with ExitStack() as teardown:
        total = histories(backend_open(name, tmp_path, teardown), range(SHARES[name]))
    assert SHARES[name] == total["histories"]
    assert [] == [event for event in EVERYTHING if not total[event]], "everything that is to happen did"


def caught(backend):
    with pytest.raises((WrongError, AssertionError)) as error:
        histories(backend, range(500))
    assert f"--db {backend.name} --seed " in error.value.__notes__[-1]


def test_a_row_that_is_left_out_is_caught(backend, monkeypatch):
    """The last row of a fresh lease, where it has several."""
    fresh = claim.LANES["fresh"]

    def leaky(work, cursors):
        found = fresh(work, cursors)
        if found is not None and found.lease is not None and found.lease.hi > found.lease.lo + 1:
            work.cursors_write(replace(work.cursors(), confirmed=found.lease.hi))
            return claim.Claim(replace(found.lease, hi=found.lease.hi - 1))
        return found

    monkeypatch.setitem(claim.LANES, "fresh", leaky)
    caught(backend)


def test_a_settle_that_does_not_compare_versions_is_caught(sqlite_backend, monkeypatch):
    """It writes what its worker has read, whatever has become of the row meanwhile."""

    def blind(self, seqs):
        self._old = dict.fromkeys(seqs, 1)

    monkeypatch.setattr(sqlite_settle.Settling, "_compare", blind)
    caught(sqlite_backend)


def test_a_settle_that_does_not_mind_its_lease_is_caught(postgres_backend, monkeypatch):
    hold = postgres_settle.Settling._hold

    def bold(self, rows):
        found = hold(self, rows)
        return np.arange(1, rows + 1) if found is None else found

    monkeypatch.setattr(postgres_settle.Settling, "_hold", bold)
    caught(postgres_backend)


def test_a_seed_is_run_by_one_command_and_the_count_is_written_down(tmp_path, capsys):
    record = tmp_path / "reached"
    replay.main(["--db", "sqlite", "--seed", "17", "--count", "2", "--record", str(record)])
    assert record.read_text() == capsys.readouterr().out
    assert record.read_text().startswith("sqlite: 2 histories from seed 17 in ")
