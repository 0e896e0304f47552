"""What the views for SQL users are called, and their columns: the same on both databases. docs/sql.md promises them."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

JOBS = "embedding_jobs"
_EMBEDDINGS = "_embeddings"
COLUMNS = ("ordinal", "start", "stop", "model_id", "model_version", "embedded_at", "current", "generation", "state")
"""Those of a source's view, after the key's."""
JOBS_COLUMNS = (
    *("source", "key", "model_id", "model_version", "status", "attempts", "last_error", "inserted_at", "updated_at"),
    *("kind", "generation"),
)
NAME_BYTES = 63
"""The longest name that PostgreSQL takes; it cuts others off, so that two could become one."""
_DIGEST_BYTES = 4


def view_name(source: str) -> str:
    """Return the name of a source's view of embeddings.

    Where that were longer than a name may be, the source's name is cut, and told from others by eight digits of its BLAKE2b.
    """
    if len((source + _EMBEDDINGS).encode()) <= NAME_BYTES:
        return source + _EMBEDDINGS
    end = f"_{blake2b(source.encode(), digest_size=_DIGEST_BYTES).hexdigest()}{_EMBEDDINGS}"
    return source.encode()[: NAME_BYTES - len(end)].decode(errors="ignore") + end


def key_names(key: Sequence[str]) -> tuple[str, ...]:
    """Return the names that the key's columns have in the view: their own, after `key_` where the view has one of that name."""
    taken = {*COLUMNS, *(name.lower() for name in key if name.lower() not in COLUMNS)}
    found: list[str] = []
    for name in key:
        shown = name
        if name.lower() in COLUMNS:
            while shown.lower() in taken:
                shown = f"key_{shown}"
            taken.add(shown.lower())
        found.append(shown)
    return tuple(found)
