"""The file that keeps what was typed: its form, its limits, several dialogues at once, and what is in its way."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK

from lmcli.cli.environment import Environment
from lmcli.cli.recall_file import MAX_BYTES, MAX_ENTRIES, RecallFile, recall_file
from lmcli.errors import KEPT_IN_TEXT, escaped

Failures = list[OSError]


def no_failure(path: Path, error: OSError) -> None:
    """Nothing is in the way."""
    raise AssertionError(f"{path}: {error}")


def opened(path: Path) -> RecallFile:
    """The file, as a dialogue has it."""
    return RecallFile(path, no_failure)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the file will be."""
    return tmp_path / "state" / "lm" / "typed"


def test_an_entry_is_a_json_string_on_a_line(file: Path) -> None:
    """So a message of several lines stays one; file and folders are for the user alone."""
    recall = opened(file)
    assert recall.read() == []
    recall.append('one\n\t"two"')
    recall.append("/save 🦉")
    assert [json.loads(line) for line in file.read_text("utf-8").splitlines()] == ['one\n\t"two"', "/save 🦉"]
    assert opened(file).read() == ['one\n\t"two"', "/save 🦉"]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent, file.parent.parent)]
    assert list(map(oct, modes)) == ["0o600", "0o700", "0o700"]


@QUICK
@given(st.lists(st.text().filter(lambda text: escaped(text, keep=KEPT_IN_TEXT) == text)))
def test_what_is_kept_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Any text that a terminal may be shown."""
    recall = opened(tmp_path_factory.mktemp("state") / "typed")
    for text in texts:
        recall.append(text)
    assert recall.read() == texts


@QUICK
@given(st.lists(st.binary() | st.sampled_from([b'"good"', b"{}", b"\xff", b'"torn', b"[" * 2000])))
def test_a_broken_file_is_read_as_far_as_it_is_valid(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    """What is in it otherwise is passed over, and what is typed next is kept all the same."""
    file = tmp_path_factory.mktemp("state") / "typed"
    file.write_bytes(b"\n".join(pieces))
    recall = opened(file)
    good = [line for line in recall.read() if line == "good"]
    assert len(good) == b"\n".join(pieces).split(b"\n").count(b'"good"')
    recall.append("next")
    assert recall.read()[-1] == "next"
    assert [line for line in recall.read() if line == "good"] == good


def test_the_file_is_bounded(file: Path) -> None:
    """Only the last entries are read; when there are many more, what is typed next removes the others."""
    file.parent.mkdir(parents=True)
    file.write_text("".join(f'"{number}"\n' for number in range(2 * MAX_ENTRIES + 1)))
    file.chmod(0o640)
    recall = opened(file)
    assert recall.read() == [str(number) for number in range(MAX_ENTRIES + 1, 2 * MAX_ENTRIES + 1)]
    recall.append("last")
    assert file.read_text().splitlines() == [f'"{n}"' for n in range(MAX_ENTRIES + 2, 2 * MAX_ENTRIES + 1)] + ['"last"']
    assert oct(stat.S_IMODE(file.stat().st_mode)) == "0o640"
    recall.append("after")
    assert recall.read()[-2:] == ["last", "after"]
    assert list(file.parent.iterdir()) == [file]


def test_long_entries_are_bounded(file: Path) -> None:
    """A file of long entries is cut at the start of a line; an entry that alone is too long is not kept."""
    recall = opened(file)
    for number in range(9):
        recall.append(str(number) * (MAX_BYTES // 4))
    recall.append("x" * MAX_BYTES)
    entries = recall.read()
    assert [entry[0] for entry in entries] == ["6", "7", "8"]
    recall.append("last")
    assert recall.read() == [*entries, "last"]
    assert file.stat().st_size < MAX_BYTES


WRITER = """
import sys
from pathlib import Path
from lmcli.cli.recall_file import RecallFile
recall = RecallFile(Path(sys.argv[1]), lambda path, error: sys.exit(str(error)))
recall.read()
for number in range(100):
    recall.append(f"{sys.argv[2]} {number}")
"""


def test_several_at_once_lose_nothing(file: Path) -> None:
    """Entries of concurrent dialogues are all there, in the order of each, also while the file is shortened."""
    file.parent.mkdir(parents=True)
    file.write_text('"x"\n' * (2 * MAX_ENTRIES + 1))
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(file), str(number)]) for number in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    entries = opened(file).read()
    assert len(entries) == MAX_ENTRIES
    assert len(file.read_text().splitlines()) < 2 * MAX_ENTRIES
    for number in range(4):
        assert [entry for entry in entries if entry.startswith(f"{number} ")] == [f"{number} {n}" for n in range(100)]


def as_folder(file: Path) -> None:
    """A folder has the name of the file."""
    file.mkdir(parents=True)


def below_a_file(file: Path) -> None:
    """A file has the name of the folder."""
    file.parent.parent.mkdir()
    file.parent.touch()


def as_fifo(file: Path) -> None:
    """A FIFO has the name of the file."""
    file.parent.mkdir(parents=True)
    os.mkfifo(file)


def as_loop(file: Path) -> None:
    """A symbolic link has its own name."""
    file.parent.mkdir(parents=True)
    file.symlink_to(file)


@pytest.mark.parametrize("obstruct", [as_folder, below_a_file, as_fifo, as_loop])
def test_what_is_in_the_way_is_reported_once(file: Path, obstruct: Callable[[Path], None]) -> None:
    """Nothing is kept then, and nothing raised or waited for."""
    obstruct(file)
    failures: Failures = []
    recall = RecallFile(file, lambda _, error: failures.append(error))
    assert recall.read() == []
    recall.append("one")
    recall.append("two")
    assert len(failures) == 1


def test_a_full_disk_is_reported_once(file: Path) -> None:
    """What was cut short is passed over later."""
    program = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
from pathlib import Path
from lmcli.cli.recall_file import RecallFile
recall = RecallFile(Path({str(file)!r}), lambda _, error: print(error.strerror))
recall.append("one")
recall.append("a long line")
recall.append("another")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.count("\n") == 1
    recall = opened(file)
    recall.append("two")
    assert recall.read() == ["one", "two"]


def test_a_symbolic_link_is_followed(file: Path, tmp_path: Path) -> None:
    """The file may lie elsewhere; it is replaced there, and the link stays."""
    file.parent.mkdir(parents=True)
    file.symlink_to(tmp_path / "elsewhere")
    recall = opened(file)
    recall.append("one")
    (tmp_path / "elsewhere").write_text('"x"\n' * (2 * MAX_ENTRIES + 1))
    recall.read()
    recall.append("two")
    assert file.is_symlink()
    assert opened(file).read() == ["x"] * (MAX_ENTRIES - 1) + ["two"]


def test_where_the_file_is(tmp_path: Path) -> None:
    """XDG_STATE_HOME names its folder, or else it lies in the home; LM_NO_TYPED keeps and reads nothing."""

    def kept(**variables: str) -> list[str]:
        env = Environment.of_process()._replace(variables=variables)
        recall = recall_file(env, no_failure)
        if recall is not None:
            recall.append("typed")
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("typed"))

    home, state = str(tmp_path / "home"), str(tmp_path / "state")
    assert kept(HOME=home, LM_NO_TYPED="1") == kept() == []
    assert kept(HOME=home, XDG_STATE_HOME=state) == ["state/lm/typed"]
    assert kept(HOME=home, LM_NO_TYPED="") == ["home/.local/state/lm/typed", "state/lm/typed"]
