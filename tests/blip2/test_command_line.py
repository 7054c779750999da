"""`python -m blip2`: what is printed, where, and the exit status."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import blip2
from blip2.__main__ import main


class Reader:
    """Stands in for the model: it answers with what reached it."""

    loads: list[tuple[str, str | None]]

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def from_pretrained(cls, name: str, *, device: str | None = None) -> "Reader":
        cls.loads.append((name, device))
        return cls(name)

    def caption(self, photo: Image.Image, instruction: str, **decoding: int) -> str:
        return f"{photo.width} wide, {instruction!r}, beams {decoding['num_beams']}, é"

    def chat(self, photo: Image.Image) -> "Conversation":
        return Conversation(photo)


class Conversation:
    def __init__(self, photo: Image.Image) -> None:
        self.photo = photo

    def ask(self, question: str, **decoding: int) -> str:
        return f"{question} It is {self.photo.width} wide, beams {decoding['num_beams']}."


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> type[Reader]:
    Reader.loads = []
    monkeypatch.setattr(blip2, "Blip2", Reader, raising=False)
    return Reader


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (30, 20), "red").save("a.png")
    Image.new("RGB", (40, 20), "red").save("b.jpg")
    Path("bad.jpg").write_text("no picture")
    return tmp_path


def test_one_photo_prints_the_caption_alone(photos, capsys, reader) -> None:
    assert main(["caption", "a.png"]) == 0
    assert capsys.readouterr() == ("30 wide, '', beams 1, é\n", "")
    assert reader.loads == [("mini", None)]


def test_options_reach_the_model(photos, capsys, reader) -> None:
    folder = blip2.__path__[0] + "/pretrained/mini"
    options = ["--instruction", " Where? ", "--num-beams", "5", "--model", folder]
    assert main(["caption", "a.png", *options, "--device", "cpu"]) == 0
    assert capsys.readouterr() == ("30 wide, 'Where?', beams 5, é\n", "")
    assert reader.loads == [(folder, "cpu")]


def test_names_that_are_not_unicode_or_more_than_a_line(photos, capsys) -> None:
    latin, lines, dashed = os.fsdecode(b"caf\xe9.png"), "a\tb\n.png", "-x.png"
    for name in (latin, lines, dashed):
        os.link("a.png", name)
    missing = os.fsdecode(b"\xe8.png")
    assert main(["caption", "--", latin, lines, dashed, missing]) == 1
    out, err = capsys.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        r"caf\xe9.png",
        r"a\tb\n.png",
        "-x.png",
    ]
    assert err == "error: The file \\xe8.png does not exist; check the path.\n"
    assert main(["caption", "--json", latin, lines, f"./{dashed}", missing]) == 1
    out, _ = capsys.readouterr()
    records = [json.loads(line) for line in out.encode().splitlines()]
    assert [record["photo"] for record in records] == [
        r"caf\xe9.png",
        "a\tb\n.png",
        "./-x.png",
        r"\xe8.png",
    ]
    assert records[-1]["error"] == r"The file \xe8.png does not exist; check the path."
    assert main(["ask", "--json", "--", latin, "--what?"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["photo"], answer["question"]) == (r"caf\xe9.png", "--what?")


def test_several_photos_print_a_line_each_and_load_once(photos, capsys, reader) -> None:
    assert main(["caption", "a.png", "b.jpg"]) == 0
    out, err = capsys.readouterr()
    assert out == "a.png\t30 wide, '', beams 1, é\nb.jpg\t40 wide, '', beams 1, é\n"
    assert err == ""
    assert len(reader.loads) == 1


def test_a_bad_photo_does_not_stop_the_others(photos, capsys) -> None:
    assert main(["caption", "bad.jpg", "a.png", "gone.png", "b.jpg"]) == 1
    out, err = capsys.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == ["a.png", "b.jpg"]
    assert err == (
        "error: The file bad.jpg is not in a format that is read here; use JPEG, PNG, WebP, GIF, "
        "BMP, TIFF, HEIC or AVIF.\n"
        "error: The file gone.png does not exist; check the path.\n"
    )


def test_json_has_one_object_for_every_photo(photos, capsys) -> None:
    assert main(["caption", "a.png", "gone.png", "--json"]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {"photo": "a.png", "caption": "30 wide, '', beams 1, é", "model": "mini"},
        {"photo": "gone.png", "error": "The file gone.png does not exist; check the path."},
    ]
    assert "é" in out  # as it is, not as an escape
    assert err == "error: The file gone.png does not exist; check the path.\n"


def test_with_no_good_photo_the_model_is_not_loaded(photos, capsys, reader) -> None:
    assert main(["caption", "bad.jpg", "gone.png"]) == 2
    assert main(["ask", "bad.jpg", "What is it?"]) == 2
    assert capsys.readouterr().out == ""
    assert reader.loads == []


def test_what_is_wrong_with_a_photo_that_was_read(photos, capsys) -> None:
    Path("b.jpg").write_bytes(Path("b.jpg").read_bytes()[:-2])
    for command in (["caption", "b.jpg"], ["ask", "b.jpg", "How wide?"]):
        assert main(command) == 0
        out, err = capsys.readouterr()
        assert "40 wide" in out and err == "note: b.jpg: Its end is missing.\n"


def test_what_is_no_photo_is_refused_in_a_sentence(photos, capsys, reader) -> None:
    for argument, sentence in (
        ("http://example.org/a.jpg", "Photos are not fetched from addresses such as http://ex"),
        ("data:image/png;base64,", "The given photo is empty"),
        ("x" * 5000, "A text of 5,000 characters is no path"),
    ):
        assert main(["caption", argument]) == 2
        assert capsys.readouterr().err.startswith(f"error: {sentence}")
    assert reader.loads == []


def test_ask(photos, capsys) -> None:
    assert main(["ask", "b.jpg", " How wide? ", "--num-beams", "3"]) == 0
    assert capsys.readouterr() == ("How wide? It is 40 wide, beams 3.\n", "")
    assert main(["ask", "b.jpg", "How wide?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "photo": "b.jpg",
        "question": "How wide?",
        "answer": "How wide? It is 40 wide, beams 1.",
        "model": "mini",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "a.png", " "], "The question is empty; write a few words."),
        (["caption", ".", "--json"], ". is a folder; give a photo in it instead."),
        (
            ["caption", "a.png", "--model", "nothing"],
            "There is no model 'nothing': it is neither embedded (mini, mini-itm) nor a folder "
            "with config.json; correct the name.",
        ),
        (
            ["caption", "a.png", "--instruction", "x" * 10_000],
            "The instruction has 10,000 characters; shorten it to at most 2,000.",
        ),
    ],
)
def test_errors_are_one_line(arguments, message, photos, capsys) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("beams", ["0", "-1", "two", "1.5"])
def test_beams_are_counted(beams: str, photos, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["caption", "a.png", f"--num-beams={beams}"])
    assert stop.value.code == 2
    assert f"'{beams}' is not a whole number from 1 up" in capsys.readouterr().err


def test_the_real_command_answers_quickly_and_without_a_trace(photos) -> None:
    folder = Path(blip2.__path__[0]).parent

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "blip2", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    start = time.perf_counter()
    shown = run("caption", "--help")
    seconds = time.perf_counter() - start
    assert shown.returncode == 0
    assert "python -m blip2 caption beach.jpg" in shown.stdout
    assert seconds < 1
    refused = run("caption", str(photos / "bad.jpg"))
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("error: The file ")
