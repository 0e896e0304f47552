"""Values on their way in and out: keys and specs as JSON, lists as arrays, and rows in the format of binary COPY."""

from __future__ import annotations

import re
import struct
from itertools import chain
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from seamark.model import Column, Condition, Either, Every, SourceSpec, Table, TextColumn, Touch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from seamark.model import Filter, Key, KeyValue, Scalar, StoredVectors

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_REPLACED = "\N{REPLACEMENT CHARACTER}"


def text_clean(text: str) -> str:
    """Replace what PostgreSQL's text cannot hold: NUL and lone surrogates."""
    return _UNSTORABLE.sub(_REPLACED, text)


def text_storable(text: str) -> bool:
    """Say whether PostgreSQL's text can hold it."""
    return _UNSTORABLE.search(text) is None


# --- keys ---------------------------------------------------------------------------------------------------------


def key_dump(key: Key | None) -> list[str | int] | None:
    """Return a key as JSON."""
    return None if key is None else [_dump(value) for value in key]


def key_load(stored: Sequence[str | int] | None, columns: Sequence[Column]) -> Key | None:
    """Return a key from JSON."""
    if stored is None:
        return None
    return tuple(_load(value, column) for value, column in zip(stored, columns, strict=True))


def _dump(value: KeyValue) -> str | int:
    if isinstance(value, int):
        return value
    return value.hex() if isinstance(value, bytes) else str(value)


def _load(value: str | int, column: Column) -> KeyValue:
    if isinstance(value, int):
        return value
    if column.kind == "blob":
        return bytes.fromhex(value)
    return UUID(value) if column.kind == "uuid" else value


def keys_columns(keys: Sequence[Key], width: int) -> dict[str, str]:
    """Return the keys as one array for each column, named `k1`, `k2`, …."""
    return {f"k{column + 1}": array([key[column] for key in keys]) for column in range(width)}


def array(values: Iterable[KeyValue | bool]) -> str:
    """Return an array's text; far cheaper than to have the driver adapt each value."""
    elements = list(values)
    if {*map(type, elements)} == {int}:
        return "{" + str(elements)[1:-1] + "}"
    return "{" + ",".join(map(_element, elements)) + "}"


def _element(value: KeyValue | bool) -> str:  # noqa: FBT001
    if isinstance(value, int):
        return str(value)  # true and false are what PostgreSQL calls them, too, in any case of letters
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'
    if isinstance(value, UUID):
        return str(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- specs --------------------------------------------------------------------------------------------------------


def table_dump(table: Table) -> dict[str, Any]:
    """Return a table as JSON."""
    columns = [[column.name, column.type, column.kind] for column in table.columns]
    return {"schema": table.schema, "name": table.name, "columns": columns, "key": table.key}


def table_load(stored: Mapping[str, Any]) -> Table:
    """Return a table from JSON."""
    return Table(stored["schema"], stored["name"], tuple(Column(*column) for column in stored["columns"]), tuple(stored["key"]))


def spec_dump(spec: SourceSpec) -> dict[str, Any]:
    """Return a spec as JSON."""
    return {
        "table": spec.table,
        "text": [[text.column, text.table] for text in spec.text],
        "where": None if spec.where is None else _filter_dump(spec.where),
        "touch": [[touch.table, touch.columns] for touch in spec.touch],
        "stamp": spec.stamp,
        "track": spec.track,
    }


def spec_load(stored: Mapping[str, Any]) -> SourceSpec:
    """Return a spec from JSON."""
    return SourceSpec(
        stored["table"],
        tuple(TextColumn(*text) for text in stored["text"]),
        None if stored["where"] is None else _filter_load(stored["where"]),
        tuple(Touch(table, tuple(columns)) for table, columns in stored["touch"]),
        tuple(stored.get("stamp", ())),
        stored.get("track", "triggers"),
    )


def _filter_dump(where: Filter) -> dict[str, Any]:
    if isinstance(where, Condition):
        return {"column": where.column, "operator": where.operator, "value": where.value, "path": where.path}
    return {"every" if isinstance(where, Every) else "either": [_filter_dump(part) for part in where.of]}


def _filter_load(stored: Mapping[str, Any]) -> Filter:
    if "column" in stored:
        value: Scalar | list[Scalar] = stored["value"]
        values = tuple(value) if isinstance(value, list) else value
        return Condition(stored["column"], stored["operator"], values, tuple(stored["path"]))
    kind, parts = (Every, stored["every"]) if "every" in stored else (Either, stored["either"])
    return kind(tuple(_filter_load(part) for part in parts))


# --- binary COPY --------------------------------------------------------------------------------------------------


def chunks_encode(
    keys: Sequence[Key],
    widths: Sequence[int],
    ordinals: NDArray[np.int64],
    starts: Sequence[int],
    stops: Sequence[int],
    digests: Sequence[bytes],
    vectors: StoredVectors,
) -> bytes:
    """Return rows of (key columns, ordinal, start, stop, digest, embedding), one for each chunk."""
    dimension = vectors.shape[1]
    tail = np.zeros(
        len(keys),
        dtype=[
            ("ordinal_size", ">i4"), ("ordinal", ">i4"), ("start_size", ">i4"), ("start", ">i4"), ("stop_size", ">i4"),
            ("stop", ">i4"), ("digest_size", ">i4"), ("digest", "S16"), ("size", ">i4"), ("dimension", ">i2"),
            ("unused", ">i2"), ("embedding", vectors.dtype.newbyteorder(">"), (dimension,)),
        ],
    )  # fmt: skip
    for name in ("ordinal_size", "start_size", "stop_size"):
        tail[name] = 4
    tail["ordinal"], tail["start"], tail["stop"] = ordinals, starts, stops
    tail["digest_size"], tail["digest"] = 16, np.frombuffer(b"".join(digests), "S16")
    tail["size"], tail["dimension"], tail["embedding"] = 4 + vectors.itemsize * dimension, dimension, vectors
    return _keyed(keys, widths, 5, tail)


def rows_encode(keys: Sequence[Key], widths: Sequence[int], seqs: Sequence[int], now: int, worker: str) -> bytes:
    """Return rows of (key columns, seq, embedded_at, chunks, truncated, worker), of one whole chunk each."""
    name = worker.encode()
    tail = np.zeros(
        len(keys),
        dtype=[
            ("seq_size", ">i4"), ("seq", ">i8"), ("now_size", ">i4"), ("now", ">i8"), ("chunks_size", ">i4"), ("chunks", ">i4"),
            ("truncated_size", ">i4"), ("truncated", "?"), ("worker_size", ">i4"), ("worker", f"S{len(name)}"),
        ],
    )  # fmt: skip
    tail["seq_size"], tail["now_size"], tail["chunks_size"], tail["truncated_size"], tail["worker_size"] = 8, 8, 4, 1, len(name)
    tail["seq"], tail["now"], tail["chunks"], tail["worker"] = seqs, now, 1, name
    return _keyed(keys, widths, 5, tail)


def _keyed(keys: Sequence[Key], widths: Sequence[int], columns: int, tail: NDArray[np.void]) -> bytes:
    """Return rows of a key and so many columns more; those whose keys are integers are made all at once."""
    if all(isinstance(member, int) for member in keys[0]):
        sizes = [[(f"size_{place}", ">i4"), (f"key_{place}", f">i{width}")] for place, width in enumerate(widths)]
        rows = np.zeros(len(keys), dtype=[("columns", ">i2"), *chain.from_iterable(sizes), ("tail", tail.dtype)])
        rows["columns"], rows["tail"] = len(widths) + columns, tail
        for place, width in enumerate(widths):
            rows[f"size_{place}"], rows[f"key_{place}"] = width, [key[place] for key in keys]
        return b"".join((COPY_HEADER, rows.tobytes(), COPY_END))
    begin, data, size = struct.pack(">h", len(widths) + columns), tail.tobytes(), tail.dtype.itemsize
    pieces: list[bytes] = [COPY_HEADER]
    for place, key in enumerate(keys):
        pieces += (begin, key_encode(key, widths), data[place * size : place * size + size])
    pieces.append(COPY_END)
    return b"".join(pieces)


def postings_encode(rows: Iterable[tuple[str, int, int, int, bytes]]) -> bytes:
    """Return rows of (term, block, docs, lengths, data)."""
    pieces: list[bytes] = [COPY_HEADER]
    numbers = struct.Struct(">iqiiiqi").pack
    for term, block, docs, lengths, data in rows:
        name = term.encode()
        pieces += (b"\0\5", len(name).to_bytes(4, "big"), name, numbers(8, block, 4, docs, 8, lengths, len(data)), data)
    pieces.append(COPY_END)
    return b"".join(pieces)


def key_encode(key: Key, widths: Sequence[int]) -> bytes:
    """Return the fields of a key; `widths` are the bytes of an integer in each column."""
    return b"".join(map(_field, key, widths))


def _field(value: KeyValue, width: int) -> bytes:
    if isinstance(value, int):
        return width.to_bytes(4, "big") + value.to_bytes(width, "big", signed=True)
    data = value.encode() if isinstance(value, str) else value.bytes if isinstance(value, UUID) else value
    return len(data).to_bytes(4, "big") + data
