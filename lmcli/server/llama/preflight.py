"""A first load in a process of its own: on some damage that no header shows, llama.cpp aborts the whole process.

`python -m lmcli.server.llama.preflight FILE [--verbose]` is that process.
"""

import asyncio
import os
import signal
import sys
import threading
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import Final

from lmcli.errors import escaped
from lmcli.server.llama.runtime import EngineFailure, LoadSettings, Runtime

_CANNOT_LOAD: Final = 3
# Python's own status for a traceback: it says nothing about the file.
_NO_TRIAL: Final = 1
# Where this package is imported from, installed or not.
_ROOT: Final = str(Path(__file__).parents[2])
_VERBOSE: Final = "--verbose"
# As small as can be, and without what only makes it faster: the weights are only looked at.
_SMALLEST: Final = LoadSettings(
    context_length=256, sessions=1, gpu_layers=0, threads=None, parameters={"no_extra_bufts": True}
)
# What stands before the reason where a load fails; the lines after it say no more than that it failed.
_REASON: Final = "error loading model: "
_MOST_SAID: Final = 300
# The number in Linux's header file linux/prctl.h.
_PR_SET_PDEATHSIG: Final = 1
_proven: Final[set[tuple[str, int, int]]] = set()


async def preflight(file: Path, cancelled: asyncio.Event, *, is_verbose: bool = False) -> bool:
    """Make sure that a file can be loaded; once for each state of a file. False if the cancel came first.

    Args:
        file: the model.
        cancelled: set when nobody wants to know any more.
        is_verbose: whether llama.cpp may write its log to stderr.

    Raises:
        EngineFailure: llama.cpp cannot load it, or does not survive the attempt.
        OSError: the file is gone.
    """
    state = _state(file)
    if state in _proven:
        return not cancelled.is_set()
    process = await _start(file, is_verbose=is_verbose)
    watch = asyncio.create_task(_end(process, cancelled))
    try:
        said = await process.stderr.read() if process.stderr is not None else b""
        status = await process.wait()
    finally:
        watch.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
    if cancelled.is_set():
        return False
    _judge(status, _last_words(said.decode(errors="replace")))
    _proven.add(state)
    return True


def _state(file: Path) -> tuple[str, int, int]:
    found = file.stat()
    return str(file.absolute()), found.st_size, found.st_mtime_ns


async def _start(file: Path, *, is_verbose: bool) -> Process:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH")))),
        "GGML_NO_BACKTRACE": "1",  # without it, llama.cpp calls a debugger for its last words
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # a module of the folder that one happens to be in is not ours
        "-m",
        "lmcli.server.llama.preflight",
        str(file),
        *([_VERBOSE] if is_verbose else []),
        stdin=PIPE,  # nothing is written: its end says that we are gone
        stdout=DEVNULL,
        stderr=None if is_verbose else PIPE,
        env=environment,
    )


async def _end(process: Process, cancelled: asyncio.Event) -> None:
    await cancelled.wait()
    process.kill()


def _judge(status: int, said: str) -> None:
    because = f": {said}" if said else ""
    if status == _CANNOT_LOAD:
        raise EngineFailure(f"llama.cpp cannot load it{because}")
    if status not in (0, _NO_TRIAL):
        raise EngineFailure(f"the file is damaged: llama.cpp ended with {status} in a trial{because}")


def _last_words(said: str) -> str:
    """The line that says why, else the last one."""
    lines = [line for line in said.splitlines() if line.strip()]
    reasons = [line.partition(_REASON)[2] for line in lines if _REASON in line]
    last = (reasons or lines or [""])[-1]
    return escaped(last.strip()[:_MOST_SAID])


def main(file: Path, *, is_verbose: bool) -> int:
    """Load a file; gives the status to exit with."""
    _stay_no_longer_than_the_parent()
    try:
        Runtime(file, _SMALLEST, is_verbose=True if is_verbose else None).close()
    except EngineFailure:
        return _CANNOT_LOAD
    return 0


def _stay_no_longer_than_the_parent() -> None:
    """End with the parent, however it ends. Loading holds Python's lock, so on Linux the system sees to it, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415  not a part of every Python

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    os.read(0, 1)
    os._exit(_CANNOT_LOAD)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), is_verbose=_VERBOSE in sys.argv[2:]))
