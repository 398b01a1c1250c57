"""A conversation on one connection: its document, its chat file, and the operations on them."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lmcli.chat import Message
from lmcli.cli.conversation_state import ConversationState
from lmcli.cli.environment import Environment
from lmcli.cli.input.chat_file import ChatFile
from lmcli.cli.input.document import Document, assistant_entry
from lmcli.cli.input.stdin import Attachments, system_prompt
from lmcli.cli.invocation import Invocation, predict
from lmcli.cli.messages import Messages
from lmcli.cli.model_choice import ListedModel, list_models
from lmcli.cli.options import ChatOptions
from lmcli.cli.output.answer_report import AnswerReport
from lmcli.cli.output.results import TextCollector
from lmcli.cli.resolve import DISPLAY_WORDS, Reasoning, make_request, sampling_config
from lmcli.cli.runner import Runner
from lmcli.cli.signals import SIGINT
from lmcli.cli.target import loaded_model, model_key
from lmcli.errors import NoInput, UsageError, quoted
from lmcli.values import ModelInstance


class Conversation:
    """A conversation, turn by turn.

    Args:
        options: the options.
        env: the environment.
        messages: writes messages to stderr.
        runner: has the connection, and runs the predictions.

    Attributes:
        model: the key of the model; None for the loaded one.
        report: reports on each answer.
        attached: the files that go with the next question.
        has_markdown: whether answers are rendered.

    Raises:
        LmError: an option is not valid, or the chat file, the system prompt or an attachment cannot be read.
    """

    def __init__(self, options: ChatOptions, env: Environment, messages: Messages, runner: Runner) -> None:
        self.model = model_key(options, env, messages)
        self.report = AnswerReport(env, messages)
        self.has_markdown = options.markdown
        self._options = options
        self._env = env
        self._messages = messages
        self._runner = runner
        file = None if options.history is None else ChatFile(options.history)
        self._request = make_request(Document.new(), options)
        system = system_prompt(options)
        self.attached = Attachments.read(options.file or (), env, messages)
        self._unanswered: str | None = None
        self._cleared: ConversationState | None = None
        self._state = (
            ConversationState.of_file(file, system) if file else ConversationState(Document.new(), system).current()
        )

    @property
    def turns(self) -> Sequence[Message]:
        """The messages so far, without the system prompt."""
        return self._state.messages

    @property
    def questions(self) -> list[str]:
        """The messages of the user so far."""
        return [message.text for message in self.turns if message.role == "user"]

    @property
    def system(self) -> str | None:
        """The system prompt."""
        return self._state.document.system

    @property
    def model_in_use(self) -> str:
        """The model that answers the next question."""
        return self.model or self._loaded_model().identifier

    def ask(self, text: str) -> None:
        """Send a question, and store the answer.

        Raises:
            LmError: no answer arrived, or it is not complete.
        """
        self._unanswered = text
        with self._locked():
            self._answer(self._with_question(text), is_new=True)

    def retry(self) -> None:
        """Send the last question again, and replace its answer if it has one."""
        with self._locked():
            if self._unanswered is not None:
                self._answer(self._with_question(self._unanswered), is_new=True)
                return
            document = self._current()
            if not self.questions:
                raise UsageError("there is no question yet")
            self._answer(document.without_last("assistant", "tool"), is_new=False)

    def undo(self) -> None:
        """Take back the last step: a question with its answer, a file that was attached, or `clear`."""
        if self._unanswered is not None:
            self._unanswered = None
            self._messages.note("removed the last question")
        elif self.attached.files:
            *_, (name, _) = self.attached.sizes
            self.attached = Attachments(self.attached.files[:-1])
            self._messages.note(f"detached {quoted(name)}")
        elif self._cleared is not None and not self.questions:
            self._state, self._cleared = self._cleared, None
            self._messages.note("back in the conversation before /clear")
        else:
            self._remove_last_turn()

    def _remove_last_turn(self) -> None:
        with self._locked():
            document = self._current()
            if not self.questions:
                raise UsageError("there is nothing to undo")
            self._store(document.without_last("assistant", "tool").without_last("user"))
        self._messages.note("removed the last question and its answer")

    def set_system(self, prompt: str) -> None:
        """Set the system prompt."""
        self._state = self._state._replace(system=prompt)
        with self._locked():
            self._store(self._current())

    def attach(self, path: Path) -> None:
        """Attach a file to the next question that gets an answer; raises as `Attachments.read`."""
        added = Attachments.read([path], self._env, self._messages)
        self.attached = Attachments(self.attached.files + added.files)

    def clear(self) -> None:
        """Begin a new conversation with the same system prompt, which no file keeps."""
        if not self.turns:
            if self._unanswered is None:
                raise UsageError("there is nothing to clear")
            self.undo()
            return
        file, self._cleared = self._state.file, self._state
        self._begin(ConversationState(Document.new(), self.system).current())
        self._messages.note(f"a new conversation begins{f', not kept in {quoted(file.path.name)}' if file else ''}")
        self._messages.hint("/undo goes back to the old one")

    def load(self, path: Path) -> None:
        """Continue the conversation in a file, and keep it there.

        Raises:
            UsageError: the present conversation would be lost.
            LmError: the file cannot be read; the present conversation goes on.
        """
        if self._state.is_lost_without_file:
            raise UsageError("no file has the conversation so far", "/save FILE keeps it, /clear drops it")
        if not os.path.exists(path):  # noqa: PTH110  Path.exists raises PermissionError
            raise NoInput(f"cannot read {quoted(path)}: no such file")
        self._begin(ConversationState.of_file(ChatFile(path)))
        self._cleared = None
        self._messages.note(f"the conversation in {quoted(path)} goes on, and is kept there")

    def save(self, path: Path) -> None:
        """Write the conversation to another file, which then belongs to it.

        Raises:
            UsageError: the file exists and does not belong to this conversation.
            LmError: it cannot be written.
        """
        file = ChatFile(path)
        with file.locked(self._messages):
            own_paths = self._state.own_paths
            if file.path not in own_paths and file.path.exists():
                raise UsageError(
                    f"{quoted(path)} already exists and does not belong to this conversation", "choose another name"
                )
            document = self._current()
            file.write(document)
        self._state = self._state._replace(own_paths=own_paths | {file.path}, saved=document)
        self._messages.note(f"saved to {quoted(path)}")

    @property
    def reasoning(self) -> Reasoning:
        """What is set for the reasoning of the model."""
        return Reasoning.parse(self._options.reasoning or ())

    def set_reasoning(self, words: Sequence[str]) -> None:
        """Change what is shown, or what is asked of the server, from the next answer on.

        Args:
            words: those of `--reasoning`; they replace the earlier ones for the same purpose.

        Raises:
            UsageError: a word is not valid.
        """
        Reasoning.parse(words, name="/reasoning")
        replaced = {word in DISPLAY_WORDS for word in words}
        kept = [word for word in self._options.reasoning or () if (word in DISPLAY_WORDS) not in replaced]
        options = self._options.replaced(reasoning=[*kept, *words])
        config = sampling_config(options, overflow=options.overflow)
        structured = self._request.config.structured
        self._options, self._request = options, self._request._replace(config=config.replace(structured=structured))

    def switch_report(self) -> bool:
        """Switch reports after each answer, be it the stats of `--stats`, off or on; gives whether they are on."""
        self.report.is_on = not (self.report.is_on or self._options.stats)
        self._options = self._options.replaced(stats=False)
        return self.report.is_on

    def models(self) -> list[ListedModel]:
        """The language models of the server."""
        return list_models(self._runner.connection, self.model, self._options.device)

    def _with_question(self, text: str) -> Document:
        return self._current().with_entry(self.attached.message(self.attached.prepend_to(text)))

    def _answer(self, document: Document, *, is_new: bool) -> None:
        """Request an answer, and store it; Ctrl-C stops the answer, not the conversation.

        Args:
            document: ends with the question.
            is_new: the question was not answered before, and has what is attached.
        """
        options = self._options.replaced(model=self.model, markdown=self.has_markdown)
        request = self._request._replace(subject=document)
        invocation = Invocation("chat", request, options, options.output, self._env, self._messages)
        model = None if self.model else self._loaded_model()
        text = TextCollector()
        with self._runner.watched():  # also while the answer is stored
            outcome = predict(invocation, self._runner, model, [text])
            entry = assistant_entry(text, outcome)
            if entry is not None:
                if is_new:
                    self.attached, self._unanswered = Attachments(), None
                self._store(document.with_entry(entry))
                self.report.add(outcome.end)
        if self._runner.signum != SIGINT:
            self._runner.end()

    def _loaded_model(self) -> ModelInstance:
        return loaded_model(self._runner.connection, self._messages, self._options.device)

    def _begin(self, state: ConversationState) -> None:
        self._state, self._unanswered = state, None
        self.report.last = None

    def _current(self) -> Document:
        self._state = self._state.current()
        return self._state.document

    def _store(self, document: Document) -> None:
        self._state = self._state._replace(document=document)
        if self._state.file:
            self._state.file.write(document)

    def _locked(self) -> AbstractContextManager[None]:
        file = self._state.file
        return file.locked(self._messages) if file else nullcontext()
