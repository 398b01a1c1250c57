"""Which HTTP requests are answered, by their `Host` and `Origin`.

Every web page can connect to the ports of the machine on which it is shown. A browser names the page's site in
`Origin`, which programs do not send, so that only allowed sites are answered. A site can also give its own name the
address of this machine (DNS rebinding); then the page and the server have one origin, and the name in `Host` is the
site's. An IP address in `Host` cannot be such a name.
Source: RFC 6454, section 7; https://fetch.spec.whatwg.org/#origin-header; https://www.w3.org/TR/fetch-metadata/
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final

from websockets.datastructures import Headers

from lmcli.errors import quoted

LOCAL_NAMES: Final = ("localhost",)
_HOST: Final = re.compile(r"(?:\[([^\]]+)\]|([^:]+))(?::[0-9]*)?")
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#\s@]+)")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
# The sites of a request that may come from a page, where the browser does not send `Origin`, such as an image.
_OTHER_SITES: Final = ("cross-site", "same-site")


class AccessPolicy:
    """Decides which requests are answered.

    Args:
        names: the host names of this machine.
        origins: the web sites that are allowed, such as `https://example.com`.

    Raises:
        ValueError: an origin has another form.
    """

    def __init__(self, names: Iterable[str], origins: Iterable[str] = ()) -> None:
        self._names = frozenset(name.lower().rstrip(".") for name in (*LOCAL_NAMES, *names))
        self._origins = frozenset(read_origin(origin) for origin in origins)

    def refusal(self, headers: Headers) -> str | None:
        """Why a request is not answered; None if it is."""
        hosts, origins = headers.get_all("Host"), headers.get_all("Origin")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return f"the host name {quoted(', '.join(hosts))}"
        if origins and not (len(origins) == 1 and origins[0] in self._origins):
            return f"the origin {quoted(', '.join(origins))}"
        if not origins and headers.get_all("Sec-Fetch-Site")[:1] in ([site] for site in _OTHER_SITES):
            return "a web page without an origin"
        return None

    def _is_own(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1] or found[2]
        return name.lower().rstrip(".") in self._names or _is_ip_address(name)


def cors_headers(headers: Headers) -> Mapping[str, str]:
    """What lets the page of an allowed origin read the answer to its request."""
    origin = headers.get("Origin")
    return {} if origin is None else {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}


def read_origin(text: str) -> str:
    """An origin in the form in which browsers send it.

    Raises:
        ValueError: it is not an origin, such as a URL with a path, or `null`, which any page can have.
    """
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise ValueError(text)
    return f"{found[1]}://{found[2].removesuffix(_DEFAULT_PORTS.get(found[1], '/'))}"


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
