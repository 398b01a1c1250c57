"""What llama.cpp is given to continue: templates, tokens and reasoning."""

from conftest import Connect, Packet, Wire, checked, query, stack, stats_of, text_of, user
from packets import AFFIXES
from tiny_model import token_of
from tiny_server import RAW, complete, only, options

from lmcli.server import background

IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="


def test_template_and_raw(tiny: Wire) -> None:
    """`respond` applies the model's template, `complete` does not."""
    shown = tiny.result(
        "applyPromptTemplate",
        {"specifier": query("one"), "history": user("hi"), "predictionConfigStack": stack(), "opts": {}},
    )
    assert shown == {"formatted": "<|user|>hi\n<|assistant|>"}
    tokens = len(tiny.result("tokenize", {"specifier": query("one"), "inputString": shown["formatted"]})["tokens"])
    assert stats_of(tiny.predict("hi", options(), identifier="one"))["promptTokensCount"] == tokens + 1
    assert stats_of(complete(tiny, "hi", options()))["promptTokensCount"] == 3


def test_system_prompt_and_manual_template(tiny: Wire) -> None:
    """A system prompt and a manual template of the config are applied."""
    manual = {
        "type": "manual",
        "stopStrings": [],
        "manualPromptTemplate": AFFIXES | {"beforeUser": "Q:", "beforeAssistant": "A:"},
    }
    for config, expected in (
        (stack(systemPrompt="S"), "<|system|>S\n<|user|>hi\n<|assistant|>"),
        (stack(promptTemplate=manual), "Q:hiA:"),
    ):
        parameter = {"specifier": query("one"), "history": user("hi"), "predictionConfigStack": config, "opts": {}}
        assert tiny.result("applyPromptTemplate", parameter) == {"formatted": expected}


def test_tokens(tiny: Wire) -> None:
    """Tokens are the model's own; lone surrogates are replaced."""
    text = {"specifier": query("one"), "inputString": "ab<think>"}
    assert tiny.result("tokenize", text) == {"tokens": [token_of(97), token_of(98), 259]}
    assert tiny.result("countTokens", text) == {"tokenCount": 3}
    assert tiny.result("countTokens", text | {"inputString": "\ud83d"}) == {"tokenCount": 3}
    assert stats_of(complete(tiny, "\ud83d", options()))["predictedTokensCount"] == 20


def kinds(packets: list[Packet]) -> list[tuple[str, str]]:
    """Reasoning types and texts, with adjacent texts of the same type joined."""
    joined: list[tuple[str, str]] = []
    for packet in packets:
        if packet["type"] == "fragment":
            kind, content = packet["fragment"]["reasoningType"], packet["fragment"]["content"]
            if joined and joined[-1][0] == kind:
                content = joined.pop()[1] + content
            joined.append((kind, content))
    return joined


def test_reasoning_is_separated(tiny: Wire) -> None:
    """The text between the tags is reasoning, and the tags have their own types."""
    parsing = {**RAW, "enabled": True}
    packets = complete(tiny, "a", options(structured=only("<think>hm</think>yes"), **{"reasoning.parsing": parsing}))
    assert kinds(packets) == [
        ("reasoningStartTag", "<think>"),
        ("reasoning", "hm"),
        ("reasoningEndTag", "</think>"),
        ("none", "yes"),
    ]


def test_reasoning_that_the_template_starts(tiny: Wire) -> None:
    """The start tag that ends the prompt is added before the answer."""
    thinking = {"reasoning.enableThinking": True, "reasoning.parsing": {**RAW, "enabled": True}}
    bias = {"llama.logitBias": [[token_of(ord("x")), 100]]}
    packets = tiny.predict("hi", options(**thinking, **bias), identifier="one")
    assert kinds(packets) == [("reasoningStartTag", "<think>"), ("reasoning", "x" * 20)]
    counts = [packet["fragment"]["tokensCount"] for packet in packets if packet["type"] == "fragment"]
    assert sum(counts) == 20
    off = tiny.predict("hi", options(**{**thinking, "reasoning.enableThinking": False}, **bias), identifier="one")
    assert kinds(off) == [("none", "x" * 20)]


def test_reasoning_budget(tiny: Wire) -> None:
    """llama.cpp ends the reasoning when the budget is used up."""
    values = {
        "llama.logitBias": [[259, 30]],
        "reasoning.budgetTokens": checked(3),
        "reasoning.parsing": {**RAW, "enabled": True},
    }
    text = text_of(tiny.predict("hi", options(**values), identifier="one"))
    assert text.startswith("<think>" * 4 + "</think>")


def test_image_is_rejected(tiny_server: background.Running, tiny: Wire, connect: Connect) -> None:
    """A model without a vision part does not support images."""
    files = connect(tiny_server, "/files")
    image = files.result("uploadFileBase64", {"name": "pixel.png", "contentBase64": IMAGE})
    part = {"type": "file", "name": "pixel.png", **image}
    history = {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, part]}]}
    packets = tiny.predict("", options(), identifier="one", history=history)
    assert "vision" in packets[-1]["title"]
