"""Generations: making, listing and holding them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from psycopg.types.json import Jsonb

from seamark.errors import InvalidRequestError, StoreError
from seamark.model import Generation, ModelIdentity, precision
from seamark.store.postgres.names import generation_words, stored_type
from seamark.store.postgres.views import views_refresh

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seamark.model import GenerationSpec, Source
    from seamark.store.postgres.catalog import Catalog
    from seamark.store.postgres.connection import Connection, Database, Row
    from seamark.store.postgres.names import Words

T = TypeVar("T")

DIMENSION_MAX = {"float16": 4000, "float32": 2000}
"""What a halfvec and a vector may have to be indexed by HNSW."""


def generations(database: Database, connection: Connection, source_id: int | None) -> Sequence[Generation]:
    """Return the generations of a source, or all."""
    return [_generation(row) for row in database.run(connection, "generations", {}, {"source": source_id})]


def _generation(row: Row) -> Generation:
    id_, source_id, kind, fingerprint, identity, state, name, version, dimension, document, query, normalised, *rest = row
    model = None if name is None else ModelIdentity(name, version, dimension, document, query, normalised)
    return Generation(id_, source_id, kind, fingerprint, identity, state, model, *rest)


def generation_create(
    database: Database, catalog: Catalog, source: Source, spec: GenerationSpec, *, manual: bool
) -> Generation:
    """Make a generation with its tables, or take up the one that there is; see the contract."""

    def create(connection: Connection, origin: int) -> Generation:
        _lock(database, connection, source)
        number = _create(database, connection, catalog, source, spec, origin, manual=manual)
        return next(found for found in generations(database, connection, source.id) if found.id == number)

    return _creating(database, catalog, source, [spec], create)


def generation_adopt(database: Database, catalog: Catalog, source: Source, spec: GenerationSpec) -> Generation:
    """Set a generation aside, made if it is not there; see the contract."""

    def create(connection: Connection, origin: int) -> Generation:
        _lock(database, connection, source)
        values = {"source": source.id, "kind": spec.kind, "fingerprint": spec.fingerprint}
        found = database.run(connection, "generation_find", {}, values).fetchone()
        number = found[0] if found else _create(database, connection, catalog, source, spec, origin, manual=False)
        database.run(connection, "generation_set_aside", {}, {"generation": number})
        return next(found for found in generations(database, connection, source.id) if found.id == number)

    return _creating(database, catalog, source, [spec], create)


def generations_begin(
    database: Database, catalog: Catalog, source: Source, specs: Sequence[GenerationSpec]
) -> Sequence[Generation]:
    """Make a source's first generations with their tables; see the contract."""

    def begin(connection: Connection, origin: int) -> Sequence[Generation]:
        _lock(database, connection, source)
        if not _live(database, connection, source):
            for spec in specs:
                _create(database, connection, catalog, source, spec, origin, manual=False)
        return _live(database, connection, source)

    return _creating(database, catalog, source, specs, begin)


def _lock(database: Database, connection: Connection, source: Source) -> None:
    """Let whoever begins generations of the source at the same time wait here, and then see ours."""
    if database.run(connection, "source_lock", {}, {"source": source.id}).fetchone() is None:
        raise StoreError(f"source {source.name!r} is no longer attached")


def _live(database: Database, connection: Connection, source: Source) -> Sequence[Generation]:
    return [found for found in generations(database, connection, source.id) if found.state != "retired"]


def _creating(
    database: Database,
    catalog: Catalog,
    source: Source,
    specs: Sequence[GenerationSpec],
    create: Callable[[Connection, int], T],
) -> T:
    """Run a transaction that makes generations at the journal's present end."""
    for spec in specs:
        _dimension_check(spec)

    def created() -> T:
        # Read before the transaction begins: whoever holds a lower `seq` by then has a lower transaction id than ours, too.
        with database.connection() as connection:
            [(origin,)] = database.run(connection, "journal_end", catalog.words(source.id)).fetchall()
        with database.transaction() as connection:
            made = create(connection, origin)
            views_refresh(database, connection)
            return made

    return database.retried(created)


def _dimension_check(spec: GenerationSpec) -> None:
    stored = precision(spec.identity)
    if spec.model is not None and not 1 <= spec.model.dimension <= DIMENSION_MAX[stored]:
        raise InvalidRequestError(
            f"model {spec.model.name!r} has {spec.model.dimension} dimensions, and pgvector can index up to "
            f"{DIMENSION_MAX[stored]} of {stored}; use a model, or its `dimensions` setting, of at most so many"
        )


def _create(
    database: Database,
    connection: Connection,
    catalog: Catalog,
    source: Source,
    spec: GenerationSpec,
    origin: int,
    *,
    manual: bool,
) -> int:
    values = {"source": source.id, "kind": spec.kind, "fingerprint": spec.fingerprint}
    found = database.run(connection, "generation_find", {}, values).fetchone()
    if found is not None:
        asked = {"generation": found[0], "manual": manual, "locator": spec.locator}
        database.run(connection, "generation_take_up", {}, asked)
        return found[0]
    created = _insert(database, connection, source, spec, origin, manual=manual)
    _tables_create(database, connection, created, spec, catalog.words(source.id) | generation_words(created))
    return created


def _insert(
    database: Database, connection: Connection, source: Source, spec: GenerationSpec, origin: int, *, manual: bool
) -> int:
    model: int | None = None
    if spec.model is not None:
        values = {name: getattr(spec.model, name) for name in spec.model.__dataclass_fields__}
        [(model,)] = database.run(connection, "model_upsert", {}, values).fetchall()
    values = {
        "source": source.id,
        "kind": spec.kind,
        "fingerprint": spec.fingerprint,
        "identity": Jsonb(dict(spec.identity)),
        "model": model,
        "locator": spec.locator,
        "manual": manual,
        "origin": origin,
    }
    [(created,)] = database.run(connection, "generation_insert", {}, values).fetchall()
    return created


def _tables_create(database: Database, connection: Connection, generation_id: int, spec: GenerationSpec, words: Words) -> None:
    database.run(connection, f"rows_create_{spec.kind}", words)
    database.run(connection, "rows_index", words)
    if spec.model is not None:
        kind = {"dimension": str(spec.model.dimension), "stored": stored_type(spec.identity)}
        database.run(connection, "chunks_create", words | kind)
        database.run(connection, "chunks_index", words)
        database.run(connection, "kept_create", words)
        database.run(connection, "kept_index", words)
    else:
        database.run(connection, "documents_index", words)
        database.run(connection, "documents_create", words)
        database.run(connection, "postings_create", words)
        database.run(connection, "postings_upkeep_create", {}, {"generation": generation_id})
    database.run(connection, "failures_create", words)
    database.run(connection, "failures_index", words)


def generation_backoff(database: Database, generation_id: int, seconds: float, error: str | None) -> None:
    """Let nobody claim from a generation for a while."""
    values = {"generation": generation_id, "microseconds": round(seconds * 1e6), "error": error}
    with database.connection() as connection:
        database.run(connection, "generation_backoff", {}, values)
