"""`--budget`, `--price` and `--budget-tokens`: what may be spent, for the commands that work."""

import math
from typing import Annotated, Any

import typer

from seamark.errors import InvalidRequestError

TOKENS_MAX = 2**63 - 1
"""More than anybody is billed, and a number that databases hold."""


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no sum of money: give a number, 0 or more")
    return value


def _money(told: str) -> Any:
    return typer.Option(metavar="USD", min=0, callback=_finite, help=told, show_default=False)


Budget = Annotated[float | None, _money("End before more than so many US dollars are spent; with --price.")]
Price = Annotated[float | None, _money("US dollars for a million tokens of the model.")]
BudgetTokens = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="End before more tokens than that are billed.", show_default=False)
]


def tokens_of(budget: float | None, price: float | None, tokens: int | None) -> int | None:
    """Return the budget in tokens, None where there is none."""
    if budget is None:
        return tokens
    if not price:
        raise InvalidRequestError(
            "--budget is in US dollars: say with --price what a million tokens cost, or use --budget-tokens"
        )
    bought = int(min(budget * 1e6 / price, TOKENS_MAX))
    return bought if tokens is None else min(bought, tokens)
