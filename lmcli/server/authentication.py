"""Authentication: credentials, and the clients that are connected with them.

Without API tokens, the first passkey that is used with an identifier is valid while that client is connected.
Source: lmstudio-js 6ec11db, lms-communication-server/src/fcfsAuthenticator.ts
"""

import hmac
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

from lmcli.server.engine import UploadedFile
from lmcli.server.limits import MAX_FILES, MAX_UPLOADED_BYTES
from lmcli.server.request_errors import AuthenticationFailed, RequestFailed
from lmcli.wire.identifiers import javascript_length

MAX_CREDENTIAL_LENGTH = 256
GUEST_PREFIX = "guest:"
_FILES_SUGGESTION = "They are dropped when the client disconnects"


class Credentials(NamedTuple):
    """The content of the first text on a connection."""

    identifier: str
    passkey: str


def read_credentials(value: Any) -> Credentials | None:
    """Read an authentication; None if the value is not one.

    Source: lmstudio-js 6ec11db, lms-communication/src/authentication.ts
    """
    match value:
        case {"authVersion": 1 as version, "clientIdentifier": str(identifier), "clientPasskey": str(passkey)}:
            is_number = not isinstance(version, bool)  # which would equal 1
            if is_number and max(map(javascript_length, (identifier, passkey))) <= MAX_CREDENTIAL_LENGTH:
                return Credentials(identifier, passkey)
    return None


@dataclass(slots=True, eq=False)
class ConnectedClient:
    """A client, over all its connections; its uploaded files are dropped with the last one."""

    passkey: str
    connections: int = 0
    files: dict[str, UploadedFile] = field(default_factory=dict)

    def add_file(self, file: UploadedFile) -> str:
        """Store a file; returns its identifier, which contains neither a colon nor a slash.

        Raises:
            RequestFailed: the client's files exceed MAX_FILES or MAX_UPLOADED_BYTES.
        Source: lmstudio-js 6ec11db, lms-common/src/parseFileIdentifier.ts: a colon ends a scheme.
        """
        if len(self.files) >= MAX_FILES:
            raise RequestFailed(f"There are {MAX_FILES} uploaded files", suggestion=_FILES_SUGGESTION)
        if sum(len(stored.content) for stored in self.files.values()) + len(file.content) > MAX_UPLOADED_BYTES:
            raise RequestFailed(
                f"The uploaded files are larger than {MAX_UPLOADED_BYTES // 1024**2} MiB together",
                suggestion=_FILES_SUGGESTION,
            )
        suffix = PurePath(file.name).suffix
        identifier = secrets.token_hex(12) + (suffix if suffix[1:].isalnum() and suffix.isascii() else "")
        self.files[identifier] = file
        return identifier


class Authenticator:
    """Checks credentials and keeps the connected clients.

    Args:
        api_tokens: passkeys by identifier, of the accepted API tokens; None accepts all clients.
    """

    def __init__(self, api_tokens: Mapping[str, str] | None = None) -> None:
        self._api_tokens = api_tokens
        self._clients: dict[str, ConnectedClient] = {}

    @contextmanager
    def connected(self, credentials: Credentials) -> Iterator[ConnectedClient]:
        """Authenticate a connection, which lasts as long as the context.

        Raises:
            AuthenticationFailed: the credentials are not accepted.
        """
        self._check(credentials)
        client = self._clients.setdefault(credentials.identifier, ConnectedClient(credentials.passkey))
        client.connections += 1
        try:
            yield client
        finally:
            client.connections -= 1
            if not client.connections:
                del self._clients[credentials.identifier]

    def _check(self, credentials: Credentials) -> None:
        if self._api_tokens is not None:
            expected = self._api_tokens.get(credentials.identifier)
            if expected is None and credentials.identifier.startswith(GUEST_PREFIX):
                raise AuthenticationFailed("This server requires an API token")
            if expected is None or not _is_equal(expected, credentials.passkey):
                raise AuthenticationFailed("Invalid API token")
        client = self._clients.get(credentials.identifier)
        if client is not None and not _is_equal(client.passkey, credentials.passkey):
            raise AuthenticationFailed("Invalid passkey for this client identifier")


def _is_equal(expected: str, passkey: str) -> bool:
    """Compare passkeys, which may contain lone surrogates, in a time that does not depend on where they differ."""
    return hmac.compare_digest(*(text.encode("utf-8", "surrogatepass") for text in (expected, passkey)))
