"""`python -m lmcli.reference [--check]`: write what is generated, or say what is not up to date."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from lmcli.reference import bash, fish, manual, zsh
from lmcli.reference.readme import filled
from lmcli.reference.tree import commands

ROOT: Final = Path(__file__).parents[2]
SHELLS: Final = {"lm.bash": bash, "_lm": zsh, "lm.fish": fish}


def generated(root: Path) -> dict[Path, str]:
    """Every generated file below the root of the sources, and what it should hold."""
    known = commands()
    pages = {Path("man", f"{name}.1"): manual.page(name, known, manual.prose_of(name, root)) for name in manual.PAGES}
    completions = {Path("completions", name): shell.completion(known) for name, shell in SHELLS.items()}
    readme = Path("README.md")
    return pages | completions | {readme: filled((root / readme).read_text(encoding="utf-8"))}


def stale(files: Mapping[Path, str], root: Path) -> list[Path]:
    """Those that hold something else, or are not there."""
    return [path for path, text in files.items() if not _holds(root / path, text)]


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def main() -> int:
    """Write, or check; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m lmcli.reference")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 and names if something is stale")
    is_check = parser.parse_args().check
    files = generated(ROOT)
    changed = stale(files, ROOT)
    for path in changed:
        sys.stdout.write(f"{path}\n")
        if not is_check:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(files[path], encoding="utf-8")
    return int(is_check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
