"""`lm chat -f -` on a terminal: a document on stdin, then a dialogue about it; elsewhere, and in scripts, one turn."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Packet, StartServer
from dialogues import CTRL_C, PROMPT, UP, Dialogue, ParrotEngine, messages, on_terminal, said
from processes import StubConnection, StubServer, Terminal, environment, start
from screens import SIZES
from shells import program

ASKED = "stdin:\n\n+new line\n\nReview this"
ANSWER = f"You say: {ASKED}!\n"
HELP = "lm: /help lists "

RunLine = Callable[..., Dialogue]


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """What is on stdin."""
    path = tmp_path / "doc.txt"
    path.write_text("+new line\n", encoding="utf-8")
    return path


@pytest.fixture
def run_line(tmp_path: Path, document: Path, start_server: StartServer, parrot: ParrotEngine) -> Iterator[RunLine]:
    """Run command lines on terminals, by a shell with options; the server is a parrot."""
    server = start_server(parrot)
    with ExitStack() as cleanup:

        def run(line: str, *shell: str, size: tuple[int, int] = (80, 24), **variables: str) -> Dialogue:
            command = (*(shell or ("sh",)), "-c", line)
            return cleanup.enter_context(on_terminal(tmp_path, server.port, *command, size=size, **variables))

        yield run


@pytest.mark.parametrize("size", SIZES)
def test_a_document_and_then_a_dialogue(
    run_line: RunLine, parrot: ParrotEngine, tmp_path: Path, size: tuple[int, int]
) -> None:
    """`cat doc.txt | lm chat -f - "Review this"` answers and goes on at the terminal; Ctrl-D leaves with 0."""
    dialogue = run_line("cat doc.txt | lm chat -f - --history talk.json 'Review this'", size=size)
    shown = dialogue.see_prompt()
    assert shown.startswith(ANSWER + HELP)
    assert dialogue.ask("And now?") == "And now?\nYou say: And now?!\n"
    columns, rows = size
    note = shown.removeprefix(ANSWER).rstrip()
    note_rows = [note[start:][:columns].rstrip() for start in range(0, len(note), columns)]
    lines = [*ANSWER.splitlines(), *note_rows, "> And now?", "You say: And now?!", ">"]
    assert dialogue.screen.everything == lines
    assert dialogue.screen.cursor == (len(PROMPT), min(len(lines), rows) - 1)
    dialogue.leave()
    assert parrot.asked == [ASKED, "And now?"]
    assert said(tmp_path / "talk.json") == [ASKED, ANSWER.rstrip(), "And now?", "You say: And now?!"]


@pytest.mark.parametrize("shell", [("sh", "-m"), ("bash",), ("bash", "-m"), ("zsh",), ("fish",)], ids=" ".join)
def test_every_shell_and_job_control(run_line: RunLine, shell: tuple[str, ...]) -> None:
    """A pipeline in the foreground is one with the shell, or with `set -m` a job of its own."""
    dialogue = run_line("cat doc.txt | lm chat -f - 'Review this'", program(shell[0]), *shell[1:])
    dialogue.see("Review this!\n", HELP)
    dialogue.see_prompt()
    assert "You say: more!" in dialogue.ask("more")
    dialogue.leave()


@pytest.mark.parametrize("name", ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
def test_other_names_of_stdin(run_line: RunLine, parrot: ParrotEngine, name: str) -> None:
    """What names stdin is stdin, also where that is a file."""
    dialogue = run_line(f"lm chat -f {name} 'Review this' < doc.txt")
    dialogue.see_prompt()
    dialogue.leave()
    assert parrot.asked == [ASKED]


def test_arrow_up_recalls_the_question_without_the_document(run_line: RunLine, parrot: ParrotEngine) -> None:
    """What is recalled is what was typed, not what was sent."""
    dialogue = run_line("cat doc.txt | lm chat -f - 'Review this'")
    dialogue.see_prompt()
    dialogue.type(UP, end="")
    dialogue.see("Review this")
    dialogue.ask(" again")
    dialogue.leave()
    assert parrot.asked == [ASKED, "Review this again"]


def test_without_a_question_the_first_that_is_typed_is_about_the_document(
    run_line: RunLine, parrot: ParrotEngine
) -> None:
    """`cat doc.txt | lm chat -f -` asks nothing by itself, as with any other file."""
    dialogue = run_line("cat doc.txt | lm chat -f -")
    assert dialogue.see_prompt().startswith(HELP)
    dialogue.ask("Review this")
    dialogue.ask("And now?")
    dialogue.leave()
    assert parrot.asked == [ASKED, "And now?"]


def test_a_document_with_a_conversation_and_other_files(
    run_line: RunLine, parrot: ParrotEngine, tmp_path: Path
) -> None:
    """It comes after what is in the chat file, and with what else is attached."""
    (tmp_path / "other.txt").write_text("words\n", encoding="utf-8")
    for question in ("one", "two"):
        dialogue = run_line(f"lm chat --history talk.json -f other.txt -f - {question} < doc.txt")
        dialogue.see("exits\n")  # the last turns, which are shown first, begin as a prompt does
        dialogue.see_prompt()
        dialogue.leave()
    assert parrot.asked == [f"other.txt:\n\nwords\n\nstdin:\n\n+new line\n\n{question}" for question in ("one", "two")]
    assert [message["role"] for message in messages(tmp_path / "talk.json")] == ["user", "assistant"] * 2


def test_an_editor_gets_the_terminal(run_line: RunLine, parrot: ParrotEngine) -> None:
    """/edit runs an editor whose keys are those of the terminal."""
    dialogue = run_line("cat doc.txt | lm chat -f - hi", EDITOR="sh -c 'echo editing; head -n 1 > \"$0\"'")
    dialogue.see_prompt()
    dialogue.type("/edit")
    dialogue.see("editing\n")
    assert dialogue.ask("typed").endswith("You say: typed!\n")
    dialogue.leave()
    assert parrot.asked[1:] == ["typed"]


def test_an_empty_document_is_a_warning(run_line: RunLine) -> None:
    """As with one turn, the question is asked all the same."""
    dialogue = run_line("printf '' | lm chat -f - hi")
    assert "stdin was empty\n" in dialogue.see_prompt()
    dialogue.leave()


def test_a_document_that_is_not_text_begins_no_dialogue(run_line: RunLine, parrot: ParrotEngine) -> None:
    """It is an error with the status of bad input, before a server is looked for."""
    dialogue = run_line("printf 'caf\\351' | LM_HOST=127.0.0.1:1 lm chat -f - hi")
    dialogue.see("'-' is neither UTF-8 text nor a JPEG, PNG or WebP image\n")
    assert dialogue.end() == 65
    assert PROMPT not in str(dialogue.terminal.before)
    assert parrot.asked == []


def test_no_server_no_dialogue(run_line: RunLine) -> None:
    """The error and its status are those of one turn."""
    dialogue = run_line("cat doc.txt | LM_HOST=127.0.0.1:1 lm chat -f - hi")
    dialogue.see("cannot reach LM Studio at 127.0.0.1:1")
    assert dialogue.end() == 69
    assert PROMPT not in str(dialogue.terminal.before)


def test_a_first_answer_that_fails(run_line: RunLine, parrot: ParrotEngine) -> None:
    """The error is printed, the dialogue goes on, and /retry sends the document again."""
    dialogue = run_line("cat doc.txt | lm chat -f - -m no-such-model 'Review this'")
    assert "no-such-model" in dialogue.see_prompt()
    dialogue.ask("/model echo")
    assert dialogue.ask("/retry").endswith(ANSWER)
    dialogue.leave()
    assert parrot.asked == [ASKED]


@pytest.mark.parametrize("shell", [("sh", "-m"), ("bash",)], ids=" ".join)
def test_ctrl_c_in_the_first_answer_keeps_what_came(tmp_path: Path, document: Path, shell: tuple[str, ...]) -> None:
    """It stops the answer, not the dialogue, also where it is a signal for the shell, too."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelSend":
            connection.finish(envelope["channelId"], "userStopped")
        else:
            connection.say(envelope["channelId"], "as far as")

    line = f"cat {document.name} | lm chat --history talk.json -f - 'Review this'"
    command = (program(shell[0]), *shell[1:], "-c", line)
    with StubServer(handle) as stub, on_terminal(tmp_path, stub.port, *command) as dialogue:
        dialogue.see("as far as")
        dialogue.type(CTRL_C, end="")
        dialogue.see("\n", PROMPT)
        dialogue.leave()
    question, answer = messages(tmp_path / "talk.json")
    assert question["content"] == ASKED
    assert (answer["content"], answer["partial"]) == ("as far as", True)


def test_ctrl_c_while_the_document_comes(run_line: RunLine, tmp_path: Path) -> None:
    """There is no dialogue yet: it ends the process."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    dialogue = run_line("exec lm chat -f - hi < fifo")
    with fifo.open("wb", buffering=0) as producer:
        producer.write(bytes(1 << 20))  # more than it can hold, so that this returns when it is read
        dialogue.type(CTRL_C, end="")
        assert dialogue.end() == -signal.SIGINT


@pytest.mark.parametrize(
    "line",
    [
        "cat doc.txt | lm chat -f - 'Review this' | cat",
        "cat doc.txt | lm chat -f - 'Review this' > out.txt; cat out.txt",
        "x=$(cat doc.txt | lm chat -f - 'Review this'); echo \"$x\"",
        "cat doc.txt | lm chat -f - 'Review this' 2> err.txt; cat err.txt",
        "cat doc.txt | lm chat -n -f - 'Review this'",
        "trap '' INT; cat doc.txt | lm chat -f - 'Review this'",
    ],
)
def test_one_turn_in_scripts(run_line: RunLine, line: str) -> None:
    """Where an output is elsewhere, with -n and without Ctrl-C, the answer is written, and nothing else."""
    assert all_of(run_line(line)) == ANSWER


@pytest.mark.parametrize("shell", [("sh",), ("sh", "-m"), ("bash",)], ids=" ".join)
def test_one_turn_in_the_background(run_line: RunLine, shell: tuple[str, ...]) -> None:
    """A job of its own would be stopped if it read the terminal, another one would take the keys of the shell."""
    assert all_of(run_line("cat doc.txt | lm chat -f - 'Review this' & wait", *shell)) == ANSWER


@pytest.mark.parametrize("stdin", ["< /dev/null", "<&-"])
def test_one_turn_without_a_document(run_line: RunLine, stdin: str) -> None:
    """A stdin that is empty on purpose, or closed, is no document."""
    assert all_of(run_line(f"lm chat -f - hi {stdin}")) == "You say: stdin:\n\n\nhi!\n"


def test_one_turn_about_a_text_that_no_option_names(run_line: RunLine) -> None:
    """Without -f, what is on stdin is the message itself, as in a pipe."""
    assert all_of(run_line("lm chat 'Review this' < doc.txt")) == "You say: +new line\n\nReview this!\n"


@pytest.mark.parametrize("option", ["-o json", "-o jsonl", "-o history", "--dry-run", "--count"])
def test_one_turn_with_options_that_are_not_for_a_dialogue(run_line: RunLine, option: str) -> None:
    """What they print is for another program."""
    assert HELP not in all_of(run_line(f"cat doc.txt | lm chat -f - {option} 'Review this'"))


def test_one_turn_without_a_terminal_of_its_own(
    tmp_path: Path, document: Path, start_server: StartServer, parrot: ParrotEngine
) -> None:
    """A service whose output goes to a terminal has no keyboard."""
    terminal, variables = Terminal(), environment(tmp_path, start_server(parrot).port)
    command = ("sh", "-c", f"cat {document.name} | lm chat -f - 'Review this'")
    with start(
        *command, folder=tmp_path, variables=variables, stdout=terminal, stderr=terminal, in_new_session=True
    ) as child:
        assert child.end() == 0
        assert child["stdout"].decode().replace("\r\n", "\n") == ANSWER


def test_one_turn_on_another_terminal(run_line: RunLine) -> None:
    """Output on a terminal where nobody types is read there."""
    other = Terminal()
    name = os.ttyname(other.line)
    assert all_of(run_line(f"cat doc.txt | lm chat -f - 'Review this' > {name} 2>&1")) == ""
    assert os.read(other.keyboard_and_screen, 1000).decode().replace("\r\n", "\n") == ANSWER
    os.close(other.line)
    os.close(other.keyboard_and_screen)


def all_of(dialogue: Dialogue) -> str:
    """All that a command shows by itself; its status must be 0."""
    assert dialogue.end() == 0
    return str(dialogue.terminal.before).replace("\r\n", "\n")
