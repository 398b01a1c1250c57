"""Faults before there is a dialogue: names, ports, TLS, and answers to the request for a WebSocket."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

from certificates import certificate
from damage import ERROR, FREE, WAIT, Damage
from link_faults import sends, sends_and_holds, silent
from places import ignoring, named, refusing, unresolving
from stage_server import Fault, Stage, Strike


def answers(head: str, body: bytes = b"") -> Fault:
    """Answer the request of a WebSocket with something else, and close."""
    return partial(sends, head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)


def rewritten(old: bytes, new: bytes) -> Fault:
    """Answer the request of a WebSocket with another head."""

    def fault(strike: Strike) -> None:
        assert old in strike.data
        strike.raw(strike.data.replace(old, new))

    return fault


def wrong_key(strike: Strike) -> None:
    """Prove the wrong key."""
    head, _, rest = strike.data.partition(b"Sec-WebSocket-Accept: ")
    strike.raw(head + b"Sec-WebSocket-Accept: " + b"A" * 27 + b"=" + rest[28:])


def without_key(strike: Strike) -> None:
    """Prove no key."""
    head, _, rest = strike.data.partition(b"Sec-WebSocket-Accept: ")
    strike.raw(head + rest.partition(b"\r\n")[2])


def endless_head(line: bytes, strike: Strike) -> None:
    """Begin an answer whose head does not end."""
    strike.raw(b"HTTP/1.1 101 Switching Protocols\r\n")
    strike.flood(line)


def endless_body(strike: Strike) -> None:
    """Refuse, with a reason that does not end."""
    strike.raw(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
    strike.flood(b"sorry ")


def body_that_never_comes(strike: Strike) -> None:
    """Refuse, and keep the reason."""
    sends_and_holds(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 10\r\n\r\n", strike)


def bad_certificate(name: str, strike: Strike) -> None:
    """Encrypt with a certificate that is not good for this server."""
    strike.encrypt_with(certificate(name))


_NAMES: Final = (
    *("no-such-host.invalid", "a..b", "x" * 64 + ".invalid", "x" * 300, "-", "ü.invalid", "xn--.invalid", "☃"),
    *("[::1", "[fe80::1%nowhere]:1", "1.2.3.4.5", "999.1.1.1", "0x7f.invalid", "host\u202e.invalid", "a b.invalid"),
)

_STATUSES: Final = (
    *("100 Continue", "200 OK", "204 No Content", "400 Bad Request", "401 Unauthorized", "403 Forbidden"),
    *("404 Not Found", "407 Proxy Authentication Required", "426 Upgrade Required", "429 Too Many Requests"),
    *("500 Internal Server Error", "502 Bad Gateway", "503 Service Unavailable", "999 What"),
)

_REDIRECTS: Final = ("301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect")

_PAGE: Final = b"<!doctype html><title>\x1b[31mIt works</title>"

_HEADS: Final[Mapping[str, Fault]] = {
    "a page": answers("HTTP/1.1 200 OK\nContent-Type: text/html", _PAGE),
    "an old version": answers("HTTP/1.0 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade"),
    "HTTP/2": partial(sends, bytes.fromhex("000012040000000000000300000064000400100000000600004000")),
    "SSH": partial(sends, b"SSH-2.0-OpenSSH_9.2\r\n"),
    "SMTP": partial(sends, b"220 mail.example ESMTP\r\n250 ok\r\n"),
    "a bare line feed": partial(sends, b"HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\n\n"),
    "a header without a colon": answers("HTTP/1.1 101 Switching Protocols\nUpgrade websocket"),
    "a header with controls": answers("HTTP/1.1 403 \x1b[31mForbidden\nX: \x07"),
    "a long status line": partial(sends, b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n"),
    "a length of -1": answers("HTTP/1.1 400 Bad Request\nContent-Length: -1"),
    "a length that is no number": answers("HTTP/1.1 400 Bad Request\nContent-Length: many"),
    "a huge length": answers(f"HTTP/1.1 400 Bad Request\nContent-Length: {10**30}"),
    "chunks that are broken": answers("HTTP/1.1 400 Bad Request\nTransfer-Encoding: chunked", b"zz\r\n"),
    "the wrong key": wrong_key,
    "no key": without_key,
    "no upgrade": rewritten(b"Upgrade: websocket\r\n", b""),
    "another upgrade": rewritten(b"Upgrade: websocket", b"Upgrade: h2c"),
    "two upgrades": rewritten(b"Upgrade: websocket\r\n", b"Upgrade: websocket\r\nUpgrade: websocket\r\n"),
    "an extension": rewritten(b"Upgrade: w", b"Sec-WebSocket-Extensions: permessage-bogus\r\nUpgrade: w"),
    "a subprotocol": rewritten(b"Upgrade: w", b"Sec-WebSocket-Protocol: soap\r\nUpgrade: w"),
}

_PROBES: Final[Mapping[str, Fault]] = {
    "a page": answers("HTTP/1.1 200 OK\nContent-Type: text/html", _PAGE),
    "a status": answers("HTTP/1.1 404 Not Found"),
    "another server": answers("HTTP/1.1 200 OK", b'{"ollama":true}'),
    "a number for true": answers("HTTP/1.1 200 OK", b'{"lmstudio":1}'),
    "depth": answers("HTTP/1.1 200 OK", b'{"a":' * 10_000),
    "invalid UTF-8": answers("HTTP/1.1 200 OK", b'{"\xff":1}'),
    "no head": partial(sends, b'{"lmstudio":true}'),
}

_ALERT: Final = bytes.fromhex("15030300020228")

_RECORD: Final = bytes.fromhex("1603030040")

_UPGRADE: Final = frozenset({Stage.UPGRADE})


def http_faults() -> Iterator[Damage]:
    """All of them."""
    yield from _nowhere()
    yield from _answers()
    yield from _tls()


def _nowhere() -> Iterator[Damage]:
    resolve, connect = frozenset({Stage.RESOLVE}), frozenset({Stage.CONNECT})
    for name in _NAMES:  # each is unique by its beginning and its length
        place = partial(named, name)
        yield Damage("names", f"{name[:20]!a} of {len(name)}", silent, ERROR, resolve, place=place)
    yield Damage("silent", "no name server", silent, WAIT, resolve, place=unresolving, is_common=True)
    yield Damage("refused", "no listener", silent, ERROR, connect, place=refusing, is_common=True)
    yield Damage("silent", "a full queue", silent, WAIT, connect, place=ignoring, is_common=True, needs_linux=True)


def _answers() -> Iterator[Damage]:
    for status in _STATUSES:
        yield Damage("HTTP", status, answers(f"HTTP/1.1 {status}", _PAGE), ERROR, _UPGRADE)
    for status in _REDIRECTS:
        for target in ("/elsewhere", "ws://user:secret@127.0.0.1:1/llm"):
            moved = answers(f"HTTP/1.1 {status}\nLocation: {target}")
            yield Damage("HTTP", f"{status}: {target}", moved, ERROR, _UPGRADE)
    for name, fault in _HEADS.items():
        yield Damage("HTTP", name, fault, ERROR, _UPGRADE)
    yield Damage("HTTP", "headers without end", partial(endless_head, b"X-More: y\r\n"), FREE, _UPGRADE, is_noisy=True)
    yield Damage("HTTP", "a header without end", partial(endless_head, b"x"), FREE, _UPGRADE, is_noisy=True)
    yield Damage("HTTP", "a body without end", endless_body, FREE, _UPGRADE, is_noisy=True)
    yield Damage("HTTP", "a body that never comes", body_that_never_comes, FREE, _UPGRADE)
    for name, fault in _PROBES.items():
        yield Damage("HTTP", name, fault, ERROR, frozenset({Stage.PROBE}))


def _tls() -> Iterator[Damage]:
    tls = frozenset({Stage.TLS})
    yield Damage("TLS", "plain HTTP", answers("HTTP/1.1 400 Bad Request"), ERROR, tls, is_common=True)
    yield Damage("TLS", "an alert", partial(sends, _ALERT), ERROR, tls)
    yield Damage("TLS", "half a record, then FIN", partial(sends, _RECORD), ERROR, tls)
    yield Damage("TLS", "half a record, then silence", partial(sends_and_holds, _RECORD), WAIT, tls)
    yield Damage("TLS", "to a client without TLS", partial(sends, _ALERT), ERROR, _UPGRADE | {Stage.CONNECT})

    for name in ("expired", "untrusted", "elsewhere"):
        yield Damage("TLS", f"a certificate that is {name}", partial(bad_certificate, name), ERROR, tls)
