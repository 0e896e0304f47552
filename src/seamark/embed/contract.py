"""The contract of an embedder: any object with these members serves, `seamark.open(..., embedder=...)` takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from seamark.model import ModelIdentity


class Embedder(Protocol):
    """Turns texts into vectors. Must be callable from several threads when `concurrency` is above 1.

    Documents and queries are embedded by separate calls, because many models give them different prefixes (the embedder
    adds its own). Both return one row per text, in the order given: shape (len(texts), identity.dimension), float32.
    What they return is checked by `seamark.embed.validation` before anything is stored, so an implementation need not.

    What an embedder may have besides is `Renewable`, and, to tell what it costs, in `seamark.embed.tokens`.

    Errors, and what the caller does about each:
    - EmbedderConfigurationError: the generation stops, visibly, until somebody acts;
    - EmbedderUnavailableError: the whole generation backs off; no row's attempts are spent;
    - EmbedderTransientError: the rows' attempts are spent, and they are tried again later;
    - EmbedderInputError: the batch is bisected, and the one text to blame is parked.
    """

    @property
    def identity(self) -> ModelIdentity:
        """What the vectors are attributed to."""
        ...

    @property
    def fusion_weight(self) -> float:
        """The vector leg's weight, 0 to 1, in a convex combination with BM25."""
        ...

    @property
    def concurrency(self) -> int:
        """How many calls may be under way at once, at least 1."""
        ...

    @property
    def batch_items(self) -> int:
        """How many texts one call is best given."""
        ...

    def token_excess(self, texts: Sequence[str]) -> Sequence[bool]:
        """Say for each text whether the model would have to cut it; such texts are split further, never cut."""
        ...

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages that are to be found."""
        ...

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed questions."""
        ...


@runtime_checkable
class Renewable(Protocol):
    """What an embedder may have besides: its server says which model it has, and may be asked again."""

    def identity_renew(self) -> None:
        """Ask once more; `identity` is what the server has now."""
        ...
