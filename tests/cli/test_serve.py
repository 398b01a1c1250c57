"""`lm serve` as a process: its output, its log, its errors and its signals; and the server on a thread."""

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
    """It prints its address and nothing else, and is terminated by the signal, also with a client connected."""
    process = serve()
    assert process.address.startswith("http://127.0.0.1:")
    wire = connect(process.port)
    wire.open("predict", predicting("word " * 300_000))
    wire.receive()
    status, stdout, stderr = process.end(number)
    assert (status, stdout) == (-number, "")
    first, *hint = stderr.splitlines()
    assert first == "lm: serving, Ctrl-C stops the server"
    assert all(line.startswith("lm: hint: lm serve ") for line in hint)  # where there are models on this machine


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_client_that_does_not_read_does_not_block_termination(
    serve: Serve, connect: Connect, number: signal.Signals
) -> None:
    """The server ends although a client reads nothing, not even the close frame."""
    process = serve()
    address = ("127.0.0.1", process.port)
    with socket.create_connection(address) as silent:
        open_unread(silent, predict=predicting(("w" * 300_000 + " ") * 60))
        connect(process.port).predict("a")
        assert process.end(number)[0] == -number


def test_unread_log_does_not_block_the_server(serve: Serve, connect: Connect) -> None:
    """Log lines are dropped and counted while stderr is not read; all clients are served."""
    process = serve()
    wire = connect(process.port, "/system")
    for _ in range(3000):
        wire.begin("rpcCall", "notify", {"title": "x" * 200})
    assert {wire.receive()["type"] for _ in range(3000)} == {"rpcResult"}
    assert process.process.stderr is not None
    lines = iter(process.process.stderr.readline, "")
    assert next(line for line in lines if "are lost" in line).startswith("lm: warning: ")


def test_log_is_quiet_or_verbose(serve: Serve, connect: Connect) -> None:
    """--quiet logs nothing; --verbose logs connections and predictions."""
    quiet = serve(quiet=True)
    connect(quiet.port).predict("a")
    assert quiet.end(signal.SIGTERM)[2] == ""
    verbose = serve(verbose=True)
    connect(verbose.port).predict("a")
    assert "lm: echo: 1 tokens, eosFound\n" in verbose.end(signal.SIGTERM)[2]


def test_pace_reaches_the_models(serve: Serve, connect: Connect) -> None:
    """The options for the simulated speed are applied."""
    wire = connect(serve(tokens_per_second=50, load_seconds=0.1, prompt_tokens_per_second=100).port)
    stats = wire.predict("a b c d e f")[-1]["stats"]
    assert stats["timeToFirstTokenSec"] > 0.05
    assert stats["tokensPerSecond"] < 80
    packets = wire.stream("getOrLoad", {"identifier": "echo-jit", "loadConfigStack": {"layers": []}})
    assert packets[-1]["type"] == "loadSuccess"


def refusal(serve: Serve, **options: Any) -> tuple[int, str]:
    """The status and the messages of an `lm serve` that does not start."""
    process = serve(**options)
    assert process.address == ""
    _, stderr = process.process.communicate()
    return process.process.returncode, stderr


def test_port_in_use_is_named(serve: Serve) -> None:
    """A port in use is an error that names it and suggests commands."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, stderr = refusal(serve, port=port)
    assert status == ExitCode.UNAVAILABLE
    assert stderr.splitlines() == [
        f"lm: error: cannot listen on 127.0.0.1:{port}: address already in use",
        f"lm: hint: lsof -i :{port} shows which process listens there",
        "lm: hint: --port 0 picks a free port",
    ]


def test_address_of_another_machine_is_an_error_of_the_system(serve: Serve, tmp_path: Path) -> None:
    """The message is the text of the system, not of asyncio."""
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
    """Listening beyond loopback requires API tokens."""
    status, stderr = refusal(serve, host=host)
    assert status == ExitCode.USAGE
    assert "--require-token" in stderr


def test_tokens_are_read_before_listening(serve: Serve, tmp_path: Path) -> None:
    """A token file that is missing or invalid is an error at startup."""
    assert refusal(serve, require_token=tmp_path / "none")[0] == ExitCode.NO_INPUT
    (tmp_path / "bad").write_text("hunter2\n")
    status, stderr = refusal(serve, require_token=tmp_path / "bad")
    assert status == ExitCode.BAD_SETTING
    assert "hunter2" not in stderr, "what may be a secret is not shown"


def test_network_is_served_with_tokens(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    """With a token file the server listens on any address, and accepts only these tokens."""
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    process = serve(host="0.0.0.0", require_token=file)
    assert process.address.startswith("http://127.0.0.1:"), "an address that can be connected to"
    bearer = {"authVersion": 1, "clientIdentifier": "abcdefgh", "clientPasskey": "0123456789abcdefghij"}
    assert connect(process.port, identity=bearer).result("listLoaded")
    client = connect(process.port, identity=None)
    client.send({**bearer, "clientPasskey": "x" * 20})
    assert client.receive()["success"] is False
    stderr = process.end(signal.SIGTERM)[2]
    assert "0123456789" not in stderr


def test_token_file_has_one_token_per_line(tmp_path: Path) -> None:
    """Blank lines and surrounding white space are ignored."""
    file = tmp_path / "tokens"
    file.write_text(f"\n  {TOKEN}\r\n\nsk-lm-HGFEDCBA:{'x' * 20}\n")
    assert read_api_tokens(file) == {"abcdefgh": "0123456789abcdefghij", "HGFEDCBA": "x" * 20}


@pytest.mark.parametrize("content", [b"", b"\n", b"sk-lm-abc:def", TOKEN.encode() + b"x", b"\xff\xfe", b"\xc3\xa9"])
def test_invalid_token_file_is_rejected(tmp_path: Path, content: bytes) -> None:
    """Anything but API tokens is an error."""
    file = tmp_path / "tokens"
    file.write_bytes(content)
    with pytest.raises(BadSetting):
        read_api_tokens(file)


def test_token_file_must_be_readable(tmp_path: Path) -> None:
    """A folder is not a token file."""
    with pytest.raises(NoInput):
        read_api_tokens(tmp_path)


def test_token_file_readable_by_others_causes_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The warning names the file, and the server starts."""
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    file.chmod(0o644)
    assert read_api_tokens(file)
    assert "is readable by others" in caplog.text


def test_invalid_handshake_is_not_logged(serve: Serve, connect: Connect) -> None:
    """A connection that is not a WebSocket handshake is closed without a traceback in the log."""
    process = serve()
    with socket.create_connection(("127.0.0.1", process.port)) as client:
        client.sendall(b"\x16\x03\x01\x02\x00 hello?\r\n\r\n")
        while client.recv(1024):
            pass
    assert connect(process.port).result("listLoaded")
    assert "Traceback" not in process.end(signal.SIGTERM)[2]


def test_background_server_ends_with_its_context() -> None:
    """The thread has ended and the port is free after the context; a second close does nothing."""
    with background.start() as running:
        socket.create_connection(("127.0.0.1", running.port)).close()
    assert not [thread for thread in threading.enumerate() if thread.name == "lm serve"]
    running.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port))


def test_background_server_reports_a_port_in_use(start_server: StartServer) -> None:
    """An address that cannot be listened on is an exception of the caller, not of the thread."""
    port = start_server().port
    with pytest.raises(OSError, match=str(port) if sys.platform == "linux" else None):
        background.start(port=port)
