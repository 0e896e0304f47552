"""How sources and generations are kept in the sidecar's rows, and read back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from seamark.model import (
    Column,
    Condition,
    Either,
    Every,
    Generation,
    ModelIdentity,
    Source,
    SourceSpec,
    Table,
    TextColumn,
    Touch,
)
from seamark.store.sqlite.keys import key_load
from seamark.store.sqlite.words import STATEMENTS, journal_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Filter
    from seamark.store.sqlite.connection import Connection


def spec_dump(spec: SourceSpec) -> str:
    """Return the spec as JSON."""
    return json.dumps(
        {
            "table": spec.table,
            "text": [[text.column, text.table] for text in spec.text],
            "where": None if spec.where is None else _filter_dump(spec.where),
            "touch": [[touch.table, list(touch.columns)] for touch in spec.touch],
            "stamp": list(spec.stamp),
            "track": spec.track,
        }
    )


def spec_load(text: str) -> SourceSpec:
    """Return the spec that the JSON stands for."""
    found = json.loads(text)
    return SourceSpec(
        found["table"],
        tuple(TextColumn(column, table) for column, table in found["text"]),
        None if found["where"] is None else _filter_load(found["where"]),
        tuple(Touch(table, tuple(columns)) for table, columns in found["touch"]),
        tuple(found.get("stamp", ())),
        found.get("track", "triggers"),
    )


def journal_exists(connection: Connection, source: Source, schema: Literal["main", "app"] | None = None) -> bool:
    """Say whether a source's journal is there: in the user's file, which is `schema` on this connection, or in our own."""
    looked = schema or ("main" if source.spec.track == "poll" else "app")
    return bool(connection.value(STATEMENTS["journal_exists"].format(schema=looked), (journal_name(source.table.name),)))


def columns_dump(table: Table) -> str:
    """Return the columns of a table as JSON."""
    return json.dumps([[column.name, column.type, column.kind] for column in table.columns])


def source_load(row: Sequence[Any]) -> Source:
    """Return the source that a row of `source_list` stands for, its table as it was when it was attached."""
    number, name, table_name, columns, key, spec, state, enrolled = row
    table = Table(None, table_name, tuple(Column(*column) for column in json.loads(columns)), tuple(json.loads(key)))
    return Source(number, name, table, spec_load(spec), state, None if enrolled is None else key_load(enrolled))


def generations_list(connection: Connection, source_id: int | None = None) -> list[Generation]:
    """Return generations, oldest first."""
    rows = connection.rows(STATEMENTS["generations"], {"source": source_id})
    return [_generation_load(row) for row in rows]


def identity_dump(generation_identity: object) -> str:
    """Return a generation's identity as JSON, always the same for the same."""
    return json.dumps(generation_identity, sort_keys=True)


def model_values(model: ModelIdentity) -> tuple[Any, ...]:
    """Return a model's identity in the order of the table's columns."""
    return tuple(asdict(model).values())


def _generation_load(row: Sequence[Any]) -> Generation:
    (number, source, kind, fingerprint, identity, state, locator, origin, fresh, backfill, confirmed, swept) = row[:12]
    backoff_until, backoff_error, created_at, activated_at, manual, retired_at, due, drift = row[12:20]
    name, version, dimension, document, query, normalised = row[20:]
    model = None if name is None else ModelIdentity(name, version, dimension, document, query, bool(normalised))
    return Generation(
        id=number,
        source_id=source,
        kind=kind,
        fingerprint=fingerprint,
        identity=json.loads(identity),
        state=state,
        model=model,
        locator=locator,
        origin=origin,
        fresh=fresh,
        backfill=backfill,
        confirmed=confirmed,
        swept=swept,
        backoff_until=backoff_until,
        backoff_error=backoff_error,
        created_at=created_at,
        activated_at=activated_at,
        manual=bool(manual),
        retired_at=retired_at,
        due=due,
        drift=drift,
    )


def _filter_dump(where: Filter) -> object:
    if isinstance(where, Condition):
        value = list(where.value) if isinstance(where.value, tuple) else where.value
        return {"column": where.column, "operator": where.operator, "value": value, "path": list(where.path)}
    return {"every" if isinstance(where, Every) else "either": [_filter_dump(part) for part in where.of]}


def _filter_load(found: Any) -> Filter:
    if "every" in found:
        return Every(tuple(_filter_load(part) for part in found["every"]))
    if "either" in found:
        return Either(tuple(_filter_load(part) for part in found["either"]))
    value = tuple(found["value"]) if isinstance(found["value"], list) else found["value"]
    return Condition(found["column"], found["operator"], value, tuple(found["path"]))
