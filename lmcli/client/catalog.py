"""Which models there are: loaded ones, and those that could be loaded."""

from typing import Any

from lmcli.client.session import Session
from lmcli.errors import RemoteProtocolError, quoted
from lmcli.values import ModelInfo, ModelInstance
from lmcli.wire import payloads


def list_loaded(session: Session) -> list[ModelInstance]:
    """The loaded models of the session's namespace."""
    return [payloads.read(ModelInstance, entry) for entry in _listed(session, "listLoaded")]


def list_downloaded(session: Session) -> list[ModelInfo]:
    """The downloaded models, embedding models too (`type`); the session is one to `system`."""
    return [payloads.read(ModelInfo, entry) for entry in _listed(session, "listDownloadedModels")]


def unload(session: Session, identifier: str) -> None:
    """Drop a loaded model from memory.

    Raises:
        ModelNotFound: no loaded model has this identifier.
    """
    session.call("unloadModel", {"identifier": identifier})


def _listed(session: Session, endpoint: str) -> list[Any]:
    entries = session.call(endpoint)
    if not isinstance(entries, list):
        raise RemoteProtocolError(f"the server answered {endpoint} with {quoted(entries, limit=40)}")
    return entries
