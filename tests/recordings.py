"""The recorded dialogues of the official SDKs with the official server-side packages."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "transcripts"
NAMES = sorted(path.stem for path in FOLDER.glob("*.wire"))


class Line(NamedTuple):
    """One text on the socket: whether the server sent it, as it was, and decoded."""

    is_from_server: bool
    text: str
    value: Any


def lines(name: str) -> list[Line]:
    """A recording in the order of time."""
    recorded = (FOLDER / f"{name}.wire").read_text(encoding="utf-8").splitlines()
    return [Line(line[0] == "<", line[2:], json.loads(line[2:])) for line in recorded if line[:2] in ("< ", "> ")]


def sent(prefix: str, endpoint: str) -> Iterator[Any]:
    """The parameters with which an SDK (`js`, `py`) asked for an endpoint, in all its recordings."""
    for name in NAMES:
        for line in lines(name) if name.startswith(prefix) else ():
            if not line.is_from_server and line.value.get("endpoint") == endpoint:
                yield line.value.get("creationParameter", line.value.get("parameter"))
