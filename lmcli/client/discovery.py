"""Discovery of the server on this machine, and the credentials of the client."""

import os
import re
import selectors
import socket
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson

from lmcli.client.address import HTTP_PORT, LOOPBACK, Address, parse_address
from lmcli.client.local_files import read_bytes
from lmcli.errors import BadSetting, CannotConnect, NoInput, quoted, reason
from lmcli.wire.protocol import API_PORTS, GUEST_PREFIX, Credentials

PROBE_SECONDS: Final = 0.5
OTHERS_SECONDS: Final = 0.1
HOST_VARIABLE: Final = "LM_HOST"
INFO_VARIABLE: Final = "LMS_API_SERVER_INFO_PATH"
TOKEN_VARIABLES: Final = ("LM_API_TOKEN", "LMSTUDIO_API_TOKEN")
TOKEN_FORM: Final = re.compile(r"sk-lm-([A-Za-z0-9]{8}):([A-Za-z0-9]{20})")
"""Source: lmstudio-js 6ec11db, lms-shared-types/src/lmstudioAPIToken.ts"""

_GREETING: Final = b"GET /lmstudio-greeting HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
_ANSWER_LIMIT: Final = 64 * 1024
"""A longer answer is not that of LM Studio, whose head and body have a few hundred bytes."""


def find_server(
    host: str | None,
    environment: Mapping[str, str] = os.environ,
    *,
    on_several: Callable[[Sequence[Address]], None] | None = None,
) -> Address:
    """The server to use: the given one, that of LM_HOST, or the first that answers on this machine.

    Args:
        host: the given one.
        environment: where LM_HOST and LM Studio's settings are looked for.
        on_several: called with the addresses of the servers, the one that is used first, if there is more than one.

    Raises:
        UsageError, BadSetting: the given address, that of LM_HOST, or LMS_API_SERVER_INFO_PATH is not valid.
        CannotConnect: nothing on this machine answers as LM Studio.
    """
    if host:
        return parse_address(host)
    if named := environment.get(HOST_VARIABLE):
        return parse_address(named, source=HOST_VARIABLE)
    candidates = candidate_ports(environment)
    found = [Address(LOOPBACK, port) for port in greetings(candidates)]
    if found:
        if on_several is not None and _are_several(found):
            on_several(found)
        return found[0]
    raise CannotConnect(
        f"no LM Studio on this machine: nothing answers at {LOOPBACK} on port {', '.join(map(str, candidates))}",
        "lms server start starts it",
    )


def candidate_ports(environment: Mapping[str, str]) -> tuple[int, ...]:
    """The ports to ask, the likeliest first, each once; with LMS_API_SERVER_INFO_PATH, the one in that file.

    Raises:
        BadSetting: the file does not contain a port.
    """
    if path := environment.get(INFO_VARIABLE):
        return (_named_port(path),)
    configured = _configured_port(environment)
    ports = (*([configured] if configured else []), *API_PORTS, HTTP_PORT)
    return tuple(dict.fromkeys(ports))


def studio_home(environment: Mapping[str, str]) -> Path:
    """LM Studio's own folder.

    Source: lmstudio-js 6ec11db, lms-common-server/src/findLMStudioHome.ts:7-34
    """
    home = Path(environment.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111  where there is none, it stays ~
    try:
        pointer = (home / ".lmstudio-home-pointer").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        pointer = ""
    if pointer and "\0" not in pointer:
        return Path(pointer)
    older = home / ".cache" / "lm-studio"
    return older if older.is_dir() else home / ".lmstudio"


def greetings(ports: Sequence[int], *, within: float = PROBE_SECONDS) -> list[int]:
    """Probe all ports of this machine at once; those where LM Studio answers, in order.

    The first is known for certain; the others have only a moment after it is known.

    Args:
        ports: in order of preference.
        within: seconds after which a port counts as silent.
    """
    is_known = False
    deadline = time.monotonic() + within
    verdicts: dict[int, bool] = {}
    with selectors.DefaultSelector() as selector:
        for port in ports:
            _ask(selector, port)
        while selector.get_map() and (remaining := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(remaining):
                verdict = _advance(selector, key)
                if verdict is not None:
                    verdicts[key.data.port] = verdict
            if not is_known and _best(ports, verdicts) is not None:
                is_known, deadline = True, min(deadline, time.monotonic() + OTHERS_SECONDS)
        for key in list(selector.get_map().values()):
            key.data.socket.close()
    return [port for port in ports if verdicts.get(port)]


def credentials(token: str | None = None) -> Credentials:
    """The identity to use: the owner of an API token, or a guest with a random name.

    Raises:
        BadSetting: the token is malformed; its text is not shown.
    """
    if token is None:
        return Credentials(f"{GUEST_PREFIX}{os.urandom(12).hex()}", os.urandom(16).hex())
    match = TOKEN_FORM.fullmatch(token.strip())
    if match is None:
        raise BadSetting("the API token is malformed", "a token looks like sk-lm-XXXXXXXX:XXXXXXXXXXXXXXXXXXXX")
    return Credentials(*match.groups())


def find_token(token_file: Path | None = None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The API token to use: that of the file, else of the environment, where an empty variable counts as none.

    Raises:
        NoInput: the file is not there or cannot be read.
        BadSetting: it is not text.
    """
    if token_file is not None:
        try:
            return read_bytes(token_file).decode().strip()
        except UnicodeDecodeError as error:
            raise BadSetting(f"the token file {quoted(token_file)} is not text") from error
        except OSError as error:
            raise NoInput(f"cannot read the token file {quoted(token_file)}: {reason(error)}") from error
    return next((token for name in TOKEN_VARIABLES if (token := environment.get(name))), None)


def is_readable_by_others(path: Path) -> bool:
    """Whether others than its owner can read a file that holds a secret."""
    return path.is_file() and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


class _Probe:
    """One question to one port: connecting, then sent, then the answer as far as it came."""

    def __init__(self, port: int, connection: socket.socket) -> None:
        self.port = port
        self.socket = connection
        self.answer = b""

    @property
    def is_greeting(self) -> bool:
        """Whether the answer is complete and is that of LM Studio; raises ValueError while incomplete."""
        status, end_of_line, _ = self.answer.partition(b"\r\n")
        if not end_of_line:
            raise ValueError
        if b" 200" not in status:
            return False
        body = self.answer.partition(b"\r\n\r\n")[2]
        start, end = body.find(b"{"), body.rfind(b"}")
        value = orjson.loads(body[start : end + 1])
        return isinstance(value, dict) and value.get("lmstudio") is True


def _ask(selector: "selectors.BaseSelector", port: int) -> None:
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.setblocking(False)
    connection.connect_ex((LOOPBACK, port))
    selector.register(connection, selectors.EVENT_WRITE, _Probe(port, connection))


def _advance(selector: "selectors.BaseSelector", key: "selectors.SelectorKey") -> bool | None:
    """Take one step with one port; the verdict as soon as there is one."""
    probe: _Probe = key.data
    try:
        if not probe.answer and key.events & selectors.EVENT_WRITE:
            probe.socket.send(_GREETING)
            selector.modify(probe.socket, selectors.EVENT_READ, probe)
            return None
        data = probe.socket.recv(4096)
        probe.answer += data
        complete = not data or len(probe.answer) > _ANSWER_LIMIT
        verdict = _verdict(probe, complete=complete)
    except OSError:
        verdict = False
    if verdict is not None:
        selector.unregister(probe.socket)
        probe.socket.close()
    return verdict


def _verdict(probe: _Probe, *, complete: bool) -> bool | None:
    try:
        return probe.is_greeting
    except ValueError:
        return False if complete else None


def _best(ports: Iterable[int], verdicts: Mapping[int, bool]) -> int | None:
    """The first port where LM Studio answers, once all ports before it have failed."""
    for port in ports:
        if port not in verdicts:
            return None
        if verdicts[port]:
            return port
    return None


def _are_several(found: Sequence[Address]) -> bool:
    """Whether more than one server answers: one LM Studio has a port for its API, and one for its HTTP server."""
    api_ports = [address.port for address in found if address.port in API_PORTS]
    return len(api_ports) > 1 or len(found) - len(api_ports) > 1


def _configured_port(environment: Mapping[str, str]) -> int | None:
    """Source: lms, src/localAPIServer.ts:16-57."""
    try:
        return _port_in((studio_home(environment) / ".internal" / "http-server.json").read_bytes())
    except OSError:
        return None


def _named_port(path: str) -> int:
    """Source: lms, src/localAPIServer.ts:16-57; with the variable, no other port counts."""
    try:
        port = _port_in(read_bytes(Path(path)))
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise BadSetting(f"{INFO_VARIABLE}: cannot read {quoted(path)}: {why}") from error
    if port is None:
        raise BadSetting(f"{INFO_VARIABLE}: there is no port in {quoted(path)}", 'it looks like {"port": 1234}')
    return port


def _port_in(text: bytes) -> int | None:
    """The port in LM Studio's file about its server."""
    try:
        settings = orjson.loads(text)
    except ValueError:
        return None
    port = settings.get("port") if isinstance(settings, dict) else None
    return port if type(port) is int and 0 < port < 65536 else None
