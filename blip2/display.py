"""Names and sentences made fit to leave the program: for JSON, the browser and the terminal.

A file name need not be UTF-8. Python keeps each byte that is not as half of a surrogate pair, which
no JSON, browser or terminal takes.
"""

import json
import re
from typing import Any

_HALF_PAIR = re.compile("[\ud800-\udfff]")
# Control characters, what breaks a line, and what turns the direction of the text around it.
_NOT_ON_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def displayable(value: object) -> str:
    """Return a path, name or sentence as text that can be encoded.

    Parameters
    ----------
    value : object
        Its ``str`` is shown.

    Returns
    -------
    str
        The same, with a byte that is not UTF-8 as ``\\xe9``, any other half of a surrogate pair as
        ``\\ud83d``.
    """
    return _HALF_PAIR.sub(_escaped_half, str(value))


def one_line(value: object) -> str:
    """Return what `displayable` does on one line: control characters as ``\\n`` or ``\\x1b``."""
    return _NOT_ON_A_LINE.sub(lambda found: repr(found[0])[1:-1], displayable(value))


def to_json(value: Any, **options: Any) -> str:
    """Return a value as JSON, every text in it as `displayable` returns it.

    Parameters
    ----------
    value : Any
        Of dicts with texts as keys, lists, tuples, texts, numbers, booleans and None.
    **options
        As for `json.dumps`.
    """
    return json.dumps(_with_displayable_texts(value), **options)


def _with_displayable_texts(value: Any) -> Any:
    if isinstance(value, str):
        return displayable(value)
    if isinstance(value, dict):
        return {displayable(key): _with_displayable_texts(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_with_displayable_texts(own) for own in value]
    return value


def _escaped_half(found: re.Match[str]) -> str:
    code = ord(found[0])
    # So `os.fsdecode` keeps the bytes 0x80 to 0xff.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
