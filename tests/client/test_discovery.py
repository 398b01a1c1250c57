"""Finding the server of this machine, and the credentials that it is greeted with."""

import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import FOREVER, StartServer
from faults import HOST, Listener
from hypothesis import given
from hypothesis import strategies as st
from processes import Terminal, environment, run, start

from lmcli.client import discovery
from lmcli.client.address import Address
from lmcli.client.api import Client
from lmcli.client.connection import Connection
from lmcli.client.discovery import candidate_ports, credentials, find_server, find_token, greetings, studio_home
from lmcli.errors import BadSetting, CannotConnect, NoInput, TokenExposed, UsageError
from lmcli.server.background import Running

TOKEN = "sk-lm-Ab3dEf6h:0123456789abcdefghij"
GREETING = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{"lmstudio":true}'

Answer = Callable[..., int]
Nowhere = Callable[[], int]


@pytest.fixture
def answer() -> Iterator[Answer]:
    """Start little HTTP servers that say the given pieces, one segment each; gives the port."""
    with ExitStack() as cleanup:

        def start(*pieces: bytes, then_silent: bool = False) -> int:
            def attend(connection: socket.socket) -> None:
                asked = connection.recv(65536)
                assert not asked or asked.startswith(b"GET /lmstudio-greeting HTTP/1.1\r\n")
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(0.001)  # so that the next one arrives later
                while then_silent and connection.recv(65536):
                    pass

            return cleanup.enter_context(Listener(attend)).port

        yield start


@pytest.fixture
def nowhere() -> Iterator[Nowhere]:
    """Ports at which nobody listens, and nobody will."""
    with ExitStack() as cleanup:

        def reserve() -> int:
            unused = cleanup.enter_context(socket.socket())
            unused.bind((HOST, 0))
            port: int = unused.getsockname()[1]
            return port

        yield reserve


@pytest.fixture
def usual_ports(monkeypatch: pytest.MonkeyPatch, nowhere: Nowhere) -> Callable[..., None]:
    """Say what the ports of the API and of the HTTP server are."""

    def are(*api: int, http: int | None = None) -> None:
        monkeypatch.setattr(discovery, "API_PORTS", api)
        monkeypatch.setattr(discovery, "HTTP_PORT", nowhere() if http is None else http)

    return are


def configure_port(home: Path, port: object) -> None:
    """Leave the trace that LM Studio leaves of its HTTP server."""
    folder = home / ".lmstudio" / ".internal"
    folder.mkdir(parents=True)
    (folder / "http-server.json").write_text(json.dumps({"port": port}))


def test_given_host_wins() -> None:
    """A host that is given is taken as it is, and nobody is asked."""
    assert find_server("elsewhere:5", {"LM_HOST": "other"}) == Address("elsewhere", 5)


def test_host_of_the_environment_is_next(tmp_path: Path, answer: Answer) -> None:
    """LM_HOST is taken before anything on this machine."""
    configure_port(tmp_path, answer(GREETING))
    assert find_server(None, {"LM_HOST": "https://other", "HOME": str(tmp_path)}) == Address("other", 443, secure=True)


def test_bad_hosts_are_told_apart() -> None:
    """What was typed wrong is a usage error, what stands wrong in the environment a bad setting."""
    with pytest.raises(UsageError, match="'a b' is not a valid address"):
        find_server("a b", {})
    with pytest.raises(BadSetting, match="LM_HOST is not a valid address: 'ftp://x'"):
        find_server(None, {"LM_HOST": "ftp://x"})


def test_configured_port_is_asked_first(tmp_path: Path, answer: Answer, usual_ports: Callable[..., None]) -> None:
    """The port of LM Studio's own HTTP server is preferred to the API ports."""
    configured = answer(GREETING)
    usual_ports(answer(GREETING), http=answer(GREETING))
    configure_port(tmp_path, configured)
    assert find_server(None, {"HOME": str(tmp_path)}) == Address(HOST, configured)


def test_api_ports_come_before_the_http_port(tmp_path: Path, answer: Answer, usual_ports: Callable[..., None]) -> None:
    """Without a trace of an HTTP server the API ports are asked in their order, then 1234."""
    first, second, http = answer(GREETING), answer(GREETING), answer(GREETING)
    usual_ports(first, second, http=http)
    environment = {"HOME": str(tmp_path)}
    assert find_server(None, environment) == Address(HOST, first)
    assert candidate_ports(environment) == (first, second, http)


def test_http_port_is_the_last(
    tmp_path: Path, server: Running, nowhere: Nowhere, usual_ports: Callable[..., None]
) -> None:
    """The real server is found where only the last port answers."""
    usual_ports(nowhere(), nowhere(), http=server.port)
    configure_port(tmp_path, nowhere())
    assert find_server(None, {"HOME": str(tmp_path), "LM_HOST": ""}) == Address(HOST, server.port)


def test_nobody_is_found(tmp_path: Path, nowhere: Nowhere, usual_ports: Callable[..., None]) -> None:
    """Where nobody answers all the ports tried are named, with what to type, and nobody is waited for."""
    ports = nowhere(), nowhere()
    usual_ports(ports[0], http=ports[1])
    assert greetings(ports, within=FOREVER) == []
    with pytest.raises(CannotConnect, match=f"on port {ports[0]}, {ports[1]}$") as caught:
        find_server(None, {"HOME": str(tmp_path)})
    assert "lms server start" in caught.value.hints[0]


def test_several_servers_are_told(tmp_path: Path, answer: Answer, usual_ports: Callable[..., None]) -> None:
    """Two that listen for the API are two servers; the one that is taken is told first."""
    first, second = answer(GREETING), answer(GREETING)
    usual_ports(first, second)
    told: list[Sequence[Address]] = []
    find_server(None, {"HOME": str(tmp_path)}, on_several=told.append)
    assert told == [[Address(HOST, first), Address(HOST, second)]]


def test_one_server_has_two_ports(tmp_path: Path, answer: Answer, usual_ports: Callable[..., None]) -> None:
    """LM Studio answers at a port for the API and at that of its HTTP server: nothing to tell."""
    usual_ports(answer(GREETING), http=answer(GREETING))
    told: list[Sequence[Address]] = []
    find_server(None, {"HOME": str(tmp_path)}, on_several=told.append)
    assert told == []


def test_the_official_ports() -> None:
    """The ports are those of LM Studio, each once, a configured one first."""
    ports = (41343, 52993, 16141, 39414, 22931, 1234)
    assert candidate_ports({"HOME": "/nonexistent"}) == ports


def test_a_configured_port_is_not_asked_twice(tmp_path: Path) -> None:
    """A configured port that is one of the usual ones only moves to the front."""
    configure_port(tmp_path, 1234)
    assert candidate_ports({"HOME": str(tmp_path)}) == (1234, 41343, 52993, 16141, 39414, 22931)


@pytest.mark.parametrize("text", ['{"port": "1"}', '{"port": 0}', '{"port": 65536}', "[]", "{", "", '{"port": true}'])
def test_a_strange_configuration_is_passed_over(tmp_path: Path, text: str) -> None:
    """What LM Studio left behind is no reason to fail."""
    configure_port(tmp_path, 0)
    (tmp_path / ".lmstudio" / ".internal" / "http-server.json").write_text(text)
    assert candidate_ports({"HOME": str(tmp_path)})[0] == 41343


def test_the_info_file_of_the_environment_is_the_only_source(
    tmp_path: Path, answer: Answer, nowhere: Nowhere, usual_ports: Callable[..., None]
) -> None:
    """LMS_API_SERVER_INFO_PATH names the port, in the place of LM Studio's own file; no other port is asked."""
    server, usual = answer(GREETING), answer(GREETING)
    usual_ports(usual)
    file = tmp_path / "server info.json"
    environment = {"HOME": str(tmp_path), "LMS_API_SERVER_INFO_PATH": str(file)}
    file.write_text(json.dumps({"port": server}))
    assert find_server(None, environment) == Address(HOST, server)
    assert find_server(None, environment | {"LM_HOST": "other"}) == Address("other", 1234)
    file.write_text(json.dumps({"port": nowhere()}))
    with pytest.raises(CannotConnect):
        find_server(None, environment)


@pytest.mark.parametrize("text", [None, b"", b"{}", b"[1]", b'{"port": 0}', b'{"port": "1234"}', b"\xff"])
def test_a_bad_info_file_of_the_environment(tmp_path: Path, text: bytes | None) -> None:
    """A file that is not there or has no port is a bad setting, not a reason to ask other ports."""
    file = tmp_path / "info.json"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(BadSetting, match="LMS_API_SERVER_INFO_PATH"):
        candidate_ports({"HOME": str(tmp_path), "LMS_API_SERVER_INFO_PATH": str(file)})


def test_first_in_order_wins(answer: Answer, nowhere: Nowhere) -> None:
    """Among several that answer the first in the order of preference is taken."""
    one, two = answer(GREETING), answer(GREETING)
    assert greetings([nowhere(), one, two])[0] == one
    assert greetings([two, nowhere(), one])[0] == two
    assert greetings([]) == []


def test_a_silent_port_is_given_up(answer: Answer) -> None:
    """A port that accepts and sends nothing is waited for a moment only, and then the next one is taken."""
    silent, good = answer(then_silent=True), answer(GREETING)
    assert greetings([silent, good])[0] == good


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("data", "then"),
    [
        (b"", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"X-More: more\r\n"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"lmstudio": true', b" "),
    ],
    ids=["a line", "a header", "headers", "a body"],
)
@pytest.mark.parametrize("times", [1, 10_000], ids=["slow", "fast"])
def test_a_greeting_without_an_end(answer: Answer, data: bytes, then: bytes, times: int) -> None:
    """It is given up after a moment, or as soon as it is too long, and the next port is taken."""

    def attend(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)
        while True:
            connection.sendall(then * times)

    good = answer(GREETING)
    with Listener(attend) as endless:
        assert greetings([endless.port, good], within=FOREVER if times > 1 else 0.5) == [good]


def test_a_silent_port_behind_the_winner_costs_nothing(answer: Answer) -> None:
    """Nobody waits for a port whose answer does not matter."""
    good = answer(GREETING)
    assert greetings([good, answer(then_silent=True)], within=FOREVER)[0] == good


@pytest.mark.parametrize(
    "other",
    [
        b'HTTP/1.1 404 Not Found\r\nContent-Length: 17\r\n\r\n{"lmstudio":true}',
        b'HTTP/1.1 200 OK\r\n\r\n{"lmstudio":"true"}',
        b'HTTP/1.1 200 OK\r\n\r\n{"lmstudio":1}',
        b"HTTP/1.1 200 OK\r\n\r\n<html>{}</html>",
        b"HTTP/1.1 200 OK\r\n\r\n[true]",
        b"HTTP/1.1 200 OK\r\n\r\n\xff{\xfe}",
        b"HTTP/1.1 200 OK\r\n",
        b"220 mail.example ESMTP 200\r\n",
        b"\x00\x01\x02",
        b"x" * 200_000,
        b"",
    ],
)
def test_others_are_passed_over(answer: Answer, other: bytes) -> None:
    """Whoever answers something else is not LM Studio, and whoever comes after it is asked too."""
    good = answer(GREETING)
    assert greetings([answer(other), good])[0] == good
    assert greetings([answer(other)]) == []


@pytest.mark.parametrize("size", [1, 16, 70])
def test_greeting_in_pieces(answer: Answer, size: int) -> None:
    """An answer that arrives byte by byte, by a server that keeps the connection, is an answer."""
    pieces = [GREETING[start : start + size] for start in range(0, len(GREETING), size)]
    port = answer(*pieces, then_silent=True)
    assert greetings([port], within=FOREVER)[0] == port


@pytest.mark.parametrize(
    "body", [b'11\r\n{"lmstudio":true}\r\n0\r\n\r\n', b'{\n "lmstudio": true,\n "version": "1"\n}\n']
)
def test_greeting_in_other_clothes(answer: Answer, body: bytes) -> None:
    """A chunked body, white space and further keys do not hide a greeting."""
    port = answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert greetings([port])[0] == port


def test_studio_home(tmp_path: Path) -> None:
    """LM Studio's folder: the one of the pointer file, else the older place if it is there, else the usual one."""
    environment = {"HOME": str(tmp_path)}
    assert studio_home(environment) == tmp_path / ".lmstudio"
    older = tmp_path / ".cache" / "lm-studio"
    older.mkdir(parents=True)
    assert studio_home(environment) == older
    pointer = tmp_path / ".lmstudio-home-pointer"
    pointer.write_text("/somewhere/else\n")
    assert studio_home(environment) == Path("/somewhere/else")


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"\0/opt"])
def test_a_pointer_to_nowhere_is_passed_over(tmp_path: Path, content: bytes) -> None:
    """An empty or unreadable pointer file does not make the current folder LM Studio's."""
    (tmp_path / ".lmstudio-home-pointer").write_bytes(content)
    assert studio_home({"HOME": str(tmp_path)}) == tmp_path / ".lmstudio"


def test_token_makes_credentials() -> None:
    """A token is cut into identifier and passkey; white space around it does not matter."""
    assert tuple(credentials(f" {TOKEN}\n")) == ("Ab3dEf6h", "0123456789abcdefghij")


def test_guest_is_random() -> None:
    """Without a token every client is a guest of its own, within the lengths of the protocol."""
    one, other = credentials(), credentials()
    assert one.identifier.startswith("guest:")
    assert one.identifier != other.identifier
    assert one.passkey != other.passkey
    assert max(len(one.identifier), len(one.passkey)) <= 256


@given(st.text(min_size=8))
def test_malformed_token_is_not_shown(text: str) -> None:
    """What is no token is refused, and its text appears in no message."""
    with pytest.raises(BadSetting) as caught:
        credentials(text)
    assert text.strip() not in {caught.value.message, *caught.value.hints, repr(caught.value)} - {""}
    assert caught.value.message == "the API token is malformed"


@pytest.mark.parametrize("token", [TOKEN[:-1], TOKEN + "x", TOKEN.replace(":", "-"), TOKEN[6:], f"{TOKEN} {TOKEN}"])
def test_almost_a_token_is_not_shown(token: str) -> None:
    """A token with a slip is refused, and neither it nor a part of it is shown."""
    with pytest.raises(BadSetting) as caught:
        credentials(token)
    shown = " ".join([caught.value.message, *caught.value.hints])
    assert "0123456789" not in shown
    assert "Ab3dEf6h" not in shown


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"LM_API_TOKEN": ""}, None),
        ({"LM_API_TOKEN": "one"}, "one"),
        ({"LMSTUDIO_API_TOKEN": "two"}, "two"),
        ({"LM_API_TOKEN": "one", "LMSTUDIO_API_TOKEN": "two"}, "one"),
        ({"LM_API_TOKEN": "", "LMSTUDIO_API_TOKEN": "two"}, "two"),
    ],
)
def test_token_of_the_environment(environment: dict[str, str], expected: str | None) -> None:
    """Both variables are read, LM_API_TOKEN first; an empty one counts as unset."""
    assert find_token(None, environment) == expected


def test_token_of_a_file(tmp_path: Path) -> None:
    """A token file wins over the environment; the newline at its end is not part of the token."""
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    assert find_token(file, {"LM_API_TOKEN": "other"}) == TOKEN


def test_token_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is not there is missing input, one that is no text a bad setting; both are named."""
    with pytest.raises(NoInput, match=r"cannot read the token file '.*missing'"):
        find_token(tmp_path / "missing", {})
    (tmp_path / "binary").write_bytes(b"\xff\x00" + TOKEN.encode())
    with pytest.raises(BadSetting, match=r"the token file '.*binary' is not text") as caught:
        find_token(tmp_path / "binary", {})
    assert "sk-lm" not in str(caught.value)


def test_the_command_notes_which_of_several_servers_it_uses(
    tmp_path: Path, start_server: StartServer, nowhere: Nowhere
) -> None:
    """In one line on stderr, with what chooses another; not where it is to be quiet."""
    one, two = start_server().port, start_server().port
    ports = f"import lmcli.client.discovery as d\nd.API_PORTS, d.HTTP_PORT = ({one}, {two}), {nowhere()}\n"
    (tmp_path / "sitecustomize.py").write_text(ports)
    variables = environment(tmp_path, "", PYTHONPATH=str(tmp_path))
    servers = f"{HOST}:{one}, {HOST}:{two}"
    note = f"lm: several servers answer ({servers}), using {HOST}:{one}; -H chooses another\r\n"
    for quiet, said in (("--color=never", note), ("-q", "")):
        line = ["lm", "respond", "-n", quiet, "hi"]
        with start(*line, folder=tmp_path, variables=variables, stderr=Terminal()) as child:
            assert child.end() == 0
        assert (child["stdout"], child["stderr"].decode()) == (b"hi\n", said)


def test_the_command_says_how_to_go_on_without_a_server(tmp_path: Path, nowhere: Nowhere) -> None:
    """Where nobody answers: how to start one, and the options that name another, or none."""
    port = nowhere()
    (tmp_path / "sitecustomize.py").write_text(
        f"import lmcli.client.discovery as d\nd.API_PORTS, d.HTTP_PORT = (), {port}\n"
    )
    ran = run("lm respond -n hi", tmp_path, environment(tmp_path, "", PYTHONPATH=str(tmp_path)))
    assert (ran.status, ran.stderr.splitlines()) == (
        69,
        [
            f"lm: error: no LM Studio on this machine: nothing answers at {HOST} on port {port}",
            "lm: hint: lms server start starts it",
            "lm: hint: --host HOST:PORT names another server, --host local or demo needs none",
        ],
    )


@pytest.mark.parametrize(
    ("address", "is_private"),
    [
        (Address("127.0.0.1"), True),
        (Address("127.8.9.10"), True),
        (Address("localhost"), True),
        (Address("LocalHost"), True),
        (Address("::1"), True),
        (Address("0:0:0:0:0:0:0:1"), True),
        (Address("studio.local"), False),
        (Address("studio.local", secure=True), True),
        (Address("10.0.0.5"), False),
        (Address("::2"), False),
        (Address("0.0.0.0"), False),
        (Address("127.0.0.1.example.org"), False),
        (Address("127.1.example"), False),
        (Address("localhost.example"), False),
    ],
)
def test_a_token_stays_where_nobody_can_read_it(address: Address, *, is_private: bool) -> None:
    """On this machine, or under TLS; elsewhere only where that is asked for. A guest has nothing to hide."""
    owner, guest = credentials(TOKEN), credentials()
    Connection(address, guest)
    Connection(address, owner, insecure_token=True)
    if is_private:
        Connection(address, owner)
        return
    with pytest.raises(TokenExposed, match="the connection is not encrypted") as caught:
        Connection(address, owner)
    assert caught.value.hints[0].startswith(f"https://{address} ")
    assert "0123456789" not in str(caught.value)


def test_a_program_keeps_its_token_from_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client refuses as the command does, before it sends anything; `insecure_token` lets it."""
    monkeypatch.setenv("LM_API_TOKEN", TOKEN)
    for token in (None, TOKEN):
        with Client("nobody.invalid", token) as client, pytest.raises(TokenExposed):
            client.llm.model()
    with Client("nobody.invalid", insecure_token=True) as client, pytest.raises(CannotConnect):
        client.llm.model()
