"""A chat history as a document: read as a conversation, kept as it was written, shape and unknown keys and all."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lmcli.chat import Chat
from lmcli.cli.output.results import Text, model_record, stats_record
from lmcli.cli.output.sinks import Outcome
from lmcli.errors import BadInput
from lmcli.values import JsonObject


class Document(NamedTuple):
    """A history in the form that it came in: {"messages": [entry, …], …} or the bare array."""

    raw: Any

    @classmethod
    def new(cls) -> "Document":
        """A history in which nothing has been said."""
        return cls({"messages": []})

    @property
    def entries(self) -> list[Any]:
        """The messages as they were written."""
        entries: list[Any] = self.raw["messages"] if isinstance(self.raw, Mapping) else self.raw
        return entries

    def chat(self) -> Chat:
        """The conversation.

        Raises:
            BadInput: with the path of what is wrong.
        """
        return Chat.from_history(self.raw)

    def with_entry(self, entry: JsonObject) -> "Document":
        """The same with one more message."""
        return self._with([*self.entries, entry])

    def without_last(self, *roles: str) -> "Document":
        """The same without the messages of these roles at its end."""
        entries = list(self.entries)
        while entries and entries[-1].get("role") in roles:
            entries.pop()
        return self._with(entries)

    @property
    def system(self) -> str | None:
        """The text of the system prompt at its head, if there is one."""
        messages = self.chat().messages[:1]
        return messages[0].text if messages and messages[0].role == "system" else None

    def with_system(self, prompt: str) -> "Document":
        """The same with this system prompt at its head, in place of one that stood there."""
        entries = self.entries
        has_one = (
            bool(entries) and isinstance(entries[0], Mapping) and entries[0].get("role") in ("system", "developer")
        )
        return self._with([{"role": "system", "content": prompt}, *entries[1 if has_one else 0 :]])

    def _with(self, entries: list[Any]) -> "Document":
        return Document({**self.raw, "messages": entries} if isinstance(self.raw, Mapping) else entries)


def recognize(value: Any) -> Document | None:
    """The chat history that a JSON value is; None if it is some other JSON.

    A history is an array of objects with a string `role` and a `content`, not empty, or an object whose `messages` is
    such an array.

    Raises:
        BadInput: some elements look like messages and others do not; with the path of the first that does not.
    """
    entries = value.get("messages") if isinstance(value, Mapping) else value
    if not isinstance(entries, list) or not entries:
        return None
    verdicts = [_violation(entry) for entry in entries]
    if all(violation is None for violation in verdicts):
        return Document(value)
    if all(violation is not None for violation in verdicts):
        return None
    index, violation = next((i, violation) for i, violation in enumerate(verdicts) if violation is not None)
    raise BadInput(
        f"messages[{index}]{violation}: the input looks like a chat history, but this is no message",
        "-i text sends the input as text",
    )


def assistant_entry(text: Text, outcome: Outcome) -> JsonObject | None:
    """The message that an answer becomes: its reasoning apart, its model and figures, `partial` if it was cut short.

    None where there is nothing to keep: no text has come.
    """
    if not text.answer and not text.reasoning:
        return None
    entry: JsonObject = {"role": "assistant", "content": text.answer}
    if text.reasoning:
        entry["reasoning"] = text.reasoning
    if outcome.is_partial:
        entry["partial"] = True
    if outcome.end is not None:
        entry |= {"model": model_record(outcome.end.model_info), "stats": stats_record(outcome.end.stats)}
    return entry


def _violation(entry: Any) -> str | None:
    """What keeps an element from being a message, as the end of its path."""
    if not isinstance(entry, Mapping):
        return ""
    if not isinstance(entry.get("role"), str):
        return ".role"
    return None if "content" in entry else ".content"
