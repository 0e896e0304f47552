"""`adopt`: an index made of vectors that exist already."""

from pathlib import Path
from typing import Annotated, Any

import typer

from seamark.core.adopt import WHOLE_ROW_CHARACTERS
from seamark.edges import serialise
from seamark.edges.cli.progress import progress
from seamark.edges.cli.session import Session, command
from seamark.edges.cli.sources import Model
from seamark.edges.cli.text import counted, line
from seamark.edges.vector_files import numpy_batches, parquet_batches
from seamark.errors import InvalidRequestError


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(
        app,
        "adopt",
        "seamark adopt notes --model openai:text-embedding-3-small --from-column embedding --text-hash body_md5",
        "seamark adopt notes --from-table old_vectors --key note_id --vector embedding --trust-text",
        "seamark adopt notes --from-file vectors.npy --keys keys.npy --trust-text",
    )(adopt)


def adopt(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What was attached.")],
    *,
    model: Model = None,
    from_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="The vectors are in this column of it.")] = None,
    from_table: Annotated[str | None, typer.Option(metavar="TABLE", help="The vectors are in another table.")] = None,
    from_file: Annotated[Path | None, typer.Option(metavar="FILE", help="The vectors are in a .npy or .parquet file.")] = None,
    key: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="What holds the key, in that table or Parquet file.")
    ] = None,
    vector: Annotated[str | None, typer.Option(metavar="COLUMN", help="What holds the vector, likewise.")] = None,
    keys: Annotated[Path | None, typer.Option(metavar="FILE", help="The keys of the vectors of a .npy file.")] = None,
    text_hash: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What holds the digest of the text; of a .npy file, another one.")
    ] = None,
    trust_text: Annotated[
        bool, typer.Option("--trust-text", help="The texts are those that the vectors were made from.")
    ] = False,
    chunk: Annotated[
        int, typer.Option(metavar="N", help="Longer rows are not adopted: a vector stands for all of a row.")
    ] = WHOLE_ROW_CHARACTERS,
    manual: Annotated[bool, typer.Option("--manual", help="Let search read it only when it is activated.")] = False,
) -> None:
    """Make an index of vectors that exist already, without one call to the model that made them.

    Rows whose text has changed since, and those without a vector, are left to the workers. Run again, it goes on where it
    was; of an index that is searched already nothing is read.
    """
    if sum(place is not None for place in (from_column, from_table, from_file)) != 1:
        raise InvalidRequestError("say where the vectors are with one of --from-column, --from-table and --from-file")
    named = tuple(key or ())
    where: dict[str, Any] = {"column": from_column, "text_hash": text_hash}
    if from_table is not None:
        where |= {"column": _named(vector, "--vector"), "table": from_table, "key": named}
    elif from_file is not None:
        where = {"batches": _batches(from_file, keys, named, vector, text_hash)}
    with session.service() as service, progress(session) as report:
        tracked = service.source(source)
        found = tracked.adopt(model, **where, trust_text=trust_text, chunk=chunk, manual=manual, progress=report)
    others = found.edited + found.divided + found.unusable + (found.unknown or 0)
    unknown = "" if found.unknown is None else f", {found.unknown:,} of no row"
    session.show(
        {"source": source, **serialise.adopted(found)},
        f"{line(source)}: {counted(found.rows, 'vector')} adopted, {others:,} not: {found.edited:,} with another text by now, "
        f"{found.divided:,} with none or several passages, {found.unusable:,} unusable{unknown}. "
        f"{counted(found.missing, 'row')} to be embedded. Next: seamark work",
    )


def _batches(file: Path, keys: Path | None, key: tuple[str, ...], vector: str | None, digest: str | None) -> Any:
    if file.suffix == ".npy":
        return numpy_batches(file, Path(_named(keys and str(keys), "--keys")), Path(digest) if digest else None)
    if not key:
        raise InvalidRequestError("name the column that holds the key with --key")
    return parquet_batches(file, key, _named(vector, "--vector"), digest)


def _named(value: str | None, option: str) -> str:
    if value is None:
        raise InvalidRequestError(f"{option} is needed to say where the vectors are")
    return value
