"""Addresses as people write them."""

import pytest

from lmcli.client.address import Address, parse_address
from lmcli.errors import BadSetting, UsageError


@pytest.mark.parametrize(
    ("text", "address", "shown", "url"),
    [
        ("studio.local", Address("studio.local"), "studio.local:1234", "ws://studio.local:1234/llm"),
        ("10.0.0.5:80", Address("10.0.0.5", 80), "10.0.0.5:80", "ws://10.0.0.5:80/llm"),
        ("Studio", Address("studio"), "studio:1234", "ws://studio:1234/llm"),
        ("host:", Address("host"), "host:1234", "ws://host:1234/llm"),
        ("host/v1", Address("host"), "host:1234", "ws://host:1234/llm"),
        ("http://host", Address("host", 80), "host:80", "ws://host:80/llm"),
        ("ws://host:1234", Address("host", 1234), "host:1234", "ws://host:1234/llm"),
        ("HTTP://host/", Address("host", 80), "host:80", "ws://host:80/llm"),
        ("http://host:1234/v1", Address("host", 1234), "host:1234", "ws://host:1234/llm"),
        ("http://host:1234/v1/", Address("host", 1234), "host:1234", "ws://host:1234/llm"),
        ("http://host:1234/api/v0", Address("host", 1234), "host:1234", "ws://host:1234/llm"),
        ("https://host", Address("host", 443, True), "https://host:443", "wss://host:443/llm"),
        ("wss://host:99", Address("host", 99, True), "https://host:99", "wss://host:99/llm"),
        ("https://h/lms/v1", Address("h", 443, True, "/lms"), "https://h:443/lms", "wss://h:443/lms/llm"),
        ("ws://h/a/b/", Address("h", 80, False, "/a/b"), "h:80/a/b", "ws://h:80/a/b/llm"),
        ("[::1]:1234", Address("::1", 1234), "[::1]:1234", "ws://[::1]:1234/llm"),
        ("https://[fe80::1]", Address("fe80::1", 443, True), "https://[fe80::1]:443", "wss://[fe80::1]:443/llm"),
    ],
)
def test_address(text: str, address: Address, shown: str, url: str) -> None:
    """Every documented form is understood, shown again in short, and gives the URL of a namespace."""
    parsed = parse_address(text)
    assert (parsed, str(parsed), parsed.websocket_url("llm")) == (address, shown, url)


@pytest.mark.parametrize("text", ["host", "10.0.0.5:80", "https://h:8443/lms", "[::1]:5"])
def test_what_is_shown_can_be_typed(text: str) -> None:
    """An address in a message is an address for --host."""
    assert parse_address(str(parse_address(text))) == parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "two words",
        "host\n",
        "tab\thost",
        "http://",
        "://host",
        "ftp://host",
        "host:port",
        "host:99999",
        "::1",
        "http://[::1",
        "user@host",
        "http://user:secret@host",
        "host?query",
        "host#part",
        "/path",
        "a..b",
        64 * "a",
        64 * "é",
    ],
)
def test_what_is_no_address(text: str) -> None:
    """What is not a valid address is refused with the forms that are; from the environment it is a bad setting."""
    with pytest.raises(UsageError, match="is not a valid address") as options:
        parse_address(text)
    with pytest.raises(BadSetting, match=r"^LM_HOST is not a valid address: ") as found:
        parse_address(text, source="LM_HOST")
    assert options.value.hints == found.value.hints
    assert "10.0.0.5:1234" in options.value.hints[0]
