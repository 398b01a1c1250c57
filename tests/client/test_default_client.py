"""What programs for the SDK use at the top of the module and on a client: loads with options, lists, images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import StartServer
from faults import Peer, ScriptedServer
from loops import run
from packets import INSTANCE, closed, sent
from properties import fields_of

import lmcli as lms
from lmcli.client import default_client
from lmcli.server.background import Running

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A default client that nobody has used, in an environment without settings."""
    for name in ("LM_HOST", "LM_API_TOKEN", "LMSTUDIO_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield
    while default_client._clients:
        default_client._clients.pop().close()
    default_client._settings.clear()


def test_the_functions_at_the_top(start_server: StartServer, tmp_path: Path) -> None:
    """They use one client, of the server that was configured."""
    port = start_server(load_seconds=0.01).port
    lms.configure_default_client("127.0.0.1:1")
    lms.configure_default_client(f"127.0.0.1:{port}", "", timeout=30)
    assert str(lms.llm("echo-jit", ttl=60, config={"contextLength": 2048}).respond("hi")) == "hi"
    assert [model.identifier for model in lms.list_loaded_models()] == ["echo", "echo-jit"]
    assert lms.list_loaded_models("embedding") == []
    assert [model.model_key for model in lms.list_downloaded_models("llm")] == ["echo", "echo-jit"]
    assert [model.model_key for model in lms.list_downloaded_models("embedding")] == ["echo-embed"]
    (tmp_path / "a.png").write_bytes(PNG)
    chat = lms.Chat()
    chat.add_user_message("what is it?", images=[lms.prepare_image(tmp_path / "a.png")])
    assert str(lms.llm().respond(chat)) == "what is it?"
    assert len(default_client._clients) == 1
    assert lms.get_default_client() is default_client._clients[0]
    with pytest.raises(lms.UsageError, match="in use already"):
        lms.configure_default_client("127.0.0.1:1")


def test_an_unknown_namespace(server: Running) -> None:
    """Another kind of models than there is, is refused."""
    with lms.Client(f"127.0.0.1:{server.port}") as client:
        for list_models in (client.list_loaded_models, client.list_downloaded_models):
            with pytest.raises(lms.UsageError, match="not of 'image'"):
                list_models("image")


LOADS = [
    (
        lambda llm: llm.model("tiny", ttl=60, config={"contextLength": 2048}),
        "getOrLoad",
        {"identifier": "tiny", "loadTtlMs": 60_000},
    ),
    (
        lambda llm: llm.load_new_instance("tiny", config={"contextLength": 2048}),
        "loadModel",
        {"modelKey": "tiny"},
    ),
    (
        lambda llm: llm.load_new_instance("tiny", "mine", ttl=60, config={"contextLength": 2048}),
        "loadModel",
        {"modelKey": "tiny", "identifier": "mine", "ttlMs": 60_000},
    ),
]


@pytest.mark.parametrize(("act", "endpoint", "parameter"), LOADS)
@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_loads(act: Any, endpoint: str, parameter: dict[str, Any], *, is_asynchronous: bool) -> None:
    """What is asked for reaches the server in its own words, and the handle is that of the model that it names."""
    requests: list[Any] = []

    def script(peer: Peer) -> None:
        peer.greet()
        requests.append(peer.receive())
        kind = "loadSuccess" if endpoint == "getOrLoad" else "success"
        peer.send(sent(1, {"type": kind, "info": INSTANCE}), closed())
        peer.wait_until_left()

    async def asynchronously() -> str:
        async with lms.AsyncClient(host) as client:
            return str((await act(client.llm)).identifier)

    with ScriptedServer(script) as server:
        host = f"127.0.0.1:{server.port}"
        if is_asynchronous:
            assert run("asyncio", asynchronously()) == "tiny"
        else:
            with lms.Client(host) as client:
                assert act(client.llm).identifier == "tiny"
    asked = requests[0]["creationParameter"]
    assert requests[0]["endpoint"] == endpoint
    assert fields_of(asked.pop("loadConfigStack"))["llm.load.contextLength"] == 2048
    assert asked == parameter


def test_a_second_instance(server: Running) -> None:
    """A model that is loaded is loaded again under another name."""
    with lms.Client(f"127.0.0.1:{server.port}") as client:
        assert client.llm.load_new_instance("echo", "twin").identifier == "twin"
        assert client.llm.load_new_instance("echo").identifier not in ("echo", "twin")
        assert len(client.list_loaded_models()) == 3
