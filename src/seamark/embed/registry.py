"""From a locator, the one line that says which embedder is meant and how to reach it, to the embedder."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from seamark.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from seamark.embed.contract import Embedder

_SECRETS = frozenset({"api_key", "api-key", "apikey", "key", "password", "secret", "token"})


def embedder_open(locator: str, **settings: object) -> Embedder:
    """Open an embedder.

    Args:
        locator: `static`, `sentence-transformers:<name or path>`, `openai:<model>`, `ollama:<model>` or `tei:<model>`, and
            after a `?` the provider's settings, as in `openai:bge-m3?base_url=http://localhost:8080/v1&dimensions=512`. It is
            stored in the database, for workers in other processes, so it may not carry a secret.
        settings: the same settings as values; they win. Only here may `api_key` be given.

    Raises:
        InvalidRequestError: an unknown scheme or setting, or a secret in the locator.
        EmbedderConfigurationError: there is no such model here, or the extra that it needs is not installed.
    """
    address, _, query = locator.partition("?")
    scheme, _, name = address.partition(":")
    opener = _OPENERS.get(scheme)
    if opener is None:
        raise InvalidRequestError(f"no embedder {scheme!r}; choose {', '.join(_FORMS)}")
    return opener(name, {**_stored_settings(query), **settings})


def _stored_settings(query: str) -> dict[str, object]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise InvalidRequestError("what follows `?` in a model is `name=value&name=value`") from error
    for name, _ in pairs:
        if name.lower() in _SECRETS:
            raise InvalidRequestError(
                f"a model's name is stored in the database and may not carry a secret ({name}=…): "
                f"set SEAMARK_EMBED_API_KEY or OPENAI_API_KEY in the environment"
            )
    return dict(pairs)


# Each provider brings dependencies of its own, and seconds of start-up; it is imported when it is asked for.


def _static(name: str, settings: Mapping[str, object]) -> Embedder:
    from seamark.embed.static import StaticEmbedder  # noqa: PLC0415

    if name not in {"", "seamark-static-256"}:
        raise InvalidRequestError(f"the one static model is `static`, not {name!r}")
    if settings:
        raise InvalidRequestError(f"the static model has no settings, not {', '.join(settings)}")
    return StaticEmbedder()


def _sentence(name: str, settings: Mapping[str, object]) -> Embedder:
    from seamark.embed.sentence import SentenceEmbedder, SentenceSettings  # noqa: PLC0415

    return SentenceEmbedder(name, SentenceSettings.parse(settings))


def _openai(name: str, settings: Mapping[str, object]) -> Embedder:
    from seamark.embed.http import HttpSettings, OpenAIEmbedder  # noqa: PLC0415

    return OpenAIEmbedder(name, HttpSettings.parse(settings))


def _ollama(name: str, settings: Mapping[str, object]) -> Embedder:
    from seamark.embed.http import HttpSettings, OllamaEmbedder  # noqa: PLC0415

    return OllamaEmbedder(name, HttpSettings.parse(settings))


def _tei(name: str, settings: Mapping[str, object]) -> Embedder:
    from seamark.embed.http import HttpSettings, TeiEmbedder  # noqa: PLC0415

    return TeiEmbedder(name, HttpSettings.parse(settings))


_OPENERS: Mapping[str, Callable[[str, Mapping[str, object]], Embedder]] = {
    "static": _static,
    "sentence-transformers": _sentence,
    "openai": _openai,
    "ollama": _ollama,
    "tei": _tei,
}
_FORMS = ("static", "sentence-transformers:<name or path>", "openai:<model>", "ollama:<model>", "tei:<model>")
