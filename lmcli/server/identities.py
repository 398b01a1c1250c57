"""Who is connected: credentials, and what a client leaves with the server for as long as it is there.

Without API tokens the first passkey seen for an identifier holds while a connection of that client lives.
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
from lmcli.server.failures import NotAdmitted, Refused

MAX_CREDENTIAL_LENGTH = 256
GUEST_PREFIX = "guest:"
MAX_UPLOADED_BYTES = 512 * 1024 * 1024


class Credentials(NamedTuple):
    """What the first text on a connection holds."""

    identifier: str
    passkey: str


def read_credentials(value: Any) -> Credentials | None:
    """Read the authentication; None where it is none, which is passed over in silence.

    Source: lmstudio-js 6ec11db, lms-communication/src/authentication.ts
    """
    match value:
        case {"authVersion": 1, "clientIdentifier": str(identifier), "clientPasskey": str(passkey)}:
            if max(len(identifier), len(passkey)) <= MAX_CREDENTIAL_LENGTH:
                return Credentials(identifier, passkey)
    return None


@dataclass(slots=True, eq=False)
class Identity:
    """A client, over all its connections; the files it uploaded are dropped with the last one."""

    passkey: str
    connections: int = 0
    files: dict[str, UploadedFile] = field(default_factory=dict)

    def keep(self, file: UploadedFile) -> str:
        """Keep a file; gives its identifier, which has neither colon nor slash.

        Raises:
            Refused: the client's files are too large together.
        Source: lmstudio-js 6ec11db, lms-common/src/parseFileIdentifier.ts: what stands before a colon is a scheme.
        """
        if sum(len(kept.content) for kept in self.files.values()) + len(file.content) > MAX_UPLOADED_BYTES:
            raise Refused(
                f"The uploaded files are larger than {MAX_UPLOADED_BYTES // 1024**2} MiB together",
                suggestion="They are dropped when the client disconnects",
            )
        suffix = PurePath(file.name).suffix
        identifier = secrets.token_hex(12) + (suffix if suffix[1:].isalnum() and suffix.isascii() else "")
        self.files[identifier] = file
        return identifier


class Identities:
    """The clients that are connected.

    Args:
        api_tokens: passkeys by identifier, of the API tokens that are admitted; None admits everybody.
    """

    def __init__(self, api_tokens: Mapping[str, str] | None = None) -> None:
        self._api_tokens = api_tokens
        self._present: dict[str, Identity] = {}

    @contextmanager
    def admit(self, credentials: Credentials) -> Iterator[Identity]:
        """Let a connection in for as long as the context lasts.

        Raises:
            NotAdmitted: the credentials are not accepted.
        """
        self._check(credentials)
        identity = self._present.setdefault(credentials.identifier, Identity(credentials.passkey))
        identity.connections += 1
        try:
            yield identity
        finally:
            identity.connections -= 1
            if not identity.connections:
                del self._present[credentials.identifier]

    def _check(self, credentials: Credentials) -> None:
        if self._api_tokens is not None:
            expected = self._api_tokens.get(credentials.identifier)
            if expected is None and credentials.identifier.startswith(GUEST_PREFIX):
                raise NotAdmitted("This server requires an API token")
            if expected is None or not _same(expected, credentials.passkey):
                raise NotAdmitted("Invalid API token")
        known = self._present.get(credentials.identifier)
        if known is not None and not _same(known.passkey, credentials.passkey):
            raise NotAdmitted("Invalid passkey for this client identifier")


def _same(expected: str, given: str) -> bool:
    """Whether two passkeys are the same, half a surrogate pair included; takes as long wherever they differ."""
    return hmac.compare_digest(*(passkey.encode("utf-8", "surrogatepass") for passkey in (expected, given)))
