"""The engine for GGUF files, with llama.cpp, which is an optional dependency."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmcli.errors import Unavailable

if TYPE_CHECKING:
    from lmcli.server.engine import Engine  # the process of a model does without it, and starts faster


def local_engine(files: Sequence[Path], *, is_verbose: bool = False) -> "Engine":
    """Import llama.cpp and make the engine for GGUF files; if `is_verbose`, the log of llama.cpp is logged.

    Raises:
        Unavailable: llama.cpp is not installed, or a file is invalid.
        NoInput: a file cannot be read.
        UsageError: a file does not contain a language model.
    """
    try:
        from lmcli.server.llama.llama_engine import LlamaEngine  # noqa: PLC0415  xllamacpp comes with the extra
    except ImportError as error:
        raise Unavailable(
            f"running GGUF files requires llama.cpp, which cannot be imported: {error}", _hint(error)
        ) from error
    return LlamaEngine(files, is_verbose=is_verbose)


def _hint(error: ImportError) -> str:
    from lmcli.server.llama.installation import command_to_install  # noqa: PLC0415  needed for the error only

    if "libgomp" in str(error):  # a system library that a minimal Debian lacks
        return "apt-get install libgomp1 installs it on Debian and Ubuntu"
    return f"{command_to_install('xllamacpp')} installs it"
