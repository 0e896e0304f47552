"""Beginning, holding back and dropping generations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from seamark.store.sqlite.catalog import generations_list, identity_dump, model_values
from seamark.store.sqlite.claims import MICROSECONDS, clock
from seamark.store.sqlite.words import STATEMENTS, generation_words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seamark.model import Generation, GenerationSpec, Source
    from seamark.store.sqlite.connection import Connection, Connections
    from seamark.store.sqlite.words import Words


def generation_create(
    connections: Connections,
    source: Source,
    spec: GenerationSpec,
    words: Callable[[Connection, Source, int], Words],
    *,
    manual: bool,
) -> Generation:
    """Begin a generation at the journal's present end, or take up the one that there is."""
    with connections.transaction() as connection:
        number = _begin(connection, source, spec, words, manual=manual)
        return next(one for one in generations_list(connection, source.id) if one.id == number)


def generation_adopt(
    connections: Connections,
    source: Source,
    spec: GenerationSpec,
    words: Callable[[Connection, Source, int], Words],
) -> Generation:
    """Set a generation aside, made if it is not there; see the contract."""
    with connections.transaction() as connection:
        standing = {"source": source.id, "kind": spec.kind, "fingerprint": spec.fingerprint}
        number = connection.value(STATEMENTS["generation_find"], standing)
        if number is None:
            number = _insert(connection, source, spec, words, manual=False)
        connection.run(STATEMENTS["generation_set_aside"], {"generation": number, "now": clock(connection)})
        return next(one for one in generations_list(connection, source.id) if one.id == number)


def generations_begin(
    connections: Connections,
    source: Source,
    specs: Sequence[GenerationSpec],
    words: Callable[[Connection, Source, int], Words],
) -> Sequence[Generation]:
    """Begin the first generations of a source, or return those that there are."""
    with connections.transaction() as connection:
        if not _live(connection, source):
            for spec in specs:
                _begin(connection, source, spec, words, manual=False)
        return _live(connection, source)


def _live(connection: Connection, source: Source) -> Sequence[Generation]:
    return [one for one in generations_list(connection, source.id) if one.state != "retired"]


def _begin(
    connection: Connection,
    source: Source,
    spec: GenerationSpec,
    words: Callable[[Connection, Source, int], Words],
    *,
    manual: bool,
) -> int:
    standing = {"source": source.id, "kind": spec.kind, "fingerprint": spec.fingerprint}
    number = connection.value(STATEMENTS["generation_find"], standing)
    if number is None:
        return _insert(connection, source, spec, words, manual=manual)
    asked = {"generation": number, "manual": manual, "locator": spec.locator}
    connection.run(STATEMENTS["generation_take_up"], asked)
    return int(number)


def _insert(
    connection: Connection,
    source: Source,
    spec: GenerationSpec,
    words: Callable[[Connection, Source, int], Words],
    *,
    manual: bool,
) -> int:
    values = {
        "source": source.id,
        "kind": spec.kind,
        "fingerprint": spec.fingerprint,
        "identity": identity_dump(spec.identity),
        "model": _model(connection, spec),
        "locator": spec.locator,
        "manual": manual,
        "origin": connection.value(words(connection, source, 0)["journal_end"]),
        "now": clock(connection),
    }
    number = int(connection.value(STATEMENTS["generation_insert"], values))
    made = words(connection, source, number)
    connection.run(made[f"{spec.kind}_tables"])
    connection.run(made["common_tables"])
    if spec.kind == "vector":
        connection.run(made["kept_create"])
    if spec.kind == "lexical":
        connection.run(STATEMENTS["postings_upkeep_create"], (number,))
    return number


def _model(connection: Connection, spec: GenerationSpec) -> int | None:
    if spec.model is None:
        return None
    values = model_values(spec.model)
    connection.run(STATEMENTS["model_insert"], values)
    return int(connection.value(STATEMENTS["model_find"], values))


def generation_backoff(connections: Connections, generation_id: int, seconds: float, error: str | None) -> None:
    """Let nobody claim from the generation for so long."""
    with connections.transaction() as connection:
        until = clock(connection) + int(seconds * MICROSECONDS) if seconds else 0
        said = None if error is None else error.encode("utf-8", "replace").decode("utf-8")
        connection.run(STATEMENTS["generation_backoff"], (until, said, generation_id))


def generations_drop(connections: Connections, source_id: int, *, keep_vectors: bool) -> list[int]:
    """Drop all generations of a source, or all of them but their vectors; return their ids."""
    with connections.transaction() as connection:
        found = generations_list(connection, source_id)
        for one in found:
            donates = keep_vectors and one.kind == "vector" and not _lost(connection, one.id)
            if donates:
                connection.run(STATEMENTS["donor_insert"], {"generation": one.id, "now": clock(connection)})
            drop = STATEMENTS["generation_donate" if donates else "generation_tables_drop"]
            connection.run(drop.format_map(generation_words(one.id)))
    return [one.id for one in found]


def _lost(connection: Connection, generation_id: int) -> bool:
    """Say whether a table is gone that others would look for vectors in."""
    words = generation_words(generation_id)
    statement = STATEMENTS["tables_gone"].format(schema="main")
    return connection.row(statement, (json.dumps([words["chunks"], words["kept"]]),)) is not None
