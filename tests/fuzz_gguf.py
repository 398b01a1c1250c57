"""Headers of GGUF files with random changes: python tests/fuzz_gguf.py SECONDS reads them until the time is over.

With the package atheris the changes are guided by coverage.
"""

import importlib
import random
import struct
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmcli.server.llama.gguf import InvalidGGUF, read_header

STRING = 8
EXTREMES = [0, 1, 2**7, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def text(value: str) -> bytes:
    """A string as GGUF has it."""
    return struct.pack("<Q", len(value)) + value.encode()


def header() -> bytes:
    """A small valid header with a value of each type, arrays, and tensors."""
    entries = [
        text("general.architecture") + struct.pack("<I", STRING) + text("llama"),
        text("general.alignment") + struct.pack("<II", 4, 32),
        text("llama.context_length") + struct.pack("<IQ", 10, 256),
        text("small") + struct.pack("<IB", 7, 1) + text("real") + struct.pack("<If", 6, 1.5),
        text("tokens") + struct.pack("<IIQ", 9, STRING, 3) + text("a") + text("bc") + text(""),
        text("numbers") + struct.pack("<IIQ3i", 9, 5, 3, 1, 2, 3),
        text("nested") + struct.pack("<IIQ", 9, 9, 2) + struct.pack("<IQB", 0, 1, 7) * 2,
    ]
    tensors = [text(name) + struct.pack("<IQQIQ", 2, 32, 2, 8, 0) for name in ("one", "two")]
    content = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries) + 1) + b"".join((*entries, *tensors))
    return content + bytes(-len(content) % 32 + 68)


def mutated(chance: Any) -> bytes:
    """A header with a few changes, chosen by a `random.Random`."""
    content = bytearray(header())
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content))
        match chance.randrange(4):
            case 0:
                content[at] = chance.randrange(256)
            case 1:
                content[at : at + 8] = struct.pack("<Q", chance.choice(EXTREMES))
            case 2:
                content[at : at + 4] = struct.pack("<I", chance.choice(EXTREMES) & 0xFFFFFFFF)
            case 3:
                del content[at : at + chance.randrange(16)]
    return bytes(content)


def try_to_read(file: Path, content: bytes) -> None:
    """Read a header; InvalidGGUF is all that it may raise."""
    file.write_bytes(content)
    with suppress(InvalidGGUF):
        read_header(file)


def main(seconds: float) -> None:
    """Read mutated headers."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fuzzed.gguf"
        try:
            atheris = importlib.import_module("atheris")
        except ImportError:
            _run(file, seconds)
            return
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        (corpus / "valid").write_bytes(header())
        arguments = [sys.argv[0], f"-max_total_time={round(seconds)}", str(corpus)]
        atheris.instrument_all()
        atheris.Setup(arguments, lambda content: try_to_read(file, content))
        atheris.Fuzz()


def _run(file: Path, seconds: float) -> None:
    seed, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        seed += 1
        try:
            try_to_read(file, mutated(random.Random(seed)))
        except Exception:
            print(f"seed {seed}")
            raise
    print(f"{seed} headers, nothing but InvalidGGUF")


if __name__ == "__main__":
    main(float(sys.argv[1]))
