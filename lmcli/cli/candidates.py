"""What TAB completes in a dialogue: commands, and what they take, such as a model key or the name of a file."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from lmcli.cli.dialogue_commands import COMMANDS, FILE, KEY, TEXT
from lmcli.cli.tab_key import Candidate, insert_tab
from lmcli.errors import escaped


def candidates(line: str, model_keys: Callable[[], Sequence[str]]) -> Sequence[Candidate]:
    """What a line can be completed to; in a message that is a tab.

    Args:
        line: the line up to the cursor.
        model_keys: lists the models, if their keys are needed.
    """
    name, space, argument = line.partition(" ")
    if not name.startswith("/"):
        return insert_tab(line)
    if not space:
        return [Candidate(f"{command} ", command) for command in COMMANDS if command.startswith(name)]
    command = COMMANDS.get(name)
    if command is None:
        return []
    if command.kind == TEXT:
        return insert_tab(line)
    typed = argument.rpartition(" ")[2] if command.words else argument.lstrip()
    before = line.removesuffix(typed)
    if command.kind == FILE:
        return [Candidate(before + path, name) for path, name in sorted(_files(typed))]
    words = model_keys() if command.kind == KEY else command.words
    return [Candidate(before + word, word) for word in sorted(words) if word.startswith(typed) and _is_typeable(word)]


def _files(typed: str) -> Iterator[tuple[str, str]]:
    """The files and folders whose names begin as typed, by the last part of their paths; hidden ones after a dot."""
    folder, slash, start = typed.rpartition("/")
    with suppress(OSError, RuntimeError, ValueError):  # no such folder, no such user, not the name of a folder
        if start == ".." or (not slash and start.startswith("~") and Path(start).expanduser()):
            yield f"{typed}/", f"{start}/"
            return
        for file in Path(folder + slash).expanduser().iterdir():
            is_hidden = file.name.startswith(".") and not start
            is_home = file.name.startswith("~") and not slash
            if file.name.startswith(start) and not (is_hidden or is_home):
                name = file.name + "/" * file.is_dir()
                if _is_typeable(folder + slash + name):
                    yield folder + slash + name, name


def _is_typeable(argument: str) -> bool:
    """Whether an argument is read as it is completed, and does not control the terminal that it is completed on."""
    shown = argument.encode(errors="surrogateescape").decode(errors="replace")
    return argument == argument.strip() and escaped(shown) == shown
