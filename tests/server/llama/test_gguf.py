"""The headers of GGUF files, and the descriptions of models."""

import os
import struct
from pathlib import Path

import gguf
import pytest
from tiny_model import Shape, make_model

from lmcli.errors import LoadFailed, NoInput, UsageError
from lmcli.server.llama.gguf import BLOCKS, FILE_TYPES, InvalidGGUF, read_header
from lmcli.server.llama.model_files import local_models, size_label


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid file."""
    return make_model(tmp_path_factory.mktemp("models") / "Tiny-F32.gguf")


def test_header(model: Path) -> None:
    """Metadata is read, arrays are measured, weights are added up."""
    header = read_header(model)
    assert header.architecture == "llama"
    assert header.text("general.name") == "Tiny"
    assert header.of_architecture("context_length") == 256
    assert header.lengths["tokenizer.ggml.tokens"] == 262
    assert header.size_bytes == model.stat().st_size
    tensors = gguf.GGUFReader(model).tensors
    assert header.weights == sum(int(tensor.n_elements) for tensor in tensors)


def test_tables_are_those_of_ggml() -> None:
    """The block sizes and the names of file types equal those of the reference implementation."""
    assert {kind.value: size for kind, size in gguf.GGML_QUANT_SIZES.items() if kind.value in BLOCKS} == dict(BLOCKS)
    known = {kind.value: kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    assert {number: known[number] for number in FILE_TYPES} == dict(FILE_TYPES)


def test_truncation_is_detected(model: Path, tmp_path: Path) -> None:
    """A file that is truncated anywhere in its header or its data is invalid."""
    content = model.read_bytes()
    short = tmp_path / "short.gguf"
    for size in (*range(0, 12_000, 61), *range(12_000, len(content), 50_000), len(content) - 1):
        short.write_bytes(content[:size])
        with pytest.raises(InvalidGGUF):
            read_header(short)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"GGML", "not a GGUF"),
        (4, struct.pack("<I", 9), "version 9"),
        (8, struct.pack("<Q", 2**60), "exceeds its size"),
        (16, struct.pack("<Q", 2**60), "exceeds its size"),
        (24, struct.pack("<Q", 2**62), "exceeds its size"),
    ],
)
def test_invalid_header_is_detected(model: Path, tmp_path: Path, at: int, value: bytes, message: str) -> None:
    """A count that exceeds the file is detected without being read."""
    content = bytearray(model.read_bytes())
    content[at : at + len(value)] = value
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(content)
    with pytest.raises(InvalidGGUF, match=message):
        read_header(broken)


def test_description(model: Path) -> None:
    """A model is described by its name and header; its key omits the quantization."""
    (found,) = local_models([model])
    info = found.info
    assert (info.model_key, info.display_name, info.architecture) == ("tiny", "Tiny", "llama")
    assert (info.max_context_length, info.params_string, info.size_bytes) == (256, "115.8K", model.stat().st_size)
    assert info.quantization is not None
    assert (info.quantization.name, info.quantization.bits) == ("F32", 32)
    assert found.layers == 2


def test_keys_are_unique(model: Path, tmp_path: Path) -> None:
    """Files with the same name have numbers; those with the same but for the quantization have that."""
    other = make_model(tmp_path / "Tiny-F32.gguf", Shape(layers=1))
    third = make_model(tmp_path / "tiny.gguf", Shape(layers=1))
    assert [m.info.model_key for m in local_models([model, other, third])] == ["tiny", "tiny-2", "tiny-3"]
    fourth = make_model(tmp_path / "tiny.Q8_0.gguf", Shape(layers=1))
    assert [m.info.model_key for m in local_models([model, fourth])] == ["tiny@f32", "tiny@q8_0"]


def test_model_in_parts(tmp_path: Path) -> None:
    """A model in several files is referred to by the first; all have to exist."""
    first = make_model(tmp_path / "Tiny-F32-00001-of-00002.gguf", Shape(layers=1))
    second = tmp_path / "Tiny-F32-00002-of-00002.gguf"
    with pytest.raises(NoInput, match="00002-of-00002"):
        local_models([first])
    second.write_bytes(first.read_bytes())
    (found,) = local_models([first])
    assert found.info.model_key == "tiny"
    assert found.info.size_bytes == 2 * first.stat().st_size
    with pytest.raises(UsageError, match="not the first part"):
        local_models([second])


def test_file_that_is_not_regular(tmp_path: Path) -> None:
    """A pipe is rejected without being opened, which would block."""
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(NoInput, match="not a regular file"):
        local_models([pipe])


def test_file_that_is_not_a_model(tmp_path: Path) -> None:
    """A file that is missing, is not a GGUF file, or does not generate text is an error of its own type."""
    with pytest.raises(NoInput, match="no such file"):
        local_models([tmp_path / "nothing.gguf"])
    text = tmp_path / "text.gguf"
    text.write_text("a text")
    with pytest.raises(LoadFailed, match="not a GGUF file"):
        local_models([text])
    writer = gguf.GGUFWriter(tmp_path / "eyes.gguf", "clip")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UsageError, match="clip"):
        local_models([tmp_path / "eyes.gguf"])


@pytest.mark.parametrize(
    ("weights", "label"), [(7_615_616_512, "7.6B"), (70_000_000_000, "70B"), (134_515_008, "134.5M"), (999, "999")]
)
def test_size_label(weights: int, label: str) -> None:
    """The number of weights is abbreviated."""
    assert size_label(weights) == label
