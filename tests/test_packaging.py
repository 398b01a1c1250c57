"""What wheel and sdist hold, and that it is found where it lands."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from shells import ROOT, program

import lmcli
from lmcli.reference.manual import PAGES

PATIENCE = 60.0
NAME = f"lmcli-{lmcli.__version__}"
IGNORED = {"__pycache__", ".hypothesis"}

SHARED = {
    "share/bash-completion/completions/lm": "completions/lm.bash",
    "share/zsh/site-functions/_lm": "completions/_lm",
    "share/fish/vendor_completions.d/lm.fish": "completions/lm.fish",
} | {f"share/man/man1/{page}.1": f"man/{page}.1" for page in PAGES}
"""Where the man pages and completions go below a prefix, and where they are in the sources."""

INFO = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
TOP = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", ".gitignore", "PKG-INFO"}
FOLDERS = ("lmcli", "completions", "man", "tests", ".ci", ".pictures")


class Built(NamedTuple):
    """The two files of a release, and what they were made of."""

    sources: Path
    sdist: Path
    wheel: Path


def run(*command: str, variables: Mapping[str, str] | None = None) -> str:
    """Run a program that has to succeed, away from the sources; gives its stdout."""
    ran = subprocess.run(command, cwd="/", env=variables, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both, built from a copy of the sources as `python -m build` does, the wheel from the sdist."""
    sources = tmp_path_factory.mktemp("release") / "sources"
    sources.mkdir()
    for name in (*FOLDERS, *TOP - {"PKG-INFO"}):
        copy = shutil.copy if (ROOT / name).is_file() else shutil.copytree
        copy(ROOT / name, sources / name)
    folder = sources.parent / "dist"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(sources))
    assert len(list(folder.iterdir())) == 2
    return Built(sources, folder / f"{NAME}.tar.gz", folder / f"{NAME}-py3-none-any.whl")


def files(sources: Path, folders: Iterable[str]) -> set[str]:
    """The files of the sources below some folders."""
    paths = [path for folder in folders for path in (sources / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(sources)) for path in paths if not IGNORED & set(path.parts)}


def test_the_wheel_holds_the_package_and_what_belongs_to_it(built: Built) -> None:
    """Code without the generators, man pages, completions, metadata; nothing else."""
    package = {name for name in files(built.sources, ["lmcli"]) if not name.startswith("lmcli/reference/")}
    assert all(name.endswith(".py") or name == "lmcli/py.typed" for name in package)
    info = {f"{NAME}.dist-info/{name}" for name in INFO}
    shared = {f"{NAME}.data/data/{name}" for name in SHARED}
    with zipfile.ZipFile(built.wheel) as wheel:
        assert set(wheel.namelist()) == package | info | shared


def test_the_sdist_holds_everything_that_a_change_needs(built: Built) -> None:
    """Code, tests, gate, prose and generated files, as they are in the sources."""
    with tarfile.open(built.sdist) as sdist:
        names = {member.name.removeprefix(f"{NAME}/") for member in sdist.getmembers() if member.isfile()}
    assert names == files(built.sources, FOLDERS) | TOP


def test_the_release_says_what_it_needs(built: Built) -> None:
    """The metadata has the version of the package, its dependencies and its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with zipfile.ZipFile(built.wheel) as wheel:
        metadata = wheel.read(f"{NAME}.dist-info/METADATA").decode()
    assert f"\nVersion: {lmcli.__version__}\n" in metadata
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert len(needed) == len(project["dependencies"])
    extras = {
        line.removeprefix("Provides-Extra: ") for line in metadata.splitlines() if line.startswith("Provides-Extra: ")
    }
    assert extras == set(project["optional-dependencies"])


class Installed(NamedTuple):
    """The wheel in a prefix of its own."""

    prefix: Path
    variables: dict[str, str]


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install the wheel without the network; what it depends on is that of this suite."""
    prefix = tmp_path_factory.mktemp("prefix")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps", "--no-index")
    # Without --ignore-installed pip removes the installation that the suite itself runs from.
    run(*pip, "--ignore-installed", "--no-warn-script-location", "--prefix", str(prefix), str(built.wheel))
    library = sysconfig.get_path("purelib", "posix_prefix", {"base": str(prefix), "platbase": str(prefix)})
    variables = {
        "PATH": os.pathsep.join((str(prefix / "bin"), "/usr/bin", "/bin")),
        "PYTHONPATH": library,
        "HOME": str(prefix / "home"),
        "MANPAGER": "cat",
        "MANWIDTH": "80",
    }
    return Installed(prefix, variables)


def test_the_installed_command_is_the_installed_package(installed: Installed) -> None:
    """`lm` runs from the prefix, without the sources."""
    assert run("lm", "--version", variables=installed.variables) == f"lm {lmcli.__version__}\n"
    code = "import lmcli, importlib.util; print(lmcli.__file__, importlib.util.find_spec('lmcli.reference'))"
    where, _, reference = run(sys.executable, "-c", code, variables=installed.variables).partition(" ")
    assert Path(where).is_relative_to(installed.prefix)
    assert reference == "None\n"


def test_installing_elsewhere_leaves_the_suites_own_package(installed: Installed) -> None:
    """The environment that the suite runs in still has `lm`, from where it had it."""
    code = "import lmcli; print(lmcli.__file__)"
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    assert run(sys.executable, "-c", code, variables=without).strip() == lmcli.__file__


def test_files_land_where_the_system_looks(installed: Installed) -> None:
    """Man pages and completions are below share/, each the generated file."""
    for name, source in SHARED.items():
        assert (installed.prefix / name).read_bytes() == (ROOT / source).read_bytes()


@pytest.mark.parametrize("page", PAGES)
def test_man_finds_the_page(installed: Installed, page: str) -> None:
    """`man` finds it by the place of `lm` on PATH alone."""
    found = run(program("man"), "-w", page, variables=installed.variables)
    assert found.strip() == str(installed.prefix / "share" / "man" / "man1" / f"{page}.1")


@pytest.mark.parametrize(("topic", "page"), [("respond", "LM-RESPOND(1)"), ("models load", "LM-MODELS(1)")])
def test_help_opens_the_man_page(installed: Installed, topic: str, page: str) -> None:
    """`lm help COMMAND` shows the page of this installation."""
    program("man")
    shown = run("lm", "help", *topic.split(), variables=installed.variables)
    assert page in shown.splitlines()[0]
    assert "EXAMPLES" in shown


def test_help_without_man_is_the_help(installed: Installed) -> None:
    """Where there is no `man`, `lm help COMMAND` says what `--help` says."""
    command = [sys.executable, "-m", "lmcli"]
    variables = installed.variables | {"PATH": str(installed.prefix / "bin")}
    assert run(*command, "help", "stats", variables=variables) == run(*command, "stats", "--help", variables=variables)


def test_bash_completion_finds_the_file(installed: Installed) -> None:
    """The first TAB after `lm` has bash-completion load the file from a share/ that it knows."""
    loader = Path("/usr/share/bash-completion/bash_completion")
    if not loader.is_file():
        program("bash-completion")
    load = "_comp_load lm 2>/dev/null || _completion_loader lm"  # from 2.12 on, and before
    script = f". {loader}; {load}; complete -p lm"
    share = installed.variables | {"XDG_DATA_DIRS": str(installed.prefix / "share")}
    assert run("bash", "--norc", "-c", f"{script}; true", variables=share).strip() == "complete -F _lm lm"


def readme_blocks(language: str) -> list[str]:
    """The blocks of the README that are for one shell."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


@pytest.mark.parametrize(
    ("language", "command", "then", "shown"),
    [
        ("bash", ("bash", "--norc", "-c"), "complete -p lm", "complete -F _lm lm"),
        ("zsh", ("zsh", "-f", "-c"), "autoload -Uz compinit && compinit -u -D; print $_comps[lm]", "_lm"),
        ("fish", ("fish", "--no-config", "-c"), "complete -C 'lm resp' | cut -f 1", "respond"),
    ],
)
def test_the_readmes_line_for_a_shell_turns_completion_on(
    installed: Installed, language: str, command: tuple[str, ...], then: str, shown: str
) -> None:
    """With the wheel installed, the README's own line is all that each shell needs; also through a link to `lm`."""
    linked = installed.prefix / "linked"
    linked.mkdir(exist_ok=True)
    (linked / "lm").unlink(missing_ok=True)
    (linked / "lm").symlink_to(installed.prefix / "bin" / "lm")
    script = f"{readme_blocks(language)[0]}\n{then}"
    for folder in (installed.prefix / "bin", linked):
        variables = installed.variables | {"PATH": f"{folder}:/usr/bin:/bin"}
        assert run(program(command[0]), *command[1:], script, variables=variables).strip() == shown


def test_the_readmes_line_for_man_finds_the_pages(installed: Installed) -> None:
    """Where `lm` on PATH is a link into an environment of its own."""
    linked = installed.prefix / "elsewhere" / "bin"
    linked.mkdir(parents=True)
    (linked / "lm").symlink_to(installed.prefix / "bin" / "lm")
    program("man")
    variables = installed.variables | {"PATH": f"{linked}:/usr/bin:/bin"}
    page = run("bash", "-c", f"{readme_blocks('bash')[1]}\nman -w lm", variables=variables).strip()
    assert Path(page).resolve() == installed.prefix / "share" / "man" / "man1" / "lm.1"


EMPTY_COMMAND = """
import sys
import typer
app = typer.Typer()
app.command()(lambda: None)
app([], standalone_mode=False)
print(typer.__version__, "pydantic" in sys.modules)
"""


@pytest.mark.skipif("LMCLI_GATE" not in os.environ, reason="installs from the network (.ci/run does)")
def test_the_newest_typer_imports_pydantic(tmp_path: Path) -> None:
    """As long as it does, 87 ms on every run, `typer<0.29` stays; if this fails, pyproject.toml can allow it."""
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(tmp_path))
    subprocess.run([sys.executable, *install, "typer"], check=True, capture_output=True, timeout=PATIENCE)
    version, imports_pydantic = run(
        sys.executable, "-c", EMPTY_COMMAND, variables={**os.environ, "PYTHONPATH": str(tmp_path)}
    ).split()
    assert imports_pydantic == "True", f"typer {version} can be allowed"
