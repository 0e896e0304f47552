"""Activating, retiring and dropping generations, and what they take on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seamark.store.activation import Standing, activate
from seamark.store.sqlite.claims import clock
from seamark.store.sqlite.words import STATEMENTS, generation_words

if TYPE_CHECKING:
    from seamark.store.sqlite.connection import Connection, Connections
    from seamark.store.sqlite.words import Words


class _Activating:
    """The statements of one activation; the transaction has the file to itself."""

    def __init__(self, connection: Connection, words: Words) -> None:
        self._connection = connection
        self._words = words

    def standing(self) -> Standing | None:
        row = self._connection.row(STATEMENTS["generation_standing"], {"generation": self._words.generation})
        if row is None:
            return None
        state, manual, filled, due, confirmed, replaces = row
        return Standing(state, bool(manual), bool(filled), due, confirmed, bool(replaces))

    def due_write(self) -> int:
        return int(self._connection.value(self._words["generation_due"], (self._words.generation,)))

    def failing(self) -> bool:
        return bool(self._connection.value(self._words["generation_failing"]))

    def searchable(self) -> bool:
        """What is outside the HNSW files is little, or scanned in memory: they are built while rows come in."""
        return True

    def swap(self, *, back: bool) -> None:
        at = {"generation": self._words.generation, "now": clock(self._connection), "back": back}
        self._connection.run(STATEMENTS["generation_give_way"], at)
        self._connection.run(STATEMENTS["generation_activate"], at)

    def precede(self) -> None:
        self._connection.run(STATEMENTS["generation_precede"], {"generation": self._words.generation})


def generation_activate(connections: Connections, words: Words, *, asked: bool, force: bool, back: bool) -> bool:
    """Make a generation the active one, where that may be."""
    with connections.transaction() as connection:
        return activate(_Activating(connection, words), asked=asked, force=force, back=back)


def generation_retire(connections: Connections, generation_id: int, *, force: bool) -> bool:
    """Retire a generation; an active one only with force."""
    with connections.transaction() as connection:
        at = {"generation": generation_id, "now": clock(connection), "force": force}
        return connection.row(STATEMENTS["generation_retire"], at) is not None


def generation_retired(connection: Connection, generation_id: int) -> bool:
    """Say whether there is such a generation, retired."""
    return bool(connection.value(STATEMENTS["generation_retired"], (generation_id,)))


def generation_drop(connections: Connections, generation_id: int) -> bool:
    """Drop a retired generation's tables: their pages are used again by what is written next; the file does not get shorter."""
    with connections.transaction() as connection:
        if not generation_retired(connection, generation_id):
            return False
        connection.run(STATEMENTS["generation_tables_drop"].format_map(generation_words(generation_id)))
        return True


def generations_bytes(connection: Connection, source_id: int) -> dict[int, int]:
    """Return what the tables and the HNSW files of each generation take."""
    return {number: pages + files for number, pages, files in connection.rows(STATEMENTS["generations_bytes"], (source_id,))}
