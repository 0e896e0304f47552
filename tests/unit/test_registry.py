"""Models are compared with what was registered: what counts as another one, who notices, and who writes."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import seamark
from seamark.core import registry
from seamark.errors import EmbedderInputError, EmbedderUnavailableError, ModelDriftError, StorePermissionError
from seamark.model import ModelIdentity
from seamark.testing.oracle import OracleEmbedder, oracle_vector
from seamark.testing.tables import application_with, numbered


class Behind(OracleEmbedder):
    """What it says it is, and what it really is: another model, in part, or out."""

    def __init__(self, other=0.0, *, out=False, refusing=None, **words):
        super().__init__(**words)
        self.other, self.out, self.refusing, self.asked = other, out, refusing, []

    def embed_queries(self, texts):
        self.asked.append(tuple(texts))
        if self.out:
            raise EmbedderUnavailableError("out")
        if self.refusing in texts:
            raise EmbedderInputError("refused")
        own = super().embed_queries(texts)
        strange = np.stack([oracle_vector(text, "another", own.shape[1]) for text in texts])
        return ((1 - self.other) * own + self.other * strange).astype(np.float32)

    def probed(self):
        return self.asked.count(registry.PROBES)


@pytest.fixture
def notes(backend):
    return application_with(backend, notes=numbered("the body of note", 8))


def attach(backend, embedder=None):
    with seamark.open(backend.url, embedder=embedder or Behind()) as service:
        service.attach("notes", text="body")
        service.work(until="current")


def vector(service):
    return next(one for one in service.store.generations() if one.kind == "vector")


def test_a_model_is_asked_when_it_is_registered_and_once_by_each_process(backend, notes):
    first = Behind()
    attach(backend, first)
    assert 2 == first.probed(), "at attach, and by the worker of that process"
    second = Behind()
    with seamark.open(backend.url, embedder=second) as service:
        for _ in range(3):
            service.work(until="current")
        [model] = service.store.models()
        assert (len(registry.PROBES), None) == (len(model.probe), model.drift)
    assert 1 == second.probed()


@pytest.mark.parametrize("other", [0.01, 0.03])
def test_what_a_server_jitters_by_is_the_same_model(backend, notes, other):
    attach(backend)
    with seamark.open(backend.url, embedder=Behind(other)) as service:
        service.indexer(vector(service))
        assert vector(service).drift is None


@pytest.mark.parametrize("other", [0.1, 1.0])
def test_other_weights_are_another_model_and_nothing_is_written_under_its_name(backend, notes, other):
    attach(backend)
    notes.run("INSERT INTO notes VALUES (99, 'later')")
    changed = Behind(other)
    with seamark.open(backend.url, embedder=changed) as service:
        with pytest.raises(ModelDriftError, match="has a cosine of"):
            service.work(until="current")
        assert "cosine" in vector(service).drift
        assert 1 == service.source("notes").coverage().missing
        assert 0 == changed.texts["later"]
        assert any("model_drift" in reason for reason in service.source("notes").search("later").degraded)
        with pytest.raises(ModelDriftError):
            service.source("notes").search("later", mode="vector")
    attach(backend)
    with seamark.open(backend.url, embedder=Behind()) as service:
        assert vector(service).drift is None, "the old model is back"
        assert 0 == service.source("notes").coverage().missing


def test_to_look_writes_nothing(backend, notes):
    """The doctor compares, and tells."""
    attach(backend)
    with seamark.open(backend.url, embedder=Behind(1.0)) as service:
        told = [check.detail for check in service.doctor() if check.required and not check.ok]
        assert any("model_drift" in detail for detail in told)
        assert vector(service).drift is None


def test_an_accepted_model_is_what_is_compared_with_from_then_on(backend, notes):
    attach(backend)
    with seamark.open(backend.url, embedder=Behind(1.0)) as service:
        with pytest.raises(ModelDriftError):
            service.work(until="current")
        service.source("notes").accept(vector(service).id)
        service.work(until="current")
    with seamark.open(backend.url, embedder=Behind()) as service, pytest.raises(ModelDriftError):
        service.work(until="current")


def test_a_model_that_was_never_asked_is_registered_by_the_first_worker(backend, notes):
    """As one that was out at the attach, or was attached before there were probes."""
    with seamark.open(backend.url, embedder=Behind(out=True)) as service:
        service.attach("notes", text="body")
        assert [None] == [model.probe for model in service.store.models()]
    with seamark.open(backend.url, embedder=Behind()) as service:
        service.work(until="current")
        assert [len(registry.PROBES)] == [len(model.probe) for model in service.store.models()]


def test_another_version_behind_the_same_name_is_recorded(backend, notes, monkeypatch):
    opened = Behind()
    monkeypatch.setattr(sys.modules["seamark.open"], "embedder_open", lambda _: opened)
    with seamark.open(backend.url, model="provider:it") as service:
        service.attach("notes", text="body", model="provider:it")
        service.work(until="current")
    opened = Behind()
    opened.identity = ModelIdentity("oracle-a", "2", 32)
    with seamark.open(backend.url, model="provider:it") as service:
        with pytest.raises(ModelDriftError, match="is now oracle-a@2"):
            service.work(until="current")
        assert "oracle-a@2" in vector(service).drift
        [made] = service.source("notes").swap(model="provider:it")
        service.work(until="current")
        assert ["retired", "active"] == [one.state for one in service.store.generations() if one.kind == "vector"]
        assert "2" == made.model.version


def test_a_comparison_holds_for_an_interval_and_until_it_is_doubted(backend, notes):
    attach(backend)
    embedder, now = Behind(), [0.0]
    with seamark.open(backend.url, embedder=embedder) as service:
        compared = registry.Registry(service.store, service.embedders, lambda: now[0], 60.0)
        for seconds, asked in ((0.0, 1), (59.0, 1), (60.0, 2), (61.0, 2)):
            now[0] = seconds
            compared.embedder(vector(service), recording=True)
            assert asked == embedder.probed()
        compared.doubt(vector(service).model)
        compared.embedder(vector(service), recording=True)
        assert 3 == embedder.probed()
        embedder.out = True
        compared.doubt(vector(service).model)
        assert not compared.holds(vector(service)), "nobody knows"
        embedder.out = False
        assert compared.holds(vector(service))
        once = registry.Registry(service.store, service.embedders, lambda: now[0], 0.0)
        for now[0] in (0.0, 1e9):
            once.embedder(vector(service), recording=True)
        assert 6 == embedder.probed()


def test_the_first_query_of_a_process_takes_the_probes_along_and_later_ones_do_not(backend, notes):
    """In one call, and the vector is the query's own."""
    attach(backend)
    embedder = Behind()
    with seamark.open(backend.url, embedder=embedder) as service:
        for number in (3, 4):
            text = f"the body of note {number}"
            [hit] = service.source("notes").search(text, mode="vector", limit=1).hits
            assert number == hit.key
            assert 1.0 == pytest.approx(hit.score, abs=1e-3)
    assert [(*registry.PROBES, "the body of note 3"), ("the body of note 4",)] == embedder.asked


def test_a_query_is_not_embedded_by_another_model_than_the_index(backend, notes):
    """Where nobody has compared before, too; what it finds holds all workers, and the old model is taken again."""
    attach(backend)
    changed = Behind(1.0)
    with seamark.open(backend.url, embedder=changed) as service:
        tracked = service.source("notes")
        with pytest.raises(ModelDriftError, match="has a cosine of"):
            tracked.search("the body of note 3", mode="vector")
        assert 1 == len(changed.asked)
        assert "cosine" in vector(service).drift
        found = tracked.search("the body of note 3")
        assert any("model_drift" in reason for reason in found.degraded)
        assert {None} == {hit.vector for hit in found}
        notes.run("INSERT INTO notes VALUES (99, 'later')")
        assert service.store.lease_claim(vector(service).id, "w", 10, 30.0).lease is None
        changed.other = 0.0
        assert 3 == tracked.search("the body of note 3", mode="vector").hits[0].key
        assert vector(service).drift is None


def test_a_query_compares_again_where_another_process_has_found_a_drift(backend, notes):
    """Nobody works, and this process has compared just now: the old model is back, or still away, and then is back."""
    attach(backend)
    embedder = Behind()
    with seamark.open(backend.url, embedder=embedder) as service:
        tracked = service.source("notes")
        for away in (False, True):
            assert 3 == tracked.search("the body of note 3", mode="vector").hits[0].key
            asked = len(embedder.asked)
            with seamark.open(backend.url, embedder=Behind(1.0)) as other, pytest.raises(ModelDriftError):
                other.work(until="current")
            if away:
                embedder.other = 1.0
                with pytest.raises(ModelDriftError):
                    tracked.search("the body of note 3", mode="vector")
                embedder.other = 0.0
            assert vector(service).drift is not None
            assert 3 == tracked.search("the body of note 3", mode="vector").hits[0].key
            assert vector(service).drift is None
            tracked.search("the body of note 3", mode="vector")
            lengths = [len(registry.PROBES) + 1] * (1 + away)
            assert [1, *lengths, 1] == list(map(len, embedder.asked[asked:]))


def test_queries_compare_again_after_an_interval_and_after_an_outage(backend, notes):
    attach(backend)
    embedder, now = Behind(), [0.0]
    with seamark.open(backend.url, embedder=embedder) as service:
        asking = registry.Registry(service.store, service.embedders, lambda: now[0], 60.0)
        taken = []
        for seconds in (0.0, 59.0, 60.0, 61.0, 62.0, 63.0, 64.0):
            now[0], embedder.out = seconds, seconds == 61.0
            if embedder.out:
                with pytest.raises(EmbedderUnavailableError):
                    asking.query_vector(vector(service), "q")
            else:
                asking.query_vector(vector(service), "q")
            taken.append(registry.PROBES[0] in embedder.asked[-1])
        assert [True, False, True, False, True, False, False] == taken
        assert len(taken) == len(embedder.asked)


def test_what_a_query_finds_is_told_also_where_it_cannot_be_written_down(backend, notes, monkeypatch):
    def refused(*_):
        raise StorePermissionError("read only")

    attach(backend)
    with seamark.open(backend.url, embedder=Behind(1.0)) as service:
        monkeypatch.setattr(service.store, "model_drift", refused)
        with pytest.raises(ModelDriftError):
            service.source("notes").search("the body of note 3", mode="vector")
        assert vector(service).drift is None


def test_a_server_that_refuses_a_probe_is_not_asked_for_it_at_every_call(backend, notes):
    """By workers and queries; a query that it refuses says nothing of the probes."""
    attach(backend)
    embedder = Behind(refusing=registry.PROBES[4])
    with seamark.open(backend.url, embedder=embedder) as service:
        for _ in range(3):
            service.indexer(vector(service))
        assert 1 == len(embedder.asked)
    embedder = Behind(refusing=registry.PROBES[4])
    with seamark.open(backend.url, embedder=embedder) as service:
        for _ in range(3):
            assert 3 == service.source("notes").search("the body of note 3", mode="vector").hits[0].key
        assert [7, 1, 1, 1] == list(map(len, embedder.asked))
    embedder = Behind(refusing="bad")
    with seamark.open(backend.url, embedder=embedder) as service:
        with pytest.raises(EmbedderInputError):
            service.source("notes").search("bad", mode="vector")
        service.source("notes").search("good", mode="vector")
        assert [7, 1, 7] == list(map(len, embedder.asked))
