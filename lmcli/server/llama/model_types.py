"""What kind of model a GGUF file contains, by its header."""

from typing import Final

from lmcli.server.llama.gguf import Header

LLM: Final = "llm"
EMBEDDING: Final = "embedding"

# Architectures that represent a text as a vector and cannot generate one.
_ENCODERS: Final = frozenset(
    {
        "bert",
        "modern-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "neo-bert",
        "jina-bert-v2",
        "jina-bert-v3",
        "eurobert",
        "gemma-embedding",
        "llama-embed",
        "t5encoder",
    }
)
# Architectures of the parts of a vision model that read images.
_PARTS: Final = frozenset({"clip"})
# How the vectors of the tokens become the vector of a text: llama.cpp's enum llama_pooling_type.
_NO_POOLING: Final = 0
MEAN_POOLING: Final = 1
_RANKING: Final = 4


def model_type(header: Header) -> str | None:
    """`llm` or `embedding`; None for what is neither, such as a part of a model, or a model that ranks documents."""
    architecture, pooling = header.architecture, _pooling(header)
    is_model = header.text("general.type") in ("", "model")
    if not is_model or not architecture or architecture in _PARTS or pooling == _RANKING:
        return None
    return EMBEDDING if architecture in _ENCODERS or pooling else LLM


def has_pooling(header: Header) -> bool:
    """Whether an embedding model says how the vectors of the tokens become that of a text."""
    return _pooling(header) != _NO_POOLING


def _pooling(header: Header) -> int:
    return header.of_architecture("pooling_type") or _NO_POOLING
