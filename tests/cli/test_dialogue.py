"""The dialogue of `lm chat`, held with the real command on a real pseudo-terminal."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import pytest
from conftest import PATIENCE, Packet, Serve, StartServer
from pexpect.fdpexpect import fdspawn
from processes import StubConnection, StubServer, environment, run

from lmcli import Client
from lmcli.chat import Message, TextPart
from lmcli.server.background import Running
from lmcli.server.echo.echo_engine import LOADED_AT_START, EchoEngine, EchoModel, Pace
from lmcli.server.engine import LoadedModel, PredictionEvent, PredictionRequest
from lmcli.values import ModelInfo

CTRL_C, CTRL_D, CTRL_U, UP, ENTER = "\x03", "\x04", "\x15", "\x1b[A", "\r"
PROMPT = "> "
UNTYPED = ["nul\0\nx", "csi\x9b31m", "escape\x1b[31m", "override\u202e"]
"""What would control the terminal, if it was recalled."""
TAKE_THE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Makes the terminal on stdin that of a new session, so that its Ctrl-C is a signal, and becomes the command."""


class Dialogue:
    """`lm chat` and the terminal that it runs on.

    Args:
        process: the command.
        terminal: the other end of its terminal.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", terminal: int) -> None:
        self.process = process
        self.terminal = fdspawn(terminal, timeout=PATIENCE, encoding="utf-8", codec_errors="replace")

    def type(self, text: str, *, end: str = ENTER) -> None:
        """Press keys."""
        self.terminal.send(text + end)

    def type_bytes(self, keys: bytes) -> None:
        """Press keys of a keyboard that has another encoding."""
        os.write(self.terminal.child_fd, keys)

    def see(self, *texts: str) -> None:
        """Wait until each of some texts is on the screen, in this order."""
        for text in texts:
            self.terminal.expect_exact(text.replace("\n", "\r\n"))

    def see_prompt(self) -> str:
        """Wait until something can be typed; gives what was on the screen before."""
        self.terminal.expect_exact(PROMPT)
        return re.sub(r"\x1b\[\?2004[hl]\r?", "", self.terminal.before or "").replace("\r\n", "\n")

    def ask(self, text: str) -> str:
        """Type something and wait for the next prompt; gives what was on the screen before."""
        self.type(text)
        return self.see_prompt()

    def interrupt_typing(self) -> None:
        """Press Ctrl-C at the prompt and wait for the next one.

        Python's line editing overlooks a signal that comes just before it begins to wait for a key; one more wakes it.
        """
        self.type(CTRL_C, end="")
        if self.terminal.expect_exact([PROMPT, pexpect.TIMEOUT], timeout=1) == 1:
            self.type(CTRL_C, end="")
            self.see_prompt()

    def end(self) -> int:
        """Wait for the end of the process, whatever it writes before; gives its return code."""
        self.terminal.expect(pexpect.EOF)
        return self.process.wait(PATIENCE)

    def leave(self) -> None:
        """Leave with Ctrl-D; the status must be 0."""
        self.type(CTRL_D, end="")
        assert self.end() == 0


@contextmanager
def talking(folder: Path, port: int, *arguments: str, stdout: Any = None, **variables: str) -> Iterator[Dialogue]:
    """Start `lm chat` with arguments on a terminal of its own; stdout may go elsewhere."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-ISc", TAKE_THE_TERMINAL, "lm", "chat", *arguments]
    env = environment(folder, port, TERM="xterm", INPUTRC=os.devnull, **variables)
    output = theirs if stdout is None else stdout
    with subprocess.Popen(
        command, cwd=folder, env=env, stdin=theirs, stdout=output, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            yield Dialogue(process, ours)
        finally:
            process.kill()
            os.close(ours)


class Parrot(EchoModel):
    """A model that answers in other words than it was asked in, and remembers the questions."""

    def __init__(self, asked: list[str]) -> None:
        super().__init__({}, Pace())
        self._asked = asked

    def predict(self, request: PredictionRequest) -> AsyncGenerator[PredictionEvent, None]:
        """Answer the last question."""
        text = request.messages[-1].text
        self._asked.append(text)
        answer = Message("user", (TextPart(f"You say: {text}!"),))
        return super().predict(replace(request, messages=[*request.messages, answer]))


class ParrotEngine(EchoEngine):
    """An engine whose loaded model is a parrot.

    Attributes:
        asked: the questions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def start(self) -> Sequence[tuple[ModelInfo, LoadedModel]]:
        """The parrot, at once."""
        return [(LOADED_AT_START, Parrot(self.asked))]


@pytest.fixture
def parrot() -> ParrotEngine:
    """What stands behind the server of `talk`."""
    return ParrotEngine()


OpenDialogue = Callable[..., Dialogue]


@pytest.fixture
def talk(tmp_path: Path, start_server: StartServer, parrot: ParrotEngine) -> Iterator[OpenDialogue]:
    """Start dialogues with a parrot."""
    server = start_server(parrot)
    with ExitStack() as cleanup:
        yield lambda *arguments, **more: cleanup.enter_context(talking(tmp_path, server.port, *arguments, **more))


def messages(path: Path) -> list[Packet]:
    """The messages in a chat file."""
    found: list[Packet] = json.loads(path.read_text(encoding="utf-8"))["messages"]
    return found


def said(path: Path) -> list[str]:
    """What was said in a chat file, by whomever."""
    return [message["content"] for message in messages(path)]


def test_a_first_message_as_argument(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """`lm chat "first message"` answers, says how to go on, and waits for more; Ctrl-D leaves with 0."""
    dialogue = talk("hello", "there")
    dialogue.see("You say: hello there!\n", "lm: /help lists the commands, Ctrl-D exits\n")
    dialogue.see_prompt()
    assert dialogue.ask("and more").endswith("You say: and more!\n")
    dialogue.leave()
    assert parrot.asked == ["hello there", "and more"]


def test_a_first_message_may_begin_with_a_slash(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """What stands on the command line is a question, whatever it begins with."""
    dialogue = talk("/exit is a command")
    dialogue.see("You say: /exit is a command!\n")
    dialogue.see_prompt()
    dialogue.leave()


def test_arrow_up_recalls(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """What was typed before comes back with the arrow keys, and so does what a chat file holds from other days."""
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    dialogue.ask("one")
    dialogue.ask("two")
    dialogue.type(UP + UP)
    assert dialogue.see_prompt().endswith("You say: one!\n")
    dialogue.leave()
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    dialogue.type(UP + UP + UP, end="")
    dialogue.see("one")
    dialogue.ask(" hundred")
    dialogue.leave()
    assert parrot.asked == ["one", "two", "one", "one hundred"]


def test_line_editing(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """A line can be taken back and corrected, in any script."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.ask("nonsense" + CTRL_U + "Grüße 🦉x\x7f")
    dialogue.leave()
    assert parrot.asked == ["Grüße 🦉"]


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (['"""', "one", "", "  two", '"""'], "one\n\n  two"),
        (['"""one', 'two"""'], "one\ntwo"),
        (['"""all on one line"""'], "all on one line"),
    ],
)
def test_a_block_of_lines_is_one_message(
    talk: OpenDialogue, parrot: ParrotEngine, options: list[str], asked: str
) -> None:
    """What stands between three quotation marks and three more is one message, its lines as they are."""
    dialogue = talk()
    dialogue.see_prompt()
    for line in options[:-1]:
        dialogue.type(line)
        dialogue.see("… ")
    dialogue.ask(options[-1])
    dialogue.leave()
    assert parrot.asked == [asked]


BLOCKS = [
    ['"""', "one", "", "two", '"""'],
    ['"""', "  indented", "not", '"""'],
    ['"""', "/exit", '"""'],
    ['"""/save talk.json', 'is a command"""'],
    ['"""', "Grüße 🦉", "\tund so", '"""'],
]


@pytest.mark.parametrize("options", BLOCKS, ids=repr)
def test_a_block_is_recalled_whole(talk: OpenDialogue, parrot: ParrotEngine, options: list[str]) -> None:
    """Up and Enter send all lines of a block again as one message, be it that the first looks like a command."""
    dialogue = talk()
    dialogue.see_prompt()
    for line in options[:-1]:
        dialogue.type(line.replace("\t", "\x16\t"))
        dialogue.see("… ")
    dialogue.ask(options[-1])
    dialogue.ask(UP)
    dialogue.ask(UP + UP)
    dialogue.ask("one more")
    dialogue.ask(UP + UP)
    dialogue.leave()
    asked = "\n".join(options).replace('"""', "").strip("\n")
    assert parrot.asked == [asked, asked, asked, "one more", asked]


@pytest.mark.parametrize(
    "text",
    ["one\n\ntwo\nthree", "/exit", '"""\nquoted', 'x = """\ny\n"""', " both ends ", "/x\n/y", *UNTYPED],
    ids=ascii,
)
def test_what_a_chat_file_holds_is_recalled_whole(
    talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path, text: str
) -> None:
    """A message of other days comes back as it was, whatever it looks like; one that cannot be typed is left out."""
    before = [{"role": "user", "content": "earlier"}, {"role": "assistant", "content": "yes"}]
    last = [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]
    (tmp_path / "talk.json").write_text(json.dumps([*before, *last]), encoding="utf-8")
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    dialogue.ask(UP)
    dialogue.leave()
    assert parrot.asked == ["earlier" if text in UNTYPED else text]


@pytest.mark.parametrize("variables", [{}, {"PYTHONIOENCODING": "utf-8:strict"}], ids=["C", "UTF-8"])
def test_what_is_typed_in_another_encoding(
    talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path, variables: dict[str, str]
) -> None:
    """Bytes that are not UTF-8 are refused before anything is sent, so that the chat file can be read again."""
    dialogue = talk("--history", "talk.json", **variables)
    dialogue.see_prompt()
    dialogue.ask("fine")
    dialogue.type_bytes(b"/system caf\xe9\r")  # in the first of such lines readline itself passes over the byte
    dialogue.see_prompt()
    for typed in (b"/system caf\xe9", b"/model caf\xe9", b"/edit caf\xe9", b"say caf\xe9"):
        dialogue.type_bytes(typed + b"\r")
        dialogue.see("the prompt is not UTF-8: '", "caf\\udce9'")
        dialogue.see_prompt()
    if not variables:
        dialogue.type_bytes(b"/save caf\xe9\r")
        dialogue.see("saved to 'caf\\udce9'")
        dialogue.see_prompt()
        assert said(tmp_path / "caf\udce9")[-2:] == ["fine", "You say: fine!"]
    dialogue.ask("again")
    dialogue.leave()
    assert parrot.asked == ["fine", "again"]
    assert said(tmp_path / "talk.json")[-2:] == ["again", "You say: again!"]


def test_what_was_recalled_can_be_changed(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """A block is edited like a line: what is deleted and added in its last line is in what is sent."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type('"""one')
    dialogue.see("… ")
    dialogue.ask('two"""')
    dialogue.ask(UP + "\x7f\x7f\x7fand three")
    dialogue.leave()
    assert parrot.asked == ["one\ntwo", "one\nand three"]


def test_what_is_pasted_is_one_message(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """Several lines from the clipboard are one message, sent when Enter is pressed."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type("\x1b[200~def f():\n\treturn 1\n\nf()\x1b[201~", end="")
    dialogue.see("f()", "f()")
    assert parrot.asked == []
    dialogue.ask("")
    dialogue.leave()
    assert parrot.asked == ["def f():\n\treturn 1\n\nf()"]


def test_nothing_is_asked_with_nothing(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """Enter alone gives the prompt back."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.ask("")
    dialogue.ask("   ")
    dialogue.leave()
    assert parrot.asked == []


def test_help_lists_every_command(talk: OpenDialogue) -> None:
    """/help names all that can be typed; what is no command is refused, with a way to say it all the same."""
    dialogue = talk()
    dialogue.see_prompt()
    shown = dialogue.ask("/help")
    for name in ("help", "system", "model", "retry", "undo", "save", "stats", "edit", "exit"):
        assert f"\n  /{name} " in shown
    assert "Ctrl-C" in shown
    assert "Ctrl-D" in shown
    assert "no such command '/frob'" in dialogue.ask("/frob now")
    assert "You say: /frob now!" in dialogue.ask(" /frob now")
    dialogue.type("/exit")
    assert dialogue.end() == 0


def test_system_shows_and_sets(talk: OpenDialogue, tmp_path: Path) -> None:
    """/system sets the system prompt of the conversation, and shows it."""
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    assert "no system prompt is set" in dialogue.ask("/system")
    dialogue.ask("hi")
    assert "lm: the system prompt is set\n" in dialogue.ask("/system  Be terse, and kind.")
    assert "lm: Be terse, and kind.\n" in dialogue.ask("/system")
    assert messages(tmp_path / "talk.json")[0] == {"role": "system", "content": "Be terse, and kind."}
    dialogue.ask("again")
    assert said(tmp_path / "talk.json")[0::4] == ["Be terse, and kind.", "You say: again!"]
    dialogue.leave()


def test_model_shows_and_sets(talk: OpenDialogue) -> None:
    """/model names the model, and takes another one, loaded if it must be; one that is not there is an error."""
    dialogue = talk()
    dialogue.see_prompt()
    assert "lm: echo\n" in dialogue.ask("/model")
    dialogue.ask("/model no-such-model")
    shown = dialogue.ask("hi")
    assert "no model 'no-such-model'" in shown
    assert "there are: echo, echo-jit" in shown
    assert "lm: the next message goes to echo-jit\n" in dialogue.ask("/model echo-jit")
    assert "lm: echo-jit\n" in dialogue.ask("/model")
    assert dialogue.ask("hi").endswith("\nhi\n")
    assert "Model used: Echo (loaded on request)\n" in dialogue.ask("/stats")
    dialogue.leave()


def test_retry_and_undo(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """/retry asks the last question again in place of its answer; /undo takes both back, one turn at a time."""
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    assert "there is no question yet" in dialogue.ask("/retry")
    assert "there is nothing to undo" in dialogue.ask("/undo")
    dialogue.ask("one")
    dialogue.ask("two")
    assert "You say: two!" in dialogue.ask("/retry")
    assert parrot.asked == ["one", "two", "two"]
    assert said(tmp_path / "talk.json") == ["one", "You say: one!", "two", "You say: two!"]
    assert "lm: removed the last question and its answer\n" in dialogue.ask("/undo")
    assert said(tmp_path / "talk.json") == ["one", "You say: one!"]
    dialogue.ask("/undo")
    assert said(tmp_path / "talk.json") == []
    dialogue.ask("three")
    assert said(tmp_path / "talk.json") == ["three", "You say: three!"]
    dialogue.leave()


def test_save(talk: OpenDialogue, tmp_path: Path) -> None:
    """/save writes the conversation to any file and says so, and `lm chat --history` goes on from there."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.ask("one")
    assert "/save needs the name of a file" in dialogue.ask("/save")
    assert "lm: saved to 'my own talk.json'\n" in dialogue.ask("/save my own talk.json")
    dialogue.ask("/save ~/home.json")
    assert said(tmp_path / "my own talk.json") == said(tmp_path / "home.json") == ["one", "You say: one!"]
    dialogue.leave()
    dialogue = talk("--history", "my own talk.json")
    dialogue.see_prompt()
    dialogue.ask("two")
    dialogue.leave()
    assert said(tmp_path / "my own talk.json") == ["one", "You say: one!", "two", "You say: two!"]


def test_save_overwrites_files_of_this_conversation_and_no_others(talk: OpenDialogue, tmp_path: Path) -> None:
    """What /save wrote, and the file of --history, may be written again; all else that is there is refused."""
    (tmp_path / "thesis.md").write_text("years of work", encoding="utf-8")
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to("thesis.md")
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    dialogue.ask("one")
    for name in ("thesis.md", "empty", "link"):
        shown = dialogue.ask(f"/save {name}")
        assert f"'{name}' already exists and does not belong to this conversation\n" in shown
        assert "choose another name\n" in shown
    assert (tmp_path / "thesis.md").read_text(encoding="utf-8") == "years of work"
    dialogue.ask("/save copy.json")
    dialogue.ask("two")
    for name in ("copy.json", "./talk.json"):
        assert "lm: saved to " in dialogue.ask(f"/save {name}")
        assert said(tmp_path / name) == ["one", "You say: one!", "two", "You say: two!"]
    dialogue.leave()


def test_save_into_a_folder_that_does_not_exist(talk: OpenDialogue, tmp_path: Path) -> None:
    """The message says what is missing, and the hint can be typed."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.ask("one")
    shown = dialogue.ask("/save no such/talk.json")
    assert "cannot write to 'no such/talk.json': the folder 'no such' does not exist\n" in shown
    assert "mkdir -p 'no such' creates it\n" in shown
    dialogue.leave()


def test_a_history_in_a_folder_that_does_not_exist(talk: OpenDialogue) -> None:
    """It ends the dialogue before it begins."""
    dialogue = talk("--history", "no/such/talk.json")
    dialogue.see("cannot write to 'no/such/talk.json': the folder 'no/such' does not exist\n", "mkdir -p no/such ")
    assert dialogue.end() == 74


def test_save_where_it_cannot_be(talk: OpenDialogue, tmp_path: Path) -> None:
    """The home of nobody, a folder and a FIFO are errors, and the dialogue goes on."""
    os.mkfifo(tmp_path / "pipe")
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.ask("one")
    assert "no such user: '~nosuchuser/x'" in dialogue.ask("/save ~nosuchuser/x")
    assert "'.' is not a regular file" in dialogue.ask("/save .")
    assert "'pipe' is not a regular file" in dialogue.ask("/save pipe")
    assert dialogue.ask("two").endswith("You say: two!\n")
    dialogue.ask("/save talk.json")
    assert said(tmp_path / "talk.json") == ["one", "You say: one!", "two", "You say: two!"]
    dialogue.leave()


def test_stats(talk: OpenDialogue) -> None:
    """/stats shows the stats of the last answer, once there is one."""
    dialogue = talk()
    dialogue.see_prompt()
    assert "there is no answer yet" in dialogue.ask("/stats")
    dialogue.ask("one two")
    shown = dialogue.ask("/stats")
    assert "\nModel used: Echo\n" in shown
    assert "\nPredicted tokens: 4\n" in shown
    assert "\nStop reason: eosFound\n" in shown
    dialogue.leave()


def test_edit(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """/edit has a question written in the user's editor, from the text behind it; leaving it empty asks nothing."""
    editor = tmp_path / "my editor"
    editor.write_text('#!/bin/sh\necho editing\nread -r key\ncp "$2" seen\nprintf "$key" > "$2"\n', encoding="utf-8")
    editor.chmod(0o700)
    dialogue = talk(EDITOR=f"'{editor}' --wait")
    dialogue.see_prompt()
    dialogue.type("/edit a draft")
    dialogue.see("editing\n")
    dialogue.type(r"one\n\ntwo\n")
    dialogue.see("You say: one\n\ntwo!\n")
    dialogue.see_prompt()
    assert (tmp_path / "seen").read_text(encoding="utf-8") == "a draft"
    dialogue.type("/edit")
    dialogue.see("editing\n")
    dialogue.ask("")
    assert parrot.asked == ["one\n\ntwo"]
    dialogue.leave()


def test_an_editor_of_another_encoding(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """What it wrote is named as what it is, and is not asked."""
    dialogue = talk(EDITOR="sh -c 'printf caf\\\\351 > \"$0\"'")
    dialogue.see_prompt()
    assert "the edited text is not UTF-8: byte 3 is 0xe9" in dialogue.ask("/edit")
    dialogue.leave()
    assert parrot.asked == []


def test_an_editor_that_fails(talk: OpenDialogue) -> None:
    """An editor that is not there or gives up is an error, and the dialogue goes on."""
    dialogue = talk(VISUAL="no-such-editor", EDITOR="false")
    dialogue.see_prompt()
    assert "the editor 'no-such-editor' failed" in dialogue.ask("/edit")
    dialogue.leave()
    dialogue = talk(EDITOR="false")
    dialogue.see_prompt()
    assert "the editor 'false' failed" in dialogue.ask("/edit")
    dialogue.leave()


def test_ctrl_c_in_mid_answer_keeps_what_came(tmp_path: Path) -> None:
    """Ctrl-C stops the answer on the server, keeps it with a mark, and gives the prompt back."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelSend":
            connection.finish(envelope["channelId"], "userStopped")
        elif len(envelope["creationParameter"]["history"]["messages"]) > 2:
            connection.say(envelope["channelId"], "whole")
            connection.finish(envelope["channelId"])
        else:
            connection.say(envelope["channelId"], "as far as")

    with StubServer(handle) as stub, talking(tmp_path, stub.port, "--history", "talk.json") as dialogue:
        dialogue.see_prompt()
        dialogue.type("tell me")
        dialogue.see("as far as")
        dialogue.type(CTRL_C, end="")
        dialogue.see("\n", PROMPT)
        assert stub.wait_for("channelSend")["message"] == {"type": "cancel"}
        question, answer = messages(tmp_path / "talk.json")
        assert question == {"role": "user", "content": "tell me"}
        assert (answer["content"], answer["partial"]) == ("as far as", True)
        assert dialogue.ask("go on").endswith("\nwhole\n")
        dialogue.leave()
    assert "partial" not in messages(tmp_path / "talk.json")[-1]


def test_ctrl_c_before_the_first_word_takes_the_question_back(tmp_path: Path) -> None:
    """Nothing is kept where nothing came; what was attached goes with the next question, and /retry asks again."""
    (tmp_path / "doc.txt").write_text("words\n", encoding="utf-8")
    held: list[Packet] = []

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelSend":
            connection.finish(envelope["channelId"], "userStopped")
        elif len(held) < 2:
            held.append(envelope)
        else:
            connection.say(envelope["channelId"], "at last")
            connection.finish(envelope["channelId"])

    arguments = ("--history", "talk.json", "-f", "doc.txt")
    with StubServer(handle) as stub, talking(tmp_path, stub.port, *arguments) as dialogue:
        dialogue.see_prompt()
        for question in ("one", "two"):
            dialogue.type(question)
            stub.wait_for("channelCreate")
            dialogue.type(CTRL_C, end="")
            dialogue.see_prompt()
        assert not (tmp_path / "talk.json").exists()
        assert dialogue.ask("/retry").endswith("at last\n")
        assert said(tmp_path / "talk.json") == ["doc.txt:\n\nwords\n\ntwo", "at last"]
        dialogue.ask("three")
        assert said(tmp_path / "talk.json")[2] == "three"
        dialogue.leave()


def cpu_seconds(process: "subprocess.Popen[bytes]") -> float:
    """The time that a running process has computed for. Source: proc(5), utime and stime."""
    file = Path("/proc", str(process.pid), "stat")
    if not file.exists():
        pytest.skip("this system does not say how long a process has computed")
    fields = file.read_text(encoding="utf-8").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("arguments", "endpoint"),
    [((), '"listLoaded"'), (("-m", "echo"), '"getOrLoad"')],
    ids=["asked what is loaded", "asked to load"],
)
def test_ctrl_c_while_a_server_is_silent(
    arguments: tuple[str, ...], endpoint: str, tmp_path: Path, serve: Serve
) -> None:
    """A server that says nothing at all does not keep the prompt, nor what was said before; later it answers again."""
    server = serve()
    with talking(tmp_path, server.port, "-v", "--history", "talk.json", *arguments) as dialogue:
        dialogue.see_prompt()
        dialogue.ask("one")
        server.process.send_signal(signal.SIGSTOP)
        try:
            dialogue.type("two")
            dialogue.see(endpoint)
            dialogue.type(CTRL_C, end="")
            dialogue.see_prompt()
            assert said(tmp_path / "talk.json") == ["one", "one"]
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert "\nthree\n" in dialogue.ask("three")
        assert said(tmp_path / "talk.json") == ["one", "one", "three", "three"]
        dialogue.leave()


def test_waiting_for_a_silent_server_is_no_work(tmp_path: Path, serve: Serve) -> None:
    """While nothing comes the process sleeps, but for showing how long it has waited."""
    server = serve()
    with talking(tmp_path, server.port, "-v", "-m", "echo") as dialogue:
        dialogue.see_prompt()
        dialogue.ask("one")
        server.process.send_signal(signal.SIGSTOP)
        try:
            dialogue.type("two")
            dialogue.see('"getOrLoad"')
            computed = cpu_seconds(dialogue.process)
            dialogue.see("waiting 1 s")
            assert cpu_seconds(dialogue.process) - computed < 0.3
            dialogue.type(CTRL_C, end="")
            dialogue.see_prompt()
        finally:
            server.process.send_signal(signal.SIGCONT)
        dialogue.leave()


def test_ctrl_c_at_the_prompt_clears_the_line(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """What was being typed is forgotten, be it a line or a block, and the dialogue goes on."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type("half a ques", end="")
    dialogue.see("half a ques")
    dialogue.interrupt_typing()
    dialogue.type('"""')
    dialogue.see("… ")
    dialogue.type("half a block")
    dialogue.see("… ")
    dialogue.interrupt_typing()
    dialogue.ask("whole")
    dialogue.leave()
    assert parrot.asked == ["whole"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_the_dialogue(talk: OpenDialogue, signum: signal.Signals) -> None:
    """SIGTERM and SIGHUP end it as they end every process."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.process.send_signal(signum)
    assert dialogue.end() == -signum


def test_a_file_comes_with_the_first_question(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """`lm chat -f doc.txt` puts the text before the first question, and only there."""
    (tmp_path / "doc.txt").write_text("words\n", encoding="utf-8")
    dialogue = talk("-f", "doc.txt")
    dialogue.see_prompt()
    dialogue.ask("how many?")
    dialogue.ask("sure?")
    dialogue.leave()
    assert parrot.asked == ["doc.txt:\n\nwords\n\nhow many?", "sure?"]


@pytest.mark.parametrize("history", [(), ("--history", "talk.json")])
def test_the_conversation_is_sent_whole(talk: OpenDialogue, parrot: ParrotEngine, history: tuple[str, ...]) -> None:
    """Each question comes after all that was said before, with a chat file and without."""
    dialogue = talk("-v", "-s", "Be terse.", *history)
    dialogue.see_prompt()
    dialogue.ask("one")
    shown = dialogue.ask("two")
    texts = ["Be terse.", "one", "You say: one!", "two"]
    positions = [shown.index(f'"text":"{text}"') for text in texts]
    assert positions == sorted(positions)
    dialogue.leave()


def test_answers_go_to_a_file_and_prompts_to_the_terminal(talk: OpenDialogue, tmp_path: Path) -> None:
    """`lm chat > out.txt` is a dialogue whose answers, and nothing else, are in the file."""
    with (tmp_path / "out.txt").open("wb") as out:
        dialogue = talk("first", stdout=out)
        dialogue.see_prompt()
        assert "You say" not in dialogue.ask("second")
        dialogue.ask("/help")
        dialogue.ask("/nope")
        dialogue.leave()
    assert (tmp_path / "out.txt").read_bytes() == b"You say: first!\nYou say: second!\n"


def test_reasoning_is_shown_dim_and_apart(talk: OpenDialogue, tmp_path: Path) -> None:
    """On a terminal the reasoning is seen, dim, before the answer; in the file it is apart."""
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    shown = dialogue.ask("<think>hm</think>yes")
    assert "\x1b[2mhm\x1b[0m" in shown
    assert shown.endswith("yes!\n")
    answer = messages(tmp_path / "talk.json")[1]
    assert (answer["content"], answer["reasoning"]) == ("You say: yes!", "hm")
    dialogue.leave()


def test_a_server_that_goes_away_and_comes_back(tmp_path: Path, serve: Serve) -> None:
    """While it is away questions are errors, none of which ends the dialogue; then /retry asks the last one again."""
    server = serve()
    with talking(tmp_path, server.port, "--history", "talk.json") as dialogue:
        dialogue.see_prompt()
        assert dialogue.ask("one").endswith("\none\n")
        server.end(signal.SIGTERM)
        for text in ("two", "three"):
            assert "lm: \x1b[31;1merror:\x1b[0m " in dialogue.ask(text)
        assert said(tmp_path / "talk.json") == ["one", "one"]
        serve(port=server.port)
        assert dialogue.ask("/retry").endswith("\nthree\n")
        assert dialogue.ask("four").endswith("\nfour\n")
        dialogue.leave()
    assert said(tmp_path / "talk.json") == ["one", "one", "three", "three", "four", "four"]


def test_undo_after_a_failure_takes_back_the_question_that_failed(talk: OpenDialogue, tmp_path: Path) -> None:
    """The last question is the one without an answer: /undo forgets it and touches nothing else."""
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    dialogue.ask("one")
    dialogue.ask("/model no-such-model")
    dialogue.ask("two")
    assert "lm: removed the last question\n" in dialogue.ask("/undo")
    assert said(tmp_path / "talk.json") == ["one", "You say: one!"]
    dialogue.ask("/undo")
    assert said(tmp_path / "talk.json") == []
    dialogue.leave()


def test_no_model_is_loaded(tmp_path: Path, server: Running) -> None:
    """Without a model the question is an error that says what there is, and /model helps."""
    with Client(f"127.0.0.1:{server.port}", api_token="") as client:
        client.llm.unload("echo")
    with talking(tmp_path, server.port) as dialogue:
        dialogue.see_prompt()
        shown = dialogue.ask("hi")
        assert "no model is loaded" in shown
        assert "there are: echo, echo-jit" in shown
        dialogue.ask("/model echo")
        assert dialogue.ask("hi").endswith("\nhi\n")
        dialogue.leave()


def test_what_others_add_is_not_lost(talk: OpenDialogue, start_server: StartServer, tmp_path: Path) -> None:
    """A turn that another process adds to the file between two questions stays, and is part of the conversation."""
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    dialogue.ask("one")
    other = start_server()
    assert run("lm chat -n --history talk.json two", tmp_path, environment(tmp_path, other.port)).status == 0
    dialogue.ask("three")
    dialogue.leave()
    assert said(tmp_path / "talk.json") == ["one", "You say: one!", "two", "two", "three", "You say: three!"]


def test_a_file_that_is_broken_ends_it_before_it_begins(tmp_path: Path) -> None:
    """An invalid chat file is an error at once, not after the first question."""
    (tmp_path / "talk.json").write_text("{", encoding="utf-8")
    with StubServer() as stub, talking(tmp_path, stub.port, "--history", "talk.json") as dialogue:
        dialogue.see("'talk.json' is not valid JSON: line 1, column 2")
        assert dialogue.end() == 65


def test_other_forms_of_output_are_for_single_turns(talk: OpenDialogue) -> None:
    """A dialogue has text only; with -n, or without a terminal on stdin, it is one turn, whatever the form."""
    dialogue = talk("-o", "json")
    dialogue.see("-o json cannot be used in a dialogue", "lm chat -n -o json PROMPT takes one turn")
    assert dialogue.end() == 2
    dialogue = talk("-n", "-o", "json", "hi")
    dialogue.see('"content": "You say: hi!"')
    assert dialogue.end() == 0
