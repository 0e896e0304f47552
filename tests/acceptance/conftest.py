"""What several acceptance tests begin with."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

import seamark
from seamark.testing.audited import Audited
from seamark.testing.oracle import OracleEmbedder


@pytest.fixture
def database(backend):
    made = Audited.of(backend)
    yield made
    made.service.close()


@pytest.fixture
def sqlite_database(sqlite_backend):
    made = Audited.of(sqlite_backend)
    yield made
    made.service.close()


@pytest.fixture
def postgres_database_(postgres_backend):
    made = Audited.of(postgres_backend)
    yield made
    made.service.close()


@pytest.fixture
def opened(backend):
    """Open services on the database that are closed at the end."""
    with ExitStack() as stack:
        yield lambda *embedders: stack.enter_context(seamark.open(backend.url, embedder=embedders or None))


@pytest.fixture
def old():
    return OracleEmbedder("oracle-a")


@pytest.fixture
def new():
    return OracleEmbedder("oracle-b", dimension=48)
