"""`lm stats`, `--stats-file` and `lm models load`, where a clock, a signal, a terminal or a neighbour is needed."""

import csv
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import termios
import time
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect, Packet, Serve, StartServer
from processes import Hand, Puppet, Terminal, environment, run, start

from lmcli.server.background import Running

ESCAPE = b"\x1b"
TERM = {"TERM": "xterm-256color"}
COLOURFUL = {**TERM, "FORCE_COLOR": "1"}
SIGNALS = [signal.SIGINT, signal.SIGTERM]
APPENDING = """
import sys
from pathlib import Path
from lmcli.cli.figures import append_line
print("ready", flush=True)
sys.stdin.read()
for number in range(400):
    append_line(Path("log"), {"writer": sys.argv[1], "number": number, "padding": sys.argv[1] * 5000})
"""


def terminal_of(columns: int) -> Terminal:
    """A terminal of some width."""
    terminal = Terminal()
    termios.tcsetwinsize(terminal.line, (24, columns))
    return terminal


def recorded(models: int, records: int) -> list[Packet]:
    """Records as they stand in a stats file, of several models, with figures as they come by chance."""
    chance = random.Random(models)
    return [
        {
            "time": f"2025-06-{1 + number % 3:02}T12:00:00.000+00:00",
            "model": {"model_key": f"some-model-with-a-name-{number % models}"},
            "stats": {
                "stop_reason": "eosFound",
                "prompt_tokens_count": chance.randrange(1000),
                "predicted_tokens_count": chance.randrange(1000),
                "time_to_first_token_sec": chance.expovariate(2),
                "tokens_per_second": chance.gauss(50, 8),
                "total_time_sec": chance.expovariate(0.2),
            },
        }
        for number in range(records)
    ]


def write_records(path: Path, records: list[Packet]) -> None:
    """A stats file."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def place(folder: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Where a command runs, beside a prompt."""
    (folder / "prompt").write_text("hi\n")
    return {"folder": folder, "variables": variables}


def test_figures_agree_with_the_clock_of_the_client(tmp_path: Path, serve: Serve) -> None:
    """The server's time lies inside of the one seen here, that inside of the process's; the pace is kept."""
    pace, words, runs = 50, 20, 2
    line = f"lm stats --runs {runs} -o json"
    variables = environment(tmp_path, serve(tokens_per_second=pace).port)
    began = time.perf_counter()
    ran = run(line, tmp_path, variables, stdin=b" ".join([b"word"] * words))
    elapsed = time.perf_counter() - began
    (series,) = json.loads(ran.stdout)["models"]
    assert len(series["runs"]) == runs
    assert sum(one["seen_total_time_sec"] for one in series["runs"]) < elapsed
    for one in series["runs"]:
        assert 0 < one["time_to_first_token_sec"] < one["seen_first_fragment_sec"] < one["seen_total_time_sec"]
        assert one["total_time_sec"] < one["seen_total_time_sec"]
        tokens = one["predicted_tokens_count"]
        assert tokens == words
        generated_in = one["seen_total_time_sec"] - one["time_to_first_token_sec"]
        assert tokens / generated_in < one["tokens_per_second"] < pace * tokens / (tokens - 1) * 1.01
        assert one["tokens_per_second"] * (one["total_time_sec"] - one["time_to_first_token_sec"]) == pytest.approx(
            tokens
        )


def test_the_summary_is_of_the_runs(tmp_path: Path, server: Running) -> None:
    """Least, median, 95th percentile and greatest are those of the runs in the same report."""
    ran = run("echo one two | lm stats --runs 5 -o json", tmp_path, environment(tmp_path, server.port))
    (series,) = json.loads(ran.stdout)["models"]
    assert set(series["summary"]) == set(series["runs"][0]) - {"stop_reason", "total_tokens_count"}
    for name, shares in series["summary"].items():
        values = [one[name] for one in series["runs"]]
        p95 = statistics.quantiles(values, n=20, method="inclusive")[-1]
        assert shares == pytest.approx(
            {"min": min(values), "median": statistics.median(values), "p95": p95, "max": max(values)}
        )


def test_a_prompt_that_is_read_slowly_delays_the_first_token(tmp_path: Path, start_server: StartServer) -> None:
    """Time to first token holds the reading of the prompt, by the server's clock as by the one here."""
    server = start_server(prompt_tokens_per_second=40)
    ran = run("echo a b c d e | lm stats -o json", tmp_path, environment(tmp_path, server.port))
    (one,) = json.loads(ran.stdout)["models"][0]["runs"]
    reading = one["prompt_tokens_count"] / 40
    assert reading * 0.99 <= one["time_to_first_token_sec"] <= one["seen_first_fragment_sec"]


def test_load_time_is_there_only_if_the_model_was_loaded(tmp_path: Path, start_server: StartServer) -> None:
    """The first time it is at least what the server takes; after that there is none."""
    variables = environment(tmp_path, start_server(load_seconds=0.3).port)
    began = time.perf_counter()
    loads = []
    for _ in range(2):
        ran = run("echo hi | lm stats -m echo-jit -o json", tmp_path, variables)
        loads.append(json.loads(ran.stdout)["models"][0]["load_time_sec"])
    assert 0.3 * 0.99 <= loads[0] <= time.perf_counter() - began
    assert loads[1] is None


def test_a_report_over_files_is_exact(tmp_path: Path) -> None:
    """Sums and percentiles of the command are those of the statistics module on the same records."""
    records = recorded(models=3, records=400)
    write_records(tmp_path / "a", records[:150])
    write_records(tmp_path / "b", records[150:])
    ran = run("lm stats -o json a b", tmp_path, environment(tmp_path, 1))
    groups = json.loads(ran.stdout)["groups"]
    assert list(groups) == sorted({record["model"]["model_key"] for record in records})
    for name, group in groups.items():
        mine = [record["stats"] for record in records if record["model"]["model_key"] == name]
        assert group["predictions"] == len(mine)
        for figure in ("prompt_tokens_count", "predicted_tokens_count", "total_time_sec"):
            assert group[figure] == pytest.approx(sum(stats[figure] for stats in mine))
        for figure in ("time_to_first_token_sec", "tokens_per_second"):
            cuts = statistics.quantiles([stats[figure] for stats in mine], n=100, method="inclusive")
            assert group[figure] == pytest.approx({"p50": cuts[49], "p95": cuts[94], "p99": cuts[98]})


def test_lines_of_many_processes_are_never_torn(tmp_path: Path) -> None:
    """Whoever appends to one stats file at once appends whole lines."""
    with ExitStack() as cleanup:
        processes = [
            cleanup.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", APPENDING, writer],
                    cwd=tmp_path,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            for writer in "abcdef"
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert all(record["padding"] == record["writer"] * 5000 for record in records)
    for writer in "abcdef":
        assert [record["number"] for record in records if record["writer"] == writer] == list(range(400))


def test_commands_side_by_side_share_a_stats_file(tmp_path: Path, server: Running) -> None:
    """Eight predictions at once leave eight records, each of its own."""
    count = 8
    line = f"for n in $(seq {count}); do lm respond -n -l $n --stats-file log 'a b c' > out.$n & done; wait"
    ran = run(line, tmp_path, environment(tmp_path, server.port))
    assert ran.stderr == ""
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(record["options"]["max_tokens"] for record in records) == list(range(1, count + 1))
    assert {record["exit_status"] for record in records} == {0}


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_the_measuring_with_a_report(number: signal.Signals, tmp_path: Path) -> None:
    """The runs that were finished are reported, the one that was not is cancelled, the process dies of the signal."""
    channels: list[int] = []

    def play(hand: Hand, envelope: Packet) -> None:
        if envelope["type"] == "channelSend":
            hand.finish(envelope["channelId"], "userStopped")
            return
        channels.append(envelope["channelId"])
        hand.say(channels[-1], f"run {len(channels)}")
        if len(channels) < 3:
            hand.finish(channels[-1])

    with Puppet(play) as puppet:
        where = place(tmp_path, environment(tmp_path, puppet.port))
        with start("sh", "-c", "exec lm stats --runs 9 --echo -o csv < prompt", **where) as child:
            child.wait_for(b"run 3", "stderr")
            child.process.send_signal(number)
            assert child.end() == -number
        cancel = puppet.wait_for("channelSend")
    assert cancel == {"type": "channelSend", "channelId": channels[2], "message": {"type": "cancel"}}
    rows = list(csv.DictReader(StringIO(child["stdout"].decode())))
    assert [row["run"] for row in rows] == ["1", "2", "min", "median", "p95", "max"]
    assert [row["stop"] for row in rows[:2]] == ["eosFound"] * 2
    assert b"Traceback" not in child["stderr"]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_in_the_first_run_leaves_nothing_to_report(number: signal.Signals, tmp_path: Path) -> None:
    """Nothing was measured: stdout stays empty."""

    def play(hand: Hand, envelope: Packet) -> None:
        if envelope["type"] == "channelSend":
            hand.finish(envelope["channelId"], "userStopped")
        else:
            hand.say(envelope["channelId"], "begun")

    with Puppet(play) as puppet:
        where = place(tmp_path, environment(tmp_path, puppet.port))
        with start("sh", "-c", "exec lm stats --echo < prompt", **where) as child:
            child.wait_for(b"begun", "stderr")
            child.process.send_signal(number)
            assert child.end() == -number
    assert child["stdout"] == b""


def test_a_signal_while_records_are_read(tmp_path: Path) -> None:
    """It ends the process at once and without a word."""
    source, sink = os.pipe()
    with start("lm", "stats", "-", folder=tmp_path, variables=environment(tmp_path, 1), stdin=source) as child:
        os.close(source)
        os.write(sink, b"oops\n")
        child.wait_for(b"line 1", "stderr")
        child.process.send_signal(signal.SIGINT)
        assert child.end() == -signal.SIGINT
    os.close(sink)
    assert child["stdout"] == b""
    assert child["stderr"] == b"lm: warning: '-', line 1: not a record\n"


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("name", [[], ["--identifier", "mine"]], ids=["by key", "by name"])
def test_a_signal_cancels_a_load(
    name: list[str], number: signal.Signals, tmp_path: Path, start_server: StartServer, connect: Connect
) -> None:
    """The server stops loading: the model is not there afterwards, and no name was printed."""
    server = start_server(load_seconds=60)
    line = ["lm", "models", "load", "echo-jit", "--progress", *name]
    with start(*line, folder=tmp_path, variables=environment(tmp_path, server.port)) as child:
        child.wait_for(b"loading 0%", "stderr")
        child.process.send_signal(number)
        assert child.end() == -number
    assert child["stdout"] == b""
    assert [model["identifier"] for model in connect(server).result("listLoaded")] == ["echo"]


def test_the_server_is_told_to_cancel_a_load(tmp_path: Path) -> None:
    """A `cancel` goes to the channel of the load; it is not left to the end of the connection."""
    with Puppet() as puppet:
        variables = environment(tmp_path, puppet.port)
        with start("lm", "models", "load", "big", folder=tmp_path, variables=variables) as child:
            load = puppet.wait_for("channelCreate")
            child.process.send_signal(signal.SIGINT)
            cancel = puppet.wait_for("channelSend")
            assert cancel == {"type": "channelSend", "channelId": load["channelId"], "message": {"type": "cancel"}}
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT


@pytest.mark.parametrize(
    "line",
    [
        "lm stats --runs 2 --echo --color always -m echo -m echo-jit < prompt",
        "lm stats --runs 2 --echo --color always -o csv < prompt",
        "lm stats --runs 2 --echo --color always -o json < prompt",
        "lm stats --color always names",
        "lm stats --color always -o csv names",
        "lm stats --color always -o json --by day names",
        "lm models load echo-jit --color always",
        "lm models --color always",
        "lm models --json --color always",
        "lm models unload echo --color always",
    ],
)
def test_a_pipe_gets_no_escape_byte(line: str, tmp_path: Path, start_server: StartServer) -> None:
    """Whatever the form, the wish for colour, the names in the records, and the terminal that stderr may be."""
    server = start_server(load_seconds=0.4)
    where = place(tmp_path, environment(tmp_path, server.port, **COLOURFUL))
    name = "red\x1b[31m"
    write_records(tmp_path / "names", [{"model": {"model_key": name}, "time": name, "stats": {"stop_reason": name}}])
    with start("sh", "-c", line, stderr=Terminal(), **where) as child:
        assert child.end() == 0
    assert ESCAPE not in child["stdout"]
    assert child["stdout"] or "unload" in line


def cells(shown: bytes) -> list[list[str]]:
    """The cells of a table, taken apart where there are two spaces or more."""
    return [re.split(r" {2,}", line.strip()) for line in shown.decode().splitlines()]


def test_a_table_that_fits_is_drawn_upright(tmp_path: Path) -> None:
    """On a wide terminal it is the table of the pipe, with the distribution behind each row."""
    write_records(tmp_path / "log", recorded(models=3, records=60))
    variables = environment(tmp_path, 1, **COLOURFUL)
    plain = cells(run("lm stats log", tmp_path, variables).stdout)
    with start("lm", "stats", "log", folder=tmp_path, variables=variables, stdout=terminal_of(220)) as child:
        assert child.end() == 0
    assert ESCAPE not in child["stdout"]
    drawn = cells(child["stdout"])
    assert drawn[0] == [*plain[0], "SPREAD"]
    assert [row[: len(plain[1])] for row in drawn[1:]] == plain[1:]
    assert all(set("".join(row[len(plain[1]) :])) <= set(" ▁▂▃▄▅▆▇█") for row in drawn[1:])
    assert all("█" in row[-1] for row in drawn[1:])


@pytest.mark.parametrize("columns", [120, 80, 42])
def test_a_table_that_is_too_wide_is_turned_on_its_side(columns: int, tmp_path: Path) -> None:
    """Then a row is a column, as many beside each other as fit; no figure is cut, wrapped or left out."""
    write_records(tmp_path / "log", recorded(models=9, records=90))
    variables = environment(tmp_path, 1, **TERM)
    headings, *rows = cells(run("lm stats log", tmp_path, variables).stdout)
    with start("lm", "stats", "log", folder=tmp_path, variables=variables, stdout=terminal_of(columns)) as child:
        assert child.end() == 0
    assert ESCAPE not in child["stdout"]
    lines = child["stdout"].decode().splitlines()
    assert max(map(len, lines)) <= columns
    turned: dict[str, list[str]] = {}
    for heading, *values in cells(child["stdout"]):
        turned.setdefault(heading, []).extend(values)
    figures = headings.index("STOP REASONS")
    for index, heading in enumerate(headings[: figures + 1]):
        assert turned[heading] == [row[index] for row in rows]


@pytest.mark.parametrize("columns", [140, 80, 20])
def test_measuring_on_a_terminal_fits_it(columns: int, tmp_path: Path, server: Running) -> None:
    """The report of a measuring is as wide as the terminal at most, and each figure can be read."""
    where = place(tmp_path, environment(tmp_path, server.port, **TERM))
    with start("sh", "-c", "exec lm stats --runs 3 < prompt", stdout=terminal_of(columns), **where) as child:
        assert child.end() == 0
    assert ESCAPE not in child["stdout"]
    shown = child["stdout"].decode()
    assert max(map(len, shown.splitlines())) <= columns
    assert len(re.findall(r"\beosFound\b", shown)) == 3
    assert {"min", "median", "p95", "max"} <= set(shown.split())


def test_json_is_indented_on_a_terminal(tmp_path: Path, server: Running) -> None:
    """One object in both cases; there it is for eyes."""
    where = place(tmp_path, environment(tmp_path, server.port, **TERM))
    with start("sh", "-c", "exec lm stats -o json < prompt", stdout=Terminal(), **where) as child:
        assert child.end() == 0
    assert child["stdout"].startswith(b'{\r\n  "models": [\r\n')
    assert list(json.loads(child["stdout"])) == ["models"]


def test_a_bar_shows_the_load_on_a_terminal(tmp_path: Path, start_server: StartServer) -> None:
    """While the model loads a bar stands on stderr; stdout gets the name and nothing else."""
    server = start_server(load_seconds=0.8)
    variables = environment(tmp_path, server.port, **TERM)
    line = ["lm", "models", "load", "echo-jit"]
    with start(*line, folder=tmp_path, variables=variables, stderr=Terminal()) as child:
        child.wait_for(b"loading", "stderr")
        assert child.end() == 0
    assert child["stdout"] == b"echo-jit\n"
    assert child["stderr"].rstrip().endswith(b"\x1b[2K")
