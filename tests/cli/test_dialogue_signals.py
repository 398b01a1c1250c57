"""A dialogue and its terminal: signals at the prompt, a terminal that knows no escapes, a closed stderr."""

import signal
from pathlib import Path

import pytest
from dialogues import CTRL_D, OpenDialogue, in_shell, on_terminal

from lmcli.cli.tab_key import is_libedit
from lmcli.server.background import Running

readline = pytest.importorskip("readline")

PASTE_ON = "\x1b[?2004h"
needs_readline = pytest.mark.skipif(is_libedit(readline), reason="libedit has no bracketed paste")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_at_the_prompt_ends_the_process(talk: OpenDialogue, signum: signal.Signals) -> None:
    """It dies of the signal, whatever line editing is doing."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type("half a line", end="")
    dialogue.see("half a line")
    dialogue.process.send_signal(signum)
    assert dialogue.end() == -signum


def test_ctrl_z_keeps_what_was_typed(tmp_path: Path, server: Running) -> None:
    """In the shell the terminal is as it was; after `fg` prompt and line stand there again, and each key shows once."""
    with in_shell(tmp_path, server.port) as dialogue:
        dialogue.type("lm chat")
        dialogue.see_prompt()
        dialogue.type("half", end="")
        dialogue.see("half")
        dialogue.stop_typing()
        dialogue.see("$ ")
        assert dialogue.has_echo
        dialogue.type("fg")
        dialogue.see("> half")
        dialogue.type(" a line")
        dialogue.see_prompt()
        assert dialogue.screen.rows[-3:] == ["> half a line", "half a line", ">"]
        dialogue.type(CTRL_D, end="")
        dialogue.see("$ ")


@needs_readline
@pytest.mark.parametrize(("term", "is_marked"), [("dumb", False), ("xterm", True)])
def test_a_dumb_terminal_gets_no_escapes(tmp_path: Path, server: Running, term: str, *, is_marked: bool) -> None:
    """Only one that is not dumb is asked to mark what is pasted."""
    with on_terminal(tmp_path, server.port, "env", f"TERM={term}", "lm", "chat") as dialogue:
        dialogue.see("exits\n")
        dialogue.terminal.expect_exact("> ")
        assert (PASTE_ON in (dialogue.terminal.before or "")) == is_marked
        dialogue.leave()


def test_a_closed_stderr(tmp_path: Path, server: Running) -> None:
    """Messages are lost, and the dialogue goes on."""
    with on_terminal(tmp_path, server.port, "sh", "-c", "exec lm chat 2>&-") as dialogue:
        dialogue.see_prompt()
        assert dialogue.ask("hi").endswith("\nhi\n")
        dialogue.leave()
