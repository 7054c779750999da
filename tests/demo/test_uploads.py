from pathlib import Path

import pytest

from blip2.errors import UserError
from demo.uploads import received_file, received_number, received_text


@pytest.mark.parametrize(
    ("name", "expected"),
    [("cat.jpg", "cat.jpg"), ("../../etc/cat.jpg", "cat.jpg"), ("C:\\photos\\cat.jpg", "cat.jpg")],
)
def test_of_a_name_only_the_last_part_is_kept(sent, name, expected):
    photo = sent("x.png") | {"orig_name": name}
    assert received_file(photo) == (Path(photo["path"]), expected)


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{home}/../photos/red.png",
        "{home}/link.png",
        "{home}",
        "http://127.0.0.1/a.png",
        "a.png",
        "\0",
        "{home}/\ud800",
    ],
)
def test_a_file_that_was_never_received_is_refused(sent, photos, tmp_path, path, meta):
    """Gradio lets paths through that a request does not call files."""
    sent("x.png")
    (tmp_path / "received" / "link.png").symlink_to(photos[0])
    given = {"path": path.format(home=tmp_path / "received")} | meta
    with pytest.raises(UserError, match="did not come as a file; upload it as a file"):
        received_file(given)


@pytest.mark.parametrize("number", [0, 49, -1, 10**9, None, "12", float("nan"), True])
def test_an_odd_number_is_refused_by_name(number):
    with pytest.raises(UserError, match="The number of photos"):
        received_number(number, "number of photos", 1, 48)
    assert received_number(12.0, "number of photos", 1, 48) == 12


@pytest.mark.parametrize("text", [["a"], {"a": 1}, 7])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(UserError, match="The question is not a text"):
        received_text(text, "question")
