"""What was measured: the runs of a model, their summary, and the report of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median, quantiles
from typing import Final, NamedTuple

from lmcli.cli.environment import Environment
from lmcli.cli.output.drawing import sparkline
from lmcli.cli.output.results import model_record, stats_record
from lmcli.cli.output.tables import Cell, Table
from lmcli.values import JsonObject, ModelInstance, PredictionEnd

Shares = dict[str, float | None]

_TTFT: Final = "time_to_first_token_sec"
_PACE: Final = "tokens_per_second"
_SEEN: Final = ("seen_first_fragment_sec", "seen_total_time_sec")
_VALUES: Final = {
    "prompt_tokens_count": ("tokens_in", "TOKENS IN"),
    "predicted_tokens_count": ("tokens_out", "TOKENS OUT"),
    _TTFT: ("ttft", "TTFT s"),
    _PACE: ("tokens/s", "TOKENS/S"),
    "total_time_sec": ("total", "TOTAL s"),
    _SEEN[0]: ("seen_ttft", "SEEN TTFT s"),
    _SEEN[1]: ("seen_total", "SEEN TOTAL s"),
}
"""What is measured, by its key in JSON: its column in CSV, and the heading of that."""

_HEADINGS: Final = {"model": "MODEL", "run": "RUN", **dict(_VALUES.values()), "load": "LOAD s", "stop": "STOP REASON"}
_SHARES: Final = ("min", "median", "p95", "max")
_DRAWN: Final = (_TTFT, _PACE)
_BLOCKS_A_LINE: Final = 20

_TERMS: Final = (
    "TTFT: time to first token; SEEN: measured by this client, not by the server; LOAD: time to load the model."
)
_TAIL: Final = "p95: what 95 % of the runs achieve or beat: times no longer, TOKENS/S no lower."
_BLOCKS_MEANING: Final = "Blocks beside the median: one for each run, in order, to the scale of the largest value."


class Measured(NamedTuple):
    """One run: what the server says, and what the clock here says."""

    end: PredictionEnd
    seen_first_fragment_sec: float | None
    seen_total_time_sec: float

    def record(self) -> JsonObject:
        """All of it, for programs."""
        return stats_record(self.end.stats) | {name: getattr(self, name) for name in _SEEN}


class Series(NamedTuple):
    """The runs of one model.

    Attributes:
        name: as it was given, or found loaded.
        instance: the model, if it was loaded or looked up by key.
        load_time_sec: how long it took to load; None if it was loaded already.
        runs: those that came to an end, in order.
    """

    name: str
    instance: ModelInstance | None
    load_time_sec: float | None
    runs: list[Measured]

    def record(self) -> JsonObject:
        """All of it, for programs."""
        return {
            "model": model_record(self.runs[0].end.model_info) if self.runs else {"identifier": self.name},
            "load_time_sec": self.load_time_sec,
            "runs": [run.record() for run in self.runs],
            "summary": self.summary(),
            "stop_reasons": dict(Counter(run.end.stats.stop_reason for run in self.runs)),
        }

    def summary(self) -> dict[str, Shares]:
        """Least, median, 95th percentile (the slow tail) and greatest of each value over the runs."""
        records = [run.record() for run in self.runs]
        return {key: _shares(key, [record[key] for record in records]) for key in _VALUES}


def table_of(series: Sequence[Series], env: Environment) -> Table:
    """A row for each run, and below them the summary of the runs of a model, which a terminal shows as blocks, too."""
    rows = [row for one in series for row in (*_run_rows(one), *_summary_rows(one))]
    pictures = {_VALUES[key][0]: ["", *(cell for one in series for cell in _pictures(one, key, env))] for key in _DRAWN}
    notes = [_TERMS, *([_TAIL] if any(map(_shares_shown, series)) else [])]
    if any(map(any, pictures.values())):
        notes.append(_BLOCKS_MEANING)
    return Table(_HEADINGS, rows, labels_count=2, pictures=pictures, notes=notes)


def _run_rows(one: Series) -> Iterator[list[Cell]]:
    load = one.load_time_sec
    for number, run in enumerate(one.runs, start=1):
        record = run.record()
        yield [one.name, str(number), *(record[key] for key in _VALUES), load, record["stop_reason"]]
        load = None


def _summary_rows(one: Series) -> Iterator[list[Cell]]:
    summary = one.summary()
    for share in _shares_shown(one):
        yield [one.name, share, *(summary[key][share] for key in _VALUES), None, ""]


def _pictures(one: Series, key: str, env: Environment) -> list[str]:
    """Nothing beside the runs; beside the median a block for each of them."""
    line = sparkline([run.record()[key] for run in one.runs], env)
    blocks = "\n".join(line[start : start + _BLOCKS_A_LINE] for start in range(0, len(line), _BLOCKS_A_LINE))
    return [""] * len(one.runs) + [blocks if share == "median" else "" for share in _shares_shown(one)]


def _shares_shown(one: Series) -> Sequence[str]:
    """One run has nothing in common with others."""
    return _SHARES if len(one.runs) > 1 else ()


def _shares(key: str, known: Sequence[float | None]) -> Shares:
    values = [value for value in known if value is not None]
    tail = percentiles(values, 95, more_is_better=key == _PACE)
    middle = median(values) if values else None
    shares = {"min": min(values, default=None), "median": middle, **tail, "max": max(values, default=None)}
    return {name: _whole(value) for name, value in shares.items()} if key.endswith("_count") else shares


def _whole(value: float | None) -> float | None:
    """A count between two counts stays between them; all others are whole numbers again."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def percentiles(values: Sequence[float], *percents: int, more_is_better: bool = False) -> dict[str, float | None]:
    """Percentiles by name, such as `p95`: the value that 95 % of the values are no worse than; None without any.

    For times these are no longer ones; where more is better, as for tokens per second, these are no lower ones: p95 is
    the slow tail of both. Between two values it is interpolated, as by `statistics.quantiles` with `inclusive`.
    """
    if not values:
        return dict.fromkeys(map("p{}".format, percents))
    ordered = sorted(values)
    cuts = quantiles(ordered, n=100, method="inclusive") if len(ordered) > 1 else ordered * 99
    cuts[49] = median(ordered)  # the same, but to the last bit
    return {f"p{percent}": cuts[(100 - percent if more_is_better else percent) - 1] for percent in percents}
