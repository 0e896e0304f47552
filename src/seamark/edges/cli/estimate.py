"""`estimate`: what embedding a table costs, before anything is spent."""

from typing import Annotated

import typer

from seamark.edges import serialise
from seamark.edges.cli.budget import Price
from seamark.edges.cli.session import Session, command
from seamark.edges.cli.sources import Model
from seamark.edges.cli.text import counted, line
from seamark.model.cost import Estimate, price

SMALLEST = 0.0001
MEASURES = {
    "exact": "counted by the model's own tokenizer",
    "calibrated": "estimated from what the provider billed for a few passages",
    "rough": "estimated, rather too many",
}


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(
        app,
        "estimate",
        "seamark estimate notes",
        "seamark estimate notes --model openai:text-embedding-3-large --price 0.13",
    )(estimate)


def estimate(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What was attached.")],
    *,
    model: Model = None,
    chunk: Annotated[
        int | None, typer.Option(metavar="N", help="Characters in a passage; as it is otherwise.", show_default=False)
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="WORD", help="How vectors are stored; as they are otherwise.", show_default=False)
    ] = None,
    price: Price = None,
    calibrate: Annotated[
        bool, typer.Option(help="Ask a provider for the vectors of up to 128 passages, for what it bills.")
    ] = True,
) -> None:
    """Say what embedding a table costs: rows, passages, tokens, and money where a price is given. Nothing is indexed.

    What need not be embedded again is left out. Of a large table a sample is looked at, and the error is told. A provider that
    counts in a way that is not known here is asked for the vectors of a tenth of the passages, of 32 at least and 128 at most:
    that much is spent, and told. With --no-calibrate nothing is.
    """
    with session.service() as service:
        found = service.source(source).estimate(model, chunk, precision, calibrate=calibrate)
    session.show({"source": source, **serialise.estimate(found, price)}, *told(source, found, price))


def told(source: str, found: Estimate, usd_per_million: float | None) -> list[str]:
    """Return an estimate in words."""
    looked = "" if found.sampled is None else f" (from a sample of {found.sampled:,})"
    error = "" if not found.error else f", within {found.error:.1%} 19 times out of 20"
    lines = [
        f"{line(source)}: {counted(found.rows, 'row')}{looked}, {counted(found.chunks, 'passage')}",
        f"  to be embedded: {counted(found.texts, 'passage')}, {counted(found.tokens, 'token')}{error}",
        f"  tokens are {MEASURES[found.measure]}",
    ]
    if found.calibration.calls:
        lines.append(f"  spent on that: {counted(found.calibration.tokens, 'token')}")
    if usd_per_million is not None:
        lines.append(f"  {_dollars(price(found.tokens, usd_per_million))} at ${usd_per_million:g} for a million tokens")
    return lines


def _dollars(amount: float) -> str:
    """Tell an amount by the cent, a small one by the hundredth of it."""
    if 0 < amount < SMALLEST:
        return f"less than ${SMALLEST}"
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4f}"
