"""Who may connect: programs, and the pages of allowed origins, under a name of this machine."""

import http.client
import signal
import socket
from collections.abc import Iterable

import pytest
from conftest import GUEST, PATIENCE, Connect, Serve, StartServer
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers

from lmcli.errors import ExitCode
from lmcli.server.access import AccessPolicy, read_origin
from lmcli.server.background import Running

EVIL = "https://evil.example"
FRIEND = "https://friend.example"
GREETING = "/lmstudio-greeting"


def get(port: int, *headers: tuple[str, str], path: str = GREETING) -> http.client.HTTPResponse:
    """Send a GET request with exactly these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


UPGRADE = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
)


def upgrade(port: int, *, host: str = "127.0.0.1", origin: str | None = None) -> int:
    """Open a WebSocket as a browser does, with a host name and an origin; gives the status."""
    origins = [] if origin is None else [("Origin", origin)]
    answer = get(port, ("Host", host), *origins, *UPGRADE, path="/llm")
    assert answer.status == 101 or "Access-Control-Allow-Origin" not in answer.headers
    return answer.status


@pytest.fixture
def friendly(start_server: StartServer) -> Running:
    """A server that allows an origin."""
    return start_server(options={"allowed_origins": [FRIEND]})


@pytest.mark.parametrize("origin", [EVIL, "null", "http://127.0.0.1:3000", "http://localhost", "", FRIEND + ".evil"])
def test_browser_is_refused(friendly: Running, origin: str) -> None:
    """A web page can neither read a page of the server nor open a WebSocket, and gets no CORS header."""
    answer = get(friendly.port, ("Host", "127.0.0.1"), ("Origin", origin))
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (403, None)
    assert upgrade(friendly.port, origin=origin) == 403


def test_allowed_origin_is_answered(friendly: Running) -> None:
    """Its pages may read the answers and open WebSockets; any other answer says nothing about origins."""
    for path in (GREETING, "/nothing"):
        answer = get(friendly.port, ("Host", "127.0.0.1"), ("Origin", FRIEND), path=path)
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, FRIEND)
        assert answer.headers["Vary"] == "Origin"
    assert upgrade(friendly.port, origin=FRIEND) == 101
    plain = get(friendly.port, ("Host", "127.0.0.1"))
    assert (plain.status, plain.headers["Access-Control-Allow-Origin"]) == (200, None)


def test_second_origin_is_not_hidden_by_the_first(friendly: Running) -> None:
    """A request with two origins, or two hosts, is refused."""
    assert get(friendly.port, ("Host", "127.0.0.1"), ("Origin", FRIEND), ("Origin", EVIL)).status == 403
    assert get(friendly.port, ("Host", "127.0.0.1"), ("Host", "evil.example")).status == 403


@pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-site", 403), ("none", 200)])
def test_page_without_an_origin_is_refused(friendly: Running, site: str, status: int) -> None:
    """An image or a script of a page is requested without an origin; an address that a user types is answered."""
    assert get(friendly.port, ("Host", "127.0.0.1"), ("Sec-Fetch-Site", site)).status == status
    assert get(friendly.port, ("Host", "127.0.0.1"), ("Sec-Fetch-Site", site), ("Origin", FRIEND)).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "", "[localhost]x", "::1"],
)
def test_name_of_another_machine_is_refused(server: Running, host: str) -> None:
    """A site that gives its name the address of this machine is not answered under that name."""
    assert get(server.port, ("Host", host)).status == 403
    assert upgrade(server.port, host=host) == 403


def test_missing_host_is_refused(server: Running) -> None:
    """A request that does not say whom it is for is refused."""
    assert get(server.port).status == 403


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "localhost.", "127.0.0.1", "127.9.9.9:80", "[::1]:1234", "192.168.1.7:1234"]
)
def test_name_of_this_machine_is_answered(server: Running, host: str) -> None:
    """Loopback names and all IP addresses are answered: a site cannot have an address as its name."""
    assert get(server.port, ("Host", host)).status == 200
    assert upgrade(server.port, host=host) == 101


def test_own_host_name_is_answered(server: Running) -> None:
    """The machine's own name is answered."""
    assert get(server.port, ("Host", f"{socket.gethostname()}:{server.port}")).status == 200


def test_name_to_listen_on_is_answered(server: Running) -> None:
    """The name that the server was given to listen on is answered."""
    policy = AccessPolicy(["Box.Example."])
    assert policy.refusal(Headers(Host="box.example:1234")) is None
    assert policy.refusal(Headers(Host="box.example.evil")) is not None


HEADERS = st.tuples(st.sampled_from(["Host", "Origin"]), st.text(st.characters(min_codepoint=32, max_codepoint=126)))


@given(names=st.lists(st.text(), max_size=2), headers=st.lists(HEADERS))
def test_any_header_is_decided(names: list[str], headers: Iterable[tuple[str, str]]) -> None:
    """No header raises an exception, and no origin is allowed that was not given."""
    headers = list(headers)
    refusal = AccessPolicy(names).refusal(Headers(headers))
    assert refusal is not None or not any(name == "Origin" for name, _ in headers)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://Example.com", "https://example.com"),
        ("https://example.com:443", "https://example.com"),
        ("http://example.com:80", "http://example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("tauri://localhost", "tauri://localhost"),
    ],
)
def test_origin_is_compared_as_browsers_send_it(text: str, origin: str) -> None:
    """Lower case, without the scheme's own port."""
    assert read_origin(text) == origin


@pytest.mark.parametrize("text", ["", "null", "*", "example.com", "https://example.com/", "https://example.com/app"])
def test_what_is_not_an_origin_is_a_usage_error(serve: Serve, text: str) -> None:
    """What no browser sends as an origin is reported, with the form of an origin; `null` any page can have."""
    process = serve(allow_origin=text)
    assert process.address == ""
    _, stderr = process.process.communicate()
    assert process.process.returncode == ExitCode.USAGE
    assert f"lm: error: --allow-origin: '{text}' is not an origin\nlm: hint: " in stderr


def test_refused_page_is_logged_once(serve: Serve, connect: Connect) -> None:
    """The log of `lm serve` names the origin, and `--allow-origin`, which may be repeated, allows others."""
    with_origins = ["--allow-origin", FRIEND, "--allow-origin", "http://localhost:3000"]
    process = serve(*with_origins, lazy=False)
    for _ in range(3):
        assert upgrade(process.port, origin=EVIL) == 403
    assert upgrade(process.port, origin=FRIEND) == upgrade(process.port, origin="http://localhost:3000") == 101
    assert connect(process.port, identity=GUEST).result("listLoaded")
    stderr = process.end(signal.SIGTERM)[2]
    assert stderr.count("lm: warning: refused a request: the origin 'https://evil.example' is not allowed\n") == 1
