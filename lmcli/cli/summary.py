"""Summaries of recorded predictions, by model, day, file or stop reason."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, Final

from lmcli.cli.choices import Grouping
from lmcli.cli.environment import Environment
from lmcli.cli.input.measurements import PredictionRecord, read_records
from lmcli.cli.messages import Messages
from lmcli.cli.options import StatsOptions
from lmcli.cli.output.drawing import bars, has_blocks, histogram, sparkline
from lmcli.cli.output.tables import Cell, Table, report
from lmcli.cli.series import percentiles
from lmcli.client.local_files import refuse_device
from lmcli.errors import BadInput, ExitCode, LmError, NoInput, quoted, reason
from lmcli.values import JsonObject

_PERCENTS: Final = (50, 95, 99)
_MAX_REPORTED: Final = 10
"""The number of lines that are not records and are reported one by one."""
_MEASURE_HINT: Final = "echo PROMPT | lm stats measures with a prompt"

_BINS: Final = 10
_TERMS: Final = (
    "TTFT: time to first token. P95: what 95 % of the predictions achieve or beat, TTFT no longer, TOKENS/S no lower;"
    " P50 and P99 likewise."
)
_BARS: Final = "Bars: P50, to the scale of the largest value in the column."
_SPREAD: Final = (
    "SPREAD: distribution of the tokens/s of the predictions, from the slowest (left) to the fastest (right)."
)


class Group:
    """The totals of a group of records."""

    def __init__(self) -> None:
        self.predictions = 0
        self.prompt_tokens_count = 0
        self.predicted_tokens_count = 0
        self.total_time_sec = 0.0
        self.first_token = array("d")
        self.tokens_per_second = array("d")
        self.stop_reasons: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def add(self, record: PredictionRecord) -> None:
        """Add a record."""
        self.predictions += 1
        self.prompt_tokens_count += record.prompt_tokens_count
        self.predicted_tokens_count += record.predicted_tokens_count
        self.total_time_sec += record.total_time_sec or 0.0
        if record.time_to_first_token_sec is not None:
            self.first_token.append(record.time_to_first_token_sec)
        if record.tokens_per_second is not None:
            self.tokens_per_second.append(record.tokens_per_second)
        self.stop_reasons[record.stop_reason] += 1
        if record.error_code is not None:
            self.errors[str(record.error_code)] += 1

    def record(self) -> JsonObject:
        """The totals as a JSON object."""
        return {
            "predictions": self.predictions,
            "prompt_tokens_count": self.prompt_tokens_count,
            "predicted_tokens_count": self.predicted_tokens_count,
            "total_time_sec": self.total_time_sec,
            "time_to_first_token_sec": percentiles(self.first_token, *_PERCENTS),
            "tokens_per_second": percentiles(self.tokens_per_second, *_PERCENTS, more_is_better=True),
            "stop_reasons": dict(self.stop_reasons.most_common()),
            "errors": dict(self.errors.most_common()),
        }


def summarise(options: StatsOptions, names: Sequence[str], env: Environment, messages: Messages) -> ExitCode:
    """Read the named files (`-` is stdin) once, and report.

    Raises:
        NoInput: a file cannot be read; the report contains the others, if there are any.
        BadInput: some lines are not records; the report contains the others.
    """
    groups: defaultdict[str, Group] = defaultdict(Group)
    skipped = 0
    failures: list[LmError] = []
    for name in names:
        key_of = _key_of(options.by, name)
        try:
            with _opened(name, env) as file:
                for record in read_records(file):
                    if isinstance(record, PredictionRecord):
                        groups[key_of(record)].add(record)
                        continue
                    skipped += 1
                    if skipped <= _MAX_REPORTED:
                        messages.warning(f"{quoted(name)}, line {record.number}: not a record")
        except NoInput as error:
            failures.append(error)
    if len(failures) < len(names):
        _report(groups, options, env)
    if skipped:
        what = "1 line that is not a record" if skipped == 1 else f"{skipped} lines that are not records"
        failures.append(BadInput(f"skipped {what}", "lm help stats describes records"))
    for failure in failures[:-1]:
        messages.error(failure)
    if failures:
        raise failures[-1]
    return ExitCode.OK


def _report(groups: Mapping[str, Group], options: StatsOptions, env: Environment) -> None:
    by = str(options.by)
    ordered = dict(sorted(groups.items()))
    records = {name: group.record() for name, group in ordered.items()}
    table = _table(by, records)
    if env.stdout_is_terminal:
        table = _with_charts(table, ordered.values(), records.values(), env)
    report(table, {"by": by, "groups": records}, options.output, env)


def _key_of(by: Grouping, file: str) -> Callable[[PredictionRecord], str]:
    """The function that returns the group of a record."""
    return (lambda _: file) if by is Grouping.FILE else attrgetter(str(by))


@contextmanager
def _opened(name: str, env: Environment) -> Iterator[BinaryIO]:
    try:
        with open(env.stdin, "rb", closefd=False) if name == "-" else Path(name).open("rb") as file:
            refuse_device(file.fileno())
            yield file
    except FileNotFoundError as error:
        raise NoInput(f"cannot read {quoted(name)}: {reason(error)}", _MEASURE_HINT) from error
    except OSError as error:
        raise NoInput(f"cannot read {quoted(name)}: {reason(error)}") from error


def _table(by: str, records: Mapping[str, JsonObject]) -> Table:
    headings = {by: by.upper().replace("_", " "), "predictions": "PREDICTIONS"}
    headings |= {"tokens_in": "TOKENS IN", "tokens_out": "TOKENS OUT"}
    headings |= {f"ttft_p{percent}": f"TTFT P{percent} s" for percent in _PERCENTS}
    headings |= {f"tokens/s_p{percent}": f"TOKENS/S P{percent}" for percent in _PERCENTS}
    headings |= {"seconds": "TOTAL s", "stop_reasons": "STOP REASONS", "errors": "ERRORS"}
    rows: list[list[Cell]] = [
        [
            *(name, record["predictions"], record["prompt_tokens_count"], record["predicted_tokens_count"]),
            *record["time_to_first_token_sec"].values(),
            *record["tokens_per_second"].values(),
            *(round(record["total_time_sec"], 3), _counted(record["stop_reasons"]), _counted(record["errors"])),
        ]
        for name, record in records.items()
    ]
    return Table(headings, rows)


def _with_charts(table: Table, groups: Collection[Group], records: Collection[JsonObject], env: Environment) -> Table:
    """The table for a terminal: with bars, the distribution of the speed, and notes."""
    charts = {
        "ttft_p50": ["", *bars([record["time_to_first_token_sec"]["p50"] for record in records], env)],
        "tokens/s_p50": ["", *bars([record["tokens_per_second"]["p50"] for record in records], env)],
    }
    notes = [_TERMS, _BARS]
    if has_blocks(env):
        charts["tokens/s_p99"] = [
            "SPREAD",
            *(sparkline(histogram(group.tokens_per_second, _BINS), env) for group in groups),
        ]
        notes.append(_SPREAD)
    return table._replace(charts=charts, notes=notes)


def _counted(counts: Mapping[str, int]) -> str:
    return " ".join(f"{name}:{count}" for name, count in counts.items())
