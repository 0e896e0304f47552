"""Text and Markdown files as documents: path, title, body."""

import codecs
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seamark.errors import SeamarkError

SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst")
BATCH_DOCUMENTS = 200
BATCH_BYTES = 8_000_000
"""Documents put in one transaction: few enough that a killed command has little to do again."""
FILE_BYTES_MAX = 100_000_000
_HEADING = re.compile(r"^#{1,2}[ \t]+(.+?)[ \t#]*$", re.MULTILINE)
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that did not become a document."""

    path: str
    reason: str


def documents_find(paths: Sequence[Path]) -> list[Path]:
    """Return the files named, and the text files in the folders named, hidden ones left out; each once.

    Raises SeamarkError for a path that does not exist, before anything is read.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found.update(dict.fromkeys(_folder(path)))
        elif path.exists():
            found[path.resolve()] = None
        else:
            raise SeamarkError(f"there is no file {str(path)!r}; nothing was added")
    return list(found)


def _folder(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder.resolve()):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(place, name)


def batches(files: Sequence[Path], skipped: list[Skipped]) -> Iterator[list[tuple[str, str, str]]]:
    """Read the files, some at a time; those that cannot be read, or are not text, are added to `skipped`."""
    batch: list[tuple[str, str, str]] = []
    size = 0
    for file in files:
        path = os.fsencode(file).decode("utf-8", "replace")
        content = _content(file)
        if isinstance(content, bytes):
            body = _decoded(content)
            batch.append((path, _title(file, body), body))
            size += len(content)
        else:
            skipped.append(Skipped(path, content))
        if batch and (len(batch) >= BATCH_DOCUMENTS or size >= BATCH_BYTES):
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _content(file: Path) -> bytes | str:
    """Return what is in the file, or why it is not taken."""
    try:
        if not file.is_file():
            return "not a regular file"
        if file.stat().st_size > FILE_BYTES_MAX:
            return f"larger than {FILE_BYTES_MAX // 1_000_000} MB"
        content = file.read_bytes()
    except OSError as error:
        return error.strerror or type(error).__name__
    if not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in content:
        return "not text (it has a NUL byte)"
    return content


def _decoded(content: bytes) -> str:
    encoding = next((name for mark, name in _BOMS if content.startswith(mark)), "utf-8")
    return content.decode(encoding, "replace").replace("\0", "\ufffd")


def _title(file: Path, body: str) -> str:
    heading = _HEADING.search(body, 0, 4000) if file.suffix.lower() in (".md", ".markdown") else None
    return heading[1].strip() if heading else os.fsencode(file.stem).decode("utf-8", "replace")
