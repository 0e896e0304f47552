"""Keys that a program gives: what can be one, and what is told of what cannot."""

from uuid import UUID

import pytest

import seamark
from seamark.core.catalog import key_given
from seamark.errors import InvalidRequestError
from seamark.testing.oracle import OracleEmbedder


@pytest.mark.parametrize("member", [1, "a", b"\x00", UUID(int=7)])
def test_one_member_stands_for_a_key_of_one_column(member):
    assert (member,) == key_given(member, ["id"]) == key_given((member,), ["id"])


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (1.5, "float is no part of a key"),
        (None, "NoneType"),
        (True, "bool"),
        ([1], "list"),
        ((1, 2), r"2 members, and the key of the table is \(id\)"),
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
