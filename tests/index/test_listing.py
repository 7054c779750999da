"""What is taken from folders, what is left out, and what is said of it."""

import json
from pathlib import Path

import pytest

from index import PhotoIndex
from index.__main__ import main
from index.grow import UpdateOptions
from index.listing import list_photos
from tests.index.fake_retriever import FakeRetriever, paint

OTHERS = [
    "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/a.png", "@Recycle/a.png",
    "$RECYCLE.BIN/a.png", "System Volume Information/a.png", "__MACOSX/a.png", "lost+found/a.png",
    ".Trash-1000/files/a.png", ".Trashes/a.png", "sub/@EADIR/a.png", "Thumbs.db",
]  # fmt: skip


def names(files, root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in files]


def test_bins_and_thumbnails_are_left_out(tmp_path):
    for name in OTHERS:
        paint(tmp_path / Path(name).with_suffix(".png"), "red")
    paint(tmp_path / "good.png", "red")
    paint(tmp_path / "recycle" / "good.png", "red")
    assert names(list_photos([tmp_path]).files, tmp_path) == [
        "Thumbs.png", "good.png", "recycle/good.png",
    ]  # fmt: skip


def test_no_media_leaves_out_a_folder_and_those_in_it(tmp_path):
    paint(tmp_path / "a" / "b" / "deep.png", "red")
    paint(tmp_path / "good.png", "red")
    (tmp_path / "a" / ".nomedia").touch()
    listing = list_photos([tmp_path])
    assert names(listing.files, tmp_path) == ["good.png"]
    assert listing.leaves_out(tmp_path / "a" / "b" / "deep.png")


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["screenshots"], ["a/IMG_1.png", "a/raw/x.png", "b.tif"]),
        (["*.TIF", "raw"], ["Screenshots/s.png", "a/IMG_1.png"]),
        (["a/raw/*"], ["Screenshots/s.png", "a/IMG_1.png", "b.tif"]),
        (["/a/"], ["Screenshots/s.png", "b.tif"]),
        (["img_?.png", "München"], ["Screenshots/s.png", "a/raw/x.png", "b.tif"]),
        ([""], ["Screenshots/s.png", "a/IMG_1.png", "a/raw/x.png", "b.tif"]),
    ],
)
def test_patterns(tmp_path, patterns, left):
    for name in ("Screenshots/s.png", "a/IMG_1.png", "a/raw/x.png", "b.tif"):
        paint(tmp_path / name, "red")
    assert sorted(names(list_photos([tmp_path], patterns).files, tmp_path)) == left


def test_patterns_are_compared_in_normal_form(tmp_path):
    paint(tmp_path / "Mu\u0308nchen" / "a.png", "red")
    assert list_photos([tmp_path], ["M\u00fcnchen"]).files == []


def test_patterns_are_kept_and_take_out_what_they_name(tmp_path, photos, retriever):
    index = PhotoIndex.create(tmp_path / "index", retriever)
    index.update([photos])
    report = index.update([photos], options=UpdateOptions(exclude=["sea"]))
    assert (report.gone, len(index)) == (1, 2)
    assert index.info()["exclude"] == ["sea"]
    paint(photos / "sea" / "new.png", "green")
    report = index.update([photos])
    assert (report.added, report.gone, len(index)) == (0, 0, 2)
    assert index.update([photos], options=UpdateOptions(exclude=[""])).added == 2


@pytest.fixture
def run(capsys):
    def command(*arguments):
        status = main([str(argument) for argument in arguments], lambda name: FakeRetriever(name))
        return status, *capsys.readouterr()

    return command


def test_what_is_not_read_is_counted(run, photos, tmp_path):
    for name in ("a.CR2", "b.cr2", "notes.txt", *(f"{n}.mp4" for n in range(14)), "x.jxl"):
        (photos / name).touch()
    status, out, _ = run("build", photos, "--out", tmp_path / "index")
    assert status == 0
    assert "1 .jxl, 2 .cr2, 14 .mp4 were left out: not read here.\n" in out
    told = json.loads(run("build", photos, "--out", tmp_path / "index", "--json")[1])
    assert told["not_read"] == {".cr2": 2, ".jxl": 1, ".mp4": 14}


def test_a_folder_without_photos_says_what_lies_there(run, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    status, _, err = run("build", folder, "--out", tmp_path / "index")
    assert (status, err) == (
        2, f"error: There are no photos in {folder}; give a folder that holds some.\n",
    )  # fmt: skip
    for name in ("a.mov", "b.mov", "list.txt", "README"):
        (folder / name).touch()
    status, _, err = run("build", folder, "--out", tmp_path / "index")
    assert status == 2
    assert "no photos in" in err and ", but 1 without a suffix, 1 .txt, 2 .mov;" in err
    assert not (tmp_path / "index").exists()
