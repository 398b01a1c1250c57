"""Names, texts and errors that would control a terminal: no command shows them there as they are."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Packet
from processes import INSTANCE, StubConnection, StubServer, Terminal, environment, run, start

from lmcli.errors import KEPT_IN_TEXT, escaped

HOSTILE = "\x00\x07\x1b[31m\x7f\x80\x9b31m\x9d0;x\x9c\u202d\u202e\ud83dé"
FORMATS = "\u2028\u2029\u202a\u202b\u202c\u2066\u2067\u2068\u2069"
NAME = f"{HOSTILE}{FORMATS}/x"
MODEL = INSTANCE | {"modelKey": NAME, "identifier": NAME, "displayName": NAME, "paramsString": NAME, "type": "llm"}
QUANTIZED = MODEL | {"quantization": {"name": NAME, "bits": 4}}

ANSWERED = (
    ["respond", "-o", "text", "hi"],
    ["respond", "-o", "json", "hi"],
    ["respond", "-o", "jsonl", "hi"],
    ["respond", "-o", "history", "hi"],
    ["respond", "--stats", "--reasoning", "show", "-v", "hi"],
    ["complete", "--echo", "hi"],
    ["chat", "-n", "hi"],
    ["stats", "--echo", "--progress", "--runs", "2", "-f", "talk.json"],
    ["stats", "-o", "json", "-f", "talk.json"],
    ["models"],
    ["models", "--loaded"],
    ["models", "--json"],
    ["models", "load", "x"],
)
"""Command lines that succeed."""
OFFLINE = (
    ["stats", "log"],
    ["stats", "--by", "stop_reason", "log"],
    ["stats", "-o", "csv", "log"],
    ["stats", "-o", "json", "log"],
    ["respond", "-n", "-f", f"missing{FORMATS}\x1b\x9b\udcff", "hi"],
    ["respond", "-n", "-m", f"{FORMATS}\x1b\x9b", "--dry-run", "\x7f\x9b\u202e"],
    ["respond", "-n", "--schema", json.dumps({"type": f"\x9b{FORMATS}"}), "hi"],
    ["respond", "-n", "--schema", json.dumps({"$ref": f"x:\x9b{FORMATS}"}), "hi"],
    ["respond", "-n", f"--\x9b{FORMATS}"],
    ["respond", "-n", "--set", f"\x9b{FORMATS}=1", "--dry-run", "hi"],
    ["respond", "-n", "-H", f"\x9b{FORMATS}", "hi"],
    ["chat", "-n", "--history", f"folder{FORMATS}\x9b/x", "hi"],
    ["chat", "-n", "--history", "bad.json", "hi"],
    ["serve", f"\x9b{FORMATS}.gguf"],
    ["help", f"\x9b{FORMATS}"],
    [f"\x9b{FORMATS}"],
)
"""Command lines that show what was typed, or a file."""


def answer(connection: StubConnection, envelope: Packet) -> None:
    """Load a model, or predict, with a hostile text."""
    if envelope["type"] != "channelCreate":
        return
    channel = envelope["channelId"]
    if envelope["endpoint"] in ("getOrLoad", "loadModel"):
        for packet in ({"type": "loadProgress", "progress": 0.5}, {"type": "loadSuccess", "info": MODEL}):
            connection.send({"type": "channelSend", "channelId": channel, "message": packet})
        connection.send({"type": "channelClose", "channelId": channel})
        return
    for kind in ("reasoning", "none"):
        fragment = {"content": HOSTILE + FORMATS, "tokensCount": 1, "reasoningType": kind}
        packet = {"type": "fragment", "fragment": fragment}
        connection.send({"type": "channelSend", "channelId": channel, "message": packet})
    stats = {"stopReason": NAME, "usedDraftModelKey": NAME, "stopString": NAME}
    end = {"type": "success", "stats": stats, "modelInfo": MODEL}
    connection.send({"type": "channelSend", "channelId": channel, "message": end})
    connection.send({"type": "channelClose", "channelId": channel})


def fail(connection: StubConnection, envelope: Packet) -> None:
    """Fail with a hostile text."""
    error = {"title": NAME, "rootTitle": NAME, "cause": NAME, "suggestion": NAME}
    if envelope["type"] == "channelCreate":
        connection.send({"type": "channelError", "channelId": envelope["channelId"], "error": error})
        connection.send({"type": "communicationWarning", "warning": NAME})


@pytest.fixture
def stub() -> Iterator[StubServer]:
    """A server whose models have hostile names."""
    with StubServer(answer, models=[MODEL, QUANTIZED]) as server:
        yield server


def shown(folder: Path, port: int, *arguments: str) -> str:
    """What a terminal gets that is stdin, stdout and stderr, without the sequences that `lm` has of its own."""
    terminal = Terminal()
    variables = environment(folder, port, TERM="dumb", NO_COLOR="1")
    with start("lm", *arguments, folder=folder, variables=variables, stdout=terminal, stderr=terminal) as child:
        assert child.end() != 70, child["stdout"]
    return child["stdout"].decode().replace("\r\n", "\n")


def check(text: str, *, keep: str = "\n") -> None:
    """Nothing in a text controls the terminal, or has it show another text."""
    assert text
    assert escaped(text, keep=keep) == text, ascii(text)


@pytest.mark.parametrize("arguments", ANSWERED, ids=" ".join)
def test_what_a_server_sends(arguments: list[str], stub: StubServer, tmp_path: Path) -> None:
    """In messages, tables and names nothing is shown as it is; in an answer, what right-to-left writing needs."""
    (tmp_path / "talk.json").write_text("hi")
    text = shown(tmp_path, stub.port, *arguments)
    is_answer = arguments[0] in ("respond", "complete", "chat") or "--echo" in arguments or "json" in arguments
    check(text, keep=KEPT_IN_TEXT if is_answer or "--json" in arguments else "\n")
    assert "\\x1b" in text or "\\u001b" in text


@pytest.mark.parametrize("arguments", ANSWERED, ids=" ".join)
def test_what_a_server_fails_with(arguments: list[str], tmp_path: Path) -> None:
    """The sentence of an error, its hints, and a warning of the server are messages."""
    (tmp_path / "talk.json").write_text("hi")
    with StubServer(fail, models=[MODEL]) as stub:
        check(shown(tmp_path, stub.port, *arguments), keep=KEPT_IN_TEXT if "--json" in arguments else "\n")


@pytest.mark.parametrize("arguments", OFFLINE, ids=lambda words: ascii(" ".join(words))[:40])
def test_what_is_typed_or_in_a_file(arguments: list[str], tmp_path: Path) -> None:
    """Paths, keys, options and records are messages and names."""
    record = {"model": {"model_key": NAME}, "stats": {"stop_reason": NAME}}
    (tmp_path / "log").write_text(json.dumps(record) + "\n")
    (tmp_path / "bad.json").write_text(json.dumps([{"role": NAME, "content": "hi"}]))
    is_json = "json" in arguments or "--dry-run" in arguments
    check(shown(tmp_path, 1, *arguments), keep=KEPT_IN_TEXT if is_json else "\n")


def test_an_identifier_in_a_pipe_is_as_it_is(stub: StubServer, tmp_path: Path) -> None:
    """For the next command; half a surrogate pair cannot be written, and becomes a question mark."""
    for line in ("lm models load x", "lm models --loaded | head -n 1"):
        ran = run(line, tmp_path, environment(tmp_path, stub.port))
        assert (ran.status, ran.stderr) == (0, "")
        assert ran.stdout.decode() == NAME.replace("\ud83d", "?") + "\n"


def test_a_turn_is_kept_and_read_back(stub: StubServer, tmp_path: Path) -> None:
    """A chat file and a stats file with such names and figures are valid for `lm`, for Python and for jq."""
    variables = environment(tmp_path, stub.port)
    for _ in range(2):
        ran = run("lm chat -qn --history talk.json --stats-file log hi > /dev/null", tmp_path, variables)
        assert (ran.status, ran.stderr) == (0, "")
    ran = run("lm stats talk.json log -o json && lm respond -o history again < talk.json", tmp_path, variables)
    assert (ran.status, ran.stderr) == (0, "")
    summary, history = map(json.loads, ran.stdout.splitlines())
    assert next(iter(summary["groups"].values()))["predictions"] == 4
    assert len(history["messages"]) == 6
    assert history["messages"][1]["model"]["identifier"] == NAME.replace("\ud83d", "\ufffd")
    assert run("type jq > /dev/null || exit 0; jq . talk.json log", tmp_path, variables).status == 0
