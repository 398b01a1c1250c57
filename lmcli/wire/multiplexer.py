"""Many channels and calls on one socket: texts in, texts to send out; no socket, no clock.

A session, synchronous or not, passes in the texts that arrived, sends the texts that are to be sent, and checks
whether the channels and calls that it waits for are ready.
"""

from collections.abc import Callable, Collection
from typing import Any, Final

from lmcli.errors import LmError, RemoteProtocolError
from lmcli.wire.channels import Call, Channel, Loading, Pending, Prediction
from lmcli.wire.envelopes import ABSENT
from lmcli.wire.pieces import Text
from lmcli.wire.protocol import (
    Authenticated,
    CallFailed,
    CallReturned,
    ChannelClosed,
    ChannelFailed,
    Credentials,
    Packets,
    Protocol,
)
from lmcli.wire.requests import ChannelRequest

WARNINGS: Final = 5
"""How many warnings a server sends on one socket; after them it ignores what it does not understand.
Source: lmstudio-js 6ec11db, lms-communication-server/src/ServerPort.ts"""
IGNORED: Final = 100_000
"""How many texts in a row a server may send that mean nothing here. A real one sends few: kinds that are not known yet,
and what it still sends on a channel that was given up, at most an answer of some ten thousand fragments."""


class Multiplexer:
    """The client's side of one socket.

    Attributes:
        is_authenticated: the server has accepted the credentials.
        error: what made the socket unusable; what arrived before it can still be read.
        ignored_count: how many texts have arrived since the last ones that brought a channel or a call on.
        has_raw_completion: False once the server has rejected `completeRawText` as unknown.
    """

    def __init__(self) -> None:
        self.is_authenticated = False
        self.error: RemoteProtocolError | None = None
        self.has_raw_completion = True
        self.ignored_count = 0
        self._protocol = Protocol()
        self._channels: dict[int, Channel] = {}
        self._calls: dict[int, Call] = {}
        self._outgoing: list[Text] = []

    @property
    def is_mute(self) -> bool:
        """Whether the server has used up its warnings, so that a request could wait for ever."""
        return self._protocol.warnings_count >= WARNINGS

    @property
    def running(self) -> list[Channel]:
        """The channels that the server has not ended."""
        return list(self._channels.values())

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, and nothing is asked."""
        return not self._channels and not self._calls

    @property
    def unanswered(self) -> list[Pending]:
        """The channels and calls for which nothing has arrived."""
        return [one for one in self._pending if not one.is_answered]

    @property
    def has_texts_to_send(self) -> bool:
        """Whether `texts_to_send` would return something; asked after each read."""
        return bool(self._outgoing)

    def texts_to_send(self) -> list[Text]:
        """What is to be sent now, in order; each text is given once."""
        texts, self._outgoing = self._outgoing, []
        return texts

    def authenticate(self, credentials: Credentials) -> None:
        """Send the credentials."""
        self._outgoing.append(self._protocol.authenticate(credentials))

    def call(self, endpoint: str, parameter: Any = ABSENT) -> Call:
        """Make one call."""
        number, text = self._protocol.call(endpoint, parameter)
        self._outgoing.append(text)
        call = self._calls[number] = Call(endpoint)
        return call

    def load(self, request: ChannelRequest) -> Loading:
        """Have a model loaded, see `requests.get_or_load`."""
        loading = Loading()
        self._open(loading, request)
        return loading

    def predict(self, request: ChannelRequest, fallback: ChannelRequest | None = None) -> Prediction:
        """Begin a prediction; `fallback` is the same for a server without the endpoint."""
        if fallback is not None and not self.has_raw_completion:
            request, fallback = fallback, None
        prediction = Prediction(fallback)
        self._open(prediction, request)
        return prediction

    def cancel(self, channel: Channel) -> None:
        """Ask the server, once, to end a channel soon; harmless where it has ended."""
        if channel.is_cancelled:
            return
        channel.is_cancelled = True
        channel.on_cancel()
        text = self._protocol.cancel(channel.number)
        if text is not None:
            self._outgoing.append(text)

    def give_up(self, pending: Pending, error: LmError) -> None:
        """End what the server will not answer; what still arrives for it is ignored."""
        pending.fail(error)
        for table in (self._channels, self._calls):
            for number in [number for number, other in table.items() if other is pending]:
                del table[number]

    def break_off(self, channel: Channel, error: LmError) -> None:
        """Cancel a channel and end it with an error; what arrived before can still be read."""
        channel.fail(error)
        self.cancel(channel)
        del self._channels[channel.number]

    def give_up_all(self, error: Callable[[], LmError]) -> None:
        """End all channels and calls, each with an error of its own; what arrived before can still be read."""
        pending = self._pending
        self._channels.clear()
        self._calls.clear()
        for one in pending:
            one.fail(error())

    def receive(self, texts: Collection[bytes]) -> None:
        """Dispatch what has arrived to its channels and calls.

        Raises:
            NotAllowed: the server refused the credentials.
        """
        has_meaning = False
        try:
            for event in self._protocol.receive(texts):
                meant = self._take(*event) if type(event) is Packets else self._dispatch(event)
                has_meaning = meant or has_meaning
        except RemoteProtocolError as error:
            self.error = error
        else:
            self.ignored_count = 0 if has_meaning else self.ignored_count + len(texts)
            if self.ignored_count > IGNORED:
                self.error = RemoteProtocolError(f"the server sent {self.ignored_count} messages that mean nothing")

    def _take(self, number: int, packets: list[Any]) -> bool:
        """Give packets to their channel, and forget it if its result has come; whether they meant something."""
        if (channel := self._channels.get(number)) is None:
            return False
        try:
            has_meaning = channel.take(packets)
        except LmError as error:
            self.break_off(channel, error)
            return True
        if channel.has_ended:
            del self._channels[channel.number]
            self._protocol.end_channel(channel.number)
        return has_meaning

    @property
    def _pending(self) -> list[Pending]:
        return [*self._channels.values(), *self._calls.values()]

    def _dispatch(self, event: Any) -> bool:
        """React to an event other than packets; whether it meant something."""
        match event:
            case Authenticated():
                self.is_authenticated = True
            case ChannelClosed(number) if number in self._channels:
                self._channels.pop(number).close()
            case ChannelFailed(number, error) if number in self._channels:
                self._failed(self._channels[number], error)
            case CallReturned(number, result) if number in self._calls:
                self._calls.pop(number).answer(result)
            case CallFailed(number, error) if number in self._calls:
                self._calls.pop(number).fail(error)
            case _:
                return False
        return True

    def _failed(self, channel: Channel, error: Any) -> None:
        if not self._retried(channel, error):
            del self._channels[channel.number]
            channel.fail(error)
            return
        self.has_raw_completion = False
        if self.is_mute:  # the server will not answer the others, nor say so
            for other in [other for other in self.running if not other.is_answered]:
                self._retried(other, error)

    def _retried(self, channel: Channel, error: Any) -> bool:
        """Send what a channel has to be sent in place of a request that failed with this error; whether it has."""
        request = channel.retry(error)
        if request is not None:
            del self._channels[channel.number]
            self._protocol.end_channel(channel.number)
            self._open(channel, request)
        return request is not None

    def _open(self, channel: Channel, request: ChannelRequest) -> None:
        channel.number, text = self._protocol.open_channel(request.endpoint, request.parameter)
        self._channels[channel.number] = channel
        self._outgoing.append(text)
