"""`attach`, `detach` and `add`: what is tracked."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from seamark.core.chunking import CHUNK_CHARACTERS
from seamark.core.service import Seamark
from seamark.edges import serialise
from seamark.edges.cli.arguments import json_object, touches
from seamark.edges.cli.batch import batch_line
from seamark.edges.cli.documents import Skipped, batches, documents_find
from seamark.edges.cli.progress import progress
from seamark.edges.cli.session import FOUND_A_PROBLEM, Session, command
from seamark.edges.cli.text import counted, line
from seamark.model import Progress

Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="static (no network, no key), sentence-transformers:NAME, openai:NAME, ollama:NAME, tei:NAME; "
        "otherwise SEAMARK_MODEL.",
        show_default=False,
    ),
]

Language = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Whose word endings are cut; none to leave them. English at first.", show_default=False),
]

Precision = Annotated[
    str | None,
    typer.Option(metavar="TYPE", help="How vectors are stored: float16 or float32. float16 at first.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    command(
        app,
        "attach",
        """seamark attach notes --text title --text body --where '{"deleted_at": null}'""",
        "seamark attach messages --text bodies.text --touch bodies=message_id",
    )(attach)
    command(app, "detach", "seamark detach notes", "seamark detach notes --drop")(detach)
    command(
        app,
        "add",
        "seamark add README.md docs/ --db sqlite:///library.db",
        "seamark add ~/notes --collection notes",
    )(add)


def attach(
    session: Session,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The table; on PostgreSQL also schema.table.")],
    *,
    text: Annotated[list[str], typer.Option(metavar="COLUMN", help="A text column; several times for several.")],
    where: Annotated[
        dict[str, object] | None,
        typer.Option(metavar="JSON", parser=json_object, help="Which rows are live, as a filter; all otherwise."),
    ] = None,
    touch: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE=COLUMN", help="A related table, and its column that holds this table's key."),
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(metavar="N", help=f"Characters in a passage; {CHUNK_CHARACTERS:,} at first.", show_default=False),
    ] = None,
    language: Language = None,
    precision: Precision = None,
    model: Model = None,
    track: Annotated[
        Literal["triggers", "poll"],
        typer.Option(help="poll: no triggers, nothing is written to the table; edits are found by the workers' audit."),
    ] = "triggers",
    poll: Annotated[str | None, typer.Option(metavar="KEY", help="The key that only ever grows, if it is no integer.")] = None,
    stamp: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN,…", help="Columns of the table that say of each row what is embedded: docs/sql.md."),
    ] = None,
) -> None:
    """Track a table: from now on every committed change of it is found, embedded and searchable.

    The table itself is not altered, but for --stamp: it gets triggers, and its database a journal. Done again with the same
    words, it changes nothing.
    """
    related = touches(touch or ())
    stamps = [name for names in stamp or () for name in names.split(",")]
    with session.service() as service, progress(session) as report:
        tracked = service.attach(
            table,
            text=text,
            where=where,
            touch=related,
            chunk=chunk,
            language=language,
            precision=precision,
            model=model,
            stamp=stamps,
            track=track,
            poll=poll,
            progress=report,
        )
        coverage = tracked.coverage()
    session.show(
        {"source": serialise.source(tracked.source), "coverage": serialise.source_coverage(coverage)},
        f"{line(table)}: {counted(coverage.live, 'row')}, {coverage.missing:,} of them to be indexed. Next: seamark work",
    )


def detach(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What was attached.")],
    *,
    drop: Annotated[
        bool, typer.Option("--drop", help="Drop its vectors, too, and those that earlier detaches of it have left.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, on a terminal.")] = False,
    drop_stamps: Annotated[bool, typer.Option("--drop-stamps", help="Drop the stamp columns that attach made.")] = False,
) -> None:
    """Stop tracking a table: its journal, triggers and indexes go, and its schema is exactly as it was before.

    Its vectors are left for a month: attached again under the same model, the table costs nothing but what has changed.
    Stamp columns stay, too, and nobody keeps them true any more, unless they are dropped.
    """
    with session.service() as service:
        attached = next((tracked for tracked in service.sources() if tracked.name == source), None)
        if drop and attached and session.err.is_terminal and not yes and not session.as_json:
            rows = counted(attached.coverage().embedded, "row")
            typer.confirm(f"Detach {line(source)} and drop the vectors of {rows}?", abort=True, err=True)
        stamps = dict.fromkeys((*attached.stamps_made(), *attached.source.spec.stamp) if attached else ())
        gone = attached.stamps_made() if attached and drop_stamps else ()
        withdrawn = service.detach(source, drop_vectors=drop, drop_stamps=drop_stamps)
    stay = [name for name in stamps if name not in gone]
    document = {
        "detached": source,
        "vectors": "dropped" if drop else "left",
        "stamps": {"dropped": list(gone), "left": stay},
        "batches": [serialise.batch(one) for one in withdrawn],
    }
    session.show(document, f"{line(source)}: detached", *_stamps_told(stay, asked=drop_stamps), *map(batch_line, withdrawn))


def _stamps_told(stay: Sequence[str], *, asked: bool) -> Iterator[str]:
    if stay:
        why = "attach has not made them; ALTER TABLE … DROP COLUMN drops them" if asked else "nobody keeps them true any more"
        yield f"  its stamp columns {', '.join(stay)} stay in the table: {why}"


def add(
    session: Session,
    files: Annotated[list[Path], typer.Argument(metavar="FILES…", help="Text and Markdown files, and folders of them.")],
    *,
    collection: Annotated[str, typer.Option(metavar="NAME", help="The table they go into.")] = "documents",
    model: Model = None,
) -> int:
    """Make a collection, a table of documents, and fill it from text and Markdown files.

    A file that is there already, by its path, is updated. A SQLite file that does not exist is made.
    """
    found = documents_find(files)
    skipped: list[Skipped] = []
    changed = read = 0
    with session.service(create=True) as service, progress(session) as report:
        for batch in batches(found, skipped):
            changed += service.add(collection, batch, model=model)
            read += len(batch)
            report(Progress(f"add to {collection}", read, len(found), 0.0))
        _collection_attach(service, collection, read, model)
    for file in skipped:
        session.note(f"skipped {file.path}: {file.reason}")
    session.show(
        {
            "collection": collection,
            "files": read,
            "changed": changed,
            "skipped": [{"path": serialise.text(file.path), "reason": file.reason} for file in skipped],
        },
        f"{line(collection)}: {counted(read, 'file')}, {changed:,} new or changed. Next: seamark work --until current",
    )
    return FOUND_A_PROBLEM if skipped else 0


def _collection_attach(service: Seamark, collection: str, read: int, model: str | None) -> None:
    """Make the collection even when no file could be read, so that it can be searched all the same."""
    if read == 0:
        service.add(collection, [], model=model)
