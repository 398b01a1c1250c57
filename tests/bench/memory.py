"""Memory for large inputs and answers: `python tests/bench/memory.py [--megabytes N]`.

The real `lm` against a server that discards what it receives. Printed are the size, the peak of the resident memory
above that of a small request, and their ratio. Nothing here is asserted; tests/test_memory.py has limits.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fast_server import MODEL, frame, packet
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

MEGABYTE = 1 << 20
_HEAD_BYTES = 1024
_FRAGMENT = "ten bytes " * 6000
_MEASURE = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
unit = 1 if sys.platform == "darwin" else 1024
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit)
"""
"""A small process that starts the one to be measured: a child begins with the peak of its parent."""


class Sink:
    """A server with one model, which keeps the beginning of each text only, and answers with so many bytes.

    Args:
        answer_bytes: the size of the answer.
        calls_tool: the answer is a tool call: its arguments are of that size, in pieces, and once more at its end.
    """

    def __init__(self, answer_bytes: int = 1, *, calls_tool: bool = False) -> None:
        self._answer_bytes = answer_bytes
        self._calls_tool = calls_tool
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as stream:
                shake_hands(connection, stream)
                for head in texts(stream):
                    self._answer(connection, head)
        except OSError:
            return

    def _answer(self, connection: socket.socket, head: str) -> None:
        if "authVersion" in head:
            connection.sendall(frame({"success": True}))
        elif '"rpcCall"' in head:
            result: Any = [MODEL] if "listLoaded" in head else {"identifier": "x", "fileType": "image", "sizeBytes": 1}
            connection.sendall(frame({"type": "rpcResult", "callId": number(head, "callId"), "result": result}))
        elif '"channelCreate"' in head:
            self._predict(connection, number(head, "channelId"))

    def _predict(self, connection: socket.socket, channel: int) -> None:
        sent = 0
        while sent < self._answer_bytes:
            text = _FRAGMENT[: self._answer_bytes - sent]
            sent += len(text)
            piece = {"content": text, "tokensCount": 1, "containsDrafted": False, "reasoningType": "none"}
            part = {"type": "toolCallGenerationArgumentFragmentGenerated", "content": text}
            connection.sendall(packet(channel, part if self._calls_tool else {"type": "fragment", "fragment": piece}))
        if self._calls_tool:
            call = {"type": "function", "name": "f", "arguments": {"a": "x" * self._answer_bytes}}
            connection.sendall(packet(channel, {"type": "toolCallGenerationEnd", "toolCallRequest": call}))
        config: dict[str, Any] = {"fields": []}
        stats = {"stopReason": "eosFound", "promptTokensCount": 1, "predictedTokensCount": 1}
        end = {"stats": stats, "modelInfo": MODEL, "loadModelConfig": config, "predictionConfig": config}
        last = packet(channel, {"type": "success", **end}) + frame({"type": "channelClose", "channelId": channel})
        connection.sendall(last)


def shake_hands(connection: socket.socket, stream: BinaryIO) -> None:
    """Accept a WebSocket."""
    protocol = ServerProtocol()
    while (line := stream.readline()).strip():
        protocol.receive_data(line)
    protocol.receive_data(b"\r\n")
    request = protocol.events_received()[0]
    assert isinstance(request, Request)
    protocol.send_response(protocol.accept(request))
    connection.sendall(b"".join(protocol.data_to_send()))


def texts(stream: BinaryIO) -> Iterator[str]:
    """The beginning of each text that arrives, in one frame or in several."""
    head = b""
    while start := stream.read(2):
        length = start[1] & 0x7F
        if length > 125:
            length = int.from_bytes(stream.read(2 if length == 126 else 8))
        mask = stream.read(4)
        kept = stream.read(min(length, _HEAD_BYTES))
        length -= len(kept)
        while length:
            length -= len(stream.read(min(length, MEGABYTE)))
        opcode, is_last = start[0] & 0x0F, start[0] & 0x80
        if opcode in (Opcode.TEXT, Opcode.CONT):
            head += bytes(byte ^ mask[i % 4] for i, byte in enumerate(kept))
            if is_last:
                yield head.decode(errors="ignore")
                head = b""


def number(head: str, key: str) -> int:
    """A number at the beginning of an envelope."""
    return int(head.partition(f'"{key}":')[2].partition(",")[0].rstrip("}"))


class Case(NamedTuple):
    """What is measured.

    Attributes:
        arguments: those of `lm`; FILE stands for the file.
        content: the content of the file, for a size.
        on_stdin: the file is stdin.
        is_answer: the size is that of the answer.
        is_call: the size is that of the arguments of a tool call.
    """

    arguments: str
    content: Callable[[int], bytes] = lambda _: b""
    on_stdin: bool = False
    is_answer: bool = False
    is_call: bool = False


def prompt(size: int) -> bytes:
    """Words."""
    return (b"some words of a prompt\n" * (size // 23 + 1))[:size]


def emoji(size: int) -> bytes:
    """Words, and one character for which Python's texts take four bytes each."""
    return prompt(size - 5) + "\n🦉".encode()


def image(size: int) -> bytes:
    """What begins as an image does."""
    return b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * (size // 256)


def history(size: int) -> bytes:
    """A history of one long message."""
    return json.dumps({"messages": [{"role": "user", "content": prompt(size).decode()}]}).encode()


def turns(size: int) -> bytes:
    """A history of many messages."""
    turn = [{"role": "user", "content": "word " * 200}, {"role": "assistant", "content": "word " * 200}]
    return json.dumps({"messages": turn * (size // 2100)}).encode()


CASES = {
    "prompt on stdin": Case("respond", prompt, on_stdin=True),
    "prompt and question": Case("respond why", prompt, on_stdin=True),
    "prompt with an emoji": Case("respond", emoji, on_stdin=True),
    "text to complete": Case("complete", prompt, on_stdin=True),
    "text file, -f": Case("respond -n -f FILE why", prompt),
    "image, -f": Case("respond -n -f FILE why", image),
    "history of one message": Case("respond", history, on_stdin=True),
    "history of many messages": Case("respond why", turns, on_stdin=True),
    "chat file": Case("chat -n --history FILE why", history),
    "one line for lm stats": Case(
        "stats FILE", lambda size: b'{"stats": {}, "x": "' + prompt(size)[:-1].replace(b"\n", b" ") + b'"}\n'
    ),
    "answer, text": Case("respond -n hi", is_answer=True),
    "answer, jsonl": Case("respond -n -o jsonl hi", is_answer=True),
    "answer, json": Case("respond -n -o json hi", is_answer=True),
    "answer, history": Case("respond -n -o history hi", is_answer=True),
    "answer, chat file": Case("chat -n --history FILE hi", is_answer=True),
    "tool call, text": Case("respond -n hi", is_call=True),
    "tool call, jsonl": Case("respond -n -o jsonl hi", is_call=True),
    "tool call, json": Case("respond -n -o json hi", is_call=True),
    "tool call, history": Case("respond -n -o history hi", is_call=True),
}


def peak(case: Case, size: int, folder: Path) -> int:
    """The largest resident memory of `lm`, in bytes."""
    sink = Sink(size if case.is_answer or case.is_call else 1, calls_tool=case.is_call)
    file = folder / "file"
    file.write_bytes(case.content(size))
    command = [str(file) if word == "FILE" else word for word in case.arguments.split()]
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LM_HOST": f"127.0.0.1:{sink.port}"}
    line = [sys.executable, "-c", _MEASURE, sys.executable, "-m", "lmcli", *command]
    with file.open("rb") as stdin:
        ran = subprocess.run(
            line, env=variables, stdin=stdin if case.on_stdin else subprocess.DEVNULL, capture_output=True, check=True
        )
    status, largest = map(int, ran.stdout.split())
    assert status == 0, ran.stderr.decode()
    return largest


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("cases", nargs="*", help="the beginnings of their names; all by default")
    options = parser.parse_args()
    size = options.megabytes * MEGABYTE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = peak(Case("respond -n hi"), 0, folder)
        print(f"{'CASE':<26} {'SIZE MB':>8} {'PEAK MB':>8} {'RATIO':>6}   (base: {base / MEGABYTE:.0f} MB)")
        for title, case in CASES.items():
            if title.startswith(tuple(options.cases) or ""):
                above = peak(case, size, folder) - base
                print(f"{title:<26} {size / MEGABYTE:8.0f} {above / MEGABYTE:8.0f} {above / size:6.2f}", flush=True)


if __name__ == "__main__":
    main()
