"""Cells: one form of a command, one fault in one stage, one way to be stopped; run, and judged.

The judge knows the contract of the command line and what the server sent. It does not know how a client works.
"""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from certificates import NAME, authority_file, certificate
from damage import Damage, Expect
from forms import FORMS, Form, Left
from http_faults import http_faults
from link_faults import link_faults
from message_faults import message_faults
from places import Place
from processes import WARNINGS, environment
from stage_server import ORDER, Stage, StageServer

from lmcli.client.discovery import candidate_ports, greetings

DAMAGES: Final = (*http_faults(), *link_faults(), *message_faults())
LIMIT: Final = 25.0
"""Seconds after which a process hangs: no wait of `lm` without an end by itself is longer, and most end at once."""
PROMPTLY: Final = 10.0
"""Seconds after which a process has not obeyed a signal, which leaves it one second for its goodbye."""
_TIMEOUTS: Final = ("0.5", "5")
"""Seconds of silence that end a client; the second, if a busy machine did not come to the fault within the first."""
_UNREACHED_FAULT: Final = "the fault was not reached"
_TICK: Final = 0.02


class Stop(Enum):
    """What ends a client that waits."""

    NONE = 0
    TIMEOUT = -1
    SIGINT = signal.SIGINT
    SIGTERM = signal.SIGTERM
    SIGHUP = signal.SIGHUP


_SIGNALS: Final = (Stop.SIGINT, Stop.SIGTERM, Stop.SIGHUP)


class Cell(NamedTuple):
    """One run."""

    stage: Stage
    damage: Damage
    form: Form
    stop: Stop

    def __str__(self) -> str:
        return f"{self.stage} / {self.damage.group}, {self.damage.name} / {self.form.name} / {self.stop.name.lower()}"


class Verdict(NamedTuple):
    """What came of a cell.

    Attributes:
        cell: the cell.
        problems: what must not be, a sentence each.
        status: as Popen has it.
        seconds: how long the process ran.
        obeyed: seconds from the signal to the end, if there was a signal.
        peak_kib: its largest resident memory.
        stderr: what it wrote there.
    """

    cell: Cell
    problems: Sequence[str]
    status: int
    seconds: float
    obeyed: float
    peak_kib: int
    stderr: str


def all_cells() -> list[Cell]:
    """Every cell of the matrix, in the order of the tables."""
    return [
        Cell(stage, damage, form, stop)
        for form in FORMS
        for damage in DAMAGES
        for stage in ORDER
        if stage in form.stages & damage.stages and meets(form, damage, stage) and is_possible(stage, damage, form)
        for stop in stops(damage, form, stage)
    ]


def meets(form: Form, damage: Damage, stage: Stage) -> bool:
    """Whether a form meets a fault: the main forms meet all but the fields, which are for those that show them."""
    return stage in form.shows if damage.is_field else form.is_main or damage.is_common


def is_possible(stage: Stage, damage: Damage, form: Form) -> bool:
    """Whether a pair of stage and form has a meaning: in the clear there is no TLS, and a probe needs free ports."""
    if damage.needs_linux and sys.platform != "linux":
        return False
    if stage is Stage.PROBE:
        return not _is_studio_here()
    return stage is not Stage.CONNECT or damage.place is None or not form.is_secure


def stops(damage: Damage, form: Form, stage: Stage) -> Sequence[Stop]:
    """How the cells of a pair are stopped: where the client waits, by its timeout and by signals."""
    signals = _SIGNALS[:1] if form.is_program else _SIGNALS
    one = signals[zlib.crc32(f"{damage.name}{form.name}{stage}".encode()) % len(signals)]
    if damage.is_noisy:
        return [one]
    if damage.expect is Expect.WAIT:
        return [*(signals if form.is_main else [one]), Stop.TIMEOUT]
    return [Stop.TIMEOUT if damage.expect is Expect.FREE else Stop.NONE]


@cache
def _is_studio_here() -> bool:
    return bool(greetings(candidate_ports({})))


def sample(cells: Sequence[Cell], share: float, seed: int) -> list[Cell]:
    """A share of the cells, the same for a seed."""
    return random.Random(seed).sample(cells, max(1, round(len(cells) * share)))


def run(cell: Cell) -> Verdict:
    """Run one cell."""
    quick, patient = _TIMEOUTS
    verdict = _run(cell, quick)
    is_early = _UNREACHED_FAULT in verdict.problems and verdict.status == TRY_AGAIN
    return _run(cell, patient) if is_early else verdict


def _run(cell: Cell, timeout: str) -> Verdict:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, data in cell.form.files.items():
            (folder / file).write_bytes(data)
        is_secure = cell.form.is_secure or cell.stage is Stage.TLS
        context = certificate() if is_secure else None
        with ExitStack() as stack:  # a verdict is on what the server has done, so it is over by then
            server = stack.enter_context(StageServer(cell.stage, cell.damage.run, answer=cell.form.answer, tls=context))
            place = _place(cell, server, folder, stack, is_secure=is_secure)
            variables = environment(folder, place.host, **place.variables)
            if cell.stop is Stop.TIMEOUT:
                variables["LM_TIMEOUT"] = timeout
            process = _Process(cell.form, folder, variables)
            status = process.wait(place, cell.stop)
        left = Left(status, process.stdout(), process.stderr(), folder, server, cell.form.is_program and status < 0)
        problems = [*process.problems, *_judge(cell, left, is_stopped=process.is_stopped)]
    return Verdict(cell, problems, status, process.seconds, process.obeyed, process.peak_kib, left.stderr)


def _place(cell: Cell, server: StageServer, folder: Path, stack: ExitStack, *, is_secure: bool) -> Place:
    if cell.damage.place is not None:
        return stack.enter_context(cell.damage.place(folder))
    holds = server.holds.is_set
    if cell.stage is Stage.PROBE:
        settings = folder / ".lmstudio" / ".internal"
        settings.mkdir(parents=True)
        (settings / "http-server.json").write_text(f'{{"port": {server.port}}}')
        return Place("", {}, holds)
    if is_secure:
        warnings = f"{WARNINGS['PYTHONWARNINGS']},{_UNREACHABLE}"
        variables = {"SSL_CERT_FILE": str(authority_file()), "PYTHONWARNINGS": warnings}
        return Place(f"https://{NAME}:{server.port}", variables, holds)
    return Place(f"127.0.0.1:{server.port}", {}, holds)


class _Process:
    """A process whose streams are files."""

    def __init__(self, form: Form, folder: Path, variables: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self.is_stopped = False
        self._stopped = 0.0
        self.peak_kib = 0
        self._stdout = folder / ".stdout"
        self._stderr = folder / ".stderr"
        self._stdin = folder / ".stdin"
        self._stdin.write_bytes(form.stdin or b"")
        self._began = time.monotonic()
        with self._stdin.open("rb") as stdin, self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                form.command,
                cwd=folder,
                env=variables,
                stdin=subprocess.DEVNULL if form.stdin is None else stdin,
                stdout=stdout,
                stderr=stderr,
            )

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self._ended - self._began

    @property
    def obeyed(self) -> float:
        """Seconds from the signal to the end."""
        return self._ended - self._stopped if self.is_stopped else 0.0

    def stdout(self) -> bytes:
        """What it wrote there."""
        return self._stdout.read_bytes()

    def stderr(self) -> str:
        """What it wrote there."""
        return self._stderr.read_bytes().decode(errors="replace")

    def wait(self, place: Place, stop: Stop) -> int:
        """Wait for the end; send the signal as soon as the client waits. A process that hangs is killed."""
        until = self._began + LIMIT
        while (status := self._poll()) is None:
            if stop in _SIGNALS and not self.is_stopped and place.holds():
                os.kill(self._process.pid, stop.value)  # Popen would look first whether it has ended, and reap it
                self.is_stopped, self._stopped = True, time.monotonic()
                until = min(until, self._stopped + PROMPTLY)
            if time.monotonic() > until:
                self.problems.append("it did not obey the signal" if self.is_stopped else "it hangs")
                os.kill(self._process.pid, signal.SIGKILL)
                until = time.monotonic() + LIMIT
            time.sleep(_TICK)
        return status

    def _poll(self) -> int | None:
        process, status, usage = os.wait4(self._process.pid, os.WNOHANG)
        if process == 0:
            return None
        self._ended = time.monotonic()
        self.peak_kib = usage.ru_maxrss
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return self._process.returncode


_UNREACHABLE: Final = "ignore:unclosed <ssl.SSLSocket:ResourceWarning"
"""A socket that is reset before its handshake is left by Python's ssl module to the garbage collector."""
TRY_AGAIN: Final = 75
_UNREACHED: Final = {69}
_FAILED: Final = {1, 3, 69}
STATUSES: Final[Mapping[Stage, set[int]]] = {
    Stage.RESOLVE: _UNREACHED | {78},
    Stage.PROBE: _UNREACHED,
    Stage.CONNECT: _UNREACHED,
    Stage.TLS: _UNREACHED,
    Stage.UPGRADE: _UNREACHED | {77},
    Stage.GREETING: _UNREACHED | {77},
    Stage.MODEL: _FAILED,
    Stage.UPLOAD: _FAILED,
    Stage.PROMPT: _FAILED,
    Stage.FIRST: _FAILED,
    Stage.MIDDLE: {1, 3},
    Stage.SUCCESS: {1, 3},
    Stage.CLOSE: {0, 1, 3},
}
"""The statuses of a failure, by the stage: the server unreachable, a refusal, a failure that it reports, a loss. After
`success` the answer is complete, so that what goes wrong then may be passed over."""
_NEED_HINTS: Final = {69, TRY_AGAIN, 77}
_CONTROLS: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def _statuses(cell: Cell, left: Left, *, is_stopped: bool) -> set[int]:
    """The statuses that this cell may end with."""
    if cell.damage.expect is Expect.COMPLETE:
        return {0}
    if cell.form.is_program and cell.damage.group == "enums":
        return STATUSES[cell.stage] | {0}  # the program gets the stop reason, and judges by itself
    failures = STATUSES[cell.stage] | ({69} if cell.damage.group == "errors" else set())
    if cell.damage.expect is Expect.ERROR:
        return failures
    waited = {-cell.stop.value} if is_stopped else {TRY_AGAIN} if cell.stop is Stop.TIMEOUT else set()
    if cell.damage.expect is Expect.WAIT:
        return waited | ({0} if cell.stage is Stage.CLOSE else set())
    is_other = left.server.text != "".join(cell.form.answer)
    return waited | failures | {0} | ({4} if is_other else set())


def _judge(cell: Cell, left: Left, *, is_stopped: bool) -> Iterator[str]:
    """What is wrong with what a run has left behind."""
    if cell.damage.place is None and left.server.before is None:
        yield _UNREACHED_FAULT
    if left.status not in (allowed := _statuses(cell, left, is_stopped=is_stopped)):
        yield f"status {left.status}, not {' or '.join(map(str, sorted(allowed)))}"
    if left.status == 0 and cell.form.last not in left.server.delivered:
        yield "status 0, but the server has not sent a result"
    yield from _judge_stderr(cell, left)
    try:
        yield from cell.form.check(left)
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # no JSON, or of another shape
        yield f"stdout or a file cannot be read: {error!r}"


def _judge_stderr(cell: Cell, left: Left) -> Iterator[str]:
    lines = left.stderr.split("\n")[:-1]
    if "Traceback" in left.stderr or left.status == 70:
        yield "a traceback"
    errors = [line for line in lines if line.startswith("lm: error: ")]
    has_progress = "--progress" in cell.form.command
    spoken = [line for line in lines if line.startswith("lm: ")]
    # What is noisy and wrong may be reported at the very moment of the signal.
    may_be_both = left.status < 0 and cell.damage.is_noisy
    is_told = bool(errors) if cell.form.is_batch else len(errors) == 1
    if is_told != (left.status > 0) and not may_be_both:
        yield f"{len(errors)} lines of error with status {left.status}"
    is_silent = not (has_progress or may_be_both or cell.form.is_batch)
    if left.status < 0 and spoken and is_silent:
        yield "a word on stderr after a signal"
    if not has_progress and _CONTROLS.search(left.stderr):
        yield "a control character on stderr"
    if any(len(line) > 1000 for line in lines) and "--verbose" not in cell.form.command:
        yield "a line on stderr without end"
    if (
        left.status in _NEED_HINTS
        and not cell.form.is_program
        and not any(line.startswith("lm: hint: ") for line in lines)
    ):
        yield "no hint"
