"""Keeps the embeddings of a database's rows complete, current and attributed, and searches them."""

from seamark.core.service import Seamark
from seamark.core.tracked import Tracked
from seamark.errors import SeamarkError
from seamark.open import open  # noqa: A004 read as seamark.open

__all__ = ["Seamark", "SeamarkError", "Tracked", "open"]
__version__ = "0.1.0"
