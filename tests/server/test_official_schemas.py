"""The server warns about the requests that the official schemas refuse, and about no others."""

from collections.abc import Iterator, Sequence
from itertools import count

import pytest
from conftest import FOREVER, Connect, Packet, StartServer, Wire, predicting
from official_cases import VALID, Place, accepted_values, as_text, places

from lmcli.server.background import Running
from lmcli.server.dispatch import MAX_WARNINGS
from lmcli.server.listener import NAMESPACES
from lmcli.wire.envelopes import ABSENT

Case = tuple[Place, object]
ACCEPTED = accepted_values()
WARNINGS = {
    "call": "rpcParameterTypeError",
    "channel": "channelCreationParameterTypeError",
    "message": "channelMessageTypeError",
}
# What opens a channel that stays open, for messages to it.
OPENINGS: dict[str, Packet] = {
    "predict": {"creationParameter": predicting("a b c d e f g")},
    "getOrLoad": {"creationParameter": {"identifier": "echo-jit", "loadConfigStack": {"layers": []}}},
    "alive": {},
}


def is_served(namespace: str, endpoint: str) -> bool:
    served = NAMESPACES[f"/{namespace}"]
    return endpoint in (*served.calls, *served.channels)


@pytest.fixture
def slow(start_server: StartServer) -> Running:
    """A server on which loads and predictions do not end by themselves."""
    return start_server(prompt_tokens_per_second=1 / FOREVER, load_seconds=FOREVER)


def chunks(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Parts of which one socket can be warned about all that are refused."""
    chunk: list[Case] = []
    warnings = 0
    for place, value in cases:
        chunk.append((place, value))
        warnings += as_text(value) not in ACCEPTED[place.name]
        if warnings == MAX_WARNINGS or len(chunk) >= 50:
            yield chunk
            chunk, warnings = [], 0
    yield chunk


def send(wire: Wire, place: Place, value: object, number: int) -> None:
    """Send a case, and what the server answers as soon as it has read it."""
    parameter = place.parameter(value)
    if place.kind == "message":
        wire.send(
            {"type": "channelCreate", "endpoint": place.endpoint, "channelId": number, **OPENINGS[place.endpoint]}
        )
    kind, id_key, key = {
        "call": ("rpcCall", "callId", "parameter"),
        "channel": ("channelCreate", "channelId", "creationParameter"),
        "message": ("channelSend", "channelId", "message"),
    }[place.kind]
    body = {} if parameter is ABSENT else {key: parameter}
    wire.send({"type": kind, "endpoint": place.endpoint, id_key: number, **body})
    wire.send({"type": "keepAlive"})


def warning(wire: Wire) -> str | None:
    """The kind of the warning about the last case; None without one."""
    kind = None
    while (envelope := wire.receive())["type"] != "keepAliveAck":
        if envelope["type"] == "communicationWarning":
            kind = envelope["kind"]
    return kind


ENDPOINTS = sorted({entry[:3] for entry in VALID if is_served(entry[0], entry[2])})


@pytest.mark.parametrize(("namespace", "kind", "endpoint"), ENDPOINTS)
def test_what_is_refused_gets_a_warning(
    slow: Running, connect: Connect, namespace: str, kind: str, endpoint: str
) -> None:
    """One value of a valid request is left out, or another one; a key is added; and the verdict is the official one."""
    found = [place for place in places() if place[:3] == (namespace, kind, endpoint)]
    cases = [(place, value) for place in found for value in place.candidates]
    numbers = count()
    for chunk in chunks(cases):
        wire = connect(slow, f"/{namespace}")
        for place, value in chunk:
            send(wire, place, value, next(numbers))
        for place, value in chunk:
            expected = None if as_text(value) in ACCEPTED[place.name] else WARNINGS[kind]
            assert warning(wire) == expected, f"{place.name}: {as_text(value)}"
        wire.socket.close()


def test_table_is_whole() -> None:
    """There is a verdict for each place."""
    assert {place.name for place in places()} == ACCEPTED.keys()
