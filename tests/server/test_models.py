"""Models come and go: listing, loading, identifiers, time to live, unloading; files and the system's few words."""

import base64
import os
import socket
import time
from typing import Any

import pytest
from conftest import (
    PATIENCE,
    Connect,
    Packet,
    StartServer,
    Wire,
    open_unread,
    predicting,
    query,
    stack,
    stats_of,
    text_of,
    user,
    wait_until,
)

import lmcli
from lmcli.server.background import Running

EMPTY: Packet = {"layers": []}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


def loading(model_key: str = "echo-jit", **more: Any) -> Packet:
    return {"modelKey": model_key, "loadConfigStack": EMPTY, **more}


def getting(identifier: str = "echo-jit", **more: Any) -> Packet:
    return {"identifier": identifier, "loadConfigStack": EMPTY, **more}


def loaded(wire: Wire) -> list[str]:
    return [info["identifier"] for info in wire.result("listLoaded")]


def types(packets: list[Packet]) -> list[str]:
    return [packet["type"] for packet in packets]


def error(packet: Packet) -> Packet:
    found: Packet = packet.get("error", packet)
    assert found["rootTitle"] == found["title"]
    return found


def test_one_model_is_loaded_and_one_is_not(server: Running, connect: Connect) -> None:
    """`echo` is there at once, `echo-jit` only downloaded."""
    assert loaded(connect(server)) == ["echo"]
    downloaded = connect(server, "/system").result("listDownloadedModels")
    assert [(info["modelKey"], info["type"]) for info in downloaded] == [("echo", "llm"), ("echo-jit", "llm")]


def test_info_has_what_each_sdk_requires(wire: Wire) -> None:
    """The JavaScript SDK drops a model info without any of these keys, and then hangs."""
    assert set(wire.result("listLoaded")[0]) >= {
        "type", "modelKey", "displayName", "path", "format", "sizeBytes", "publisher", "indexedModelIdentifier",
        "deviceIdentifier", "maxContextLength", "vision", "trainedForToolUse", "identifier", "instanceReference",
        "ttlMs", "lastUsedTime", "contextLength",
    }  # fmt: skip


def test_loaded_model_is_given_at_once(wire: Wire) -> None:
    """`getOrLoad` of a loaded identifier, or of the path of its model, loads nothing."""
    for name in ("echo", "lmcli/echo"):
        packets = wire.stream("getOrLoad", getting(name))
        assert types(packets) == ["alreadyLoaded"]
        assert packets[0]["info"]["identifier"] == "echo"


def test_model_is_loaded_on_request(wire: Wire) -> None:
    """`getOrLoad` of a model key tells how the loading goes, from 0 to 1, and what came of it."""
    packets = wire.stream("getOrLoad", getting(loadTtlMs=60_000))
    assert types(packets) == ["startLoading", *["loadProgress"] * 6, "loadSuccess"]
    assert packets[0]["identifier"] == "echo-jit"
    progress = [packet["progress"] for packet in packets[1:-1]]
    assert (progress, progress[0], progress[-1]) == (sorted(progress), 0, 1)
    assert packets[-1]["info"]["ttlMs"] == 60_000
    assert loaded(wire) == ["echo", "echo-jit"]


def test_two_who_want_a_model_load_it_once(start_server: StartServer, connect: Connect) -> None:
    """The second watches the first one's loading, and hears of its progress, too."""
    server = start_server(load_seconds=0.1)
    first, second = connect(server), connect(server)
    channels = [(wire, wire.open("getOrLoad", getting())) for wire in (first, second)]
    for told in [wire.packets(channel) for wire, channel in channels]:
        assert (types(told)[0], types(told)[-1], set(types(told)[1:-1])) == (
            "startLoading",
            "loadSuccess",
            {"loadProgress"},
        )
    assert loaded(first) == ["echo", "echo-jit"]


def test_client_that_does_not_read_holds_up_nobody(start_server: StartServer, connect: Connect) -> None:
    """A load goes on whatever the one does who asked for it first; the next one has its model."""
    server = start_server(load_seconds=0.2)
    with socket.create_connection(("127.0.0.1", server.port)) as unread:
        open_unread(unread, predict=predicting("word " * 300_000), getOrLoad=getting())
        second = connect(server)
        assert types(second.stream("getOrLoad", getting()))[-1] in ("loadSuccess", "alreadyLoaded")


def test_load_ends_with_the_last_who_wants_it(start_server: StartServer, connect: Connect) -> None:
    """Who cancels is let go at once; the load goes on for the others, and a given-up one leaves its identifier."""
    server = start_server(load_seconds=1000)
    first, second = connect(server), connect(server)
    channels = [(wire, wire.open("getOrLoad", getting())) for wire in (first, second)]
    for wire, _ in channels:
        assert wire.receive()["message"]["type"] == "startLoading"
        assert wire.receive()["message"]["progress"] == 0
    for wire, channel in channels:
        wire.cancel(channel)
        assert "cancelled" in error(wire.packets(channel)[-1])["title"]
    again = first.open("getOrLoad", getting())
    assert first.receive()["message"]["identifier"] == "echo-jit"
    second.open("getOrLoad", getting())
    assert second.receive()["message"]["identifier"] == "echo-jit"
    second.socket.close()
    first.cancel(again)
    assert "cancelled" in error(first.packets(again)[-1])["title"]
    assert loaded(first) == ["echo"]


def test_slow_load_is_never_silent(
    start_server: StartServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that hears nothing for long gives up: the progress is told again and again."""
    monkeypatch.setattr("lmcli.server.load_tasks.NEWS_SECONDS", 0.01)
    wire = connect(start_server(load_seconds=1000))
    wire.open("getOrLoad", getting())
    told = [wire.receive()["message"] for _ in range(4)]
    assert told[1:] == [{"type": "loadProgress", "progress": 0}] * 3


def test_instances_are_numbered(wire: Wire) -> None:
    """`loadModel` always loads; without a wish for an identifier the second is `name:2`."""
    ends = [wire.stream("loadModel", loading())[-1] for _ in range(3)]
    assert [packet["info"]["identifier"] for packet in ends] == ["echo-jit", "echo-jit:2", "echo-jit:3"]
    assert types(wire.stream("loadModel", loading())) == ["resolved", *["progress"] * 6, "success"]


def test_taken_identifier_is_refused(start_server: StartServer, connect: Connect) -> None:
    """An explicit identifier is never numbered, and is taken from the beginning of the loading."""
    server = start_server(load_seconds=PATIENCE)
    first, second = connect(server), connect(server)
    channel = first.open("loadModel", loading(identifier="mine"))
    assert first.receive()["message"]["type"] == "resolved"
    assert "already exists" in error(second.stream("loadModel", loading(identifier="mine"))[-1])["title"]
    first.cancel(channel)
    assert first.packets(channel)[-1]["type"] == "error"
    channel = second.open("loadModel", loading(identifier="mine"))
    assert second.receive()["message"]["type"] == "resolved", "the cancel gave it back"


def test_loading_can_be_cancelled(start_server: StartServer, connect: Connect) -> None:
    """A cancel ends the loading at once, with an error, and no model."""
    wire = connect(start_server(load_seconds=1000))
    channel = wire.open("getOrLoad", getting())
    wire.cancel(channel)
    assert "cancelled" in error(wire.packets(channel)[-1])["title"]
    assert loaded(wire) == ["echo"]


def test_leaving_cancels_the_loading(start_server: StartServer, connect: Connect) -> None:
    """When the client is gone nobody wants its model; the next one loads it anew."""
    server = start_server(load_seconds=1000)
    first, second = connect(server), connect(server)
    first.open("loadModel", loading(identifier="mine"))
    assert first.receive()["message"]["type"] == "resolved"
    first.socket.close()

    def is_loading_anew() -> bool:
        second.open("loadModel", loading(identifier="mine"))
        return bool(second.receive()["type"] == "channelSend")

    wait_until(is_loading_anew)


def test_load_config_is_honoured_and_told(wire: Wire) -> None:
    """The context length that was asked for holds, up to the model's; the whole configuration can be asked for."""
    fields = [{"key": "llm.load.contextLength", "value": 64}, {"key": "llm.load.llama.flashAttention", "value": True}]
    config = {"layers": [{"layerName": "apiOverride", "config": {"fields": fields}}]}
    info = wire.stream("loadModel", loading() | {"loadConfigStack": config})[-1]["info"]
    assert info["contextLength"] == 64
    assert wire.result("getLoadConfig", {"specifier": query("echo-jit")})["fields"] == fields


@pytest.mark.parametrize("length", [0, -1, "long", 1.5, True])
def test_impossible_context_length_is_refused(wire: Wire, length: Any) -> None:
    """A context length that is no positive whole number fails the loading."""
    fields = [{"key": "llm.load.contextLength", "value": length}]
    config = {"layers": [{"layerName": "apiOverride", "config": {"fields": fields}}]}
    assert "contextLength" in error(wire.stream("loadModel", loading() | {"loadConfigStack": config})[-1])["title"]


@pytest.mark.parametrize(("endpoint", "parameter"), [("loadModel", loading("nope")), ("getOrLoad", getting("nope"))])
def test_unknown_model_key_names_what_there_is(wire: Wire, endpoint: str, parameter: Packet) -> None:
    """The error carries the keys that could be loaded."""
    assert error(wire.stream(endpoint, parameter)[-1])["displayData"] == {
        "code": "generic.pathNotFound",
        "path": "nope",
        "availablePathsSample": ["echo", "echo-jit"],
        "totalModels": 2,
    }


def test_unknown_identifier_names_what_is_loaded(wire: Wire) -> None:
    """A query without a match carries the query and the identifiers that are loaded."""
    expected = {
        "code": "generic.noModelMatchingQuery",
        "query": {"domain": "llm", "identifier": "nope"},
        "loadedModelsSample": ["echo"],
        "totalLoadedModels": 1,
    }
    assert error(wire.predict("a", identifier="nope")[-1])["displayData"] == expected
    asked = {"specifier": query("nope"), "throwIfNotFound": True}
    assert error(wire.call("getModelInfo", asked))["displayData"] == expected
    assert error(wire.call("unloadModel", {"identifier": "nope"}))["displayData"]["code"] == expected["code"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, "second"),
        ({"identifier": "echo"}, "echo"),
        ({"path": "lmcli/echo-jit"}, "second"),
        ({"vision": True, "domain": "llm", "deviceIdentifier": None}, "second"),
    ],
)
def test_query_finds_the_model_used_last(wire: Wire, asked: Packet, found: str) -> None:
    """Among several that fit it is the one used last."""
    wire.stream("loadModel", loading(identifier="second"))
    wire.predict("a", identifier="second")
    specifier = {"type": "query", "query": asked}
    assert wire.result("getModelInfo", {"specifier": specifier, "throwIfNotFound": True})["identifier"] == found


def test_reference_holds_one_instance(wire: Wire) -> None:
    """A reference to an unloaded instance does not find another of the same identifier."""
    specifier = {"type": "instanceReference", "instanceReference": wire.result("listLoaded")[0]["instanceReference"]}
    parameter = predicting("a") | {"modelSpecifier": specifier}
    assert text_of(wire.stream("predict", parameter)) == "a"
    wire.call("unloadModel", {"identifier": "echo"})
    wire.stream("getOrLoad", getting("echo"))
    assert error(wire.stream("predict", parameter)[-1])["displayData"] == {"code": "generic.specificModelUnloaded"}


def test_idle_model_is_unloaded(wire: Wire) -> None:
    """A model with a time to live is gone when it was idle for that long; one without stays."""
    wire.stream("loadModel", loading(ttlMs=20))
    wait_until(lambda: loaded(wire) == ["echo"])


def test_busy_model_is_not_idle(start_server: StartServer, connect: Connect) -> None:
    """The time to live does not run during a prediction, and begins anew after it."""
    wire = connect(start_server(tokens_per_second=40))
    wire.stream("loadModel", loading(ttlMs=20))
    packets = wire.predict("a b c d e f", identifier="echo-jit")
    assert stats_of(packets)["stopReason"] == "eosFound"
    assert stats_of(packets)["totalTimeSec"] > 0.1
    wait_until(lambda: loaded(wire) == ["echo"])


def test_unloading_ends_predictions(start_server: StartServer, connect: Connect) -> None:
    """A prediction whose model goes ends with what it has, and says why."""
    server = start_server(tokens_per_second=5)
    wire = connect(server)
    channel = wire.open("predict", predicting("word " * 1000))
    while wire.receive()["message"]["type"] != "fragment":
        pass
    connect(server).call("unloadModel", {"identifier": "echo"})
    assert stats_of(wire.packets(channel))["stopReason"] == "modelUnloaded"
    assert loaded(wire) == []


def test_processing_state_shows_the_work(start_server: StartServer, connect: Connect) -> None:
    """A model is idle, reads a prompt, or generates; how many wait for it is told."""
    server = start_server(prompt_tokens_per_second=20, tokens_per_second=5)
    wire, watch = connect(server), connect(server)
    asked = {"specifier": query(), "throwIfNotFound": True}
    assert watch.result("getInstanceProcessingState", asked) == {"status": "idle", "queued": 0}
    channel = wire.open("predict", predicting("word " * 100))
    wire.receive()
    assert watch.result("getInstanceProcessingState", asked) == {"status": "processingPrompt", "queued": 1}
    wire.cancel(channel)
    wire.packets(channel)
    channel = wire.open("predict", predicting("a b c"))
    while wire.receive()["message"]["type"] != "fragment":
        pass
    assert watch.result("getInstanceProcessingState", asked) == {"status": "generating", "queued": 1}


def test_time_of_use_is_told(wire: Wire) -> None:
    """A model that was never used says so; then it is the time of its last prediction."""
    assert wire.result("listLoaded")[0]["lastUsedTime"] is None
    wire.predict("a")
    assert abs(wire.result("listLoaded")[0]["lastUsedTime"] - time.time() * 1000) < PATIENCE * 1000


def test_text_can_be_measured(wire: Wire) -> None:
    """Tokens are counted and numbered alike, the same word with the same number."""
    asked = {"specifier": query(), "inputString": "to be or not to be \n"}
    assert wire.result("countTokens", asked) == {"tokenCount": 7}
    numbers = wire.result("tokenize", asked)["tokens"]
    assert len(numbers) == 7
    assert numbers[1] == numbers[5]


def test_template_can_be_shown(wire: Wire) -> None:
    """The text that the model would read is the built-in template's, or that of a manual one."""
    asked = {"specifier": query(), "history": user("Hi"), "predictionConfigStack": EMPTY, "opts": {}}
    assert wire.result("applyPromptTemplate", asked) == {"formatted": "[user]\nHi\n[assistant]\n"}
    manual = {"beforeUser": "U:", "afterUser": ";", "beforeAssistant": "A:"}
    template = {"type": "manual", "stopStrings": [], "manualPromptTemplate": manual}
    asked["predictionConfigStack"] = stack(promptTemplate=template)
    assert wire.result("applyPromptTemplate", asked) == {"formatted": "U:Hi;A:"}


def test_the_smaller_questions_have_answers(server: Running, connect: Connect) -> None:
    """What the SDKs ask beside the main thing is answered in the form that they read."""
    llm, system = connect(server), connect(server, "/system")
    base = llm.result("getBasePredictionConfig", {"specifier": query()})["fields"]
    assert {"key": "llm.prediction.temperature", "value": 0.8} in base
    usage = llm.result("estimateModelUsage", {"modelKey": "echo", "loadConfigStack": EMPTY})
    assert usage["passesGuardrails"] is True
    draft = llm.call("preloadDraftModel", {"specifier": query(), "draftModelKey": "echo-jit"})
    assert draft == {"type": "rpcResult", "callId": draft["callId"]}
    assert system.result("version") == {"version": lmcli.__version__, "build": 1}
    assert system.result("info") == {"pid": os.getpid(), "isDaemon": True, "version": lmcli.__version__}
    assert "result" not in system.call("notify", {"title": "Hi\x1b[2J"})
    assert system.result("listDownloadedModelVariants", {"modelKey": "echo"}) == []
    assert error(system.call("listDownloadedModelVariants", {"modelKey": "x"}))["displayData"]["path"] == "x"


def test_there_are_no_embedding_models(server: Running, connect: Connect) -> None:
    """`/embedding` lists nothing, and tells a language model from what it is asked for."""
    wire = connect(server, "/embedding")
    assert wire.result("listLoaded") == []
    assert error(wire.stream("getOrLoad", getting("echo"))[-1])["displayData"] == {
        "code": "generic.domainMismatch",
        "path": "echo",
        "actualDomain": "llm",
        "expectedDomain": "embedding",
    }
    asked = {"modelSpecifier": query(), "inputString": "a"}
    assert error(wire.call("embedString", asked))["displayData"]["code"] == "generic.noModelMatchingQuery"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (PNG, "image"),
        (b"\xff\xd8\xff\xe0" + bytes(8), "image"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "image"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "text/plain"),
        (b"%PDF-1.7", "application/pdf"),
        ("naïve".encode(), "text/plain"),
        (b"\x00\xff", "unknown"),
    ],
)
def test_upload_is_known_by_its_content(server: Running, connect: Connect, content: bytes, kind: str) -> None:
    """The type is read from the bytes, not from the name; the identifier has no scheme and no path."""
    wire = connect(server, "/files")
    asked = {"name": "../a:b/c.dat", "contentBase64": base64.b64encode(content).decode()}
    answer = wire.result("uploadFileBase64", asked)
    assert (answer["fileType"], answer["sizeBytes"]) == (kind, len(content))
    assert not set(answer["identifier"]) & set(":/\\")


def test_upload_that_is_no_base64_is_refused(server: Running, connect: Connect) -> None:
    """A broken upload is an error, not half a file."""
    asked = {"name": "x", "contentBase64": "?"}
    assert "base64" in error(connect(server, "/files").call("uploadFileBase64", asked))["title"]


@pytest.mark.parametrize("size", range(9))
def test_upload_is_decoded_in_pieces(
    server: Running, connect: Connect, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Wherever a large upload is cut, it is the same file; a cut does not hide a fault."""
    monkeypatch.setattr("lmcli.server.files.PIECE", 4)
    files = connect(server, "/files")
    text = "aé€zzzzzzzz"[:size]
    answer = files.result("uploadFileBase64", {"name": "x", "contentBase64": base64.b64encode(text.encode()).decode()})
    assert (answer["fileType"], answer["sizeBytes"]) == ("text/plain", len(text.encode()))
    broken = {"name": "x", "contentBase64": "YQ==" + "YWFh" * size + "YQ=="}
    assert "base64" in error(files.call("uploadFileBase64", broken))["title"]


def test_uploads_are_bounded(server: Running, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files of a client together may have a size; beyond it a file is refused, those before stay."""
    monkeypatch.setattr("lmcli.server.identities.MAX_UPLOADED_BYTES", 8)
    asked = {"name": "x", "contentBase64": base64.b64encode(b"1234").decode()}
    first, second = connect(server, "/files"), connect(server, "/files")
    assert first.result("uploadFileBase64", asked)["sizeBytes"] == 4
    assert second.result("uploadFileBase64", asked)["sizeBytes"] == 4
    assert "larger than" in error(second.call("uploadFileBase64", asked))["title"]


def test_files_live_as_long_as_their_client(server: Running, connect: Connect) -> None:
    """An upload can be used on the client's other connections, and is gone when it leaves."""
    llm, files = connect(server), connect(server, "/files")
    name = files.result("uploadFileBase64", {"name": "x.png", "contentBase64": base64.b64encode(PNG).decode()})
    part = {"type": "file", "name": "x.png", "identifier": name["identifier"], "sizeBytes": 8, "fileType": "image"}
    history = {"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, part]}]}
    parameter = predicting("") | {"history": history}
    assert text_of(llm.stream("predict", parameter)) == "see"
    files.socket.close()
    assert text_of(llm.stream("predict", parameter)) == "see", "the client is still there"
    llm.socket.close()
    wait_until(lambda: "File not found" in connect(server).stream("predict", parameter)[-1].get("title", ""))
