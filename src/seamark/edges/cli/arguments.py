"""Arguments that are more than a word: filters as JSON, touching tables, keys."""

import json
from collections.abc import Sequence
from typing import cast
from uuid import UUID

import typer

from seamark.model import Column, Key, KeyValue, Source


def json_object(text: str) -> dict[str, object]:
    """Parse a JSON object, such as a filter."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"not JSON ({error}); write for example '{{\"org_id\": 7}}'") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f"a JSON object is wanted, not {type(value).__name__}; write for example '{{\"org_id\": 7}}'")
    return cast("dict[str, object]", value)


def touches(words: Sequence[str]) -> dict[str, list[str]]:
    """Parse `table=column`, or `table=column,column` where the key has several columns."""
    parsed: dict[str, list[str]] = {}
    for word in words:
        table, equals, columns = word.rpartition("=")
        if not (table and equals and columns):
            raise typer.BadParameter(f"{word!r} is not TABLE=COLUMN", param_hint="--touch")
        parsed[table] = columns.split(",")
    return parsed


def keys(source: Source, words: Sequence[str]) -> list[Key]:
    """Parse rows' keys, each in its own type; a key of several columns is written as a JSON list."""
    columns = [column for name in source.table.key if (column := source.table.column(name)) is not None]
    return [_key(columns, word) for word in words]


def _key(columns: Sequence[Column], word: str) -> Key:
    if len(columns) == 1:
        return (_member(columns[0], word),)
    try:
        members: object = json.loads(word)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, list) or len(cast("list[object]", members)) != len(columns):
        names = ", ".join(column.name for column in columns)
        raise typer.BadParameter(f"{word!r} is not a JSON list of {names}, such as '[\"a\", 3]'", param_hint="KEY")
    return tuple(_member(column, str(member)) for column, member in zip(columns, cast("list[object]", members), strict=True))


def _member(column: Column, word: str) -> KeyValue:
    try:
        match column.kind:
            case "integer":
                return int(word)
            case "uuid":
                return UUID(word)
            case "blob":
                return bytes.fromhex(word)
            case _:
                return word
    except ValueError as error:
        raise typer.BadParameter(f"{word!r} is no {column.kind}, which {column.name!r} is", param_hint="KEY") from error
