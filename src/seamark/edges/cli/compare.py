"""`compare`: which of two models finds what for the questions that matter."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from seamark.core.compare import Comparison, QueryComparison, qrels_parse, queries_parse
from seamark.edges import serialise
from seamark.edges.cli.session import Session, command
from seamark.edges.cli.text import counted, shortened
from seamark.errors import InvalidRequestError

SHOWN = 5
"""Queries on which the two differ most are shown, so many of them; `--json` has all."""
QUERY_CHARACTERS = 80
ALIKE = 1 - 1e-9
"""The sum that RBO is may be a rounding below 1."""
UNJUDGED = "none of the queries is judged: no judgement is of their ids (a query without one has the number of its line)"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(
        app,
        "compare",
        "seamark compare notes 2 3 --queries questions.txt",
        "seamark compare notes 2 3 --queries questions.jsonl --qrels judgements.trec --hybrid",
    )(compare)


def compare(
    session: Session,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="What was attached.")],
    first: Annotated[int, typer.Argument(metavar="A", help="A generation; `seamark model list` has them.")],
    second: Annotated[int, typer.Argument(metavar="B", help="Another one of the same kind.")],
    *,
    queries: Annotated[Path, typer.Option(metavar="FILE", help="A query a line; or id and query by tab, or JSON.")],
    qrels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Judgements: TREC (query 0 key grade), or JSON.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="Ranks that are looked at.")] = 10,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Rank by each of them together with the other kind.")] = False,
) -> None:
    """Ask two indexes of a table the same questions: how much their answers differ, and which is better where it is judged.

    The indexes may be in any state: build one with `seamark model swap --manual`, and compare before it is activated.
    """
    asked = queries_parse(_read(queries))
    judged = None if qrels is None else qrels_parse(_read(qrels))
    with session.service() as service:
        tracked = service.source(table)
        found = tracked.compare(first, second, asked, judged, limit=limit, mode="hybrid" if hybrid else "alone")
    session.show({"source": table, **serialise.comparison(found)}, *_lines(found, judged=judged is not None))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{file} cannot be read: {error}") from error


def _lines(found: Comparison, *, judged: bool) -> list[Text]:
    first, second = found.generations
    lines = [
        Text(f"generations {first} and {second}, {counted(len(found.queries), 'query').replace('querys', 'queries')}", "bold"),
        Text(f"  overlap@{found.limit}  {found.overlap:.3f}   of what both find, 1 is all"),
        Text(f"  RBO         {found.rbo:.3f}   the same, the first ranks counting most"),
    ]
    if judged:
        told = counted(found.judged, "judged query").replace("querys", "queries")
        lines.append(Text(f"  {told}" if found.judged else f"  {UNJUDGED}"))
    for name, values in (("nDCG@10", found.ndcg), (f"recall@{found.limit}", found.recall)):
        if values is not None:
            better = "equal" if values[0] == values[1] else f"{first if values[0] > values[1] else second} is better"
            lines.append(Text(f"  {name:<10}  {first}: {values[0]:.3f}   {second}: {values[1]:.3f}   {better}"))
    most = [one for one in sorted(found.queries, key=_likeness)[:SHOWN] if one.rbo < ALIKE]
    said = "they differ most on" if most else "they answer all of them alike"
    return [*lines, Text(f"  {said}"), *(Text(f"    {_told(one)}") for one in most)]


def _likeness(one: QueryComparison) -> tuple[float, float]:
    return (-abs(one.ndcg[0] - one.ndcg[1]) if one.ndcg else 0.0, one.rbo)


def _told(one: QueryComparison) -> str:
    judged = f"  nDCG {one.ndcg[0]:.2f} and {one.ndcg[1]:.2f}" if one.ndcg else ""
    return f"RBO {one.rbo:.2f}{judged}  {shortened(one.query, QUERY_CHARACTERS)}"
