"""File names that are not UTF-8, of more than a line, in another normal form, behind links."""

import json
import random
import sys
import unicodedata
from pathlib import Path

import pytest

from index import PhotoIndex, Where
from index.__main__ import main
from index.places import LOOK_ALIKES, Place, normalised, plain_start, spellings
from tests.index.fake_retriever import FakeRetriever, paint
from tests.odd_names import COMPOSED, DECOMPOSED, LATIN, ODD, paint_odd


@pytest.fixture
def run(capsys):
    """Run a command; returns its exit status, stdout and stderr."""

    def command(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments], lambda name: FakeRetriever())
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def found(run):
    """Paths that a search of an index gives with some options."""

    def search(index: Path, *options) -> set[str]:
        status, text, _ = run("search", index, "red", "--k", "99", "--json", *options)
        assert status == 0
        return {hit["path"] for hit in json.loads(text)["hits"]}

    return search


@pytest.fixture
def odd(tmp_path) -> dict[str, Path]:
    return paint_odd(tmp_path / LATIN)


def test_odd_names_are_text_in_json_and_a_line_each_on_the_terminal(run, found, odd, tmp_path):
    out = tmp_path / f"{LATIN}.index"
    (tmp_path / LATIN / f"bad\n{LATIN}.png").write_text("no picture")
    status, text, _ = run("build", tmp_path / LATIN, "--out", out, "--json")
    assert (status, json.loads(text)["added"]) == (0, len(ODD))
    assert json.loads(text)["refused"][0]["path"] == f"{tmp_path}/caf\\xe9/bad\ncaf\\xe9.png"
    paths = found(out)
    assert len(paths) == len(ODD) and "".join(paths).encode()
    assert f"{tmp_path}/caf\\xe9/caf\\xe9.png" in paths
    assert f"{tmp_path}/caf\\xe9/two\nlines.png" in paths
    assert json.loads(run("info", out, "--json")[1])["folder"] == f"{tmp_path}/caf\\xe9.index"
    lines = run("search", out, "red", "--k", "99")[1].splitlines()
    assert len(lines) == len(ODD) and all(line.startswith(" ") for line in lines)
    assert any(line.endswith(r"/caf\xe9/two\nlines.png") for line in lines)
    assert not any("\x1b" in line or "\u202e" in line for line in lines)
    for path in odd.values():
        path.unlink()
    lines = run("verify", out)[1].splitlines()
    assert len(lines) == 1 + len(ODD) and r"missing: " in lines[1]
    assert len(json.loads(run("verify", out, "--json")[1])["missing"]) == len(ODD)
    status, text, err = run("build", tmp_path / LATIN, "--out", tmp_path / f"no\n{LATIN}")
    assert status == 2 and r"caf\xe9/bad\ncaf\xe9.png: " in text and err.count("\n") == 1


def test_every_odd_file_is_asked_for_removed_and_added_by_its_name(run, odd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / LATIN)
    assert run("build", "--out", tmp_path / "index", "--", *(p.name for p in odd.values()))[0] == 0
    for path in odd.values():
        answer = json.loads(
            run("search", tmp_path / "index", "--photo", f"./{path.name}", "--json", "--k", "99")[1]
        )
        assert len(answer["hits"]) == len(ODD) - 1  # without itself
        status, text, _ = run("remove", tmp_path / "index", "--json", "--", path.name)
        assert (status, json.loads(text)["removed"]) == (0, 1)
        status, text, _ = run("add", tmp_path / "index", "--json", "--", path.name)
        assert (status, json.loads(text)["added"]) == (0, 1)
    for name in ("-x.png", "--help.png", f"{LATIN}.png"):
        text = run("texts", "--json", "--", name, "red", "green")[1]
        assert json.loads(text)["photo"] == name.replace(LATIN, r"caf\xe9")


@pytest.mark.parametrize(
    ("stored", "typed"), [(DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED), ("\u212aiosk", "Kiosk")]
)
def test_folders_and_names_are_found_in_every_normal_form(run, found, tmp_path, stored, typed):
    assert stored != typed
    inside = paint(tmp_path / "photos" / stored / "deep" / f"{stored}.png", "red")
    paint(tmp_path / "photos" / f"{stored} 2" / "other.png", "blue")
    out = tmp_path / "index"
    run("build", tmp_path / "photos", "--out", out)
    for folder in (typed, stored, f"{typed}/deep", f"{stored}/deep/"):
        assert found(out, "--in", tmp_path / "photos" / folder) == {str(inside)}
    for name in (f"{typed}.png", f"{stored.upper()}*", f"?{typed[1:]}.???", f"*{stored[-4:]}.png"):
        assert found(out, "--name", name) == {str(inside)}
    assert found(out, "--in", tmp_path / "photos" / typed[:-1]) == set()
    status, text, _ = run("remove", out, tmp_path / "photos" / typed, "--json")
    assert (status, json.loads(text)) == (0, {"removed": 1, "photos": 1})


def test_of_two_names_in_two_forms_the_very_one_is_removed(run, found, tmp_path):
    """Linux keeps both; a search of one finds both, but only what was named is taken out."""
    for number, name in enumerate((COMPOSED, DECOMPOSED)):
        paint(tmp_path / "photos" / name / "a.png", "red", size=16 + 2 * number)
    run("build", tmp_path / "photos", "--out", tmp_path / "index")
    for name in (COMPOSED, DECOMPOSED):
        assert len(found(tmp_path / "index", "--in", tmp_path / "photos" / name)) == 2
    assert run("remove", tmp_path / "index", tmp_path / "photos" / COMPOSED)[0] == 0
    assert found(tmp_path / "index") == {f"{tmp_path}/photos/{DECOMPOSED}/a.png"}


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("caf?.png", LATIN),  # a byte is one letter, as the shell has it
        (r"caf\xe9.png", LATIN),  # as it is displayed
        (f"{LATIN}*", LATIN),  # as the shell completes it
        (r"two\nlines*", "two\nlines"),
        ("two?lines.png", "two\nlines"),
        ("STRASSE*", "stra\u00dfe"),
        ("\u00c9COLE.PNG", "e\u0301cole"),
        ("what[?].png", "what?"),
        ("[[]1].png", "[1]"),
    ],
)
def test_a_pattern_finds_a_name_as_it_is_and_as_it_is_displayed(pattern, name, tmp_path):
    assert Where(name=pattern).admits(Place(tmp_path / f"{name}.png", 1, 1))
    assert not Where(name=pattern).admits(Place(tmp_path / "cafes.png", 1, 1))


def test_no_other_characters_become_ascii():
    characters = map(chr, range(0x80, sys.maxunicode + 1))
    normal = {one: unicodedata.normalize("NFC", one) for one in characters}
    assert {one: to for one, to in normal.items() if to.isascii()} == LOOK_ALIKES


def test_a_plain_start_is_that_of_every_normal_form():
    draw = random.Random(0)
    letters = (
        "aeKk;`=<Zu/"
        + "\u0301\u0308\u0338\u0327"
        + "\u00fc\u00e9\u226e\uac00\u1100\u1161\U0001f389"
    )
    for _ in range(20_000):
        folder = "/" + "".join(draw.choices(letters, k=draw.randint(0, 8)))
        start = plain_start(Path(folder)).decode()
        assert start
        for form in ("NFC", "NFD"):
            other = unicodedata.normalize(form, str(Path(folder)))
            assert other.startswith(start), (folder, other)


def test_where_and_the_index_agree_about_every_folder(tmp_path):
    """SQLite narrows down what Python then compares: nothing may be lost on the way."""
    draw = random.Random(1)
    parts = ["a", "aK", "a\u212a", "e", "e\u0301", "\u00e9", "e\u0301\u0327", "\u0229\u0301", LATIN]
    files = sorted({tuple(draw.choices(parts, k=draw.randint(1, 3))) for _ in range(150)})
    photo = paint(tmp_path / "seed.png", "red")
    index = PhotoIndex.create(tmp_path / "index", FakeRetriever())
    paths = []
    for number, names in enumerate(files):
        path = Path(tmp_path, "photos", *names, "p.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo.read_bytes() + bytes([number]))
        paths.append(path)
    assert index.add([tmp_path / "photos"]).added == len(files)
    for names in files:
        folder = Path(tmp_path, "photos", *names)
        inside = normalised(folder) + "/"
        expected = {path for path in paths if normalised(path).startswith(inside)}
        hits = index.search("red", 999, where=Where(folder))
        assert {hit.path for hit in hits} == expected and folder / "p.png" in expected


def test_links_on_the_way_to_a_folder(run, found, tmp_path):
    real = tmp_path / "real"
    photo = paint(real / "sub" / "a.png", "red")
    paint(real / "b.png", "red", size=18)
    elsewhere = paint(tmp_path / "elsewhere" / "in" / "c.png", "red", size=20)
    (real / "inner").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "again").symlink_to(tmp_path / "link")
    out = tmp_path / "index"
    run("build", real, "--out", out)
    for top in ("real", "link", "again"):
        assert found(out, "--in", tmp_path / top / "sub") == {str(photo)}
        assert found(out, "--in", tmp_path / top / "inner") == {f"{real}/inner/in/c.png"}
        assert found(out, "--in", tmp_path / top / "inner" / "in") == {f"{real}/inner/in/c.png"}
        assert len(found(out, "--in", tmp_path / top)) == 3
    assert found(out, "--in", elsewhere.parent) == set()  # not where the index has it
    assert spellings(tmp_path / "link" / "inner" / "in") == [
        tmp_path / "link" / "inner" / "in",
        real / "inner" / "in",
        elsewhere.parent,
    ]
    run("add", out, elsewhere.parent)
    assert len(found(out, "--in", tmp_path / "link" / "inner", "--name", "c*")) == 1
    status, text, _ = run("remove", out, tmp_path / "link" / "sub", "--json")
    assert (status, json.loads(text)["removed"]) == (0, 1)
    status, text, _ = run("remove", out, real / "inner", "--json")  # not what it leads to
    assert json.loads(text)["removed"] == 1 and found(out) >= {str(elsewhere)}


def test_help_says_how_names_are_compared(capsys):
    with pytest.raises(SystemExit):
        main(["search", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "file names as a shell has them, such as 'IMG_*'; * ? and [ab] are special" in said
    assert "files in it, through links, too" in said
