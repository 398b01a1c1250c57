"""What belongs to one conversation: its document and its files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lmcli.chat import Message
from lmcli.cli.input.chat_file import ChatFile
from lmcli.cli.input.document import Document


class ConversationState(NamedTuple):
    """What belongs to one conversation; in a dialogue, another one can take its place.

    Attributes:
        document: the messages as they were last read or answered.
        system: the system prompt that replaces the one of the document, if any.
        file: the file that keeps it, if any.
        own_paths: the files that have been written with it, or are its own.
        saved: the document that was last saved.
    """

    document: Document
    system: str | None = None
    file: ChatFile | None = None
    own_paths: frozenset[Path] = frozenset()
    saved: Document | None = None

    @classmethod
    def of_file(cls, file: ChatFile, system: str | None = None) -> "ConversationState":
        """The conversation in a file; raises as `ChatFile.read`."""
        return cls(Document.new(), system, file, frozenset({file.path})).current()

    def current(self) -> "ConversationState":
        """The same, read again from its file: another process may have changed it."""
        document = self.file.read() if self.file else self.document
        if self.system not in (None, document.system):
            document = document.with_system(self.system)
        return self._replace(document=document)

    @property
    def messages(self) -> Sequence[Message]:
        """The messages, without the system prompt."""
        return [message for message in self.document.chat().messages if message.role != "system"]

    @property
    def is_lost_without_file(self) -> bool:
        """Whether no file has all of it."""
        return self.file is None and self.document is not self.saved and bool(self.messages)
