"""The README's programs in shell, run as they stand there: those of LM Studio's documentation, and several machines."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PATIENCE, StartServer
from processes import environment, run
from shells import program

from lmcli.chat import Message, TextPart
from lmcli.server.echo.echo_engine import LOADED_AT_START, EchoEngine, EchoModel, Pace
from lmcli.server.engine import LoadedModel, PredictionEvent, PredictionRequest
from lmcli.values import ModelInfo

README = Path(__file__).parents[1] / "README.md"
PROMPT = "You (leave blank to exit): "


OUTPUTS = {"ls": "etc\nhome\n", "pwd": "/\n", "echo $HOME": "/root\n"}


class Listener(EchoModel):
    """A model that remembers what it was given, and gives a terminal's answer to a command."""

    def __init__(self, given: list[PredictionRequest]) -> None:
        super().__init__({}, Pace())
        self._given = given

    def predict(self, request: PredictionRequest) -> AsyncGenerator[PredictionEvent, None]:
        """Answer a conversation with its last words, a session of a terminal with what follows, and the next prompt."""
        self._given.append(request)
        if request.raw_prompt is not None:
            command = request.raw_prompt.splitlines()[-1].removeprefix("$ ")
            request = replace(request, raw_prompt=OUTPUTS[command] + "$ sudo rm -rf /\n")
        return super().predict(request)


class ListeningEngine(EchoEngine):
    """An engine whose loaded model is a listener.

    Attributes:
        given: what it was given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.given: list[PredictionRequest] = []

    async def start(self) -> Sequence[tuple[ModelInfo, LoadedModel]]:
        """The listener, at once."""
        return [(LOADED_AT_START, Listener(self.given))]


def script(name: str) -> str:
    """A program in the README, found by the name above it."""
    found = re.search(rf"<!-- {re.escape(name)} -->\n```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"the README holds no {name}"
    return found[1]


@pytest.mark.parametrize("end", ["\nnever asked\n", ""], ids=["blank line", "end of input"])
def test_the_chatbot(tmp_path: Path, start_server: StartServer, end: str) -> None:
    """It prompts, answers each line in the light of all before, and ends at a blank line or the end of its input."""
    engine = ListeningEngine()
    server = start_server(engine)
    ran = run(
        script("chatbot.sh"),
        tmp_path,
        environment(tmp_path, server.port),
        stdin=f"hello there\n-n 'and' $now\n{end}".encode(),
    )
    assert ran.stderr == ""
    assert ran.stdout.decode() == f"{PROMPT}Bot: hello there\n{PROMPT}Bot: -n 'and' $now\n{PROMPT}"
    system = Message("system", (TextPart("You are a task focused AI assistant"),))
    first = [system, Message("user", (TextPart("hello there"),))]
    second = [*first, Message("assistant", first[1].content), Message("user", (TextPart("-n 'and' $now"),))]
    assert [list(request.messages) for request in engine.given] == [first, second]
    kept = json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))["messages"]
    assert [message["role"] for message in kept] == ["system", "user", "assistant", "user", "assistant"]


@pytest.mark.parametrize("end", ["exit\nnever asked\n", ""], ids=["exit", "end of input"])
def test_the_terminal_simulator(tmp_path: Path, start_server: StartServer, end: str) -> None:
    """Each command is continued from the whole session so far, up to the next prompt; exit ends it."""
    engine = ListeningEngine()
    server = start_server(engine)
    stdin = f"ls\npwd\necho $HOME\n{end}".encode()
    ran = run(script("terminal-sim.sh"), tmp_path, environment(tmp_path, server.port), stdin=stdin)
    assert ran.stderr == ""
    assert ran.stdout.decode() == "$ etc\nhome\n$ /\n$ /root\n$ "
    session = "$ ls\netc\nhome\n$ pwd\n/\n$ echo $HOME\n/root\n"
    assert (tmp_path / "session.txt").read_text(encoding="utf-8") == session
    ends = [session.index(command) + len(command) for command in ("ls\n", "pwd\n", "HOME\n")]
    assert [request.raw_prompt for request in engine.given] == [session[:end] for end in ends]
    assert {request.options.stop_strings for request in engine.given} == {("$",)}


class PairedEngine(ListeningEngine):
    """One of two engines: neither answers before the other is asked, too."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = threading.Event()
        self.other = self

    async def start(self) -> Sequence[tuple[ModelInfo, LoadedModel]]:
        """The paired model, at once."""
        return [(LOADED_AT_START, Paired(self))]


class Paired(Listener):
    """The model of a paired engine."""

    def __init__(self, engine: PairedEngine) -> None:
        super().__init__(engine.given)
        self._engine = engine

    async def predict(self, request: PredictionRequest) -> AsyncGenerator[PredictionEvent, None]:
        """Wait for the other engine, and answer."""
        self._engine.is_asked.set()
        await asyncio.to_thread(self._engine.other.is_asked.wait, PATIENCE)
        async for event in super().predict(request):
            yield event


def test_several_machines(tmp_path: Path, start_server: StartServer) -> None:
    """Each server answers some of the records, the answers are in order; run again, only what is missing is asked."""
    program("parallel")
    one, other = PairedEngine(), PairedEngine()
    one.other, other.other = other, one
    ports = [start_server(engine).port for engine in (one, other)]
    (tmp_path / "hosts.txt").write_text("".join(f"127.0.0.1:{port}\n" for port in ports))
    prompts = [f"prompt {number}" for number in range(250)]
    (tmp_path / "prompts.jsonl").write_text("".join(f"{json.dumps(prompt)}\n" for prompt in prompts))

    first = run(script("machines.sh"), tmp_path, environment(tmp_path, "127.0.0.1:1"))
    assert first.status == 0, first.stderr
    assert first.stdout.decode().splitlines() == prompts
    assert all(len(engine.given) >= 50 for engine in (one, other))
    assert len(one.given) + len(other.given) == len(prompts)
    assert len((tmp_path / "jobs.log").read_text().splitlines()) == 1 + 3

    (tmp_path / "results" / "3.jsonl").unlink()
    again = run(script("machines.sh"), tmp_path, environment(tmp_path, "127.0.0.1:1"))
    assert (again.status, again.stdout) == (0, first.stdout)
    assert len(one.given) + len(other.given) == len(prompts) + 50
