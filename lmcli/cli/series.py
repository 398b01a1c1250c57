"""Measurements: the runs of a model, their summary, and its report."""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median, quantiles
from typing import Final, NamedTuple

from lmcli.cli.environment import Environment
from lmcli.cli.output.drawing import sparkline
from lmcli.cli.output.results import model_record, stats_record
from lmcli.cli.output.tables import Cell, Table
from lmcli.values import JsonObject, ModelInstance, PredictionEnd

Summary = dict[str, float | None]

_TTFT: Final = "time_to_first_token_sec"
_SPEED: Final = "tokens_per_second"
_CLIENT_TIMES: Final = ("seen_first_fragment_sec", "seen_total_time_sec")
_VALUES: Final = {
    "prompt_tokens_count": ("tokens_in", "TOKENS IN"),
    "predicted_tokens_count": ("tokens_out", "TOKENS OUT"),
    _TTFT: ("ttft", "TTFT s"),
    _SPEED: ("tokens/s", "TOKENS/S"),
    "total_time_sec": ("total", "TOTAL s"),
    _CLIENT_TIMES[0]: ("seen_ttft", "SEEN TTFT s"),
    _CLIENT_TIMES[1]: ("seen_total", "SEEN TOTAL s"),
}
"""The measured values, by key in JSON: column in CSV and heading in a table."""

_HEADINGS: Final = {"model": "MODEL", "run": "RUN", **dict(_VALUES.values()), "load": "LOAD s", "stop": "STOP REASON"}
_SUMMARY_NAMES: Final = ("min", "median", "p95", "max")
_CHARTED: Final = (_TTFT, _SPEED)
_BLOCKS_PER_LINE: Final = 20

_TERMS: Final = (
    "TTFT: time to first token; SEEN: measured by this client, not by the server; LOAD: time to load the model."
)
_TAIL: Final = "p95: what 95 % of the runs achieve or beat: times no longer, TOKENS/S no lower."
_BLOCKS_MEANING: Final = "Blocks beside the median: one for each run, in order, to the scale of the largest value."


class MeasuredRun(NamedTuple):
    """One run: the stats of the server, and the times of this client."""

    end: PredictionEnd
    seen_first_fragment_sec: float | None
    seen_total_time_sec: float

    def record(self) -> JsonObject:
        """The whole as a JSON object."""
        return stats_record(self.end.stats) | {name: getattr(self, name) for name in _CLIENT_TIMES}


class Series(NamedTuple):
    """The runs of one model.

    Attributes:
        name: the model as given, or the identifier of the loaded series.
        instance: the model instance, if it was requested by key.
        load_time_sec: the time to load it; None if it was loaded already.
        runs: the finished runs, in order.
    """

    name: str
    instance: ModelInstance | None
    load_time_sec: float | None
    runs: list[MeasuredRun]

    def record(self) -> JsonObject:
        """The whole as a JSON object."""
        return {
            "model": model_record(self.runs[0].end.model_info) if self.runs else {"identifier": self.name},
            "load_time_sec": self.load_time_sec,
            "runs": [run.record() for run in self.runs],
            "summary": self.summary(),
            "stop_reasons": dict(Counter(run.end.stats.stop_reason for run in self.runs)),
        }

    def summary(self) -> dict[str, Summary]:
        """Least, median, 95th percentile (the slow tail) and greatest of each value over the runs."""
        records = [run.record() for run in self.runs]
        return {key: _summary(key, [record[key] for record in records]) for key in _VALUES}


def table_of(all_series: Sequence[Series], env: Environment) -> Table:
    """A row for each run, and below them the summary of a model, with charts for a terminal."""
    rows = [row for series in all_series for row in (*_run_rows(series), *_summary_rows(series))]
    charts = {
        _VALUES[key][0]: ["", *(cell for series in all_series for cell in _chart(series, key, env))] for key in _CHARTED
    }
    notes = [_TERMS, *([_TAIL] if any(map(_summary_names, all_series)) else [])]
    if any(map(any, charts.values())):
        notes.append(_BLOCKS_MEANING)
    return Table(_HEADINGS, rows, labels_count=2, charts=charts, notes=notes)


def _run_rows(series: Series) -> Iterator[list[Cell]]:
    load = series.load_time_sec
    for number, run in enumerate(series.runs, start=1):
        record = run.record()
        yield [series.name, str(number), *(record[key] for key in _VALUES), load, record["stop_reason"]]
        load = None


def _summary_rows(series: Series) -> Iterator[list[Cell]]:
    summary = series.summary()
    for name in _summary_names(series):
        yield [series.name, name, *(summary[key][name] for key in _VALUES), None, ""]


def _chart(series: Series, key: str, env: Environment) -> list[str]:
    """Beside the median, a block for each run."""
    line = sparkline([run.record()[key] for run in series.runs], env)
    blocks = "\n".join(line[start : start + _BLOCKS_PER_LINE] for start in range(0, len(line), _BLOCKS_PER_LINE))
    return [""] * len(series.runs) + [blocks if name == "median" else "" for name in _summary_names(series)]


def _summary_names(series: Series) -> Sequence[str]:
    """The names of the summary rows; none for a single run."""
    return _SUMMARY_NAMES if len(series.runs) > 1 else ()


def _summary(key: str, known_values: Sequence[float | None]) -> Summary:
    values = [value for value in known_values if value is not None]
    tail = percentiles(values, 95, more_is_better=key == _SPEED)
    middle = median(values) if values else None
    summary = {"min": min(values, default=None), "median": middle, **tail, "max": max(values, default=None)}
    return {name: _integral(value) for name, value in summary.items()} if key.endswith("_count") else summary


def _integral(value: float | None) -> float | None:
    """An integer if the value is integral: the median of two counts may lie between them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def percentiles(values: Sequence[float], *percents: int, more_is_better: bool = False) -> dict[str, float | None]:
    """Percentiles by name, such as `p95`: the value that 95 % of the values achieve or beat; None without any values.

    A time beats a longer one; with `more_is_better`, as for tokens per second, a value beats a lower one: p95 describes
    the slow tail of both. Between two values it is interpolated, as by `statistics.quantiles` with `inclusive`.
    """
    if not values:
        return dict.fromkeys(map("p{}".format, percents))
    ordered = sorted(values)
    cuts = quantiles(ordered, n=100, method="inclusive") if len(ordered) > 1 else ordered * 99
    cuts[49] = median(ordered)  # equal but for rounding
    return {f"p{percent}": cuts[(100 - percent if more_is_better else percent) - 1] for percent in percents}
