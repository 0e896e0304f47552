"""The registry of models: what each made of fixed sentences, and in what it is another one by now."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from seamark.model import ModelIdentity, RegisteredModel
from seamark.store.postgres import codec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seamark.store.postgres.connection import Database


def models_list(database: Database) -> Sequence[RegisteredModel]:
    """Return all models."""
    with database.connection() as connection:
        rows = database.run(connection, "models", {}).fetchall()
    return [
        RegisteredModel(
            ModelIdentity(*identity),
            None if probe is None else np.frombuffer(probe, "<f4").reshape(-1, identity[2]),
            drift,
        )
        for *identity, probe, drift in rows
    ]


def model_probe(database: Database, model: ModelIdentity, probe: NDArray[np.float32], *, replace: bool) -> None:
    """Remember a probe where there is none, or in any case."""
    values = asdict(model) | {"probe": probe.astype("<f4").tobytes(), "replace": replace}
    with database.connection() as connection:
        database.run(connection, "model_probe", {}, values)


def model_drift(database: Database, model: ModelIdentity, drift: str | None) -> None:
    """Record what has changed, or that nothing has."""
    values = asdict(model) | {"drift": None if drift is None else codec.text_clean(drift)}
    with database.connection() as connection:
        database.run(connection, "model_drift", {}, values)
