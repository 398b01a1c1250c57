"""/reasoning: what is shown, and what is asked of the server."""

import pytest
from dialogues import OpenDialogue


def test_reasoning_is_hidden_and_shown(talk: OpenDialogue) -> None:
    """/reasoning hide and show are for the answers that follow, also over an option."""
    dialogue = talk("--reasoning", "show")
    dialogue.see_prompt()
    assert "\nreasoning is shown; asked of the server: nothing\n" in dialogue.ask("/reasoning")
    assert "lm: reasoning is hidden; asked of the server: nothing\n" in dialogue.ask("/reasoning hide")
    assert "hm" not in dialogue.ask("<think>hm</think>yes").partition("\n")[2]
    dialogue.ask("/reasoning show")
    assert "\x1b[2mhm\x1b[0m" in dialogue.ask("/retry")
    dialogue.leave()


def test_reasoning_is_asked_of_the_server(talk: OpenDialogue) -> None:
    """on, off and a number replace what was asked before, and leave alone what is shown and all other options."""
    dialogue = talk("-v", "--schema", '{"type": "string"}', "-t", "0", "--reasoning", "hide", "--reasoning", "on")
    dialogue.see_prompt()
    shown = dialogue.ask("one")
    assert '"llm.prediction.reasoning.enableThinking","value":true' in shown
    assert "reasoning is hidden; asked of the server: off, 200 tokens\n" in dialogue.ask("/reasoning off 200")
    shown = dialogue.ask("two")
    assert '"llm.prediction.reasoning.enableThinking","value":false' in shown
    for text in ('"value":200', '"llm.prediction.temperature","value":0', '"llm.prediction.structured"'):
        assert text in shown
    assert "reasoning is hidden; asked of the server: 300 tokens\n" in dialogue.ask("/reasoning 300")
    shown = dialogue.ask("three")
    assert '"value":300' in shown
    assert "enableThinking" not in shown
    dialogue.leave()


@pytest.mark.parametrize("word", ["frob", "-1", "1.5", "on frob", "9" * 30])
def test_words_that_are_not_valid_change_nothing(talk: OpenDialogue, word: str) -> None:
    """They are a usage error, as for --reasoning."""
    dialogue = talk("--reasoning", "on")
    dialogue.see_prompt()
    shown = dialogue.ask(f"/reasoning {word}")
    assert "error:" in shown
    assert "asked of the server: on\n" in dialogue.ask("/reasoning")
    if not word.isdigit():
        bad = word.rpartition(" ")[2]
        assert f"/reasoning takes show, hide, on, off or a number of tokens, not '{bad}'\n" in shown
    dialogue.leave()
