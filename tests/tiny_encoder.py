"""Makes GGUF files of embedding models: a BERT with random weights, whose tokens are words and letters."""

import string
from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH = 32
LAYERS = 2
HEADS = 4
CONTEXT_LENGTH = 64
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORD_BEGIN = "▁"
WORDS = ("hello", "world", "the", "sky", "is", "blue")


def make_encoder(
    path: Path,
    *,
    name: str = "Tiny Encoder",
    seed: int = 3,
    pooling: "gguf.PoolingType | None" = None,
    width: int = WIDTH,
    context_length: int = CONTEXT_LENGTH,
) -> Path:
    """Write an embedding model; the same arguments make the same file."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(name)
    writer.add_context_length(context_length)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN if pooling is None else pooling)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    tokens = _add_tokenizer(writer)
    _add_tensors(writer, tokens, width, context_length, np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any) -> int:
    characters = string.ascii_lowercase + string.digits + string.punctuation
    begins = [f"{WORD_BEGIN}{text}" for text in (*WORDS, *characters)]
    tokens = [*SPECIAL, *begins, *characters]
    kind = gguf.TokenType
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(2)
    writer.add_token_list(tokens)
    writer.add_token_types([*[kind.CONTROL] * len(SPECIAL), *[kind.NORMAL] * (len(tokens) - len(SPECIAL))])
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_mask_token_id(4)
    return len(tokens)


def _add_tensors(writer: Any, tokens: int, width: int, context_length: int, random: Any) -> None:
    def weights(tensor: str, rows: int, columns: int) -> None:
        writer.add_tensor(f"{tensor}.weight", random.standard_normal((rows, columns)).astype(np.float32))

    def linear(tensor: str, rows: int, columns: int) -> None:
        weights(tensor, rows, columns)
        writer.add_tensor(f"{tensor}.bias", np.zeros(rows, np.float32))

    def norm(tensor: str) -> None:
        writer.add_tensor(f"{tensor}.weight", np.ones(width, np.float32))
        writer.add_tensor(f"{tensor}.bias", np.zeros(width, np.float32))

    weights("token_embd", tokens, width)
    weights("token_types", 2, width)
    weights("position_embd", context_length, width)
    norm("token_embd_norm")
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            linear(f"blk.{layer}.{part}", width, width)
        norm(f"blk.{layer}.attn_output_norm")
        linear(f"blk.{layer}.ffn_up", 2 * width, width)
        linear(f"blk.{layer}.ffn_down", width, 2 * width)
        norm(f"blk.{layer}.layer_output_norm")
