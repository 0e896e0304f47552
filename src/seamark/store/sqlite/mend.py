"""Making good what feeds a source, and giving rows a new `seq` when an audit has found them wrong.

The user's file is written to in transactions of a few milliseconds, as everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.store.sqlite.catalog import generations_list
from seamark.store.sqlite.source import journal_transaction, source_restore, tables_gone
from seamark.store.sqlite.stamps import owed_create, owed_name, stamps_lost, stamps_remade
from seamark.store.sqlite.words import STATEMENTS
from seamark.store.stamps import made_told

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seamark.model import Generation, Key, Source
    from seamark.store.sqlite.connection import Connection, Connections
    from seamark.store.sqlite.words import Words

RENEW_ROWS = 500
"""Entries given a new `seq` in one transaction on the user's file: some milliseconds."""


def journal_renew(connections: Connections, words: Words, keys: Sequence[Key]) -> int:
    """Give the rows a new `seq`, and enter those that are live and not there."""
    floor = _floor(connections, words.source)
    written = 0
    for start in range(0, len(keys), RENEW_ROWS):
        rows = [(*key, floor) for key in keys[start : start + RENEW_ROWS]]
        with journal_transaction(connections, words.source) as connection:
            written += len(connection.many_rows(words["journal_renew"], rows))
            written += len(connection.many_rows(words["journal_enter"], rows))
    return written


def _floor(connections: Connections, source: Source) -> int:
    with connections.use() as connection:
        return int(connection.value(STATEMENTS["journal_floor"], (source.id,)))


def source_mend(connections: Connections, words: Words, words_of: Callable[[Connection, Source, int], Words]) -> list[str]:
    """Make good what can be; return what was done."""
    source = words.source
    with connections.use() as connection:
        gone, lost = tables_gone(connection, source), stamps_lost(connection, source)
    done = [f"made anew, empty: {', '.join(gone)}"] if gone else []
    with connections.transaction() as connection:
        for generation in generations_list(connection, source.id):
            _tables_mend(connection, generation, words_of(connection, source, generation.id), gone)
        if owed_name(source) in gone:
            owed_create(connection, source)
        if lost:
            stamps_remade(connection, source, lost)
    restored = source_restore(connections, source)
    if lost:
        done.append(made_told(lost))
    if restored:
        done.append(f"triggers made anew: {', '.join(restored)}")
    if _lift(connections, words):
        done.append("the journal goes on above what has been indexed")
    return done


def _lift(connections: Connections, words: Words) -> bool:
    """See to it that the journal's next `seq` is above all that a generation has met with; say whether it was not."""
    floor = {"floor": _floor(connections, words.source)}
    with journal_transaction(connections, words.source) as connection:
        connection.run(words["journal_lift"], floor)
        lifted = connection.changes()
        connection.run(words["journal_lift_empty"], floor)
        return lifted + connection.changes() > 0


def _tables_mend(connection: Connection, generation: Generation, words: Words, gone: Sequence[str]) -> None:
    """Complete the tables of a generation; the scripts leave alone what is there."""
    if not any(words.word(kind) in gone for kind in ("rows", "chunks", "kept", "postings", "failures")):
        return
    connection.run(words[f"{generation.kind}_tables"])
    connection.run(words["common_tables"])
    if generation.model is not None:
        connection.run(words["kept_create"])
    if words.word("chunks") in gone:
        connection.run(STATEMENTS["shards_forget"], (generation.id,))


def source_trust(connections: Connections, words: Words) -> None:
    """Remember the journal's last entry as it stands now."""
    with connections.transaction() as connection:
        connection.run(words["witness_write"], {"source": words.source.id})
