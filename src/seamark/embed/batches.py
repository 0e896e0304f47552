"""OpenAI's batch interface: a file of requests, answered within a day for half the price.

A file is uploaded (`/files`), a batch made of it (`/batches`, with our tag in its metadata), looked at until it has ended, and
its results are read from another file, one line for each request, in no order.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, runtime_checkable

from seamark.embed.replies import openai_reply
from seamark.embed.validation import embedder_errors
from seamark.errors import EmbedderConfigurationError, EmbedderError, EmbedderTransientError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import httpx2
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")
ENDPOINT = "/v1/embeddings"
"""What the lines of a file ask for, wherever the server itself is."""
TAG = "seamark"
"""The member of a batch's metadata that holds our tag."""
PAGES_MAX = 20
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class BatchLook:
    """How a batch stands. `results` is the file of what was answered, `error` why there is not everything in it."""

    ended: bool
    results: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """One request's answer: its vector and what it was billed, or neither where it was refused."""

    name: str
    vector: NDArray[np.float32] | None
    tokens: int


@runtime_checkable
class Batched(Protocol):
    """What an embedder may have besides: its provider takes many documents at once, and answers later, for less."""

    def batch_find(self, tag: str) -> str | None:
        """Return the provider's id of the batch with that tag, None when it has none."""
        ...

    def batch_upload(self, tag: str, passages: Sequence[tuple[str, str]], questions: Sequence[tuple[str, str]]) -> str:
        """Send passages, and questions evenly among them, each with a name of its own; return the provider's id of the file.

        Nothing is billed for that.
        """
        ...

    def batch_start(self, tag: str, file: str) -> str:
        """Have a file answered as a batch with that tag; return the provider's id of the batch."""
        ...

    def batch_look(self, batch: str) -> BatchLook:
        """Say how a batch stands."""
        ...

    def batch_cancel(self, batch: str) -> None:
        """Have a batch that has not ended cancelled."""
        ...

    def batch_results(self, results: str) -> Iterator[BatchAnswer]:
        """Return the answers one by one, in no order."""
        ...


class Opened(Protocol):
    """Makes a request with the key, and raises our errors."""

    def __call__(self, method: str, path: str, **request: Any) -> AbstractContextManager[httpx2.Response]:
        """Return the reply, of status 200, its body to be read."""
        ...


def batch_find(opened: Opened, tag: str) -> str | None:
    """Go through the provider's list of batches, newest first."""
    after: dict[str, str] = {}
    for _ in range(PAGES_MAX):
        with opened("GET", "/batches", params={"limit": "100", **after}) as reply:
            page = _object(reply.read())
        batches = _members(page)
        for batch in batches:
            if _tag(batch) == tag:
                return _id(batch)
        if not page.get("has_more") or not batches:
            return None
        after = {"after": _id(batches[-1])}
    return None


def _members(page: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a page lists; what is on one that cannot be read nobody knows, and it would be paid for twice."""
    listed: Any = page.get("data") or []
    if isinstance(listed, list) and all(isinstance(one, dict) for one in cast("list[object]", listed)):
        return cast("list[dict[str, Any]]", listed)
    raise EmbedderTransientError(f"the batch interface answered with a list that holds something else: {str(page)[:300]}")


def _tag(batch: dict[str, Any]) -> object:
    metadata: Any = batch.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise EmbedderTransientError(f"the batch interface answered with metadata that is no object: {str(batch)[:300]}")
    return cast("dict[str, object]", metadata).get(TAG)


def spread(many: Sequence[T], few: Sequence[T]) -> Iterator[T]:
    """Give the many in order, and the few evenly among them, the first before all and the last after."""
    gaps = max(len(few) - 1, 1)
    begin = 0
    for place, one in enumerate(few):
        end = len(many) * place // gaps
        yield from many[begin:end]
        yield one
        begin = end
    yield from many[begin:]


def batch_upload(opened: Opened, tag: str, body: dict[str, object], texts: Iterable[tuple[str, str]]) -> str:
    """Upload the requests."""
    with tempfile.TemporaryFile() as file:
        for name, text in texts:
            request = {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": {**body, "input": text}}
            file.write(json.dumps(request).encode("ascii") + b"\n")
        file.seek(0)
        files = {"file": (f"{tag}.jsonl", file, "application/jsonl")}
        with opened("POST", "/files", data={"purpose": "batch"}, files=files) as reply:
            made = _object(reply.read())
    try:
        return _id(made)
    except EmbedderTransientError as error:
        # A server that answers whatever it is asked with 200 makes nothing, and nothing is paid yet.
        raise EmbedderConfigurationError(f"{error}: there may be no batch interface") from error


def batch_start(opened: Opened, tag: str, file: str) -> str:
    """Make a batch of a file; whatever cannot be read of the reply, it may be there, and is found by its tag."""
    asked = {
        "input_file_id": file,
        "endpoint": ENDPOINT,
        "completion_window": "24h",
        "metadata": {TAG: tag},
    }
    with opened("POST", "/batches", json=asked) as reply:
        return _id(_object(reply.read()))


def batch_look(opened: Opened, batch: str) -> BatchLook:
    """Ask for a batch."""
    with opened("GET", f"/batches/{batch}") as reply:
        found = _object(reply.read())
    status = str(found.get("status"))
    if status not in _ENDED:
        return BatchLook(ended=False)
    results = found.get("output_file_id") or None
    if not isinstance(results, str | None):
        raise EmbedderTransientError(f"the batch interface answered with a file that has no name: {str(found)[:300]}")
    if status == "completed":
        return BatchLook(ended=True, results=results)
    said = "; ".join(_messages(found)[:3])
    return BatchLook(ended=True, results=results, error=f"batch {batch} has {status}{': ' if said else ''}{said}")


def _messages(found: dict[str, Any]) -> list[str]:
    """Return what a batch says of its errors, where it says anything."""
    match found:
        case {"errors": {"data": [*listed]}}:
            return [str(cast("dict[str, Any]", error).get("message")) for error in listed if isinstance(error, dict)]
        case _:
            return []


def batch_cancel(opened: Opened, batch: str) -> None:
    """Cancel a batch."""
    with opened("POST", f"/batches/{batch}/cancel") as reply:
        reply.read()


def batch_results(opened: Opened, results: str, name: str) -> Iterator[BatchAnswer]:
    """Read the file of the results line by line."""
    with opened("GET", f"/files/{results}/content") as reply:
        for line in reply.iter_lines():
            if line.strip():
                yield _answer(line, name)


def _answer(line: str, name: str) -> BatchAnswer:
    """Return what a line has, unanswered where it cannot be read: to ask for the file again would bring it again."""
    try:
        read: Any = json.loads(line)
    except (ValueError, RecursionError):
        return BatchAnswer("", None, 0)
    match read:
        case {"custom_id": str(asked), "response": {"status_code": 200, "body": body}}:
            try:
                with embedder_errors(name):
                    vectors, tokens = openai_reply(cast("object", body), 1, name)
            except EmbedderError:  # it is asked for again, one call at a time, by those who say which text is to blame
                return BatchAnswer(asked, None, 0)
            return BatchAnswer(asked, vectors[0], tokens or 0)
        case {"custom_id": str(asked)}:
            return BatchAnswer(asked, None, 0)
        case _:
            return BatchAnswer("", None, 0)


def _id(found: dict[str, Any]) -> str:
    match found:
        case {"id": str(name)}:
            return name
        case _:
            raise EmbedderTransientError(f"the batch interface answered without an id: {str(found)[:300]}")


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise EmbedderTransientError(f"the batch interface answered with something that is not JSON: {body[:300]!r}") from error
    if not isinstance(found, dict):
        raise EmbedderTransientError(f"the batch interface answered with something that is no object: {body[:300]!r}")
    return cast("dict[str, Any]", found)
