"""An index that was made before photos were read as they are now is brought up to date."""

import shutil
import sqlite3
from pathlib import Path

import pytest
from PIL import Image

from blip2.processing import READING_VERSION
from index import IndexFileError, PhotoIndex
from index.__main__ import main
from index.folder import OtherWeightsError
from index.grow import UpdateOptions
from index.manifest import Manifest
from index.split import Share, build_share
from tests.index.fake_retriever import FakeRetriever, paint
from tests.index.old_index import make_old


@pytest.fixture
def old(tmp_path, photos) -> Path:
    """An index of four photos, one of which a phone has turned; it is read differently now."""
    turned = Image.new("RGB", (16, 8), "red")
    turned.paste((0, 255, 0), (8, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(photos / "turned.jpg", exif=exif)
    shutil.copy(photos / "turned.jpg", photos / "zcopy.jpg")
    index = PhotoIndex.create(tmp_path / "index", FakeRetriever())
    index.add([photos])
    assert len(index) == 4
    make_old(tmp_path / "index")
    return tmp_path / "index"


def versions(index: PhotoIndex) -> list[int]:
    with index.folder.reading() as library:
        return [library.reading_of(photo) for photo in library.ids()]


def test_an_old_index_is_searched_as_it_is(old, retriever):
    index = PhotoIndex.open(old, retriever)
    assert len(index.search("red", k=9)) == 4 and index.verify() == []
    assert versions(index) == [1] * 4
    assert Manifest.read(old).mounts == []


def test_what_is_read_differently_is_embedded_anew(old, photos):
    retriever, said = FakeRetriever(), []
    index = PhotoIndex.open(old, retriever)
    before = {hit.path: hit.photo for hit in index.search("red", k=9)}
    report = index.update([photos], options=UpdateOptions(say=said.append))
    assert said == [
        "Photos are read differently since this index was made (turned upright once, in their own "
        "colours): 1 of 4 are embedded anew."
    ]
    assert (report.added, report.renewed, report.known, retriever.embedded) == (0, 1, 5, 1)
    assert versions(index) == [READING_VERSION] * 4 and index.verify() == []
    after = {hit.path: hit.photo for hit in index.search("red", k=9)}
    assert [path for path in after if after[path] != before[path]] == [photos / "turned.jpg"]
    with index.folder.reading() as library:
        copies = [place.path.name for place in library.places_of(after[photos / "turned.jpg"])]
    assert sorted(copies) == ["turned.jpg", "zcopy.jpg"]
    assert PhotoIndex.open(old, FakeRetriever()).update([photos]).renewed == 0


def test_a_kill_on_the_way_costs_little(old, photos, monkeypatch):
    monkeypatch.setattr("index.grow.COMMITTED_AT_ONCE", 1)
    for number in range(6):
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.new("RGB", (8, 8), (40 * number, 9, 9)).save(photos / f"{number}.jpg", exif=exif)
    index = PhotoIndex.open(old, FakeRetriever())
    index.update([photos])
    make_old(old)

    class Stopping(FakeRetriever):
        def embed_pixels(self, pixels):
            if self.embedded == 4:
                raise KeyboardInterrupt
            return super().embed_pixels(pixels)

    with pytest.raises(KeyboardInterrupt):
        PhotoIndex.open(old, Stopping()).update([photos])
    retriever = FakeRetriever()
    index = PhotoIndex.open(old, retriever)
    report = index.update([photos])
    assert (report.renewed, retriever.embedded, len(index)) == (3, 3, 10)
    assert index.verify() == []


def test_photos_that_are_away_are_brought_up_to_date_when_they_return(old, photos, retriever):
    shutil.move(photos, photos.with_name("away"))
    index = PhotoIndex.open(old, retriever)
    photos.mkdir()
    report = index.update([photos])
    assert (report.renewed, report.away, versions(index)) == (0, 5, [1] * 4)
    photos.rmdir()
    shutil.move(photos.with_name("away"), photos)
    assert index.update([photos]).renewed == 1
    assert versions(index) == [READING_VERSION] * 4


def test_a_damaged_row_gets_no_checksum_that_fits(old, photos, retriever):
    connection = sqlite3.connect(old / "library.sqlite")
    connection.execute("UPDATE photos SET width = 99 WHERE id = 2")
    connection.commit()
    connection.close()
    index = PhotoIndex.open(old, retriever)
    with pytest.raises(IndexFileError):
        index.update([photos])
    with pytest.raises(IndexFileError, match="not what"):
        PhotoIndex.open(old, retriever).verify()


def test_an_index_of_other_weights_is_refused_by_search_and_rebuilt_by_build(
    tmp_path, photos, capsys
):
    out = tmp_path / "index"
    other = paint(tmp_path / "other" / "white.png", "white")
    first = FakeRetriever("colours", "old")
    PhotoIndex.create(out, first).add([photos, other])
    with pytest.raises(OtherWeightsError, match="other weights of colours; embed its photos anew"):
        PhotoIndex.open(out, FakeRetriever("colours", "new"))

    def run(*arguments) -> tuple[int, str, str]:
        given = [str(argument) for argument in arguments]
        status = main(given, lambda name: FakeRetriever(name, "new", dim=16))
        return status, *capsys.readouterr()

    status, _, err = run("search", out, "red")
    assert status == 2 and "made with other weights" in err and "index build PHOTOS" in err
    status, told, err = run("build", photos, "--out", out, "--retriever", "colours")
    assert status == 0, err
    assert err.splitlines() == [
        "This index was made with other weights of colours: all photos are embedded anew."
    ]
    assert told.startswith("4 added, 0 known, 0 gone")
    manifest = Manifest.read(out)
    assert (manifest.fingerprint, manifest.dim, manifest.photos) == ("new", 16, 4)
    status, told, _ = run("search", out, "white", "--k", 1)
    assert status == 0 and "white.png" in told
    assert run("verify", out)[0] == 0
    assert run("build", photos, "--out", out)[1].startswith("0 added, 3 known")


def test_a_split_build_brings_an_old_index_up_to_date(old, photos, retriever):
    report = build_share(old, [photos], Share(0, 1), retriever)
    assert (report.added, report.renewed, report.known, retriever.embedded) == (0, 1, 5, 1)
    index = PhotoIndex.open(old, retriever)
    assert versions(index) == [READING_VERSION] * 4 and index.verify() == []
