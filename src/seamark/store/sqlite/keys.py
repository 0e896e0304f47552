"""A row's key: kept as JSON, and read where its text may not be well-formed.

SQLite stores whatever bytes it is told are text. A key that no Python text can hold cannot be given to anybody and back, so
that such a row is not indexed; it is parked under its key, which SQL copies, and the work goes on.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Key


class RawText(bytes):
    """Text that is not well-formed, as it is stored; to be bound as `key_marks` says."""

    __slots__ = ()


def key_read(columns: Sequence[Any], codec: str) -> Key:
    """Return the key read as the word `…keys_raw` has it: of each member whether it is text, and its value, text as bytes."""
    members = zip(columns[::2], columns[1::2], strict=True)
    return tuple(_text(value, codec) if is_text else value for is_text, value in members)


def key_sound(key: Key) -> bool:
    """Say whether all text in a key is well-formed."""
    return not any(isinstance(member, RawText) for member in key)


def key_shown(key: Key, codec: str) -> Key:
    """Return a key to be looked at, with U+FFFD for what is not text."""
    return tuple(member.decode(codec, "replace") if isinstance(member, RawText) else member for member in key)


def key_marks(key: Key) -> str:
    """Return the marks to bind a key to."""
    return ", ".join("CAST(? AS TEXT)" if isinstance(member, RawText) else "?" for member in key)


def key_dump(key: Key) -> str:
    """Return a key as JSON."""
    return json.dumps([_member_dump(member) for member in key])


def key_load(text: str) -> Key:
    """Return the key that the JSON stands for."""
    return tuple(_member_load(member) for member in json.loads(text))


def _member_dump(member: object) -> object:
    if isinstance(member, bytes):
        return {"text" if isinstance(member, RawText) else "blob": member.hex()}
    return member


def _member_load(member: Any) -> Any:
    if not isinstance(member, dict):
        return member
    [(kind, value)] = cast("dict[str, str]", member).items()
    return RawText.fromhex(value) if kind == "text" else bytes.fromhex(value)


def _text(value: bytes, codec: str) -> str | RawText:
    try:
        return value.decode(codec)
    except UnicodeDecodeError:
        return RawText(value)
