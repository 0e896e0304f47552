"""`model list|swap|activate|rollback|retire|drop|accept` and `reembed`: the generations of a table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, cast

import typer
from rich.text import Text

from seamark.core.analysis import Analyzer
from seamark.core.chunking import Chunker
from seamark.core.tracked import Tracked
from seamark.edges import serialise
from seamark.edges.cli.batch import batch_line, waits_line
from seamark.edges.cli.budget import Budget, BudgetTokens, Price, tokens_of
from seamark.edges.cli.estimate import told
from seamark.edges.cli.failures import ListedFirst
from seamark.edges.cli.progress import duration, progress
from seamark.edges.cli.session import FOUND_A_PROBLEM, INTERRUPTED, SIGNALLED, Session, command
from seamark.edges.cli.sources import Language, Model, Precision
from seamark.edges.cli.status import counts, spent_line
from seamark.edges.cli.text import counted, line
from seamark.edges.cli.work import stop_on_signals
from seamark.edges.reembed import Reembed
from seamark.model import Activated, Generation, GenerationKind, GenerationListing, SwapPlan
from seamark.model import precision as stored_precision
from seamark.model.cost import BATCH_ENDED, Estimate, ProviderBatch

Table = Annotated[str, typer.Argument(metavar="TABLE", help="What was attached.")]
Number = Annotated[int, typer.Argument(metavar="GENERATION", help="Its number; `seamark model list` has them.")]
Chunk = Annotated[
    int | None, typer.Option(metavar="N", help="Characters in a passage; as it is otherwise.", show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, on a terminal.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    group = typer.Typer(cls=ListedFirst, help="Show the models that a table is indexed by, and put others in their place.")
    command(group, "list", "seamark model list notes", "seamark model list --json")(model_list)
    command(
        group,
        "swap",
        "seamark model swap notes --model openai:text-embedding-3-large",
        "seamark model swap notes --chunk 500 --manual",
    )(swap)
    command(group, "activate", "seamark model activate notes", "seamark model activate notes 3 --force")(activate)
    command(group, "rollback", "seamark model rollback notes")(rollback)
    command(group, "retire", "seamark model retire notes 3")(retire)
    command(group, "drop", "seamark model drop notes 2")(drop)
    command(group, "accept", "seamark model accept notes 2")(accept)
    app.add_typer(group, name="model")
    command(
        app,
        "reembed",
        "seamark reembed notes --model openai:text-embedding-3-large",
        "seamark reembed notes --model static --dry-run",
    )(reembed)


def model_list(
    session: Session,
    table: Annotated[str | None, typer.Argument(metavar="TABLE", help="Only this one; all otherwise.")] = None,
) -> None:
    """Show every index of a table: its model, state, coverage, size on disk, age and what it cost, retired ones included."""
    with session.service() as service:
        chosen = service.sources() if table is None else (service.source(table),)
        found = [(tracked.name, tracked.generations()) for tracked in chosen]
    document = {"sources": [{"source": name, "generations": list(map(serialise.listing, listed))} for name, listed in found]}
    session.show(document, *(rendered for name, listed in found for rendered in _listed(name, listed)))


def swap(
    session: Session,
    table: Table,
    *,
    model: Model = None,
    chunk: Chunk = None,
    language: Language = None,
    precision: Precision = None,
    manual: Annotated[bool, typer.Option("--manual", help="Leave it to `model activate` to have it searched.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take.")] = False,
    price: Price = None,
    batch_api: Annotated[
        bool, typer.Option("--batch-api", help="Through the provider's batch interface: within a day, for less; see `batch`.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Index a table by another model, chunk size or language, beside the index that is searched.

    Workers fill it while search goes on, and put it in the place of the old one when nothing would be missing. Done again it
    goes on where it was.
    """
    with session.service() as service:
        tracked = service.source(table)
        plan = tracked.swap_plan(model, chunk, language, precision)
        if batch_api:
            tracked.batch_check(model, chunk, language, precision)
        cost = _estimated(tracked, plan, model, chunk, precision, calibrate=price is not None)
        _told(session, tracked, plan, cost, price)
        made: tuple[Generation, ...] = ()
        withdrawn: list[ProviderBatch] = []
        if plan.steps and not dry_run:
            _confirm(session, f"Index {line(table)} so?", yes=yes)
            ended = _ended(tracked)
            made = tracked.swap(model, chunk, language, precision, manual=manual)
            withdrawn = _withdrawn(tracked, ended)
        batch = tracked.batch() if batch_api and made else None
    begun = ", ".join(_named(one) for one in made)
    session.show(
        {
            "source": table,
            "plan": serialise.swap_plan(plan),
            "estimate": None if cost is None else serialise.estimate(cost, price),
            "generations": [serialise.generation(one) for one in made],
            "batch": None if batch is None else serialise.batch(batch),
            "withdrawn": [serialise.batch(one) for one in withdrawn],
        },
        f"{line(table)}: {begun} is being built. Next: seamark {'batch' if batch else 'work'}"
        if made
        else f"{line(table)}: nothing was begun",
        *map(batch_line, withdrawn),
    )


def reembed(
    session: Session,
    table: Table,
    *,
    model: Model = None,
    chunk: Chunk = None,
    language: Language = None,
    precision: Precision = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take.")] = False,
    budget: Budget = None,
    price: Price = None,
    budget_tokens: BudgetTokens = None,
    yes: Yes = False,
) -> int:
    """Index a table by another model and have it searched: `model swap`, and a worker here until that is active.

    Killed, and run again, it goes on where it was. Other workers help.

    Exit codes: 0 it is active; 1 rows failed, so that it is not (see `seamark failures`, `seamark model activate --force`);
    or the budget does not suffice; 130 Ctrl-C; 143 SIGTERM.
    """
    tokens = tokens_of(budget, price, budget_tokens)
    with session.service() as service, stop_on_signals() as stop:
        tracked = service.source(table)
        plan = tracked.swap_plan(model, chunk, language, precision)
        cost = _estimated(tracked, plan, model, chunk, precision, calibrate=price is not None)
        _told(session, tracked, plan, cost, price)
        made: tuple[Generation, ...] = ()
        withdrawn: list[ProviderBatch] = []
        failed = 0
        if plan.steps and not dry_run:
            _confirm(session, f"Index {line(table)} so?", yes=yes)
            ended = _ended(tracked)
            made = tracked.swap(model, chunk, language, precision)
            withdrawn = _withdrawn(tracked, ended)
            with progress(session, otherwise="json") as report:
                failed = Reembed(service, tracked, made, report, stop, tokens).run()
        numbers = {one.id for one in made}
        now = [one.generation for one in tracked.generations() if one.generation.id in numbers]
    active = bool(now) and all(one.state == "active" for one in now)
    said = "it is searched now" if active else f"not searched yet, {failed:,} rows failed" if made else "nothing was begun"
    session.show(
        {
            "source": table,
            "plan": serialise.swap_plan(plan),
            "estimate": None if cost is None else serialise.estimate(cost, price),
            "generations": [serialise.generation(one) for one in now],
            "active": active,
            "failed": failed,
            "stopped": stop.signal,
            "withdrawn": [serialise.batch(one) for one in withdrawn],
        },
        f"{line(table)}: {said}",
        *map(batch_line, withdrawn),
    )
    if stop.signal is not None:
        return INTERRUPTED if stop.signal == "SIGINT" else SIGNALLED + (stop.number or 0)
    return 0 if active or not made else FOUND_A_PROBLEM


def activate(
    session: Session,
    table: Table,
    generation: Annotated[
        int | None, typer.Argument(metavar="GENERATION", help="Its number; the only one being built otherwise.")
    ] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Also when rows would be missing from search.")] = False,
) -> None:
    """Have another index searched from now on, in one step, and retire the one that was.

    Rows would be missing: it says how many, and does it with `--force` only. What an earlier swap has begun is left to
    `model activate` from then on.
    """
    with session.service() as service:
        done = service.source(table).activate(generation, force=force)
    _searched(session, table, done, "is searched now")


def rollback(
    session: Session,
    table: Table,
    *,
    kind: Annotated[GenerationKind, typer.Option(help="Which index: of meaning or of words.")] = "vector",
) -> None:
    """Go back, at once, to the index that was searched before; what has changed since is caught up by the workers.

    Done again it goes back one further, never forward; `model activate` goes forward.
    """
    with session.service() as service:
        done = service.source(table).rollback(kind)
    _searched(session, table, done, "is searched again")


def retire(
    session: Session,
    table: Table,
    generation: Number,
    *,
    force: Annotated[bool, typer.Option("--force", help="Also the one that is searched: search is left without it.")] = False,
) -> None:
    """Stop work on an index; what it holds is kept, for `model activate` or a swap to the same model."""
    with session.service() as service:
        tracked = service.source(table)
        ended = _ended(tracked)
        changed = tracked.retire(generation, force=force)
        withdrawn = [one for one in _withdrawn(tracked, ended) if one.generation_id == generation]
    session.show(
        {
            "source": table,
            "generation": serialise.generation(changed),
            "batches": [serialise.batch(one) for one in withdrawn],
        },
        f"{line(table)}: {_named(changed)} is retired",
        *map(batch_line, withdrawn),
    )


def drop(session: Session, table: Table, generation: Number, *, yes: Yes = False) -> None:
    """Drop an index with its vectors; never the one that is searched."""
    with session.service() as service:
        tracked = service.source(table)
        held = next((one for one in tracked.generations() if one.generation.id == generation), None)
        if held is not None:
            rows = counted(held.coverage.embedded, "row")
            _confirm(session, f"Drop generation {generation} of {line(table)}, with the vectors of {rows}?", yes=yes)
        withdrawn = tracked.drop(generation)
    session.show(
        {"source": table, "dropped": generation, "batches": [serialise.batch(one) for one in withdrawn]},
        f"{line(table)}: generation {generation} is dropped",
        *map(batch_line, withdrawn),
    )


def accept(session: Session, table: Table, generation: Number) -> None:
    """Go on with a model that is not what it was (`model_drift`): what it is now is what it is compared with from now on."""
    with session.service() as service:
        tracked = service.source(table)
        tracked.accept(generation)
        [now] = [one.generation for one in tracked.generations() if one.generation.id == generation]
    session.show({"source": table, "generation": serialise.generation(now)}, f"{line(table)}: {_named(now)} goes on")


def _searched(session: Session, table: str, done: Activated, said: str) -> None:
    missing, failed = counted(done.missing, "row"), counted(done.failed, "row")
    lacks = [f"{missing} yet to be indexed in it by `seamark work`"] if done.missing else []
    lacks += [f"{failed} failed in it, see `seamark failures`"] if done.failed else []
    session.show(
        {"source": table, **serialise.activated(done)},
        "; ".join([f"{line(table)}: {_named(done.generation)} {said}", *lacks]),
        *(f"  generation {one}, begun earlier, is left to `seamark model activate`" for one in done.precedes),
    )


def _ended(tracked: Tracked) -> set[int]:
    return {one.id for one in tracked.batches() if one.state in BATCH_ENDED}


def _withdrawn(tracked: Tracked, before: set[int]) -> list[ProviderBatch]:
    """Return the batches of retired indexes that have ended since."""
    retired = {one.generation.id for one in tracked.generations() if one.generation.state == "retired"}
    return [
        one for one in tracked.batches() if one.state in BATCH_ENDED and one.id not in before and one.generation_id in retired
    ]


def _confirm(session: Session, question: str, *, yes: bool) -> None:
    if session.err.is_terminal and not yes and not session.as_json:
        typer.confirm(question, abort=True, err=True)


def _estimated(
    tracked: Tracked, plan: SwapPlan, model: str | None, chunk: int | None, precision: str | None, *, calibrate: bool
) -> Estimate | None:
    """Return what a swap costs; None where no model is called. Only one who asks for money has its provider asked for it."""
    if all(step.model is None for step in plan.steps):
        return None
    return tracked.estimate(model, chunk, precision, calibrate=calibrate)


def _told(session: Session, tracked: Tracked, plan: SwapPlan, cost: Estimate | None, price: float | None) -> None:
    """Say what a swap takes before anything is spent."""
    if session.as_json:
        return
    if not plan.steps:
        session.note(f"{tracked.name}: it is indexed so already")
    for step in plan.steps:
        model = "words" if step.model is None else f"{step.model.name}@{step.model.version}, {step.model.dimension} dimensions"
        kept = f", of which generation {step.generation} holds {step.held:,}" if step.generation is not None else ""
        session.note(f"{tracked.name}: {counted(plan.rows, 'row')} to be indexed by {model}{kept}")
    for said in told(tracked.name, cost, price) if cost is not None else ():
        session.note(said)


def _named(generation: Generation) -> str:
    model = "words" if generation.model is None else f"{generation.model.name}@{generation.model.version}"
    return f"generation {generation.id} ({line(model)})"


def _listed(name: str, listed: tuple[GenerationListing, ...]) -> Iterator[Text]:
    yield Text(line(name), "bold")
    told = [_told_index(one.generation) for one in listed]
    for one, index in zip(listed, told, strict=True):
        others = [other.generation for other, same in zip(listed, told, strict=True) if same == index]
        differs = "".join(f", {said}" for said in differing(one.generation, others))
        generation = one.generation
        colour = {"active": "green", "building": "yellow", "retired": "dim"}[generation.state]
        manual = ", activated when asked for" if generation.manual and generation.state == "building" else ""
        yield Text.assemble(
            f"  {generation.id} {generation.kind} ", (generation.state, colour), f"  {line(index + differs)}{manual}"
        )
        yield Text.assemble("    ", *counts(one.coverage), f"  {size(one.bytes)}, {duration(one.age_seconds)} old")
        if one.spent.calls:
            yield Text(f"    {spent_line(one.spent)}")
        if one.batch is not None:
            yield Text(f"    {waits_line(one.batch)}", "yellow")
        if generation.drift is not None:
            yield Text(f"    model_drift: {line(generation.drift)}", "red")


def _told_index(generation: Generation) -> str:
    """Say what an index is made by, as far as it is for the user to choose."""
    model = generation.model
    if model is None:
        return f"words (BM25), language {Analyzer.like(generation.identity).language}"
    passages = f"passages of {Chunker.like(generation.identity).characters:,} characters"
    prefixes = f", prefixes {model.document_prefix!r} and {model.query_prefix!r}"
    return (
        f"{model.name}@{model.version}, {model.dimension} dimensions, {stored_precision(generation.identity)}, {passages}"
        f"{prefixes if model.document_prefix or model.query_prefix else ''}"
    )


def differing(generation: Generation, others: Sequence[Generation]) -> list[str]:
    """Return the words of an index's identity that are not the same in all of the others, which read alike otherwise."""
    own, all_ = _words(generation.identity), [_words(other.identity) for other in others]
    return [f"{name} {value!r}" for name, value in own.items() if any(other.get(name) != value for other in all_)]


def _words(identity: Mapping[str, object], before: str = "") -> dict[str, object]:
    found = dict[str, object]()
    for name, value in identity.items():
        if isinstance(value, dict):
            found |= _words(cast("dict[str, object]", value), f"{before}{name}.")
        else:
            found[before + name] = value
    return found


def size(count: int) -> str:
    """Return a number of bytes in a unit that suits it."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:  # noqa: PLR2004 the step of these units
            return f"{amount:,.0f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} GiB"
