"""Which attaches stand in each other's way: decided once for both databases, under each one's lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.errors import SourceConflictError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from seamark.model import Source, SourceSpec, Table


def conflict_check(known: Iterable[Source], name: str, spec: SourceSpec, table: Table) -> None:
    """Raise SourceConflictError where the name stands for another table or other words, or the table has another name."""
    for source in known:
        same_name = source.name == name
        same_table = (source.table.schema, source.table.name) == (table.schema, table.name)
        if (same_name or same_table) and not (same_name and same_table and source.spec == spec):
            words = " with other words" if same_name and same_table else ""
            raise SourceConflictError(
                f"{source.name!r} tracks the table {source.table.name!r} already{words}; "
                "detach it first, or attach another table under another name"
            )
