"""A chat history as a document: parsed as a conversation, and preserved with its structure and unknown keys."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmcli.chat import Chat, Message
from lmcli.cli.json_text import dump_json
from lmcli.cli.output.results import TextCollector, model_record, stats_record, tool_call_record
from lmcli.cli.output.sinks import Outcome
from lmcli.errors import BadInput
from lmcli.values import JsonObject


class Document:
    """A history in its original structure: {"messages": [entry, …], …} or a bare array.

    Args:
        raw: the history; it is not changed after this.
        read: what its first entries were read as, if they were.
    """

    def __init__(self, raw: Any, read: Sequence[Message] = ()) -> None:
        self.raw = raw
        self._chat: Chat | None = None
        self._read = read

    @classmethod
    def new(cls) -> "Document":
        """An empty history."""
        return cls({"messages": []})

    @property
    def entries(self) -> list[Any]:
        """The messages as JSON."""
        entries: list[Any] = self.raw["messages"] if isinstance(self.raw, dict) else self.raw
        return entries

    def chat(self) -> Chat:
        """The conversation, which is read once; nothing may be added to it.

        Raises:
            BadInput: the history is not valid; with the path of the error.
        """
        if self._chat is None:
            read = self._read
            self._chat = Chat.from_history([*read, *self.entries[len(read) :]] if read else self.raw)
        return self._chat

    def with_entry(self, entry: JsonObject) -> "Document":
        """A copy with one more message, of which those before are not read again."""
        read = self._chat.messages if self._chat else ()
        are_all = len(read) == len(self.entries)  # else some were joined
        return self._with([*self.entries, entry], read if are_all else ())

    def without_last(self, *roles: str) -> "Document":
        """A copy without the messages of these roles at the end."""
        entries = list(self.entries)
        while entries and entries[-1].get("role") in roles:
            entries.pop()
        return self._with(entries)

    @property
    def system(self) -> str | None:
        """The text of the system prompt at the beginning, if there is one."""
        messages = self.chat().messages[:1]
        return messages[0].text if messages and messages[0].role == "system" else None

    def with_system(self, prompt: str) -> "Document":
        """A copy with this system prompt at the beginning, replacing an existing one."""
        entries = self.entries
        has_system = (
            bool(entries) and isinstance(entries[0], Mapping) and entries[0].get("role") in ("system", "developer")
        )
        return self._with([{"role": "system", "content": prompt}, *entries[1 if has_system else 0 :]])

    def _with(self, entries: list[Any], read: Sequence[Message] = ()) -> "Document":
        return Document({**self.raw, "messages": entries} if isinstance(self.raw, dict) else entries, read)


def recognize(value: Any) -> Document | None:
    """A JSON value as a chat history; None if it is other JSON.

    A history is a non-empty array of objects with a string `role` and a `content`, or `tool_calls`, or an object whose
    `messages` is such an array.

    Raises:
        BadInput: some elements are messages and others are not; with the path of the first that is not.
    """
    entries = value.get("messages") if isinstance(value, Mapping) else value
    if not isinstance(entries, list) or not entries:
        return None
    violations = [_violation(entry) for entry in entries]
    if all(violation is None for violation in violations):
        return Document(value)
    if all(violation is not None for violation in violations):
        return None
    index, violation = next((i, violation) for i, violation in enumerate(violations) if violation is not None)
    raise BadInput(
        f"messages[{index}]{violation}: the input looks like a chat history, but this is not a message",
        "-i text sends the input as text",
    )


def assistant_entry(text: TextCollector, outcome: Outcome) -> JsonObject | None:
    """An answer as a message: with its reasoning, tool calls, model and stats, and `partial` if it was cut short.

    None if no text and no tool call has arrived.
    """
    if not text.answer and not text.reasoning and not outcome.tool_calls:
        return None
    entry: JsonObject = {"role": "assistant", "content": text.answer}
    if text.reasoning:
        entry["reasoning"] = text.reasoning
    if outcome.tool_calls:
        entry["tool_calls"] = openai_tool_calls([tool_call_record(call) for call in outcome.tool_calls])
    if outcome.is_partial:
        entry["partial"] = True
    if outcome.end is not None:
        entry |= {"model": model_record(outcome.end.model_info), "stats": stats_record(outcome.end.stats)}
    return entry


def openai_tool_calls(calls: Sequence[JsonObject]) -> list[JsonObject]:
    """The tool calls of a result as a message has them, in OpenAI's form: the arguments are JSON as text."""
    return [
        {**({} if call["id"] is None else {"id": call["id"]}), "type": "function", "function": _function(call)}
        for call in calls
    ]


def _function(call: JsonObject) -> JsonObject:
    return {"name": call["name"], "arguments": dump_json(call["arguments"]).decode().removesuffix("\n")}


def _violation(entry: Any) -> str | None:
    """Why an element is not a message, as the end of its path; None if it is one."""
    if not isinstance(entry, Mapping):
        return ""
    if not isinstance(entry.get("role"), str):
        return ".role"
    return None if "content" in entry or isinstance(entry.get("tool_calls"), list) else ".content"
