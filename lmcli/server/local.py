"""The door to llama.cpp: the engine for GGUF files, if what it needs is installed."""

from collections.abc import Sequence
from pathlib import Path

from lmcli.errors import Unavailable
from lmcli.server.engine import Engine


def local_engine(files: Sequence[Path], *, is_verbose: bool = False) -> Engine:
    """The engine for GGUF files; llama.cpp is loaded by this, and may write its log to stderr if `is_verbose`.

    Raises:
        Unavailable: llama.cpp is not installed, or a file is damaged.
        NoInput: a file cannot be read.
        UsageError: a file holds something else than a language model.
    """
    try:
        from lmcli.server.llama import LlamaEngine  # noqa: PLC0415  what it needs comes with the extra
    except ImportError as error:
        is_library = "libgomp" in str(error)  # of the system; a minimal Debian is without it
        raise Unavailable(
            f"running GGUF files takes llama.cpp, which cannot be loaded: {error}",
            "apt-get install libgomp1 installs it" if is_library else "pip install 'lmcli[local]' installs it",
        ) from error
    return LlamaEngine(files, is_verbose=is_verbose)
