"""What the way through the socket costs: `python tests/bench/llama.py [--runs N] [--threads N]`.

The same model, prompt and settings, in turn: llama.cpp called directly in a process of its own, and `lm serve` with
`lm respond`. Two models with random weights are made: one whose tokens take at least 5 ms, and a tiny one that shows
what is spent on each token. Figures are tokens per second from the first token to the last, as the reader of the
tokens measures them; the ratio of medians is what counts. llama.cpp's threads wait for each other by spinning, so they
should be fewer than the cores that are free: one, where nothing else is said. At last, memory over 1,000 predictions.
Nothing is asserted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import GUEST, Wire
from processes import children_of
from tiny_model import Shape, make_model
from websockets.sync.client import connect as open_socket

from lmcli import Client
from lmcli.wire.prediction_config import PredictionConfig

SHAPES = {"large": Shape(layers=4, width=1024, heads=16, context_length=2048), "tiny": Shape(context_length=2048)}
TOKENS = {"large": 150, "tiny": 1500}
PREDICTIONS = 1000
NO_END = [[2, "-inf"]]

DIRECT = """
import json, sys, time, xllamacpp
file, tokens, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
p = xllamacpp.CommonParams()
p.model.path, p.n_ctx, p.port, p.verbosity, p.n_batch = file, 2048, 0, -1, 512
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(p)
body = dict(prompt="hello", stream=True, max_tokens=tokens, seed=1, temperature=0.8, top_k=40, top_p=0.95, min_p=0.05,
            repeat_penalty=1.1, logit_bias=[[2, False]])
for _ in sys.stdin:
    times = []
    server.handle_completions(body, lambda piece: times.append(time.perf_counter()) and False)
    print((tokens - 1) / (times[-1] - times[0]), flush=True)
"""

RESPOND = ("respond", "-n", "--seed", "1", "--set", f"llama.logitBias={json.dumps(NO_END)}", "--overflow", "stop")


@contextmanager
def direct(file: Path, tokens: int, threads: int) -> Iterator[Callable[[], float]]:
    """llama.cpp alone, in a process that stays; gives what makes one run: tokens per second."""
    command = [sys.executable, "-c", DIRECT, str(file), str(tokens), str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run() -> float:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        yield run


def through_lm(host: str, key: str, tokens: int) -> float:
    """Tokens per second as `lm respond` writes them, from the first fragment line to the last."""
    command = [
        sys.executable,
        "-m",
        "lmcli",
        *RESPOND,
        "-H",
        host,
        "-m",
        key,
        "-l",
        str(tokens),
        "-o",
        "jsonl",
        "hello",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        times = [time.perf_counter() for line in process.stdout if b'"fragment"' in line[:20]]
    return (tokens - 1) / (times[-1] - times[0])


def load(host: str, key: str, threads: int) -> None:
    """Have the server load a model with so many threads."""
    with open_socket(host.replace("http", "ws") + "/llm", compression=None) as socket:
        wire = Wire(socket)
        wire.send(GUEST)
        wire.receive()
        config = {"fields": [{"key": "llm.load.llama.cpuThreadPoolSize", "value": threads}]}
        stack = {"layers": [{"layerName": "apiOverride", "config": config}]}
        wire.stream("getOrLoad", {"identifier": key, "loadConfigStack": stack})


def resident_kib(process_id: int) -> int:
    """The memory of a process."""
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def memory(host: str, key: str, process_id: int) -> None:
    """Print the memory of the server, and of its models' processes, while it predicts again and again."""
    processes = [process_id, *children_of(process_id)]
    with Client(host) as client:
        model = client.llm.model(key)
        config: Any = PredictionConfig(max_tokens=8)
        sizes = []
        for number in range(PREDICTIONS + 1):
            model.respond(f"hello {number}", config=config)
            if number % (PREDICTIONS // 4) == 0:
                sizes.append([resident_kib(process) for process in processes])
    print(f"memory over {PREDICTIONS} predictions, KiB:")
    for name, row in zip(("server", *SHAPES), zip(*sizes, strict=True), strict=True):
        print(f"    {name}: {', '.join(map(str, row))}")


def main() -> None:
    """Make the models, run both in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    runs, threads = options.runs, options.threads
    with tempfile.TemporaryDirectory() as folder:
        files = {name: make_model(Path(folder) / f"{name}.gguf", shape) for name, shape in SHAPES.items()}
        command = [sys.executable, "-m", "lmcli", "serve", "-q", "--port", "0", *map(str, files.values())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            host = server.stdout.readline().strip()
            for name, file in files.items():
                load(host, name, threads)
                with direct(file, TOKENS[name], threads) as run:
                    pairs = [(run(), through_lm(host, name, TOKENS[name])) for _ in range(runs + 1)][1:]
                one, other = (median(rates) for rates in zip(*pairs, strict=True))
                print(
                    f"{name}: alone {one:.1f} tokens/s ({1000 / one:.3f} ms each), lm serve + lm respond {other:.1f} "
                    f"({1000 / other:.3f} ms), ratio {other / one:.3f}"
                )
            memory(host, "tiny", server.pid)
            server.terminate()


if __name__ == "__main__":
    main()
