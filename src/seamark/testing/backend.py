"""What the conformance suite asks of a database beside its store: the user's side, and a look at what is really stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from seamark.model import ColumnKind, Generation, Key, Source, StoredVectors
    from seamark.store.contract import Store


def quoted(name: str) -> str:
    """Quote an identifier as both databases do."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row of `rows_<g>`: which version of a source row the generation holds. `chunks` is -1 for one that is gone."""

    seq: int
    chunks: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A row of `chunks_<g>`, its vector as stored."""

    key: Key
    ordinal: int
    start: int
    stop: int
    digest: bytes
    vector: StoredVectors


class Application(Protocol):
    """The program that owns the tables: one connection, that waits for no lock, autocommit outside `transaction`."""

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement with `?` for its parameters and return all rows."""
        ...

    def many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Run one statement for each of the rows, in one transaction."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Commit at the end of the block; roll back when it raises."""
        ...


class Backend(Protocol):
    """One fresh, empty database, and whatever it takes to look at it from outside."""

    name: str
    url: str

    def store(self) -> Store:
        """Open another store on the database, as another process would. The backend closes it at the end."""
        ...

    def application(self) -> Application:
        """Open another connection of the user's. The backend closes it at the end."""
        ...

    def type(self, kind: ColumnKind) -> str:
        """Return the name of a column type of that kind."""
        ...

    def schema(self) -> str:
        """Return everything that the user's schema consists of, as text that is equal when nothing has changed."""
        ...

    def writes(self) -> object:
        """Return a token that differs once anything was committed by anyone."""
        ...

    def connections(self) -> int:
        """Return how many connections to the database are open, those of applications not counted."""
        ...

    def journal(self, source: Source) -> Mapping[Key, tuple[int, bool]]:
        """Return key → (seq, deleted), read without the store."""
        ...

    def rows(self, source: Source, generation: Generation) -> Mapping[Key, StoredRow]:
        """Return the generation's rows, read without the store."""
        ...

    def chunks(self, source: Source, generation: Generation) -> Sequence[StoredChunk]:
        """Return the generation's chunks by key and ordinal, read without the store."""
        ...
