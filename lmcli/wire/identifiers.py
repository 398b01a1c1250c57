"""What LM Studio accepts as the identifier of a loaded model, and as the path of a model.

Source: lmstudio-js 6ec11db, lms-shared-types/src/reasonable.ts
"""

from typing import Final

from lmcli.errors import UsageError, quoted

MAX_IDENTIFIER_CHARACTERS: Final = 1024

# Controls, formats such as U+200D, surrogates and private use; the schema refuses what is unassigned as well, but what
# is assigned depends on the version of Unicode, which need not be the server's, except for the noncharacters.
_REFUSED_CATEGORIES: Final = ("Cc", "Cf", "Cs", "Co")


def identifier_violation(name: str) -> str | None:
    """Say why a text is not an identifier, as the predicate of a sentence; None if it is one."""
    if not name:
        return "is empty"
    count = javascript_length(name)
    if count > MAX_IDENTIFIER_CHARACTERS:
        return f"has {count} characters, more than {MAX_IDENTIFIER_CHARACTERS}"
    if name == "__proto__":
        return "is a name that LM Studio reserves"
    return None if name.isascii() and name.isprintable() else _control_character(name)


def javascript_length(text: str) -> int:
    """The number of characters as JavaScript counts them: two for one that is not in the first plane of Unicode."""
    return len(text) if text.isascii() else sum(1 + (char > "\uffff") for char in text)


def check_identifier(name: str) -> None:
    """Refuse what is not an identifier.

    Raises:
        UsageError: it is empty, too long or reserved, or has a control character.
    """
    if (violation := identifier_violation(name)) is not None:
        raise UsageError(f"the identifier {quoted(name, limit=60)} {violation}")


def _control_character(name: str) -> str | None:
    from unicodedata import category  # noqa: PLC0415  hardly any identifier needs it

    found = next((c for c in name if category(c) in _REFUSED_CATEGORIES or _is_noncharacter(ord(c))), None)
    return None if found is None else f"has a control character, U+{ord(found):04X}"


def _is_noncharacter(code: int) -> bool:
    return 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
