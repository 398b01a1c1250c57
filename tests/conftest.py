"""What tests share: real servers, in a thread or as a process, and a client that sends and receives bare JSON."""

import gc
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import pytest
from websockets.client import ClientProtocol
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_socket
from websockets.uri import parse_uri

from lmcli.client.address import Address
from lmcli.client.session import Session
from lmcli.client.waiting import Interrupt
from lmcli.server import background
from lmcli.server.echo.echo_engine import EchoEngine, Pace
from lmcli.server.engine import Engine
from lmcli.wire.protocol import Credentials

pytest_plugins = ["transports", "dialogues", "tiny_server"]

# A suite that runs in the background may have the signals of the keyboard ignored, which its children would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
# Threads of llama.cpp that wait for each other spin by default, which takes the processor from all other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# An installed package has its byte code; without it a process takes twice as long to start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

PATIENCE = 10.0
"""Seconds after which a wait has failed."""
FOREVER = 1000.0
"""Seconds that no test lasts: a wait that could take so long and ends, was ended."""

LOOPS = [
    "asyncio",
    pytest.param(
        "uvloop", marks=pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop has no wheel for this Python")
    ),
]
"""The event loops that the asynchronous API is tested on."""

GUEST = {"authVersion": 1, "clientIdentifier": "guest:tests", "clientPasskey": "secret"}
Packet = dict[str, Any]


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for a state that nothing reports, by asking for it again and again."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.002)


def query(identifier: str | None = "echo") -> Packet:
    """A model specifier; None is any model."""
    return {"type": "query", "query": {} if identifier is None else {"identifier": identifier}}


def stack(**values: Any) -> Packet:
    """A config stack of prediction values; a name stands for the key after `llm.prediction.`."""
    fields = [{"key": f"llm.prediction.{key}", "value": value} for key, value in values.items()]
    return {"layers": [{"layerName": "apiOverride", "config": {"fields": fields}}]}


def user(text: str) -> Packet:
    """A history of one user message."""
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}


def checked(value: Any) -> Packet:
    """The value of an option with a switch that is on."""
    return {"checked": True, "value": value}


@dataclass
class Wire:
    """A connection on which a test sends and receives decoded JSON, with no protocol of ours between."""

    socket: ClientConnection
    _ids: Iterator[int] = field(default_factory=itertools.count)

    def send(self, value: Any) -> None:
        """Send a value as one text; a string as it is."""
        self.socket.send(value if isinstance(value, str | bytes) else json.dumps(value))

    def receive(self) -> Packet:
        """Wait for the next text."""
        packet: Packet = json.loads(self.socket.recv(timeout=PATIENCE))
        return packet

    def begin(self, kind: str, endpoint: str, parameter: Packet | None = None) -> int:
        """Send a call or open a channel; gives its number."""
        number = next(self._ids)
        keys = {"rpcCall": ("callId", "parameter"), "channelCreate": ("channelId", "creationParameter")}[kind]
        body = {} if parameter is None else {keys[1]: parameter}
        self.send({"type": kind, "endpoint": endpoint, keys[0]: number, **body})
        return number

    def call(self, endpoint: str, parameter: Packet | None = None) -> Packet:
        """Call an endpoint; gives the whole `rpcResult` or `rpcError`."""
        number = self.begin("rpcCall", endpoint, parameter)
        answer = self.receive()
        assert answer.get("callId") == number, answer
        return answer

    def result(self, endpoint: str, parameter: Packet | None = None) -> Any:
        """Call an endpoint; gives the result."""
        answer = self.call(endpoint, parameter)
        assert answer["type"] == "rpcResult", answer
        return answer["result"]

    def open(self, endpoint: str, parameter: Packet | None = None) -> int:
        """Open a channel; gives its number."""
        return self.begin("channelCreate", endpoint, parameter)

    def cancel(self, channel: int) -> None:
        """Ask for the end of a channel's work."""
        self.send({"type": "channelSend", "channelId": channel, "message": {"type": "cancel"}})

    def packets(self, channel: int) -> list[Packet]:
        """Everything that a channel sends, up to its end; an error is the last packet."""
        packets: list[Packet] = []
        while True:
            envelope = self.receive()
            assert envelope.get("channelId") == channel, envelope
            if envelope["type"] == "channelClose":
                return packets
            if envelope["type"] == "channelError":
                return [*packets, {"type": "error", **envelope["error"]}]
            packets.append(envelope["message"])

    def stream(self, endpoint: str, parameter: Packet) -> list[Packet]:
        """Open a channel and wait for its end."""
        return self.packets(self.open(endpoint, parameter))

    def predict(
        self, text: str, config: Packet | None = None, *, identifier: str = "echo", **more: Any
    ) -> list[Packet]:
        """Run a prediction on one user message."""
        return self.stream("predict", predicting(text, config, identifier=identifier, **more))


def predicting(text: str, config: Packet | None = None, *, identifier: str = "echo", **more: Any) -> Packet:
    """The parameter of a prediction on one user message."""
    config = stack() if config is None else config
    return {"modelSpecifier": query(identifier), "history": user(text), "predictionConfigStack": config, **more}


def text_of(packets: Sequence[Packet]) -> str:
    """The fragments' text."""
    return "".join(packet["fragment"]["content"] for packet in packets if packet["type"] == "fragment")


def stats_of(packets: Sequence[Packet]) -> Packet:
    """The stats of a prediction that came to its end."""
    assert packets[-1]["type"] == "success", packets[-1]
    stats: Packet = packets[-1]["stats"]
    return stats


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that may take longest: at the end, one process would be left with them, the others idle."""

    def longest(item: pytest.Item) -> float:
        marker = item.get_closest_marker("timeout")
        return max(marker.args[0] if marker else 0, float(item.config.getini("timeout")))

    items.sort(key=longest, reverse=True)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the keys of the test models out of the completions of the user who runs the suite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _commands_are_processes() -> Iterator[None]:
    """No test may run a command in this process: it freezes the heap for good, and Hypothesis takes that for a leak."""
    yield
    assert gc.get_freeze_count() == 0, "a test has called `main` of `lm` in the process of the tests"


def open_unread(server: socket.socket, **openings: Packet) -> None:
    """Open channels by hand, by endpoint and parameter, and read nothing beyond the first bytes of the first one."""
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client = ClientProtocol(parse_uri("ws://127.0.0.1/llm"))
    client.send_request(client.connect())
    texts: list[Packet | None] = [None, GUEST]
    for number, (endpoint, parameter) in enumerate(openings.items()):
        texts.append(
            {"type": "channelCreate", "endpoint": endpoint, "channelId": number, "creationParameter": parameter}
        )
    for index, text in enumerate(texts):
        if text is not None:
            client.send_text(json.dumps(text).encode())
        server.sendall(b"".join(client.data_to_send()))
        if index <= len((None, GUEST)):
            client.receive_data(server.recv(4096))


Connect = Callable[..., Wire]
StartServer = Callable[..., background.Running]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers in this process: with the echo models at a pace, or with another engine."""
    with ExitStack() as cleanup:

        def start(engine: Engine | None = None, *, options: Packet | None = None, **pace: Any) -> background.Running:
            engine = engine or EchoEngine(Pace(**pace))
            return cleanup.enter_context(background.start(engine, **(options or {})))

        yield start


@pytest.fixture
def server(start_server: StartServer) -> background.Running:
    """A server in this process with the echo models, as fast as they go."""
    return start_server()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens connections: to a port or a running server, a namespace, under an identity (None: unauthenticated)."""
    with ExitStack() as cleanup:

        def to(server: background.Running | int, namespace: str = "/llm", identity: Packet | None = GUEST) -> Wire:
            port = server if isinstance(server, int) else server.port
            socket = open_socket(
                f"ws://127.0.0.1:{port}{namespace}", max_size=None, compression=None, close_timeout=0.1
            )
            wire = Wire(cleanup.enter_context(socket))
            if identity is not None:
                wire.send(identity)
                assert wire.receive() == {"success": True}
            return wire

        yield to


@pytest.fixture
def wire(server: background.Running, connect: Connect) -> Wire:
    """An authenticated connection to `/llm` of `server`."""
    return connect(server)


@dataclass
class Process:
    """`lm serve` as a process."""

    process: subprocess.Popen[str]
    address: str

    @property
    def port(self) -> int:
        """The port in the address that it printed."""
        return int(self.address.rsplit(":", 1)[1])

    def end(self, number: int) -> tuple[int, str, str]:
        """Send a signal and wait; gives the status and what else was printed."""
        self.process.send_signal(number)
        stdout, stderr = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, stdout, stderr


Serve = Callable[..., Process]


def flags(options: Packet) -> list[str]:
    """Options as they are typed: `{"load_seconds": 1, "quiet": True}` → `--load-seconds 1 --quiet`."""
    words: list[str] = []
    for name, value in options.items():
        if value is not False:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts `lm serve` as a process, with its options by name; one that does not come up has an empty address.

    A model is loaded at its start only with `lazy=False`.
    """
    with ExitStack() as cleanup:

        def start(*models: str, **options: Any) -> Process:
            command = [
                sys.executable,
                "-m",
                "lmcli",
                "serve",
                *flags({"port": 0, "lazy": bool(models)} | options),
                *models,
            ]
            process = cleanup.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
            cleanup.callback(process.kill)
            assert process.stdout is not None
            return Process(process, process.stdout.readline().rstrip("\n"))

        yield start


Open = Callable[..., Session]
CREDENTIALS = Credentials("guest:somebody", "the-secret-passkey")


@pytest.fixture
def open_session() -> Iterator[Open]:
    """Opens sessions, which are closed when the test ends."""
    with ExitStack() as cleanup:

        def to(server: Any, namespace: str = "llm", **options: Any) -> Session:
            session = Session.open(Address("127.0.0.1", server.port), namespace, CREDENTIALS, **options)
            cleanup.callback(session.close)
            return session

        yield to


@pytest.fixture
def interrupt() -> Iterator[Interrupt]:
    """An interrupt that has come already."""
    reader, writer = os.pipe()
    os.write(writer, b"!")
    yield Interrupt(reader)
    os.close(reader)
    os.close(writer)
