"""The words that fill the gaps in queries.sql: quoted identifiers, lists of key columns, and conditions over them.

In Seamark's own tables the key's columns are k1, k2, …, without a declared type, so that each value keeps the one it has. A
comparison that is to use an index on such a column has `+` before the user's column: a column with a numeric type would give
the comparison its affinity, and SQLite would not use the index.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from seamark.store.sqlite.filters import filter_literal
from seamark.store.statements import load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seamark.model import Source, Table, TextColumn

STATEMENTS = load(files("seamark.store.sqlite").joinpath("queries.sql"))


def quoted(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def journal_name(table: str) -> str:
    """Return the name of a table's journal in the user's file."""
    return f"seamark_journal_{table}"


class Words:
    """The words for one source and one of its generations (0 where none is meant), and the statements made with them."""

    def __init__(self, source: Source, related: Mapping[str, tuple[str, ...]], generation: int = 0) -> None:
        """Make the words. `related` maps each touching table to the columns that its rows are ordered by."""
        self.source = source
        self.generation = generation
        self._words = source_words(source) | _spec_words(source, related) | generation_words(generation)
        self._statements: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        """Return a statement that has no further gaps."""
        if name not in self._statements:
            self._statements[name] = STATEMENTS[name].format_map(self._words)
        return self._statements[name]

    def word(self, name: str) -> str:
        """Return one of the words themselves."""
        return self._words[name]

    def fill(self, name: str, **words: str) -> str:
        """Return a statement with further gaps filled."""
        return STATEMENTS[name].format_map(self._words | words)

    def serves(self, source: Source) -> bool:
        """Say whether these are the words for that source as it stands."""
        return source is self.source or (source.table == self.source.table and source.spec == self.source.spec)


def source_words(source: Source) -> dict[str, str]:
    """Return the words for a source's table and its journal, which is in our own file where the table is polled."""
    words = table_words(source.table)
    if source.spec.track == "poll":
        journal = words["journal_here"]
        words |= {"journal": f"main.{journal}", "journal_seen": f"seamark.{journal}", "table_here": words["table"]}
    return words


def table_words(table: Table) -> dict[str, str]:
    """Return the words for a user's table and its journal."""
    journal = quoted(journal_name(table.name))
    count = len(table.key)
    keys = key_names(count)
    columns = [f"t.{quoted(column)}" for column in table.key]
    return {
        "table": f"app.{quoted(table.name)}",
        "table_here": quoted(table.name),
        "table_keys": ", ".join(columns),
        "table_keys_descending": ", ".join(f"{column} DESC" for column in columns),
        "journal": f"app.{journal}",
        "journal_here": journal,
        "journal_seen": f"main.{journal}",
        "journal_key": quoted(f"seamark_key_{table.name}"),
        "journal_alike": quoted(f"seamark_alike_{table.name}"),
        "journal_deleted": quoted(f"seamark_deleted_{table.name}"),
        "keys": ", ".join(keys),
        "marks": ", ".join("?" * count),
        "keys_given": " AND ".join(f"{key} = ?" for key in keys),
        "keys_present": " AND ".join(f"{column} IS NOT NULL" for column in columns),
        "jkeys": _members("j", keys),
        "rkeys": _members("r", keys),
        "fkeys": _members("f", keys),
        "jkeys_raw": raw([f"j.{key}" for key in keys]),
        "fkeys_raw": raw([f"f.{key}" for key in keys]),
        "rkeys_raw": raw([f"r.{key}" for key in keys]),
        "ckeys_raw": raw([f"c.{key}" for key in keys]),
        "table_keys_raw": raw(columns),
        "ckeys": _members("c", keys),
        "r_is_j": _equal("r", "j", keys),
        "j_is_r": _equal("j", "r", keys),
        "f_is_j": _equal("f", "j", keys),
        "r_is_c": _equal("r", "c", keys),
        "c_is_j": _equal("c", "j", keys),
        "j_is_t": _ours_is_theirs("j", keys, columns),
        "r_is_t": _ours_is_theirs("r", keys, columns),
        "c_is_t": _ours_is_theirs("c", keys, columns),
        "t_is_j": _theirs_is(table, [f"j.{key}" for key in keys]),
        "t_is_r": _theirs_is(table, [f"r.{key}" for key in keys]),
        "t_is_given": _theirs_is(table, [f"?{number}" for number in range(1, count + 1)]),
        "t_is_numbered": _theirs_is(table, ["a.value"] * count),
        "j_is_given": " AND ".join(f"{key} = ?{number}" for number, key in enumerate(keys, 1)),
        "j_is_asked": " AND ".join(f"j.{key} = ?{number}" for number, key in enumerate(keys, 1)),
        "given": ", ".join(f"?{number}" for number in range(1, count + 1)),
        "floor": f"?{count + 1}",
        "place": f"?{count + 1}",
        "nothing": ", ".join(["x''"] * count),
        "witness": " || ' ' || ".join([*(f"quote(j.{key})" for key in keys), "j.changed_at", "j.deleted"]),
        "t_found": f"{columns[0]} IS NOT NULL" if columns else "0",
    }


def generation_words(generation: int) -> dict[str, str]:
    """Return the words for a generation's tables and their indexes."""
    names = ("rows", "chunks", "kept", "postings", "failures")
    indexes = ("rows_empty", "rows_truncated", "rows_doc", "chunks_key", "failures_due", "failures_lease")
    words = {name: f"{name}_{generation}" for name in names}
    for index in indexes:
        table, _, rest = index.partition("_")
        words[index] = f"{table}_{generation}_{rest}"
    return words | {"generation": str(generation)}


def _spec_words(source: Source, related: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    spec = source.spec
    expressions = [_text(column, source, related) for column in spec.text]
    texts = [f"CAST({text} AS BLOB)" for text in expressions]  # SQLite does not check that text is well-formed
    live = "1" if spec.where is None else filter_literal(spec.where, "t")
    return {
        "texts": ", ".join(texts),
        "texts_named": ", ".join(f"{text} AS {name}" for text, name in zip(texts, text_names(source), strict=True)),
        "size": " + ".join(f"coalesce(octet_length({text}), 0)" for text in expressions),
        "live": live,
    }


def text_names(source: Source) -> list[str]:
    """Return the names that the texts have where a statement names them."""
    return [f"t{number}" for number in range(1, len(source.spec.text) + 1)]


def _text(text: TextColumn, source: Source, related: Mapping[str, tuple[str, ...]]) -> str:
    """Return the expression for a text column."""
    if text.table is None:
        return f"t.{quoted(text.column)}"
    references = next(touch.columns for touch in source.spec.touch if touch.table == text.table)
    joined = " AND ".join(
        f"x.{quoted(reference)} = t.{quoted(key)}" for reference, key in zip(references, source.table.key, strict=True)
    )
    order = ", ".join(f"x.{quoted(column)}" for column in related[text.table])
    return (
        f"(SELECT group_concat(x.{quoted(text.column)}, char(10) ORDER BY {order}) "
        f"FROM app.{quoted(text.table)} x WHERE {joined})"
    )


def key_names(count: int) -> list[str]:
    """Return the names that the columns of a key have in our own tables."""
    return [f"k{number}" for number in range(1, count + 1)]


def _members(alias: str, keys: Sequence[str]) -> str:
    return ", ".join(f"{alias}.{key}" for key in keys)


def raw(columns: Sequence[str]) -> str:
    """Read columns that may be text which is not well-formed: whether each is text, and its value, text as bytes."""
    return ", ".join(
        f"typeof({one}) = 'text', CASE typeof({one}) WHEN 'text' THEN CAST({one} AS BLOB) ELSE {one} END" for one in columns
    )


def _equal(one: str, other: str, keys: Sequence[str]) -> str:
    return " AND ".join(f"{one}.{key} = {other}.{key}" for key in keys)


def _ours_is_theirs(alias: str, keys: Sequence[str], columns: Sequence[str]) -> str:
    return " AND ".join(f"{alias}.{key} = +{column}" for key, column in zip(keys, columns, strict=True))


def _theirs_is(table: Table, values: Sequence[str]) -> str:
    """Compare the user's key as its index does, and once more byte by byte: it may have a collation that ignores case."""
    terms: list[str] = []
    for name, value in zip(table.key, values, strict=True):
        terms.append(f"t.{quoted(name)} = {value}")
        column = table.column(name)
        if column is None or column.kind != "integer":
            terms.append(f"t.{quoted(name)} COLLATE BINARY = {value}")
    return " AND ".join(terms)
