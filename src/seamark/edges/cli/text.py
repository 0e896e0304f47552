"""Text on its way to a terminal: nothing in it may steer the terminal, break out of its line, or give a password away."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 but tab and newline: escape sequences begin with one
    "\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction marks, which can make a line read as another one
    "\ud800-\udfff]"
)
_CREDENTIALS = re.compile(r"(?<=://)([^/@\s:]*):[^/\s]*@")
_PASSWORD = re.compile(r"(?i)\b(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)")
PASSWORD_CHARACTERS_MIN = 3
"""A shorter password is hidden within URLs only: hiding each "a" would hide the message."""


def cleaned(text: str) -> str:
    """Return a text without the characters that steer a terminal."""
    return _CONTROL.sub("", text)


def line(text: str) -> str:
    """Return a text as one line."""
    return cleaned(" ".join(text.split()))


def counted(number: int, noun: str) -> str:
    """Return `1 row`, `1,200 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def shortened(text: str, characters: int) -> str:
    """Return a text as one line of at most so many characters."""
    whole = line(text)
    return whole if len(whole) <= characters else whole[: characters - 1].rstrip() + "…"


def masked(text: str, url: str | None = None) -> str:
    """Return a text without passwords: those within any URL, and the URL's own wherever it stands."""
    shown = _PASSWORD.sub(r"\1***", _CREDENTIALS.sub(r"\1:***@", text))
    for password in _passwords(url or ""):
        shown = shown.replace(password, "***")
    return shown


def _passwords(url: str) -> set[str]:
    try:
        password = urlsplit(url).password or ""
    except ValueError:
        return set()
    return {form for form in (password, unquote(password)) if len(form) >= PASSWORD_CHARACTERS_MIN}
