"""The official JavaScript SDK works with the server; it is installed with npm for the test, where that is possible."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from lmcli.server.background import Running

VERSION = "1.5.0"
PROGRAM = """
import { LMStudioClient, rawFunctionTool } from "@lmstudio/sdk";

const client = new LMStudioClient({ baseUrl: process.argv[2] });
const model = await client.llm.model("echo");
const result = await model.respond("What is the meaning of life?");
const file = await client.files.prepareImageBase64("pixel.png", "iVBORw0KGgo=");
const loaded = await client.llm.listLoaded();
const number = { type: "number" };
const add = rawFunctionTool({
  name: "add",
  description: "Adds two numbers",
  parametersJsonSchema: { type: "object", properties: { a: number, b: number }, required: ["a", "b"] },
  implementation: ({ a, b }) => a + b,
});
const said = [];
await model.act('call add {"a": 2, "b": 3}', [add], { onMessage: (message) => said.push(message.getText()) });
console.log(JSON.stringify([result.content, result.stats.stopReason, file.type, loaded.length, said]));
process.exit(0);
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the program and the SDK."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("js")
    (folder / "program.mjs").write_text(PROGRAM, encoding="utf-8")
    install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", f"@lmstudio/sdk@{VERSION}"]
    try:
        ran = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm does not reach its registry")
    if ran.returncode:
        pytest.skip(f"npm cannot install the SDK: {ran.stderr[-200:]}")
    return folder


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_javascript_sdk(folder: Path, server: Running, host: str) -> None:
    """It sends no origin, and is served: a prediction, an upload, a list, and the rounds of a tool."""
    command = ["node", "program.mjs", f"ws://{host}:{server.port}"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == ["What is the meaning of life?", "eosFound", "image", 1, ["", "", "5"]]
