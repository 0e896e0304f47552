"""SQLite, PostgreSQL and a plain dict, driven by the same rules: what one of them shows, all of them show.

SEAMARK_MACHINE_EXAMPLES sets how many histories are run (15 unless told), SEAMARK_MACHINE_STEPS how long they are (40).
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule, run_state_machine_as_test

from seamark.model import Condition
from seamark.testing.oracle import oracle_vector
from seamark.testing.workbench import DIMENSION, LONG, Workbench, passages, words

EXAMPLES = int(os.environ.get("SEAMARK_MACHINE_EXAMPLES", "15"))
STEPS = int(os.environ.get("SEAMARK_MACHINE_STEPS", "40"))
KINDS = ("vector", "lexical")
KEYS = st.integers(1, 6)
BODIES = st.sampled_from(["", " ", "a", "b", "a|b", "b c a", "c|c c", "x" * (LONG + 1)]) | st.none()
WHERE = Condition("org", "!=", 9)


def blank(kind: str, body: str | None) -> bool:
    return not (passages(body or "") if kind == "vector" else words(body or ""))


@dataclass
class Model:
    """What a generation should hold: for each key the version it has, and what failed at which version."""

    version: int = 0
    rows: dict[int, tuple[str | None, int]] = field(default_factory=dict)
    """the table: key → (body, org)"""
    versions: dict[int, int] = field(default_factory=dict)
    """the journal: key → the version of its last change, deleted keys included"""
    held: dict[str, dict[int, tuple[int, str | None]]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    """the index: key → (version, body) of live rows, body None once gone"""
    failed: dict[str, dict[int, int]] = field(default_factory=lambda: {kind: {} for kind in KINDS})

    def changed(self, key: int) -> None:
        self.version += 1
        self.versions[key] = self.version

    def live(self) -> dict[int, str | None]:
        return {key: body for key, (body, org) in self.rows.items() if org != 9}

    def indexed(self, kind: str) -> dict[int, str | None]:
        """Return what is found by search: rows that are live, at the version that the index has of them."""
        return {key: body for key, (_, body) in self.held[kind].items() if key in self.live()}

    def counts(self, kind: str) -> tuple[int, ...]:
        live = self.live()
        current = {key for key, (version, _) in self.held[kind].items() if key in live and version == self.versions[key]}
        failed = {key for key, version in self.failed[kind].items() if key in live and version == self.versions[key]} - current
        blanks = {key for key in current if blank(kind, live[key])}
        truncated = {key for key in current - blanks if len(live[key] or "") > LONG}
        missing = len(live) - len(current) - len(failed)
        return (len(live), len(current - blanks), len(blanks), missing, len(failed), len(truncated))


@dataclass
class Held:
    """A lease in a worker's hand, on both databases, and what it has read: key → (version, body, live)."""

    kind: str
    leases: dict[str, object]
    rows: dict[str, tuple]
    read: dict[int, tuple[int, str | None, bool]]
    lost: bool = False


class Machine(RuleBasedStateMachine):
    """Rules act on both databases and the model; invariants compare them."""

    leases = Bundle("leases")
    open_backend = None
    folder = None

    @initialize(rows=st.lists(st.tuples(KEYS, BODIES, st.sampled_from([1, 9])), max_size=6, unique_by=lambda row: row[0]))
    def begin(self, rows):
        self.stack = ExitStack()
        self.model = Model()
        self.held: list[Held] = []
        self.benches = {
            name: Workbench(type(self).open_backend(name, type(self).folder, self.stack)) for name in ("sqlite", "postgres")
        }
        self.sources, self.generations = {}, {}
        for name, bench in self.benches.items():
            bench.notes_table()
            bench.app.many("INSERT INTO notes (id, body, org) VALUES (?, ?, ?)", rows)
            self.sources[name] = source = bench.attach("notes", ("body",), WHERE, batch=2)
            self.generations[name] = {kind: bench.generation(source, kind) for kind in KINDS}
        for key, body, org in sorted(rows):
            self.model.rows[key] = (body, org)
            if org != 9:
                self.model.changed(key)

    # --- the application

    def run(self, statement, *values):
        for bench in self.benches.values():
            bench.app.run(statement, *values)

    @rule(key=KEYS, body=BODIES, org=st.sampled_from([1, 1, 2, 9]))
    def write(self, key, body, org):
        self.run(
            "INSERT INTO notes (id, body, org) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET body = excluded.body, org = excluded.org",
            key,
            body,
            org,
        )
        if self.model.rows.get(key) != (body, org):
            self.model.changed(key)
        self.model.rows[key] = (body, org)

    @rule(key=KEYS)
    def delete(self, key):
        self.run("DELETE FROM notes WHERE id = ?", key)
        if self.model.rows.pop(key, None):
            self.model.changed(key)

    @rule(key=KEYS, to=KEYS)
    def move(self, key, to):
        if to in self.model.rows:
            return
        self.run("UPDATE notes SET id = ? WHERE id = ?", to, key)
        if key in self.model.rows:
            self.model.rows[to] = self.model.rows.pop(key)
            self.model.changed(key)
            self.model.changed(to)

    @rule(key=KEYS, body=BODIES)
    def roll_back(self, key, body):
        for bench in self.benches.values():
            with suppress(ZeroDivisionError), bench.app.transaction():
                bench.app.run("UPDATE notes SET body = ? WHERE id = ?", body, key)
                bench.app.run("DELETE FROM notes WHERE id <> ?", key)
                raise ZeroDivisionError

    # --- the workers

    @rule(target=leases, kind=st.sampled_from(KINDS), limit=st.integers(1, 4), characters=st.sampled_from([0, 1000]))
    def claim(self, kind, limit, characters):
        leases, rows, read = {}, {}, {}
        for name, bench in self.benches.items():
            lease = bench.claim(self.generations[name][kind], "w", limit).lease
            if lease is not None:
                reading = bench.store.lease_read(self.sources[name], lease, characters)
                leases[name], rows[name] = reading.lease, reading.rows
        assert len(leases) in {0, 2}, f"one database has work and the other has none: {leases}"
        if not leases:
            return None
        assert leases["sqlite"].lane == leases["postgres"].lane
        shown = [[(row.key, row.live, row.texts, row.attempts) for row in rows[name]] for name in rows]
        assert shown[0] == shown[1], leases
        for row in rows["sqlite"]:
            [key] = row.key
            assert row.live == (key in self.model.live())
            if row.live:
                assert row.texts == (self.model.rows[key][0],)
            read[key] = (self.model.versions.get(key, 0), row.texts[0] if row.live else None, row.live)
        self.held.append(Held(kind, leases, rows, read))
        return self.held[-1]

    def settle(self, held, failing=None):
        kind, expected = held.kind, {}
        for name, bench in self.benches.items():
            rows = held.rows[name]
            failed = [bench.fail(row, failing[1]) for row in rows if failing and row.live and row.key[0] % failing[0] == 0]
            result = bench.settle(self.sources[name], self.generations[name][kind], held.leases[name], rows, failed)
            assert (result is None) == held.lost
            expected[name] = result
        assert expected["sqlite"] == expected["postgres"]
        if held.lost:
            return
        for key, (version, body, live) in held.read.items():
            if self.model.versions.get(key, 0) != version or self.model.held[kind].get(key, (-1,))[0] >= version:
                continue
            if failing and live and key % failing[0] == 0:
                self.model.failed[kind][key] = version
                continue
            self.model.failed[kind].pop(key, None)
            if live:
                self.model.held[kind][key] = (version, body)
            else:
                self.model.held[kind].pop(key, None)

    @rule(held=consumes(leases))
    def settle_all(self, held):
        if held is not None:
            self.settle(held)

    @rule(held=consumes(leases), every=st.integers(1, 3), retry=st.sampled_from([None, -1.0, 3600.0]))
    def settle_with_failures(self, held, every, retry):
        if held is not None:
            self.settle(held, (every, retry))

    @rule(held=leases)
    def expire(self, held):
        """The worker sleeps on, and will try to settle later."""
        if held is not None and not held.lost:
            for name, bench in self.benches.items():
                bench.expire(held.leases[name])
            held.lost = True

    @rule(held=consumes(leases))
    def release(self, held):
        if held is not None:
            for name, bench in self.benches.items():
                bench.store.lease_release(held.leases[name])

    @rule(held=leases)
    def renew(self, held):
        if held is not None:
            for name, bench in self.benches.items():
                lease = held.leases[name]
                assert list(bench.store.lease_renew([lease], 3600)) == ([] if held.lost else [lease.id])

    @rule()
    def trim(self):
        dropped = {name: bench.store.journal_trim(self.sources[name].id) for name, bench in self.benches.items()}
        # SQLite keeps the journal's last row, whatever it is.
        assert dropped["postgres"] - 1 <= dropped["sqlite"] <= dropped["postgres"] + 1

    @rule(kind=st.sampled_from(KINDS), key=st.none() | KEYS)
    def retry(self, kind, key):
        keys = None if key is None else [(key,)]
        due = {
            bench.store.failures_retry(self.sources[name], self.generations[name][kind].id, keys)
            for name, bench in self.benches.items()
        }
        assert len(due) == 1

    @rule(kind=st.sampled_from(KINDS), idle=st.booleans())
    def maintain(self, kind, idle):
        for name, bench in self.benches.items():
            bench.store.generation_maintain(self.generations[name][kind].id, idle=idle)

    @rule(kind=st.sampled_from(KINDS))
    def activate(self, kind):
        done = {bench.store.generation_activate(self.generations[name][kind].id) for name, bench in self.benches.items()}
        assert len(done) == 1

    # --- what must be equal

    @invariant()
    def coverage_is_exact(self):
        if not hasattr(self, "model"):
            return
        for kind in KINDS:
            for name, bench in self.benches.items():
                generation = self.generations[name][kind].id
                found = bench.store.coverage(self.sources[name], [generation])[generation]
                counts = (found.live, found.embedded, found.blank, found.missing, found.failed, found.truncated)
                assert counts == self.model.counts(kind), (name, kind)

    @invariant()
    def search_finds_what_is_indexed(self):
        if not hasattr(self, "model"):
            return
        keys = [(key,) for key in range(1, 7)]
        for name, bench in self.benches.items():
            source, generations = self.sources[name], self.generations[name]
            with bench.store.snapshot() as reader:
                live = {row.key[0]: row.texts[0] for row in reader.rows_live(source, keys)}
                assert live == self.model.live(), name
                found = self.postings(reader, source, generations["lexical"])
                assert found == {key: sorted(words(body)) for key, body in self.lexical().items()}, name
                hits = reader.chunks_matching(
                    source, generations["vector"].id, oracle_vector("a", "oracle-a", DIMENSION), Condition("id", ">", 0), 100
                )
                indexed = self.model.indexed("vector")
                expected = {(key, chunk.start, chunk.stop) for key, body in indexed.items() for chunk in passages(body or "")}
                assert {(hit.key[0], hit.start, hit.stop) for hit in hits} == expected, name
                exact = {
                    (key, chunk.start): float(
                        oracle_vector(body[chunk.start : chunk.stop], "oracle-a", DIMENSION)
                        @ oracle_vector("a", "oracle-a", DIMENSION)
                    )
                    for key, body in indexed.items()
                    for chunk in passages(body or "")
                }
                assert np.allclose([hit.similarity for hit in hits], [exact[hit.key[0], hit.start] for hit in hits], atol=2e-3)

    def lexical(self):
        return {key: body for key, body in self.model.indexed("lexical").items() if words(body or "")}

    def postings(self, reader, source, generation):
        """Return key → its words as often as they occur, by way of the postings."""
        found = {}
        for term, postings in reader.postings_read(generation.id, ["a", "b", "c", "x" * (LONG + 1)]).items():
            keys = reader.documents_resolve(source, generation.id, postings["doc"].tolist(), None)
            for document, frequency, _ in postings.tolist():
                if document in keys:
                    found.setdefault(keys[document][0], []).extend([term] * frequency)
        return {key: sorted(terms) for key, terms in found.items()}

    def teardown(self):
        """At rest: whatever happened, the workers get everything done."""
        if hasattr(self, "stack"):
            with self.stack:
                self.finish()

    def finish(self):
        live = {(key,): body or "" for key, body in self.model.live().items()}
        for name, bench in self.benches.items():
            for kind, generation in self.generations[name].items():
                source = self.sources[name]
                for held in self.held:
                    bench.store.lease_release(held.leases[name])
                bench.store.failures_retry(source, generation.id, None)
                bench.drain(source, generation)
                bench.verify(source, generation, live)
                found = bench.coverage_check(source, generation, live)
                assert (found.missing, found.failed, found.leases) == (0, 0, 0), (name, kind)


def test_both_databases_agree_with_the_model(backend_open, tmp_path):
    class Bound(Machine):
        folder = tmp_path

    Bound.open_backend = staticmethod(backend_open)
    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            derandomize="SEAMARK_MACHINE_EXAMPLES" not in os.environ,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
        ),
    )
