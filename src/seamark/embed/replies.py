"""What embedding servers answer: bodies to vectors, and errors to the error class that says who must act."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from seamark.embed.validation import checked_vectors, unit_vectors
from seamark.errors import (
    EmbedderConfigurationError,
    EmbedderError,
    EmbedderInputError,
    EmbedderTransientError,
    EmbedderUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Answer = tuple[NDArray[np.float32], int | None]
    """Vectors, and the tokens that the server says it has counted for them."""

_RETRY_AFTER_MAX_SECONDS = 3600.0
"""Looking again after an hour costs nothing, and a nonsensical Retry-After does not stop a fill for years."""
_EXCERPT_CHARACTERS = 300
_TOKENS_DIGITS = 12
"""No call is for more tokens than so many digits have."""
_REFUSED_TEXTS = frozenset({400, 413, 422})
_OUT_FOR_NOW = frozenset({429, 503})
_MAY_GO_AWAY = frozenset({408, 409, 424, 425})
"""424 is what TEI answers when its backend has failed, out of memory perhaps."""


def openai_answer(body: bytes, count: int, name: str) -> Answer:
    """Return the vectors of an OpenAI-style reply in the order of the texts, whatever order they came in, and the tokens."""
    return openai_reply(_parsed(body, name), count, name, body)


def openai_reply(reply: object, count: int, name: str, body: bytes = b"") -> Answer:
    """Do the same for a reply that has been parsed; `body` is shown where it cannot be one."""
    items = _member(reply, "data", body, name)
    if len(items) != count:
        raise EmbedderTransientError(f"{name} returned {len(items)} vectors for {count} texts")
    placed: dict[int, Any] = {}
    for item in items:
        if not isinstance(item, dict) or "embedding" not in item:
            raise EmbedderTransientError(f"{name} returned an item without a vector: {_excerpt(json.dumps(item))}")
        found = cast("dict[str, Any]", item)
        index = found.get("index")
        if type(index) is not int or not 0 <= index < count or index in placed:
            raise EmbedderTransientError(f"{name} returned index {index!r}, among {count} texts, wrongly, twice or not at all")
        placed[index] = _numbers(found["embedding"], name)
    return _checked([placed[index] for index in range(count)], count, name), _tokens(reply)


def ollama_answer(body: bytes, count: int, name: str) -> Answer:
    """Return the vectors of a reply of Ollama's /api/embed, which come in the order of the texts, and the tokens."""
    reply = _parsed(body, name)
    return _checked(_member(reply, "embeddings", body, name), count, name), _tokens(reply)


def _tokens(reply: object) -> int | None:
    """Return how many tokens a reply says it is for; what cannot be a number of them is not believed."""
    match reply:
        case {"usage": {"total_tokens": int(tokens)}} | {"prompt_eval_count": int(tokens)} if 0 < tokens < 10**_TOKENS_DIGITS:
            return tokens
        case _:
            return None


def ollama_digest(body: bytes, model: str, name: str) -> str | None:
    """Return the first digits of the digest of a model in Ollama's /api/tags, or None if it is not there."""
    for found in _member(_parsed(body, name), "models", body, name):
        match found:
            case {"name": str(known), "digest": str(digest)} if known in {model, f"{model}:latest"}:
                return digest.removeprefix("sha256:")[:12]
            case _:
                continue
    return None


def tei_answer(body: bytes, count: int, name: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Return the vectors of a reply of TEI's /embed, which is nothing but a list of them, in the order of the texts.

    A header says how many tokens it is for. TEI's description of its interface does not have it, its source does.
    """
    reply = _parsed(body, name)
    if not isinstance(reply, list):
        raise EmbedderTransientError(f"{name} answered 200 with something that is no list of vectors: {_start(body)}")
    counted = (headers or {}).get("x-compute-tokens", "").strip()
    tokens = int(counted) if counted.isascii() and counted.isdigit() and len(counted) <= _TOKENS_DIGITS else 0
    return _checked(cast("list[Any]", reply), count, name), tokens or None


@dataclass(frozen=True, slots=True)
class TeiInfo:
    """What a TEI server says of itself; None for what it does not say."""

    names: tuple[str, ...]
    sha: str | None
    embeds: bool
    items_max: int | None
    tokens_max: int | None


def tei_info(body: bytes, name: str) -> TeiInfo:
    """Return what TEI's /info says."""
    reply = _parsed(body, name)
    if not isinstance(reply, dict) or not isinstance(reply.get("model_id"), str):  # pyright: ignore[reportUnknownMemberType]
        raise EmbedderTransientError(f"{name} answered 200 without 'model_id': {_start(body)}")
    found = cast("dict[str, Any]", reply)
    named = (found["model_id"], found.get("served_model_name"))
    sha, kind = found.get("model_sha"), found.get("model_type")
    # A text as long as the model reads does not help where a whole batch may not be as long.
    limits = [limit for limit in map(_positive, (found.get("max_input_length"), found.get("max_batch_tokens"))) if limit]
    return TeiInfo(
        names=tuple(dict.fromkeys(one for one in named if isinstance(one, str) and one)),
        sha=sha if isinstance(sha, str) and sha else None,
        embeds=not isinstance(kind, dict) or "embedding" in kind,
        items_max=_positive(found.get("max_client_batch_size")),
        tokens_max=min(limits, default=None),
    )


def _positive(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def status_error(status: int, headers: Mapping[str, str], body: bytes, place: str, secret: str | None) -> EmbedderError:
    """Return the error that an HTTP status other than 200 stands for; `secret` is blacked out in what the server says."""
    text = body.decode("utf-8", "replace")
    said = _excerpt(_said(text.replace(secret, "***") if secret else text))
    message = f"{place} answered {status}: {said}" if said else f"{place} answered {status}"
    if status in _REFUSED_TEXTS:
        return EmbedderInputError(message)
    if status in _OUT_FOR_NOW:
        return EmbedderUnavailableError(message, retry_after_seconds(headers, datetime.now(UTC)))
    if status in {401, 403}:
        remedy = "check the key in SEAMARK_EMBED_API_KEY (or OPENAI_API_KEY, which is sent to api.openai.com only)"
        return EmbedderConfigurationError(f"{message}; {remedy}")
    if status >= 500 or status in _MAY_GO_AWAY:  # noqa: PLR2004 the server's own errors
        return EmbedderTransientError(message)
    return EmbedderConfigurationError(f"{message}; check the model's name and base_url")


def retry_after_seconds(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return how long the server asks us to wait, given in seconds or as a date; None when it does not say."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.replace(".", "", 1).isdigit():
        return min(float(value), _RETRY_AFTER_MAX_SECONDS)
    until = _date(value)
    if until is None:
        return None
    # The server's own clock, where it tells it: ours may differ from it.
    wait = (until - (_date(headers.get("date", "")) or now)).total_seconds()
    return min(max(wait, 0.0), _RETRY_AFTER_MAX_SECONDS)


def _date(value: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(value)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _parsed(body: bytes, name: str) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise EmbedderTransientError(f"{name} answered 200 with something that is not JSON: {_start(body)}") from error


def _member(reply: object, member: str, body: bytes, name: str) -> list[Any]:
    found = cast("dict[str, Any]", reply).get(member) if isinstance(reply, dict) else None
    if not isinstance(found, list):
        raise EmbedderTransientError(f"{name} answered 200 without {member!r}: {_start(body)}")
    return cast("list[Any]", found)


def _numbers(embedding: object, name: str) -> object:
    """Return a vector as numbers; some servers send base64 whatever encoding they are asked for."""
    if not isinstance(embedding, str):
        return embedding
    try:
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    except ValueError as error:
        raise EmbedderTransientError(f"{name} returned a vector that is neither numbers nor base64") from error


def _checked(vectors: list[Any], count: int, name: str) -> NDArray[np.float32]:
    return unit_vectors(checked_vectors(vectors, count, name))


def _said(text: str) -> str:
    """Return the message in an error body: OpenAI, Ollama and TEI each put it elsewhere."""
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        return text
    match reply:
        case {"error": {"message": str(message)}} | {"error": str(message)} | {"message": str(message)}:
            return message
        case _:
            return text


def _start(body: bytes) -> str:
    return _excerpt(body[: 4 * _EXCERPT_CHARACTERS].decode("utf-8", "replace"))


def _excerpt(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= _EXCERPT_CHARACTERS else plain[:_EXCERPT_CHARACTERS] + "…"
