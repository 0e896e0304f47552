"""Keys that a program gives: what can be one, and what is told of what cannot."""

from uuid import UUID

import pytest

import seamark
from seamark.core.keys import key_given
from seamark.errors import InvalidRequestError
from seamark.model import Column, Table
from seamark.testing.oracle import OracleEmbedder


def table(kind):
    return Table(None, "notes", (Column("id", kind.upper(), kind),), ("id",))


@pytest.mark.parametrize(
    ("kind", "member", "read"),
    [
        ("integer", 1, 1),
        ("integer", "-12", -12),
        ("text", "a", "a"),
        ("text", 7, "7"),
        ("blob", b"\x00", b"\x00"),
        ("uuid", UUID(int=7), str(UUID(int=7))),
        ("uuid", str(UUID(int=7)), str(UUID(int=7))),
    ],
)
def test_one_member_stands_for_a_key_of_one_column(kind, member, read):
    assert (read,) == key_given(table(kind), member) == key_given(table(kind), (member,))


@pytest.mark.parametrize(
    ("kind", "member"), [("integer", "1_000"), ("integer", " 7 "), ("integer", "\uff17"), ("integer", "x"), ("blob", "a")]
)
def test_what_only_python_takes_for_a_number_is_no_key(kind, member):
    with pytest.raises(InvalidRequestError, match="is no key of table 'notes'"):
        key_given(table(kind), member)


def test_a_failure_is_asked_for_by_a_uuid(backend):
    application = backend.application()
    application.run(f"CREATE TABLE notes(id {backend.type('uuid')} PRIMARY KEY, body {backend.type('text')})")
    key = UUID(int=7)
    application.run("INSERT INTO notes VALUES (?, 'refused')", str(key))
    refused = OracleEmbedder(refused=["refused"])
    with seamark.open(backend.url, embedder=refused) as service:
        tracked = service.attach("notes", text="body")
        service.work(until="current")
        assert 1 == tracked.failures_retry([key])
        assert 0 == tracked.failures_retry([UUID(int=8)])


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (1.5, "float is no key"),
        (None, "NoneType"),
        (True, "bool"),
        ([1], "list"),
        ((1, 2), r"2 members, and the key of 'notes' is \(id\)"),
        ((), "0 members"),
    ],
)
def test_what_can_be_no_key_is_refused_with_a_reason(backend, key, told):
    application = backend.application()
    application.run(f"CREATE TABLE notes(id {backend.type('integer')} PRIMARY KEY, body {backend.type('text')})")
    with seamark.open(backend.url, embedder=OracleEmbedder()) as service:
        tracked = service.attach("notes", text="body")
        with pytest.raises(InvalidRequestError, match=told):
            tracked.failures_retry([key])
