"""`python -m index`: what is printed, where, and the exit status."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blip2.errors import UserError
from index.__main__ import main
from tests.index.fake_retriever import COLOURS, FakeRetriever, paint


@pytest.fixture
def run(capsys):
    """Run a command; returns its exit status, stdout and stderr."""

    def command(*arguments, fingerprint="c0ffee"):
        def load(name: str) -> FakeRetriever:
            if name == "nothing":
                raise UserError("The model nothing is unknown; try mini-itm.")
            return FakeRetriever(name, fingerprint)

        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments], load)
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


@pytest.fixture
def built(run, photos, tmp_path) -> Path:
    status, _, _ = run("build", photos, "--out", tmp_path / "index", "--retriever", "colours")
    assert status == 0
    return tmp_path / "index"


def test_build_and_search(run, photos, tmp_path):
    (photos / "bad.jpg").write_text("no photo")
    status, out, err = run("build", photos, "--out", tmp_path / "index")
    assert (status, err) == (0, "")
    first, second = out.splitlines()
    assert first == "3 added, 0 known, 0 gone, 1 refused; the index holds 3 photos"
    assert second.startswith(f"refused: {photos / 'bad.jpg'}: ") and "not in a format" in second
    status, out, _ = run("search", tmp_path / "index", "red", "--k", "2", "--rerank", "2")
    assert status == 0
    assert out.splitlines() == [
        f"   1  1.0000  match 1.000  {photos / 'red.png'}",
        f"   2  1.0000  match 0.667  {photos / 'half.png'}",
    ]


def test_search_json(run, built, photos):
    size = (photos / "half.png").stat().st_size
    (photos / "half.png").unlink()
    status, out, _ = run("search", built, "red", "--json", "--k", "2")
    answer = json.loads(out)
    assert status == 0
    assert (answer["text"], answer["fits"], answer["notes"]) == ("red", True, [])
    half, red = answer["hits"]
    modified = half.pop("modified")
    assert datetime.fromisoformat(modified) > datetime(2024, 1, 1, tzinfo=UTC)
    assert half == {
        "rank": 1, "path": str(photos / "half.png"), "score": pytest.approx(1.0, abs=1e-3),
        "match": None, "missing": True, "size": size, "photo": 1, "away": False,
    }  # fmt: skip
    assert (red["rank"], red["path"], red["missing"]) == (2, str(photos / "red.png"), False)
    assert "half.png  (missing)" in run("search", built, "red")[1]


def test_photos_that_are_away_are_marked(run, built, photos):
    run("build", photos, "--out", built)
    photos.rename(photos.with_name("drive"))
    assert "half.png  (away)" in run("search", built, "red")[1]
    assert json.loads(run("search", built, "red", "--json")[1])["hits"][0]["away"] is True
    photos.mkdir()
    status, out, _ = run("build", photos, "--out", built)
    assert status == 0 and out.startswith("0 added, 0 known, 0 gone, 0 refused; the index holds 3")
    assert "3 files are on a drive or in a folder that is away, and kept until it is back." in out
    photos.rmdir()
    status, out, _ = run("build", photos, "--out", built)
    assert status == 0 and "3 files are on a drive" in out, "the root itself is away"
    assert run("build", photos.with_name("nowhere"), "--out", built)[0] == 2


def test_search_by_photo(run, built, photos, tmp_path):
    answer = json.loads(run("search", built, "--photo", photos / "red.png", "--json")[1])
    names = [Path(hit["path"]).name for hit in answer["hits"]]
    assert names == ["half.png", "blue.png"] and answer["photo"] == str(photos / "red.png")
    asked = paint(tmp_path / "asked.png", "red", "red", "red", "blue")  # not in the index
    status, out, _ = run("search", built, "--photo", asked, "--k", "2")
    assert status == 0 and "half.png" in out.splitlines()[0] and "red.png" in out.splitlines()[1]
    assert run("search", built, "red", "--photo", asked)[0] == 2
    assert "Give either a text" in run("search", built)[2]
    assert "leave it out with --photo" in run("search", built, "--photo", asked, "--rerank", "3")[2]
    assert "does not exist" in run("search", built, "--photo", tmp_path / "none.png")[2]


def test_search_among_some_of_the_photos(run, built, photos):
    def names(*options):
        answer = json.loads(run("search", built, "red", "--json", *options)[1])
        return [Path(hit["path"]).name for hit in answer["hits"]]

    os.utime(photos / "red.png", (1_000_000_000, 1_000_000_000))  # 2001-09-09
    run("build", photos, "--out", built)
    assert names("--in", photos / "sea") == ["blue.png"]
    assert names("--name", "R*.PNG") == ["red.png"]
    assert names("--until", "2001-09-10") == ["red.png"]
    assert names("--until", "2001-09-08") == []
    assert names("--since", "2001-09-10") == ["half.png", "blue.png"]
    assert names("--since", "2001-09-08", "--name", "?e*") == ["red.png"]
    assert "among those" in run("search", built, "red", "--name", "nothing")[2]
    assert run("search", built, "red", "--since", "yesterday")[0] == 2


def test_a_search_says_whether_anything_fits(run, built, photos):
    """As the page does: re-ranked or not, and however few photos are asked for."""
    doubt = "nothing fits well: the model doubts that any photo here shows this\n"
    for options in ([], ["--rerank", "1"], ["--rerank", "3"], ["--k", "1"]):
        assert run("search", built, "red", *options)[::2] == (0, "")
        status, out, err = run("search", built, "green", *options)
        assert (status, err) == (0, doubt) and len(out.splitlines()) == (
            1 if "--k" in options else 3
        )
        for text, fits in (("red", True), ("green", False)):
            status, out, err = run("search", built, text, "--json", *options)
            assert (status, err) == (0, "") and json.loads(out)["fits"] is fits
    # Photos that are gone cannot be judged, and a photo is not looked for in vain.
    assert (
        json.loads(run("search", built, "--photo", photos / "red.png", "--json")[1])["fits"] is None
    )
    for photo in photos.rglob("*.png"):
        photo.unlink()
    status, out, err = run("search", built, "green", "--json")
    assert (status, err) == (0, "") and json.loads(out)["fits"] is None
    assert run("search", built, "green")[2] == ""


def test_what_was_not_read_is_said(run, built, photos):
    status, out, err = run("search", built, "狗 🐶")
    assert (status, out) == (2, "")
    assert err == "error: colours knows no word of this; it reads English.\n"
    status, out, err = run("search", built, "red 狗", "--k", "1")
    assert (status, err) == (0, "note: The model does not know “狗”.\n") and out.count("\n") == 1
    status, out, err = run("search", built, "red 狗", "--json")
    answer = json.loads(out)
    assert (status, err) == (0, "") and answer["hits"]
    assert answer["notes"] == ["The model does not know “狗”."]
    assert json.loads(run("search", built, "red", "--json")[1])["notes"] == []

    status, out, err = run("texts", photos / "red.png", "red", "?!")
    assert (status, out) == (2, "")
    assert err == (
        "error: “?!” cannot be compared: mini-itm knows no word of this; it reads English.\n"
    )
    status, out, err = run("texts", photos / "red.png", "red 狗", "blue")
    assert (status, err) == (0, "note: “red 狗”: The model does not know “狗”.\n")
    assert [line.split()[2] for line in out.splitlines()] == ["red", "blue"]
    answer = json.loads(run("texts", photos / "red.png", "red 狗", "blue", "--json")[1])
    assert answer["notes"] == ["“red 狗”: The model does not know “狗”."]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["build", "PHOTOS", "--out", "NEW"], "the index is as it was after its last commit"),
        (["add", "INDEX", "PHOTOS"], "the index is as it was after its last commit"),
        (["search", "INDEX", "red"], ""),
        (["texts", "PHOTO", "red"], ""),
        (["info", "INDEX", "--retriever", "colours"], ""),
    ],
)
def test_an_interrupt_speaks_of_commits_where_there_are_some(
    built, photos, tmp_path, capsys, arguments, says
):
    def load(name: str) -> FakeRetriever:
        raise KeyboardInterrupt

    places = {
        "PHOTOS": photos,
        "PHOTO": photos / "red.png",
        "INDEX": built,
        "NEW": tmp_path / "new",
    }
    capsys.readouterr()
    assert main([str(places.get(argument, argument)) for argument in arguments], load) == 130
    assert capsys.readouterr() == ("", f"interrupted{': ' * bool(says)}{says}\n")


def test_texts_for_a_photo(run, photos, tmp_path):
    (tmp_path / "more.txt").write_text("blue\n\n white \n")
    status, out, _ = run(
        "texts", photos / "red.png", "green", "red", "--from", tmp_path / "more.txt"
    )
    lines = [line.split() for line in out.splitlines()]
    assert status == 0 and lines[0][::2] == ["1", "red"] and len(lines) == 4
    answer = json.loads(run("texts", photos / "red.png", "green", "red", "--rerank", "--json")[1])
    assert [entry["text"] for entry in answer["texts"]] == ["red", "green"]
    assert answer["texts"][0]["match"] == pytest.approx(1)
    assert "There are no texts" in run("texts", photos / "red.png")[2]
    assert "does not exist" in run("texts", photos / "none.png", "red")[2]


def test_build_again_brings_up_to_date(run, built, photos):
    paint(photos / "green.png", "green")
    status, out, _ = run("build", photos, "--out", built, "--json")
    assert status == 0
    told = json.loads(out)
    assert [told[name] for name in ("added", "known", "gone", "photos")] == [1, 3, 0, 4]
    assert told["refused"] == told["notes"] == []
    # A moved photo is not embedded again, and a deleted one is taken out.
    (photos / "green.png").rename(photos / "moved.png")
    (photos / "red.png").unlink()
    out = run("build", photos, "--out", built)[1]
    assert out == "0 added, 3 known, 2 gone, 0 refused; the index holds 3 photos\n"
    assert "moved.png" in run("search", built, "green")[1].splitlines()[0]

    # Nothing new needs no model.
    def none(name):
        raise AssertionError("a model was loaded")

    assert main(["build", str(photos), "--out", str(built)], none) == 0
    assert main(["build", str(photos), "--out", str(built), "--retriever", "colours"],
                lambda name: FakeRetriever(name)) == 0  # fmt: skip
    # Adding leaves alone what is gone.
    (photos / "moved.png").unlink()
    run("add", built, photos)
    assert "moved.png  (missing)" in run("search", built, "green")[1]
    assert json.loads(run("info", built, "--json")[1])["retriever"] == "colours"


def test_add_and_remove(run, built, photos, tmp_path):
    extra = paint(tmp_path / "extra.png", "green")
    status, out, _ = run("add", built, extra, photos, "--json")
    assert (status, json.loads(out)["added"], json.loads(out)["known"]) == (0, 1, 3)
    status, out, _ = run("remove", built, photos, "--json")
    assert (status, json.loads(out)) == (0, {"removed": 3, "photos": 1})
    status, out, err = run("remove", built, photos)
    assert (status, out) == (2, "")
    assert err.startswith("error: The index ") and "holds nothing of what is named" in err


def test_info_and_verify_need_no_model(run, built, photos):
    (photos / "red.png").unlink()
    status, out, _ = run("info", built)
    assert status == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (lines["photos"], lines["queries"], lines["retriever"]) == ("3", "4", "colours")
    assert lines["store"].startswith("exhaustive")
    status, out, _ = run("verify", built)
    assert status == 0
    assert out.splitlines() == [
        "no damage: 3 photos; 1 files are missing",
        f"missing: {photos / 'red.png'}",
    ]
    assert json.loads(run("verify", built, "--json")[1])["missing"] == [str(photos / "red.png")]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["search", "nowhere", "red"], "There is no index in"),
        (["search", "INDEX", "  "], "The search text is empty"),
        (["search", "INDEX", "\u200b\u2060"], "The search text is empty"),
        (["search", "INDEX", "x" * 10_000], "10,000 characters"),
        (["search", "INDEX", "red", "--k", "0"], "at least 1 photo"),
        (["search", "INDEX", "red", "--k", "-3"], "argument --k: '-3' is not a whole number"),
        (["search", "INDEX", "red", "--retriever", "nothing"], "The model nothing is unknown"),
        (["info", "INDEX", "--retriever", "shapes"], "made with the retriever colours"),
        (["build", "nowhere", "--out", "new"], "nowhere does not exist; check the path."),
        (["build", "EMPTY", "--out", "new"], "There are no photos in"),
        (["add", "INDEX", "nowhere.jpg"], "nowhere.jpg does not exist"),
        (["build", "EMPTY"], "the following arguments are required: --out"),
        (["bild"], "invalid choice: 'bild'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_errors_are_one_line(run, built, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    arguments = [str(built) if argument == "INDEX" else argument for argument in arguments]
    other = "0ther" if "shapes" in arguments else "c0ffee"
    status, out, err = run(*arguments, fingerprint=other)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert says in err
    assert not (tmp_path / "new").exists()


def test_only_bad_files(run, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "bad.jpg").write_text("no photo")
    status, out, err = run("build", tmp_path / "photos", "--out", tmp_path / "index")
    assert status == 2
    assert "refused: " in out and "not in a format" in out
    assert err == "error: None of the files could be used; the report gives the reason for each.\n"


def test_damage_is_an_error(run, built):
    (vectors,) = built.glob("embeddings-*")
    vectors.write_bytes(b"x" * vectors.stat().st_size)
    status, out, err = run("verify", built)
    assert (status, out) == (2, "")
    assert err.startswith("error: The file ") and "is damaged" in err


def test_names_that_are_not_unicode(run, tmp_path):
    name = os.fsdecode(b"caf\xe9\n.png")
    paint(tmp_path / "photos" / "a.png", "red").rename(tmp_path / "photos" / name)
    assert run("build", tmp_path / "photos", "--out", tmp_path / "index")[0] == 0
    out = run("search", tmp_path / "index", "red")[1]
    assert out.rstrip("\n").endswith(r"photos/caf\xe9\n.png")
    found = json.loads(run("search", tmp_path / "index", "red", "--json")[1])
    assert found["hits"][0]["path"] == f"{tmp_path}/photos/caf\\xe9\n.png"


@pytest.mark.parametrize("command", ["build", "add", "remove", "search", "info", "verify"])
def test_help_has_an_example(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0
    assert f"example: python -m index {command} " in out


def test_help_loads_nothing_heavy():
    script = """
import sys
sys.argv = ["index", "--help"]
from index.__main__ import main
try:
    main()
finally:
    print(sorted({"torch", "faiss", "numpy", "PIL", "transformers", "tqdm"} & set(sys.modules)))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert "example: python -m index build" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_search_of_a_new_index(run, photos, tmp_path):
    """By size unless it is forced; `info` tells both what was asked for and what is done."""

    def info(out: Path) -> dict:
        return json.loads(run("info", out, "--json")[1])

    for search in ("auto", "exhaustive", "candidates"):
        status, _, err = run("build", photos, "--out", tmp_path / search, "--search", search)
        assert (status, err) == (0, "")
        found = info(tmp_path / search)
        # Three photos are too few for FAISS to be trained on.
        assert found["search"] == search and found["store"].startswith("exhaustive")
    colours = list(COLOURS)
    for number in range(300):
        four = [colours[number // 5**place % 5] for place in range(4)]
        paint(photos / "many" / f"{number}.png", *four)
    for search, how in [
        ("auto", "exhaustive"),
        ("candidates", "IVF"),
        ("exhaustive", "exhaustive"),
    ]:
        assert run("build", photos, "--out", tmp_path / search)[0] == 0
        assert info(tmp_path / search)["store"].startswith(how)
    answers = [run("search", tmp_path / search, "red") for search in ("auto", "candidates")]
    assert answers[0] == answers[1] and len(answers[0][1].splitlines()) == 12
    status, _, err = run("build", photos, "--out", tmp_path / "auto", "--search", "candidates")
    assert status == 2 and "was made with another --search or --store" in err
    assert run("build", photos, "--out", tmp_path / "auto", "--search", "auto")[0] == 0
    status, _, err = run("build", photos, "--out", tmp_path / "none", "--search", "fast")
    assert status == 2 and "invalid choice: 'fast'" in err and err.count("\n") == 1
