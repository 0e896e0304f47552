"""The registry of models: what each made of fixed sentences, and in what it is another one by now."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from seamark.model import ModelIdentity, RegisteredModel
from seamark.store.sqlite.words import STATEMENTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seamark.store.sqlite.connection import Connection, Connections


def models_list(connection: Connection) -> list[RegisteredModel]:
    """Return all models."""
    return [
        RegisteredModel(
            ModelIdentity(name, version, dimension, document, query, bool(normalised)),
            None if probe is None else np.frombuffer(probe, "<f4").reshape(-1, dimension),
            drift,
        )
        for name, version, dimension, document, query, normalised, probe, drift in connection.rows(STATEMENTS["models"])
    ]


def model_probe(connections: Connections, model: ModelIdentity, probe: NDArray[np.float32], *, replace: bool) -> None:
    """Remember a probe where there is none, or in any case."""
    with connections.transaction() as connection:
        values = asdict(model) | {"probe": probe.astype("<f4").tobytes(), "replace": replace}
        connection.run(STATEMENTS["model_probe"], values)


def model_drift(connections: Connections, model: ModelIdentity, drift: str | None) -> None:
    """Record what has changed, or that nothing has."""
    said = None if drift is None else drift.encode("utf-8", "replace").decode("utf-8")
    with connections.transaction() as connection:
        connection.run(STATEMENTS["model_drift"], asdict(model) | {"drift": said})
