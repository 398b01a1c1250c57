"""Certificates for servers that clients trust, and for some that they must not trust."""

import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import trustme

NAME: Final = "localhost"
_IDENTITIES: Final = (NAME, "127.0.0.1")
_OVER: Final = datetime(2002, 1, 1, tzinfo=UTC)


AUTHORITY: Final = trustme.CA()
"""The authority that clients trust."""


@cache
def authority_file() -> Path:
    """Its certificate as a file, until this process ends."""
    folder = tempfile.TemporaryDirectory()
    _FOLDERS.append(folder)
    path = Path(folder.name) / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(path)
    return path


_FOLDERS: Final[list[Any]] = []


@cache
def certificate(kind: str = "good") -> ssl.SSLContext:
    """What a server encrypts with: a certificate that is good, expired, untrusted, or of a server elsewhere."""
    issuer = trustme.CA() if kind == "untrusted" else AUTHORITY
    identities = ("elsewhere.example",) if kind == "elsewhere" else _IDENTITIES
    end = _OVER if kind == "expired" else None
    leaf = issuer.issue_cert(*identities, not_before=end and end - timedelta(days=365), not_after=end)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context
