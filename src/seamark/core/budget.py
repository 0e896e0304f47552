"""What is spent on a model, and a limit to it that calls are held against before they are made."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from seamark.embed.tokens import TokenCounter, embed_metered, tokens_count
from seamark.errors import BudgetSpentError
from seamark.model.cost import Spent

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seamark.embed.contract import Embedder

_MARGIN = 1.05
"""The next call may be billed a little higher, for what is estimated of it, than any so far was."""


class Tally:
    """What one lease has spent so far, by one thread."""

    def __init__(self) -> None:
        self.spent = Spent()

    def add(self, texts: int, tokens: int) -> None:
        """Count a call."""
        self.spent = Spent(self.spent.calls + 1, self.spent.texts + texts, self.spent.tokens + tokens)


class Budget:
    """Tokens that may be spent, by all threads together."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._spent = 0
        self._reserved = 0
        self._lock = threading.Lock()

    def reserve(self, tokens: int) -> None:
        """Set tokens aside for a call; BudgetSpentError when there are not so many left."""
        with self._lock:
            if self._spent + self._reserved + tokens > self._tokens:
                raise BudgetSpentError(self._spent, self._tokens)
            self._reserved += tokens

    def spent(self) -> BudgetSpentError:
        """Return the error of one who could not go on, with all that is spent by now: other calls were under way then."""
        with self._lock:
            return BudgetSpentError(self._spent, self._tokens)

    def settle(self, reserved: int, billed: int) -> None:
        """Put what was billed in the place of what was set aside."""
        with self._lock:
            self._reserved -= reserved
            self._spent += billed


class Meter:
    """Calls to one embedder, counted, and held against a budget where there is one. Safe to use from several threads."""

    def __init__(self, embedder: Embedder, budget: Budget | None = None) -> None:
        self._embedder = embedder
        self._budget = budget
        self._ratio = 1.0
        self._compared = isinstance(embedder, TokenCounter)

    def embed(self, texts: Sequence[str], tally: Tally) -> NDArray[np.float32]:
        """Embed documents; BudgetSpentError, and no call, when it would cost more than is left."""
        if self._budget is None:
            vectors, billed = embed_metered(self._embedder, texts)
            tally.add(len(texts), billed or 0)
            return vectors
        counted = tokens_count(self._embedder, texts)
        expected = round(counted * self._ratio)
        self._budget.reserve(expected)
        billed = 0
        try:
            vectors, told = embed_metered(self._embedder, texts)
            billed = expected if told is None else told
            self._compare(counted, told)
        finally:
            self._budget.settle(expected, billed)
        tally.add(len(texts), told or 0)
        return vectors

    def _compare(self, counted: int, billed: int | None) -> None:
        """Learn from what was billed how much an estimate is worth: the dearest call so far is the measure."""
        if billed is None or not counted:
            return
        found = _MARGIN * billed / counted
        self._ratio = max(self._ratio, found) if self._compared else found
        self._compared = True
