"""Embedders behind HTTP: every server that speaks OpenAI's /embeddings, Ollama's own /api/embed, and TEI's own /embed.

One request is one try, but for connections that break off: rows are tried again from the database, where the
attempts are counted and other workers see them.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import httpx2
import numpy as np
import stamina
from pydantic import Field, SecretStr

from seamark.embed import batches
from seamark.embed.replies import ollama_answer, ollama_digest, openai_answer, status_error, tei_answer, tei_info
from seamark.embed.settings import ModelSettings
from seamark.embed.tokens import tokens_estimate
from seamark.embed.validation import encodable_texts
from seamark.errors import (
    EmbedderConfigurationError,
    EmbedderDimensionError,
    EmbedderInputError,
    EmbedderTransientError,
    EmbedderUnavailableError,
    InvalidRequestError,
)
from seamark.model import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from urllib.parse import SplitResult

    from numpy.typing import NDArray

    from seamark.embed.batches import BatchAnswer, BatchLook
    from seamark.embed.replies import Answer

OPENAI_URL = "https://api.openai.com/v1"
OLLAMA_URL = "http://localhost:11434"
TEI_URL = "http://localhost:8080"
REPLY_BYTES_MAX = 64 * 2**20
"""No more of a reply is read; 2,048 vectors of 1,536 numbers are 50 MB of JSON."""
UNVERSIONED = "unversioned"
"""The version of a model whose server does not tell one; `version` in the settings says better."""

_OPENAI_HOST = "api.openai.com"
_CONNECT_SECONDS = 10.0
_RESET_TRIES = 3
_SHA_CHARACTERS = 12
_PROBE = "How long are the vectors of this model?"


class HttpSettings(ModelSettings):
    """What a locator or the caller may say about a server and its model."""

    base_url: str | None = None
    """Where the server is: `http://localhost:8080/v1`. The provider's own place if not given."""
    dimensions: int | None = Field(None, ge=1)
    """Ask the model for shorter vectors of this length."""
    document_prefix: str = ""
    query_prefix: str = ""
    version: str | None = None
    """What the vectors are attributed to beside the name."""
    batch_items: int | None = Field(None, ge=1)
    """Texts in one request. What TEI says it takes, 256 for OpenAI itself, 32 for others."""
    batch_tokens: int = Field(100_000, ge=1)
    """Tokens in one request, estimated. OpenAI takes 300,000."""
    text_tokens: int | None = Field(None, ge=1)
    """Tokens in one text, estimated; longer ones are split. What TEI says it takes, 8,191 for OpenAI itself, 512 for others."""
    concurrency: int = Field(4, ge=1)
    timeout_seconds: float = Field(60.0, gt=0)
    """How long to wait for a reply. A batch on a small machine may well take half a minute."""
    fusion_weight: float = Field(0.4, ge=0, le=1)
    """The vector leg's weight beside BM25; measured with a MiniLM, see `seamark.embed.sentence`."""
    api_key: SecretStr | None = None


class _HttpEmbedder:
    """What the kinds of server have in common. Safe to call from several threads."""

    def __init__(self, scheme: str, model: str, settings: HttpSettings, url: str, path: str) -> None:
        if not model:
            raise InvalidRequestError(f"which model? Write {scheme}:<model>")
        self._name = f"{scheme}:{model}"
        self._model = model
        self._settings = settings
        self._url = _split_url(url)
        self._path = path
        self._key = _key(settings, self._url)
        self._identity: ModelIdentity | None = None
        self._proved = False
        self._lock = threading.Lock()
        own = self._url.hostname == _OPENAI_HOST
        self.fusion_weight = settings.fusion_weight
        self.concurrency = settings.concurrency
        self.batch_items = settings.batch_items or (256 if own else 32)
        self._text_tokens = settings.text_tokens or (8191 if own else 512)
        client = httpx2.Client(
            timeout=httpx2.Timeout(settings.timeout_seconds, connect=_CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency),
            headers={"user-agent": f"seamark/{version('seamark')}"},
        )
        self._client = client
        self.close = weakref.finalize(self, client.close)
        """Closes the connections; happens by itself when the embedder is no longer used."""

    @property
    def identity(self) -> ModelIdentity:
        """What the vectors are attributed to; the first look asks the server for what the settings do not say."""
        if self._identity is None:
            with self._lock:
                self._identity = self._identity or self._identified()
        return self._identity

    def identity_renew(self) -> None:
        """Ask the server once more which version it has; its dimension is seen by every answer."""
        with self._lock:
            if self._identity is not None:  # the first look at it asks anyway
                self._identity = replace(self._identity, version=self._version())

    def token_excess(self, texts: Sequence[str]) -> Sequence[bool]:
        """Say which texts may be longer than the model takes, by an estimate that is rather too high."""
        longest = self._text_tokens - tokens_estimate(self._settings.document_prefix)
        # No estimate is more than two above the number of characters.
        return [len(text) + 2 > longest and tokens_estimate(text) > longest for text in texts]

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages, with the prefix that the model wants for them."""
        return self.embed_metered(texts)[0]

    def embed_metered(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int | None]:
        """Embed passages; also return what the server says it counted of tokens, None when it does not."""
        return self._embed(texts, self._settings.document_prefix)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed questions, with the prefix that the model wants for them."""
        return self._embed(texts, self._settings.query_prefix)[0]

    def _embed(self, texts: Sequence[str], prefix: str) -> tuple[NDArray[np.float32], int | None]:
        dimension = self.identity.dimension
        pieces = [np.empty((0, dimension), np.float32)]
        prefixed = [prefix + text for text in encodable_texts(texts)]
        billed: int | None = 0
        for batch in _batches(prefixed, self.batch_items, self._settings.batch_tokens):
            vectors, tokens = self._vectors_proved(batch)
            billed = None if tokens is None or billed is None else billed + tokens
            if vectors.shape[1] != dimension:
                raise EmbedderDimensionError(
                    f"{self._name} returned vectors of {vectors.shape[1]} dimensions instead of {dimension}: "
                    f"the model behind that name has changed, or does not heed `dimensions`"
                )
            pieces.append(vectors)
        return np.concatenate(pieces), billed

    def _vectors_proved(self, texts: Sequence[str]) -> Answer:
        """Return the vectors; before the first text is blamed for an error, see that the server takes any text at all."""
        try:
            answer = self._vectors(texts)
        except EmbedderInputError:
            if not self._proved:
                self._probed_dimension()
                self._proved = True
            raise
        self._proved = True
        return answer

    def _identified(self) -> ModelIdentity:
        settings = self._settings
        return ModelIdentity(
            name=self._name,
            version=self._version(),
            dimension=settings.dimensions or self._probed_dimension(),
            document_prefix=settings.document_prefix,
            query_prefix=settings.query_prefix,
        )

    def _probed_dimension(self) -> int:
        try:
            return self._vectors([_PROBE])[0].shape[1]
        except EmbedderInputError as error:
            # Nobody can object to this text: it is the request that will not do.
            raise EmbedderConfigurationError(f"{error}; check the model's name and its settings") from error

    def _version(self) -> str:
        return self._settings.version or UNVERSIONED

    def _vectors(self, texts: Sequence[str]) -> Answer:
        raise NotImplementedError

    # --- one request ----------------------------------------------------------------------------------------------

    def _place(self, path: str) -> str:
        return urlunsplit(self._url._replace(path=self._url.path.rstrip("/") + path))

    def _call(self, method: str, path: str, content: Mapping[str, object] | None = None) -> bytes:
        """Return the body of a reply of status 200."""
        return self._replied(method, path, content)[0]

    def _replied(self, method: str, path: str, content: Mapping[str, object] | None) -> tuple[bytes, Mapping[str, str]]:
        """Return the body and the headers of a reply of status 200."""
        url = self._place(path)
        body = json.dumps(content).encode("ascii") if content is not None else None
        with _translated(f"{method} {url}"):
            for attempt in stamina.retry_context(
                on=(httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError),
                attempts=_RESET_TRIES,
                wait_initial=0.05,
                wait_max=0.5,
                wait_jitter=0.05,
            ):
                with attempt:
                    return self._once(method, url, body)
        raise AssertionError("the last attempt returns or raises")

    def _asked(self, path: str) -> bytes:
        """Return what the server says of itself."""
        try:
            return self._call("GET", path)
        except EmbedderInputError as error:
            # There is no text in this request to be refused.
            raise EmbedderConfigurationError(f"{error}; check the model's name and its settings") from error

    def _once(self, method: str, url: str, body: bytes | None) -> tuple[bytes, Mapping[str, str]]:
        headers = {"content-type": "application/json"} if body is not None else {}
        with self._client.stream(method, url, content=body, headers=headers | self._authorisation()) as reply:
            read = self._read(reply, f"{method} {url}")
            self._check(reply, read, f"{method} {url}")
            return read, reply.headers

    @contextmanager
    def _opened(self, method: str, path: str, **request: Any) -> Generator[httpx2.Response]:
        """Make a request whose reply is as long as it is, and read by whoever asks."""
        place = f"{method} {self._place(path)}"
        with (
            _translated(place),
            self._client.stream(method, self._place(path), headers=self._authorisation(), **request) as reply,
        ):
            if reply.status_code != HTTPStatus.OK:
                self._check(reply, self._read(reply, place), place)
            yield reply

    def _authorisation(self) -> dict[str, str]:
        secret = self._key.get_secret_value() if self._key else None
        if not secret:
            return {}
        azure = {"api-key": secret} if (self._url.hostname or "").endswith(".azure.com") else {}
        return {"authorization": f"Bearer {secret}", **azure}

    def _check(self, reply: httpx2.Response, read: bytes, place: str) -> None:
        if reply.status_code != HTTPStatus.OK:
            secret = self._key.get_secret_value() if self._key else None
            raise status_error(reply.status_code, reply.headers, read, place, secret)

    def _read(self, reply: httpx2.Response, place: str) -> bytes:
        read = bytearray()
        limit = time.monotonic() + self._settings.timeout_seconds
        for piece in reply.iter_bytes():
            read += piece
            if len(read) > REPLY_BYTES_MAX:
                raise EmbedderTransientError(f"{place} sent more than {REPLY_BYTES_MAX:,} bytes; use fewer batch_items")
            if time.monotonic() > limit:
                # The client's own limit is for each piece, and a server may go on sending small ones.
                raise EmbedderTransientError(f"{place} was still sending after {self._settings.timeout_seconds:g} s")
        return bytes(read)


class OpenAIEmbedder(_HttpEmbedder):
    """Any server with OpenAI's /embeddings: OpenAI, Azure, TEI, vLLM, LM Studio, Ollama, llama.cpp."""

    def __init__(self, model: str, settings: HttpSettings) -> None:
        super().__init__("openai", model, settings, settings.base_url or OPENAI_URL, "/embeddings")

    def _vectors(self, texts: Sequence[str]) -> Answer:
        content: dict[str, object] = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        if self._settings.dimensions is not None:
            content["dimensions"] = self._settings.dimensions
        return openai_answer(self._call("POST", self._path, content), len(texts), self._name)

    def batch_find(self, tag: str) -> str | None:
        """Return the provider's id of the batch with that tag, None when it has none."""
        return batches.batch_find(self._opened, tag)

    def batch_upload(self, tag: str, passages: Sequence[tuple[str, str]], questions: Sequence[tuple[str, str]]) -> str:
        """Send passages, and questions evenly among them, each with a name of its own; return the provider's id of the file."""
        body: dict[str, object] = {"model": self._model, "encoding_format": "base64"}  # a quarter of the length
        if self._settings.dimensions is not None:
            body["dimensions"] = self._settings.dimensions
        prefixed = batches.spread(
            [(name, self._settings.document_prefix + text) for name, text in passages],
            [(name, self._settings.query_prefix + text) for name, text in questions],
        )
        return batches.batch_upload(self._opened, tag, body, ((name, encodable_texts([text])[0]) for name, text in prefixed))

    def batch_start(self, tag: str, file: str) -> str:
        """Have a file answered as a batch with that tag; return the provider's id of the batch."""
        return batches.batch_start(self._opened, tag, file)

    def batch_look(self, batch: str) -> BatchLook:
        """Say how a batch stands."""
        return batches.batch_look(self._opened, batch)

    def batch_cancel(self, batch: str) -> None:
        """Have a batch that has not ended cancelled."""
        batches.batch_cancel(self._opened, batch)

    def batch_results(self, results: str) -> Iterator[BatchAnswer]:
        """Return the answers one by one, in no order."""
        return batches.batch_results(self._opened, results, self._name)


class OllamaEmbedder(_HttpEmbedder):
    """Ollama's own interface, which can be told not to cut long texts, and says by a digest which model it has."""

    def __init__(self, model: str, settings: HttpSettings) -> None:
        super().__init__("ollama", model, settings, settings.base_url or OLLAMA_URL, "/api/embed")

    def _version(self) -> str:
        if self._settings.version is not None:
            return self._settings.version
        models = self._asked("/api/tags")
        return ollama_digest(models, self._model, self._name) or UNVERSIONED

    def _vectors(self, texts: Sequence[str]) -> Answer:
        content: dict[str, object] = {"model": self._model, "input": list(texts), "truncate": False}
        if self._settings.dimensions is not None:
            content["dimensions"] = self._settings.dimensions
        return ollama_answer(self._call("POST", self._path, content), len(texts), self._name)


class TeiEmbedder(_HttpEmbedder):
    """Text Embeddings Inference's own interface, which says which model it has, by a commit, and how much it takes at once."""

    def __init__(self, model: str, settings: HttpSettings) -> None:
        super().__init__("tei", model, settings, settings.base_url or TEI_URL, "/embed")

    def _version(self) -> str:
        """Ask also where the version is known: a server has one model, and heeds no name in a request."""
        info = tei_info(self._asked("/info"), self._name)
        if self._model not in info.names:
            raise EmbedderConfigurationError(
                f"{self._place('')} serves {' or '.join(info.names)}, not {self._model}: "
                f"write tei:{info.names[0]}, or another base_url"
            )
        if not info.embeds:
            raise EmbedderConfigurationError(f"{self._place('')} serves {self._model}, which is no model for embeddings")
        settings = self._settings
        self.batch_items = settings.batch_items or info.items_max or self.batch_items
        self._text_tokens = settings.text_tokens or info.tokens_max or self._text_tokens
        return settings.version or (info.sha[:_SHA_CHARACTERS] if info.sha else UNVERSIONED)

    def _vectors(self, texts: Sequence[str]) -> Answer:
        content: dict[str, object] = {"inputs": list(texts), "truncate": False, "normalize": True}
        if self._settings.dimensions is not None:
            content["dimensions"] = self._settings.dimensions
        body, headers = self._replied("POST", self._path, content)
        return tei_answer(body, len(texts), self._name, headers)


def _batches(texts: Sequence[str], items_max: int, tokens_max: int) -> Iterator[Sequence[str]]:
    """Split texts into runs that one request takes, at least one text each."""
    batch: list[str] = []
    tokens = 0
    for text in texts:
        size = tokens_estimate(text)
        if batch and (len(batch) == items_max or tokens + size > tokens_max):
            yield batch
            batch, tokens = [], 0
        batch.append(text)
        tokens += size
    if batch:
        yield batch


def _split_url(url: str) -> SplitResult:
    """Take a base URL apart; refuse what cannot be one, and what would store a secret in the database."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise InvalidRequestError("base_url is not a URL; write http://host:port/v1") from None
    if not known:
        raise InvalidRequestError("base_url must be http:// or https:// and name a host, as http://host:port/v1")
    if parts.username or parts.password or {name for name, _ in parse_qsl(parts.query)} - {"api-version"}:
        raise InvalidRequestError(
            "base_url is stored in the database and may hold no name, password or key: set SEAMARK_EMBED_API_KEY instead"
        )
    return parts._replace(fragment="")


def _key(settings: HttpSettings, url: SplitResult) -> SecretStr | None:
    """Return the key to send: ours to any server that was named, OpenAI's to OpenAI only."""
    found = settings.api_key.get_secret_value() if settings.api_key else os.environ.get("SEAMARK_EMBED_API_KEY", "")
    if not found and url.hostname == _OPENAI_HOST:
        found = os.environ.get("OPENAI_API_KEY", "")
    if not (found.strip().isascii() and found.strip().isprintable()):
        raise EmbedderConfigurationError("the embedding server's key holds characters that no key has; set it again")
    return SecretStr(found.strip()) if found.strip() else None


@contextmanager
def _translated(place: str) -> Generator[None]:
    """Turn the client's errors into ours."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError) as error:
        raise EmbedderUnavailableError(f"{place} cannot be reached: {_told(error)}") from error
    except httpx2.TimeoutException as error:
        raise EmbedderTransientError(f"{place} did not answer in time: {_told(error)}") from error
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise EmbedderConfigurationError(f"{place} is not a place to send a request to: {_told(error)}") from error
    except httpx2.RequestError as error:
        raise EmbedderTransientError(f"{place} broke off: {_told(error)}") from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
