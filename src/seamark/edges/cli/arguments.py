"""Arguments that are more than a word: filters as JSON, touching tables, keys."""

import json
from collections.abc import Sequence
from typing import cast

import typer

from seamark.edges import serialise
from seamark.errors import SeamarkError
from seamark.model import Failure, Key


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


def keys(failures: Sequence[Failure], words: Sequence[str]) -> list[Key]:
    """Return the keys of the failed rows that are meant, each in the type it has; one of several columns is a JSON list.

    Raises SeamarkError for a word that means no failed row.
    """
    shown = [(failure.key, serialise.key(failure.key)) for failure in failures]
    return [key for word in words for key in _meant(word, shown)]


def _meant(word: str, shown: Sequence[tuple[Key, object]]) -> set[Key]:
    try:
        value: object = json.loads(word)
    except (ValueError, RecursionError):
        value = word
    found = {key for key, value_shown in shown if value_shown in (word, value)}
    if not found:
        raise SeamarkError(f"no row {word!r} has failed; see `seamark failures list`")
    return found
