"""The composition root: a URL becomes a store, a model a loaded embedder, and both a service. Nothing else does that."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from seamark.core.registry import Registry
from seamark.core.service import Seamark
from seamark.edges import worker
from seamark.embed.contract import Renewable
from seamark.embed.registry import embedder_open
from seamark.errors import EmbedderConfigurationError, InvalidRequestError, ModelDriftError
from seamark.settings import settings
from seamark.store.postgres.store import PostgresStore
from seamark.store.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from seamark.embed.contract import Embedder
    from seamark.model import ModelIdentity
    from seamark.store.contract import Store


T = TypeVar("T")


def open(  # noqa: A001 read as seamark.open
    url: str | Path | None = None,
    *,
    model: str | None = None,
    embedder: Embedder | Sequence[Embedder] | None = None,
    create: bool = False,
) -> Seamark:
    """Open a database: `sqlite:///app.db`, a path to a SQLite file, or `postgresql://user@host/name`.

    Args:
        url: the database; `SEAMARK_DB` or `db` of `seamark.toml` when not given.
        model: the embedder of new sources; `static`, which needs no network and no key, when not given or set.
        embedder: any object with the members of `seamark.embed.contract.Embedder`, used instead; or several, of which the
            first is that of new sources and of swaps, and all serve the indexes that were made with them.
        create: make the SQLite file if it is not there.

    Raises:
        StoreUnavailableError, StorePermissionError, StoreIncompatibleError: the database cannot be used, and why.
        InvalidRequestError: no URL, or one of another kind.
    """
    configured = settings()
    place = str(url or "") or configured.db
    if not place:
        raise InvalidRequestError("no database: give a URL such as sqlite:///app.db, or set SEAMARK_DB")
    given = () if embedder is None else tuple(embedder) if isinstance(embedder, Sequence) else (embedder,)
    embedders = Embedders(model or configured.model, given)
    store = store_open(place, create=create)
    registry = Registry(store, embedders, time.monotonic, configured.probe_interval_seconds)
    intervals = configured.retention_days, configured.audit_interval_seconds
    return Seamark(store, embedders, registry, worker.run, random.random, _throttle, *intervals, _ahead)


def store_open(url: str, *, create: bool = False) -> Store:
    """Open the store that a URL names."""
    if url.startswith(("postgresql://", "postgres://")):
        return PostgresStore(url)
    if url.startswith("sqlite:") or "://" not in url:
        return SqliteStore(_sqlite_path(url), create=create)
    scheme = urlsplit(url).scheme
    raise InvalidRequestError(f"{scheme}:// is not a database Seamark knows; use sqlite:///file.db or postgresql://…")


def _sqlite_path(url: str) -> str:
    """Return the path of `sqlite:///relative.db` or `sqlite:////absolute.db`, as SQLAlchemy writes them, or of a bare path."""
    bare = not url.startswith("sqlite:")
    path = url if bare else unquote(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else ""
    if not path or "\0" in path:
        raise InvalidRequestError(f"{url!r} names no file; write sqlite:///relative.db or sqlite:////absolute/path.db")
    if path == ":memory:":
        raise InvalidRequestError("a database in memory is of one process only; name a file, as sqlite:///app.db")
    return path


@contextmanager
def _throttle() -> Generator[None]:
    """Rest as long after a piece of bulk work as it took, so that at least half of the time is other writers'."""
    began = time.monotonic()
    yield
    time.sleep(time.monotonic() - began)


def _ahead(call: Callable[[], T]) -> Callable[[], T]:
    """Make a call in a thread of its own, and return what waits for its answer."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 raised where it is waited for
            answer.set_exception(error)

    threading.Thread(target=run, name="seamark-ahead", daemon=True).start()
    return answer.result


class Embedders:
    """The embedders of this process: those given to `open`, and those opened by locator, each once."""

    def __init__(self, locator: str, given: tuple[Embedder, ...]) -> None:
        self._locator = locator
        self._given = given
        self._opened: dict[str, Embedder] = {}
        self._slots: dict[int, threading.BoundedSemaphore] = {}
        self._lock = threading.Lock()

    def given(self) -> Embedder | None:
        """Return the first object that was given to `open`."""
        return self._given[0] if self._given else None

    def default(self) -> tuple[Embedder, str | None]:
        """Return the embedder new sources get, and its locator (None for an object given to `open`)."""
        if self._given:
            return self._given[0], None
        return self.named(self._locator), self._locator

    def named(self, locator: str) -> Embedder:
        """Open an embedder by its locator."""
        with self._lock:
            if locator not in self._opened:
                self._opened[locator] = embedder_open(locator)
            return self._opened[locator]

    def of(self, model: ModelIdentity, locator: str | None, *, anew: bool = False) -> Embedder:
        """Return the embedder of a generation; ModelDriftError unless its identity, or what it is `anew`, is that model's."""
        found = self.provider(model, locator)
        if any(found is one for one in self._given):
            return found
        if anew and isinstance(found, Renewable):
            found.identity_renew()
        if found.identity != model:
            raise ModelDriftError(_told(model), f"{locator!r} is now {_told(found.identity)}")
        return found

    def provider(self, model: ModelIdentity, locator: str | None) -> Embedder:
        """Return the embedder of a generation, whatever is behind the model's name by now."""
        if (given := next((one for one in self._given if one.identity == model), None)) is not None:
            return given
        if locator is None:
            raise EmbedderConfigurationError(self._not_given(model))
        try:
            return self.named(locator)
        except InvalidRequestError as error:  # another version of Seamark has stored it
            raise EmbedderConfigurationError(f"model {locator!r} of an index cannot be opened here: {error}") from error

    def _not_given(self, model: ModelIdentity) -> str:
        """Say which object of the program's own an index needs, and in what the one of that name that was passed differs."""
        alike = [one.identity for one in self._given if one.identity.name == model.name]
        if not alike:
            return f"model {_told(model)} is an object of your program: pass it to seamark.open(…, embedder=…)"
        wanted, passed = asdict(model), asdict(alike[0])
        differs = ", ".join(f"{name} {passed[name]!r}, not {wanted[name]!r}" for name in wanted if passed[name] != wanted[name])
        return (
            f"the index is of {_told(model)}, and the object of that name that was passed to seamark.open has {differs}: pass "
            f"one like that of the index, too, or `model swap` to the new one"
        )

    def slot(self, embedder: Embedder) -> AbstractContextManager[object]:
        """Return the semaphore that keeps calls under way within the embedder's concurrency."""
        with self._lock:
            return self._slots.setdefault(id(embedder), threading.BoundedSemaphore(embedder.concurrency))


def _told(model: ModelIdentity) -> str:
    return f"{model.name}@{model.version} ({model.dimension} dimensions)"
