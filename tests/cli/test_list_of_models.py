"""`lm models` with models of every kind, and with all that a server says about them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect
from faults import Peer, ScriptedServer
from packets import INSTANCE
from processes import Ran, environment, run

from lmcli.server.background import Running

Lm = Callable[[str], Ran]


@pytest.fixture
def lm(server: Running, connect: Connect, tmp_path: Path) -> Lm:
    """Runs a command line against a server with a loaded embedding model."""
    loading = {"modelKey": "echo-embed", "identifier": "embedder", "loadConfigStack": {"layers": []}}
    connect(server, "/embedding").stream("loadModel", loading)
    return lambda line: run(line, tmp_path, environment(tmp_path, server.port))


def test_loaded_embedding_models_are_listed(lm: Lm) -> None:
    """By identifier with --loaded, and as loaded in the list of all."""
    assert lm("lm models --loaded").stdout == b"echo\nembedder\n"
    listed = json.loads(lm("lm models --json").stdout)
    assert {model["model_key"]: (model["type"], model["loaded"]) for model in listed} == {
        "echo": ("llm", ["echo"]),
        "echo-jit": ("llm", []),
        "echo-embed": ("embedding", ["embedder"]),
    }


def test_an_embedding_model_is_no_answer_to_a_prompt(lm: Lm) -> None:
    """Without -m, the loaded language model answers."""
    assert lm("lm models unload echo").status == 0
    assert lm("lm respond hi").status == 69


def test_embedding_models_are_unloaded(lm: Lm) -> None:
    """By identifier, and with --all; an unknown identifier is reported as before."""
    assert lm("lm models unload embedder; lm models --loaded").stdout == b"echo\n"
    ran = lm("lm models unload embedder")
    assert (ran.status, ran.stderr.splitlines()[0]) == (69, "lm: error: no loaded model is called 'embedder'")


def test_all_models_are_unloaded(lm: Lm) -> None:
    """Those of both kinds."""
    assert lm("lm models unload --all && lm models --loaded") == Ran(0, b"", "")


def test_identifiers_are_kept_for_completion(lm: Lm, tmp_path: Path) -> None:
    """Those of the loaded models, as they are listed, loaded and unloaded."""

    def kept() -> list[str]:
        return (tmp_path / ".cache" / "lm" / "loaded").read_text().splitlines()

    lm("lm models")
    assert kept() == ["echo", "embedder"]
    lm("lm models load echo-jit --identifier mine")
    assert kept() == ["echo", "embedder", "mine"]
    lm("lm models unload mine embedder")
    assert kept() == ["echo"]
    lm("lm models load echo-jit --identifier mine; rm .cache/lm/loaded; lm models --loaded")
    assert kept() == ["echo", "mine"]


def test_json_has_everything_that_the_server_says(tmp_path: Path) -> None:
    """Variants, and keys that are not known yet, in snake_case; also of a loaded model."""
    more: dict[str, Any] = {
        "variants": ["tiny@q4_k_m", "tiny@q8_0"],
        "selectedVariant": "tiny@q8_0",
        "releaseDate": {"inYear": 2027},
    }

    def script(peer: Peer) -> None:
        peer.greet()
        while True:
            call = peer.receive()
            is_embedding = peer.path == "/embedding"
            result: list[Any] = [] if is_embedding else [INSTANCE | more]
            peer.send({"type": "rpcResult", "callId": call["callId"], "result": result})

    with ScriptedServer(script) as server:
        variables = environment(tmp_path, server.port)
        for line in ("lm models --json", "lm models --loaded --json"):
            (model,) = json.loads(run(line, tmp_path, variables).stdout)
            assert model["variants"] == more["variants"]
            assert model["selected_variant"] == "tiny@q8_0"
            assert model["release_date"] == {"inYear": 2027}
            assert model["loaded"] == ["tiny"]
