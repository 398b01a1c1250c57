"""Predictions that a client asks a stub server for, answered when and how a test says."""

import queue
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from conftest import PATIENCE, Packet
from processes import StubConnection


class Asked(NamedTuple):
    """A prediction that was asked for."""

    connection: StubConnection
    channel: int
    text: str

    def say(self, text: str) -> None:
        """Send a piece of the answer."""
        self.connection.say(self.channel, text)

    def finish(self, stop_reason: str = "eosFound") -> None:
        """Send its end."""
        self.connection.finish(self.channel, stop_reason)

    def answer(self) -> None:
        """Send the whole answer, which is the question."""
        self.say(self.text)
        self.finish()

    def fail(self, title: str) -> None:
        """Send an error instead of the end."""
        error = {"title": title, "rootTitle": title}
        self.connection.send({"type": "channelError", "channelId": self.channel, "error": error})

    def lose(self) -> None:
        """End its connection without a close frame."""
        with suppress(OSError):  # the client has ended it
            self.connection.socket.socket.shutdown(socket.SHUT_RDWR)


class Predictions:
    """Collects what is asked of a stub server, and what is cancelled."""

    def __init__(self) -> None:
        self._asked: queue.Queue[Asked] = queue.Queue()
        self._cancelled: queue.Queue[int] = queue.Queue()
        self.count = 0

    def __call__(self, connection: StubConnection, envelope: Packet) -> None:
        """Collect an envelope."""
        if envelope["type"] == "channelCreate":
            self.count += 1
            self._asked.put(Asked(connection, envelope["channelId"], _text(envelope["creationParameter"])))
        elif envelope["message"] == {"type": "cancel"}:
            self._cancelled.put(envelope["channelId"])

    def next(self, *, within: float = PATIENCE) -> Asked:
        """Wait for the next prediction."""
        return self._asked.get(timeout=within)

    def take(self, count: int) -> Iterator[Asked]:
        """The next predictions, each waited for when it is wanted: it may take the answer to the one before."""
        return (self.next() for _ in range(count))

    def next_cancelled(self) -> int:
        """Wait for the channel that is cancelled next."""
        return self._cancelled.get(timeout=PATIENCE)

    @property
    def is_all_taken(self) -> bool:
        """Whether nothing was asked besides what was taken."""
        return self._asked.empty()


def _text(parameter: Packet) -> str:
    text: str
    if "rawPrompt" in parameter:
        text = parameter["rawPrompt"]
    else:
        text = parameter["history"]["messages"][-1]["content"][0]["text"]
    return text
