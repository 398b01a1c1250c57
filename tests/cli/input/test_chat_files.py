"""Chat files under everything that can happen to them: company, crashes, full disks, other programs."""

import json
import os
import random
import resource
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmstudio
import pytest
from conftest import PATIENCE, Packet
from hypothesis import given
from hypothesis import strategies as st
from networks import unshared
from processes import StubConnection, StubServer, environment, run, start
from properties import QUICK, json_objects

from lmcli.cli.input.chat_file import ChatFile
from lmcli.cli.input.document import Document
from lmcli.errors import BadInput, OutputFailed
from lmcli.server.background import Running

ROUNDS, COMPANY = 6, 3
KILLS = 20
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)

_keys = st.text(max_size=6)
_texts = st.text(max_size=8)
_parts = st.builds(lambda unknown, text: {**unknown, "type": "text", "text": text}, json_objects, _texts)
_entries = st.builds(
    lambda unknown, role, content: {**unknown, "role": role, "content": content},
    json_objects,
    st.sampled_from(["system", "developer", "user", "assistant"]),
    _texts | st.lists(_parts | _texts, min_size=1, max_size=2),
)
_arrays = st.lists(_entries, max_size=4)
histories = _arrays | st.builds(lambda unknown, entries: {**unknown, "messages": entries}, json_objects, _arrays)
"""Histories as people and programs keep them: either form, any roles, keys that `lm` has never heard of."""


def load(path: Path) -> Any:
    """A chat file as any other program reads it."""
    return json.loads(path.read_text(encoding="utf-8"))


def said(path: Path) -> list[tuple[str, str]]:
    """Who said what in a chat file."""
    return [(message["role"], message["content"]) for message in load(path)["messages"]]


def names(folder: Path) -> set[str]:
    """What is in a folder, hidden files too; not what a home folder has of its own."""
    return {path.name for path in folder.iterdir()} - {".cache"}


def test_several_at_once_lose_no_turn(tmp_path: Path, server: Running) -> None:
    """Each turn of processes that use one file at once is in it, the question with its own answer behind it."""
    variables = environment(tmp_path, server.port)
    for number in range(ROUNDS):
        together = [
            subprocess.Popen(
                ["lm", "chat", "-qn", "--history", "same.json", f"{number}.{one}"],
                cwd=tmp_path,
                env=variables,
                stdout=subprocess.DEVNULL,
            )
            for one in range(COMPANY)
        ]
        assert [process.wait(PATIENCE) for process in together] == [0] * COMPANY
    turns = said(tmp_path / "same.json")
    questions, answers = turns[::2], turns[1::2]
    assert {role for role, _ in questions} == {"user"}
    assert answers == [("assistant", text) for _, text in questions]
    assert sorted(text for _, text in questions) == sorted(f"{n}.{i}" for n in range(ROUNDS) for i in range(COMPANY))
    assert [text.split(".")[0] for _, text in questions] == [str(n) for n in range(ROUNDS) for _ in range(COMPANY)]
    assert names(tmp_path) == {"same.json"}


def test_one_waits_for_the_other_and_says_so(tmp_path: Path) -> None:
    """Who comes second waits, with a note, and continues the conversation that the first one left."""
    with StubServer() as stub:
        variables = environment(tmp_path, stub.port)
        command = ("lm", "chat", "-n", "-v", "--history", "talk.json")
        connections: list[tuple[StubConnection, int]] = []
        stub._handle = lambda connection, envelope: connections.append((connection, envelope["channelId"]))
        with start(*command, "one", folder=tmp_path, variables=variables) as first:
            stub.wait_for("channelCreate")
            with start(*command, "two", folder=tmp_path, variables=variables) as second:
                second.wait_for(b"lm: waiting for another lm that is using 'talk.json'\n", "stderr")
                assert len(connections) == 1
                for child in (first, second):
                    connection, channel = connections[-1]
                    connection.say(channel, "ok")
                    connection.finish(channel)
                    assert child.end() == 0
                    if child is first:
                        asked = stub.wait_for("channelCreate")["creationParameter"]["history"]["messages"]
    assert [message["role"] for message in asked] == ["user", "assistant", "user"]
    assert said(tmp_path / "talk.json") == [("user", "one"), ("assistant", "ok"), ("user", "two"), ("assistant", "ok")]


def test_waiting_for_the_other_can_be_given_up(tmp_path: Path) -> None:
    """Ctrl-C ends the wait for a file that somebody else uses."""
    with StubServer() as stub:
        variables = environment(tmp_path, stub.port)
        command = ("lm", "chat", "-n", "-v", "--history", "talk.json", "hi")
        with start(*command, folder=tmp_path, variables=variables) as first:
            stub.wait_for("channelCreate")
            with start(*command, folder=tmp_path, variables=variables) as second:
                second.wait_for(b"waiting for another lm", "stderr")
                second.process.send_signal(signal.SIGINT)
                assert second.end() == -signal.SIGINT
            assert first.process.poll() is None
    assert not (tmp_path / "talk.json").exists()


def test_a_kill_at_any_moment_leaves_a_file_that_parses_with_every_complete_turn(
    tmp_path: Path, server: Running
) -> None:
    """Of many runs, each killed at another moment, none breaks the file or loses what was reported complete."""
    path = tmp_path / "talk.json"
    # Something that takes long to write, so that the writing is hit, too.
    path.write_text(json.dumps({"ballast": "x" * 4_000_000, "messages": []}), encoding="utf-8")
    variables = environment(tmp_path, server.port)

    def speak(text: str, within: float) -> bool:
        command = ["lm", "chat", "-qn", "--history", "talk.json", text]
        with subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=subprocess.DEVNULL) as process:
            try:
                status = process.wait(within)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
        assert status in (0, -signal.SIGKILL)
        return status == 0

    began = time.monotonic()
    assert speak("first", PATIENCE)
    usual = time.monotonic() - began
    complete = ["first"]
    chance = random.Random(4)
    for number in range(KILLS):
        if speak(str(number), usual * chance.uniform(0.3, 1.2)):
            complete.append(str(number))
        turns = said(path)
        questions = [text for role, text in turns if role == "user"]
        assert [text for text in questions if text in complete] == complete
        assert [role for role, _ in turns] == ["user", "assistant"] * len(questions)
        assert names(tmp_path) <= {"talk.json", ".talk.json.new", ".talk.json.lock"}
    assert len(complete) <= KILLS, "nothing was killed"
    assert speak("last", PATIENCE)
    assert said(path)[-2:] == [("user", "last"), ("assistant", "last")]
    assert names(tmp_path) == {"talk.json"}


def test_what_a_crash_left_behind_is_in_nobodys_way(tmp_path: Path, server: Running) -> None:
    """The lock and the half-written file of a dead process neither stop the next one nor stay."""
    (tmp_path / ".talk.json.new").write_bytes(b'{"mess')
    (tmp_path / ".talk.json.lock").touch()
    assert run("lm chat -n --history talk.json hi", tmp_path, environment(tmp_path, server.port)).status == 0
    assert said(tmp_path / "talk.json") == [("user", "hi"), ("assistant", "hi")]
    assert names(tmp_path) == {"talk.json"}


@pytest.mark.parametrize("trap", ["ln -s elsewhere", "mkfifo", "mkdir"])
def test_what_is_in_place_of_the_lock_is_refused(trap: str, tmp_path: Path, server: Running) -> None:
    """A symbolic link is not followed, a FIFO not waited for: status 74, what to type, and nothing is sent or made."""
    variables = environment(tmp_path, server.port)
    ran = run(f"{trap} .talk.json.lock && lm chat -n --history talk.json hi", tmp_path, variables)
    assert (ran.status, ran.stdout) == (74, b"")
    lock = tmp_path / ".talk.json.lock"
    assert ran.stderr == (f"lm: error: cannot lock 'talk.json': '{lock}' is not a regular file\nlm: hint: rm {lock}\n")
    assert names(tmp_path) == {".talk.json.lock"}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_greeting_leaves_no_lock(tmp_path: Path, signum: signal.Signals) -> None:
    """Ended while it connects to a server that never answers, a turn leaves nothing behind, and dies of the signal."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        variables = environment(tmp_path, listener.getsockname()[1])
        command = ("lm", "chat", "-n", "--history", "talk.json", "hi")
        with start(*command, folder=tmp_path, variables=variables) as child, listener.accept()[0]:
            assert names(tmp_path) == {".talk.json.lock"}
            child.process.send_signal(signum)
            assert (child.end(), child["stderr"]) == (-signum, b"")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_answer_is_kept_and_marked(tmp_path: Path, signum: signal.Signals) -> None:
    """A signal in mid-answer: the question and what had come are in the file, marked; the process dies of it."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelCreate":
            connection.say(envelope["channelId"], "as far as")
        else:  # the cancel: what was under way still comes
            connection.say(envelope["channelId"], " this")
            connection.finish(envelope["channelId"], "userStopped")

    with StubServer(handle) as stub:
        command = ("lm", "chat", "-n", "--history", "talk.json", "tell me")
        with start(*command, folder=tmp_path, variables=environment(tmp_path, stub.port)) as child:
            child.wait_for(b"as far as")
            child.process.send_signal(signum)
            assert child.end() == -signum
    question, answer = load(tmp_path / "talk.json")["messages"]
    assert question == {"role": "user", "content": "tell me"}
    assert (answer["content"], answer["partial"]) == ("as far as this", True)
    assert answer["stats"]["stop_reason"] == "userStopped"
    assert names(tmp_path) == {"talk.json"}


SLOW_DISK = """
import os, pathlib, sys, time
sync = os.fsync
def fsync(descriptor):
    print("syncing", file=sys.stderr, flush=True)
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    sync(descriptor)
os.fsync = fsync
"""


def test_a_signal_while_a_turn_is_stored(tmp_path: Path, server: Running) -> None:
    """The answer is complete, so the turn is stored; then the process dies of the signal."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_DISK)
    variables = environment(tmp_path, server.port, PYTHONPATH=str(tmp_path))
    with start("lm", "chat", "-n", "--history", "talk.json", "hi", folder=tmp_path, variables=variables) as child:
        child.wait_for(b"syncing", "stderr")
        child.process.send_signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert child.end() == -signal.SIGTERM
    assert said(tmp_path / "talk.json") == [("user", "hi"), ("assistant", "hi")]


def test_a_lost_connection_keeps_what_had_come(tmp_path: Path) -> None:
    """The server goes away in mid-answer: status 3, and what had come is in the file, marked."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        connection.say(envelope["channelId"], "half an ans")
        connection.socket.socket.shutdown(socket.SHUT_RDWR)

    with StubServer(handle) as stub:
        ran = run("lm chat -n --history talk.json hi", tmp_path, environment(tmp_path, stub.port))
    assert (ran.status, ran.stdout) == (3, b"half an ans\n")
    assert load(tmp_path / "talk.json")["messages"][1] == {
        "role": "assistant",
        "content": "half an ans",
        "partial": True,
    }


def test_a_reader_who_leaves_keeps_what_had_come(tmp_path: Path) -> None:
    """`lm chat … | head -n 1` stops the generation, and what had come is in the file, marked."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelCreate":
            connection.say(envelope["channelId"], "one\n")
        else:
            connection.finish(envelope["channelId"], "userStopped")

    with StubServer(handle) as stub:
        line = "lm chat -n --history talk.json hi | head -n 1"
        ran = run(line, tmp_path, environment(tmp_path, stub.port))
        assert stub.wait_for("channelSend")["message"] == {"type": "cancel"}
    assert (ran.stdout, ran.stderr) == (b"one\n", "")
    answer = load(tmp_path / "talk.json")["messages"][1]
    assert (answer["content"], answer["partial"]) == ("one\n", True)


def test_a_signal_before_the_first_word_leaves_no_trace(tmp_path: Path) -> None:
    """Stopped before anything came: no file is made, and nothing else is left."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelSend":
            connection.finish(envelope["channelId"], "userStopped")

    with StubServer(handle) as stub:
        command = ("lm", "chat", "-n", "--history", "talk.json", "hi")
        with start(*command, folder=tmp_path, variables=environment(tmp_path, stub.port)) as child:
            stub.wait_for("channelCreate")
            child.process.send_signal(signal.SIGTERM)
            assert child.end() == -signal.SIGTERM
    assert names(tmp_path) == set()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failure_at_any_byte_leaves_the_old_file(tmp_path: Path) -> None:
    """Wherever the writing fails, the old file is there, byte by byte, and nothing else; where it does not, the new."""
    path = tmp_path / "talk.json"
    old = Document([{"role": "user", "content": "old"}])
    new = Document([{"role": "user", "content": "new"}, {"role": "assistant", "content": "yes, new"}])
    ChatFile(path).write(new)
    size = path.stat().st_size
    ChatFile(path).write(old)
    before = path.read_bytes()
    for limit in range(size):
        with (
            largest_file(limit),
            pytest.raises(OutputFailed, match=r"^cannot write to '.*talk\.json': file too large$"),
        ):
            ChatFile(path).write(new)
        assert path.read_bytes() == before
        assert names(tmp_path) == {"talk.json"}
    with largest_file(size):
        ChatFile(path).write(new)
    assert load(path) == new.raw


def test_a_limit_on_the_size_of_files_is_an_error_of_output(tmp_path: Path, server: Running) -> None:
    """A file that must not grow: the answer on stdout, the reason on stderr, 74, the old file as it was."""
    path = tmp_path / "talk.json"
    path.write_text(json.dumps({"ballast": "x" * 5000, "messages": []}), encoding="utf-8")
    before = path.read_bytes()
    line = "ulimit -f 2; exec lm chat -n --history talk.json hi"
    ran = run(line, tmp_path, environment(tmp_path, server.port))
    assert ran == (74, b"hi\n", "lm: error: cannot write to 'talk.json': file too large\n")
    assert path.read_bytes() == before
    assert names(tmp_path) == {"talk.json"}


def test_a_full_disk_is_an_error_of_output(tmp_path: Path, server: Running) -> None:
    """A disk without space: the same."""
    disk = ("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path))
    beginning = unshared("--mount", *disk)
    if beginning is None:
        pytest.skip("this system lets nobody mount a small disk")
    line = """
    lm chat -n --history talk.json one; cp talk.json before
    cat /dev/zero > filling 2> /dev/null
    lm chat -n --history talk.json two; echo "[$?]"
    cmp talk.json before; ls -A | grep talk
    """
    ran = subprocess.run(
        [*beginning, "sh", "-c", f"{shlex.join(disk)}; cd {shlex.quote(str(tmp_path))}; {line}"],
        env=environment(tmp_path, server.port),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.stdout.split() == ["one", "two", "[74]", "talk.json"]
    assert ran.stderr == "lm: error: cannot write to 'talk.json': no space left on device\n"


def test_a_folder_that_must_not_be_written_is_known_before_anything_is_asked(tmp_path: Path) -> None:
    """Where the turn could not be kept it is not taken: 74 without a word to the server."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "talk.json").write_text("[]", encoding="utf-8")
    folder.chmod(0o555)
    unprivileged = "setpriv --bounding-set -dac_override " if os.geteuid() == 0 else ""
    if unprivileged and shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere")
    line = f"{unprivileged}lm chat -n --history theirs/talk.json hi"
    ran = run(line, tmp_path, environment(tmp_path, "127.0.0.1:1"))
    assert ran == (74, b"", "lm: error: cannot lock 'theirs/talk.json': permission denied\n")
    assert names(folder) == {"talk.json"}


def make_node(path: Path) -> None:
    """A device that takes everything and gives nothing."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.open("rb").close()
    except PermissionError:
        pytest.skip("this system lets nobody make devices")


@pytest.mark.parametrize("through_link", [False, True], ids=["itself", "a link to it"])
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, make_node], ids=["fifo", "folder", "device"])
def test_what_is_no_file_is_refused_and_left_alone(
    tmp_path: Path, make: Callable[[Path], None], *, through_link: bool
) -> None:
    """A FIFO, a folder and a device are neither read nor replaced: 65 without a word to the server."""
    thing = tmp_path / "thing"
    make(thing)
    if through_link:
        (tmp_path / "talk.json").symlink_to(thing)
    before, there = thing.stat(), names(tmp_path)
    name = "talk.json" if through_link else "thing"
    ran = run(f"lm chat -n --history {name} hi", tmp_path, environment(tmp_path, "127.0.0.1:1"))
    assert ran == (65, b"", f"lm: error: '{name}' is not a regular file\n")
    after = thing.stat()
    assert (after.st_ino, after.st_mode, after.st_rdev) == (before.st_ino, before.st_mode, before.st_rdev)
    assert names(tmp_path) == there


def test_a_file_that_cannot_be_kept_does_not_hide_what_happened_before(tmp_path: Path) -> None:
    """An answer that is cut and cannot be kept either: both are said, the first decides the status."""
    (tmp_path / "talk.json").write_text(json.dumps({"ballast": "x" * 5000, "messages": []}), encoding="utf-8")

    def handle(connection: StubConnection, envelope: Packet) -> None:
        connection.say(envelope["channelId"], "half")
        connection.socket.socket.shutdown(socket.SHUT_RDWR)

    with StubServer(handle) as stub:
        line = "ulimit -f 2; exec lm chat -n --history talk.json hi"
        ran = run(line, tmp_path, environment(tmp_path, stub.port))
    assert ran.status == 3
    assert ran.stderr.splitlines()[0] == "lm: error: cannot write to 'talk.json': file too large"
    assert ran.stderr.splitlines()[1].startswith("lm: error: the connection to ")


@QUICK
@given(histories)
def test_what_is_written_is_what_is_read(history: Any) -> None:
    """Any history with any unknown keys comes back as it was, down to the order of its keys."""
    with tempfile.TemporaryDirectory() as folder:
        file = ChatFile(Path(folder, "talk.json"))
        file.write(Document(history))
        assert json.dumps(file.read().raw) == json.dumps(history)


@QUICK
@given(histories, _texts.filter(bool))
def test_a_turn_changes_nothing_but_the_end(history: Any, text: str) -> None:
    """A message more leaves all that stood there before as it was, in the form it was in."""
    entry = {"role": "user", "content": text}
    grown = Document(history).with_entry(entry).raw
    if isinstance(history, list):
        assert grown == [*history, entry]
    else:
        assert grown == {**history, "messages": [*history["messages"], entry]}
        assert list(grown) == list(history)


@QUICK
@given(histories, _texts)
def test_a_longer_history_is_read_from_where_it_was_longer(history: Any, text: str) -> None:
    """What was read of a history is not read again, and the conversation is the same as if it was."""
    read = Document(history)
    before = read.chat().messages
    longer = read.with_entry({"role": "assistant", "content": text})
    assert longer.chat().messages == Document(longer.raw).chat().messages
    if len(before) == len(read.entries):  # else messages of the user were joined
        assert all(new.content[0] is old.content[0] for new, old in zip(longer.chat().messages, before, strict=False))
    with pytest.raises(BadInput, match=rf"^messages\[{len(read.entries)}\]\.role: "):
        read.with_entry({"role": "nobody", "content": text}).chat()


SPEECHES = {
    "plain": ["hi", "again", "'and again'"],
    "system": ["-s 'Be terse.' hi", "again", "-s 'Be verbose.' more"],
    "partial": ["--preset short 1 2 3 4 5 6 7 8 9", "go on"],
    "reasoning": ["'<think>hm</think>yes'", "so"],
    "reasoning cut": ["--preset short '<think>1 2 3 4 5 6 7 8 9 10'", "so"],
    "images": ["-f cat.png -f cat.png what", "-s 'Look.' again", "-f cat.png 'and this'"],
    "texts": ["-f words.txt what", "-f words.txt -f cat.png what"],
    "schema": ['--schema \'{"type": "object"}\' what'],
}


@pytest.mark.parametrize("speech", SPEECHES.values(), ids=SPEECHES.keys())
def test_the_official_sdk_reads_every_file(tmp_path: Path, server: Running, speech: list[str]) -> None:
    """`lmstudio.Chat.from_history` reads what `lm chat` wrote: the same roles and texts, and the images."""
    (tmp_path / "cat.png").write_bytes(PIXEL)
    (tmp_path / "words.txt").write_text("some words\n", encoding="utf-8")
    line = " && ".join(f"lm chat -qn --history talk.json {words} || test $? = 3" for words in speech)
    assert run(line, tmp_path, environment(tmp_path, server.port)).status == 0
    ours = load(tmp_path / "talk.json")
    theirs = lmstudio.Chat.from_history(ours)._get_history()
    assert len(ours["messages"]) >= 2 * len(speech) - 1
    assert [_flat(message) for message in theirs["messages"]] == [_flat(message) for message in ours["messages"]]


def _flat(message: Any) -> tuple[str, list[str]]:
    """A message as its role and what its parts hold, whatever form it is in."""
    content = message["content"]
    parts = [{"text": content}] if isinstance(content, str) else content
    return message["role"], [str(part.get("text", part.get("name"))) for part in parts]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems have no such names")
def test_a_name_that_is_no_text_will_do(tmp_path: Path, server: Running) -> None:
    """Chat files, images and texts may have names that are not UTF-8; what is kept of them is UTF-8, and works."""
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(PIXEL)
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("words\n", encoding="utf-8")
    line = r"""
    name=$(printf 'caf\351')
    lm chat -n --history "$name.json" -f "$name.png" -f "$name.txt" hm
    lm chat -nv --history "$name.json" again 2>&1 | grep -c '"fileType":"image"'
    """
    ran = run(line, tmp_path, environment(tmp_path, server.port))
    assert (ran.status, ran.stdout.decode()) == (0, "caf\ufffd.txt:\n\nwords\n\nhm\n1\n")
    assert len(said(tmp_path / os.fsdecode(b"caf\xe9.json"))) == 4
