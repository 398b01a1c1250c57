"""A dialogue on a terminal: turns, Ctrl-C and other signals, files, servers that go away."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import Packet, Serve, StartServer
from dialogues import CTRL_C, PROMPT, OpenDialogue, ParrotEngine, messages, said, talking
from processes import StubConnection, StubServer, environment, run

from lmcli import Client
from lmcli.server.background import Running


def test_a_first_message_as_argument(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """`lm chat "first message"` answers, says how to go on, and waits for more; Ctrl-D leaves with 0."""
    dialogue = talk("hello", "there")
    dialogue.see("You say: hello there!\n", "lm: /help lists commands, Ctrl-D exits\n")
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


def test_nothing_is_asked_with_nothing(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """Enter alone gives the prompt back."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.ask("")
    dialogue.ask("   ")
    dialogue.leave()
    assert parrot.asked == []


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
    dialogue.ask("/model ech")
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


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (("--set", 'temperature="hot"'), "temperature cannot be 'hot'", 2),
        (("-l", "0"), "max tokens must be at least 1, not 0", 2),
        (("--grammar", "nowhere.gbnf"), "cannot read 'nowhere.gbnf'", 66),
    ],
)
def test_an_option_that_is_not_valid_begins_no_dialogue(
    tmp_path: Path, server: Running, arguments: tuple[str, ...], message: str, status: int
) -> None:
    """It is refused at once, and not once for each question."""
    with talking(tmp_path, server.port, *arguments) as dialogue:
        dialogue.see(message)
        assert dialogue.end() == status
