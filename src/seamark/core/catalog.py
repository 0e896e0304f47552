"""What may be attached, and the identity of the generations made over it: decisions from values, with no I/O."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from seamark.core.chunking import Chunker
from seamark.core.filters import filter_parse, filter_write
from seamark.errors import InvalidRequestError, SourceConflictError, TableUnusableError, UnknownColumnError
from seamark.model import GenerationSpec, Precision, SourceSpec, TextColumn, Touch, Track, filter_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from seamark.model import Column, ColumnKind, Generation, ModelIdentity, Source, StampName, Table

PRECISION: Precision = "float16"
"""Half the space of float32, and no difference in what is found that could be measured."""
_KEY_KINDS = ("integer", "text", "uuid", "blob")
STAMP_KINDS: dict[StampName, tuple[ColumnKind, ...]] = {
    "embedded_model_id": ("text",),
    "embedded_model_version": ("text",),
    "embedded_at": ("time", "text"),
    "has_embedding": ("boolean", "integer"),
    "embed_gen": ("integer",),
}
"""The stamps, and the kinds of a column that can hold each."""


def source_spec(
    table: Table,
    text: str | Sequence[str],
    where: Mapping[str, object] | None,
    touch: Mapping[str, str | Sequence[str]] | None,
    inspect: Callable[[str], Table],
    stamp: str | Sequence[str] = (),
    track: str = "triggers",
    poll: str | None = None,
) -> SourceSpec:
    """Check what `attach` was given against the tables as they stand, and return what to track.

    `inspect` looks up the touching tables. Raises TableUnusableError, UnknownColumnError or InvalidRequestError.
    """
    _key_check(table)
    touches = tuple(_touch(table, name, columns, inspect) for name, columns in (touch or {}).items())
    names = (text,) if isinstance(text, str) else tuple(text)
    if not names:
        raise InvalidRequestError(f"attach {table.name!r}: name at least one text column with text=[…]")
    if len(set(names)) != len(names):
        raise InvalidRequestError(f"attach {table.name!r}: a text column is named twice in {list(names)}")
    columns = tuple(_text_column(table, name, touches, inspect) for name in names)
    for related in touches:
        if all(column.table != related.table for column in columns):
            raise InvalidRequestError(
                f"attach {table.name!r}: touch names {related.table!r}, but no text column is read from it; "
                f"add text=['{related.table}.<column>'] or leave it out"
            )
    spec = SourceSpec(table.name, columns, filter_parse(where, table) if where else None, touches)
    spec = replace(spec, stamp=_stamp(table, spec, (stamp,) if isinstance(stamp, str) else stamp))
    return replace(spec, track=_track(table, spec, track, poll))


def _track(table: Table, spec: SourceSpec, track: str, poll: str | None) -> Track:
    """Return how the journal is fed, where the table allows for it."""
    if track not in get_args(Track):
        raise InvalidRequestError(f"track={track!r}: there are {', '.join(get_args(Track))}")
    if track == "triggers":
        if poll is not None:
            raise InvalidRequestError(f"poll={poll!r} is for track='poll'")
        return "triggers"
    if spec.stamp:
        raise InvalidRequestError(
            f"table {table.name!r} is to be polled and not to be written to, so that it cannot be stamped"
        )
    if len(table.key) != 1:
        raise TableUnusableError(
            f"table {table.name!r} has a key of {len(table.key)} columns; one that only grows can be polled"
        )
    [key] = table.key
    if poll is None and _column(table, key).kind != "integer":
        raise InvalidRequestError(
            f"table {table.name!r}: key {key!r} is no integer; if every new row has a higher one, say so with poll={key!r}"
        )
    if poll not in (None, key):
        raise InvalidRequestError(f"table {table.name!r} can be polled by its key {key!r} only, not by {poll!r}")
    return "poll"


def _stamp(table: Table, spec: SourceSpec, names: Sequence[str]) -> tuple[StampName, ...]:
    """Return the stamp columns by name, each once, where the table has none of another kind under one of these names."""
    read = {*table.key, *filter_columns(spec.where), *(text.column for text in spec.text if text.table is None)}
    for name in names:
        if name not in STAMP_KINDS:
            raise InvalidRequestError(f"{name!r} is no stamp; there are {', '.join(STAMP_KINDS)}")
        found = next((column for column in table.columns if column.name.lower() == name), None)
        if found is not None and (found.name != name or found.kind not in STAMP_KINDS[name]):
            raise TableUnusableError(
                f"table {table.name!r} has a column {found.name!r} of type {found.type}, which cannot hold the stamp {name!r}"
            )
        if name in read:
            raise InvalidRequestError(f"column {name!r} is read from table {table.name!r}, and cannot be a stamp as well")
    return tuple(name for name in STAMP_KINDS if name in names)


def _key_check(table: Table) -> None:
    if not table.key:
        raise TableUnusableError(
            f"table {table.name!r} has no primary key, so its rows cannot be told apart; add one, then attach again"
        )
    for name in table.key:
        column = _column(table, name)
        if column.kind not in _KEY_KINDS:
            raise TableUnusableError(
                f"table {table.name!r}: key column {name!r} is of type {column.type}; keys of integer, text and uuid type work"
            )


def _touch(table: Table, name: str, columns: str | Sequence[str], inspect: Callable[[str], Table]) -> Touch:
    related = inspect(name)
    named = (columns,) if isinstance(columns, str) else tuple(columns)
    for column in named:
        _column(related, column)
    if len(named) != len(table.key):
        raise InvalidRequestError(
            f"touch {name!r}: {len(named)} column(s) given for the key of {table.name!r}, which has {len(table.key)}"
        )
    return Touch(name, named)


def _text_column(table: Table, name: str, touches: Sequence[Touch], inspect: Callable[[str], Table]) -> TextColumn:
    if table.column(name) is not None:
        return _text_checked(table, TextColumn(name))
    for related in touches:
        if name.startswith(f"{related.table}."):
            column = TextColumn(name.removeprefix(f"{related.table}."), related.table)
            return _text_checked(inspect(related.table), column)
    raise UnknownColumnError(table.name, name, tuple(column.name for column in table.columns))


def _text_checked(table: Table, text: TextColumn) -> TextColumn:
    column = _column(table, text.column)
    if column.kind != "text":
        raise TableUnusableError(
            f"table {table.name!r}: column {column.name!r} is of type {column.type}, not text; only text can be embedded"
        )
    return text


def _column(table: Table, name: str) -> Column:
    column = table.column(name)
    if column is None:
        raise UnknownColumnError(table.name, name, tuple(known.name for known in table.columns))
    return column


def collection_check(name: str) -> None:
    """Raise InvalidRequestError for what cannot be the name of a collection on every database."""
    if not name.strip():
        raise InvalidRequestError("a collection needs a name: that of the table that is made for it")
    if name.lower().startswith("sqlite_"):
        raise InvalidRequestError(
            f"a collection cannot be named {name!r}: SQLite keeps names that begin with sqlite_ for itself"
        )


def source_find(sources: Sequence[Source], name: str, table: Table) -> Source | None:
    """Return the source of that name, or else of that table, which may have been attached by another of its names."""
    named = next((source for source in sources if source.name == name), None)
    return named or next(
        (source for source in sources if (source.table.schema, source.table.name) == (table.schema, table.name)), None
    )


def source_check(source: Source, spec: SourceSpec) -> None:
    """Raise SourceConflictError, saying what differs, unless the source is attached with these very words."""
    differences = [
        f"{label} is {there}, now asked for {asked}"
        for label, there, asked in (
            ("text", columns_write(source.spec.text), columns_write(spec.text)),
            ("where", _where_told(source.spec), _where_told(spec)),
            ("touch", _touch_told(source.spec), _touch_told(spec)),
            ("stamp", list(source.spec.stamp), list(spec.stamp)),
            ("track", source.spec.track, spec.track),
        )
        if there != asked
    ]
    if differences:
        raise SourceConflictError(_conflict(source, differences))


def unsearched(generations: Sequence[Generation]) -> bool:
    """Say whether there are vector indexes, and all of them are retired."""
    vector = [one for one in generations if one.kind == "vector"]
    return bool(vector) and all(one.state == "retired" for one in vector)


def attached(source: Source, generations: Iterable[Generation]) -> bool:
    """Say whether the source's attach went to its end: its rows are entered, and it has indexes that are not retired."""
    return source.state == "ready" and any(generation.state != "retired" for generation in generations)


def source_drift(source: Source, inspect: Callable[[str], Table]) -> tuple[str, ...]:
    """Say what of the tables that a source is read from is no longer as it was when the source was attached."""
    touched = {related.table: related.columns for related in source.spec.touch}
    read: dict[str, list[str]] = {source.name: [*source.table.key, *filter_columns(source.spec.where)]}
    for name, columns in touched.items():
        read[name] = list(columns)
    for text in source.spec.text:
        read[text.table or source.name].append(text.column)
    problems: list[str] = []
    for name, columns in read.items():
        try:
            table = inspect(name)
        except TableUnusableError as error:
            problems.append(str(error))
            continue
        problems += [f"table {name!r} has no column {column!r} any more" for column in columns if table.column(column) is None]
        problems += _retyped(source, name, table)
        if name == source.name and table.key != source.table.key and not problems:
            problems.append(f"the key of table {name!r} is {list(table.key)} and was {list(source.table.key)}")
    return tuple(dict.fromkeys(problems))


def precision_check(precision: str) -> Precision:
    """Return the precision; InvalidRequestError for one that vectors cannot be stored in."""
    for known in get_args(Precision):
        if precision == known:
            return known
    raise InvalidRequestError(f"vectors cannot be stored as {precision!r}; there are {', '.join(get_args(Precision))}")


def chunker(generations: Sequence[Generation], characters: int) -> Chunker:
    """Return the chunker of that size that a source's live generation was made with, else the present one.

    An upgrade of Seamark may cut texts otherwise: a program that attaches as ever is to find what it has attached.
    """
    live = (found.identity for found in generations if found.kind == "vector" and found.state != "retired")
    kinds = [kind for identity in live if "chunker" in identity and (kind := Chunker.like(identity)).characters == characters]
    return kinds[-1] if kinds else Chunker(characters)


def _retyped(source: Source, name: str, table: Table) -> Iterable[str]:
    """Say which columns have another type: one of text that is none now, one of the key, or one that the triggers compare.

    The length of a key must not change either, since the journal has it; on SQLite the value has the type, and not the
    column, and the type is always that of now.
    """
    for text in source.spec.text:
        column = table.column(text.column) if (text.table or source.name) == name else None
        if column is not None and column.kind != "text":
            yield f"column {column.name!r} of table {name!r} is of type {column.type} now, not text"
    for other in (*source.table.key, *filter_columns(source.spec.where)) if name == source.name else ():
        was, now = source.table.column(other), table.column(other)
        parts = slice(None) if other in source.table.key else slice(1)
        if was is not None and now is not None and was.type.split("(")[parts] != now.type.split("(")[parts]:
            yield f"column {other!r} of table {name!r} is of type {now.type} and was of type {was.type}"


def generations_check(source: Source, generations: Sequence[Generation], specs: Sequence[GenerationSpec]) -> None:
    """Raise SourceConflictError where the source has live generations of a kind, and none has the fingerprint asked for."""
    differences: list[str] = []
    for spec in specs:
        live = [known for known in generations if known.kind == spec.kind and known.state != "retired"]
        if live and all(known.fingerprint != spec.fingerprint for known in live):
            there, asked = live[-1].identity, spec.identity
            differences += [
                f"{spec.kind} {name} is {there.get(name)}, now asked for {asked.get(name)}"
                for name in sorted(there.keys() | asked.keys())
                if there.get(name) != asked.get(name)
            ]
    if differences:
        raise SourceConflictError(
            f"{source.name!r} is attached already, with other words: {'; '.join(differences)}. Attach with the same words, or "
            f"have a new index built beside the old one: `seamark model swap {source.name}`, `source({source.name!r}).swap(…)`"
        )


def _conflict(source: Source, differences: Sequence[str]) -> str:
    return (
        f"{source.name!r} is attached already, with other words: {'; '.join(differences)}. "
        f"Attach with the same words, or detach it first (its vectors are kept for the next attach)"
    )


def columns_write(columns: Sequence[TextColumn]) -> list[str]:
    """Return text columns in the words that `attach` takes."""
    return [f"{text.table}.{text.column}" if text.table else text.column for text in columns]


def _where_told(spec: SourceSpec) -> dict[str, object] | None:
    return None if spec.where is None else filter_write(spec.where)


def _touch_told(spec: SourceSpec) -> dict[str, list[str]]:
    return {related.table: list(related.columns) for related in spec.touch}


def vector_spec(
    spec: SourceSpec,
    model: ModelIdentity,
    locator: str | None,
    chunker: Mapping[str, object],
    precision: Precision = PRECISION,
) -> GenerationSpec:
    """Return the vector generation of a model and a chunker over a source's text columns."""
    identity = {
        "kind": "vector",
        "model": {
            "name": model.name,
            "version": model.version,
            "dimension": model.dimension,
            "document_prefix": model.document_prefix,
            "query_prefix": model.query_prefix,
            "normalised": model.normalised,
        },
        "precision": precision,
        "chunker": dict(chunker),
        "text": _text_identity(spec),
    }
    return GenerationSpec("vector", fingerprint(identity), identity, model, locator)


def lexical_spec(spec: SourceSpec, analyzer: Mapping[str, object]) -> GenerationSpec:
    """Return the lexical generation of an analyzer over a source's text columns."""
    identity = {"kind": "lexical", "analyzer": dict(analyzer), "text": _text_identity(spec)}
    return GenerationSpec("lexical", fingerprint(identity), identity)


def fingerprint(identity: Mapping[str, object]) -> str:
    """Return the SHA-256, in hexadecimal, of the identity as canonical JSON."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _text_identity(spec: SourceSpec) -> list[list[str | None]]:
    return [[text.table, text.column] for text in spec.text]
