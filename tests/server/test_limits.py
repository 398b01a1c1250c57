"""What a client may send at most, and that no request keeps the server from others."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect, Packet, Wire, predicting, query, stack, stats_of, text_of
from packets import AFFIXES
from websockets.exceptions import ConnectionClosed

import lmcli
from lmcli.server import limits
from lmcli.server.background import Running
from lmcli.server.echo.schema_example import NoExample, schema_example
from lmcli.server.engine import off_loop
from lmcli.server.limits import (
    MAX_CONFIG_BYTES,
    MAX_FILES,
    MAX_INSTANCES,
    MAX_MESSAGES,
    MAX_NAME_CHARACTERS,
    MAX_NESTING,
    MAX_OBJECTS,
    MAX_PARTS,
    MAX_STOP_STRING_CHARACTERS,
    MAX_STOP_STRINGS,
    MAX_TEXT_BYTES,
    MAX_VALUES,
)
from lmcli.server.listener import AUTHENTICATION_SECONDS
from lmcli.server.sockets import MAX_CONNECTIONS
from lmcli.server.text_processing import ReasoningTags, StopStringMatcher, TextProcessor

MESSAGE: Packet = {"role": "user", "content": [{"type": "text", "text": "a"}]}
MANUAL: Packet = {"type": "manual", "manualPromptTemplate": AFFIXES}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def messages(count: int, parts: int = 1) -> Packet:
    return {"messages": [{**MESSAGE, "content": MESSAGE["content"] * parts}] * count}


def tags(size: int) -> Packet:
    return {"reasoning.parsing": {"enabled": True, "startString": "a" * size, "endString": "b"}}


@pytest.mark.parametrize(
    ("within", "beyond", "problem"),
    [
        (
            predicting("a", stack(stopStrings=["x"] * MAX_STOP_STRINGS)),
            predicting("a", stack(stopStrings=["x"] * (MAX_STOP_STRINGS + 1))),
            f"more than {MAX_STOP_STRINGS} stop strings",
        ),
        (
            predicting("a", stack(stopStrings=["x" * MAX_STOP_STRING_CHARACTERS])),
            predicting("a", stack(stopStrings=["x" * (MAX_STOP_STRING_CHARACTERS + 1)])),
            f"more than {MAX_STOP_STRING_CHARACTERS} characters",
        ),
        (
            predicting("a", stack(promptTemplate=MANUAL | {"stopStrings": ["x"] * MAX_STOP_STRINGS})),
            predicting("a", stack(promptTemplate=MANUAL | {"stopStrings": ["x"] * (MAX_STOP_STRINGS + 1)})),
            f"more than {MAX_STOP_STRINGS} stop strings",
        ),
        (
            predicting("a", stack(**tags(MAX_STOP_STRING_CHARACTERS))),
            predicting("a", stack(**tags(MAX_STOP_STRING_CHARACTERS + 1))),
            f"more than {MAX_STOP_STRING_CHARACTERS} characters",
        ),
        (
            predicting("a") | {"history": messages(MAX_MESSAGES)},
            predicting("a") | {"history": messages(MAX_MESSAGES + 1)},
            f"more than {MAX_MESSAGES} messages",
        ),
        (
            predicting("a") | {"history": messages(1, MAX_PARTS)},
            predicting("a") | {"history": messages(1, MAX_PARTS + 1)},
            f"more than {MAX_PARTS} parts",
        ),
        (
            predicting("a", stack(other="x" * (MAX_CONFIG_BYTES - 1000))),
            predicting("a", stack(other="x" * MAX_CONFIG_BYTES)),
            f"larger than {MAX_CONFIG_BYTES} bytes",
        ),
        (
            predicting("a", stack(other="\ud83d" * (MAX_CONFIG_BYTES // 10))),
            predicting("a", stack(other="\ud83d" + "x" * MAX_CONFIG_BYTES)),
            f"larger than {MAX_CONFIG_BYTES} bytes",
        ),
        (
            predicting("a", stack(other=nested(MAX_NESTING - 8))),
            predicting("a", stack(other=nested(MAX_NESTING - 6))),
            f"more than {MAX_NESTING} levels deep",
        ),
        (
            predicting("a", stack(other=[2**70, nested(MAX_NESTING - 9)])),
            predicting("a", stack(other=[2**70, nested(MAX_NESTING - 6)])),
            f"more than {MAX_NESTING} levels deep",
        ),
    ],
    ids=["stops", "length", "template", "tags", "messages", "parts", "config", "surrogates", "nesting", "integers"],
)
def test_prediction_beyond_a_limit_is_an_error(wire: Wire, within: Packet, beyond: Packet, problem: str) -> None:
    """It names the limit, and the connection goes on; what reaches the limit is served."""
    answer = wire.stream("predict", beyond)
    assert answer[-1]["type"] == "error"
    assert problem in answer[-1]["title"]
    assert stats_of(wire.stream("predict", within))["stopReason"] == "eosFound"


def test_call_beyond_a_limit_is_an_error(wire: Wire) -> None:
    """A call is answered as a channel is."""
    asked = {"specifier": query(), "history": messages(MAX_MESSAGES + 1), "predictionConfigStack": stack(), "opts": {}}
    assert "messages" in wire.call("applyPromptTemplate", asked)["error"]["title"]
    assert "levels deep" in wire.call("unloadModel", {"identifier": nested(MAX_NESTING)})["error"]["title"]


def test_files_of_a_client_are_limited(server: Running, connect: Connect) -> None:
    """A file beyond their number is an error, over all connections of the client; names are not too long."""
    wire = connect(server, "/files")
    upload = {"name": "x", "contentBase64": "QQ=="}
    for _ in range(MAX_FILES):
        wire.result("uploadFileBase64", upload)
    problem = connect(server, "/files").call("uploadFileBase64", upload)["error"]
    assert f"{MAX_FILES} uploaded files" in problem["title"]
    long = upload | {"name": "x" * (MAX_NAME_CHARACTERS + 1)}
    assert "characters" in wire.call("uploadFileBase64", long)["error"]["title"]


def test_loaded_models_are_limited(wire: Wire) -> None:
    """A load beyond the limit is an error."""
    loading = {"modelKey": "echo", "loadConfigStack": {"layers": []}}
    for _ in range(MAX_INSTANCES - 1):
        assert wire.stream("loadModel", loading)[-1]["type"] == "success"
    assert f"{MAX_INSTANCES} loaded models" in wire.stream("loadModel", loading)[-1]["title"]


def test_size_of_open_requests_is_limited(
    wire: Wire, server: Running, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that are not answered yet may not be larger than the limit together; answered ones do not count."""
    monkeypatch.setattr("lmcli.server.dispatch.MAX_OPEN_BYTES", 10_000)
    for _ in range(5):
        assert text_of(wire.predict("x" * 5000)) == "x" * 5000
    assert "open requests are larger" in wire.predict("x" * 10_000)[-1]["title"]


@pytest.mark.parametrize(
    "text",
    ["[" + "[]," * MAX_OBJECTS + "0]", "[" + "1," * MAX_VALUES + "0,0]", '{"type":"keepAlive"}' + " " * MAX_TEXT_BYTES],
    ids=["objects", "values", "size"],
)
def test_text_that_is_too_large_ends_its_connection(server: Running, connect: Connect, text: str) -> None:
    """The connection is closed for the reason that the message is too big; others go on."""
    other, wire = connect(server), connect(server)
    wire.send(text)
    with pytest.raises(ConnectionClosed) as ended:
        wire.receive()
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1009
    assert other.result("listLoaded")


class Counted(str):
    """A text that counts the characters that are taken out of it."""

    __slots__ = ()
    taken = 0

    def __radd__(self, other: str) -> str:
        return Counted(other + str(self))

    def __getitem__(self, index: Any) -> str:
        part = super().__getitem__(index)
        Counted.taken += len(part)
        return part

    def partition(self, separator: str) -> tuple[str, str, str]:
        Counted.taken += len(self)
        before, found, after = super().partition(separator)
        return before, found, Counted(after)


def test_stop_string_is_searched_in_linear_time() -> None:
    """The worst text for a stop string takes a few steps per character, however long the stop string is."""
    size = 20_000
    stop = Counted("a" * size + "b")
    matcher = StopStringMatcher([stop])
    Counted.taken = 0
    for _ in range(3):
        matcher.feed("a" * (size - 1) + "c")
    assert Counted.taken < 20 * 3 * size
    assert matcher.feed("a" * size + "b") == ""
    assert matcher.found == stop


def test_tags_in_one_piece_are_found_in_linear_time() -> None:
    """A piece with many tags is not copied for each of them."""
    piece = Counted("<>" * 20_000)
    processor = TextProcessor((), ReasoningTags("<", ">"))
    Counted.taken = 0
    assert sum(1 for _ in processor.feed(piece)) == 40_000
    assert Counted.taken < 20 * len(piece)


class Comparing(dict[str, Any]):
    """A schema that counts how often it is compared."""

    compared = 0

    def __ne__(self, other: object) -> bool:
        Comparing.compared += 1
        return super().__ne__(other)

    __hash__ = None


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
def test_alternatives_of_a_schema_are_counted(keyword: str) -> None:
    """A schema whose many alternatives refer to itself is refused before they are sorted again and again."""
    with pytest.raises(NoExample):
        schema_example({keyword: [Comparing({"$ref": "#"})] * 3_000})
    assert Comparing.compared < 50_000


def test_long_text_is_processed_on_a_thread() -> None:
    """The tokens of a text that takes more than some milliseconds are not counted on the event loop."""

    async def thread_of(text: str) -> int:
        return await off_loop(lambda _: threading.get_ident(), text)

    assert asyncio.run(thread_of("a")) == threading.get_ident()
    assert asyncio.run(thread_of("a " * 50_000)) != threading.get_ident()


def test_limits_are_documented() -> None:
    """The manual page has each limit, in numbers."""
    page = (Path(lmcli.__file__).parent.parent / "man" / "lm-serve.1").read_text(encoding="utf-8")
    sizes = {name: value for name, value in vars(limits).items() if name.startswith("MAX_")}
    sizes |= {"MAX_CONNECTIONS": MAX_CONNECTIONS, "AUTHENTICATION_SECONDS": AUTHENTICATION_SECONDS}
    missing = [
        name
        for name, value in sizes.items()
        if f"{value:,g}" not in page and f"{value:,}" not in page and f"{value // 1024**2:,} MiB" not in page
    ]
    assert len(sizes) > 10
    assert missing == []
