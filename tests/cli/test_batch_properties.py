"""Whatever a server does and however often `lm` is killed: in the end each record has one answer, in order."""

import json
import queue
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st
from predictions import Asked, Predictions
from processes import Child, StubServer, environment, start
from properties import examples

BOUNDED = examples(7, *HealthCheck)
"""Each example is a few processes."""

QUIET_SECONDS = 0.005
"""So long nothing new has been asked when the server turns to what it has; nothing depends on it."""


class Fate(Enum):
    """What a server does with a prediction, or to the process that asked for it."""

    ANSWER = auto()
    BEGIN = auto()
    FAIL = auto()
    DROP = auto()
    KILL = auto()


class Scenario(NamedTuple):
    """A batch and what happens to it.

    Attributes:
        lines: the records.
        options: those of the command.
        jobs: how many predictions run at once.
        fates: what is done in turn, and to which of the predictions that are there; after them all are answered.
    """

    lines: list[str]
    options: list[str]
    jobs: int
    fates: list[tuple[Fate, int]]


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Up to a dozen records; two losses, because each is followed by a wait, and after three a record has failed."""
    words = draw(st.lists(st.text('ab \u00e9\U0001f989"\\', max_size=8), min_size=1, max_size=12))
    values: list[Any] = []
    for number, word in enumerate(words):
        text = f"{number}\n```\n{word}.\n```"
        values.append(draw(st.sampled_from([text, {"prompt": text}, {"prompt": text, "id": f"r{number}"}])))
    harmless = st.sampled_from([Fate.ANSWER, Fate.BEGIN, Fate.FAIL])
    fates = draw(st.lists(harmless, max_size=12)) + draw(st.lists(st.sampled_from([Fate.DROP, Fate.KILL]), max_size=2))
    fates = draw(st.permutations(fates))
    which = draw(st.lists(st.integers(0, 3), min_size=len(fates), max_size=len(fates)))
    jobs = draw(st.integers(1, 4))
    form = draw(st.sampled_from(["text", "code", "jsonl", "history"]))
    return Scenario([json.dumps(v) for v in values], ["-o", form], jobs, list(zip(fates, which, strict=True)))


class Server:
    """Answers what a process asks for, as the fates say."""

    def __init__(self, predictions: Predictions, jobs: int, fates: Iterable[tuple[Fate, int]]) -> None:
        self._predictions = predictions
        self._jobs = jobs
        self._fates = iter(fates)
        self._running: list[Asked] = []
        self._said: dict[Asked, int] = {}

    def serve(self, child: Child) -> int:
        """Serve until the process has ended; gives its status."""
        while child.process.poll() is None:
            try:
                self._begin(self._predictions.next(within=QUIET_SECONDS))
            except queue.Empty:
                if self._running:
                    fate, which = next(self._fates, (Fate.ANSWER, 0))
                    self._meet(fate, which % len(self._running), child)
        while not self._predictions.is_all_taken:
            self._predictions.next()
        self._running.clear()
        return child.end()

    def _begin(self, asked: Asked) -> None:
        assert asked.text not in [other.text for other in self._running], "it was sent twice at the same time"
        self._running.append(asked)
        assert len(self._running) <= self._jobs

    def _meet(self, fate: Fate, which: int, child: Child) -> None:
        asked = self._running[which]
        match fate:
            case Fate.BEGIN:
                self._say(asked, 2)
            case Fate.ANSWER:
                self._say(self._running.pop(which), len(asked.text))
                asked.finish()
            case Fate.FAIL:
                self._running.pop(which).fail("no luck")
            case Fate.DROP:
                self._running.clear()
                asked.lose()
            case Fate.KILL:
                child.process.kill()
                child.process.wait()

    def _say(self, asked: Asked, count: int) -> None:
        """Say the next characters of an answer."""
        said = self._said.get(asked, 0)
        asked.say(asked.text[said : said + count])
        self._said[asked] = said + count


def run_to_the_end(scenario: Scenario, folder: Path, *, file: str | None) -> Iterator[tuple[int, bytes]]:
    """Run the batch again and again until nothing is missing; gives status and stdout of each run."""
    predictions = Predictions()
    (folder / "records").write_text("".join(f"{line}\n" for line in scenario.lines))
    keep = ["--results", file] if file else []
    command = ["lm", "respond", "--each", "jsonl", "-j", str(scenario.jobs), *scenario.options, *keep]
    with StubServer(predictions) as stub:
        server = Server(predictions, scenario.jobs, scenario.fates)
        status = 1
        while status != 0:
            with (folder / "records").open() as stdin:
                variables = environment(folder, stub.port)
                with start(*command, folder=folder, variables=variables, stdin=stdin.fileno()) as child:
                    status = server.serve(child)
                    yield status, child["stdout"]


TROUBLE = [Fate.BEGIN, Fate.KILL, Fate.FAIL, Fate.BEGIN, Fate.DROP, Fate.ANSWER]


@BOUNDED
@given(scenarios())
@example(Scenario(['"one"', '"two"', '"three"', '"four"'], ["-o", "text"], 2, [(fate, 0) for fate in TROUBLE]))
def test_each_record_is_answered_once_and_in_order(scenario: Scenario) -> None:
    """Stdout of the run that ends it is byte for byte that of a run without trouble; FILE answers each record once."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        ((_, expected),) = run_to_the_end(scenario._replace(fates=[]), folder, file=None)
        runs = list(run_to_the_end(scenario, folder, file="done"))
        assert all(status in (-9, 1) for status, _ in runs[:-1])
        assert runs[-1] == (0, expected)
        results = [json.loads(line) for line in (folder / "done").read_bytes().splitlines()]
        answers = [result for result in results if "error" not in result]
        assert sorted(result["index"] for result in answers) == list(range(len(scenario.lines)))
        ids = [value.get("id") if isinstance(value, dict) else None for value in map(json.loads, scenario.lines)]
        assert all(result.get("id") == ids[result["index"]] for result in results)
