"""The words that stand for identifiers in `queries.sql`: tables of ours by id, the user's quoted, key columns in lists.

All names and values that become part of a statement's text go through `identifier` and `literal`. Both double the percent
sign, because every statement is run with parameters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from seamark.errors import TableUnusableError
from seamark.model import precision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seamark.model import Column, Scalar, Table

Words = dict[str, str]

_DECLARED = re.compile(r"smallint|integer|bigint|text|uuid|bytea|bpchar|character( varying)?(\(\d+\))?|(.*\.)?citext")
_KEY_KINDS = ("integer", "text", "uuid", "blob")


def identifier(name: str) -> str:
    """Quote a name."""
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'


def literal(value: Scalar) -> str:
    """Write a value out, for the triggers, which take no parameters."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return "E'" + value.replace("\\", "\\\\").replace("'", "''").replace("%", "%%") + "'"
    return f"({value!r})"


def qualified(table: Table) -> str:
    """Quote a table's name with its schema."""
    assert table.schema is not None
    return f"{identifier(table.schema)}.{identifier(table.name)}"


def key_columns(table: Table) -> tuple[Column, ...]:
    """Return the columns of the key. TableUnusableError where one is of a type that Seamark cannot carry."""
    columns = tuple(column for name in table.key if (column := table.column(name)) is not None)
    for column in columns:
        if column.kind not in _KEY_KINDS:
            raise TableUnusableError(
                f"table {table.name!r} has the key column {column.name!r} of type {column.type}; a key can be of integers, "
                "text, uuid or bytea"
            )
    return columns


def key_type(column: Column) -> str:
    """Return the type of our copy of a key column: the user's own, but what a domain is made of in its stead."""
    if _DECLARED.fullmatch(column.type):
        return column.type
    return {"integer": "bigint", "text": "text", "uuid": "uuid", "blob": "bytea"}[column.kind]


def key_array_type(column: Column) -> str:
    """Return the type of an array of such keys: without a length, to which a cast would cut what is too long."""
    if column.kind == "text":
        return "bpchar" if key_type(column).startswith("character(") else "text"
    return {"integer": "bigint", "uuid": "uuid", "blob": "bytea"}[column.kind]


def key_width(column: Column) -> int:
    """Return how many bytes a key of an integer type has."""
    return {"smallint": 2, "integer": 4}.get(key_type(column), 8)


def generation_words(generation_id: int) -> Words:
    """Return the words of a generation."""
    tables = ("rows", "chunks", "kept", "postings", "failures", "documents")
    return {name: f"seamark.{name}_{generation_id}" for name in tables}


def stored_type(identity: Mapping[str, object]) -> str:
    """Return pgvector's type for the vectors of a generation with this identity."""
    return {"float16": "halfvec", "float32": "vector"}[precision(identity)]


def pairs(left: Sequence[str], right: Sequence[str]) -> str:
    """Compare two lists of columns, one by one."""
    return " AND ".join(f"{a} = {b}" for a, b in zip(left, right, strict=True))
