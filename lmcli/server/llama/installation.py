"""The command line that installs a package into the environment of this copy of `lm`.

pipx and uv keep each program in its own environment, which is not on PATH and, with uv, has no pip; Debian forbids
packages outside of an environment. So the command depends on how this copy was installed, as files in its environment
indicate.
"""

import json
import shlex
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

_PIPX_FILE: Final = "pipx_metadata.json"
_UV_FILE: Final = "uv-receipt.toml"
_ORIGIN_FILE: Final = "direct_url.json"
_NAME: Final = "lmcli"


def command_to_install(package: str, *, has_dependencies: bool = True) -> str:
    """Return the command line for a package, in the version that `lm` requires; without its dependencies, if it can."""
    prefix, requirement = Path(sys.prefix), shlex.quote(_requirement(package))
    alone = "" if has_dependencies else "--no-deps "
    if (prefix / _PIPX_FILE).is_file():
        pip_arguments = f"--pip-args={alone}" if alone else ""
        return f"pipx inject {pip_arguments}{shlex.quote(prefix.name)} {requirement}"
    if (prefix / _UV_FILE).is_file():
        return f"uv tool install --with {requirement} {_source()}"
    python = shlex.quote(sys.executable)
    if find_spec("pip") is None:
        return f"uv pip install {alone}--python {python} {requirement}"
    return f"{python} -m pip install {alone}{requirement}"


def _requirement(package: str) -> str:
    """The requirement in the metadata of `lm`, such as name>=1.0; the name alone if there is none."""
    found = _distribution()
    entries = (line.partition(";")[0].strip() for line in (found and found.requires) or ())
    return next((entry for entry in entries if entry.startswith(package)), package)


def _source() -> str:
    """The source that this copy was installed from, as an argument for uv: a folder, a repository, a file, or a name.

    Shapes: {"url": str, "dir_info": {"editable": bool}}, {"url": str, "vcs_info": {"vcs": str, "requested_revision":
    str}}, {"url": str}; no file if it was installed from the index.
    Source: https://packaging.python.org/en/latest/specifications/direct-url/
    """
    found = _distribution()
    text = found and found.read_text(_ORIGIN_FILE)
    if not text:
        return _NAME
    origin = json.loads(text)
    folder, repository = origin.get("dir_info"), origin.get("vcs_info")
    if folder is not None:
        option = "--editable " if folder.get("editable") else ""
        return option + shlex.quote(unquote(urlsplit(origin["url"]).path))
    if repository is not None:
        revision = f"@{repository['requested_revision']}" if "requested_revision" in repository else ""
        return shlex.quote(f"{repository['vcs']}+{origin['url']}{revision}")
    return shlex.quote(origin["url"])


def _distribution() -> metadata.Distribution | None:
    """The metadata of this copy; None if it runs from a folder without being installed."""
    return next(iter(metadata.distributions(name=_NAME)), None)
