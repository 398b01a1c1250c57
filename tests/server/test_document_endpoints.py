"""The text of uploaded documents: which can be parsed, and what the others are refused with."""

import base64
import zipfile
from io import BytesIO

import pytest
from conftest import Connect, Packet, Wire

import lmcli
from lmcli.server.background import Running

PARSER = {"library": "lmcli", "version": lmcli.__version__}


def word() -> bytes:
    """An empty document of Word."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", "<w:document/>")
    return content.getvalue()


@pytest.fixture
def files(server: Running, connect: Connect) -> Wire:
    """A connection to the namespace."""
    return connect(server, "/files")


def upload(files: Wire, content: bytes, name: str = "notes.md") -> Packet:
    """Upload a file."""
    answer: Packet = files.result(
        "uploadFileBase64", {"name": name, "contentBase64": base64.b64encode(content).decode()}
    )
    return answer


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("# Titel\n\nnaïve 😀\r\n".encode(), "# Titel\n\nnaïve 😀\r\n"),
        (b"\xef\xbb\xbfwith a mark", "with a mark"),
        (b"", ""),
        (b"line\n" * 100_000, "line\n" * 100_000),
    ],
    ids=["Markdown", "byte order mark", "empty", "half a megabyte"],
)
def test_a_text_file_is_parsed(files: Wire, content: bytes, text: str) -> None:
    """Its text is sent as it is, but for the mark that says that it is UTF-8."""
    asked = {"fileIdentifier": upload(files, content)["identifier"]}
    assert files.result("getDocumentParsingLibrary", asked) == PARSER
    assert files.stream("parseDocument", {**asked, "parseOpts": {"parserId": PARSER}}) == [
        {"type": "parserLoaded", "parser": PARSER},
        {"type": "progress", "progress": 1},
        {"type": "result", "content": text, "parser": PARSER},
    ]


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"%PDF-1.7", "application/pdf"), (word(), "application/word"), (b"\0\xff", "unknown")],
    ids=["PDF", "Word", "binary"],
)
def test_other_documents_are_refused(files: Wire, content: bytes, kind: str) -> None:
    """With their name and their type."""
    uploaded = upload(files, content, "a b.doc")
    assert uploaded["fileType"] == kind
    asked = {"fileIdentifier": uploaded["identifier"]}
    expected = f"Cannot parse 'a b.doc': this server parses text files only, not files of the type {kind}"
    assert files.stream("parseDocument", {**asked, "parseOpts": {}})[-1]["title"] == expected
    assert files.call("getDocumentParsingLibrary", asked)["error"]["title"] == expected


def test_what_is_not_there_is_refused(files: Wire) -> None:
    """An unknown file, another parser, the path of an upload, and a search."""
    asked = {"fileIdentifier": upload(files, b"text")["identifier"]}
    other = {"parserId": {"library": "other", "version": "1"}}
    assert "document parser" in files.stream("parseDocument", {**asked, "parseOpts": other})[-1]["title"]
    missing = {"fileIdentifier": "nope", "parseOpts": {}}
    assert files.stream("parseDocument", missing)[-1]["title"] == "File not found: 'nope'"
    assert "not found" in files.call("getLocalFileAbsolutePath", {"fileName": "notes.md"})["error"]["title"]
    search = {"query": "text", "fileIdentifiers": [asked["fileIdentifier"]], "config": {"fields": []}}
    assert "does not retrieve" in files.stream("retrieve", search)[-1]["title"]
