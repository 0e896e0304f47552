"""Named statements from a `.sql` file, for the one place in each store that runs them.

A file is a sequence of statements, each under a line `-- name: the_name` and a comment of one line or more that says its
purpose. `{word}` in a statement stands for an identifier or a list of columns that is not known before run time; everything
else is a bound parameter.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_NAME = re.compile(r"^-- name: (?P<name>[a-z][a-z0-9_]*)$", re.MULTILINE)


def load(file: Traversable) -> dict[str, str]:
    """Return name → statement, comments removed. ValueError on a name given twice or a statement that is empty."""
    pieces = _NAME.split(file.read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        lines = (line for line in body.splitlines() if not line.lstrip().startswith("--"))
        statement = "\n".join(line for line in lines if line.strip()).rstrip().rstrip(";")
        if name in found or not statement:
            message = f"{file.name}: statement {name!r} is empty or given twice"
            raise ValueError(message)
        found[name] = statement
    return found
