"""The log of the process of a model: always read, so that the process never waits, and searched for a reason."""

import asyncio
import logging
import subprocess
from typing import Final

from lmcli.errors import escaped

# The prefix of llama.cpp's line that has the reason why a file cannot be loaded.
_REASON: Final = "error loading model: "
_MAX_REASON_CHARACTERS: Final = 300
_MAX_LINE_BYTES: Final = 4096
_READ_BYTES: Final = 64 * 1024

_log: Final = logging.getLogger(__name__)


class EngineLog:
    """What a process writes to its stderr.

    Args:
        is_shown: whether to log it, line by line.
    """

    def __init__(self, *, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._last = ""
        self._reason = ""
        if is_shown:
            _log.setLevel(logging.INFO)  # also where only warnings of the server are logged

    @property
    def reason(self) -> str:
        """The reason that llama.cpp gave, or else the last line; empty if there is none."""
        return escaped((self._reason or self._last).strip()[:_MAX_REASON_CHARACTERS])

    async def read(self, process: "subprocess.Popen[bytes]") -> None:
        """Read to the end, which is that of the process."""
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, process.stderr)
        rest = b""
        while data := await reader.read(_READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[-_MAX_LINE_BYTES:]
            for line in lines:
                self._add(line)
        self._add(rest)

    def _add(self, line: bytes) -> None:
        text = line[:_MAX_LINE_BYTES].decode(errors="replace")
        if not text.strip():
            return
        self._last = text
        if _REASON in text:
            self._reason = text.partition(_REASON)[2]
        if self._is_shown:
            _log.info("%s", text)
