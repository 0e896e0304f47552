"""Several worker processes: started, watched, and stopped together."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Literal, cast

from seamark.core.service import Seamark, StopSignal
from seamark.edges import report
from seamark.edges.cli.progress import Report
from seamark.edges.cli.session import Session
from seamark.edges.cli.text import line

POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Done:
    """What a crew came to: rows settled, and processes that ended otherwise than they should."""

    settled: int
    died: int


@dataclass(frozen=True, slots=True)
class _Member:
    """A process. It hands its work back at the end of its input, so that nothing that ends this process leaves it alone."""

    process: subprocess.Popen[bytes]
    input: IO[bytes]
    out: IO[bytes]
    err: IO[bytes]


class Crew:
    """Worker processes over one database."""

    def __init__(
        self, session: Session, until: Literal["current"] | None, count: int, budget_tokens: int | None = None
    ) -> None:
        self._session = session
        self._command = [sys.executable, "-P", "-m", "seamark", "work", "--json", "--lifeline"]
        self._command += ["--until", until] if until else []
        # Each may spend its share: to agree on more would take a look at the database for each call.
        self._command += ["--budget-tokens", str(budget_tokens // count)] if budget_tokens is not None else []
        # The URL may hold a password, and other users can read a command line.
        self._environment = {**os.environ, **({"SEAMARK_DB": session.url} if session.url else {})}
        self._count = count

    def run(self, service: Seamark, progress: Report, stop: StopSignal) -> Done:
        """Run the processes until they have all ended; when `stop` is set, tell them to hand their work back."""
        rows = report.Report(service, progress)
        with ExitStack() as stack:
            members = [self._start(stack) for _ in range(self._count)]
            for member in members:
                stack.callback(member.input.close)
            told = False
            while any(member.process.poll() is None for member in members):
                if stop.is_set() and not told:
                    told = True
                    for member in members:
                        member.process.send_signal(signal.SIGTERM)
                rows.tell()
                time.sleep(POLL_SECONDS)
            ends = [_end(member, told=told) for member in members]
        for message in sorted({end for end in ends if isinstance(end, str)}):
            self._session.note(f"seamark: {message}")
        rows.tell(last=True)
        return Done(sum(end for end in ends if isinstance(end, int)), sum(isinstance(end, str) for end in ends))

    def _start(self, stack: ExitStack) -> _Member:
        """Start a process in a session of its own: Ctrl-C reaches it through this one only, and only once."""
        out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))  # noqa: SIM115 the stack closes it
        process = stack.enter_context(
            subprocess.Popen(  # noqa: S603 our own program
                self._command, env=self._environment, stdin=subprocess.PIPE, stdout=out, stderr=err, start_new_session=True
            )
        )
        assert process.stdin is not None
        return _Member(process, process.stdin, out, err)


def _end(member: _Member, *, told: bool) -> int | str:
    """Return how many rows a process that has ended settled, or what went wrong with it; `told` when it was told to stop."""
    member.out.seek(0)
    member.err.seek(0)
    try:
        document = cast("dict[str, object]", json.loads(member.out.read()))
    except ValueError:
        document = {}
    match document:
        case {"settled": int(rows)} if member.process.returncode >= 0:
            return rows
        case {"error": {"message": str(message)}}:
            return message
        case _:
            pass
    code = member.process.returncode
    if told and code == -signal.SIGTERM:  # told before it had begun
        return 0
    ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    said = line(member.err.read().decode("utf-8", "replace").strip().rpartition("\n")[2])
    return f"a worker died ({ended}){': ' if said else ''}{said}"
