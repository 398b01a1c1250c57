"""The tests of the official Python SDK itself pass with the server: those that need no more than a small text model.

They are downloaded, with the release of the SDK that they belong to. They name the models that they need; here these
are the smallest model that talks, under all of the names, and an embedding model with random weights.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest
from downloads import download
from local_servers import real_model
from networks import own_network, serving
from tiny_encoder import make_encoder

from lmcli.client.address import HTTP_PORT
from lmcli.wire.protocol import API_PORTS

SDK: Final = "lmstudio==1.6.0b1"
# A later pytest warns about what these tests do, and they turn warnings into errors.
TOOLS: Final = ("pytest==8.4.2", "pytest-asyncio==1.2.0", "pytest-subtests==0.14.2", "pytest-timeout==2.4.0")
PATIENCE: Final = 400.0

pytestmark = pytest.mark.timeout(2 * PATIENCE)

LANGUAGE_MODELS: Final = (
    "hugging-quants/Llama-3.2-1B-Instruct-Q8_0-GGUF/llama-3.2-1b-instruct-q8_0.gguf",
    "lmstudio-community/Qwen2.5-7B-Instruct-1M-GGUF/Qwen2.5-7B-Instruct-1M-Q4_K_M.gguf",
    "ZiangWu/MobileVLM_V2-1.7B-GGUF/MobileVLM_V2-1.7B-Q4_K.gguf",
    "bartowski/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct-Q4_1.gguf",
)
ENCODER: Final = "nomic-ai/nomic-embed-text-v1.5-GGUF/nomic-embed-text-v1.5.Q8_0.gguf"

# The models are loaded by a program that belongs to the tests, with a seed with which the smallest model has an answer
# to each of their prompts.
LOAD: Final = """
import asyncio
from tests import load_models
load_models.LLM_LOAD_CONFIG.seed = 6
asyncio.run(load_models.reload_models())
"""

PARTS: Final = {
    "sync": ("tests/sync",),
    "async": ("tests/async",),
    "other": ("tests", "--ignore=tests/sync", "--ignore=tests/async"),
}


def both(name: str, *tests: str) -> Sequence[str]:
    """The tests of a name as they are called for the synchronous and for the asynchronous API."""
    return [f"tests/{api}/test_{name}_{api}.py::test_{test}_{api}" for api in ("sync", "async") for test in tests]


LEFT_OUT: Final[Mapping[str, Sequence[str]]] = {
    "needs a vision model": both("images", "vlm_predict", "vlm_predict_image_param"),
    "needs a model that is trained to call tools": both(
        "inference", "tool_using_agent", "tool_using_agent_callbacks", "tool_using_agent_error_handling"
    ),
    "asserts what a larger model answers": (
        *both("inference", "respond_past_history"),
        "tests/test_inference.py::test_concurrent_predictions",
    ),
    "downloads models from the Hub": both(
        "repository", "download_model", "get_options_out_of_session", "download_out_of_session"
    ),
    "runs the examples of plugins, which are not in the package": ("tests/test_plugin_examples.py",),
}
NOT_RUN: Final = [
    f"--deselect={test}" if "::" in test else f"--ignore={test}" for tests in LEFT_OUT.values() for test in tests
]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tests, beside an environment for them."""
    if sys.version_info >= (3, 14):
        pytest.skip(f"{SDK} is for Python 3.10 to 3.13")
    real_model()
    folder = tmp_path_factory.mktemp("suite")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=PATIENCE)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    download(SDK, *pip, "--python", str(folder / "bin" / "python"), "install", SDK, *TOOLS, folder=folder)
    download(f"the tests of {SDK}", *pip, "download", "--no-deps", "--no-binary", "lmstudio", SDK, folder=folder)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    (tests,) = folder.glob("lmstudio-*/")
    return tests


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models as LM Studio has one; one file has many names, as a hard link if that is possible."""
    folder = tmp_path_factory.mktemp("models")
    for path in (*LANGUAGE_MODELS, ENCODER):
        (folder / path).parent.mkdir(parents=True)
    for path in LANGUAGE_MODELS:
        try:
            os.link(real_model(), folder / path)
        except OSError:
            shutil.copy(real_model(), folder / path)
    make_encoder(folder / ENCODER, width=768, context_length=2048)
    return folder


@pytest.fixture(scope="module")
def network(suite: Path, models: Path) -> Iterator[Sequence[str]]:
    """How commands begin that run where the models are served."""
    with own_network(HTTP_PORT, *API_PORTS) as network, serving(network, str(models)):
        yield network


def run(suite: Path, *arguments: str, network: Sequence[str] = ()) -> str:
    """Run the Python of the tests in their folder; returns what it prints."""
    command = [*network, str(suite.parent / "bin" / "python"), *arguments]
    ran = subprocess.run(command, cwd=suite, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("part", PARTS)
def test_all_pass(suite: Path, network: Sequence[str], part: str) -> None:
    """What is not left out passes; nothing is skipped."""
    assert "error" not in run(suite, "-c", LOAD, network=network)
    options = ("-q", "--timeout=100", "--show-capture=no")
    output = run(suite, "-m", "pytest", *options, *PARTS[part], *NOT_RUN, network=network)
    assert "skipped" not in output.splitlines()[-1], output


def test_left_out_tests_exist(suite: Path) -> None:
    """No test is left out that is not there any more, or has another name."""
    left_out = [test for tests in LEFT_OUT.values() for test in tests]
    tests = [test for test in left_out if "::" in test]
    assert all((suite / file).is_file() for file in left_out if file not in tests)
    lines = run(suite, "-m", "pytest", "-q", "--collect-only", *tests).splitlines()
    assert {line.partition("[")[0] for line in lines if "::" in line} == {*tests}
