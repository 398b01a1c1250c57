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
        from lmcli.server.llama.backend import LlamaEngine  # noqa: PLC0415  what it needs comes with the extra
    except ImportError as error:
        raise Unavailable(
            f"running GGUF files takes llama.cpp, which cannot be loaded: {error}", _hint(error)
        ) from error
    return LlamaEngine(files, is_verbose=is_verbose)


def _hint(error: ImportError) -> str:
    from lmcli.server.llama.installation import command_to_install  # noqa: PLC0415  only who lacks it pays

    if "libgomp" in str(error):  # a library of the system, which a minimal Debian is without
        return "apt-get install libgomp1 installs it on Debian and Ubuntu"
    return f"{command_to_install('xllamacpp')} installs it"
