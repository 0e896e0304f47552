"""The shapes of JSON that programs rely on; docs/cli.md documents them."""

from __future__ import annotations

import json
import math
from uuid import UUID

import pytest

from seamark.core.filters import filter_parse, filter_write
from seamark.core.search import SearchResult
from seamark.edges import serialise
from seamark.model import Check, Column, Coverage, Failure, Hit, Leg, Progress, Table

TABLE = Table(None, "notes", tuple(Column(name, kind, kind) for name, kind in (
    ("id", "integer"), ("org_id", "integer"), ("tag", "text"), ("meta", "json"), ("deleted_at", "time"),
)), ("id",))  # fmt: skip


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (7, 7),
        ("seven", "seven"),
        ((7,), 7),
        (("a", 7), ["a", 7]),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        ((b"\x00\xff", 1), [{"hex": "00ff"}, 1]),
        ("half \ud800", "half \ufffd"),
    ],
)
def test_keys(key, shown):
    assert serialise.key(key) == shown


@pytest.mark.parametrize(
    "words",
    [
        {"org_id": 7},
        {"deleted_at": None},
        {"tag": {"$in": ["a", "b"]}},
        {"meta.lang": {"$ne": "en"}},
        {"$or": [{"org_id": {"$gte": 1}}, {"$and": [{"org_id": {"$lt": 9}}, {"tag": "x"}]}]},
    ],
)
def test_a_filter_is_given_back_in_the_words_it_was_written_in(words):
    assert filter_write(filter_parse(words, TABLE)) == words


def test_a_hit_and_its_legs():
    hit = Hit((3, "x"), 0.5, "a passage", 4, 13, True, 2, Leg(1, 7.25), None)
    assert serialise.search_result(SearchResult((hit,), ("vector: out",), (1, 2))) == {
        "hits": [
            {
                "rank": 1,
                "key": [3, "x"],
                "score": 0.5,
                "stale": True,
                "passage": "a passage",
                "start": 4,
                "stop": 13,
                "generation": 2,
                "lexical": {"rank": 1, "score": 7.25},
                "vector": None,
            }
        ],
        "degraded": ["vector: out"],
        "generations": [1, 2],
    }


def test_what_json_has_no_word_for_is_null():
    hit = Hit(1, math.nan, "x", 0, 1, False, 1, Leg(1, math.inf), None)
    document = serialise.hit(hit, 1)
    assert document["score"] is None
    assert document["lexical"] == {"rank": 1, "score": None}
    json.dumps(document, allow_nan=False)


def test_times_are_iso_8601_in_utc():
    assert serialise.time(1_700_000_000_123_456) == "2023-11-14T22:13:20.123456Z"
    assert serialise.time(0) == "1970-01-01T00:00:00Z"
    assert serialise.time(None) is None


def test_a_failure():
    parked = Failure(3, (7,), 12, "input", "too rude", 1, None, 1_700_000_000_000_000)
    assert serialise.failure(parked) == {
        "generation": 3,
        "key": 7,
        "kind": "input",
        "error": "too rude",
        "attempts": 1,
        "failed_at": "2023-11-14T22:13:20Z",
        "retry_at": None,
        "parked": True,
    }


def test_coverage():
    assert serialise.coverage(Coverage(10, 6, 1, 2, 1, 3)) == {
        "live": 10,
        "embedded": 6,
        "blank": 1,
        "missing": 2,
        "failed": 1,
        "truncated": 3,
        "leases": 0,
        "retrying": 0,
        "oldest_missing_seconds": None,
    }


def test_checks_are_well_when_what_is_required_is():
    fine, wished = Check("a", ok=True, detail="fine"), Check("b", ok=False, detail="slow", remedy="tune", required=False)
    assert serialise.checks((fine, wished))["ok"] is True
    assert serialise.checks((fine, Check("c", ok=False, detail="broken")))["ok"] is False
    assert serialise.checks((wished,))["checks"] == [
        {"name": "b", "ok": False, "required": False, "detail": "slow", "remedy": "tune"}
    ]


def test_progress():
    assert serialise.progress(Progress("embed", 3, 10, 1.23456, 5.6789, 7.891)) == {
        "label": "embed",
        "rows": 3,
        "total": 10,
        "rows_per_second": 1.2,
        "eta_seconds": 5.7,
        "lag_seconds": 7.9,
        "problem": None,
    }
