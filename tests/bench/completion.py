"""What a TAB takes in bash: `python tests/bench/completion.py [--runs N]`.

The completion function is called in a real bash, with two hundred model keys written down; sourcing the file, which
bash-completion does at the first TAB, is measured too. Nothing here is asserted.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path
from statistics import median

FILE = Path(__file__).parents[2] / "completions" / "lm.bash"
LINES = ["lm ", "lm respond --", "lm respond -o ", "lm respond --output=", "lm respond -m ", "lm chat --history "]
KEYS = 200

BASH = r"""
compopt() { :; }
time_of() {
    local began=${EPOCHREALTIME/[.,]/}
    "${@:2}"
    local ended=${EPOCHREALTIME/[.,]/}
    echo "$1|$((ended - began))"
}
tab() {
    COMP_LINE=$1 COMP_POINT=${#1}
    _lm
}
"""


def script(runs: int) -> str:
    """Call the function for each line, many times."""
    calls = [f"time_of 'first TAB: the file is read' . {FILE}"]
    for line in LINES:
        words = [*line.replace("=", " = ").split(), *([] if line.endswith(("-", "=")) else [""])]
        quoted = " ".join(f"'{word}'" for word in words)
        calls.append(f"COMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1}")
        calls.append(f"for ((run = 0; run < {runs}; run++)); do time_of '{line}TAB' tab '{line}'; done")
    return "\n".join([BASH, *calls])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=101)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "lm", "models")
        cache.parent.mkdir()
        cache.write_text("".join(f"publisher/model-{number}@q4_k_m\n" for number in range(KEYS)))
        for number in range(20):
            Path(folder, f"talk-{number}.json").touch()
        command = [shutil.which("bash") or "/bin/bash", "--norc", "-c", script(runs)]
        settings = {"PATH": "/nowhere", "XDG_CACHE_HOME": folder}
        shown = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=True)
    times: dict[str, list[float]] = {}
    for row in shown.stdout.splitlines():
        name, _, microseconds = row.partition("|")
        times.setdefault(name, []).append(int(microseconds) / 1000)
    print(f"a TAB in bash, {KEYS} model keys, median and worst of {runs} (at most 10 ms):")
    for name, each in times.items():
        print(f"  {name:28} {median(each):6.2f} ms {max(each):6.2f} ms")


if __name__ == "__main__":
    main()
