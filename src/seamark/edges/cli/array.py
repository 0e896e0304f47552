"""An array of a JSON document that may be longer than there is memory for."""

import json
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from seamark.edges.serialise import Json

MEMORY_BYTES = 2**20


class KeptArray(list[Json]):
    """Members that are kept in a file beyond some thousands; `json.dump` writes them one after the other.

    A list, because that is what the encoder writes as an array; nothing is ever in the list itself, so that `json.dumps`, which
    does not iterate, is no way to write it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._file = tempfile.SpooledTemporaryFile(MEMORY_BYTES, "w+", encoding="ascii")  # noqa: SIM115 closed by the block
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def append(self, member: Json) -> None:
        """Put a member at the end."""
        self._file.write(json.dumps(member) + "\n")
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Json]:
        self._file.seek(0)
        return map(json.loads, self._file)
