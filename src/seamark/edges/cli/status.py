"""`status`: how every source and each of its generations stands."""

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.text import Text

from seamark.core.catalog import columns_write
from seamark.core.service import UNSEARCHED
from seamark.edges import serialise
from seamark.edges.cli.batch import batch_line, waits_line
from seamark.edges.cli.progress import duration
from seamark.edges.cli.session import Session, command
from seamark.edges.cli.text import counted, line, shortened
from seamark.errors import MEND, UnknownSourceError
from seamark.model import Audited, Coverage, Failure, GenerationStatus, SourceStatus
from seamark.model.cost import Spent

ERROR_CHARACTERS = 200


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(app, "status", "seamark status", "seamark status notes --json")(status)


def status(
    session: Session,
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", help="Only this one; all otherwise.")] = None,
) -> None:
    """Show what is embedded and what is not: exact counts, for every source and each of its indexes."""
    with session.service() as service:
        found = service.status()
    if source is not None:
        known = tuple(each.source.name for each in found)
        found = tuple(each for each in found if each.source.name == source)
        if not found:
            raise UnknownSourceError(source, known)
    document = {"sources": [serialise.source_status(each) for each in found]}
    lines = [rendered for each in found for rendered in _source(each)]
    session.show(document, *(lines or ["Nothing is attached yet. Next: seamark attach TABLE --text COLUMN"]))


def _source(status: SourceStatus) -> Iterator[Text]:
    spec = status.source.spec
    columns = ", ".join(columns_write(spec.text))
    state = " (not attached to the end: if nobody is at it, run the same attach again)" if status.unfinished else ""
    yield Text.assemble((line(status.source.name), "bold"), f"  text {line(columns)}{state}")
    if status.source.spec.track == "poll":
        edits = "by verify only" if status.edits_seconds is None else f"within {duration(status.edits_seconds)}"
        yield Text(f"  track: poll; edits and deletes found {edits}")
    for problem in status.problems:
        yield Text(f"  broken: {shortened(problem, ERROR_CHARACTERS)}; {MEND.format(line(status.source.name))}", "red")
    if status.unsearched:
        yield Text(f"  all of its vector indexes are retired: {UNSEARCHED.format(line(status.source.name))}", "yellow")
    for generation in status.generations:
        yield from _generation(generation)


def _generation(status: GenerationStatus) -> Iterator[Text]:
    generation, coverage = status.generation, status.coverage
    model = generation.model
    name = "words (BM25)" if model is None else f"{model.name}@{model.version}, {model.dimension} dimensions"
    colour = "green" if generation.state == "active" else "yellow"
    yield Text.assemble(f"  {generation.id} {generation.kind} ", (generation.state, colour), f"  {line(name)}")
    yield Text.assemble("    ", *counts(coverage))
    pace = [f"{counted(coverage.leases, 'lease')} open" if coverage.leases else ""]
    if coverage.oldest_missing_seconds is not None:
        pace.append(f"oldest missing row {duration(coverage.oldest_missing_seconds)}")
    if status.rows_per_second:
        pace.append(f"{status.rows_per_second:,.0f} rows/s")
    if status.eta_seconds:
        pace.append(f"{duration(status.eta_seconds)} to go")
    if any(pace):
        yield Text("    " + "  ".join(part for part in pace if part))
    if generation.drift is not None:
        yield Text(f"    model_drift: {shortened(generation.drift, ERROR_CHARACTERS)}; see seamark doctor", "red")
    if status.spent.calls:
        yield Text(f"    {spent_line(status.spent)}")
    yield from _waiting(status)
    if status.audit is not None:
        yield Text(f"    {_audit(status.audit)}")
    for failure in status.failures:
        yield Text(f"    failed {failure_line(failure)}", "red")


def _waiting(status: GenerationStatus) -> Iterator[Text]:
    if status.batch is not None:
        yield Text(f"    {waits_line(status.batch)}", "yellow")
    if status.batch_failed is not None:
        yield Text(f"    {batch_line(status.batch_failed)}; the rest is left to `work`", "red")
    if status.generation.backoff_error is not None:
        yield Text(f"    waiting: {shortened(status.generation.backoff_error, ERROR_CHARACTERS)}", "red")


def _audit(audit: Audited) -> str:
    when, rows = serialise.time(audit.audited_at), counted(audit.rows, "row")
    anew = f", {counted(audit.repaired, 'row')} indexed anew" if audit.findings else ""
    return f"audited {when}: {rows}, {counted(audit.findings, 'finding')}{anew}"


def counts(coverage: Coverage) -> Iterator[tuple[str, str]]:
    """Return the pieces of `live = embedded + blank + missing + failed`, those that want attention in colour."""
    yield f"{coverage.live:,} live = {coverage.embedded:,} embedded + {coverage.blank:,} blank + ", ""
    yield f"{coverage.missing:,} missing", "yellow" if coverage.missing else ""
    yield " + ", ""
    yield f"{coverage.failed:,} failed", "red" if coverage.failed else ""
    if coverage.truncated:
        yield f"; {coverage.truncated:,} truncated", "yellow"


def failure_line(failure: Failure) -> str:
    """Return a failure as one line."""
    key = line(str(serialise.key(failure.key)))
    when = "parked" if failure.retry_at is None else f"next try {serialise.time(failure.retry_at)}"
    error = shortened(failure.error, ERROR_CHARACTERS)
    return f"{key}: {failure.kind} error, attempt {failure.attempts}, {when}: {error}"


def spent_line(spent: Spent) -> str:
    """Say what an index has cost."""
    tokens = f", {counted(spent.tokens, 'token')} billed" if spent.tokens else ""
    return f"spent {counted(spent.calls, 'call')}, {counted(spent.texts, 'passage')}{tokens}"
