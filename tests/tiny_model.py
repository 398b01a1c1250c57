"""Makes GGUF files: a llama of a few layers with random weights, whose tokens are bytes.

Its text is random, generated in 20 ms; constraints such as grammars apply to it all the same.
"""

from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

SPECIAL = ("<unk>", "<s>", "</s>")
TAGS = ("<think>", "</think>")
SPACE = "▁"  # how this kind of tokenizer writes a space; without a token it would be three bytes
BYTES_FROM = len(SPECIAL)
MARKS_FROM = BYTES_FROM + 256 + len(TAGS) + 1
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "<|assistant|>{% if enable_thinking %}<think>\n{% endif %}"
)


class Shape(NamedTuple):
    """The size of a model."""

    layers: int = 2
    width: int = 64
    heads: int = 4
    context_length: int = 256

    @property
    def inner(self) -> int:
        """The width of the feed-forward part."""
        return 2 * self.width


TINY = Shape()


def token_of(byte: int) -> int:
    """The number of the token that is a byte."""
    return BYTES_FROM + byte


def make_model(
    path: Path,
    shape: Shape = TINY,
    *,
    name: str = "Tiny",
    seed: int = 1,
    template: str | None = TEMPLATE,
    marks: tuple[str, ...] = (),
) -> Path:
    """Write a model, which has marks as special tokens from MARKS_FROM on; the same arguments make the same file."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, marks)
    if template is not None:
        writer.add_chat_template(template)
    _add_tensors(writer, shape, MARKS_FROM + len(marks), np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, marks: tuple[str, ...]) -> None:
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *TAGS, SPACE, *marks]
    kind = gguf.TokenType
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * 256, *[kind.USER_DEFINED] * len(TAGS)]
    types += [kind.NORMAL, *[kind.CONTROL] * len(marks)]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


def _add_tensors(writer: Any, shape: Shape, vocabulary: int, random: Any) -> None:
    def weights(tensor: str, rows: int, columns: int) -> None:
        scale = 2.4 / shape.width**0.5
        writer.add_tensor(tensor, (random.standard_normal((rows, columns)) * scale).astype(np.float32))

    def ones(tensor: str) -> None:
        writer.add_tensor(tensor, np.ones(shape.width, np.float32))

    weights("token_embd.weight", vocabulary, shape.width)
    weights("output.weight", vocabulary, shape.width)
    ones("output_norm.weight")
    for layer in range(shape.layers):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights(f"blk.{layer}.{part}.weight", shape.width, shape.width)
        for part in ("ffn_gate", "ffn_up"):
            weights(f"blk.{layer}.{part}.weight", shape.inner, shape.width)
        weights(f"blk.{layer}.ffn_down.weight", shape.width, shape.inner)
        ones(f"blk.{layer}.attn_norm.weight")
        ones(f"blk.{layer}.ffn_norm.weight")
