"""What the server and the process of a model send each other."""

import itertools
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcli.server.llama.engine_messages import (
    Decoder,
    InvalidMessage,
    Message,
    Predict,
    Reply,
    Request,
    Tokenize,
    encode,
)

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
FIELDS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(0, 2**53),
    bool: st.booleans(),
    str: st.text(),
    list[str]: st.lists(st.text()),
    list[Any]: st.lists(JSON, max_size=3),
    dict[str, Any]: st.dictionaries(st.text(), JSON, max_size=3),
    float | int: st.floats(allow_nan=False, allow_infinity=False),
    float | int | None: st.none() | st.floats(allow_nan=False, allow_infinity=False),
    str | None: st.none() | st.text(),
    int | None: st.none() | st.integers(0, 2**53),
    Any: JSON,
}
MESSAGES = st.one_of(
    *(
        st.builds(kind, **{name: FIELDS[hint] for name, hint in get_type_hints(kind).items()})
        for kind in (*Request.__args__, *Reply.__args__)
    )
)


@given(st.lists(MESSAGES), st.lists(st.integers(0, 500)))
def test_messages_arrive_however_they_are_split(messages: list[Message], cuts: list[int]) -> None:
    """Messages are read as they were written, in order, whatever pieces their bytes arrive in."""
    data = b"".join(map(encode, messages))
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    decoder = Decoder()
    found = [message for start, end in itertools.pairwise(ends) for message in decoder.receive_data(data[start:end])]
    assert found == messages


@given(st.binary() | st.lists(JSON).map(lambda value: b"%a\n" % value))
def test_any_bytes_are_messages_or_invalid(data: bytes) -> None:
    """Bytes that are not messages are an error, of one kind."""
    try:
        Decoder().receive_data(data + b"\n")
    except InvalidMessage:
        pass
    else:
        pytest.fail("these bytes are not a message")


@pytest.mark.parametrize(
    "line", [b'["Token",1]', b'["Grant","1",2]', b'["object"]', b'["Grant",1,2,3]', b"[[]]", b"{}"]
)
def test_other_fields_are_invalid(line: bytes) -> None:
    """A message has the fields of its class, with their types."""
    with pytest.raises(InvalidMessage):
        Decoder().receive_data(line + b"\n")


def test_lone_surrogates_are_replaced() -> None:
    """Half of a surrogate pair becomes U+FFFD."""
    assert Decoder().receive_data(encode(Tokenize(1, "a\ud83d", False))) == [Tokenize(1, "a\ufffd", False)]


def test_integers_of_more_than_64_bits_are_refused() -> None:
    """What cannot be written is an error of the sender."""
    with pytest.raises(TypeError):
        encode(Predict(1, {"seed": 2**70}))
