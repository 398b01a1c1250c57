"""Files of the user, read whole; a device that never ends is refused."""

import os
import stat
from pathlib import Path
from typing import Final

_COPIES: Final = 12
"""How many times what is sent is in memory at most: as bytes, as text, in a message, as JSON, in frames."""


def read_bytes(path: Path) -> bytes:
    """Read a file, pipe or terminal to its end.

    Raises:
        OSError: it cannot be read, or is a device.
        MemoryError: there is not enough memory for what it is needed for.
    """
    with path.open("rb") as file:
        refuse_device(file.fileno())
        data = file.read()
    require_memory(len(data))
    return data


def require_memory(size: int) -> None:
    """Require the memory to send so many bytes, before it is needed: orjson crashes if it gets none.

    Raises:
        MemoryError: there is not enough.
    """
    bytes(_COPIES * size)  # never written to, so that it takes no pages


def refuse_device(descriptor: int) -> None:
    """Refuse what need not end: all devices but terminals, where the user ends the input, and the null device.

    Raises:
        OSError: it is such a device.
    """
    status = os.fstat(descriptor)
    is_device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    if is_device and not os.isatty(descriptor) and status.st_rdev != Path(os.devnull).stat().st_rdev:
        raise OSError(None, "it is a device")
