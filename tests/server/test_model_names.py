"""Which model a name stands for: as `-m` takes it, and as queries name it."""

import pytest

from lmcli.server.echo.echo_engine import model_info
from lmcli.server.model_names import find_models, is_named
from lmcli.values import ModelInfo, Quantization


def model(key: str, path: str, quantization: str) -> ModelInfo:
    """A downloaded model."""
    return model_info(key, key).replace(path=path, quantization=Quantization(name=quantization, bits=4))


Q4 = model("qwen/qwen3-4b", "qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf", "Q4_K_M")
Q8 = model("qwen/qwen3-4b@q8_0", "qwen/Qwen3-4B-GGUF/Qwen3-4B-Q8_0.gguf", "Q8_0")
OTHER = model("gemma-3", "google/gemma-3", "Q8_0")
LLAMA = model(
    "llama-3.2-1b-instruct", "hugging-quants/Llama-3.2-1B-Instruct-Q8_0-GGUF/llama-3.2-1b-instruct-q8_0.gguf", "Q8_0"
)
MODELS = (OTHER, Q4, Q8, LLAMA)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen/qwen3-4b", Q4),
        ("QWEN/Qwen3-4B", Q4),
        ("qwen/qwen3-4b@q4_k_m", Q4),
        ("qwen/qwen3-4b@Q4_K_M", Q4),
        ("qwen/qwen3-4b@q8_0", Q8),
        ("qwen/Qwen3-4B-GGUF", Q4),
        ("qwen/qwen3-4b-gguf", Q4),
        ("qwen/qwen3-4b-gguf@q8_0", Q8),
        ("qwen/Qwen3-4B-GGUF/Qwen3-4B-Q8_0.gguf", Q8),
        ("qwen/qwen3-4b-gguf/qwen3-4b-q8_0.GGUF", Q8),
        ("GEMMA-3@Q8_0", OTHER),
        ("hugging-quants/llama-3.2-1b-instruct", LLAMA),
        ("hugging-quants/llama-3.2-1b", None),
        ("gemma-3@q4_k_m", None),
        ("qwen", None),
        ("qwen/Qwen3", None),
        ("", None),
        ("@q8_0", None),
    ],
)
def test_a_name_stands_for_a_model(name: str, expected: ModelInfo | None) -> None:
    """A key, a path or its beginning, in any case, with a quantization or without; not a part of a word."""
    found = find_models(MODELS, name)
    assert (found[0] if found else None) == expected
    assert expected is None or is_named(expected, name)


def test_a_repository_stands_for_all_its_models() -> None:
    """Unless a quantization says which."""
    assert find_models(MODELS, "qwen/qwen3-4b-gguf") == [Q4, Q8]
    assert find_models(MODELS, "qwen/qwen3-4b-gguf@q8_0") == [Q8]
    assert find_models(MODELS, "qwen/qwen3-4b") == [Q4]
