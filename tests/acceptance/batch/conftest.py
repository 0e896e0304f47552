"""A backfill through a provider's batch interface, against a real server on this machine, on both databases."""

from __future__ import annotations

import pytest

import seamark
from seamark.testing.batch_server import BillingServer
from seamark.testing.batched import ROWS
from seamark.testing.tables import application_with, numbered


@pytest.fixture
def notes(backend):
    return application_with(backend, notes=numbered("the body of note", ROWS))


@pytest.fixture
def server():
    with BillingServer() as serving:
        yield serving


@pytest.fixture
def service(backend, notes, server):
    with seamark.open(backend.url, model=server.locator) as opened:
        yield opened
