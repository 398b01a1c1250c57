"""`python -m lmcli.reference [--check]`: write the generated files, or list those that are out of date."""

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
    """The generated files by path below the root of the sources, with their contents."""
    all_commands = commands()
    pages = {
        Path("man", f"{name}.1"): manual.page(name, all_commands, manual.prose_of(name, root)) for name in manual.PAGES
    }
    completions = {Path("completions", name): shell.completion(all_commands) for name, shell in SHELLS.items()}
    readme = Path("README.md")
    return pages | completions | {readme: filled((root / readme).read_text(encoding="utf-8"))}


def stale(files: Mapping[Path, str], root: Path) -> list[Path]:
    """The files that are missing or have other contents."""
    return [path for path, text in files.items() if not _has_text(root / path, text)]


def _has_text(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def main() -> int:
    """Write or check the files; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m lmcli.reference")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; list files that are out of date, and exit with status 1"
    )
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
