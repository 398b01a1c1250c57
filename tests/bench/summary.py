"""Summing up many records: `python tests/bench/summary.py [--records N]`.

`lm stats FILE` on a file as `--stats-file` writes it, beside a bare loop that only decodes each line. Both are whole
processes; what they take for an empty file is their start, and left out. Seconds are those of a processor, which other
work on the machine does not lengthen as it does the time on the wall. Nothing here is asserted.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

import orjson
from measuring import measure

MODELS = ("qwen2.5-7b-instruct", "llama-3.2-3b", "gemma-3-12b-it", "mistral-small")
BARE_LOOP = "import sys, orjson\nfor line in open(sys.argv[1], 'rb'):\n    orjson.loads(line)\n"


def record(chance: random.Random) -> bytes:
    """One line of a stats file."""
    model = chance.choice(MODELS)
    seconds = chance.expovariate(0.5)
    stats = {
        "stop_reason": "eosFound" if chance.random() < 0.9 else "maxPredictedTokensReached",
        "predicted_tokens_count": chance.randrange(1, 2000),
        "prompt_tokens_count": chance.randrange(1, 4000),
        "total_tokens_count": 2000,
        "time_to_first_token_sec": chance.expovariate(3.0),
        "tokens_per_second": chance.gauss(60.0, 9.0),
        "total_time_sec": seconds,
    }
    line = {
        "time": f"2025-06-{chance.randrange(1, 31):02}T12:00:00.000+00:00",
        "command": "respond",
        "model": {"display_name": model, "model_key": model, "identifier": model},
        "options": {"temperature": 0.2, "max_tokens": 2000, "context_overflow_policy": "stopAtLimit"},
        "stats": stats,
        "exit_status": 0,
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    count = parser.parse_args().records
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        empty, full = Path(folder, "empty"), Path(folder, "full")
        empty.touch()
        with full.open("wb") as file:
            file.writelines(record(chance) for _ in range(count))
        print(f"{count} records, {full.stat().st_size / count:.0f} bytes each:")
        rates = {}
        for name, command in (
            ("bare loop", [sys.executable, "-c", BARE_LOOP]),
            ("lm stats", [sys.executable, "-m", "lmcli", "stats"]),
            ("--by day -o csv", [sys.executable, "-m", "lmcli", "stats", "--by", "day", "-o", "csv"]),
        ):
            measure([*command, str(empty)])  # the first one fills the caches
            least, most = measure([*command, str(empty)]), measure([*command, str(full)])
            rates[name] = count / (most.busy_seconds - least.busy_seconds)
            per_record = (most.peak_kib - least.peak_kib) * 1024 / count
            print(
                f"  {name:16}{rates[name]:10,.0f} /s  {most.peak_kib / 1024:6.1f} MiB at the peak,"
                f" {per_record:5.1f} bytes a record"
            )
        print(f"  lm stats / bare loop  {rates['lm stats'] / rates['bare loop']:.2f}")


if __name__ == "__main__":
    main()
