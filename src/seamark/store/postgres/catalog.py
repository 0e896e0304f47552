"""The sources and generations that there are, and the words that stand for each in `queries.sql`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from seamark.errors import StoreError
from seamark.model import Source
from seamark.store.postgres import codec
from seamark.store.postgres.extension import vector_schema
from seamark.store.postgres.filters import filter_compile
from seamark.store.postgres.names import (
    generation_words,
    identifier,
    key_array_type,
    key_columns,
    key_type,
    literal,
    pairs,
    qualified,
    stored_type,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seamark.model import Table
    from seamark.store.postgres.connection import Database, Row
    from seamark.store.postgres.names import Words

_TABLES = "jrbcf"
"""Aliases of our own tables and of a batch: journal, rows, batch, chunks, failures; `s` is the source."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """A source with the tables that touch it, in the order of its spec."""

    source: Source
    touching: tuple[Table, ...]


class Catalog:
    """The sources of a database, and the words that stand for each in statements."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._partitions: dict[int, set[int]] = {}
        self._sources: dict[int, tuple[Tracked, Words]] = {}
        self._generations: dict[int, tuple[int, Words]] = {}

    def sources(self) -> Sequence[Source]:
        """Return all sources."""
        with self._database.connection() as connection:
            return [tracked_load(row).source for row in self._database.run(connection, "sources", {})]

    def partitions_empty(self, source_id: int, there: Sequence[int]) -> set[int]:
        """Return those of the partitions there that are known to have brought no rows, as a set to add to.

        One that is not there is forgotten: it may come back with rows.
        """
        known = self._partitions.setdefault(source_id, set())
        known.intersection_update(there)
        return known

    def words(self, source_id: int) -> Words:
        """Return a source's words. They never change, so that they are read once."""
        return self._known(source_id)[1]

    def tracked(self, source_id: int) -> Tracked:
        """Return a source as it was when it was first asked for: its state may have changed, the rest has not."""
        return self._known(source_id)[0]

    def generation_words(self, generation_id: int) -> Words | None:
        """Return a generation's words and its source's, or None when there is no such generation."""
        if (known := self._generations.get(generation_id)) is None:
            with self._database.connection() as connection:
                found = self._database.run(connection, "generation_source", {}, {"generation": generation_id}).fetchone()
            if found is None:
                return None
            words = self.words(found[0]) | generation_words(generation_id)
            words |= {"source_id": str(found[0]), "stored": stored_type({"precision": found[1]})}
            known = self._generations.setdefault(generation_id, (found[0], words))
        return known[1]

    def generation_forget(self, generation_id: int) -> None:
        """Forget a generation that has been dropped."""
        self._generations.pop(generation_id, None)

    def _known(self, source_id: int) -> tuple[Tracked, Words]:
        if (known := self._sources.get(source_id)) is None:
            with self._database.connection() as connection:
                rows = self._database.run(connection, "source", {}, {"source": source_id}).fetchall()
                if not rows:
                    raise StoreError(f"source {source_id} is no longer attached")
                tracked = tracked_load(rows[0])
                words = source_words(tracked, vector_schema(self._database, connection))
            known = self._sources.setdefault(source_id, (tracked, words))
        return known


def tracked_load(row: Row) -> Tracked:
    """Return a source from its row."""
    id_, name, spec, tables, state, enrolled = row
    table, *touching = map(codec.table_load, tables)
    source = Source(id_, name, table, codec.spec_load(spec), state, codec.key_load(enrolled, key_columns(table)))
    return Tracked(source, tuple(touching))


def source_words(tracked: Tracked, vector: str) -> Words:
    """Return the words of a source; pgvector is in the schema `vector`."""
    source = tracked.source
    keys = key_columns(source.table)
    ours = [f"k{position}" for position in range(1, len(keys) + 1)]
    arrays = [key_array_type(column) for column in keys]
    lists = {alias: [f"{alias}.{name}" for name in ours] for alias in _TABLES}
    lists["s"] = [f"s.{identifier(column.name)}" for column in keys]
    texts = _texts(tracked)
    named = [f"t{position}" for position in range(1, len(texts) + 1)]
    words = {
        "journal": f"seamark.journal_{source.id}",
        "sequence": f"seamark.seq_{source.id}",
        "missed": f"seamark.missed_{source.id}",
        "source": qualified(source.table),
        "where": filter_compile(source.spec.where, source.table, literal),
        "vector": identifier(vector),
        "k": ", ".join(ours),
        "k_s_named": _each("{} AS {}", lists["s"], ours),
        "key_copies": _each("{}::{} AS {}", lists["s"], [key_type(column) for column in keys], ours),
        "key_arrays": _each("%({})s::{}[]", ours, arrays),
        "key_values": _each("%({})s::{}", ours, arrays),
        "live": f"{lists['s'][0]} IS NOT NULL",
        "texts": ", ".join(texts),
        "texts_named": _each("{} AS {}", texts, named),
        "texts_read": _each("b.{}", named),
        "texts_encoded": _each("convert_to({}, 'UTF8') AS {}", named, named),
        "texts_joined": _each("array_agg(coalesce(octet_length({}), -1)), string_agg({}, '')", named, named),
        "size": "(" + " + ".join(f"coalesce(octet_length({name}), 0)" for name in named) + ")",
    }
    words |= {f"k_{alias}": ", ".join(names) for alias, names in lists.items()}
    return words | {f"{a}_is_{b}": pairs(lists[a], lists[b]) for a, b in permutations("s" + _TABLES, 2)}


def _each(form: str, *several: Sequence[str]) -> str:
    return ", ".join(form.format(*each) for each in zip(*several, strict=True))


def _texts(tracked: Tracked) -> list[str]:
    """Return an expression for each text column of the spec, over the source as `s`."""
    spec, found = tracked.source.spec, list[str]()
    keys = [f"s.{identifier(name)}" for name in tracked.source.table.key]
    touching = {touch.table: (touch, table) for touch, table in zip(spec.touch, tracked.touching, strict=True)}
    for text in spec.text:
        if text.table is None:
            found.append(f"s.{identifier(text.column)}::text")
            continue
        touch, table = touching[text.table]
        column = f"t.{identifier(text.column)}::text"
        order = ", ".join(f"t.{identifier(name)}" for name in table.key) or column
        match = pairs([f"t.{identifier(name)}" for name in touch.columns], keys)
        found.append(f"(SELECT string_agg({column}, E'\\n' ORDER BY {order}) FROM {qualified(table)} t WHERE {match})")
    return found
