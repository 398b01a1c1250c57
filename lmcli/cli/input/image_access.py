"""Which images of this machine a history may have uploaded: it may come from elsewhere, and name any file."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from lmcli.chat import ImagePart
from lmcli.cli.input.document import Document
from lmcli.client.images import is_data_url
from lmcli.errors import BadInput, quoted


def require_access(history: Document, named: Sequence[Path]) -> None:
    """Refuse a history that refers to an image outside the working directory, unless the user has named that, too.

    Args:
        history: the history.
        named: the files that the user has named.

    Raises:
        BadInput: the history is not valid, or refers to such an image.
    """
    allowed = set(map(os.path.realpath, named))
    for part in (part for message in history.chat().messages for part in message.content):
        if isinstance(part, ImagePart) and not is_data_url(part.source):
            path = Path(part.source)
            if not (is_below_working_directory(path) or os.path.realpath(path) in allowed):
                what = f"the history refers to the image {quoted(path)}, which is not below the working directory"
                hint = "allows it and attaches it again; in a folder above it, no -f is needed"
                raise BadInput(what, f"-f {shlex.quote(str(path))} {hint}")


def is_below_working_directory(path: Path) -> bool:
    """Whether a path leads to a place below the working directory, symbolic links resolved."""
    try:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(Path.cwd()))
    except OSError:  # the working directory has been removed
        return False
    except ValueError:  # a null byte: there is no such file, neither here nor elsewhere
        return True
