"""Stamps: columns of the user's own table that say what is embedded. What holds on both databases.

A stamp is true of the generation that vector search reads. It is written with, or right after, the chunks that make it true,
and emptied in the transaction of the edit that makes it untrue. A row that somebody is just writing to is not waited for: its
key is put down as *owed*, and upkeep writes its stamp later. Upkeep also compares the whole table, a batch at a time: after
another generation has become the one that search reads, and once a day, since anybody may write into a column of theirs. Where
search reads none, whichever generation is kept up writes what is owed: that is nothing.

Where search reads another one, the stamps of what that does not hold are cleared: before the swap, so that none is untrue after
it, and once more after it, for what workers have stamped for the one before meanwhile. Clearing goes through the journal, from
where the generation is known to hold everything, so that a rollback does not wait for it however large the table. What it does
hold is stamped by upkeep. A whole generation that takes over by itself is cleared for after the swap only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from seamark.model import StampName

STAMP_MARK = "made by seamark attach --stamp"
"""Stands in the user's schema with a column that was made (a comment), so that it is known as ours however often the table is
detached and attached again, and no column that somebody has made anew under that name is taken for it."""
OWED_ROWS = 500
"""Owed rows that one piece of upkeep writes, and for an instant locks."""
PASS_ROWS = 2000
"""Rows that one piece of a pass compares."""
PASS_SECONDS = 86_400.0


def stamps_empty(names: tuple[StampName, ...]) -> dict[StampName, bool | None]:
    """Return what stands in a row that is not embedded."""
    return {name: False if name == "has_embedding" else None for name in names}


def stamps_gone(names: Sequence[StampName], columns: Iterable[str]) -> list[StampName]:
    """Return those stamps that a table with these columns has none for."""
    there = {column.lower() for column in columns}
    return [name for name in names if name not in there]


def gone_told(names: Sequence[StampName]) -> str:
    """Say that stamps are gone."""
    return f"stamp columns are gone: {', '.join(names)}"


def made_told(names: Sequence[StampName]) -> str:
    """Say that stamps have been made again."""
    return f"stamp columns made anew, empty: {', '.join(names)}"
