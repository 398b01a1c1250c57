"""Summing up recorded predictions, by model, day, file or stop reason."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, Final

from lmcli.cli.choices import Grouping
from lmcli.cli.options import StatsOptions
from lmcli.cli.quantiles import Sample
from lmcli.cli.recorded import Recorded, read_records
from lmcli.cli.surroundings import Surroundings
from lmcli.cli.tables import Cell, Table, report, sparkline
from lmcli.cli.voice import Voice
from lmcli.errors import BadInput, ExitCode, LmError, NoInput, quoted, reason
from lmcli.values import JsonObject

_SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_NAMED: Final = 10
_BARS: Final = 12


class Group:
    """What the records of one group add up to."""

    def __init__(self) -> None:
        self.predictions = 0
        self.prompt_tokens_count = 0
        self.predicted_tokens_count = 0
        self.total_time_sec = 0.0
        self.first_token = Sample()
        self.pace = Sample()
        self.stop_reasons: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def add(self, record: Recorded) -> None:
        """Take one record."""
        self.predictions += 1
        self.prompt_tokens_count += record.prompt_tokens_count
        self.predicted_tokens_count += record.predicted_tokens_count
        self.total_time_sec += record.total_time_sec or 0.0
        self.first_token.add(record.time_to_first_token_sec)
        self.pace.add(record.tokens_per_second)
        self.stop_reasons[record.stop_reason] += 1
        if record.error_code is not None:
            self.errors[str(record.error_code)] += 1

    def record(self) -> JsonObject:
        """All of it, for programs."""
        return {
            "predictions": self.predictions,
            "prompt_tokens_count": self.prompt_tokens_count,
            "predicted_tokens_count": self.predicted_tokens_count,
            "total_time_sec": self.total_time_sec,
            "time_to_first_token_sec": {name: self.first_token.quantile(share) for name, share in _SHARES.items()},
            "tokens_per_second": {name: self.pace.quantile(share) for name, share in _SHARES.items()},
            "stop_reasons": dict(self.stop_reasons.most_common()),
            "errors": dict(self.errors.most_common()),
        }


def summarise(typed: StatsOptions, names: Sequence[str], here: Surroundings, voice: Voice) -> ExitCode:
    """Read the named files (`-` is stdin) once, and report.

    Raises:
        NoInput: a file cannot be read; the others are in the report.
        BadInput: some lines were no records; the others are in the report.
    """
    groups: defaultdict[str, Group] = defaultdict(Group)
    skipped = 0
    failures: list[LmError] = []
    for name in names:
        key_of = _key_of(typed.by, name)
        try:
            with _opened(name, here) as file:
                for record in read_records(file):
                    if isinstance(record, Recorded):
                        groups[key_of(record)].add(record)
                        continue
                    skipped += 1
                    if skipped <= _NAMED:
                        voice.warning(f"{quoted(name)}, line {record.number}: not a record")
        except NoInput as error:
            failures.append(error)
    by = str(typed.by)
    ordered = dict(sorted(groups.items()))
    whole = {"by": by, "groups": {name: group.record() for name, group in ordered.items()}}
    report(_table(by, ordered, has_spread=here.stdout_is_terminal), whole, typed.output, here)
    if skipped:
        failures.append(BadInput(f"{skipped} {'line was' if skipped == 1 else 'lines were'} passed over: not a record"))
    for failure in failures[:-1]:
        voice.error(failure)
    if failures:
        raise failures[-1]
    return ExitCode.OK


def _key_of(by: Grouping, file: str) -> Callable[[Recorded], str]:
    """What a record of a file is grouped by."""
    return (lambda _: file) if by is Grouping.FILE else attrgetter(str(by))


@contextmanager
def _opened(name: str, here: Surroundings) -> Iterator[BinaryIO]:
    try:
        with open(here.stdin, "rb", closefd=False) if name == "-" else Path(name).open("rb") as file:
            yield file
    except OSError as error:
        raise NoInput(f"cannot read {quoted(name)}: {reason(error)}") from error


def _table(by: str, groups: dict[str, Group], *, has_spread: bool) -> Table:
    keys = (
        *(by, "predictions", "tokens_in", "tokens_out"),
        *(f"ttft_{name}" for name in _SHARES),
        *(f"tokens/s_{name}" for name in _SHARES),
        *("seconds", "stop_reasons", "errors"),
    )
    rows: list[list[Cell]] = [
        [
            *(name, group.predictions, group.prompt_tokens_count, group.predicted_tokens_count),
            *(group.first_token.quantile(share) for share in _SHARES.values()),
            *(group.pace.quantile(share) for share in _SHARES.values()),
            *(round(group.total_time_sec, 3), _counted(group.stop_reasons), _counted(group.errors)),
        ]
        for name, group in groups.items()
    ]
    spread = [sparkline(group.pace.histogram(_BARS)) for group in groups.values()] if has_spread else ()
    return Table(keys, rows, spread)


def _counted(counter: Counter[str]) -> str:
    return " ".join(f"{name}:{count}" for name, count in counter.most_common())
