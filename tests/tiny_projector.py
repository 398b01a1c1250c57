"""Makes GGUF files of the vision part of a model, an `mmproj`: a CLIP of two layers with random weights; and images."""

import struct
import zlib
from pathlib import Path

import gguf
import numpy as np

IMAGE_SIZE = 16
PATCH_SIZE = 4
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
WIDTH = 32
LAYERS = 2


def make_projector(path: Path, text_width: int = 64, *, seed: int = 5) -> Path:
    """Write the vision part of a text model of a width; an image is IMAGE_TOKENS tokens."""
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_bool("clip.use_gelu", True)
    writer.add_vision_image_size(IMAGE_SIZE)
    writer.add_vision_patch_size(PATCH_SIZE)
    writer.add_vision_embedding_length(WIDTH)
    writer.add_vision_feed_forward_length(2 * WIDTH)
    writer.add_vision_projection_dim(text_width)
    writer.add_vision_block_count(LAYERS)
    writer.add_vision_head_count(4)
    writer.add_vision_attention_layernorm_eps(1e-5)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    random = np.random.default_rng(seed)

    def weights(tensor: str, *shape: int) -> None:
        writer.add_tensor(f"{tensor}.weight", random.standard_normal(shape).astype(np.float32))

    def linear(tensor: str, rows: int, columns: int) -> None:
        weights(tensor, rows, columns)
        writer.add_tensor(f"{tensor}.bias", np.zeros(rows, np.float32))

    def norm(tensor: str) -> None:
        writer.add_tensor(f"{tensor}.weight", np.ones(WIDTH, np.float32))
        writer.add_tensor(f"{tensor}.bias", np.zeros(WIDTH, np.float32))

    weights("v.patch_embd", WIDTH, 3, PATCH_SIZE, PATCH_SIZE)
    weights("v.position_embd", IMAGE_TOKENS, WIDTH)
    norm("v.pre_ln")
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            linear(f"v.blk.{layer}.{part}", WIDTH, WIDTH)
        norm(f"v.blk.{layer}.ln1")
        norm(f"v.blk.{layer}.ln2")
        linear(f"v.blk.{layer}.ffn_up", 2 * WIDTH, WIDTH)
        linear(f"v.blk.{layer}.ffn_down", WIDTH, 2 * WIDTH)
    linear("mm.0", text_width, WIDTH)
    linear("mm.2", text_width, text_width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def png(color: tuple[int, int, int], size: int = 16) -> bytes:
    """A square of one color."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\0" + bytes(color) * size) * size
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
