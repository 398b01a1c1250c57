"""The hint of how to install llama.cpp, which depends on how this copy of `lm` was installed.

The environments are made by `python -m venv`; the files by which pipx and uv know theirs are put into them.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
from shells import ROOT

import lmcli

PATIENCE = 60.0
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENT = f"'{PROJECT['optional-dependencies']['local'][0]}'"
PIPX: Final = "pipx_metadata.json"
UV: Final = "uv-receipt.toml"


def made(prefix: Path, *, has_pip: bool = True, origin: dict[str, Any] | None = None) -> Path:
    """Make an environment with `lm` and its dependencies except llama.cpp; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(prefix)], check=True, timeout=PATIENCE)
    paths = {"base": str(prefix), "platbase": str(prefix)}
    packages = Path(sysconfig.get_path("purelib", "venv", paths))
    (packages / "suite.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    information = packages / f"lmcli-{lmcli.__version__}.dist-info"
    information.mkdir()
    needs = f"Requires-Dist: typer\nRequires-Dist: {REQUIREMENT[1:-1]}; extra == 'local'\n"
    (information / "METADATA").write_text(f"Metadata-Version: 2.4\nName: lmcli\nVersion: {lmcli.__version__}\n{needs}")
    if origin is not None:
        (information / "direct_url.json").write_text(json.dumps(origin))
    (packages / "xllamacpp.py").write_text("raise ImportError('No module named xllamacpp')\n")
    if has_pip:
        (packages / "pip").mkdir()
        (packages / "pip" / "__init__.py").touch()
    return prefix / "bin" / "python"


def hint(python: Path) -> str:
    """The command in the hint of `lm serve FILE`."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-m", "lmcli", "serve", "model.gguf"]
    ran = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=PATIENCE, check=False)
    error, hint_line = ran.stderr.splitlines()
    assert (ran.returncode, ran.stdout) == (69, "")
    assert (
        error == "lm: error: running GGUF files requires llama.cpp, which cannot be imported: No module named xllamacpp"
    )
    return hint_line.removeprefix("lm: hint: ").removesuffix(" installs it")


def test_pip_of_the_own_interpreter(tmp_path: Path) -> None:
    """In a virtual environment its own pip is used, with the version that `lm` requires."""
    python = made(tmp_path / "with space")
    assert hint(python) == f"'{python}' -m pip install {REQUIREMENT}"


def test_pipx_injects(tmp_path: Path) -> None:
    """In an environment of pipx, which may have a suffix."""
    python = made(tmp_path / "lmcli-beta")
    (tmp_path / "lmcli-beta" / PIPX).write_text("{}")
    assert hint(python) == f"pipx inject lmcli-beta {REQUIREMENT}"


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        (None, "lmcli"),
        ({"url": "file:///home/me/lm%20src", "dir_info": {}}, "'/home/me/lm src'"),
        ({"url": "file:///src/lm", "dir_info": {"editable": True}}, "--editable /src/lm"),
        ({"url": "https://x.org/lm.git", "vcs_info": {"vcs": "git"}}, "git+https://x.org/lm.git"),
        (
            {"url": "https://x.org/lm.git", "vcs_info": {"vcs": "git", "requested_revision": "v1"}},
            "git+https://x.org/lm.git@v1",
        ),
        ({"url": "file:///src/lmcli.whl", "archive_info": {}}, "file:///src/lmcli.whl"),
    ],
    ids=["index", "folder", "editable", "repository", "revision", "file"],
)
def test_uv_installs_the_tool_again(tmp_path: Path, origin: dict[str, Any] | None, source: str) -> None:
    """In an environment of `uv tool`, from the source of this copy."""
    python = made(tmp_path / "lmcli", origin=origin)
    (tmp_path / "lmcli" / UV).write_text("[tool]\n")
    assert hint(python) == f"uv tool install --with {REQUIREMENT} {source}"


def test_the_readme_names_the_version_that_is_required() -> None:
    """Where it shows how to add llama.cpp."""
    assert f"`pipx inject lmcli {REQUIREMENT}`" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_uv_without_pip(tmp_path: Path) -> None:
    """An environment of uv has no pip: uv is given its Python. Without metadata no version is required."""
    prefix = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(prefix)], check=True, timeout=PATIENCE)
    python = prefix / "bin" / "python"
    code = "from lmcli.server.llama.installation import command_to_install; print(command_to_install('xllamacpp'))"
    ran = subprocess.run(
        [python, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True, env={}
    )
    assert ran.stdout == f"uv pip install --python {python} xllamacpp\n"
