"""`--device`: models on other machines, by LM Link."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import StartServer
from processes import Ran, Terminal, environment, run, start

from lmcli.server.background import Running
from lmcli.server.echo.echo_engine import LOADED_AT_START, EchoEngine, EchoModel, Pace
from lmcli.server.engine import LoadedModel
from lmcli.values import ModelInfo

REMOTE = LOADED_AT_START.replace(model_key="far", path="lmcli/far", device_identifier="den")


class LinkedEngine(EchoEngine):
    """A model on this machine, and one on the device `den`."""

    downloaded: Sequence[ModelInfo] = (LOADED_AT_START, REMOTE)

    async def start(self) -> Sequence[tuple[ModelInfo, LoadedModel]]:
        """Both are loaded."""
        return [(model, EchoModel({}, Pace())) for model in self.downloaded]


@pytest.fixture
def linked(start_server: StartServer) -> Running:
    """A server that is linked to another device."""
    return start_server(LinkedEngine())


def lm(line: str, folder: Path, server: Running) -> Ran:
    """Run a command line."""
    return run(f"lm {line}", folder, environment(folder, server.port))


def requests_of(line: str, folder: Path, server: Running) -> Any:
    """What a command line would send."""
    return json.loads(lm(f"{line} --dry-run", folder, server).stdout)


@pytest.mark.parametrize(("command", "endpoint"), [("respond", "predict"), ("complete", "completeRawText")])
def test_a_request_names_the_device(tmp_path: Path, linked: Running, command: str, endpoint: str) -> None:
    """Both the load and the prediction do; without the option neither does."""
    requests = requests_of(f"{command} -n -m far --device den hi", tmp_path, linked)
    assert requests["getOrLoad"]["deviceIdentifier"] == "den"
    assert requests[endpoint]["modelSpecifier"]["query"] == {"identifier": "far", "deviceIdentifier": "den"}
    assert "deviceIdentifier" not in json.dumps(requests_of(f"{command} -n -m far hi", tmp_path, linked))


@pytest.mark.parametrize("command", ["respond -n hi", "complete -n hi", "chat -n hi", "stats -f hi"])
def test_the_model_of_a_device_answers(tmp_path: Path, linked: Running, command: str) -> None:
    """Without a key it is the one that is loaded there."""
    (tmp_path / "hi").write_text("hi", encoding="utf-8")
    ran = lm(f"{command} --device den -o json", tmp_path, linked)
    assert (ran.status, ran.stderr) == (0, "")
    assert "far" in ran.stdout.decode()


def test_a_record_is_answered_by_the_model_of_a_device(tmp_path: Path, linked: Running) -> None:
    """And its result does not count for another device."""
    each = "respond --each line --results results -o jsonl"
    for device in ("", "--device den", "--device den"):
        ran = run(f"echo hi | lm {each} {device}", tmp_path, environment(tmp_path, linked.port))
        assert ran.status == 0
    results = (tmp_path / "results").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["model"]["identifier"] for line in results] == ["echo", "far"]


def test_a_device_without_a_model(tmp_path: Path, linked: Running) -> None:
    """The error names it, and where devices are listed."""
    ran = lm("respond -n --device attic hi", tmp_path, linked)
    assert ran.status == 69
    assert ran.stderr.startswith("lm: error: no model is loaded on the device 'attic'\nlm: hint: lm models --loaded")
    ran = lm("respond -n -m far --device attic hi", tmp_path, linked)
    assert ran.status == 69
    assert "far" in ran.stderr


def test_models_of_a_device_are_unloaded(tmp_path: Path, linked: Running) -> None:
    """`--all` means those of the device, if one is named."""
    assert lm("models unload --all --device den", tmp_path, linked).status == 0
    assert lm("models --loaded", tmp_path, linked).stdout == b"echo\n"


def test_the_device_of_a_model_is_shown(tmp_path: Path, linked: Running, server: Running) -> None:
    """In a column of the table, where there is more than one device, and always in JSON."""
    shown = json.loads(lm("models --json", tmp_path, linked).stdout)
    assert [model["device_identifier"] for model in shown] == [None, "den"]
    for port, has_column in ((linked.port, True), (server.port, False)):
        terminal = Terminal()
        variables = environment(tmp_path, port)
        with start("lm", "models", folder=tmp_path, variables=variables, stdout=terminal) as child:
            assert child.end() == 0
        text = child["stdout"].decode()
        assert bool(re.search(r"LOADED AS +DEVICE", text)) is has_column
        assert bool(re.search(r"far +den", text)) is has_column
