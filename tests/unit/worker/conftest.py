"""A worker: how it outlives outages, detached tables and its own end, on a real database."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

import seamark
from seamark.testing.tables import notes_and_tasks


@pytest.fixture
def application(sqlite_backend):
    return notes_and_tasks(sqlite_backend)


@pytest.fixture
def opened(sqlite_backend, application):
    """Open services on a database with two tables, closed at the end."""
    with ExitStack() as stack:
        yield lambda embedder: stack.enter_context(seamark.open(sqlite_backend.url, embedder=embedder))
