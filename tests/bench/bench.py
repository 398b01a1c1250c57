"""Figures as ratios, side by side in one run: `python tests/bench/bench.py [--runs N] [--fragments N]`.

Three whole processes are run in turn against a server that is never the bottleneck: `lm respond`, a bare loop that
does the least that is possible, and the official SDK. Absolute times say little on a shared machine; the ratios of
medians do. Nothing here is asserted.
"""

import argparse
import sys
from collections.abc import Callable

from measuring import HERE, Run, fast_server, measure, seconds


def contenders(port: int) -> dict[str, Callable[[str], list[str]]]:
    """The command lines, made of a prompt."""
    python = sys.executable
    return {
        "lm": lambda prompt: [python, "-m", "lmcli", "respond", "-n", "--host", f"127.0.0.1:{port}", prompt],
        "bare loop": lambda prompt: [python, str(HERE / "bare_loop.py"), str(port), prompt],
        "official SDK": lambda prompt: [python, str(HERE / "official_sdk.py"), str(port), prompt],
    }


def in_turn(port: int, prompt: str, runs: int) -> dict[str, list[Run]]:
    """Run all contenders in turn, after one round that is not counted."""
    commands = contenders(port)
    rounds = [{name: measure(command(prompt)) for name, command in commands.items()} for _ in range(runs + 1)]
    return {name: [one[name] for one in rounds[1:]] for name in commands}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--fragments", type=int, default=100_000)
    options = parser.parse_args()
    with fast_server() as port:
        short = in_turn(port, "hi", options.runs)
        print(f"one answer of one fragment, whole process, median of {options.runs}:")
        for name, runs in short.items():
            print(f"  {name:13} {seconds(runs) * 1000:7.0f} ms  {max(r.peak_kib for r in runs) / 1024:6.1f} MiB")
        print(f"  lm / bare loop    {seconds(short['lm']) / seconds(short['bare loop']):.2f}  (at most 1.5)")
        print(f"  lm / official SDK {seconds(short['lm']) / seconds(short['official SDK']):.2f}  (at most 0.5)")

        flood = in_turn(port, f"n={options.fragments}", max(1, options.runs // 4))
        rates = {name: options.fragments / (seconds(flood[name]) - seconds(short[name])) for name in flood}
        print(f"{options.fragments} fragments, fragments per second without the start of the process:")
        for name, rate in rates.items():
            print(f"  {name:13} {rate:10,.0f} /s")
        print(f"  lm / bare loop    {rates['lm'] / rates['bare loop']:.2f}  (at least 0.5)")
        print(f"  lm / official SDK {rates['lm'] / rates['official SDK']:.1f}  (at least 20)")

        few, many = (measure(contenders(port)["lm"](f"n={count}")) for count in (1_000, options.fragments * 10))
        print(f"peak memory of lm for 1000 and {options.fragments * 10} fragments:")
        print(
            f"  {few.peak_kib / 1024:.1f} and {many.peak_kib / 1024:.1f} MiB, ratio {many.peak_kib / few.peak_kib:.3f}"
        )


if __name__ == "__main__":
    main()
