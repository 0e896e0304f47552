"""Schema migrations: which scripts bring a database from one version to another. Each store runs them itself.

A folder holds `NNNN_name.up.sql` and `NNNN_name.down.sql`, numbered from 1 without gaps. A database at version n has had the
first n applied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seamark.errors import StoreIncompatibleError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.resources.abc import Traversable

_FILE = re.compile(r"^(?P<number>\d{4})_(?P<name>[a-z0-9_]+)\.(?P<direction>up|down)\.sql$")


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
