"""The functions at the top of the module: one client of this machine's server, for a whole program."""

import atexit
from typing import Any

from lmcli.chat import FilePart
from lmcli.client.api import LLM, Client
from lmcli.client.images import ImageSource
from lmcli.client.prediction_options import LoadOptions
from lmcli.errors import UsageError
from lmcli.values import ModelInfo

_settings: dict[str, Any] = {}
_clients: list[Client] = []


def configure_default_client(
    host: str | None = None,
    api_token: str | None = None,
    *,
    timeout: float | None = None,
    insecure_token: bool = False,
) -> None:
    """Choose the server, token and timeout of the functions at the top of the module, before the first is used.

    Args:
        host: see `Client`.
        api_token: see `Client`.
        timeout: see `Client`.
        insecure_token: see `Client`.

    Raises:
        UsageError: the default client is in use already.
    """
    if _clients:
        raise UsageError("the default client is in use already, so it can no longer be configured")
    _settings.update(host=host, api_token=api_token, timeout=timeout, insecure_token=insecure_token)


def get_default_client() -> Client:
    """The client that the functions at the top of the module use; it is closed when the program ends."""
    if not _clients:
        _clients.append(Client(**_settings))
        atexit.register(_clients[0].close)
    return _clients[0]


def llm(key: str | None = None, *, ttl: float | None = None, config: LoadOptions = None) -> LLM:
    """A handle on a model of this machine's server, see `LlmNamespace.model`."""
    return get_default_client().llm.model(key, ttl=ttl, config=config)


def list_loaded_models(namespace: str | None = None) -> list[LLM]:
    """Handles on the loaded language models, see `Client.list_loaded_models`."""
    return get_default_client().list_loaded_models(namespace)


def list_downloaded_models(namespace: str | None = None) -> list[ModelInfo]:
    """All models that could be loaded, see `Client.list_downloaded_models`."""
    return get_default_client().list_downloaded_models(namespace)


def prepare_image(src: ImageSource, name: str | None = None) -> FilePart:
    """Upload an image, see `FilesNamespace.prepare_image`."""
    return get_default_client().prepare_image(src, name)
