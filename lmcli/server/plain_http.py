"""HTTP requests: the head of one is read, and answered, unless it is a WebSocket handshake.

websockets accepts GET requests without a body, and nothing else, so it receives the handshakes only. Every other
request has its answer here, after which the connection is closed, as `Connection: close` says: the body of a request is
received and dropped, since a connection that is closed before its data is read loses the answer, too.
Source: RFC 9112, sections 2 to 5 and 9.6
"""

import re
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import orjson
from websockets.datastructures import Headers
from websockets.http11 import Response

from lmcli.server.limits import MAX_HEAD_BYTES, MAX_HEADER_LINE_BYTES, MAX_HEADERS

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_BEGINNING: Final = re.compile(rb"\Z|" + _TOKEN)
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([!-~\x80-\xff]+) HTTP/1\.[01]\r")
_HEADER: Final = re.compile(rb"(" + _TOKEN + rb"):([\t -~\x80-\xff]*)")
# One that is not terminated by CR and LF is found, too, and rejected.
_END: Final = re.compile(rb"\n\r?\n")


class HttpRequest(NamedTuple):
    """The head of a request.

    Attributes:
        target: the path with the query.
    """

    method: str
    target: str
    headers: Headers

    @property
    def path(self) -> str:
        """The path without the query.

        Source: lmstudio-js 6ec11db, lms-communication-server/src/WsServer.ts
        """
        return self.target.partition("?")[0]

    @property
    def is_handshake(self) -> bool:
        """Whether it is a request for a WebSocket, as far as websockets would read it."""
        protocols = {name.strip().lower() for value in self.headers.get_all("Upgrade") for name in value.split(",")}
        has_body = "Transfer-Encoding" in self.headers or set(self.headers.get_all("Content-Length")) - {"0"}
        return self.method == "GET" and "websocket" in protocols and not has_body


class InvalidRequest(Exception):
    """What was received is not a request, or a too large one.

    Attributes:
        status: that of the answer.
    """

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


def read_head(received: bytes) -> HttpRequest | None:
    """Read the request that a client has sent; None while its head is incomplete.

    Raises:
        InvalidRequest: the head is malformed, as soon as that is certain, or too large.
    """
    end = _END.search(received)
    if len(received) > MAX_HEAD_BYTES and (end is None or end.start() > MAX_HEAD_BYTES):
        raise InvalidRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    first, has_more, _ = received.partition(b"\n")
    found = _REQUEST_LINE.fullmatch(first)
    if found is None and (has_more or not _BEGINNING.match(received)):
        raise InvalidRequest(HTTPStatus.BAD_REQUEST)
    if found is None or end is None:
        return None
    method, target = (text.decode(errors="replace") for text in found.groups())
    return HttpRequest(method, target, _read_headers(received[: end.end()].removesuffix(b"\r\n\r\n").split(b"\r\n")))


def _read_headers(lines: list[bytes]) -> Headers:
    """Read the lines of a head, of which the first is the request's."""
    if len(lines) > MAX_HEADERS or max(map(len, lines)) > MAX_HEADER_LINE_BYTES:
        raise InvalidRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    headers = Headers()
    for line in lines[1:]:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise InvalidRequest(HTTPStatus.BAD_REQUEST)
        name, value = (text.decode("latin-1") for text in found.groups())
        headers[name] = value.strip(" \t")
    return headers


def respond(status: HTTPStatus, body: Any) -> Response:
    """A response that is JSON, and the last one on its connection."""
    content = orjson.dumps(body)
    headers = Headers(
        {
            "Date": formatdate(usegmt=True),
            "Connection": "close",
            "Content-Length": str(len(content)),
            "Content-Type": "application/json; charset=utf-8",
        }
    )
    return Response(status, status.phrase, headers, content)
