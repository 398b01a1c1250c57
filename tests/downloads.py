"""What tests download, into folders of their own: programs and tests of others, of which the project has no copy."""

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

PATIENCE: Final = 120.0


def download(what: str, *command: str, folder: Path) -> None:
    """Run a program that downloads; a test of what cannot be had is skipped, but never in the gate."""
    try:
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
        error = ran.stderr if ran.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as failed:
        error = str(failed)
    if error:
        assert "LMCLI_GATE" not in os.environ, f"{what} cannot be downloaded: {error}"
        pytest.skip(f"{what} cannot be downloaded: {error[-200:]}")
