"""Models: listing, loading, identifiers, time to live, unloading; uploads, and the calls of `/system`."""

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
from packets import AFFIXES

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
    """`echo` is loaded at startup, `echo-jit` is only downloaded."""
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


def test_loaded_model_is_returned_at_once(wire: Wire) -> None:
    """`getOrLoad` of a loaded identifier, or of the path of its model, loads nothing."""
    for name in ("echo", "lmcli/echo"):
        packets = wire.stream("getOrLoad", getting(name))
        assert types(packets) == ["alreadyLoaded"]
        assert packets[0]["info"]["identifier"] == "echo"


def test_model_is_loaded_on_request(wire: Wire) -> None:
    """`getOrLoad` of a model key reports the progress from 0 to 1, then the loaded instance."""
    packets = wire.stream("getOrLoad", getting(loadTtlMs=60_000))
    assert types(packets) == ["startLoading", *["loadProgress"] * 6, "loadSuccess"]
    assert packets[0]["identifier"] == "echo-jit"
    progress = [packet["progress"] for packet in packets[1:-1]]
    assert (progress, progress[0], progress[-1]) == (sorted(progress), 0, 1)
    assert packets[-1]["info"]["ttlMs"] == 60_000
    assert loaded(wire) == ["echo", "echo-jit"]


def test_a_model_loaded_on_request_gives_way_to_the_next(wire: Wire) -> None:
    """With a time to live: the earlier one is unloaded first, which is reported."""
    wire.call("unloadModel", {"identifier": "echo"})
    wire.stream("getOrLoad", getting("echo-jit", loadTtlMs=60_000))
    packets = wire.stream("getOrLoad", getting("echo", loadTtlMs=60_000))
    assert types(packets)[:2] == ["unloadingOtherJITModel", "startLoading"]
    assert packets[0]["info"]["identifier"] == "echo-jit"
    assert loaded(wire) == ["echo"]


@pytest.mark.parametrize(("earlier", "later"), [({}, {"loadTtlMs": 60_000}), ({"loadTtlMs": 60_000}, {})])
def test_a_model_without_a_time_to_live_gives_way_to_none(wire: Wire, earlier: Packet, later: Packet) -> None:
    """Nor does any for it."""
    wire.call("unloadModel", {"identifier": "echo"})
    wire.stream("getOrLoad", getting("echo-jit", **earlier))
    assert types(wire.stream("getOrLoad", getting("echo", **later)))[0] == "startLoading"
    assert loaded(wire) == ["echo-jit", "echo"]


def test_a_busy_model_gives_way_to_none(start_server: StartServer, connect: Connect) -> None:
    """A prediction is not ended by what another client loads."""
    server = start_server(tokens_per_second=10)
    wire, other = connect(server), connect(server)
    other.call("unloadModel", {"identifier": "echo"})
    other.stream("getOrLoad", getting("echo-jit", loadTtlMs=60_000))
    channel = wire.open("predict", predicting("word " * 1000, identifier="echo-jit"))
    wire.receive()
    assert types(other.stream("getOrLoad", getting("echo", loadTtlMs=60_000)))[0] == "startLoading"
    assert loaded(other) == ["echo-jit", "echo"]
    wire.cancel(channel)
    assert stats_of(wire.packets(channel))["stopReason"] == "userStopped"


@pytest.mark.parametrize("name", ["lmcli/echo", "LMCLI/Echo"])
def test_a_repository_stands_for_all_its_models(wire: Wire, name: str) -> None:
    """Several match: the first is loaded, and all are reported."""
    resolved, *_, success = wire.stream("loadModel", loading(name))
    assert (resolved["type"], resolved["info"]["modelKey"]) == ("resolved", "echo")
    assert resolved["ambiguous"] == ["echo", "echo-jit"]
    assert success["info"]["identifier"] == "echo:2"
    assert "ambiguous" not in wire.stream("loadModel", loading("echo"))[0]
    assert types(wire.stream("getOrLoad", getting(name))) == ["alreadyLoaded"]


def test_a_name_of_several_models_prefers_a_loaded_one(wire: Wire) -> None:
    """Another one is not loaded where one that matches is there."""
    wire.call("unloadModel", {"identifier": "echo"})
    wire.stream("getOrLoad", getting("echo-jit"))
    (packet,) = wire.stream("getOrLoad", getting("lmcli/echo"))
    assert (packet["type"], packet["info"]["modelKey"]) == ("alreadyLoaded", "echo-jit")


def test_concurrent_requests_share_a_load(start_server: StartServer, connect: Connect) -> None:
    """The second client receives the progress of the load that the first one started."""
    server = start_server(load_seconds=0.1)
    first, second = connect(server), connect(server)
    channels = [(wire, wire.open("getOrLoad", getting())) for wire in (first, second)]
    for packets in [wire.packets(channel) for wire, channel in channels]:
        assert (types(packets)[0], types(packets)[-1], set(types(packets)[1:-1])) == (
            "startLoading",
            "loadSuccess",
            {"loadProgress"},
        )
    assert loaded(first) == ["echo", "echo-jit"]


def test_client_that_does_not_read_does_not_block_a_load(start_server: StartServer, connect: Connect) -> None:
    """A load continues although the client that started it does not read."""
    server = start_server(load_seconds=0.2)
    with socket.create_connection(("127.0.0.1", server.port)) as unread:
        open_unread(unread, predict=predicting("word " * 300_000), getOrLoad=getting())
        second = connect(server)
        assert types(second.stream("getOrLoad", getting()))[-1] in ("loadSuccess", "alreadyLoaded")


def test_load_is_cancelled_with_its_last_subscriber(start_server: StartServer, connect: Connect) -> None:
    """A cancel is answered at once, the load continues for the others, and a cancelled load releases its identifier."""
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
    """Progress is repeated during a slow load, because clients time out on a silent channel."""
    monkeypatch.setattr("lmcli.server.model_load.REPEAT_SECONDS", 0.01)
    wire = connect(start_server(load_seconds=1000))
    wire.open("getOrLoad", getting())
    packets = [wire.receive()["message"] for _ in range(4)]
    assert packets[1:] == [{"type": "loadProgress", "progress": 0}] * 3


def test_instances_are_numbered(wire: Wire) -> None:
    """`loadModel` always loads; without a given identifier the second instance is `name:2`."""
    ends = [wire.stream("loadModel", loading())[-1] for _ in range(3)]
    assert [packet["info"]["identifier"] for packet in ends] == ["echo-jit", "echo-jit:2", "echo-jit:3"]
    assert types(wire.stream("loadModel", loading())) == ["resolved", *["progress"] * 6, "success"]


def test_identifier_in_use_is_rejected(start_server: StartServer, connect: Connect) -> None:
    """A given identifier is never numbered, and is reserved when the load starts."""
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
    """A cancel ends the load at once, with an error and without a model."""
    wire = connect(start_server(load_seconds=1000))
    channel = wire.open("getOrLoad", getting())
    wire.cancel(channel)
    assert "cancelled" in error(wire.packets(channel)[-1])["title"]
    assert loaded(wire) == ["echo"]


def test_disconnecting_cancels_the_load(start_server: StartServer, connect: Connect) -> None:
    """The load of a client that disconnects is cancelled, and its identifier is free again."""
    server = start_server(load_seconds=1000)
    first, second = connect(server), connect(server)
    first.open("loadModel", loading(identifier="mine"))
    assert first.receive()["message"]["type"] == "resolved"
    first.socket.close()

    def is_loading_anew() -> bool:
        second.open("loadModel", loading(identifier="mine"))
        return bool(second.receive()["type"] == "channelSend")

    wait_until(is_loading_anew)


def test_load_config_is_applied_and_returned(wire: Wire) -> None:
    """The requested context length is applied, up to the maximum of the model; the load config is returned."""
    fields = [{"key": "llm.load.contextLength", "value": 64}, {"key": "llm.load.llama.flashAttention", "value": True}]
    config = {"layers": [{"layerName": "apiOverride", "config": {"fields": fields}}]}
    info = wire.stream("loadModel", loading() | {"loadConfigStack": config})[-1]["info"]
    assert info["contextLength"] == 64
    assert wire.result("getLoadConfig", {"specifier": query("echo-jit")})["fields"] == fields


@pytest.mark.parametrize("length", [0, -1, "long", 1.5, True])
def test_invalid_context_length_is_rejected(wire: Wire, length: Any) -> None:
    """A context length that is not a positive integer is an error."""
    fields = [{"key": "llm.load.contextLength", "value": length}]
    config = {"layers": [{"layerName": "apiOverride", "config": {"fields": fields}}]}
    assert "contextLength" in error(wire.stream("loadModel", loading() | {"loadConfigStack": config})[-1])["title"]


@pytest.mark.parametrize(("endpoint", "parameter"), [("loadModel", loading("nope")), ("getOrLoad", getting("nope"))])
def test_unknown_model_key_lists_the_downloaded_models(wire: Wire, endpoint: str, parameter: Packet) -> None:
    """The error contains the keys of the downloaded models."""
    assert error(wire.stream(endpoint, parameter)[-1])["displayData"] == {
        "code": "generic.pathNotFound",
        "path": "nope",
        "availablePathsSample": ["echo", "echo-jit"],
        "totalModels": 2,
    }


@pytest.mark.parametrize("name", ["", "x" * 1025, "a\0b", "__proto__"])
def test_identifiers_of_the_official_schema(wire: Wire, name: str) -> None:
    """No model is loaded under a name that no query could have; such a query is an invalid parameter."""
    title = error(wire.stream("loadModel", loading() | {"identifier": name})[-1])["title"]
    assert title.startswith("Invalid identifier: '")
    for part in ("identifier", "path"):
        asked = {"specifier": {"type": "query", "query": {part: name}}, "throwIfNotFound": True}
        wire.send({"type": "rpcCall", "callId": 77, "endpoint": "getModelInfo", "parameter": asked})
        warning = wire.receive()
        assert (warning["type"], warning["kind"]) == ("communicationWarning", "rpcParameterTypeError")


def test_unknown_identifier_lists_the_loaded_models(wire: Wire) -> None:
    """The error contains the query and the identifiers of the loaded models."""
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
        ({"path": "lmcli/echo/echo-jit"}, "second"),
        ({"vision": True, "domain": "llm", "deviceIdentifier": None}, "second"),
    ],
)
def test_query_finds_the_model_used_last(wire: Wire, asked: Packet, found: str) -> None:
    """Of several models that match, it is the one used last."""
    wire.stream("loadModel", loading(identifier="second"))
    wire.predict("a", identifier="second")
    specifier = {"type": "query", "query": asked}
    assert wire.result("getModelInfo", {"specifier": specifier, "throwIfNotFound": True})["identifier"] == found


def test_reference_identifies_one_instance(wire: Wire) -> None:
    """A reference to an unloaded instance does not match another one with the same identifier."""
    specifier = {"type": "instanceReference", "instanceReference": wire.result("listLoaded")[0]["instanceReference"]}
    parameter = predicting("a") | {"modelSpecifier": specifier}
    assert text_of(wire.stream("predict", parameter)) == "a"
    wire.call("unloadModel", {"identifier": "echo"})
    wire.stream("getOrLoad", getting("echo"))
    assert error(wire.stream("predict", parameter)[-1])["displayData"] == {"code": "generic.specificModelUnloaded"}


def test_idle_model_is_unloaded(wire: Wire) -> None:
    """A model that is idle for its time to live is unloaded; one without a time to live is not."""
    wire.stream("loadModel", loading(ttlMs=20))
    wait_until(lambda: loaded(wire) == ["echo"])


def test_busy_model_is_not_idle(start_server: StartServer, connect: Connect) -> None:
    """The time to live starts again after each prediction."""
    wire = connect(start_server(tokens_per_second=40))
    wire.stream("loadModel", loading(ttlMs=20))
    packets = wire.predict("a b c d e f", identifier="echo-jit")
    assert stats_of(packets)["stopReason"] == "eosFound"
    assert stats_of(packets)["totalTimeSec"] > 0.1
    wait_until(lambda: loaded(wire) == ["echo"])


def test_unloading_ends_predictions(start_server: StartServer, connect: Connect) -> None:
    """A prediction whose model is unloaded ends with the stop reason `modelUnloaded`."""
    server = start_server(tokens_per_second=5)
    wire = connect(server)
    channel = wire.open("predict", predicting("word " * 1000))
    while wire.receive()["message"]["type"] != "fragment":
        pass
    connect(server).call("unloadModel", {"identifier": "echo"})
    assert stats_of(wire.packets(channel))["stopReason"] == "modelUnloaded"
    assert loaded(wire) == []


def test_processing_state(start_server: StartServer, connect: Connect) -> None:
    """A model is idle, processing a prompt, or generating; the number of its predictions is reported."""
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


def test_last_used_time(wire: Wire) -> None:
    """It is null for an unused model, then the time of the last prediction."""
    assert wire.result("listLoaded")[0]["lastUsedTime"] is None
    wire.predict("a")
    assert abs(wire.result("listLoaded")[0]["lastUsedTime"] - time.time() * 1000) < PATIENCE * 1000


def test_text_is_tokenized(wire: Wire) -> None:
    """Tokens are counted and numbered, equal words equally."""
    asked = {"specifier": query(), "inputString": "to be or not to be \n"}
    assert wire.result("countTokens", asked) == {"tokenCount": 7}
    numbers = wire.result("tokenize", asked)["tokens"]
    assert len(numbers) == 7
    assert numbers[1] == numbers[5]


def test_prompt_template_is_applied(wire: Wire) -> None:
    """The prompt is formatted by the built-in template, or by a manual one."""
    asked = {"specifier": query(), "history": user("Hi"), "predictionConfigStack": EMPTY, "opts": {}}
    assert wire.result("applyPromptTemplate", asked) == {"formatted": "[user]\nHi\n[assistant]\n"}
    manual = AFFIXES | {"beforeUser": "U:", "afterUser": ";", "beforeAssistant": "A:"}
    template = {"type": "manual", "stopStrings": [], "manualPromptTemplate": manual}
    asked["predictionConfigStack"] = stack(promptTemplate=template)
    assert wire.result("applyPromptTemplate", asked) == {"formatted": "U:Hi;A:"}


def test_other_calls_of_the_sdks(server: Running, connect: Connect) -> None:
    """Each is answered in the shape that the SDKs require."""
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
    both = system.result("listDownloadedModelVariants", {"modelKey": "lmcli/echo"})
    assert [model["modelKey"] for model in both] == ["echo", "echo-jit"]
    assert error(system.call("listDownloadedModelVariants", {"modelKey": "x"}))["displayData"]["path"] == "x"


def test_there_are_no_embedding_models(server: Running, connect: Connect) -> None:
    """`/embedding` lists no models, and a language model is an error there."""
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
def test_file_type_is_detected_from_the_content(server: Running, connect: Connect, content: bytes, kind: str) -> None:
    """The type depends on the bytes, not on the name; the identifier contains no scheme and no path."""
    wire = connect(server, "/files")
    asked = {"name": "../a:b/c.dat", "contentBase64": base64.b64encode(content).decode()}
    answer = wire.result("uploadFileBase64", asked)
    assert (answer["fileType"], answer["sizeBytes"]) == (kind, len(content))
    assert not set(answer["identifier"]) & set(":/\\")


def test_invalid_base64_is_rejected(server: Running, connect: Connect) -> None:
    """An upload that cannot be decoded is an error."""
    asked = {"name": "x", "contentBase64": "?"}
    assert "base64" in error(connect(server, "/files").call("uploadFileBase64", asked))["title"]


@pytest.mark.parametrize("size", range(9))
def test_upload_is_decoded_in_pieces(
    server: Running, connect: Connect, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The result does not depend on where the text is split, and neither do errors."""
    monkeypatch.setattr("lmcli.server.file_endpoints.PIECE_SIZE", 4)
    files = connect(server, "/files")
    text = "aé€zzzzzzzz"[:size]
    answer = files.result("uploadFileBase64", {"name": "x", "contentBase64": base64.b64encode(text.encode()).decode()})
    assert (answer["fileType"], answer["sizeBytes"]) == ("text/plain", len(text.encode()))
    broken = {"name": "x", "contentBase64": "YQ==" + "YWFh" * size + "YQ=="}
    assert "base64" in error(files.call("uploadFileBase64", broken))["title"]


def test_uploads_are_bounded(server: Running, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that exceeds the limit for all files of a client is rejected; the others are kept."""
    monkeypatch.setattr("lmcli.server.authentication.MAX_UPLOADED_BYTES", 8)
    asked = {"name": "x", "contentBase64": base64.b64encode(b"1234").decode()}
    first, second = connect(server, "/files"), connect(server, "/files")
    assert first.result("uploadFileBase64", asked)["sizeBytes"] == 4
    assert second.result("uploadFileBase64", asked)["sizeBytes"] == 4
    assert "larger than" in error(second.call("uploadFileBase64", asked))["title"]


def test_files_are_dropped_with_their_client(server: Running, connect: Connect) -> None:
    """A file can be used on all connections of its client, and is dropped when the client disconnects."""
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
