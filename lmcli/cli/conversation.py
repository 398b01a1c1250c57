"""A conversation on one connection: its document, its chat file, and the operations on them."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lmcli.cli.environment import Environment
from lmcli.cli.input.chat_file import ChatFile
from lmcli.cli.input.document import Document, assistant_entry
from lmcli.cli.input.stdin import Attachments, system_prompt
from lmcli.cli.invocation import Invocation, predict
from lmcli.cli.messages import Messages
from lmcli.cli.options import ChatOptions
from lmcli.cli.output.results import TextCollector
from lmcli.cli.resolve import make_request
from lmcli.cli.runner import Runner
from lmcli.cli.signals import SIGINT
from lmcli.cli.target import loaded_model, model_key
from lmcli.errors import UsageError, quoted
from lmcli.values import JsonObject, PredictionEnd


class Conversation:
    """A conversation, turn by turn.

    Args:
        options: the options.
        env: the environment.
        messages: writes messages to stderr.
        runner: has the connection, and runs the predictions.

    Attributes:
        model: the key of the model; None for the loaded one.
        last_end: the end of the last answer, with its stats.
        has_markdown: whether answers are rendered.

    Raises:
        LmError: an option is not valid, or the chat file, the system prompt or an attachment cannot be read.
    """

    def __init__(self, options: ChatOptions, env: Environment, messages: Messages, runner: Runner) -> None:
        self.model = model_key(options, env, messages)
        self.last_end: PredictionEnd | None = None
        self.has_markdown = options.markdown
        self._options = options
        self._env = env
        self._messages = messages
        self._runner = runner
        self._file = None if options.history is None else ChatFile(options.history)
        self._own_paths = set() if self._file is None else {self._file.path}
        self._request = make_request(Document.new(), options)
        self._system = system_prompt(options)
        self._attached = Attachments.read(options.file or (), env, messages)
        self._unanswered: JsonObject | None = None
        self._document = Document.new()
        self._document = self._current()

    @property
    def questions(self) -> list[str]:
        """The messages of the user so far."""
        return [message.text for message in self._document.chat().messages if message.role == "user"]

    @property
    def system(self) -> str | None:
        """The system prompt."""
        return self._document.system

    @property
    def model_in_use(self) -> str:
        """The model that answers the next question."""
        return self.model or loaded_model(self._runner.connection, self._messages, self._options.device).identifier

    def ask(self, text: str) -> None:
        """Send a question, and store the answer.

        Raises:
            LmError: no answer arrived, or it is not complete.
        """
        with self._locked():
            self._unanswered = self._attached.message(self._attached.prepend_to(text))
            self._answer(self._current().with_entry(self._unanswered))

    def retry(self) -> None:
        """Send the last question again, and replace its answer if it has one."""
        with self._locked():
            document = self._current()
            if self._unanswered is not None:
                self._answer(document.with_entry(self._unanswered))
            elif self.questions:
                self._answer(document.without_last("assistant", "tool"))
            else:
                raise UsageError("there is no question yet")

    def undo(self) -> None:
        """Remove the last question and its answer."""
        if self._unanswered is not None:
            self._unanswered = None
            self._messages.note("removed the last question")
            return
        with self._locked():
            if not self.questions:
                raise UsageError("there is nothing to undo")
            self._store(self._current().without_last("assistant", "tool").without_last("user"))
        self._messages.note("removed the last question and its answer")

    def set_system(self, prompt: str) -> None:
        """Set the system prompt."""
        self._system = prompt
        with self._locked():
            self._store(self._current())

    def save(self, path: Path) -> None:
        """Write the conversation to another file, which then belongs to it.

        Raises:
            UsageError: the file exists and does not belong to this conversation.
            LmError: it cannot be written.
        """
        file = ChatFile(path)
        with file.locked(self._messages):
            if file.path not in self._own_paths and file.path.exists():
                raise UsageError(
                    f"{quoted(path)} already exists and does not belong to this conversation", "choose another name"
                )
            file.write(self._current())
        self._own_paths.add(file.path)
        self._messages.note(f"saved to {quoted(path)}")

    def _answer(self, document: Document) -> None:
        """Request an answer, and store it; Ctrl-C stops the answer, not the conversation."""
        options = self._options.replaced(model=self.model, markdown=self.has_markdown)
        request = self._request._replace(subject=document)
        invocation = Invocation("chat", request, options, options.output, self._env, self._messages)
        model = None if self.model else loaded_model(self._runner.connection, self._messages, self._options.device)
        text = TextCollector()
        with self._runner.watched():  # also while the answer is stored
            outcome = predict(invocation, self._runner, model, [text])
            self.last_end = outcome.end or self.last_end
            entry = assistant_entry(text, outcome)
            if entry is not None:
                self._attached, self._unanswered = Attachments(), None
                self._store(document.with_entry(entry))
        if self._runner.signum != SIGINT:
            self._runner.end()

    def _current(self) -> Document:
        """The current document; another process may have changed the file."""
        document = self._file.read() if self._file else self._document
        return document if self._system is None else document.with_system(self._system)

    def _store(self, document: Document) -> None:
        self._document = document
        if self._file:
            self._file.write(document)

    def _locked(self) -> AbstractContextManager[None]:
        return self._file.locked(self._messages) if self._file else nullcontext()
