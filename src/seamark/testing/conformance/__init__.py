"""The conformance suite: every sentence of `seamark.store.contract`, as tests that any store must pass, with no skips.

To run it on another backend, give pytest a fixture `bench` that returns a `seamark.testing.workbench.Workbench` on a fresh
database, subclass each class below under a name that begins with `Test`, and call
`pytest.register_assert_rewrite("seamark.testing")` before the import.
"""

from seamark.testing.conformance.adoption import Adoption
from seamark.testing.conformance.audit import AuditPages, AuditTurns, AuditWalks, Mending, Polling
from seamark.testing.conformance.batches import Batches
from seamark.testing.conformance.claims import Claims, Expiry
from seamark.testing.conformance.concurrency import Concurrency
from seamark.testing.conformance.costs import Costs
from seamark.testing.conformance.counting import Counting, Workers
from seamark.testing.conformance.failures import Failures
from seamark.testing.conformance.filters import Filters
from seamark.testing.conformance.generations import Generations
from seamark.testing.conformance.lexical import LexicalReading
from seamark.testing.conformance.lifecycle import Activations, Models, Retirements
from seamark.testing.conformance.names import Names
from seamark.testing.conformance.reads import Reads
from seamark.testing.conformance.reuse import Reuse
from seamark.testing.conformance.settles import Settles, Trims
from seamark.testing.conformance.snapshots import Snapshots
from seamark.testing.conformance.sources import Drops, Enrolments
from seamark.testing.conformance.stamps import Stamps
from seamark.testing.conformance.tables import Collections, Tables
from seamark.testing.conformance.triggers import Touches, Triggers, Wheres
from seamark.testing.conformance.vectors import VectorReading
from seamark.testing.conformance.views import Sql, Views

__all__ = [
    "Activations",
    "Adoption",
    "AuditPages",
    "AuditTurns",
    "AuditWalks",
    "Batches",
    "Claims",
    "Collections",
    "Concurrency",
    "Costs",
    "Counting",
    "Drops",
    "Enrolments",
    "Expiry",
    "Failures",
    "Filters",
    "Generations",
    "LexicalReading",
    "Mending",
    "Models",
    "Names",
    "Polling",
    "Reads",
    "Retirements",
    "Reuse",
    "Settles",
    "Snapshots",
    "Sql",
    "Stamps",
    "Tables",
    "Touches",
    "Triggers",
    "Trims",
    "VectorReading",
    "Views",
    "Wheres",
    "Workers",
]
