"""What the tests of a run that ends early share: paces, a flood, and what is left behind."""

import json
import select
import signal
import threading
from pathlib import Path
from typing import Any

from conftest import Connect, Packet, query, wait_until
from processes import StubConnection

from lmcli.server.background import Running

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
WORDS = " ".join(f"word{number}" for number in range(1000))
"""At the pace of these tests this takes a minute: a test that does not stop it fails."""

STREAMING = ("complete", {"tokens_per_second": 15})
READING = ("respond", {"prompt_tokens_per_second": 10})
LOADING = ("respond -m echo-jit", {"load_seconds": 60})


def wait_until_idle(connect: Connect, server: Running) -> None:
    """Wait until the server's model has nothing to do."""
    wire = connect(server)
    asked = {"specifier": query("echo"), "throwIfNotFound": True}
    wait_until(lambda: bool(wire.result("getInstanceProcessingState", asked) == {"status": "idle", "queued": 0}))


def last_line(file: Path) -> Any:
    """The last record of a stats file."""
    return json.loads(file.read_text().splitlines()[-1])


class Flood:
    """Fragments as fast as they go, until the cancel comes; then the end."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self._cancelled = threading.Event()

    def __call__(self, connection: StubConnection, envelope: Packet) -> None:
        """Begin with the channel, end with the cancel."""
        if envelope["type"] == "channelCreate":
            threading.Thread(target=self._pour, args=(connection, envelope["channelId"])).start()
        else:
            self._cancelled.set()

    def _pour(self, connection: StubConnection, channel: int) -> None:
        while not self._cancelled.is_set() and not connection.is_left:
            text = f"piece {len(self.sent)}\n"
            self.sent.append(text)
            connection.say(channel, text)
        connection.finish(channel, "userStopped")


def is_writable(pipe: int) -> bool:
    """Whether a pipe takes more."""
    return bool(select.select([], [pipe], [], 0)[1])
