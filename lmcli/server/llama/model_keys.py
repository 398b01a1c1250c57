"""The keys of GGUF files, derived as LM Studio does.

A key is the name of the repository in lower case, without `-GGUF`, or that of a file that lies in none, without its
quantization. Where several models have the same, it is preceded by the publisher, or followed by the quantization.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, count
from typing import Final

_QUANTIZATION: Final = re.compile(r"[-._@](?:UD-)?((?:I?Q|TQ)\d\w*|B?F16|F32|MXFP4\w*|NVFP4)$", re.IGNORECASE)


def split_quantization(stem: str) -> tuple[str, str | None]:
    """`Qwen3-4B-Q4_K_M` → `Qwen3-4B` and `Q4_K_M`, by the name alone."""
    found = _QUANTIZATION.search(stem)
    return (stem[: found.start()], found[1].upper()) if found and found.start() else (stem, None)


def possible_keys(stem: str, layout_path: str | None, quantization: str | None) -> Sequence[str]:
    """The keys that a model may have, the preferred one first.

    Args:
        stem: the name of its file, without the extension.
        layout_path: its path in LM Studio's layout; None if it is not in that layout.
        quantization: its quantization; None if unknown.
    """
    return [key.lower() for key in _possible_keys(stem, layout_path, quantization)]


def _possible_keys(stem: str, layout_path: str | None, quantization: str | None) -> Iterator[str]:
    if layout_path is None:
        names = [split_quantization(stem)[0]]
    else:
        publisher, repository, _ = layout_path.split("/", 2)
        name = re.sub(r"(?<=.)[-_.]gguf$", "", repository, flags=re.IGNORECASE)
        names = [name, f"{publisher}/{name}"]
    for name in names:
        yield name
        if quantization is not None:
            yield f"{name}@{quantization}"
    yield stem if layout_path is None else layout_path.rpartition(".")[0]


def unique_keys(models: Sequence[Sequence[str]]) -> Iterator[str]:
    """The key of each model: of those that it may have, the first that no other has; else the first, numbered."""
    shared = Counter(key for keys in models for key in set(keys))
    used: set[str] = set()
    for keys in models:
        unique = (key for key in keys if shared[key] == 1)
        numbered = (f"{keys[0]}-{number}" for number in count(2))
        free = (key for key in numbered if key not in shared)
        key = next(key for key in chain(unique, keys[:1], free) if key not in used)
        used.add(key)
        yield key
