"""Feed every reader damaged input for a while: `python tests/matrix/fuzz.py [--seconds N] [--seed N] [--only TEXT]`.

With atheris (`pip install atheris`) the damage follows the code that it reaches; without it, it is random, the same for
a seed. An input that breaks a reader is printed as Python has it, with its traceback, and the status is 1.
"""

import argparse
import contextlib
import os
import random
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

try:
    import atheris
except ImportError:
    atheris = None
with atheris.instrument_imports(include=["lmcli"]) if atheris else contextlib.nullcontext():
    from readers import READERS, Reader, scratch

    from lmcli.errors import LmError

_SPLICES = [
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"[" * 3000,
    b"9" * 5000,
    b"1e999",
    b"NaN",
    b"null",
    b"{}",
    b'"',
]
_CHILD_FAILED = 77


def main() -> int:
    """Fuzz the readers that were asked for, each for its share of the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for all of them together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", metavar="TEXT", help="readers with this in their name")
    options = parser.parse_args()
    chosen = {name: reader for name, reader in READERS.items() if options.only in name}
    fuzz = _guided if atheris else _random
    print("guided by coverage" if fuzz is _guided else "at random", flush=True)
    return max(fuzz(name, reader, options.seconds / len(chosen), options.seed) for name, reader in chosen.items())


def survives(reader: Reader, data: bytes) -> bool:
    """Whether a reader does what it must with some bytes; prints what it does instead."""
    try:
        reader.read(data)
    except LmError:
        pass
    except Exception:  # noqa: BLE001  this is what is looked for
        print(f"{data!r}\n{traceback.format_exc()}", flush=True)
        return False
    return True


def _random(name: str, reader: Reader, seconds: float, seed: int) -> int:
    source = random.Random(f"{seed} {name}")
    until = time.monotonic() + seconds
    for count, data in enumerate(_damaged(reader, source)):
        if time.monotonic() > until:
            print(f"{name}: {count} inputs", flush=True)
            return 0
        if not survives(reader, data):
            print(f"{name}: broken by input {count}", flush=True)
            return 1
    return 0


def _damaged(reader: Reader, source: random.Random) -> Iterator[bytes]:
    """Samples with parts that are cut, doubled, replaced or changed."""
    while True:
        data = source.choice(list(reader.samples))
        for _ in range(source.randint(1, 6)):
            start = source.randint(0, len(data))
            end = min(len(data), start + source.choice((0, 1, 1, 2, 4, 16)))
            part = source.choice((b"", data[start:end] * 2, source.randbytes(end - start), source.choice(_SPLICES)))
            data = data[:start] + part + data[end:]
        yield data


def _guided(name: str, reader: Reader, seconds: float, seed: int) -> int:
    """Let atheris look in a process of its own, because it never returns."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _look(reader, seconds, seed)
    _, status = os.waitpid(child, 0)
    is_broken = status != 0
    print(f"{name}: {'broken' if is_broken else 'holds'}", flush=True)
    return int(is_broken)


def _look(reader: Reader, seconds: float, seed: int) -> None:
    corpus = Path(scratch())
    for number, sample in enumerate(reader.samples):
        (corpus / str(number)).write_bytes(sample)

    def once(data: bytes) -> None:
        if not survives(reader, data):
            os._exit(_CHILD_FAILED)

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds) + 1}", f"-seed={seed}", str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
