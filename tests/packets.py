"""Packets for scripted servers to send, and readers of channels."""

from collections.abc import Callable
from typing import Any

from faults import Peer, ScriptedServer

from lmcli.client.session import Session
from lmcli.errors import (
    LmError,
)
from lmcli.values import Fragment, ModelInstance
from lmcli.wire import requests
from lmcli.wire.channels import Channel, Prediction
from lmcli.wire.load_config import LoadConfig
from lmcli.wire.prediction_config import PredictionConfig
from lmcli.wire.requests import ChannelRequest

INSTANCE = {
    "type": "llm",
    "modelKey": "tiny",
    "displayName": "Tiny",
    "path": "acme/tiny",
    "format": "gguf",
    "sizeBytes": 1,
    "maxContextLength": 4096,
    "contextLength": 4096,
    "identifier": "tiny",
    "instanceReference": "x",
}
Packet = dict[str, Any]
AFFIXES = {f"{place}{role}": "" for place in ("before", "after") for role in ("System", "User", "Assistant")}
"""A manual prompt template that adds nothing to the messages."""


def sent(channel: int, packet: Any) -> Packet:
    return {"type": "channelSend", "channelId": channel, "message": packet}


def piece(content: str, channel: int = 1) -> Packet:
    return sent(channel, {"type": "fragment", "fragment": {"content": content}})


def success(channel: int = 1, stop_reason: str = "eosFound") -> Packet:
    return sent(channel, {"type": "success", "stats": {"stopReason": stop_reason}, "modelInfo": INSTANCE})


def closed(channel: int = 1) -> Packet:
    return {"type": "channelClose", "channelId": channel}


def failed(title: str, channel: int = 1) -> Packet:
    return {"type": "channelError", "channelId": channel, "error": {"title": title, "rootTitle": title}}


def warning(text: str, **more: str) -> Packet:
    return {"type": "communicationWarning", "warning": text, **more}


def asking(text: str = "hello", model: str = "echo") -> ChannelRequest:
    return requests.respond(model, [message(text)], PredictionConfig())


def message(text: str) -> Any:
    from lmcli.chat import Message, TextPart

    return Message("user", (TextPart(text),))


def answering(*values: Any, then: Callable[[Peer], None] = Peer.wait_until_left) -> ScriptedServer:
    """A server that authenticates the client, waits for one request, sends some values in one write, and goes on."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        peer.send(*values)
        then(peer)

    return ScriptedServer(script)


def leave(_: Peer) -> None:
    """End the connection."""


def text_of(session: Session, channel: Channel, *, until: int | None = None) -> str:
    """The fragments' text, to the end or until so many characters have come."""
    text = ""
    while not channel.is_over and (until is None or len(text) < until):
        text += "".join(value.content for value in session.read(channel) if isinstance(value, Fragment))
    return text


def what_came(session: Session, channel: Channel) -> tuple[str, LmError | None]:
    """The fragments' text up to the end, and the error that it ended with."""
    text = ""
    try:
        for burst in session.bursts(channel):
            text += "".join(value.content for value in burst if isinstance(value, Fragment))
    except LmError as error:
        return text, error
    return text, None


def loaded(session: Session, key: str) -> ModelInstance:
    """Have a model loaded, unless it is."""
    loading = session.load(requests.get_or_load(key, LoadConfig()))
    for _ in session.bursts(loading):
        pass
    return loading.loaded()


COMPLETING = ("tiny", "once upon", PredictionConfig())


def completing(session: Session) -> Prediction:
    return session.predict(requests.complete(*COMPLETING), requests.complete_by_predict(*COMPLETING))
