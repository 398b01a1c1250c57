"""The preflight of a model file: a first load in a subprocess, because some invalid files make llama.cpp abort.

`python -m lmcli.server.llama.preflight FILE [--verbose]` is the subprocess.
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
from lmcli.server.llama.runtime import EngineError, LoadOptions, Runtime

_CANNOT_LOAD: Final = 3
# The status of a Python process that ends with a traceback: it says nothing about the file.
_TRACEBACK: Final = 1
# The folder that this package is imported from.
_ROOT: Final = str(Path(__file__).parents[2])
_VERBOSE: Final = "--verbose"
# The smallest context, without optimizations: no prediction follows.
_MINIMAL: Final = LoadOptions(
    context_length=256, sessions=1, gpu_layers=0, threads=None, parameters={"no_extra_bufts": True}
)
# The prefix of llama.cpp's line that has the reason.
_REASON: Final = "error loading model: "
_MAX_REASON_CHARACTERS: Final = 300
# From Linux's header file linux/prctl.h.
_PR_SET_PDEATHSIG: Final = 1
_passed: Final[set[tuple[str, int, int]]] = set()


async def preflight(file: Path, cancelled: asyncio.Event, *, is_verbose: bool = False) -> bool:
    """Check that a file can be loaded, once while it is unchanged; False if cancelled.

    Args:
        file: the model.
        cancelled: set to end the subprocess.
        is_verbose: whether llama.cpp logs to stderr.

    Raises:
        EngineError: llama.cpp cannot load it, or aborts.
        OSError: the file does not exist.
    """
    state = _state(file)
    if state in _passed:
        return not cancelled.is_set()
    process = await _start(file, is_verbose=is_verbose)
    watch = asyncio.create_task(_kill_when(cancelled, process))
    try:
        log = await process.stderr.read() if process.stderr is not None else b""
        status = await process.wait()
    finally:
        watch.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
    if cancelled.is_set():
        return False
    _check(status, _reason(log.decode(errors="replace")))
    _passed.add(state)
    return True


def _state(file: Path) -> tuple[str, int, int]:
    found = file.stat()
    return str(file.absolute()), found.st_size, found.st_mtime_ns


async def _start(file: Path, *, is_verbose: bool) -> Process:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH")))),
        "GGML_NO_BACKTRACE": "1",  # without it, llama.cpp starts a debugger when it aborts
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # no imports from the working directory
        "-m",
        "lmcli.server.llama.preflight",
        str(file),
        *([_VERBOSE] if is_verbose else []),
        stdin=PIPE,  # nothing is written: its end means that this process is gone
        stdout=DEVNULL,
        stderr=None if is_verbose else PIPE,
        env=environment,
    )


async def _kill_when(cancelled: asyncio.Event, process: Process) -> None:
    await cancelled.wait()
    process.kill()


def _check(status: int, reason: str) -> None:
    because = f": {reason}" if reason else ""
    if status == _CANNOT_LOAD:
        raise EngineError(f"llama.cpp cannot load it{because}")
    if status not in (0, _TRACEBACK):
        raise EngineError(f"the file is invalid: llama.cpp ended with status {status} in the preflight{because}")


def _reason(log: str) -> str:
    """The reason in llama.cpp's log, or else the last line."""
    lines = [line for line in log.splitlines() if line.strip()]
    reasons = [line.partition(_REASON)[2] for line in lines if _REASON in line]
    last = (reasons or lines or [""])[-1]
    return escaped(last.strip()[:_MAX_REASON_CHARACTERS])


def main(file: Path, *, is_verbose: bool) -> int:
    """Load a file; returns the exit status."""
    _end_with_parent()
    try:
        Runtime(file, _MINIMAL, is_verbose=True if is_verbose else None).close()
    except EngineError:
        return _CANNOT_LOAD
    return 0


def _end_with_parent() -> None:
    """End when the parent ends. Loading holds the GIL, which delays the thread; Linux kills the process at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415  not a part of every Python

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    os.read(0, 1)
    os._exit(_CANNOT_LOAD)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), is_verbose=_VERBOSE in sys.argv[2:]))
