"""The docstrings of the running Python's standard library: real text that is on every machine."""

import ast
import builtins
import inspect
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SKIPPED_FOLDERS = {"test", "tests", "site-packages", "dist-packages", "distutils", "idlelib", "lib2to3", "turtledemo"}
Kind = Literal["module", "class", "function", "method"]


@dataclass(frozen=True, slots=True)
class Docstring:
    """What a name of the standard library says of itself. `name` is qualified, as in `pathlib.Path.glob`."""

    module: str
    name: str
    kind: Kind
    doc: str


def docstrings() -> Iterator[Docstring]:
    """Return those of the public names: from the sources, importing nothing, and from what is loaded and has no source."""
    return (found for found in _all() if not any(re.match("_(?!_)", part) for part in found.name.split(".")))


def _all() -> Iterator[Docstring]:
    folder = Path(sysconfig.get_path("stdlib"))
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS and name.isidentifier())
        for name in sorted(files):
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                yield from _source(folder, Path(place, name))
    for name in sorted(sys.stdlib_module_names & sys.modules.keys()):
        if not (getattr(sys.modules[name], "__file__", None) or "").endswith(".py") and not name.startswith("_"):
            yield from _compiled(name)


def _source(folder: Path, file: Path) -> Iterator[Docstring]:
    parts = file.relative_to(folder).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, OSError):  # templates and samples that are not Python of this version
        return
    yield from _documented(tree, module, module, "module")


def _documented(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, module: str, name: str, kind: Kind
) -> Iterator[Docstring]:
    doc = ast.get_docstring(node)
    if doc:
        yield Docstring(module, name, kind, doc)
    if kind in ("module", "class"):
        for member in node.body:
            if isinstance(member, ast.ClassDef):
                yield from _documented(member, module, f"{name}.{member.name}", "class")
            elif isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _documented(member, module, f"{name}.{member.name}", "method" if kind == "class" else "function")


def _compiled(module: str) -> Iterator[Docstring]:
    """Return what the names of a module without source, loaded already, say of themselves."""
    scope = sys.modules[module]
    for name, value in sorted(vars(scope).items()):
        if inspect.isclass(value) and value.__module__ == module:
            prefix = name if scope is builtins else f"{module}.{name}"
            yield from _said(module, prefix, "class", value)
            for member, function in sorted(vars(value).items()):
                if not member.startswith("_") and (inspect.isroutine(function) or inspect.isdatadescriptor(function)):
                    yield from _said(module, f"{prefix}.{member}", "method", function)
        elif inspect.isroutine(value) and not name.startswith("_"):
            yield from _said(module, name if scope is builtins else f"{module}.{name}", "function", value)


def _said(module: str, name: str, kind: Kind, value: object) -> Iterator[Docstring]:
    doc = value.__doc__
    if isinstance(doc, str) and doc.strip():
        yield Docstring(module, name, kind, inspect.cleandoc(doc))
