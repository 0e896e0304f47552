"""Crash tests have a PostgreSQL server of their own, which does all that makes a commit survive."""

from functools import partial

import pytest

from seamark.core import retry, sync
from seamark.edges import worklist
from seamark.testing.chaos import Troupe


@pytest.fixture(scope="session")
def postgres_durable(postgres_start):
    """A server as it comes: fsync, full_page_writes and synchronous_commit are on."""
    with postgres_start() as server:
        yield server


@pytest.fixture(scope="session")
def backend_open(backend_on, postgres_durable):
    """Return a function (name, folder, teardown) that gives a fresh backend on the durable server."""
    return partial(backend_on, postgres_durable)


@pytest.fixture(scope="session")
def troupe():
    """The process whose children the actors are."""
    with Troupe() as troupe:
        yield troupe


@pytest.fixture
def keyless(monkeypatch):
    """Keep the machine's own keys and proxies away from the servers of the tests."""
    for name in ("OPENAI_API_KEY", "SEAMARK_EMBED_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hurried(keyless, monkeypatch):
    """Let no test wait for what is only patience with an embedder."""
    monkeypatch.setattr(retry, "ROW_DELAY_SECONDS", 0.0)
    monkeypatch.setattr(retry, "OUTAGE_DELAY_SECONDS", 0.01)
    monkeypatch.setattr(retry, "OUTAGE_DELAY_MAX_SECONDS", 0.02)
    for module in (sync, worklist):
        monkeypatch.setattr(module, "CONFIGURATION_DELAY_SECONDS", 0.01)
