"""`batch`: a backfill through the provider's batch interface."""

import uuid
from typing import Annotated

import typer

from seamark.core import budget as core_budget
from seamark.edges import serialise
from seamark.edges.cli.budget import Budget, BudgetTokens, Price, tokens_of
from seamark.edges.cli.session import FOUND_A_PROBLEM, INTERRUPTED, SIGNALLED, Session, command
from seamark.edges.cli.text import counted, line
from seamark.edges.cli.work import stop_on_signals
from seamark.errors import BudgetSpentError, InvalidRequestError
from seamark.model.cost import BATCH_ENDED, ProviderBatch

POLL_SECONDS = 30.0


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(app, "batch", "seamark batch notes", "seamark batch notes --no-wait")(batch)


def batch(
    session: Session,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What was attached.")],
    *,
    wait: Annotated[bool, typer.Option(help="Wait for the provider here; workers look after it as well.")] = True,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How often the provider is asked.")] = POLL_SECONDS,
    budget: Budget = None,
    price: Price = None,
    budget_tokens: BudgetTokens = None,
) -> int:
    """Have a new index embedded through the provider's batch interface: half the price at OpenAI, within a day.

    Search, and rows that are written meanwhile, go on as ever; the rows that were there wait for the provider. Interrupted, and
    run again, it goes on where it was, and nothing is sent twice. Next: `seamark work`, which calls the model for what is left.

    With a budget, a batch that would cost more than is left is given up before it is sent. --price is that of an ordinary call,
    and a batch costs half.

    Exit codes: 0 all is answered; 1 a batch failed, or the budget does not suffice, and the rest is left to `work`; 130 Ctrl-C;
    143 SIGTERM.
    """
    tokens = tokens_of(budget, price, budget_tokens)
    if tokens is not None and not wait:
        raise InvalidRequestError("a budget is held by who sends: wait for the batch, or give the budget to `work`")
    limit = None if tokens is None else core_budget.Budget(tokens)
    owner = f"batch:{uuid.uuid4().hex[:8]}"
    with session.service() as service, stop_on_signals() as stop:
        tracked = service.source(source)
        begun = {tracked.batch().id}
        while not stop.is_set():
            try:
                service.batches_advance(owner, limit, only=source)
            except BudgetSpentError:
                tracked.batch_withdraw(planned=True)  # workers without a budget would send it
                raise
            known = tracked.batches()
            begun |= {one.id for one in known if one.state not in BATCH_ENDED}
            if not wait or all(one.state in BATCH_ENDED for one in known):
                break
            stop.wait(every)
        found = [one for one in tracked.batches() if one.id in begun]
    session.show({"source": source, "batches": [serialise.batch(one) for one in found]}, *map(batch_line, found))
    if stop.number is not None:
        return INTERRUPTED if stop.signal == "SIGINT" else SIGNALLED + stop.number
    return FOUND_A_PROBLEM if any(one.state == "failed" for one in found) else 0


def batch_line(one: ProviderBatch) -> str:
    """Return how a batch stands as one line."""
    answered = f", {one.answered:,} answered" if one.state in BATCH_ENDED else ""
    error = f": {line(one.error)}" if one.error else ""
    there = f" ({line(one.provider_id)})" if one.provider_id else ""
    return f"batch {one.id}{there}: {one.state}, {counted(one.requests, 'passage')}{answered}{error}"


def waits_line(one: ProviderBatch) -> str:
    """Say that a backfill waits for a batch."""
    return f"the backfill waits for {batch_line(one)}, since {serialise.time(one.created_at)}"
