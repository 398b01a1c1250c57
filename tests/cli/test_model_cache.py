"""The file of model keys that completions read: written along the way, and never in the way."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import StartServer
from processes import environment, run

from lmcli.cli import model_cache as keys
from lmcli.cli.environment import Environment
from lmcli.cli.model_cache import KEYS
from lmcli.cli.options import ServerOptions
from lmcli.server.background import Running


def env(**variables: str) -> Environment:
    """A process with these environment variables."""
    return Environment.of_process()._replace(variables=variables)


def options(host: str | None = None) -> ServerOptions:
    """Options that name a server."""
    return ServerOptions(host=host)


@pytest.fixture
def lm(tmp_path: Path, server: Running) -> Callable[[str], list[str]]:
    """Run a command line against a server; gives the keys that are kept then."""

    def run_line(line: str) -> list[str]:
        assert run(line, tmp_path, environment(tmp_path, server.port)).status == 0
        file = tmp_path / ".cache" / "lm" / "models"
        return file.read_text().splitlines() if file.exists() else []

    return run_line


def test_a_model_that_answered_is_kept_once(lm: Callable[[str], list[str]]) -> None:
    """A prediction adds the key of its model, if it is not there yet."""
    assert lm("lm respond hi") == ["echo"]
    assert lm("lm complete hi") == ["echo"]
    assert lm("lm chat -m echo-jit hi") == ["echo", "echo-jit"]


def test_the_list_of_models_replaces_the_keys(lm: Callable[[str], list[str]], tmp_path: Path) -> None:
    """What is not downloaded any more is not offered any more."""
    lm("mkdir -p .cache/lm; echo gone > .cache/lm/models")
    assert lm("lm models --loaded") == ["gone"]
    assert lm("lm models") == ["echo", "echo-jit"]
    assert sorted(path.name for path in (tmp_path / ".cache" / "lm").iterdir()) == ["loaded", "models"]


@pytest.mark.parametrize("line", ["lm respond --host demo hi", "LM_HOST=demo lm models", "lm respond --dry-run hi"])
def test_the_built_in_server_leaves_no_keys(lm: Callable[[str], list[str]], line: str) -> None:
    """Neither does a run that asks nobody."""
    assert lm(line) == []


def test_a_file_as_the_host_leaves_no_keys(tmp_path: Path) -> None:
    """The model of --host MODEL.gguf is nowhere else to be had."""
    keys.add(KEYS, "tiny", options("models/Tiny.GGUF"), env(HOME=str(tmp_path)))
    keys.remember(KEYS, ["tiny"], options(), env(HOME=str(tmp_path), LM_HOST="tiny.gguf"))
    assert list(tmp_path.iterdir()) == []


def test_the_cache_folder_is_the_users_choice(tmp_path: Path) -> None:
    """XDG_CACHE_HOME comes before .cache in HOME; without either nothing is kept."""
    chosen, home = tmp_path / "chosen", tmp_path / "home"
    keys.add(KEYS, "a", options(), env(HOME=str(home), XDG_CACHE_HOME=str(chosen)))
    keys.add(KEYS, "b", options(), env(HOME=str(home), XDG_CACHE_HOME=""))
    keys.add(KEYS, "c", options(), env())
    assert (chosen / "lm" / "models").read_text() == "a\n"
    assert (home / ".cache" / "lm" / "models").read_text() == "b\n"


@pytest.mark.parametrize("key", ["a\nb", "a\tb", "\x1b[31m", "a\x9bb", "\u202egnp", ""])
def test_a_key_with_control_characters_is_not_kept(tmp_path: Path, key: str) -> None:
    """A server cannot drive anybody's terminal, nor put a line of its own into the file."""
    keys.remember(KEYS, [key, "qwen/qwen3-4b@q4_k_m:2"], options(), env(HOME=str(tmp_path)))
    keys.add(KEYS, key, options(), env(HOME=str(tmp_path)))
    assert (tmp_path / ".cache" / "lm" / "models").read_text() == "qwen/qwen3-4b@q4_k_m:2\n"


@pytest.mark.parametrize("write", [keys.remember, lambda file, names, *rest: keys.add(file, names[0], *rest)])
def test_new_files_and_folders_are_for_the_user_alone(tmp_path: Path, write: Callable[..., None]) -> None:
    """The file has mode 0600, each folder that had to be created 0700; those of existing ones are kept."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    variables = {"HOME": str(folder)}
    file = folder / ".cache" / "lm" / "models"
    write(KEYS, ["one"], options(), env(**variables))
    assert [oct(mode_of(path)) for path in (file, *file.parents[:3])] == ["0o600", "0o700", "0o700", "0o755"]
    file.chmod(0o640)
    write(KEYS, ["two"], options(), env(**variables))
    assert "two" in file.read_text()
    assert oct(mode_of(file)) == "0o640"


def mode_of(path: Path) -> int:
    """The permissions of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("trouble", ["no folder", "no text", "a folder"])
def test_trouble_is_nobodys_business(tmp_path: Path, start_server: StartServer, trouble: str) -> None:
    """An answer is an answer, and nothing is said, whatever is where the keys belong."""
    file = tmp_path / ".cache" / "lm" / "models"
    if trouble == "no folder":
        (tmp_path / ".cache").write_text("")
    else:
        file.parent.mkdir(parents=True)
        file.mkdir() if trouble == "a folder" else file.write_bytes(b"\xff\xfe")
    ran = run("lm respond hi && lm models", tmp_path, environment(tmp_path, start_server().port))
    assert (ran.status, ran.stderr) == (0, "")
    assert ran.stdout.startswith(b"hi\n")
