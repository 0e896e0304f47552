"""How the sweep knows that nobody can hold a lower `seq` any more, with transaction ids in every order."""

import itertools
from contextlib import ExitStack

import psycopg
import pytest

from seamark.store.postgres import leases
from seamark.testing.workbench import Workbench


@pytest.fixture
def bench(postgres_backend):
    return Workbench(postgres_backend)


def orders(events):
    """Return every order of the events in which each writer begins (takes its id), writes (takes its seq), then commits."""
    own = [[event for event in events if event.startswith(who)] for who in "AB"]
    found = {order for order in itertools.permutations(events) if all(_in_order(order, one) for one in own)}
    return sorted(found)


def _in_order(order, events):
    places = [order.index(event) for event in events]
    return places == sorted(places)


def overlap(bench, source, generation, number, order):
    """Let two writers and the work go in that order; return how many leases of the sweep it took to end."""
    with ExitStack() as teardown:
        writers = {who: teardown.enter_context(psycopg.connect(bench.backend.url)) for who in "AB"}
        for event in order:
            who, _, what = event.partition(" ")
            if what == "begins":
                writers[who].execute("INSERT INTO other VALUES (1)")
            elif what == "writes":
                key = 10 * number + "AB".index(who)
                writers[who].execute("INSERT INTO notes (id, body) VALUES (%s, %s)", (key, f"{who} {number}"))
            elif what == "commits":
                writers[who].commit()
            else:
                bench.drain(source, generation)
    swept = 0
    while (lease := bench.claim(generation).lease) is not None:
        swept += lease.lane == "sweep"
        bench.settle(source, generation, lease, bench.read(source, lease))
    return swept


@pytest.mark.parametrize(
    ("events", "count"),
    [
        (("A writes", "A commits", "B writes", "B commits", "work", "work"), 90),
        (("A begins", "A writes", "A commits", "B begins", "B writes", "B commits", "work"), 140),
    ],
    ids=["ids and seqs in one order", "ids and seqs in any order"],
)
def test_commits_out_of_order_are_found_in_every_permutation(bench, events, count):
    """A writer may have the higher id and the lower seq, and commit first: no row is left behind, and none needs an audit."""
    source = bench.notes()
    bench.app.run("CREATE TABLE other (x integer)")
    generation = bench.vector(source)
    assert len(orders(events)) == count
    swept = 0
    for number, order in enumerate(orders(events)):
        swept += overlap(bench, source, generation, number, order)
        assert bench.coverage_check(source, generation).missing == 0, order
    bench.verify(source, generation)
    assert swept > 0, "in some of the orders a row commits behind the cursor"


def test_a_straggler_with_the_highest_id(bench):
    """The xmax of a snapshot is one above the highest id that has ended; this straggler's id is not below it."""
    source = bench.notes("a")
    bench.app.run("CREATE TABLE other (x integer)")
    generation = bench.vector(source)
    bench.drain(source, generation)
    with psycopg.connect(bench.backend.url) as early, psycopg.connect(bench.backend.url) as straggler:
        early.execute("INSERT INTO other VALUES (1)")
        straggler.execute("INSERT INTO notes (id, body) VALUES (2, 'straggler')")
        early.execute("INSERT INTO notes (id, body) VALUES (3, 'early')")
        early.commit()
        bench.drain(source, generation)
        bench.drain(source, generation)
        now = bench.now(generation)
        assert now.confirmed < now.fresh, "nothing is confirmed while the straggler may still commit"
        straggler.commit()
    bench.drain(source, generation)
    bench.verify(source, generation, {(1,): "a", (2,): "straggler", (3,): "early"})
    now = bench.now(generation)
    assert now.confirmed == now.fresh


def test_the_origin_has_a_straggler_with_the_highest_id(bench):
    """The same for what was open as the generation began."""
    source = bench.notes("a")
    bench.app.run("CREATE TABLE other (x integer)")
    with psycopg.connect(bench.backend.url) as early, psycopg.connect(bench.backend.url) as straggler:
        early.execute("INSERT INTO other VALUES (1)")
        straggler.execute("INSERT INTO notes (id, body) VALUES (2, 'straggler')")
        early.execute("INSERT INTO notes (id, body) VALUES (3, 'early')")
        early.commit()
        generation = bench.vector(source)
        bench.drain(source, generation)
        assert not bench.store.generation_activate(generation.id)
        straggler.commit()
    bench.drain(source, generation)
    assert bench.store.generation_activate(generation.id)
    bench.verify(source, generation, {(1,): "a", (2,): "straggler", (3,): "early"})


def test_the_fresh_lane_moves_between_the_look_and_the_lock(bench, monkeypatch):
    """The claim is begun again, for its own transaction id would prove nothing about rows seen since the look."""
    source = bench.notes("a")
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.app.run("INSERT INTO notes (id, body) VALUES (2, 'b')")
    other = bench.backend.store()
    began = []

    def claim(work, **order):
        if not began:
            began.append(True)
            bench.app.run("UPDATE seamark.generation SET fresh = fresh + 1")
        return real(work, **order)

    real = leases.claim
    monkeypatch.setattr(leases, "claim", claim)
    assert other.lease_claim(generation.id, "w", 10, 60).again
    assert bench.now(generation).confirmed < bench.now(generation).fresh


def test_a_restored_database_is_not_held_up_by_ids_of_another_cluster(bench):
    """After dump and restore the horizons are ids that this cluster has not given out."""
    source = bench.notes("a", "b")
    generation = bench.vector(source)
    bench.drain(source, generation)
    bench.app.run("INSERT INTO notes (id, body) VALUES (3, 'c')")
    bench.app.run("UPDATE seamark.generation SET horizon = 1::bigint << 50, mark = fresh, origin_horizon = 1::bigint << 50")
    bench.app.run("UPDATE seamark.generation SET swept = 0, confirmed = 0")
    bench.drain(source, generation)
    now = bench.now(generation)
    assert now.confirmed == now.fresh
    assert now.swept == now.origin
    bench.verify(source, generation, {(1,): "a", (2,): "b", (3,): "c"})
