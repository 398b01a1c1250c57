"""GGUF files → descriptions of models, from their names and headers.

A model that is split into several files (`…-00001-of-00003.gguf`) is referred to by the first.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from lmcli.errors import LoadFailed, NoInput, UsageError, quoted, reason
from lmcli.server.llama.gguf import FILE_TYPES, Header, InvalidGGUF, read_header
from lmcli.server.llama.model_types import LLM, has_pooling, model_type
from lmcli.server.llama.projectors import find_projector
from lmcli.values import ModelInfo, Quantization

PUBLISHER: Final = "local"
_PART: Final = re.compile(r"-(\d{5})-of-(\d{5})$")
_SCALES: Final = ((1e9, "B"), (1e6, "M"), (1e3, "K"))


class LocalModel(NamedTuple):
    """A model on this machine.

    Attributes:
        file: the file, or the first of several.
        parts: all files.
        layers: the number of blocks.
        has_pooling: whether an embedding model says how the vectors of the tokens become that of a text.
        projector: the file that lets a language model read images.
    """

    info: ModelInfo
    file: Path
    parts: Sequence[Path]
    layers: int
    has_pooling: bool
    projector: Path | None


def local_models(files: Sequence[Path]) -> Sequence[LocalModel]:
    """Describe the models in files; their keys are unique.

    Raises:
        NoInput: a file cannot be read.
        LoadFailed: a file is not a valid GGUF file.
        UsageError: a file is not a language model or an embedding model, or not the first of its files.
    """
    found: list[LocalModel] = []
    used: set[str] = set()
    for file in files:
        model = _describe(file, used)
        used.add(model.info.model_key)
        found.append(model)
    return found


def checked_header(file: Path) -> Header:
    """Read the header of a file.

    Raises:
        NoInput: it cannot be read.
        LoadFailed: it is not a valid GGUF file.
    """
    try:
        return read_header(file)
    except OSError as error:
        raise NoInput(f"cannot read {quoted(file)}: {reason(error)}") from error
    except InvalidGGUF as problem:
        raise LoadFailed(f"{quoted(file)} {problem}", "download it again, or convert it again") from problem


def _describe(file: Path, used: set[str]) -> LocalModel:
    parts = _parts(file)
    headers = [checked_header(part) for part in parts]
    header = headers[0]
    kind = model_type(header)
    if kind is None:
        architecture = header.architecture or "unknown"
        raise UsageError(f"{quoted(file)} is not a language model: its architecture is {architecture}")
    quantization = _quantization(header)
    path = file.as_posix()
    projector = find_projector(file, header) if kind == LLM else None
    info = ModelInfo(
        type=kind,
        model_key=_key(file, quantization, used),
        display_name=header.text("general.name") or _stem(file),
        path=path,
        indexed_model_identifier=path,
        publisher=header.text("general.organization") or PUBLISHER,
        format="gguf",
        size_bytes=sum(part.size_bytes for part in headers),
        max_context_length=header.of_architecture("context_length") or 0,
        params_string=header.text("general.size_label") or size_label(sum(part.weights for part in headers)),
        architecture=header.architecture,
        quantization=quantization,
        vision=projector is not None,
    )
    return LocalModel(info, file, parts, header.of_architecture("block_count") or 0, has_pooling(header), projector)


def _parts(file: Path) -> Sequence[Path]:
    found = _PART.search(file.stem)
    if found is None:
        return [file]
    number, count = int(found[1]), int(found[2])
    if number != 1:
        raise UsageError(
            f"{quoted(file)} is not the first part of its model",
            "name the first part; the others are found by their names",
        )
    base = file.stem[: found.start()]
    return [file.with_name(f"{base}-{part:05}-of-{count:05}{file.suffix}") for part in range(1, count + 1)]


def _stem(file: Path) -> str:
    return _PART.sub("", file.stem)


def _key(file: Path, quantization: Quantization | None, used: set[str]) -> str:
    """The key: the file's name in lower case, without the quantization if it is unique without."""
    full = _stem(file).lower()
    short = full
    if quantization is not None:
        short = re.sub(rf"[-._@]{re.escape(quantization.name.lower())}$", "", full) or full
    numbered = (f"{full}-{number}" for number in range(2, len(used) + 3))
    return next(key for key in (short, full, *numbered) if key not in used)


def _quantization(header: Header) -> Quantization | None:
    name = FILE_TYPES.get(header.number("general.file_type") or 0) if "general.file_type" in header.values else None
    bits = re.search(r"\d+", name or "")
    return Quantization(name=name, bits=int(bits[0])) if name and bits else None


def size_label(weights: int) -> str:
    """`7600000000` → `7.6B`."""
    for scale, letter in _SCALES:
        if weights >= scale:
            return f"{weights / scale:.1f}".removesuffix(".0") + letter
    return str(weights)
