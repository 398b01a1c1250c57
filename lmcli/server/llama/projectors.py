"""The file that lets a model read images: its projector (`mmproj`), beside the file of the model, as in LM Studio."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lmcli.errors import quoted
from lmcli.server.llama.gguf import Header, InvalidGGUF, read_header

ARCHITECTURE: Final = "clip"
_NAME: Final = "mmproj"
_log: Final = logging.getLogger(__name__)


def find_projector(file: Path, header: Header) -> Path | None:
    """The projector of a language model: one of the same width, or any if the model is alone in its folder.

    Args:
        file: the model, or the first of its files.
        header: its header.
    """
    found = sorted(path for path in file.parent.glob("*.gguf") if _NAME in path.name.lower() and path != file)
    widths = {path: _width(path) for path in found}
    width = header.of_architecture("embedding_length")
    same = [path for path in found if widths[path] == width]
    usable = [path for path in found if widths[path] is not None]
    chosen = same or (usable if _is_alone(file, found) else [])
    return chosen[0] if chosen else None


def _width(file: Path) -> int | None:
    """The width of the model that a projector is for, 0 if it does not say; None if it has none for images."""
    try:
        header = read_header(file)
    except (OSError, InvalidGGUF) as error:
        _log.warning("%s is ignored: %s", quoted(file), error)
        return None
    if header.architecture != ARCHITECTURE or not header.values.get("clip.has_vision_encoder"):
        return None
    return header.number("clip.vision.projection_dim") or 0


def _is_alone(file: Path, projectors: Sequence[Path]) -> bool:
    """Whether all other models in the folder are further parts of this one."""
    prefix = file.name.split("-00001-of-")[0]
    others = {path for path in file.parent.glob("*.gguf") if not path.name.startswith(prefix)}
    return others <= set(projectors)
