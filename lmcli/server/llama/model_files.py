"""GGUF files → descriptions of models, from their names and headers.

A model that is split into several files (`…-00001-of-00003.gguf`) is referred to by the first.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from lmcli.errors import LoadFailed, NoInput, UsageError, quoted, reason
from lmcli.server.llama.folder_search import gguf_files, layout_path
from lmcli.server.llama.gguf import FILE_TYPES, Header, InvalidGGUF, read_header
from lmcli.server.llama.model_keys import possible_keys, split_quantization, unique_keys
from lmcli.values import ModelInfo, Quantization
from lmcli.wire.identifiers import check_identifier, identifier_violation

PUBLISHER: Final = "local"
# Architectures that do not generate text: parts of vision models, and embedding models.
NOT_GENERATIVE: Final = frozenset(
    {"clip", "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "t5encoder"}
)
_PART: Final = re.compile(r"-(\d{5})-of-(\d{5})$")
_SCALES: Final = ((1e9, "B"), (1e6, "M"), (1e3, "K"))
_PROJECTOR: Final = "mmproj"  # how LM Studio recognises the part of a vision model that reads images

_log: Final = logging.getLogger(__name__)


class LocalModel(NamedTuple):
    """A model on this machine.

    Attributes:
        file: the file, or the first of several.
        parts: all files.
        layers: the number of blocks.
        possible_keys: the keys that it may have, the preferred one first.
    """

    info: ModelInfo
    file: Path
    parts: Sequence[Path]
    layers: int
    possible_keys: Sequence[str]


def local_models(files: Sequence[Path], *, key: str | None = None) -> Sequence[LocalModel]:
    """Describe the models in files and folders; their keys are unique.

    In a folder, what is not a language model is left out, with a warning if it should be one.

    Args:
        files: files and folders.
        key: of the only model; None derives it.

    Raises:
        NoInput: a file or a folder cannot be read, or there is no model in the folders.
        LoadFailed: a file is not a valid GGUF file.
        UsageError: a file is not a language model, or not the first of its files; the key is not valid, or there are
            several models.
    """
    if key is not None:
        check_identifier(key)
    found: dict[Path, LocalModel] = {}
    empty: list[Path] = []
    for file in files:
        models = [*_models_in(file)] if os.path.isdir(file) else [_describe(file, None)]  # noqa: PTH112  never fails
        for model in models:
            found.setdefault(model.file.resolve(), model)
        if not models:
            empty.append(file)
    where = ", ".join(map(quoted, empty))
    if not found:
        raise NoInput(f"there is no language model in {where}", "GGUF files are looked for in all folders below, too")
    if empty:
        _log.warning("there is no language model in %s", where)
    models = [*found.values()]
    if key is not None:
        return [_with_key(_only(models), key)]
    keys = unique_keys([model.possible_keys for model in models])
    return [_with_key(model, key) for model, key in zip(models, keys, strict=True)]


def _only(models: Sequence[LocalModel]) -> LocalModel:
    if len(models) > 1:
        raise UsageError(f"one key cannot name {len(models)} models")
    return models[0]


def _with_key(model: LocalModel, key: str) -> LocalModel:
    return model._replace(info=model.info.replace(model_key=key))


def _models_in(folder: Path) -> Iterator[LocalModel]:
    """Describe the models in a folder, and each path in a layout once: a repository may have several revisions."""
    paths: set[str] = set()
    try:
        for file in gguf_files(folder):
            model = _model_of(file, folder)
            if model is not None and model.info.path not in paths:
                paths.add(model.info.path)
                yield model
    except OSError as error:
        raise NoInput(f"cannot read {quoted(folder)}: {reason(error)}") from error


def _model_of(file: Path, folder: Path) -> LocalModel | None:
    """Describe a file in a folder; None if it is invalid, a further part of a model, or not a language model."""
    if _PROJECTOR in file.name.lower():
        return None
    try:
        if (first := _all_parts(file)[0]) != file:
            if not first.exists():
                _log.warning("the first part of a model is missing: %s", quoted(first))
            return None
        return _describe(file, folder)
    except (NoInput, LoadFailed) as error:
        _log.warning("%s", error.message)
    except UsageError as error:
        _log.debug("%s", error.message)
    return None


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


def _describe(file: Path, folder: Path | None) -> LocalModel:
    parts = _all_parts(file)
    if parts[0] != file:
        raise UsageError(
            f"{quoted(file)} is not the first part of its model",
            "name the first part; the others are found by their names",
        )
    headers = [checked_header(part) for part in parts]
    header = headers[0]
    if (violation := _violation(header)) is not None:
        raise UsageError(f"{quoted(file)} is not a language model: {violation}")
    stem = _valid_name(_PART.sub("", file.stem))
    in_layout = layout_path(file, folder)
    path = _valid_name(in_layout or file.as_posix())
    quantization = _quantization(split_quantization(stem)[1] or _file_type(header))
    info = ModelInfo(
        type="llm",
        model_key="",
        display_name=header.text("general.name") or stem,
        path=path,
        indexed_model_identifier=path,
        publisher=path.partition("/")[0] if in_layout else header.text("general.organization") or PUBLISHER,
        format="gguf",
        size_bytes=sum(part.size_bytes for part in headers),
        max_context_length=header.of_architecture("context_length") or 0,
        params_string=header.text("general.size_label") or size_label(sum(part.weights for part in headers)),
        architecture=header.architecture,
        quantization=quantization,
    )
    keys = possible_keys(stem, path if in_layout else None, quantization.name if quantization else None)
    return LocalModel(info, file, parts, header.of_architecture("block_count") or 0, keys)


def _all_parts(file: Path) -> Sequence[Path]:
    """The files of a model, one of which is given; the others are found by their names."""
    found = _PART.search(file.stem)
    if found is None:
        return [file]
    base, count = file.stem[: found.start()], max(1, int(found[2]))
    return [file.with_name(f"{base}-{part:05}-of-{count:05}{file.suffix}") for part in range(1, count + 1)]


def _violation(header: Header) -> str | None:
    """Why a file is not a language model; None if it is one."""
    kind = header.text("general.type")
    if kind not in ("", "model"):
        return f"its type is {kind}"
    if header.architecture in NOT_GENERATIVE or not header.architecture:
        return f"its architecture is {header.architecture or 'unknown'}"
    return None


def _valid_name(name: str) -> str:
    """A file name as part of a key or a path: what these must not contain, such as control characters, is `_`."""
    return name if identifier_violation(name) is None else re.sub(r".", _valid_character, name, flags=re.DOTALL)


def _valid_character(found: re.Match[str]) -> str:
    return found[0] if identifier_violation(found[0]) is None else "_"


def _file_type(header: Header) -> str | None:
    number = header.number("general.file_type")
    return None if number is None else FILE_TYPES.get(number)


def _quantization(name: str | None) -> Quantization | None:
    bits = re.search(r"\d+", name or "")
    return Quantization(name=name, bits=int(bits[0])) if name and bits else None


def size_label(weights: int) -> str:
    """`7600000000` → `7.6B`."""
    for scale, letter in _SCALES:
        if weights >= scale:
            return f"{weights / scale:.1f}".removesuffix(".0") + letter
    return str(weights)
