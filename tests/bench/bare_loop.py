"""The least that a client can do: websockets' sans-I/O protocol, orjson, one write for each fragment.

`python bare_loop.py PORT PROMPT`; the yardstick that `lm respond` is measured against. With `--relay` behind them it
writes what comes as it is: the time that this takes is that of the system, to wake a process and to write.
"""

import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import orjson
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

Json = dict[str, Any]


def texts(connection: socket.socket, protocol: ClientProtocol) -> Iterator[bytes]:
    """The texts that one read brings."""
    protocol.receive_data(connection.recv(65536))
    for event in protocol.events_received():
        if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
            yield bytes(event.data)


def ask(port: int, prompt: str) -> tuple[socket.socket, ClientProtocol]:
    """Connect, and request an answer."""
    connection = socket.create_connection(("127.0.0.1", port))
    protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/llm"), max_size=None)

    def send(value: Json) -> None:
        protocol.send_text(orjson.dumps(value))
        connection.sendall(b"".join(protocol.data_to_send()))

    protocol.send_request(protocol.connect())
    connection.sendall(b"".join(protocol.data_to_send()))
    while protocol.state is State.CONNECTING:
        list(texts(connection, protocol))
    send({"authVersion": 1, "clientIdentifier": "guest:bare", "clientPasskey": "loop"})
    while not list(texts(connection, protocol)):
        pass
    history = {"messages": [{"role": "user", "content": [{"type": "text", "text": prompt}]}]}
    specifier = {"type": "query", "query": {"identifier": "echo"}}
    parameter = {"modelSpecifier": specifier, "history": history, "predictionConfigStack": {"layers": []}}
    send({"type": "channelCreate", "endpoint": "predict", "channelId": 1, "creationParameter": parameter})
    return connection, protocol


def write_fragments(connection: socket.socket, protocol: ClientProtocol) -> None:
    """Write what comes."""
    while True:
        for text in texts(connection, protocol):
            envelope = orjson.loads(text)
            if envelope["type"] == "channelClose":
                os.write(1, b"\n")
                return
            if envelope["message"]["type"] == "fragment":
                os.write(1, envelope["message"]["fragment"]["content"].encode())


def relay(connection: socket.socket) -> None:
    """Write what comes as it is."""
    data = b""
    while b"channelClose" not in data:
        data = connection.recv(65536)
        os.write(1, data)


if __name__ == "__main__":
    conversation = ask(int(sys.argv[1]), sys.argv[2])
    if sys.argv[3:] == ["--relay"]:
        relay(conversation[0])
    else:
        write_fragments(*conversation)
