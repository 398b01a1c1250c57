"""Completions in the form of llama.cpp's own HTTP API, for what its function calls do not take: prompts with images.

Pure: does not import llama.cpp. In the other direction, pieces get the form that the function calls return.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Final

from lmcli.values import JsonObject

IMAGES_KEY: Final = "images"
_DATA: Final = b"data: "


def native_body(body: JsonObject) -> JsonObject:
    """The body of a request, from one for a function call whose `images` are base64 texts."""
    native = {key: value for key, value in body.items() if key not in (IMAGES_KEY, "logprobs")}
    if images := body.get(IMAGES_KEY):
        native["prompt"] = {"prompt_string": body["prompt"], "multimodal_data": images}
    if "logprobs" in body:
        native["n_probs"] = body["logprobs"]
    return native


def pieces(lines: Iterable[bytes]) -> Iterator[JsonObject]:
    """The pieces of a completion, from the lines of its server-sent events."""
    for line in lines:
        if line.startswith(_DATA):
            yield _piece(json.loads(line[len(_DATA) :]))


def _piece(data: JsonObject) -> JsonObject:
    if "error" in data or "prompt_progress" in data:
        return data
    finish = ("length" if data["stop_type"] == "limit" else "stop") if data["stop"] else None
    log_probs = {"content": data.get("completion_probabilities")}
    choice = {"text": data["content"], "finish_reason": finish, "logprobs": log_probs}
    return {"choices": [choice], "timings": data.get("timings")}
