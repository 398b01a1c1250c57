"""The recorded dialogues, read with our own protocol and payloads."""

import json
from collections import defaultdict
from typing import Any

import pytest
from recordings import NAMES, Line, lines

from lmcli.errors import LmError, ModelNotFound, PresetNotFound
from lmcli.values import Fragment, ModelInfo, ModelInstance, PredictionEnd, PromptProgress
from lmcli.wire import histories, objects, payloads
from lmcli.wire.channels import Prediction
from lmcli.wire.envelopes import Envelope, decode
from lmcli.wire.pieces import joined
from lmcli.wire.protocol import (
    Authenticated,
    CallFailed,
    CallReturned,
    ChannelClosed,
    ChannelFailed,
    Credentials,
    Event,
    Packets,
    Protocol,
)
from lmcli.wire.server_errors import failure

ALL = pytest.mark.parametrize("name", NAMES)
EVENTS = {
    "channelSend": Packets,
    "channelClose": ChannelClosed,
    "channelError": ChannelFailed,
    "rpcResult": CallReturned,
    "rpcError": CallFailed,
}


def value_of(packet: Any) -> Any:
    """What a packet of any of the channels says; None for one that is not known."""
    match packet:
        case {"type": "fragment"}:
            return payloads.fragment(packet)
        case {"type": "promptProcessingProgress" | "loadProgress" | "progress"}:
            return payloads.progress(packet)
        case {"type": "success", "stats": _}:
            return payloads.prediction_end(packet)
        case {"type": "alreadyLoaded" | "loadSuccess" | "success", "info": info}:
            return objects.read(ModelInstance, info)
        case {"type": "startLoading" | "resolved", "info": info}:
            return objects.read(ModelInfo, info)
    return None


def result_of(endpoint: str, result: Any) -> Any:
    """What the answer to a call says, for the calls that we make."""
    match endpoint:
        case "listLoaded":
            return [objects.read(ModelInstance, entry) for entry in result]
        case "listDownloadedModels":
            return [objects.read(ModelInfo, entry) for entry in result]
        case "getModelInfo":
            return objects.read(ModelInstance, result)
        case "uploadFileBase64":
            return histories.file_part(result, "name")
    return result


class Replay:
    """A recording played to our own client: it asks what was asked, under its own numbers, and is answered.

    Attributes:
        events: what each line of the server meant.
        values: what arrived, by endpoint and by our number of the channel or call.
    """

    def __init__(self, name: str) -> None:
        self.events: list[tuple[Line, Event | None]] = []
        self.values: dict[tuple[str, int], list[Any]] = defaultdict(list)
        self._protocol = Protocol()
        self._channels: dict[int, int] = {}
        self._calls: dict[int, int] = {}
        self._endpoints: dict[tuple[str, int], str] = {}
        for line in lines(name):
            if line.is_from_server:
                self._receive(line)
            else:
                self._ask(line.value)

    def _ask(self, value: Any) -> None:
        match value:
            case {"authVersion": 1, "clientIdentifier": identifier, "clientPasskey": passkey}:
                assert json.loads(self._protocol.authenticate(Credentials(identifier, passkey))) == value
            case {"type": "channelCreate", "channelId": theirs, "endpoint": endpoint}:
                ours, text = self._protocol.open_channel(endpoint, value["creationParameter"])
                assert json.loads(joined(text)) == value | {"channelId": ours}
                self._channels[theirs] = ours
                self._endpoints["channel", ours] = endpoint
            case {"type": "rpcCall", "callId": theirs, "endpoint": endpoint}:
                body = (value["parameter"],) if "parameter" in value else ()
                ours, text = self._protocol.call(endpoint, *body)
                assert json.loads(joined(text)) == value | {"callId": ours}
                self._calls[theirs] = ours
                self._endpoints["call", ours] = endpoint
            case {"type": "channelSend", "channelId": theirs, "message": {"type": "cancel"}}:
                assert json.loads(self._protocol.cancel(self._channels[theirs]) or "") == value | {
                    "channelId": self._channels[theirs]
                }
            case {"type": "communicationWarning"}:
                pass  # the JavaScript SDK complains; ours has nothing to complain about
            case _:
                raise AssertionError(value)

    def _receive(self, line: Line) -> None:
        value = dict(line.value)
        if "channelId" in value:
            value["channelId"] = self._channels[value["channelId"]]
        if "callId" in value:
            value["callId"] = self._calls[value["callId"]]
        event = next(self._protocol.receive([json.dumps(value)]), None)
        self.events.append((line, event))
        match event:
            case Packets(number, [body]):
                self._keep("channel", number, value_of(body))
            case ChannelFailed(number, error):
                self._keep("channel", number, failure(error))
            case CallReturned(number, result):
                self._keep("call", number, result_of(self._endpoints["call", number], result))
            case CallFailed(number, error):
                self._keep("call", number, failure(error))

    def _keep(self, kind: str, number: int, value: Any) -> None:
        if value is not None:
            self.values[self._endpoints[kind, number], number].append(value)


def test_all_recordings_are_here() -> None:
    """Both official SDKs, all namespaces."""
    assert {name.split("-")[0] for name in NAMES} == {"js200", "py150"}
    assert {name.split("-")[2] for name in NAMES} == {"llm", "embedding", "system", "files"}


@ALL
def test_every_line_of_the_server_decodes(name: str) -> None:
    """Each text of a server is an envelope that says what it said, but for the greeting, which is none."""
    greeting, *rest = [line for line in lines(name) if line.is_from_server]
    assert greeting.value == {"success": True}
    for line in rest:
        envelope = decode(line.text)
        assert isinstance(envelope, Envelope)
        assert envelope.type == line.value["type"]
        assert envelope.id == line.value.get("channelId", line.value.get("callId", -1))


@ALL
def test_replay(name: str) -> None:
    """Each line means the event of its kind; only kinds from the future mean nothing."""
    (_, greeted), *rest = Replay(name).events
    assert greeted == Authenticated()
    for line, event in rest:
        expected = EVENTS.get(line.value["type"])
        assert (type(event) if event is not None else None) == expected, line.text


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("llm")])
def test_predictions_are_read_to_their_end(name: str) -> None:
    """Each prediction is progress, then fragments, then its stats; or it ends with an error that has a sentence."""
    predictions = [v for (e, _), v in Replay(name).values.items() if e in ("predict", "completeRawText")]
    assert predictions
    for values in predictions:
        kinds = [type(value) for value in values]
        fragments = [value for value in values if isinstance(value, Fragment)]
        assert kinds == sorted(kinds, key=_rank)
        if isinstance(values[-1], PredictionEnd):
            stats = values[-1].stats
            assert (stats.predicted_tokens_count or 0) >= sum(fragment.tokens_count for fragment in fragments)
            assert stats.total_tokens_count == (stats.prompt_tokens_count or 0) + (stats.predicted_tokens_count or 0)


def _rank(kind: type) -> int:
    return {float: 0, Fragment: 1}.get(kind, 2)


@pytest.mark.parametrize("name", ["js200-1-llm", "py150-1-llm"])
def test_what_the_recordings_hold(name: str) -> None:
    """The long recordings have a load with progress, a refused preset and models that are not there."""
    values = Replay(name).values
    loads = [v for (endpoint, _), v in values.items() if endpoint == "getOrLoad"]
    assert any(isinstance(v[-1], ModelInstance) and 1.0 in v for v in loads)
    errors = [value for arrived in values.values() for value in arrived if isinstance(value, LmError)]
    assert {"no model 'no-such-model'", "no loaded model is called 'no-such-model'", "no preset 'nope'"} <= {
        error.message for error in errors if isinstance(error, ModelNotFound | PresetNotFound)
    }
    assert any("crashed" in error.message and "smaller context" in error.hints[0] for error in errors)
    texts = {"".join(f.content for f in v if isinstance(f, Fragment)) for (e, _), v in values.items() if e == "predict"}
    assert "You said: hello brave new world" in texts


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("llm")])
def test_the_details_of_the_progress_add_up(name: str) -> None:
    """Each progress of the recordings has them, and those of the last are in the stats of the prediction."""
    predictions: defaultdict[int, Prediction] = defaultdict(Prediction)
    cached: dict[int, int | None] = {}
    for line in lines(name):
        number, packet = line.value.get("channelId"), line.value.get("message")
        match packet:
            case {"type": "promptProcessingProgress"}:
                predictions[number].take([packet])
                (progress,) = predictions[number].read()
                assert isinstance(progress, PromptProgress)
                assert progress.details is not None
                total, *parts = progress.details.as_dict().values()
                assert total == sum(parts)
                cached[number] = progress.details.cached_token_count
            case {"type": "success", "stats": _}:
                predictions[number].take([packet])
                end = predictions[number].end
                assert end is not None
                assert end.stats.cached_prompt_tokens_count == cached.get(number)
