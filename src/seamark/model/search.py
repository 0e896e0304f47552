"""What a search reads and finds, and what is looked up for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seamark.model.tables import Key, KeyValue


@dataclass(frozen=True, slots=True)
class TermStatistics:
    """How many blocks and postings a term has, and the sum of the `length` of those postings.

    The empty term is in every document: its postings are N, and `lengths / postings` is the avgdl, of BM25.
    """

    term: str
    blocks: int
    postings: int
    lengths: int


@dataclass(frozen=True, slots=True)
class ChunkHit:
    """A chunk found by a vector leg. `similarity` is the cosine."""

    key: Key
    start: int
    stop: int
    similarity: float


@dataclass(frozen=True, slots=True)
class LiveRow:
    """A live row as search shows it. `seq` is its journal's, `indexed` those that the generations asked about hold, or None."""

    key: Key
    seq: int
    texts: tuple[str | None, ...]
    indexed: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Leg:
    """A hit's place in one ranked list, from 1, and its score there (BM25, or cosine similarity)."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A found row. `passage` is the matching part of its present text, at `start..stop` of the rendered text.

    `stale` is true when the row's text is newer than what the generation has indexed of it.
    """

    key: KeyValue | Key
    score: float
    passage: str
    start: int
    stop: int
    stale: bool
    generation: int
    lexical: Leg | None
    vector: Leg | None


@dataclass(frozen=True, slots=True)
class Check:
    """One finding of `doctor`: what was looked at, whether it is well, and how to mend it when it is not."""

    name: str
    ok: bool
    detail: str
    remedy: str | None = None
    required: bool = True


@dataclass(frozen=True, slots=True)
class Rows:
    """What a user's own query found: the names of its columns, and its rows as the database's driver gives their values."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


@dataclass(frozen=True, slots=True)
class Views:
    """The views for SQL users by name, and what another program's connection has to run before it has them."""

    statements: tuple[str, ...]
    names: tuple[str, ...]
