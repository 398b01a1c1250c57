"""A first load in a process of its own: on some damage that no header shows, llama.cpp aborts the whole process.

`python -m lmcli.server.llama_trial FILE` is that process.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from lmcli.server.llama_runtime import EngineFailure, LoadSettings, Runtime

_CANNOT_LOAD: Final = 3
# Python's own status for a traceback: it says nothing about the file.
_NO_TRIAL: Final = 1
# Where this package is imported from, installed or not.
_ROOT: Final = str(Path(__file__).parents[2])
# As small as can be, and without what only makes it faster: the weights are only looked at.
_SMALLEST: Final = LoadSettings(
    context_length=256, sessions=1, gpu_layers=0, threads=None, parameters={"no_extra_bufts": True}
)
_proven: Final[set[tuple[str, int, int]]] = set()


def prove(file: Path) -> None:
    """Make sure that a file can be loaded; once for each state of a file.

    Raises:
        EngineFailure: llama.cpp cannot load it, or does not survive the attempt.
        OSError: the file is gone.
    """
    found = file.stat()
    state = (str(file.absolute()), found.st_size, found.st_mtime_ns)
    if state in _proven:
        return
    # -P: a module of the folder that one happens to be in is not ours.
    command = [sys.executable, "-P", "-m", "lmcli.server.llama_trial", str(file)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH")))),
        "GGML_NO_BACKTRACE": "1",  # without it, llama.cpp calls a debugger for its last words
    }
    nothing = subprocess.DEVNULL
    done = subprocess.run(command, stdin=nothing, stdout=nothing, stderr=nothing, env=environment, check=False)  # noqa: S603
    if done.returncode == _CANNOT_LOAD:
        raise EngineFailure("llama.cpp cannot load it")
    if done.returncode not in (0, _NO_TRIAL):
        raise EngineFailure(f"the file is damaged: llama.cpp ended with {done.returncode} in a trial")
    _proven.add(state)


def main(file: Path) -> int:
    """Load a file; gives the status to exit with."""
    try:
        Runtime(file, _SMALLEST).close()
    except EngineFailure:
        return _CANNOT_LOAD
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
