"""A conversation under way on one connection: the document so far, its file, and what is done to them."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lmcli.cli.environment import Environment
from lmcli.cli.input.chat_file import ChatFile
from lmcli.cli.input.document import Document, assistant_entry
from lmcli.cli.input.stdin import Attachments, system_prompt
from lmcli.cli.messages import Messages
from lmcli.cli.options import ChatOptions
from lmcli.cli.output.results import Text
from lmcli.cli.resolve import make_request
from lmcli.cli.run import Run
from lmcli.cli.signals import SIGINT
from lmcli.cli.target import loaded_model, model_key
from lmcli.cli.task import Task, predict
from lmcli.errors import UsageError, quoted
from lmcli.values import JsonObject, PredictionEnd


class Conversation:
    """What is said, turn by turn.

    Args:
        options: the options.
        env: the process.
        messages: says what is not the answer.
        run: the connection, and what can end an answer early.

    Attributes:
        model: the key of the model to talk to; None for the one that is loaded.
        last: the figures of the last answer.

    Raises:
        LmError: the chat file, the system prompt or an attachment cannot be read.
    """

    def __init__(self, options: ChatOptions, env: Environment, messages: Messages, run: Run) -> None:
        self.model = model_key(options, env)
        self.last: PredictionEnd | None = None
        self._options = options
        self._env = env
        self._messages = messages
        self._run = run
        self._file = None if options.history is None else ChatFile(options.history)
        self._own = set() if self._file is None else {self._file.path}
        self._system = system_prompt(options)
        self._attached = Attachments.read(options.file or (), env, messages)
        self._unanswered: JsonObject | None = None
        self._document = Document.new()
        self._document = self._current()

    @property
    def questions(self) -> list[str]:
        """What the user has said so far."""
        return [message.text for message in self._document.chat().messages if message.role == "user"]

    @property
    def system(self) -> str | None:
        """The system prompt."""
        return self._document.system

    @property
    def model_in_use(self) -> str:
        """The model that the next question goes to."""
        return self.model or loaded_model(self._run.connection, self._messages)

    def ask(self, text: str) -> None:
        """Ask a question, and keep the answer.

        Raises:
            LmError: no answer came, or it is not complete.
        """
        with self._locked():
            self._unanswered = self._attached.entry(self._attached.before(text))
            self._answer(self._current().with_entry(self._unanswered))

    def retry(self) -> None:
        """Ask the last question again, in place of its answer if it got one."""
        with self._locked():
            document = self._current()
            if self._unanswered is not None:
                self._answer(document.with_entry(self._unanswered))
            elif self.questions:
                self._answer(document.without_last("assistant", "tool"))
            else:
                raise UsageError("there is no question yet")

    def undo(self) -> None:
        """Take the last question and its answer back."""
        if self._unanswered is not None:
            self._unanswered = None
            self._messages.note("removed the last question")
            return
        with self._locked():
            if not self.questions:
                raise UsageError("there is nothing to undo")
            self._keep(self._current().without_last("assistant", "tool").without_last("user"))
        self._messages.note("removed the last question and its answer")

    def instruct(self, prompt: str) -> None:
        """Set the system prompt."""
        self._system = prompt
        with self._locked():
            self._keep(self._current())

    def save(self, path: Path) -> None:
        """Write the conversation to another file, which is then one of its own.

        Raises:
            UsageError: the file exists and does not belong to this conversation.
            LmError: it cannot be written.
        """
        file = ChatFile(path)
        with file.locked(self._messages):
            if file.path not in self._own and file.path.exists():
                raise UsageError(
                    f"{quoted(path)} already exists and does not belong to this conversation", "choose another name"
                )
            file.write(self._current())
        self._own.add(file.path)
        self._messages.note(f"saved to {quoted(path)}")

    def _answer(self, document: Document) -> None:
        """Have a document continued, and keep what came; Ctrl-C stops the answer, not the conversation."""
        options = self._options.replaced(model=self.model)
        request = make_request(document, options)
        task = Task("chat", request, options, options.output, self._env, self._messages)
        model = None if self.model else loaded_model(self._run.connection, self._messages)
        text = Text()
        with self._run.watched():
            outcome = predict(task, self._run, model, [text])
        self.last = outcome.end or self.last
        entry = assistant_entry(text, outcome)
        if entry is not None:
            self._attached, self._unanswered = Attachments(), None
            self._keep(document.with_entry(entry))
        if self._run.signum != SIGINT:
            self._run.end()

    def _current(self) -> Document:
        """The conversation as it is now; somebody else may have gone on with the file."""
        document = self._file.read() if self._file else self._document
        return document if self._system is None else document.with_system(self._system)

    def _keep(self, document: Document) -> None:
        self._document = document
        if self._file:
            self._file.write(document)

    def _locked(self) -> AbstractContextManager[None]:
        return self._file.locked(self._messages) if self._file else nullcontext()
