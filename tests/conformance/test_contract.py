"""The conformance suite on both databases."""

from seamark.testing import conformance


class TestTables(conformance.Tables): ...


class TestCollections(conformance.Collections): ...


class TestEnrolments(conformance.Enrolments): ...


class TestDrops(conformance.Drops): ...


class TestTriggers(conformance.Triggers): ...


class TestWheres(conformance.Wheres): ...


class TestTouches(conformance.Touches): ...


class TestGenerations(conformance.Generations): ...


class TestClaims(conformance.Claims): ...


class TestExpiry(conformance.Expiry): ...


class TestReads(conformance.Reads): ...


class TestSettles(conformance.Settles): ...


class TestTrims(conformance.Trims): ...


class TestFailures(conformance.Failures): ...


class TestConcurrency(conformance.Concurrency): ...


class TestCounting(conformance.Counting): ...


class TestWorkers(conformance.Workers): ...


class TestFilters(conformance.Filters): ...


class TestLexicalReading(conformance.LexicalReading): ...


class TestVectorReading(conformance.VectorReading): ...


class TestSnapshots(conformance.Snapshots): ...


class TestNames(conformance.Names): ...


def test_every_part_of_the_suite_is_bound_here():
    bound = {base for item in globals().values() if isinstance(item, type) for base in item.__bases__}
    assert {getattr(conformance, name) for name in conformance.__all__} <= bound
