"""What to type to install a package beside this copy of `lm`; loaded when a package is missing.

pipx and uv keep a program in an environment of its own, which has no place on PATH and, with uv, no pip; Debian refuses
packages outside of an environment. So what works depends on how this copy was installed, which the environment says.
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


def command_to_install(package: str) -> str:
    """The command line that installs a package where this copy of `lm` finds it, in the version that `lm` requires."""
    prefix, requirement = Path(sys.prefix), shlex.quote(_requirement(package))
    if (prefix / _PIPX_FILE).is_file():
        return f"pipx inject {shlex.quote(prefix.name)} {requirement}"
    if (prefix / _UV_FILE).is_file():
        return f"uv tool install --with {requirement} {_source()}"
    python = shlex.quote(sys.executable)
    if find_spec("pip") is None:
        return f"uv pip install --python {python} {requirement}"
    return f"{python} -m pip install {requirement}"


def _requirement(package: str) -> str:
    """What the metadata of `lm` asks for, such as name>=1.0; the name alone where there is none."""
    found = _distribution()
    entries = (line.partition(";")[0].strip() for line in (found and found.requires) or ())
    return next((entry for entry in entries if entry.startswith(package)), package)


def _source() -> str:
    """Where this copy came from, as uv takes it: a folder, a repository, a file, or the index.

    Shapes: {"url": str, "dir_info": {"editable": bool}}, {"url": str, "vcs_info": {"vcs": str, "requested_revision":
    str}}, {"url": str}; none if it came from the index.
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
    """This copy's own metadata; None if it runs from a folder without having been installed."""
    return next(iter(metadata.distributions(name=_NAME)), None)
