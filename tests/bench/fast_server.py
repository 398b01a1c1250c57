"""A server that is never the bottleneck: canned frames, as many fragments as the prompt says.

`python fast_server.py` prints its port. A prompt such as "n=1000" gets that many fragments, any other gets one; "slow"
gets it when its connection has been silent for a while, so that it comes after all others that were sent.
It speaks just enough of the protocol for the clients that are measured: our own, a bare loop, the official SDK.
"""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import orjson
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

MODEL = {
    "type": "llm",
    "modelKey": "echo",
    "format": "gguf",
    "displayName": "Echo",
    "publisher": "bench",
    "path": "bench/echo",
    "sizeBytes": 1,
    "indexedModelIdentifier": "bench/echo",
    "deviceIdentifier": None,
    "vision": False,
    "trainedForToolUse": False,
    "maxContextLength": 4096,
    "identifier": "echo",
    "instanceReference": "echo",
    "ttlMs": None,
    "lastUsedTime": None,
    "contextLength": 4096,
}
BLOCK = 1000
SILENCE = 0.2
"""Seconds after which those who were put off are answered."""

Respond = Callable[[socket.socket, int, bytes], None]
"""Answers on a connection and a channel; the text has the prompt."""


def frame(value: Any) -> bytes:
    """One text frame."""
    return Frame(Opcode.TEXT, orjson.dumps(value)).serialize(mask=False)


def packet(channel_id: int, message: dict[str, Any]) -> bytes:
    """One packet of a channel."""
    return frame({"type": "channelSend", "channelId": channel_id, "message": message})


def fragment(channel_id: int, content: str = " token") -> bytes:
    """One token."""
    piece = {
        "content": content,
        "tokensCount": 1,
        "containsDrafted": False,
        "reasoningType": "none",
        "isStructural": False,
    }
    return packet(channel_id, {"type": "fragment", "fragment": piece})


def predict(connection: socket.socket, channel_id: int, count: int) -> None:
    """Send `count` fragments and the end."""
    one = fragment(channel_id)
    if count >= BLOCK:
        block = one * BLOCK
        for _ in range(count // BLOCK):
            connection.sendall(block)
    connection.sendall(one * (count % BLOCK) + ending(channel_id, count))


def respond_at_once(connection: socket.socket, channel_id: int, text: bytes) -> None:
    """Send as many fragments as the prompt says, and the end."""
    asked = re.search(rb"n=(\d+)", text)
    predict(connection, channel_id, int(asked[1]) if asked else 1)


def ending(channel_id: int, count: int) -> bytes:
    """The end of a prediction."""
    stats = {"stopReason": "eosFound", "promptTokensCount": 1, "predictedTokensCount": count}
    config: dict[str, Any] = {"fields": []}
    end = {"stats": stats, "modelInfo": MODEL, "loadModelConfig": config, "predictionConfig": config}
    return packet(channel_id, {"type": "success", **end}) + frame({"type": "channelClose", "channelId": channel_id})


def answer(connection: socket.socket, text: bytes, put_off: list[int], respond: Respond) -> None:
    """Answer one envelope, or put it off."""
    match orjson.loads(text):
        case {"authVersion": _}:
            connection.sendall(frame({"success": True}))
        case {"type": "rpcCall", "callId": call_id, "endpoint": "listLoaded"}:
            connection.sendall(frame({"type": "rpcResult", "callId": call_id, "result": [MODEL]}))
        case {"type": "channelCreate", "channelId": channel_id, "endpoint": "getOrLoad"}:
            info = packet(channel_id, {"type": "alreadyLoaded", "info": MODEL})
            connection.sendall(info + frame({"type": "channelClose", "channelId": channel_id}))
        case {"type": "channelCreate", "channelId": channel_id}:
            if b'"slow"' in text:
                put_off.append(channel_id)
            else:
                respond(connection, channel_id, text)


def received(connection: socket.socket, put_off: list[int]) -> Iterator[bytes]:
    """What comes, block by block; in a silence those who were put off are answered."""
    while True:
        connection.settimeout(SILENCE if put_off else None)
        try:
            data = connection.recv(1 << 20)
        except TimeoutError:
            for channel_id in put_off:
                predict(connection, channel_id, 1)
            put_off.clear()
            continue
        if not data:
            return
        yield data


def serve(connection: socket.socket, respond: Respond) -> None:
    """Serve one connection until it ends."""
    protocol = ServerProtocol(max_size=None)
    put_off: list[int] = []
    with connection:
        for data in received(connection, put_off):
            protocol.receive_data(data)
            for event in protocol.events_received():
                if isinstance(event, Request):
                    if event.path == "/lmstudio-greeting":
                        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"lmstudio":true}')
                        return
                    protocol.send_response(protocol.accept(event))
                elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                    connection.sendall(b"".join(protocol.data_to_send()))
                    answer(connection, bytes(event.data), put_off, respond)
            connection.sendall(b"".join(protocol.data_to_send()))


def serve_quietly(connection: socket.socket, respond: Respond) -> None:
    """Serve one connection; a client that leaves is no news."""
    with suppress(OSError):
        serve(connection, respond)


def accept(listener: socket.socket, respond: Respond = respond_at_once) -> None:
    """Serve each connection in a thread of its own, until the listener is shut down."""
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve_quietly, args=(connection, respond), daemon=True).start()


def main() -> None:
    """Listen on a free loopback port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        accept(listener)


if __name__ == "__main__":
    main()
