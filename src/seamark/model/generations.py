"""Models, and the indexes that are made with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

StoredVectors = NDArray[np.float16 | np.float32]
"""Vectors as they are stored, of either precision."""

GenerationKind = Literal["lexical", "vector"]
Precision = Literal["float16", "float32"]
GenerationState = Literal["building", "active", "retired"]


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Everything about an embedding model that changes its vectors. `locator` (how to load it) is not part of it."""

    name: str
    version: str
    dimension: int
    document_prefix: str = ""
    query_prefix: str = ""
    normalised: bool = True


def precision(identity: Mapping[str, object]) -> Precision:
    """Return how the vectors of a generation with this identity are stored."""
    return "float32" if identity.get("precision") == "float32" else "float16"


@dataclass(frozen=True, slots=True)
class GenerationSpec:
    """A generation to be made. `identity` is the JSON-able whole that `fingerprint` is the digest of."""

    kind: GenerationKind
    fingerprint: str
    identity: Mapping[str, object]
    model: ModelIdentity | None = None
    locator: str | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """One index over one source. Cursors are `seq` values; see docs/architecture.md for what each promises."""

    id: int
    source_id: int
    kind: GenerationKind
    fingerprint: str
    identity: Mapping[str, object]
    state: GenerationState
    model: ModelIdentity | None
    locator: str | None
    origin: int
    fresh: int
    backfill: int
    confirmed: int
    swept: int
    backoff_until: int
    backoff_error: str | None
    created_at: int
    activated_at: int | None
    manual: bool = False
    """It becomes the active one only when somebody asks for it."""
    retired_at: int | None = None
    due: int | None = None
    """What the journal held when it had to catch up with it: it is whole once `confirmed` has come so far."""
    drift: str | None = None
    """In what the model behind its name is another one by now: nothing more is written until that is resolved."""

    @property
    def spec(self) -> GenerationSpec:
        """What would make one like it."""
        return GenerationSpec(self.kind, self.fingerprint, self.identity, self.model, self.locator)

    @property
    def whole(self) -> bool:
        """Whether everything is done that was there when it began, and when it was taken up again."""
        return self.backfill == 0 and self.swept >= self.origin and (self.due is None or self.confirmed >= self.due)


@dataclass(frozen=True, slots=True)
class Activated:
    """A generation that was made the one that search reads.

    `missing` and `failed` are the rows that it did not hold then; workers bring the missing ones. `precedes` has the
    generations that were to be activated by themselves, and are left to `activate` now: this one was chosen after them.
    """

    generation: Generation
    missing: int
    failed: int
    precedes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model as it was registered.

    `probe` is what it made of fixed sentences then, float32, None while it has not been asked yet; `drift` says in what it is
    another one by now, None when all is well.
    """

    identity: ModelIdentity
    probe: NDArray[np.float32] | None
    drift: str | None
