"""Vectors in files: numpy's arrays with keys beside them, and Parquet, which needs an extra."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from seamark.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from seamark.core.adopt import Batch

BATCH_ROWS = 4096


def numpy_batches(vectors: Path, keys: Path, digests: Path | None) -> Iterator[Batch]:
    """Give the vectors of a `.npy` file with the keys, and the digests of their texts, of two others, a piece at a time."""
    matrix, names = _array(vectors), _array(keys)
    told = None if digests is None else _array(digests)
    if len(names) != len(matrix) or (told is not None and len(told) != len(matrix)):
        raise InvalidRequestError(f"{vectors} has {len(matrix)} vectors, and {keys} {len(names)} keys")
    for start in range(0, len(matrix), BATCH_ROWS):
        piece = slice(start, start + BATCH_ROWS)
        yield _keys(names[piece].tolist()), matrix[piece], None if told is None else told[piece].tolist()


def parquet_batches(file: Path, key: tuple[str, ...], vector: str, digest: str | None) -> Iterator[Batch]:
    """Give the vectors of a Parquet file, a piece at a time; rows without one are passed over."""
    try:
        parquet: Any = import_module("pyarrow.parquet")  # an extra, imported by this module only
    except ImportError as error:
        raise InvalidRequestError("reading Parquet needs pyarrow; run pip install 'seamark[parquet]'") from error
    opened = _opened(parquet, file)
    columns = [*key, vector, *([digest] if digest else [])]
    missing = [name for name in columns if name not in opened.schema_arrow.names]
    if missing:
        raise InvalidRequestError(
            f"{file} has no column {missing[0]!r}; its columns are {', '.join(opened.schema_arrow.names)}"
        )
    for batch in opened.iter_batches(batch_size=BATCH_ROWS, columns=columns):
        kept = batch.filter(batch.column(vector).is_valid())
        if kept.num_rows:
            found = list(zip(*(kept.column(name).to_pylist() for name in key), strict=True))
            yield found, _matrix(kept.column(vector), file), kept.column(digest).to_pylist() if digest else None


def _opened(parquet: Any, file: Path) -> Any:
    try:
        return parquet.ParquetFile(file)
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{file} cannot be read as Parquet: {error}") from error


def _matrix(column: Any, file: Path) -> Any:
    values = column.flatten().to_numpy(zero_copy_only=False)
    if len(values) % len(column):
        raise InvalidRequestError(f"{file}: the vectors are not all of one length")
    return values.reshape(len(column), -1)


def _array(file: Path) -> Any:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{file} cannot be read as an array of numpy's: {error}") from error


def _keys(found: list[Any]) -> list[Any]:
    """Return keys of one column plain, those of several as tuples."""
    return [tuple(cast("list[Any]", key)) if isinstance(key, list) else key for key in found]
