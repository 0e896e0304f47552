"""`verify`: whether everything is as it should be, row by row."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Annotated

import typer
from rich.text import Text

from seamark.core.service import Seamark
from seamark.core.tracked import Tracked
from seamark.edges import serialise
from seamark.edges.cli.array import KeptArray
from seamark.edges.cli.progress import Report, progress
from seamark.edges.cli.session import FOUND_A_PROBLEM, Session, command
from seamark.edges.cli.text import counted, line
from seamark.model import Check
from seamark.model.findings import Finding, Findings

LISTED = 20
"""Findings of a source that are listed for people; `--json` has all of them."""


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    command(app, "verify", "seamark verify", "seamark verify notes --repair")(verify)


def verify(
    session: Session,
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", help="Only this one; all otherwise.")] = None,
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended; `work` then indexes anew.")] = False,
) -> int:
    """Compare every row with its journal and with what the indexes hold of it, by content.

    It finds what no trigger saw: rows written while triggers were off, a restored backup, vectors that are lost or damaged.
    Workers and writers may go on meanwhile.

    Exit codes: 0 all is as it should be; 1 something was found, be it mended or not.
    """
    with ExitStack() as kept:
        with session.service() as service, progress(session) as report:
            broken = _checks(service) if source is None else ()
            chosen = service.sources() if source is None else (service.source(source),)
            done = [_verify(tracked, report, kept.enter_context(KeptArray()), session, repair=repair) for tracked in chosen]
        document = {
            "clean": not broken and all(findings.clean for findings, _ in done),
            "problems": [serialise.check(check) for check in broken],
            "sources": [serialise.findings(findings, every) for findings, every in done],
        }
        lines = [
            Text(f"broken: {line(check.name)}: {line(check.detail)}; {line(check.remedy or '')}", "red") for check in broken
        ]
        lines += [rendered for findings, _ in done for rendered in _told(findings, repair=repair)]
        session.show(document, *(lines or ["Nothing is attached yet. Next: seamark attach TABLE --text COLUMN"]))
    return 0 if document["clean"] else FOUND_A_PROBLEM


def _checks(service: Seamark) -> tuple[Check, ...]:
    """Return what must be well in the database as a whole and is not."""
    return tuple(check for check in service.store.checks() if check.required and not check.ok)


def _verify(
    tracked: Tracked, report: Report, every: KeptArray, session: Session, *, repair: bool
) -> tuple[Findings, KeptArray]:
    def found(finding: Finding) -> None:
        every.append(serialise.finding(finding))

    return tracked.verify(repair=repair, progress=report, found=found if session.as_json else None), every


def _told(findings: Findings, *, repair: bool) -> Iterator[Text]:
    head = f"{line(findings.source)}: {counted(findings.rows, 'row')} compared"
    if findings.clean:
        yield Text.assemble(head, ", ", ("all as they should be", "green"))
        return
    yield Text.assemble(head, ", ", (counted(findings.total, "finding"), "red"))
    for problem in findings.problems:
        yield Text(f"  broken: {line(problem)}", "red")
    for (reason, generation), rows in sorted(findings.counts.items(), key=lambda one: (one[0][0], one[0][1] or 0)):
        where = "journal" if generation is None else f"index {generation}"
        yield Text(f"  {where}: {counted(rows, 'row')} {reason}")
    for finding in findings.findings[:LISTED]:
        yield Text(f"    {line(str(serialise.key(finding.key)))} {finding.reason}")
    if findings.total > LISTED:
        yield Text("    … (--json lists all)")
    for mended in findings.mended:
        yield Text(f"  mended: {line(mended)}", "green")
    for problem in findings.unmended:
        yield Text(f"  cannot be mended here: {line(problem)}; detach it, then attach it again", "red")
    if repair and not findings.unmended:
        yield Text(f"  {counted(findings.repaired, 'row')} to be indexed anew. Next: seamark work")
    elif not repair and (findings.total or set(findings.problems) - set(findings.unmended)):
        yield Text(f"  Next: seamark verify {line(findings.source)} --repair")
