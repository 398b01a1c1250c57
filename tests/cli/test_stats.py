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
import threading
import time
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, Connect, Packet, Serve, StartServer
from processes import StubConnection, StubServer, Terminal, environment, run, start

from lmcli.cli.output.drawing import columns_of
from lmcli.server.background import Running

ROOT = Path(__file__).parents[2]
ESCAPE = b"\x1b"
TERM = {"TERM": "xterm-256color"}
COLOURFUL = {**TERM, "FORCE_COLOR": "1"}
SIGNALS = [signal.SIGINT, signal.SIGTERM]
APPENDING = """
import sys
from pathlib import Path
from lmcli.cli.output.stats_file import append_line
from lmcli.cli.signals import SignalWatcher
print("ready", flush=True)
sys.stdin.read()
for number in range(400):
    append_line(Path("log"), {"writer": sys.argv[1], "number": number, "padding": sys.argv[1] * 5000}, SignalWatcher())
"""


def terminal_of(columns: int) -> Terminal:
    """A terminal of some width."""
    terminal = Terminal()
    termios.tcsetwinsize(terminal.line, (24, columns))
    return terminal


def recorded(models: int, records: int) -> list[Packet]:
    """Records as they stand in a stats file, of several models, with values as they come by chance."""
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


def test_stats_agree_with_the_clock_of_the_client(tmp_path: Path, serve: Serve) -> None:
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
    """Least, median, slow tail and greatest are those of the runs in the same report."""
    ran = run("echo one two | lm stats --runs 5 -o json", tmp_path, environment(tmp_path, server.port))
    (series,) = json.loads(ran.stdout)["models"]
    assert set(series["summary"]) == set(series["runs"][0]) - {
        "stop_reason",
        "total_tokens_count",
        "cached_prompt_tokens_count",
    }
    for name, shares in series["summary"].items():
        values = [one[name] for one in series["runs"]]
        cuts = statistics.quantiles(values, n=20, method="inclusive")
        p95 = cuts[0] if name == "tokens_per_second" else cuts[-1]
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


def keys_of(value: Any) -> set[str]:
    """The keys of all objects inside of a JSON value."""
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("source", ["< prompt", "log"])
def test_the_manual_page_explains_every_column_and_field(source: str, tmp_path: Path, server: Running) -> None:
    """The names in CSV, the headings, and the keys in JSON."""
    (tmp_path / "log").write_text('{"error": {"code": 1, "message": ""}}')
    where = place(tmp_path, environment(tmp_path, server.port))
    text, names, whole = (
        run(f"lm stats {form} {source}", tmp_path, where["variables"]).stdout.decode()
        for form in ("-o text", "-o csv", "-o json")
    )
    page = (ROOT / "man" / "lm-stats.1").read_text()
    headings = [re.sub(" P[59].*", " P50", heading) for heading in re.split(" {2,}", text.splitlines()[0])]
    assert [heading for heading in headings if heading not in page] == []
    fields = keys_of(json.loads(whole)) - {"1", "echo", "eosFound", "unknown"}
    for name in {*names.splitlines()[0].split(","), *fields}:
        assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", page), name


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
    for model, group in groups.items():
        mine = [record["stats"] for record in records if record["model"]["model_key"] == model]
        assert group["predictions"] == len(mine)
        for name in ("prompt_tokens_count", "predicted_tokens_count", "total_time_sec"):
            assert group[name] == pytest.approx(sum(stats[name] for stats in mine))
        for name, percents in {"time_to_first_token_sec": (50, 95, 99), "tokens_per_second": (50, 5, 1)}.items():
            cuts = statistics.quantiles([stats[name] for stats in mine], n=100, method="inclusive")
            p50, p95, p99 = (cuts[percent - 1] for percent in percents)
            assert group[name] == pytest.approx({"p50": p50, "p95": p95, "p99": p99})


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

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelSend":
            connection.finish(envelope["channelId"], "userStopped")
            return
        channels.append(envelope["channelId"])
        connection.say(channels[-1], f"run {len(channels)}")
        if len(channels) < 3:
            connection.finish(channels[-1])

    with StubServer(handle) as stub:
        where = place(tmp_path, environment(tmp_path, stub.port))
        with start("sh", "-c", "exec lm stats --runs 9 --echo -o csv < prompt", **where) as child:
            child.wait_for(b"run 3", "stderr")
            child.process.send_signal(number)
            assert child.end() == -number
        cancel = stub.wait_for("channelSend")
    assert cancel == {"type": "channelSend", "channelId": channels[2], "message": {"type": "cancel"}}
    rows = list(csv.DictReader(StringIO(child["stdout"].decode())))
    assert [row["run"] for row in rows] == ["1", "2", "min", "median", "p95", "max"]
    assert [row["stop"] for row in rows[:2]] == ["eosFound"] * 2
    assert b"Traceback" not in child["stderr"]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_in_the_first_run_leaves_nothing_to_report(number: signal.Signals, tmp_path: Path) -> None:
    """Nothing was measured: stdout stays empty."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelSend":
            connection.finish(envelope["channelId"], "userStopped")
        else:
            connection.say(envelope["channelId"], "begun")

    with StubServer(handle) as stub:
        where = place(tmp_path, environment(tmp_path, stub.port))
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
    with StubServer() as stub:
        variables = environment(tmp_path, stub.port)
        with start("lm", "models", "load", "big", folder=tmp_path, variables=variables) as child:
            load = stub.wait_for("channelCreate")
            child.process.send_signal(signal.SIGINT)
            cancel = stub.wait_for("channelSend")
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


BLOCKS = set(" ▁▂▃▄▅▆▇█▏▎▍▌▋▊▉")


def on_terminal(line: str, columns: int, where: dict[str, Any]) -> str:
    """What a command line shows on a terminal of some width, where only stdout is one."""
    with start("sh", "-c", line, stdout=terminal_of(columns), **where) as child:
        assert child.end() == 0
    assert ESCAPE not in child["stdout"]
    return child["stdout"].decode().replace("\r", "")


def test_a_summary_on_a_terminal_has_bars(tmp_path: Path) -> None:
    """Bars stand behind the medians, to the scale of the largest; the distribution and what it all means are there."""
    for name, pace in {"fast": 80, "slow": 20}.items():
        write_records(
            tmp_path / name,
            [{"stats": {"tokens_per_second": pace + i, "time_to_first_token_sec": 1 / pace}} for i in (-5, 0, 5)],
        )
    where = place(tmp_path, environment(tmp_path, 1, **COLOURFUL))
    shown = on_terminal("lm stats --by file fast slow", 200, where)
    headings, fast, slow = (re.split(r" {2,}", line.strip()) for line in shown.splitlines()[:3])
    assert headings[4:10] == ["TTFT P50 s", "TTFT P95 s", "TTFT P99 s", "TOKENS/S P50", "TOKENS/S P95", "TOKENS/S P99"]
    assert headings[10:] == ["SPREAD", "TOTAL s", "STOP REASONS", "ERRORS"]
    assert [row[4:6] for row in (fast, slow)] == [["0.0125", "██"], ["0.0500", "████████"]]
    assert [row[8:10] for row in (fast, slow)] == [["80.0", "████████"], ["20.0", "██"]]
    assert "\nSPREAD: " in shown
    assert "\nTTFT: time to first token. P95: " in shown


@pytest.mark.parametrize(
    "line",
    [
        "lm stats log",
        "lm stats -o csv log",
        "lm stats -o json log",
        "lm stats --runs 3 < prompt",
        "lm stats --runs 3 -o csv < prompt",
        "lm stats --runs 3 -o json < prompt",
    ],
)
def test_pictures_are_for_the_terminal(line: str, tmp_path: Path, server: Running) -> None:
    """In a pipe, in CSV and in JSON there are neither blocks nor notes."""
    write_records(tmp_path / "log", recorded(models=3, records=60))
    where = place(tmp_path, environment(tmp_path, server.port, **COLOURFUL))
    piped = run(line, tmp_path, where["variables"]).stdout.decode()
    assert set(piped).isdisjoint(BLOCKS - {" "})
    assert "time to first token" not in piped
    if "-o" in line:
        assert set(on_terminal(line, 120, where)).isdisjoint(BLOCKS - {" "})
    else:
        assert "TTFT: time to first token" in on_terminal(line, 120, where)


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {**TERM, "LC_ALL": "C"}], ids=["dumb", "no UTF-8"])
@pytest.mark.parametrize("line", ["lm stats log", "lm stats --runs 3 < prompt"])
def test_without_blocks_bars_are_ascii(line: str, variables: dict[str, str], tmp_path: Path, server: Running) -> None:
    """A terminal that is dumb or knows no UTF-8 gets bars of number signs, no sparklines, and no word about them."""
    write_records(tmp_path / "log", recorded(models=3, records=60))
    where = place(tmp_path, environment(tmp_path, server.port, **variables))
    shown = on_terminal(line, 200, where)
    assert shown.isascii()
    assert ("########" in shown) is ("log" in line)
    assert "SPREAD" not in shown
    assert "Blocks" not in shown


@pytest.mark.parametrize("columns", [120, 80, 40])
def test_a_table_that_is_too_wide_goes_on_below(columns: int, tmp_path: Path) -> None:
    """As many columns as fit stand beside the names, the others below beside the names again; no number is cut."""
    write_records(tmp_path / "log", recorded(models=3, records=90))
    where = place(tmp_path, environment(tmp_path, 1, **TERM))
    rows = list(csv.DictReader(StringIO(run("lm stats -o csv log", tmp_path, where["variables"]).stdout.decode())))
    shown = on_terminal("lm stats log", columns, where)
    assert max(map(len, shown.splitlines())) <= columns
    *pieces, _notes = shown.split("\n\n")
    assert len(pieces) > 1
    assert all(piece.startswith("MODEL ") for piece in pieces)
    for row in rows:
        for name in ("predictions", "tokens_in", "tokens_out"):
            assert re.search(rf"\b{row[name]}\b", shown)
        assert f"eosFound:{row['predictions']}" in shown
        assert shown.count(row["model"] if columns > 40 else row["model"][-6:]) == len(pieces)


def test_wide_characters_keep_the_columns_aligned(tmp_path: Path) -> None:
    """A name of Chinese characters or emoji takes two columns for each, on a terminal as in a pipe."""
    names = ["通义千问", "🦙-3", "echo"]
    write_records(tmp_path / "log", [{"model": {"model_key": name}, "stats": {}} for name in names])
    where = place(tmp_path, environment(tmp_path, 1, **TERM))
    piped = run("lm stats log", tmp_path, where["variables"]).stdout.decode()
    for shown in (on_terminal("lm stats log", 220, where), piped):
        headings, *rows = shown.splitlines()[:4]
        end = headings.index("PREDICTIONS") + len("PREDICTIONS")
        assert [columns_of(row.partition(" 1 ")[0] + " 1") for row in rows] == [end] * len(names)


@pytest.mark.parametrize("columns", [140, 80, 40])
def test_measuring_on_a_terminal_fits_it(columns: int, tmp_path: Path, server: Running) -> None:
    """The report of a measurement is as wide as the terminal at most, and each value can be read."""
    where = place(tmp_path, environment(tmp_path, server.port, **TERM))
    shown = on_terminal("exec lm stats --runs 3 < prompt", columns, where)
    assert max(map(len, shown.splitlines())) <= columns
    assert len(re.findall(r"\beosFound\b", shown)) == 3
    assert {"min", "median", "p95", "max"} <= set(shown.split())


def test_a_report_of_runs_has_a_block_for_each(tmp_path: Path) -> None:
    """Beside the medians of time to first token and tokens/s: an outlier is seen."""
    paces = iter([40.0, 40.0, 10.0, 40.0])

    def handle(connection: StubConnection, envelope: Packet) -> None:
        connection.say(envelope["channelId"], "text")
        connection.finish(envelope["channelId"], tokensPerSecond=next(paces), timeToFirstTokenSec=0.5)

    with StubServer(handle) as stub:
        where = place(tmp_path, environment(tmp_path, stub.port, **TERM))
        shown = on_terminal("lm stats --runs 4 < prompt", 140, where)
    (median,) = (line for line in shown.splitlines() if " median " in line)
    assert re.split(r" {2,}", median)[4:8] == ["0.5000", "████", "40.0", "██▂█"]


def test_many_runs_have_their_blocks_below_each_other(tmp_path: Path) -> None:
    """None is left out; the columns beside them stay where they are."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        connection.finish(envelope["channelId"], tokensPerSecond=40.0)

    with StubServer(handle) as stub:
        where = place(tmp_path, environment(tmp_path, stub.port, **TERM))
        shown = on_terminal("lm stats --runs 50 < prompt", 140, where)
    assert [line.strip() for line in re.findall("█+", shown)] == ["█" * 20, "█" * 20, "█" * 10]


def test_the_run_that_is_measured_is_shown_and_erased(tmp_path: Path) -> None:
    """On a terminal a line says which run it is and how fast, with a block for each before; the report replaces it."""
    paces = [40.0, 40.0, 10.0, 40.0]
    is_seen = threading.Event()

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if len(paces) == 1:
            connection.say(envelope["channelId"], "text")
            is_seen.wait(PATIENCE)
        connection.finish(envelope["channelId"], tokensPerSecond=paces.pop(0))

    terminal = terminal_of(140)
    with StubServer(handle) as stub:
        where = place(tmp_path, environment(tmp_path, stub.port, **TERM))
        with start("sh", "-c", "exec lm stats --runs 4 < prompt", stdout=terminal, stderr=terminal, **where) as child:
            child.wait_for(b"run 1/4  stub  ")
            child.wait_for("run 3/4  stub  10.0 tokens/s  ██▂".encode())
            child.wait_for("run 4/4  stub  waiting  ██▂".encode())
            is_seen.set()
            assert child.end() == 0
    live, _, report = child["stdout"].rpartition(b"\r\x1b[K")
    assert b"MODEL" not in live
    assert report.startswith(b"MODEL")
    assert b"\n" not in live


def test_the_line_leaves_its_place_to_a_load(tmp_path: Path, start_server: StartServer) -> None:
    """Between two models the terminal belongs to the bar of the second one's load."""
    where = place(tmp_path, environment(tmp_path, start_server(load_seconds=0.8).port, **TERM))
    line = "exec lm stats -m echo -m echo-jit -o csv < prompt"
    with start("sh", "-c", line, stderr=terminal_of(80), **where) as child:
        assert child.end() == 0
    before, _, after = child["stderr"].partition(b"loading")
    assert before.rpartition(b"\r\x1b[K")[0].rpartition(b"\r\x1b[K")[2].startswith(b"run 1/1  echo  ")
    assert b"run" not in before.rpartition(b"\r\x1b[K")[2]
    assert b"run 1/1  echo-jit  " in after


def test_warm_up_runs_are_shown_and_not_counted(tmp_path: Path) -> None:
    """They have a number of their own and no block."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        connection.finish(envelope["channelId"], tokensPerSecond=40.0)

    with StubServer(handle) as stub:
        where = place(tmp_path, environment(tmp_path, stub.port, **TERM))
        line = "exec lm stats --warmup 2 --runs 2 -o csv < prompt"
        with start("sh", "-c", line, stderr=terminal_of(80), **where) as child:
            assert child.end() == 0
    drawn = child["stderr"].decode().split("\r\x1b[K")
    assert "warm-up 2/2  stub  40.0 tokens/s  " in drawn
    assert "run 2/2  stub  40.0 tokens/s  ██" in drawn
    assert drawn[-1] == ""


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_the_line_never_wraps(columns: int, tmp_path: Path) -> None:
    """What does not fit is left out: the oldest blocks first."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        connection.finish(envelope["channelId"], tokensPerSecond=40.0)

    with StubServer(handle) as stub:
        where = place(tmp_path, environment(tmp_path, stub.port, **TERM))
        line = "exec lm stats --runs 90 -o csv < prompt"
        with start("sh", "-c", line, stderr=terminal_of(columns), **where) as child:
            assert child.end() == 0
    drawn = child["stderr"].decode().split("\r\x1b[K")
    assert max(map(len, drawn)) == columns - 1
    assert all(shown.startswith("run ") for shown in drawn if shown)


def test_echoed_answers_have_the_terminal_to_themselves(tmp_path: Path) -> None:
    """The line is gone before the first text of an answer, and does not come back in the middle of one."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        for text in ("all ", "of ", "it"):
            connection.say(envelope["channelId"], text)
        connection.finish(envelope["channelId"], tokensPerSecond=40.0)

    with StubServer(handle) as stub:
        where = place(tmp_path, environment(tmp_path, stub.port, TERM="xterm", NO_COLOR="1"))
        line = "exec lm stats --echo --runs 2 -o csv < prompt"
        with start("sh", "-c", line, stderr=terminal_of(80), **where) as child:
            assert child.end() == 0
    assert child["stderr"].count(b"\r\x1b[Kall of it\r\n") == 2


@pytest.mark.parametrize("options", ["-q", "--no-progress"])
def test_the_line_can_be_left_out(options: str, tmp_path: Path, server: Running) -> None:
    """By the rules of progress elsewhere."""
    where = place(tmp_path, environment(tmp_path, server.port, **TERM))
    line = f"exec lm stats {options} --runs 2 -o csv < prompt"
    with start("sh", "-c", line, stderr=terminal_of(80), **where) as child:
        assert child.end() == 0
    assert child["stderr"] == b""


def test_a_signal_erases_the_line(tmp_path: Path) -> None:
    """What is left on the terminal is the report of the runs that were finished."""
    channels: list[int] = []

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelSend":
            connection.finish(envelope["channelId"], "userStopped")
            return
        channels.append(envelope["channelId"])
        if len(channels) == 1:
            connection.finish(channels[-1], tokensPerSecond=40.0)

    terminal = terminal_of(140)
    with StubServer(handle) as stub:
        where = place(tmp_path, environment(tmp_path, stub.port, **TERM))
        with start("sh", "-c", "exec lm stats --runs 4 < prompt", stdout=terminal, stderr=terminal, **where) as child:
            child.wait_for(b"run 2/4  stub  waiting")
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT
    assert child["stdout"].rpartition(b"\r\x1b[K")[2].startswith(b"MODEL")


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
