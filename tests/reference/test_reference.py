"""What is generated is up to date, complete, and accepted by those that read it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from shells import ROOT, program

import lmcli
from lmcli.cli import app, dialogue_commands
from lmcli.cli.environment import VARIABLES
from lmcli.errors import EXIT_MEANINGS, ExitCode
from lmcli.reference.__main__ import generated, stale
from lmcli.reference.manual import PAGES, page, prose_of
from lmcli.reference.readme import help_of
from lmcli.reference.tree import Command, commands
from lmcli.wire import prediction_config as config
from lmcli.wire.load_config import LOAD_KEYS

COMMANDS = commands()
SIGNALS = {128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)}
PAGE_OF = {path: f"lm-{path.partition(' ')[0]}" if path else "lm" for path in COMMANDS if path != "help"}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def plain(name: str) -> str:
    """A man page as its source, without the escapes that a hyphen and a quote need."""
    text = (ROOT / "man" / f"{name}.1").read_text(encoding="utf-8")
    return text.replace("\\-", "-").replace("\\(aq", "'").replace("\\&", "")


def help_text(path: str = "") -> str:
    """What `lm COMMAND --help` prints."""
    return run(sys.executable, "-m", "lmcli", *path.split(), "--help").stdout


def test_everything_generated_is_up_to_date() -> None:
    """`python -m lmcli.reference --check` has nothing to say."""
    checked = run(sys.executable, "-m", "lmcli.reference", "--check")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_what_is_stale_is_named(tmp_path: Path) -> None:
    """A file that differs, or is missing, is found."""
    files = generated(ROOT)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    assert stale(files, tmp_path) == []
    (tmp_path / "man" / "lm.1").unlink()
    (tmp_path / "README.md").write_text("other")
    assert stale(files, tmp_path) == [Path("man/lm.1"), Path("README.md")]


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("reader", [("groff", "-mdoc", "-ww", "-z"), ("mandoc", "-T", "lint", "-W", "warning")])
def test_readers_of_man_pages_find_nothing_to_warn_about(name: str, reader: tuple[str, ...]) -> None:
    """Groff and mandoc read each page without a word."""
    ran = run(program(reader[0]), *reader[1:], f"man/{name}.1")
    assert (ran.stdout, ran.stderr) == ("", "")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_its_sections(name: str) -> None:
    """In the order that man pages have."""
    titles = re.findall(r"^\.Sh (.*)", plain(name), re.MULTILINE)
    expected = "NAME, SYNOPSIS, DESCRIPTION, OPTIONS, ENVIRONMENT, FILES, EXIT STATUS, EXAMPLES, SEE ALSO"
    assert [title for title in titles if title not in ("OUTPUT", "BATCH")] == expected.split(", ")
    assert "OUTPUT" not in titles or titles.index("OUTPUT") == titles.index("OPTIONS") + 1


def test_every_command_has_a_page() -> None:
    """Its own, or that of the command above it."""
    assert set(PAGE_OF.values()) == set(PAGES)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.path or "lm")
def test_every_option_is_in_help_and_man_page(command: Command) -> None:
    """Each name of each option; the completions are asked for theirs elsewhere."""
    shown = help_text(command.path)
    written = plain(PAGE_OF.get(command.path, "lm"))
    for name in (name for option in command.options for name in option.names):
        assert re.search(rf"(?<!\S){name}\b", shown), name
        assert command.path == "help" or f"Fl {name[1:]}" in written, name


def test_the_man_page_describes_options_as_the_help_does() -> None:
    """Word by word, wherever the lines break."""
    shown = " ".join(help_of("respond").split())
    for option in COMMANDS["respond"].options:
        words = option.help.replace("…", "...").split()
        assert " ".join(words) in " ".join(plain("lm-respond").split())
        assert " ".join(option.help.split()) in shown, option.names


def test_every_exit_status_has_a_meaning() -> None:
    """Each code of the enum, and each signal that `lm` dies of."""
    assert set(EXIT_MEANINGS) == set(ExitCode) | SIGNALS


def test_exit_statuses_are_in_help_and_readme() -> None:
    """Each with its meaning."""
    shown, readme = help_text(), (ROOT / "README.md").read_text(encoding="utf-8")
    for status, meaning in EXIT_MEANINGS.items():
        assert re.search(rf"^ +{int(status)} +{re.escape(meaning)}$", shown, re.MULTILINE)
        assert f"| {int(status)} | {meaning} |" in readme.replace("`", "")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_exit_statuses_of_its_commands(name: str) -> None:
    """Those that its commands may end with, and no others."""
    section = plain(name).partition("\n.Sh EXIT STATUS\n")[2].partition("\n.Sh ")[0]
    written = {int(status): meaning for status, meaning in re.findall(r"^\.It (\d+)\n(.+)", section, re.MULTILINE)}
    tables = [app.COMMANDS[path].statuses for path, page in PAGE_OF.items() if page == name and path] or [EXIT_MEANINGS]
    assert written == {status: meaning for table in tables for status, meaning in table.items()}


def test_environment_variables_are_in_help_man_pages_and_readme() -> None:
    """Each with its meaning; on the pages of the commands that read it, and no others."""
    shown, readme = help_text(), (ROOT / "README.md").read_text(encoding="utf-8")
    for variable in VARIABLES:
        assert re.search(rf"^ +{variable.name}\s+{re.escape(variable.meaning)}$", shown, re.MULTILINE)
        assert f"| {variable.name} | {variable.meaning} |" in readme.replace("`", "")
        readers = {PAGE_OF[path] for path, c in COMMANDS.items() if any(variable.option in o.names for o in c.options)}
        assert readers
        assert {name for name in PAGES if f".It Ev {variable.name}\n" in plain(name)} == readers | {"lm"}


def test_the_help_of_an_option_names_its_variable() -> None:
    """And names no variable that the table does not know."""
    for command in COMMANDS.values():
        if command.path == "serve":
            continue
        for option in command.options:
            expected = {v.name for v in VARIABLES if v.is_value and v.option in option.names}
            assert set(re.findall(r"\bLM[A-Z]*_[A-Z_]+", option.notes)) == expected


def test_every_variable_that_is_read_is_in_the_table() -> None:
    """The code asks the environment for nothing that is not documented."""
    package = Path(lmcli.__file__).parent
    text = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    asked = re.findall(r"""(?:setting|environment\.get|environ\.get|getenv)\(\s*["'](\w+)["']""", text)
    asked += re.findall(r"""^\w+_VARIABLES?: Final = \(?(.*?)\)?$""", text, re.MULTILINE)
    names = {name for found in asked for name in re.findall(r"[A-Z_]{4,}", found)}
    documented = " ".join(f"{variable.name} {variable.meaning}" for variable in VARIABLES).split()
    assert names - {"PATH", "PYTHONPATH"} <= set(documented)  # these belong to the system and to Python
    assert {"LM_HOST", "LM_MODEL", "LM_TIMEOUT", "LM_API_TOKEN", "NO_COLOR"} <= names


def test_every_field_of_set_is_in_the_manual_page() -> None:
    """Name after the prefix, type and range, as `lm` knows them."""
    section = plain("lm-respond").partition(".Ss Fields of --set\n")[2].partition("\n.Sh ")[0]
    written = dict(re.findall(r"^\.It Cm (\S+)\n(.+)", section, re.MULTILINE))
    known = (*config.OPTIONS.values(), *config.UNNAMED)
    assert written.keys() == {option.key.removeprefix("llm.prediction.") for option in known}
    assert written["maxPredictedTokens"] == "whole number, at least 1, with a switch; also maxTokens"
    assert written["topKSampling"] == "whole number, -1 to 500"
    assert written["toolNaming"] == "one of passThrough, removeSpecial, snakeCase, camelCase"
    assert written["llama.logitBias"] == "array"


def test_every_field_of_a_load_is_in_the_manual_page() -> None:
    """The same, in the page of the command that loads models."""
    section = plain("lm-models").partition(".Ss Fields of --set\n")[2].partition("\n.Sh ")[0]
    written = dict(re.findall(r"^\.It Cm (\S+)\n(.+)", section, re.MULTILINE))
    assert written.keys() == {key.removeprefix("llm.load.") for key in LOAD_KEYS}
    assert written["numParallelSessions"] == "whole number, 1 to 1023; also maxParallelPredictions"
    assert written["llama.acceleration.offloadRatio"] == "number, 0 to 1, or one of max, off; also gpuRatio"
    assert written["llama.flashAttention"] == "true or false"


def test_commands_of_the_dialogue_are_in_its_page() -> None:
    """What `/help` lists, and whether each takes an argument, which may be optional."""
    written = re.findall(r"^\.It Cm (/\w+)(?: (Op|Ar) .+)?$", plain("lm-chat"), re.MULTILINE)
    marks = {"": "", "[": "Op"}
    assert written == [
        (name, marks.get(command.argument[:1], "Ar")) for name, command in dialogue_commands.COMMANDS.items()
    ]


def test_help_begins_with_an_example() -> None:
    """One example right after the summary, before the options."""
    for path, command in COMMANDS.items():
        if path:
            before = help_text(path).partition("\nOptions:")[0]
            assert f"  Example: {command.example}\n" in before


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path or "lm")
def test_help_fits_a_terminal(path: str, columns: int) -> None:
    """No line of a help is longer, and names leave room for what is said of them: it is not much longer, either."""
    lines = run("env", f"COLUMNS={columns}", sys.executable, "-m", "lmcli", *path.split(), "--help").stdout.splitlines()
    assert [line for line in lines if len(line) > columns] == []
    assert len(lines) < 3 * len(help_text(path).splitlines())


def test_the_list_of_commands_fits_a_terminal() -> None:
    """`lm` alone shows each command with all that it says of it, beside its name."""
    shown = subprocess.run(
        ["env", "COLUMNS=40", sys.executable, "-m", "lmcli"], capture_output=True, text=True, check=False
    ).stderr
    assert "  stats     Measure a model with the\n            prompt on stdin, or sum up\n" in shown
    assert [line for line in shown.splitlines() if len(line) > 40] == []


def test_help_speaks_no_syntax_of_its_library() -> None:
    """Defaults without ranges; an argument that must be given stands without brackets, others in them."""
    texts = {path: help_text(path) for path in COMMANDS}
    assert not [path for path, text in texts.items() if re.search(r"x[<>]=|\{|\[required\]", text)]
    assert "  [default: 1]\n" in texts["stats"]
    assert texts["models load"].startswith("Usage: lm models load [OPTIONS] KEY\n")
    assert texts["models unload"].startswith("Usage: lm models unload [OPTIONS] [IDENTIFIER]...\n")


def test_help_says_what_is_true_of_its_command() -> None:
    """Only a conversation leaves a full context to the server; where nothing takes its time, nothing shows progress."""
    texts = {path: " ".join(help_text(path).split()) for path in ("respond", "complete", "stats", "chat", "models")}
    for path in ("respond", "complete", "stats"):
        assert "When the context is full. [default: stop] " in texts[path]
    assert "When the context is full. [default: what the server does] " in texts["chat"]
    assert [path for path, text in texts.items() if "--progress" in text] == ["respond", "complete", "stats", "chat"]
    assert " chat " not in texts["complete"].replace("no chat template", "")


def test_the_example_of_a_command_is_in_its_man_page() -> None:
    """What the help shows, the page explains."""
    for path, command in COMMANDS.items():
        if path not in ("", "help", "models load"):
            assert command.example in prose_of(PAGE_OF[path], ROOT), path


def test_a_page_escapes_what_it_shows() -> None:
    """Shell in an example is printed as it is typed, whatever mdoc makes of such characters."""
    prose = (
        ".Dd November 20, 2026\n.Sh DESCRIPTION\nText.\n.Sh FILES\nNone.\n.Sh EXAMPLES\n.Bd -literal -offset indent\n"
    )
    shell = ".hidden --x 'a\\b' `c` ^d ~e"
    written = page("lm", COMMANDS, f"{prose}{shell}\n.Ed\n")
    assert r"\&.hidden \-\-x \(aqa\eb\(aq \(gac\(ga \(had \(tie" in written


def test_no_command_loads_the_generators() -> None:
    """Making the documentation is not a part of any command."""
    code = "import sys; from lmcli.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"
    loaded = run(sys.executable, "-c", code, "help").stdout.splitlines()[-1].split()
    assert "lmcli.cli.commands.help" in loaded
    assert [name for name in loaded if name.startswith("lmcli.reference")] == []


def test_help_alone_is_the_help_of_lm() -> None:
    """`lm help` says what `lm --help` says."""
    assert run(sys.executable, "-m", "lmcli", "help").stdout == help_text()
