"""`lm serve` as a process: its one line, its log, its refusals, and how it ends; and the server in a thread."""

import re
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect, Serve, StartServer, open_unread, predicting

from lmcli.cli.commands.serve import read_api_tokens
from lmcli.errors import BadSetting, ExitCode, NoInput
from lmcli.server import background

TOKEN = "sk-lm-abcdefgh:0123456789abcdefghij"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_server_dies_of_the_signal(serve: Serve, connect: Connect, number: signal.Signals) -> None:
    """It prints its address and nothing else, serves, and ends by the very signal, also with a client connected."""
    process = serve()
    assert process.address.startswith("http://127.0.0.1:")
    wire = connect(process.port)
    wire.open("predict", predicting("word " * 300_000))
    wire.receive()
    status, stdout, stderr = process.end(number)
    assert (status, stdout) == (-number, "")
    assert stderr == "lm: serving, Ctrl-C ends\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_client_that_does_not_read_does_not_keep_the_server(
    serve: Serve, connect: Connect, number: signal.Signals
) -> None:
    """The server ends though a client takes nothing, not even the goodbye."""
    process = serve()
    address = ("127.0.0.1", process.port)
    with socket.create_connection(address) as silent:
        open_unread(silent, predict=predicting(("w" * 300_000 + " ") * 60))
        connect(process.port).predict("a")
        assert process.end(number)[0] == -number


def test_unread_log_does_not_stop_the_server(serve: Serve, connect: Connect) -> None:
    """When nobody reads stderr, what is said there is lost, and counted; everybody is served."""
    process = serve()
    wire = connect(process.port, "/system")
    for _ in range(3000):
        wire.begin("rpcCall", "notify", {"title": "x" * 200})
    assert {wire.receive()["type"] for _ in range(3000)} == {"rpcResult"}
    assert process.process.stderr is not None
    lines = iter(process.process.stderr.readline, "")
    assert next(line for line in lines if "are lost" in line).startswith("lm: warning: ")


def test_log_is_quiet_or_verbose(serve: Serve, connect: Connect) -> None:
    """Quiet says nothing at all; verbose tells who comes and what is done."""
    quiet = serve(quiet=True)
    connect(quiet.port).predict("a")
    assert quiet.end(signal.SIGTERM)[2] == ""
    verbose = serve(verbose=True)
    connect(verbose.port).predict("a")
    assert "lm: echo: 1 tokens, eosFound\n" in verbose.end(signal.SIGTERM)[2]


def test_pace_reaches_the_models(serve: Serve, connect: Connect) -> None:
    """The options that slow the models down are obeyed."""
    wire = connect(serve(tokens_per_second=50, load_seconds=0.1, prompt_tokens_per_second=100).port)
    stats = wire.predict("a b c d e f")[-1]["stats"]
    assert stats["timeToFirstTokenSec"] > 0.05
    assert stats["tokensPerSecond"] < 80
    packets = wire.stream("getOrLoad", {"identifier": "echo-jit", "loadConfigStack": {"layers": []}})
    assert packets[-1]["type"] == "loadSuccess"


def refusal(serve: Serve, **options: Any) -> tuple[int, str]:
    """How `lm serve` ends that does not come up: its status and its messages."""
    process = serve(**options)
    assert process.address == ""
    _, stderr = process.process.communicate()
    return process.process.returncode, stderr


def test_port_in_use_is_named(serve: Serve) -> None:
    """A port that is taken is an error that says which, and what to type."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, stderr = refusal(serve, port=port)
    assert status == ExitCode.UNAVAILABLE
    assert stderr.splitlines() == [
        f"lm: error: cannot listen on 127.0.0.1:{port}: address already in use",
        f"lm: hint: lsof -i :{port} shows which process listens there",
        "lm: hint: --port 0 picks a free port",
    ]


def test_address_of_another_machine_is_refused_in_the_words_of_the_system(serve: Serve, tmp_path: Path) -> None:
    """Not in those of the library that was asked to listen."""
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    status, stderr = refusal(serve, host="192.0.2.1", port=1234, require_token=file)
    error, hint = stderr.splitlines()
    assert status == ExitCode.UNAVAILABLE
    assert re.fullmatch(r"lm: error: cannot listen on 192\.0\.2\.1:1234: .*assign requested address", error)
    assert hint == "lm: hint: --host names an address of this machine"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.com", ""])
def test_network_is_not_served_without_tokens(serve: Serve, host: str) -> None:
    """Listening beyond loopback needs API tokens."""
    status, stderr = refusal(serve, host=host)
    assert status == ExitCode.USAGE
    assert "--require-token" in stderr


def test_tokens_are_read_before_listening(serve: Serve, tmp_path: Path) -> None:
    """A token file that is not there, or holds something else, is an error at once."""
    assert refusal(serve, require_token=tmp_path / "none")[0] == ExitCode.NO_INPUT
    (tmp_path / "bad").write_text("hunter2\n")
    status, stderr = refusal(serve, require_token=tmp_path / "bad")
    assert status == ExitCode.BAD_SETTING
    assert "hunter2" not in stderr, "what may be a secret is not shown"


def test_token_opens_the_network(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """With a token file the server listens wherever it is told, and lets only its bearers in."""
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    process = serve(host="0.0.0.0", require_token=file)
    assert process.address.startswith("http://127.0.0.1:"), "an address that can be connected to"
    bearer = {"authVersion": 1, "clientIdentifier": "abcdefgh", "clientPasskey": "0123456789abcdefghij"}
    assert connect(process.port, identity=bearer).result("listLoaded")
    stranger = connect(process.port, identity=None)
    stranger.send({**bearer, "clientPasskey": "x" * 20})
    assert stranger.receive()["success"] is False
    stderr = process.end(signal.SIGTERM)[2]
    assert "0123456789" not in stderr


def test_token_file_holds_one_a_line(tmp_path: Path) -> None:
    """Blank lines and white space around are passed over."""
    file = tmp_path / "tokens"
    file.write_text(f"\n  {TOKEN}\r\n\nsk-lm-HGFEDCBA:{'x' * 20}\n")
    assert read_api_tokens(file) == {"abcdefgh": "0123456789abcdefghij", "HGFEDCBA": "x" * 20}


@pytest.mark.parametrize("content", [b"", b"\n", b"sk-lm-abc:def", TOKEN.encode() + b"x", b"\xff\xfe", b"\xc3\xa9"])
def test_token_file_with_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    """What is no API token is never taken for one."""
    file = tmp_path / "tokens"
    file.write_bytes(content)
    with pytest.raises(BadSetting):
        read_api_tokens(file)


def test_token_file_must_be_readable(tmp_path: Path) -> None:
    """A folder is no token file."""
    with pytest.raises(NoInput):
        read_api_tokens(tmp_path)


def test_token_file_that_everybody_can_read_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The warning names the file, and the server starts all the same."""
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    file.chmod(0o644)
    assert read_api_tokens(file)
    assert "others can read" in caplog.text


def test_strangers_leave_no_traceback(serve: Serve, connect: Connect) -> None:
    """What does not speak WebSocket is dropped without a word in the log; the others are served."""
    process = serve()
    with socket.create_connection(("127.0.0.1", process.port)) as stranger:
        stranger.sendall(b"\x16\x03\x01\x02\x00 hello?\r\n\r\n")
        while stranger.recv(1024):
            pass
    assert connect(process.port).result("listLoaded")
    assert "Traceback" not in process.end(signal.SIGTERM)[2]


def test_background_server_ends_with_its_context() -> None:
    """The thread is gone and the port free when the context ends; a second close does nothing."""
    with background.start() as running:
        socket.create_connection(("127.0.0.1", running.port)).close()
    assert not [thread for thread in threading.enumerate() if thread.name == "lm serve"]
    running.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port))


def test_background_server_reports_a_taken_port(start_server: StartServer) -> None:
    """An address that cannot be listened on is the caller's exception, not the thread's."""
    port = start_server().port
    with pytest.raises(OSError, match=str(port) if sys.platform == "linux" else None):
        background.start(port=port)
