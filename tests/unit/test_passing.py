"""What is passed on of rows that are gone."""

from seamark.store.passing import left_over


def test_what_is_settled_in_the_same_lease_is_not_left_over_as_often_as_that():
    settled = {b"a": 1, b"b": 2}
    gone = [(b"a", 1), (b"a", 2), (b"b", 3), (b"c", 4)]
    assert left_over(gone, settled) == {b"a": 2, b"c": 4}
    assert left_over([(b"b", 5), (b"b", 6)], settled) == {b"b": 6}, "one of them was left from the piece before"
