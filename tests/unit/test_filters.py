"""Users' filters are parsed, and whatever is malformed is one clear line."""

from __future__ import annotations

from uuid import UUID

import pytest

from seamark.core.filters import DEPTH_MAX, VALUES_MAX, filter_parse
from seamark.errors import InvalidRequestError, UnknownColumnError
from seamark.model import Column, Condition, Either, Every, Table

TABLE = Table(
    None,
    "notes",
    (
        Column("id", "INTEGER", "integer"),
        Column("org_id", "bigint", "integer"),
        Column("title", "text", "text"),
        Column("score", "real", "number"),
        Column("public", "boolean", "boolean"),
        Column("owner", "uuid", "uuid"),
        Column("created", "timestamptz", "time"),
        Column("meta", "jsonb", "json"),
        Column("data", "bytea", "blob"),
        Column("odd.name", "text", "text"),
        Column("misc", "point", "other"),
    ),
    ("id",),
)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({}, Every(())),
        ({"org_id": 7}, Condition("org_id", "=", 7)),
        ({"title": None}, Condition("title", "=", None)),
        ({"title": {"$eq": "x"}}, Condition("title", "=", "x")),
        ({"title": {"$ne": None}}, Condition("title", "!=", None)),
        ({"org_id": {"$gt": 1, "$lte": 5}}, Every((Condition("org_id", ">", 1), Condition("org_id", "<=", 5)))),
        ({"score": {"$gte": 0.5}}, Condition("score", ">=", 0.5)),
        ({"created": {"$lt": "2026-01-01"}}, Condition("created", "<", "2026-01-01")),
        ({"org_id": 7, "title": "x"}, Every((Condition("org_id", "=", 7), Condition("title", "=", "x")))),
        ({"title": {"$in": ["a", "b"]}}, Condition("title", "in", ("a", "b"))),
        ({"title": {"$in": ["a", None]}}, Either((Condition("title", "in", ("a",)), Condition("title", "=", None)))),
        ({"title": {"$in": [None]}}, Condition("title", "=", None)),
        ({"title": {"$in": []}}, Either(())),
        ({"$or": [{"org_id": 1}, {"org_id": 2}]}, Either((Condition("org_id", "=", 1), Condition("org_id", "=", 2)))),
        (
            {"org_id": 1, "$and": [{"title": "a"}, {"$or": [{"public": True}]}]},
            Every(
                (Condition("org_id", "=", 1), Every((Condition("title", "=", "a"), Either((Condition("public", "=", True),)))))
            ),
        ),
        ({"meta.lang": "en"}, Condition("meta", "=", "en", ("lang",))),
        ({"meta.a.b": {"$gt": 3}}, Condition("meta", ">", 3, ("a", "b"))),
        ({"meta": None}, Condition("meta", "=", None)),
        ({"data": {"$ne": None}}, Condition("data", "!=", None)),
        ({"odd.name": "x"}, Condition("odd.name", "=", "x")),
        ({"title": "x'; DROP TABLE notes; --"}, Condition("title", "=", "x'; DROP TABLE notes; --")),
        ({"misc": 1.5}, Condition("misc", "=", 1.5)),
        ({"owner": UUID(int=1)}, Condition("owner", "=", str(UUID(int=1)))),
    ],
)
def test_filters_are_parsed(mapping, expected):
    assert filter_parse(mapping, TABLE) == expected


@pytest.mark.parametrize(
    ("mapping", "value"),
    [({"org_id": True}, 1), ({"org_id": False}, 0), ({"public": 1}, True), ({"public": 0}, False)],
)
def test_booleans_become_what_the_column_holds(mapping, value):
    parsed = filter_parse(mapping, TABLE)
    assert isinstance(parsed, Condition)
    assert (parsed.value, type(parsed.value)) == (value, type(value))


@pytest.mark.parametrize("name", ["nope", "nope.member", "", "Title", 'a"b; DROP TABLE x'])
def test_an_unknown_column_is_named_with_those_there_are(name):
    with pytest.raises(UnknownColumnError) as raised:
        filter_parse({name: 1}, TABLE)
    assert (raised.value.table, raised.value.column) == ("notes", name)
    assert "org_id" in str(raised.value)


def _nested(depth):
    mapping = {"org_id": 1}
    for _ in range(depth):
        mapping = {"$and": [mapping]}
    return mapping


def _endless():
    mapping = {}
    mapping["$and"] = [mapping]
    return mapping


@pytest.mark.parametrize(
    "mapping",
    [
        {"org_id": [1, 2]},
        {"org_id": {"$eq": [1]}},
        {"org_id": {"$eq": {"$gt": 1}}},
        {"org_id": {}},
        {"org_id": {"gt": 1}},
        {"org_id": {"$regex": "x"}},
        {"org_id": {"$gt": None}},
        {"meta.ok": {"$gt": True}},
        {"org_id": "7"},
        {"org_id": 2**63},
        {"org_id": {1: 2}},
        {1: 2},
        {"score": float("nan")},
        {"score": float("-inf")},
        {"score": "high"},
        {"title": 7},
        {"title": True},
        {"title": "a\0b"},
        {"title": "\ud800"},
        {"title": b"bytes"},
        {"title": {"$in": "abc"}},
        {"title": {"$in": 5}},
        {"title": {"$in": [["a"]]}},
        {"title": {"$in": ["a", 1]}},
        {"title": {"$in": ["a"] * (VALUES_MAX + 1)}},
        {"title.member": "x"},
        {"public": "yes"},
        {"public": 2},
        {"owner": 5},
        {"created": True},
        {"data": "x"},
        {"meta": "x"},
        {"meta.": "x"},
        {"meta.a..b": "x"},
        {"meta.a\0": "x"},
        {"$and": {"org_id": 1}},
        {"$and": []},
        {"$or": "org_id"},
        {"$or": [1]},
        {"$not": {"org_id": 1}},
        _nested(DEPTH_MAX),
        _endless(),
        [("org_id", 1)],
        "org_id = 1",
    ],
)
def test_what_is_malformed_is_one_clear_line(mapping):
    with pytest.raises(InvalidRequestError) as raised:
        filter_parse(mapping, TABLE)
    message = str(raised.value)
    assert message
    assert "\n" not in message
    assert len(message) < 300


def test_a_value_of_another_type_is_refused_in_plain_words():
    with pytest.raises(InvalidRequestError, match=r"'org_id': a column of type bigint cannot be compared with 'seven'"):
        filter_parse({"org_id": "seven"}, TABLE)
