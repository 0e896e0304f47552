"""How many tokens texts are: by the model's own tokenizer where it has one here, else by an estimate."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seamark.embed.contract import Embedder

_LONG_WORD = 12
_piece = re.compile(r"[a-z]+|[A-Z]+|[0-9]+|[^\sA-Za-z0-9]").findall


@runtime_checkable
class TokenCounter(Protocol):
    """What an embedder may have besides: it knows how many tokens its model makes of a text."""

    def tokens_count(self, texts: Sequence[str]) -> Sequence[int]:
        """Return the number of tokens of each text, as a document."""
        ...


@runtime_checkable
class Metered(Protocol):
    """What an embedder may have besides: it learns what a call is billed as."""

    def embed_metered(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int | None]:
        """Embed documents as `embed_documents` does; also return the tokens billed, None where the provider does not say."""
        ...


def embed_metered(embedder: Embedder, texts: Sequence[str]) -> tuple[NDArray[np.float32], int | None]:
    """Embed documents; also return the tokens billed for them, None where nobody says."""
    if isinstance(embedder, Metered):
        return embedder.embed_metered(texts)
    return embedder.embed_documents(texts), None


def tokens_count(embedder: Embedder, texts: Sequence[str]) -> int:
    """Return how many tokens the texts are together: exactly where the embedder is a TokenCounter, else an estimate."""
    if isinstance(embedder, TokenCounter):
        return sum(embedder.tokens_count(texts))
    return sum(map(tokens_estimate, texts))


def tokens_estimate(text: str) -> int:
    """Estimate how many tokens a text is, rather too many: three letters to a token, two in numbers and in long words.

    Against MiniLM's tokenizer, on 27,000 passages of up to 1,000 characters (commit messages, chat, PEPs, abstracts), it is
    1.3 to 1.7 times the truth at the median, 5 to 10 % too low for 1 passage in 100 at most, and let none of over 512 pass.
    """
    return 2 + sum(-(-len(piece) // (2 if piece.isdigit() or len(piece) > _LONG_WORD else 3)) for piece in _piece(text))
