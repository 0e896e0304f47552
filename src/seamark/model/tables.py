"""A user's tables, and what Seamark is asked to follow of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

KeyValue = int | str | bytes | UUID
Key = tuple[KeyValue, ...]
"""A row's primary key, one member per key column, each in its own type."""


def key_order(key: Key) -> tuple[tuple[str, object], ...]:
    """Make keys comparable whose members are of different types, which a SQLite column may hold."""
    return tuple((type(member).__name__, member) for member in key)


Track = Literal["triggers", "poll"]
Scalar = str | int | float | bool | None
ColumnKind = Literal["integer", "text", "uuid", "blob", "json", "number", "boolean", "time", "other"]
SourceState = Literal["enrolling", "ready"]
StampName = Literal["embedded_model_id", "embedded_model_version", "embedded_at", "has_embedding", "embed_gen"]
Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a user's table: `type` is the database's own name for it, `kind` is what Seamark takes it for."""

    name: str
    type: str
    kind: ColumnKind


@dataclass(frozen=True, slots=True)
class Table:
    """A user's table as it stands now. `key` is empty when it has no primary key."""

    schema: str | None
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    def column(self, name: str) -> Column | None:
        """Return the column of that exact name, or None."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class TextColumn:
    """A column whose text is embedded; `table` is None for the source's own, else the name of a touching table."""

    column: str
    table: str | None = None


@dataclass(frozen=True, slots=True)
class Touch:
    """A related table: `columns` hold the source's key, in the key's order. Its changes touch the source's row."""

    table: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison. `path` leads to a member of a JSON column. `=` and `!=` treat null as a value."""

    column: str
    operator: Operator
    value: Scalar | tuple[Scalar, ...]
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Every:
    """All of the filters hold (true when there are none)."""

    of: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """At least one of the filters holds (false when there are none)."""

    of: tuple[Filter, ...]


Filter = Condition | Every | Either


def filter_columns(where: Filter | None) -> tuple[str, ...]:
    """Return the names of the columns that the filter looks at, each once."""
    if where is None:
        return ()
    if isinstance(where, Condition):
        return (where.column,)
    return tuple(dict.fromkeys(name for part in where.of for name in filter_columns(part)))


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """What `attach` was asked to track. `where` says which rows are live; None means all of them.

    `stamp`: columns of the table that say of each row what the generation that search reads holds of its present text.
    `track`: whether triggers feed the journal, or a poller, by the key, which only ever grows.
    """

    table: str
    text: tuple[TextColumn, ...]
    where: Filter | None = None
    touch: tuple[Touch, ...] = ()
    stamp: tuple[StampName, ...] = ()
    track: Track = "triggers"


@dataclass(frozen=True, slots=True)
class Source:
    """An attached table. `enrolled` is the last key that the enrolment of existing rows has passed."""

    id: int
    name: str
    table: Table
    spec: SourceSpec
    state: SourceState
    enrolled: Key | None


@dataclass(frozen=True, slots=True)
class Enrolment:
    """One batch of existing rows has entered the journal; `done` when there are no more."""

    rows: int
    done: bool
