"""Names and sentences as they leave the program."""

import json
import os

import pytest

from blip2.display import displayable, one_line, to_json

LATIN = os.fsdecode(b"caf\xe9.jpg")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("caf\u00e9 \U0001f468\u200d\U0001f469.jpg", "caf\u00e9 \U0001f468\u200d\U0001f469.jpg"),
        (LATIN, r"caf\xe9.jpg"),
        (os.fsdecode(b"\x80\xff"), r"\x80\xff"),
        ("cut \ud83d", r"cut \ud83d"),  # half an emoji, as a cut leaves it; no byte
        ("two\nlines", "two\nlines"),
        (ValueError(f"The file {LATIN} is empty."), r"The file caf\xe9.jpg is empty."),
    ],
)
def test_what_is_not_unicode_is_escaped(value, shown):
    assert displayable(value) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("\U0001f468\u200d\U0001f469 \u0645\u06cc\u200c\u062e", None),  # what joins letters stays
        (" spaces  stay ", None),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("red\x1b[31m\x07\x7f\x9b", r"red\x1b[31m\x07\x7f\x9b"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("\u202egpj.exe\u2066", r"\u202egpj.exe\u2066"),
        (f"{LATIN}\n", r"caf\xe9.jpg\n"),
    ],
)
def test_a_line_stays_a_line(value, shown):
    assert one_line(value) == (value if shown is None else shown)
    assert len(one_line(value).splitlines()) == 1


def test_json_holds_what_is_displayable_and_nothing_else_changes():
    value = {LATIN: [LATIN, ("a\nb", 1.5, None, True)], "deep": {"er": {LATIN: 3}}}
    text = to_json(value, ensure_ascii=False)
    text.encode()
    assert json.loads(text) == {
        r"caf\xe9.jpg": [r"caf\xe9.jpg", ["a\nb", 1.5, None, True]],
        "deep": {"er": {r"caf\xe9.jpg": 3}},
    }
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json([float("nan")], allow_nan=False)
