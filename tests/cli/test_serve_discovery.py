"""`lm serve` without a port: clients that are given no address find it."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, Process
from networks import own_network
from processes import environment

from lmcli.client.address import HTTP_PORT
from lmcli.errors import ExitCode
from lmcli.wire.protocol import API_PORTS

LM = (sys.executable, "-m", "lmcli")
SERVING = "lm: serving, Ctrl-C stops the server\n"
FOUND = f"lm: clients without an address find the server on port {API_PORTS[0]}\n"
SDK = """
import lmstudio
with lmstudio.Client() as client:
    print(client.llm.model("echo").respond("found"))
"""
ASYNCHRONOUS_SDK = """
import asyncio, lmstudio
async def main():
    async with lmstudio.AsyncClient() as client:
        model = await client.llm.model("echo")
        print(await model.respond("found"))
asyncio.run(main())
"""
# Answers nothing on some ports.
TAKING = """
import socket, sys
taken = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[1:]]
print("taken", flush=True)
sys.stdin.read()
"""

Start = Callable[..., Process]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def network() -> Iterator[Sequence[str]]:
    """How the commands of a test begin."""
    with own_network(HTTP_PORT, *API_PORTS) as beginning:
        yield beginning


@pytest.fixture
def start(network: Sequence[str], tmp_path: Path) -> Iterator[Start]:
    """Starts a command; gives the process and its first line."""
    with ExitStack() as cleanup:
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)

        def to_start(*command: str) -> Process:
            process = cleanup.enter_context(
                subprocess.Popen([*network, *command], **streams, text=True, env=surroundings(tmp_path))
            )
            cleanup.callback(process.kill)
            assert process.stdout is not None
            return Process(process, process.stdout.readline().rstrip("\n"))

        yield to_start


@pytest.fixture
def run(network: Sequence[str], tmp_path: Path) -> Run:
    """Runs a command to its end."""

    def to_run(*command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*network, *command],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=6 * PATIENCE,
            check=False,
            env=surroundings(tmp_path),
        )

    return to_run


def surroundings(folder: Path) -> dict[str, str]:
    """The environment of a command that is given no address."""
    return {name: value for name, value in environment(folder, "").items() if name != "LM_HOST"}


def test_server_is_found_without_an_address(start: Start, run: Run) -> None:
    """Its address is that of port 1234, which `lm` knows; the official clients find it without knowing that port."""
    server = start(*LM, "serve")
    assert server.address == f"http://127.0.0.1:{HTTP_PORT}"
    answered = run(*LM, "respond", "found")
    assert (answered.stdout, answered.stderr, answered.returncode) == ("found\n", "", 0)
    for program in (SDK, ASYNCHRONOUS_SDK):
        answered = run(sys.executable, "-W", "ignore", "-c", program)
        assert (answered.stdout, answered.returncode) == ("found\n", 0), answered.stderr
    assert server.end(signal.SIGTERM) == (-signal.SIGTERM, "", FOUND + SERVING)


def test_next_port_is_used_where_one_is_taken(start: Start, run: Run) -> None:
    """The first free one is used, and the log names those where clients look before."""
    start(sys.executable, "-c", TAKING, *map(str, API_PORTS[:2]))
    server = start(*LM, "serve")
    answered = run(*LM, "respond", "found")
    assert (answered.stdout, answered.returncode) == ("found\n", 0)
    assert server.end(signal.SIGTERM)[2] == (
        "lm: clients without an address find the server on port 16141, unless one answers on 41343, 52993\n" + SERVING
    )


def test_server_starts_where_no_port_is_free(start: Start) -> None:
    """It can be used with its address, and a warning says that it needs to be."""
    start(sys.executable, "-c", TAKING, *map(str, API_PORTS))
    server = start(*LM, "serve")
    assert server.address == f"http://127.0.0.1:{HTTP_PORT}"
    assert server.end(signal.SIGTERM)[2].startswith("lm: warning: clients need the address of the server: ")


def test_second_server_needs_a_port(start: Start, run: Run) -> None:
    """Two servers do not share an address; the second one does not take a port for discovery either."""
    server = start(*LM, "serve")
    second = run(*LM, "serve")
    assert (second.stdout, second.returncode) == ("", ExitCode.UNAVAILABLE)
    assert second.stderr.startswith(f"lm: error: cannot listen on 127.0.0.1:{HTTP_PORT}: address already in use\n")
    server.end(signal.SIGTERM)
    assert start(*LM, "serve").end(signal.SIGTERM)[2] == FOUND + SERVING, "both ports are free again"


@pytest.mark.parametrize("port", ["0", "5678"])
def test_server_with_a_port_is_not_discovered(start: Start, run: Run, port: str) -> None:
    """A port that was asked for is the only one."""
    server = start(*LM, "serve", "--port", port)
    assert run(*LM, "models").returncode == ExitCode.UNAVAILABLE
    assert run(*LM, "models", "--host", server.address).returncode == 0
    assert server.end(signal.SIGTERM)[2] == SERVING


@pytest.mark.skipif(sys.platform != "linux", reason="reads the table of sockets in /proc")
def test_discovery_is_local(start: Start, run: Run, tmp_path: Path) -> None:
    """A server for the network is found on its own machine, and requires the token there, too."""
    file = tmp_path / "token"
    file.write_text("sk-lm-abcdefgh:0123456789abcdefghij")
    file.chmod(0o600)
    start(*LM, "serve", "--host", "0.0.0.0", "--require-token", str(file))
    listening = run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout
    assert f"00000000:{HTTP_PORT:04X}" in listening
    assert f"0100007F:{API_PORTS[0]:04X}" in listening
    assert run(*LM, "models").returncode == ExitCode.NOT_ALLOWED
    assert run(*LM, "models", "--token-file", str(file)).returncode == 0
