"""Several processes that attach or detach one table at the same moment."""

import pytest

import seamark
from seamark.core.tracked import Tracked
from seamark.errors import SourceConflictError, UnknownSourceError
from seamark.testing.oracle import OracleEmbedder
from seamark.testing.workbench import at_once

CHUNKS = (1000, 300, 1000, 200)


@pytest.fixture
def services(backend):
    application = backend.application()
    application.run(f"CREATE TABLE notes(id {backend.type('integer')} PRIMARY KEY, title TEXT, body TEXT)")
    application.many("INSERT INTO notes VALUES (?, 'title', 'body')", [(number,) for number in range(50)])
    services = [seamark.open(backend.url, embedder=OracleEmbedder()) for _ in CHUNKS]
    yield services
    for service in services:
        service.close()


def test_attaching_with_different_words_has_one_winner_and_leaves_nothing_of_the_others(services):
    calls = [
        lambda service=service, chunk=chunk: service.attach("notes", text="body", chunk=chunk)
        for service, chunk in zip(services, CHUNKS, strict=True)
    ]
    results = at_once(calls)
    assert len(services[0].store.generations()) == 2
    won = services[0].store.generations()[1].identity["chunker"]
    for chunk, result in zip(CHUNKS, results, strict=True):
        assert isinstance(result, Tracked if chunk == won["characters"] else SourceConflictError), result
    services[0].work(until="current")
    assert services[0].source("notes").coverage().embedded == 50


def test_attaching_with_different_columns_has_one_winner(services):
    columns = ("title", "body", "title", "body")
    calls = [
        lambda service=service, column=column: service.attach("notes", text=column)
        for service, column in zip(services, columns, strict=True)
    ]
    results = at_once(calls)
    [source] = services[0].store.sources()
    for column, result in zip(columns, results, strict=True):
        assert isinstance(result, Tracked if column == source.spec.text[0].column else SourceConflictError), result
    assert len(services[0].store.generations()) == 2


def test_detaching_at_once_is_done_once(services):
    services[0].attach("notes", text="body")
    results = at_once([lambda service=service: service.detach("notes") for service in services])
    assert all(result == () or isinstance(result, UnknownSourceError) for result in results), results
    assert () in results
    assert services[0].sources() == ()
