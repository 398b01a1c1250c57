"""Which models there are: loaded ones, and those that could be loaded."""

from lmcli.client.session import Session
from lmcli.values import ModelInfo, ModelInstance
from lmcli.wire import queries


def list_loaded(session: Session) -> list[ModelInstance]:
    """The loaded models of the session's namespace."""
    return session.ask(queries.list_loaded())


def list_downloaded(session: Session) -> list[ModelInfo]:
    """The downloaded models, embedding models too (`type`); the session is one to `system`."""
    return session.ask(queries.list_downloaded())


def unload(session: Session, identifier: str, device: str | None = None) -> None:
    """Drop a loaded model from memory, on any device of LM Link or on one.

    Raises:
        ModelNotFound: no loaded model has this identifier.
    """
    session.ask(queries.unload(identifier, device))
