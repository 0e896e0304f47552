"""`search`: find rows by meaning and by words."""

import re
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.text import Text

from seamark.core.search import Fusion, Mode
from seamark.edges import serialise
from seamark.edges.cli.arguments import json_object
from seamark.edges.cli.session import Session, command
from seamark.edges.cli.text import line, shortened
from seamark.model import Hit, Leg

PASSAGE_CHARACTERS = 480
"""Six lines of a terminal: `--json` has all of a passage."""
WORD_CHARACTERS_MIN = 3
"""Shorter words of a query are not set in bold: they stand everywhere."""


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(
        app,
        "search",
        'seamark search notes "how do I rotate the keys"',
        """seamark search notes "rotate keys" --limit 3 --filter '{"org_id": 7}' --explain""",
    )(search)


def search(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What was attached, or a collection.")],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="Any text; its words are never combined with AND.")],
    *,
    limit: Annotated[int, typer.Option(metavar="N", help="Hits at most.")] = 10,
    mode: Annotated[Mode, typer.Option(help="By meaning and words, by words alone, by meaning alone.")] = "hybrid",
    only: Annotated[
        dict[str, object] | None,
        typer.Option("--filter", metavar="JSON", parser=json_object, help="Which rows, by the table's own columns."),
    ] = None,
    fusion: Annotated[Fusion, typer.Option(help="How the two ranked lists become one.")] = "convex",
    generation: Annotated[
        int | None, typer.Option(metavar="N", help="Read this index for its kind, whatever its state.", show_default=False)
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show each list's rank and score.")] = False,
) -> None:
    """Find rows by meaning and by words, best first, each with the passage that matches.

    A row marked stale has a newer text than the one it was found by. A query that begins with a dash goes
    after two of them: seamark search notes -- "-v for verbose".
    """
    with session.service() as service:
        tracked = service.source(source)
        found = tracked.search(query, limit=limit, mode=mode, filter=only, fusion=fusion, generation=generation)
    for reason in found.degraded:
        session.note(f"seamark: degraded: {reason}")
    document = {"source": source, "query": serialise.text(query), "mode": mode, **serialise.search_result(found)}
    lines = [
        rendered for rank, hit in enumerate(found.hits, start=1) for rendered in rendered_hit(rank, hit, query, explain=explain)
    ]
    session.show(document, *lines)
    if not lines and not session.as_json:
        session.note("nothing found")


def rendered_hit(rank: int, hit: Hit, query: str, *, explain: bool = False) -> Iterator[Text]:
    """Return a hit as lines: rank, score, key, and below them the passage with the query's words in bold."""
    stale = ("  stale", "yellow") if hit.stale else ""
    yield Text.assemble(f"{rank:>2}  {hit.score:.3f}  ", (line(str(serialise.key(hit.key))), "bold cyan"), stale)
    passage = Text("    " + shortened(hit.passage, PASSAGE_CHARACTERS))
    words = [re.escape(word) for word in query.split() if len(word) >= WORD_CHARACTERS_MIN]
    if words:
        passage.highlight_regex(re.compile(rf"\b(?:{'|'.join(words)})", re.IGNORECASE), "bold")
    yield passage
    if explain:
        place = f"generation {hit.generation}, characters {hit.start} to {hit.stop}"
        yield Text(f"    words {_leg(hit.lexical)}, meaning {_leg(hit.vector)}, {place}", "dim")


def _leg(leg: Leg | None) -> str:
    return "none" if leg is None else f"rank {leg.rank} score {leg.score:.3f}"
