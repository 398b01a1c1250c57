"""Where a server is: what a person writes, and what a socket needs."""

import re
import socket
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from lmcli.errors import BadSetting, LmError, UsageError, quoted
from lmcli.record import distinct

LOOPBACK: Final = "127.0.0.1"
HTTP_PORT: Final = 1234
"""The user-visible server of LM Studio. Source: lms, src/createClient.ts:14"""

_LOOPBACK_NETWORK: Final = 127
_SCHEMES: Final = {"http": False, "ws": False, "https": True, "wss": True}
_SCHEME_PORTS: Final = {False: 80, True: 443}
_API_PATHS: Final = re.compile(r"/(api/)?v\d+$")
_LONGEST_LABEL: Final = 63
_FORMS: Final = "an address looks like studio.local, 10.0.0.5:1234, https://host or ws://host:1234"


@distinct
class Address(NamedTuple):
    """A server's host and port, whether to use TLS, and a path prefix without a slash at its end."""

    host: str
    port: int = HTTP_PORT
    secure: bool = False
    prefix: str = ""

    def __str__(self) -> str:
        return f"{'https://' if self.secure else ''}{self._host}:{self.port}{self.prefix}"

    @property
    def _host(self) -> str:
        """The host as a URL has it. RFC 3986, 3.2.2: an IPv6 address in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def authority(self) -> str:
        """Host and port as a request has them. RFC 9110, 7.2: without the port that the scheme implies."""
        return self._host if self.port == _SCHEME_PORTS[self.secure] else f"{self._host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, by a name or an address that cannot mean another one."""
        if self.host.lower() == "localhost":
            return True
        try:
            if ":" in self.host:
                return socket.inet_pton(socket.AF_INET6, self.host) == bytes(15) + b"\1"
            return socket.inet_pton(socket.AF_INET, self.host)[0] == _LOOPBACK_NETWORK
        except OSError:
            return False

    @property
    def is_private(self) -> bool:
        """Whether nobody on a network can read what is sent there."""
        return self.secure or self.is_loopback

    def websocket_url(self, namespace: str) -> str:
        """The URL of a namespace, such as ws://127.0.0.1:1234/llm."""
        return f"{'wss' if self.secure else 'ws'}://{self._host}:{self.port}{self.prefix}/{namespace}"


def parse_address(text: str, *, source: str | None = None) -> Address:
    """Read `host`, `host:port`, `http(s)://…` or `ws(s)://…`; an OpenAI-style path such as /v1 is dropped.

    Without a scheme the port defaults to 1234, with one to that of the scheme.

    Args:
        text: what was written.
        source: the environment variable that it came from, if it did.

    Raises:
        UsageError, BadSetting: it is not a valid address; the latter where it came from the environment.
    """
    has_scheme = "://" in text
    try:
        parts = urlsplit(text if has_scheme else f"ws://{text}")
        secure = _SCHEMES[parts.scheme.lower()]
        port = parts.port
        host = parts.hostname or ""
        host_bytes(host)
    except (ValueError, KeyError):
        raise _invalid_address(text, source) from None
    has_more = parts.username is not None or parts.query or parts.fragment
    if not host or has_more or "//" in parts.path or re.search(r"[\s\x00-\x1f]", text):
        raise _invalid_address(text, source)
    prefix = _API_PATHS.sub("", parts.path.rstrip("/"))
    default_port = _SCHEME_PORTS[secure] if has_scheme else HTTP_PORT
    return Address(host, default_port if port is None else port, secure, prefix)


def host_bytes(host: str) -> bytes:
    """A host as the system's resolver takes it; for ASCII without Python's codec, which takes a millisecond to load.

    Raises:
        ValueError: it cannot be the name of a host.
    """
    if not host.isascii():
        return host.encode("idna")
    if any(not 0 < len(label) <= _LONGEST_LABEL for label in host.removesuffix(".").split(".")):
        raise ValueError("a label of a host name has 1 to 63 characters")
    return host.encode()


def _invalid_address(text: str, source: str | None) -> LmError:
    is_secret = any(sign in text for sign in "@?#")  # a token has no place in an address, and none in a message
    what = "what has a user, a query or a fragment" if is_secret else quoted(text)
    if source:
        return BadSetting(f"{source} is not a valid address: {what}", _FORMS)
    return UsageError(f"{what} is not a valid address", _FORMS)
