"""The commands and forms that meet the faults, and what each must leave behind.

A form is a line of a table: how it is started, which stages its dialogue has, and a check of stdout and files. The
checks know what the server sent, and nothing of how the client works.
"""

import base64
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from stage_server import ANSWER, JSON_ANSWER, ORDER, Stage, StageServer

import lmcli

Files = Mapping[str, bytes]


class Left(NamedTuple):
    """What a run has left behind.

    Attributes:
        status: as Popen has it: negative for a signal.
        stdout: what is there.
        stderr: what is there.
        folder: where it ran.
        server: what the server knows.
        is_interrupted_program: a Python program was interrupted, which may happen between a fragment's arrival and the
            program's next step.
    """

    status: int
    stdout: bytes
    stderr: str
    folder: Path
    server: StageServer
    is_interrupted_program: bool


Check = Callable[[Left], Iterator[str]]


class Form(NamedTuple):
    """One way to use `lm` or its module.

    Attributes:
        name: what it is.
        command: the program and its arguments.
        check: gives what is wrong with what a run has left behind.
        stages: the stages of its dialogue.
        last: the stage that ends a success.
        stdin: what is on stdin; None is the null device.
        files: what lies in its folder.
        answer: the fragments of the server's answer.
        is_main: it meets every fault, not the common ones only.
        shows: the stages in which it meets a wrong type in each field, because it shows what is there.
        is_program: a Python program: SIGINT is all that it handles, and it has a timeout of its own.
        is_batch: it reports a failure for each record, and after a signal how to go on.
        is_secure: it speaks TLS.
    """

    name: str
    command: Sequence[str]
    check: Check
    stages: frozenset[Stage]
    last: Stage = Stage.SUCCESS
    stdin: bytes | None = None
    files: Files = MappingProxyType({})
    answer: Sequence[str] = ANSWER
    is_main: bool = False
    shows: frozenset[Stage] = frozenset()
    is_program: bool = False
    is_batch: bool = False
    is_secure: bool = False


# The stages of a dialogue. How a server is found does not depend on the command: a few forms are enough for that.
_REACH: Final = frozenset({Stage.CONNECT, Stage.UPGRADE, Stage.GREETING})
_FIND: Final = frozenset({Stage.RESOLVE, Stage.PROBE, Stage.TLS})
_LIST: Final = _REACH | {Stage.MODEL}
_PREDICT: Final = _LIST | frozenset(ORDER[ORDER.index(Stage.PROMPT) :])
_UPLOAD: Final = frozenset({Stage.UPLOAD})
_SHOWN: Final = frozenset({Stage.PROMPT, Stage.MIDDLE, Stage.SUCCESS})
_ALL: Final = _PREDICT | _FIND


def true_part(text: str, left: Left) -> Iterator[str]:
    """What is wrong with a text: it is all of the answer in a success, else no less than came before the fault."""
    server = left.server
    if left.status == 0:
        if text != server.text:
            yield f"the answer is {text!r}, not {server.text!r}"
    elif not text.startswith(server.before or "") and not left.is_interrupted_program:
        yield f"lost: {text!r} does not begin with {server.before!r}"
    elif not server.text.startswith(text):
        yield f"invented: {text!r} is no beginning of {server.text!r}"


def is_told(left: Left, *, is_complete: bool) -> bool:
    """Whether a record says truly how it went; an answer may be complete before the dialogue fails."""
    may_be_complete = left.status == 0 or Stage.SUCCESS in left.server.delivered
    may_be_partial = left.status != 0
    return may_be_complete if is_complete else may_be_partial


def check_raw(left: Left) -> Iterator[str]:
    """The text, byte for byte."""
    yield from true_part(left.stdout.decode(), left)


def check_text(left: Left) -> Iterator[str]:
    """The text and one newline; nothing where there is no text."""
    text = left.stdout.decode()
    if text and not text.endswith("\n"):
        yield f"stdout does not end with a newline: {text!r}"
    yield from true_part(text.removesuffix("\n"), left)


def check_code(left: Left) -> Iterator[str]:
    """What came after the fence that begins the answer, and one newline; nothing where nothing came."""
    text = left.stdout.decode()
    if text and not text.endswith("\n"):
        yield f"stdout does not end with a newline: {text!r}"
    yield from true_part(left.server.text[: len(FENCE)] + text.removesuffix("\n"), left)


def check_echo(left: Left) -> Iterator[str]:
    """The input, and its continuation; nothing where none of it came."""
    text = left.stdout.decode()
    if text and not text.startswith("once"):
        yield f"the input is not on stdout: {text!r}"
    yield from true_part(text.removeprefix("once"), left)


def check_json(left: Left) -> Iterator[str]:
    """One object with the text, and with the error if there is one; nothing if nothing was predicted."""
    if not left.stdout:
        yield from true_part("", left)
        return
    record = json.loads(left.stdout)
    yield from true_part(record["content"], left)
    yield from _check_code(record.get("error"), left)


def check_lines(left: Left) -> Iterator[str]:
    """A line for each fragment, and at the end one that says how it went."""
    lines = [json.loads(line) for line in left.stdout.splitlines()]
    fragments = "".join(line["content"] for line in lines if line.get("reasoning_type") == "none")
    yield from true_part(fragments, left)
    if lines and not is_told(left, is_complete=lines[-1]["type"] == "result"):
        yield f"status {left.status}, and the last line is {lines[-1]['type']}"
    if lines and lines[-1].get("content") != fragments:
        yield "the last line has another text than the fragments"
    if lines and lines[-1]["type"] == "error":
        yield from _check_code(lines[-1], left)


def check_history(left: Left) -> Iterator[str]:
    """The history with the answer; nothing where there is none."""
    if not left.stdout:
        yield from true_part("", left)
        return
    yield from _check_turns(json.loads(left.stdout), left)


def check_chat(left: Left) -> Iterator[str]:
    """The text; the chat file whole: with the turn, or as it was if the answer never began."""
    yield from check_text(left)
    stored = (left.folder / "talk.json").read_bytes()
    text = left.stdout.decode().removesuffix("\n")
    if stored == CHAT["talk.json"]:
        if text or left.status == 0:
            yield f"the chat file lacks {text!r}"
        return
    value = json.loads(stored)
    if value.get("kept") != {"as": "it is"}:
        yield "the chat file has lost an unknown key"
    if not text:
        yield "the chat file was touched though no answer came"
    yield from _check_turns(value, left)


def check_stats_file(left: Left) -> Iterator[str]:
    """The text; the stats file keeps its lines, and each is whole."""
    yield from check_text(left)
    lines = (left.folder / "log.jsonl").read_bytes().splitlines(keepends=True)
    if lines[0] != CHAT["log.jsonl"] or not lines[-1].endswith(b"\n"):
        yield "the stats file is damaged"
    records = [json.loads(line) for line in lines]
    if left.server.before and len(records) != 2:
        yield "the stats file lacks the prediction"


def check_stats(left: Left) -> Iterator[str]:
    """JSON, or nothing after a failure."""
    if left.stdout:
        json.loads(left.stdout)
    elif left.status == 0:
        yield "no stats"


def check_each(left: Left) -> Iterator[str]:
    """A line for each record, in their order: the answer, its beginning, or nothing; fewer where the batch stopped."""
    lines = left.stdout.decode().split("\n")[:-1]
    whole = "".join(ANSWER)
    if left.status == 0 and lines != [whole] * RECORDS:
        yield f"the answers are {lines}"
    if len(lines) > RECORDS or not all(whole.startswith(line) for line in lines):
        yield f"invented: {lines}"
    if left.status > 0 and len(lines) != RECORDS and "lm: stopped: " not in left.stderr:
        yield f"{len(lines)} answers for {RECORDS} records"


def check_keys(left: Left) -> Iterator[str]:
    """The model in a success, else nothing."""
    if left.stdout != (b"stub\n" if left.status == 0 else b""):
        yield f"stdout is {left.stdout!r}"


def check_listed(left: Left) -> Iterator[str]:
    """The models as JSON in a success, else nothing."""
    if left.status == 0 and len(json.loads(left.stdout)) != 1:
        yield "the model is not listed"
    if left.status != 0 and left.stdout:
        yield f"stdout is {left.stdout!r}"


def check_nothing(left: Left) -> Iterator[str]:
    """Nothing at all."""
    if left.stdout:
        yield f"stdout is {left.stdout!r}"


def _check_turns(value: Any, left: Left) -> Iterator[str]:
    *old, question, answer = value["messages"]
    if [message["content"] for message in old] != ["hi", "hello"] or question["role"] != "user":
        yield "the history has lost a turn"
    content = answer["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    yield from true_part(text, left)
    if not is_told(left, is_complete="partial" not in answer):
        yield f"status {left.status}, and partial is {answer.get('partial')}"


def _check_code(error: Any, left: Left) -> Iterator[str]:
    if not is_told(left, is_complete=error is None):
        yield f"status {left.status}, and the error is {error!r}"
    elif error is not None and error["code"] != left.status and left.status > 0:
        yield f"status {left.status}, and the code is {error['code']}"


_PIXEL: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
)
RECORDS: Final = 2
FENCE: Final = "```sh\n"
TALK: Final = {
    "kept": {"as": "it is"},
    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
}
CHAT: Final[Files] = {
    "talk.json": json.dumps(TALK).encode(),
    "log.jsonl": b'{"time": "2026-01-01T00:00:00Z"}\n',
    "cat.png": _PIXEL,
}
_SCHEMA: Final = (
    '{"type":"object","properties":{"city":{"type":"string"},"size":{"type":"integer"}},"required":["size"]}'
)

# A signal that comes when the client has already ended by itself meets the end of the interpreter or of asyncio's loop,
# where KeyboardInterrupt leaves a traceback whatever the library does: from there on it ends the process.
_PROGRAM: Final = """
import os, signal, sys
import lmcli as lms

def main():
    seconds = os.environ.get("LM_TIMEOUT")
    with lms.Client(timeout=float(seconds) if seconds else None) as client:
        {body}

def run():
    try:
        main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

try:
    run()
except lms.LmError as error:
    print("lm: error: " + error.message, file=sys.stderr)
    sys.exit(error.exit_code)
except KeyboardInterrupt:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
"""
_ASYNC_PROGRAM: Final = """
import asyncio, os, signal, sys
import lmcli as lms

async def main():
    seconds = os.environ.get("LM_TIMEOUT")
    async with lms.AsyncClient(timeout=float(seconds) if seconds else None) as client:
        {body}

async def run():
    try:
        await main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

try:
    asyncio.run(run())
except lms.LmError as error:
    print("lm: error: " + error.message, file=sys.stderr)
    sys.exit(error.exit_code)
except KeyboardInterrupt:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
"""


def _program(template: str, body: str) -> list[str]:
    return [sys.executable, "-c", template.format(body=body)]


_SYNC_BODIES: Final = {
    "python respond_stream": 'for f in client.llm.model().respond_stream("hello"): os.write(1, f.content.encode())',
    "python complete_stream": 'for f in client.llm.model().complete_stream("hello"): os.write(1, f.content.encode())',
    "python respond": """model = client.llm.model("stub")
        model.respond("hi", on_prediction_fragment=lambda f: os.write(1, f.content.encode()))""",
}
_ASYNC_BODIES: Final = {
    "async respond_stream": """model = await client.llm.model()
        async for f in model.respond_stream("hello"): os.write(1, f.content.encode())""",
    "async complete_stream": """model = await client.llm.model()
        async for f in model.complete_stream("hello"): os.write(1, f.content.encode())""",
}


def _forms() -> Iterator[Form]:
    def lm(name: str, command: str, check: Check, stages: frozenset[Stage] = _PREDICT, **more: Any) -> Form:
        return Form(name, ["lm", *command.split()], check, stages, files=CHAT, **more)

    history = CHAT["talk.json"]
    yield lm("respond", "respond hello", check_text, _ALL, is_main=True)
    yield lm("respond, a document", "respond Explain", check_text, stdin=b"a document\n")
    yield lm("respond -m", "respond -m stub hello", check_text)
    yield lm("respond -f", "respond -f cat.png hello", check_text, _PREDICT | _UPLOAD, shows=_UPLOAD)
    yield lm("respond -o json", "respond -o json hello", check_json)
    yield lm("respond -o jsonl", "respond -o jsonl hello", check_lines, is_main=True, shows=_SHOWN)
    yield lm("respond -o history", "respond -o history And?", check_history, stdin=history)
    yield lm("respond --schema", f"respond --schema {_SCHEMA} hello", check_text, answer=JSON_ANSWER)
    yield lm("respond -o code", "respond -o code hello", check_code, answer=(FENCE, *ANSWER))
    yield lm("respond --stats-file", "respond --stats --stats-file log.jsonl hello", check_stats_file)
    yield lm("respond --progress", "respond --progress --verbose hello", check_text)
    yield lm("respond over TLS", "respond hello", check_text, is_secure=True)
    yield lm("complete", "complete", check_raw, stdin=b"once")
    yield lm("complete --echo", "complete --echo once", check_echo)
    yield lm("chat", "chat hello", check_text)
    yield lm("chat --history", "chat --history talk.json And?", check_chat)
    yield lm("stats --runs 2", "stats --runs 2 -o json", check_stats, stdin=b"hello")
    yield lm("models", "models", check_keys, _LIST | _FIND, last=Stage.MODEL)
    yield lm("models --json", "models --json", check_listed, _LIST, last=Stage.MODEL, shows=frozenset({Stage.MODEL}))
    yield lm("models load", "models load stub", check_keys, _LIST, last=Stage.MODEL)
    yield lm("models unload", "models unload stub", check_nothing, _LIST, last=Stage.MODEL)
    for name, body in _SYNC_BODIES.items():
        is_main = name == "python respond_stream"
        stages = _ALL if is_main else _PREDICT
        yield Form(name, _program(_PROGRAM, body), check_raw, stages, is_program=True, is_main=is_main)
    if find_spec("lmcli.cli.batch"):
        for jobs in ("4", "1"):
            command = f"respond --each line -j {jobs} Repeat"
            yield lm(f"respond --each -j {jobs}", command, check_each, stdin=b"one\ntwo\n", is_batch=True)
    if hasattr(lmcli, "AsyncClient"):
        for name, body in _ASYNC_BODIES.items():
            is_main = name == "async respond_stream"
            yield Form(name, _program(_ASYNC_PROGRAM, body), check_raw, _PREDICT, is_program=True, is_main=is_main)


FORMS: Final = tuple(_forms())
