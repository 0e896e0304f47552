"""Schema migrations: which scripts bring a database from one version to another. Each store runs them itself.

A folder holds `NNNN_name.up.sql` and `NNNN_name.down.sql`, numbered from 1 without gaps. A database at version n has had the
first n applied.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seamark.errors import StoreIncompatibleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.resources.abc import Traversable

_log = logging.getLogger(__name__)
_FILE = re.compile(r"^(?P<number>\d{4})_(?P<name>[a-z0-9_]+)\.(?P<direction>up|down)\.sql$")
_MADE = re.compile(
    r"^CREATE (?:UNIQUE )?(?:TABLE|FUNCTION|VIEW|INDEX \w+ ON) (?:seamark\.)?(\w+)(?:\$\$.*?\$\$|[^;$])*;",
    re.MULTILINE | re.DOTALL,
)
_CHANGED = re.compile(r"^ALTER TABLE (?:seamark\.)?(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered change of the schema, and what takes it back."""

    number: int
    name: str
    up: str
    down: str


@dataclass(frozen=True, slots=True)
class Step:
    """A script to run, and the version that the database has once it has run."""

    version: int
    name: str
    script: str


def migrations(folder: Traversable) -> tuple[Migration, ...]:
    """Return the folder's migrations in order. ValueError when one lacks its other half, or a number is missing."""
    scripts: dict[tuple[int, str], dict[str, str]] = {}
    for file in folder.iterdir():
        if (match := _FILE.match(file.name)) is not None:
            halves = scripts.setdefault((int(match["number"]), match["name"]), {})
            halves[match["direction"]] = file.read_text(encoding="utf-8")
    for (number, name), halves in scripts.items():
        if halves.keys() != {"up", "down"}:
            message = f"migration {number:04}_{name} has no {'down' if 'up' in halves else 'up'} script"
            raise ValueError(message)
    found = tuple(Migration(number, name, halves["up"], halves["down"]) for (number, name), halves in sorted(scripts.items()))
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("migrations are not numbered 1, 2, 3, …: " + ", ".join(f"{m.number:04}_{m.name}" for m in found))
    return found


def steps(known: Sequence[Migration], version: int, target: int | None = None) -> tuple[Step, ...]:
    """Return what to run, in order, to come from `version` to `target` (None means the newest)."""
    newest = len(known)
    if version > newest:
        raise StoreIncompatibleError(
            f"this database has Seamark schema version {version}, and this Seamark knows versions up to {newest}; "
            "upgrade Seamark with `pip install --upgrade seamark`"
        )
    target = newest if target is None else target
    assert 0 <= target <= newest
    if target >= version:
        return tuple(Step(one.number, one.name, one.up) for one in known[version:target])
    return tuple(Step(one.number - 1, one.name, one.down) for one in reversed(known[target:version]))


def shared(known: Sequence[Migration]) -> Mapping[str, str]:
    """Return the tables, functions and views that all sources share: by name, the script that makes it anew, empty.

    That is "" for a table that a later migration has changed. Those hold what there is of sources, models and generations, and
    an empty one would be of no use.
    """
    found: dict[str, str] = {}
    for migration in known:
        for statement in _MADE.finditer(migration.up):
            found[statement[1]] = f"{found.get(statement[1], '')}{statement[0]}\n"
    changed = {name for migration in known for name in _CHANGED.findall(migration.up)}
    return {name: "" if name in changed else script for name, script in found.items()}


def lost_check(shared: Mapping[str, str], gone: Sequence[str], where: str, anew: str) -> None:
    """Raise StoreIncompatibleError where something is gone that cannot be made anew, with how to begin anew."""
    if lost := [name for name in gone if not shared[name]]:
        raise StoreIncompatibleError(
            f"tables of Seamark's own are gone from {where}, and nothing else holds what was in them: {', '.join(lost)}; "
            f"restore them from a backup, or {anew} and attach again"
        )


def lost_tell(gone: Sequence[str], where: str) -> None:
    """Warn of what was gone, and has been made anew."""
    _log.warning(
        "gone from %s, and made anew, empty: %s; `seamark verify --repair` mends what went with it", where, ", ".join(gone)
    )
