"""What can be the identifier of a loaded model."""

import pytest

from lmcli.errors import UsageError
from lmcli.wire import requests
from lmcli.wire.identifiers import identifier_violation


@pytest.mark.parametrize("name", ["a", "x" * 1024, "\U0001f600" * 512, "a b", "é", "acme/tiny-1b@q4_k_m:2", "__proto"])
def test_an_identifier(name: str) -> None:
    """What the official schema accepts; measured with npm @lmstudio/sdk 2.0.0."""
    assert identifier_violation(name) is None
    assert requests.load("key", None, identifier=name).parameter["identifier"] == name


@pytest.mark.parametrize(
    ("name", "violation"),
    [
        ("", "is empty"),
        ("x" * 1025, "has 1025 characters, more than 1024"),
        ("\U0001f600" * 513, "has 1026 characters, more than 1024"),
        ("__proto__", "is a name that LM Studio reserves"),
        ("a\0", "has a control character, U+0000"),
        ("a\nb", "has a control character, U+000A"),
        ("a\u200db", "has a control character, U+200D"),
        ("\ue000", "has a control character, U+E000"),
        ("a\ud83d", "has a control character, U+D83D"),
        ("a\uffff", "has a control character, U+FFFF"),
        ("a\ufdd0", "has a control character, U+FDD0"),
        ("a\U0010fffe", "has a control character, U+10FFFE"),
    ],
)
def test_what_is_no_identifier(name: str, violation: str) -> None:
    """What the official schema refuses, with the reason; nothing is sent."""
    assert identifier_violation(name) == violation
    with pytest.raises(UsageError) as refused:
        requests.load("key", None, identifier=name)
    assert refused.value.message.endswith(violation)
