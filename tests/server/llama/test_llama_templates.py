"""Prompt templates of clients, for a prediction or for a load, and files that are not there."""

from pathlib import Path
from typing import Any

import pytest
from conftest import Connect, Packet, Wire, query, stack, stats_of, user
from local_servers import load
from packets import AFFIXES
from tiny_server import options

from lmcli.server import background
from lmcli.server.llama.llama_engine import LlamaEngine
from lmcli.wire.config import RAW_TEMPLATE


def jinja(template: str, *stop_strings: str) -> Packet:
    """A template as the value of an option."""
    return {"type": "jinja", "stopStrings": list(stop_strings), "jinjaPromptTemplate": {"template": template}}


def formatted(wire: Wire, template: Packet | None, text: str = "hi", **values: Any) -> str:
    """The prompt for a message."""
    config = stack(**values) if template is None else stack(promptTemplate=template, **values)
    parameter = {"specifier": query("one"), "history": user(text), "predictionConfigStack": config, "opts": {}}
    return str(wire.result("applyPromptTemplate", parameter)["formatted"])


def failing(wire: Wire, template: str) -> str:
    """The error of a prediction with a template."""
    return str(wire.predict("hi", options(promptTemplate=jinja(template)), identifier="one")[-1]["title"])


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}[{{ m.role }}:{{ m['content'] }}]{% endfor %}", "[user:hi é]"),
        ("{{ bos_token }}{{ messages[-1].content | trim }}{{ eos_token }}", "hi é</s>"),
        ("{% if add_generation_prompt %}\n  yes\n{% endif %}", "  yes\n"),
        ("{{ {'a': 'é<'} | tojson }}", '{"a": "é<"}'),
        ("{{ tools is none }}", "True"),
        ("{% for n in range(9) %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}", "01"),
        ("{{ enable_thinking }}", "True"),
    ],
)
def test_jinja_template_of_a_prediction(tiny: Wire, template: str, expected: str) -> None:
    """It makes the prompt, with what the templates of models expect."""
    thinking = {"reasoning.enableThinking": True}
    assert formatted(tiny, jinja(template), "hi é", **thinking) == expected
    config = options(promptTemplate=jinja(template), **thinking)
    tokens = stats_of(tiny.predict("hi é", config, identifier="one"))["promptTokensCount"]
    parameter = {"specifier": query("one"), "inputString": expected}
    assert tokens == tiny.result("countTokens", parameter)["tokenCount"] + 1, "the token for the beginning"


def test_stop_strings_of_a_template(tiny: Wire) -> None:
    """They end the answer, as those of the config do."""
    config = options(
        promptTemplate=jinja("Q: {{ messages[0].content }} A:", "e t"),
        structured={"type": "gbnf", "gbnfGrammar": 'root ::= "one two"'},
    )
    stats = stats_of(tiny.predict("hi", config, identifier="one"))
    assert (stats["stopReason"], stats["stopString"]) == ("stopStringFound", "e t")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ raise_exception('no system message') }}", "no system message"),
        ("{{ messages.missing.content }}", "UndefinedError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ 'a' * 10000000000 }}", "Error"),
    ],
)
def test_template_that_cannot_be_applied(tiny: Wire, template: str, message: str) -> None:
    """It is an error of the request, and the next one is answered."""
    assert message in failing(tiny, template)
    assert formatted(tiny, None) == "<|user|>hi\n<|assistant|>"


def test_template_that_does_not_end(tiny: Wire) -> None:
    """Its prediction can be cancelled, and delays no others."""
    loop = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
    parameter = {"modelSpecifier": query("one"), "history": user("hi")}
    config = {"predictionConfigStack": options(promptTemplate=jinja(loop))}
    channel = tiny.open("predict", {**parameter, **config})
    assert formatted(tiny, None) == "<|user|>hi\n<|assistant|>"
    tiny.cancel(channel)
    assert stats_of(tiny.packets(channel))["stopReason"] == "userStopped"


def test_template_of_a_load(tiny: Wire) -> None:
    """It replaces that of the model."""
    tiny.call("unloadModel", {"identifier": "one"})
    load(tiny, "one", promptTemplate=jinja("<{{ messages[0].content }}>"))
    assert formatted(tiny, None) == "<hi>"
    tiny.call("unloadModel", {"identifier": "one"})


def test_no_warning_about_a_template(
    connect: Connect, tiny_files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """A raw completion in the older way, and a template from the server or the default one, are applied silently."""
    manual = {"type": "manual", "stopStrings": [], "manualPromptTemplate": AFFIXES}
    with background.start(LlamaEngine([tiny_files["one"]])) as running:
        wire = connect(running)
        load(wire, "one")
        for template in (RAW_TEMPLATE, manual, jinja("x")):
            stats_of(wire.predict("hi", options(promptTemplate=template), identifier="one"))
    assert not [record for record in caplog.records if "llama" in record.name]


@pytest.mark.parametrize("kind", ["image", "text/plain", "unknown"])
def test_unknown_file_is_formatted(tiny: Wire, kind: str) -> None:
    """The text of a message is formatted, also if it has a file that was not uploaded; a prediction is refused."""
    part = {"type": "file", "name": "a", "identifier": "nowhere", "sizeBytes": 1, "fileType": kind}
    history = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, part]}]}
    parameter = {"specifier": query("one"), "history": history, "predictionConfigStack": stack(), "opts": {}}
    assert tiny.result("applyPromptTemplate", parameter) == {"formatted": "<|user|>hi\n<|assistant|>"}
    assert "File not found" in tiny.predict("", options(), identifier="one", history=history)[-1]["title"]
