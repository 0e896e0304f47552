"""Merging blocks of postings, as both databases do."""

import numpy as np

from seamark.model import POSTING
from seamark.store.blocks import BLOCK_POSTINGS, blocks_loose, blocks_merge, postings_load


def blob(docs):
    postings = np.zeros(len(docs), POSTING)
    postings["doc"] = docs
    postings["frequency"] = 2
    postings["length"] = 3
    return postings.tobytes()


def test_the_dead_are_left_out_and_the_rest_is_in_order():
    merged = blocks_merge([blob([7, 9]), blob([1, 4])], np.array([1, 7, 9, 12], np.uint32))
    assert [(block.number, block.docs, block.lengths) for block in merged] == [(1, 3, 9)]
    assert postings_load([merged[0].data])["doc"].tolist() == [1, 7, 9]
    assert set(postings_load([merged[0].data])["frequency"].tolist()) == {2}


def test_blocks_are_cut_where_they_are_full():
    docs = np.arange(2 * BLOCK_POSTINGS + 5, dtype=np.uint32)
    merged = blocks_merge([blob(docs)], docs)
    assert [block.docs for block in merged] == [BLOCK_POSTINGS, BLOCK_POSTINGS, 5]
    assert [block.number for block in merged] == [0, BLOCK_POSTINGS, 2 * BLOCK_POSTINGS]
    assert np.array_equal(postings_load([block.data for block in merged])["doc"], docs)


def test_nothing_alive_is_no_block():
    assert blocks_merge([blob([1, 2])], np.array([], np.uint32)) == ()
    assert blocks_merge([], np.array([1], np.uint32)) == ()


def test_only_many_small_blocks_are_worth_a_merge():
    full = BLOCK_POSTINGS
    assert blocks_loose([]) == 0
    assert blocks_loose([1] * 4) == 0
    assert blocks_loose([full, full, 1, 1, 1, 1, 1]) == 5
    assert blocks_loose([full - 1, 1, 1, 1, 1, 1]) == 5, "a large block is not rewritten for the sake of a few postings"
    assert blocks_loose([5, 1, 1, 1, 1, 1]) == 6
