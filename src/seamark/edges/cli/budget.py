"""`--budget`, `--price` and `--budget-tokens`: what may be spent, for the commands that work."""

from typing import Annotated

import typer

from seamark.errors import InvalidRequestError

Budget = Annotated[
    float | None,
    typer.Option(
        metavar="USD", min=0, help="End before more than so many US dollars are spent; with --price.", show_default=False
    ),
]
Price = Annotated[
    float | None,
    typer.Option(metavar="USD", min=0, help="US dollars for a million tokens of the model.", show_default=False),
]
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
    bought = int(budget * 1e6 / price)
    return bought if tokens is None else min(bought, tokens)
