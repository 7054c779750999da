"""Damaged, foreign, locked and unwritable indexes: one sentence each, and nothing lost."""

import json
import os
import resource
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from blip2.errors import UserError
from index import IndexFileError, PhotoIndex
from index.embed import Embedded
from index.segment_store import SegmentStore
from tests.index.fake_retriever import FakeRetriever, paint


@pytest.fixture
def folder(library) -> Path:
    """The folder of the index of three photos."""
    return Path(library.info()["folder"])


def refusal(folder: Path, retriever) -> str:
    """Return the one sentence with which an index is refused."""
    with pytest.raises(IndexFileError) as caught:
        PhotoIndex.open(folder, retriever)
    assert isinstance(caught.value, UserError)
    sentence = str(caught.value)
    assert str(folder) in sentence
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


def vectors(folder: Path) -> Path:
    (path,) = folder.glob("embeddings-*.npy")
    return path


@pytest.mark.parametrize("place", [0, 9, 40, 200, 300, -1])
def test_one_flipped_bit_in_the_vectors(folder, retriever, place):
    """Noticed when the file is opened, or when the photo is first compared with a text."""
    data = bytearray(vectors(folder).read_bytes())
    data[place] ^= 1
    vectors(folder).write_bytes(data)
    with pytest.raises(IndexFileError, match=r"(?s)embeddings-1\.npy of the index is damaged"):
        PhotoIndex.open(folder, retriever).search("red")
    with pytest.raises(IndexFileError, match="damaged"):
        PhotoIndex.open(folder, None).verify()


@pytest.mark.parametrize("place", [0, 60, 128, -1])
def test_one_flipped_bit_in_the_rows(folder, retriever, place):
    path = folder / "rows-1.npy"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert "rows-1.npy" in refusal(folder, retriever)


def test_vectors_cut_or_gone(folder, retriever):
    data = vectors(folder).read_bytes()
    vectors(folder).write_bytes(data[:100])
    assert f"100 bytes instead of {len(data):,}" in refusal(folder, retriever)
    vectors(folder).unlink()
    assert "embeddings-1.npy cannot be read (No such file" in refusal(folder, retriever)


def test_vectors_of_another_index(folder, retriever, tmp_path):
    other = PhotoIndex.create(tmp_path / "other", retriever)
    other.add([paint(tmp_path / "g.png", "green")])
    shutil.copy(vectors(tmp_path / "other"), vectors(folder))
    assert "damaged" in refusal(folder, retriever)


def test_rows_of_another_index(folder, retriever, tmp_path, photos):
    other = PhotoIndex.create(tmp_path / "other", retriever)
    other.add([photos])
    shutil.copy(tmp_path / "other" / "library.sqlite", folder / "library.sqlite")
    assert "do not belong together" in refusal(folder, retriever)


def test_older_rows(folder, retriever, library, tmp_path):
    shutil.copy(folder / "library.sqlite", tmp_path / "copy")
    library.add([paint(tmp_path / "g.png", "green")])
    shutil.copy(tmp_path / "copy", folder / "library.sqlite")
    assert "do not belong together" in refusal(folder, retriever)


def test_a_definition_that_is_no_text(folder, retriever):
    """SQLite quotes it in its error, and Python can't read that as UTF-8."""
    data = (folder / "library.sqlite").read_bytes()
    spoilt = data.replace(b"CREATE TABLE", b"CREATE T\xa0BLE", 1)
    assert spoilt != data
    (folder / "library.sqlite").write_bytes(spoilt)
    assert "library.sqlite gives" in refusal(folder, retriever)


def test_rows_spoilt_or_gone(folder, retriever):
    (folder / "library.sqlite").write_bytes(b"no database" * 1000)
    assert "file is not a database" in refusal(folder, retriever)
    (folder / "library.sqlite").unlink()
    assert "unable to open database file" in refusal(folder, retriever)
    assert not (folder / "library.sqlite").exists(), "looking must not make an empty one"


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "{}", '{"format": 2}', "[" * 10_000, b"\xff\xfe\x00"]
)
def test_manifest_spoilt(folder, retriever, text):
    (folder / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "manifest.json is not readable" in refusal(folder, retriever)


def test_one_changed_digit_in_the_manifest(folder, retriever):
    text = (folder / "manifest.json").read_text()
    assert '"generation": 1,' in text
    (folder / "manifest.json").write_text(text.replace('"generation": 1,', '"generation": 0,'))
    assert "damaged" in refusal(folder, retriever)


def test_another_format(folder, retriever, monkeypatch, tmp_path):
    monkeypatch.setattr("index.manifest.FORMAT", 5)
    monkeypatch.setattr("index.manifest.READABLE", (5,))
    PhotoIndex.create(tmp_path / "later", retriever)
    monkeypatch.undo()
    assert "has format 5, this version reads format 4" in refusal(tmp_path / "later", retriever)


def test_another_model(folder):
    sentence = refusal(folder, FakeRetriever(name="shapes", fingerprint="other"))
    assert "made with the retriever colours, not with shapes" in sentence
    assert "made with other weights of colours" in refusal(folder, FakeRetriever(fingerprint="x"))
    assert len(PhotoIndex.open(folder, FakeRetriever(name="renamed"))) == 3


def test_no_index(tmp_path, retriever):
    assert "There is no index" in refusal(tmp_path / "nowhere", retriever)
    (tmp_path / "file").touch()
    assert "There is no index" in refusal(tmp_path / "file", retriever)


def test_folder_taken(folder, photos, retriever, tmp_path):
    before = sorted(os.listdir(photos))
    with pytest.raises(IndexFileError, match="is not empty; give the index a new folder"):
        PhotoIndex.create(photos, retriever)
    assert sorted(os.listdir(photos)) == before
    with pytest.raises(IndexFileError, match=r"There is an index in .* already; add photos"):
        PhotoIndex.create(folder, retriever)
    (folder / "manifest.json").unlink()
    with pytest.raises(IndexFileError, match="is not empty"):
        PhotoIndex.create(folder, retriever)
    (tmp_path / "file").touch()
    with pytest.raises(IndexFileError, match="could not be made"):
        PhotoIndex.create(tmp_path / "file", retriever)


def tamper(folder, *statements):
    connection = sqlite3.connect(folder / "library.sqlite")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_verify_compares_photos_with_files(folder, library):
    tamper(folder, "UPDATE places SET photo = 77 WHERE photo = 2")
    with pytest.raises(IndexFileError, match="1 photos have files but no row; 1 photos have no"):
        library.verify()
    with pytest.raises(IndexFileError, match="photos without a file"):
        library.search("red")


def test_verify_compares_photos_with_vectors(folder, library):
    tamper(
        folder,
        "UPDATE places SET photo = 77 WHERE photo = 2",
        "UPDATE photos SET id = 77 WHERE id = 2",
    )
    with pytest.raises(IndexFileError, match=r"rows of photos .*; photos and vectors differ"):
        library.verify()


@pytest.mark.parametrize(
    ("limit", "says"), [(8_000, "library.sqlite gives"), (150_000, "too large")]
)
def test_disk_full(tmp_path, limit, says):
    """The limit of a file's size stands in for the end of the disk: writing fails for real."""
    retriever = FakeRetriever(dim=1024)
    index = PhotoIndex.create(tmp_path / "index", retriever)
    index.add([paint(tmp_path / "first.png", "red")])
    for i in range(20):
        paint(tmp_path / "more" / f"{i}.png", "blue", size=2 * i + 2)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with pytest.raises(IndexFileError) as caught:
            index.add([tmp_path / "more"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert says in str(caught.value)
    assert "disk space" in str(caught.value)
    for same in (index, PhotoIndex.open(tmp_path / "index", retriever)):
        assert [hit.path.name for hit in same.search("blue")] == ["first.png"]
        assert same.verify() == []
    assert index.add([tmp_path / "more"]).added == 20
    assert index.verify() == []


def test_a_second_writer_is_told(folder, library, photos, monkeypatch):
    monkeypatch.setattr("index.manifest.BUSY_TIMEOUT", 0.1)
    with FileLock(folder / "write.lock"):
        with pytest.raises(IndexFileError, match="is busy: another process has been writing it"):
            library.remove([photos])
        assert len(library.search("red")) == 3, "readers go on"
    assert library.remove([photos]) == 3


def test_changes_of_another_process_are_seen(folder, library, retriever, photos, tmp_path):
    other = PhotoIndex.open(folder, retriever)
    other.add([paint(tmp_path / "g.png", "green")])
    assert library.search("green")[0].path.name == "g.png"
    assert len(library) == 4
    assert library.add([tmp_path / "g.png"]).known == 1
    library.remove([photos])
    assert len(other) == 1
    shutil.rmtree(folder)
    with pytest.raises(IndexFileError, match="There is no index"):
        other.search("green")


def test_an_index_built_anew_in_its_place(folder, library, retriever, tmp_path):
    shutil.rmtree(folder)
    PhotoIndex.create(folder, retriever).add([paint(tmp_path / "g.png", "green")])
    assert [hit.path.name for hit in library.search("red")] == ["g.png"]


class Meddling(FakeRetriever):
    """Lets somebody else change the index while the photos are being embedded."""

    meddle = None

    def embed_pixels(self, pixels):
        meddle, self.meddle = self.meddle, None
        if meddle:
            meddle()
        return super().embed_pixels(pixels)


def test_two_adding_the_same_photo(folder, retriever, tmp_path):
    path = paint(tmp_path / "g.png", "green")
    meddling = Meddling()
    meddling.meddle = lambda: PhotoIndex.open(folder, retriever).add([path])
    index = PhotoIndex.open(folder, meddling)
    report = index.add([path])
    assert (report.added, report.known, len(index)) == (0, 1, 4)
    assert index.verify() == []


def test_a_copy_of_a_photo_that_is_removed_meanwhile(folder, retriever, photos, tmp_path):
    """Known when it was read, unknown at the commit: it must be embedded after all."""
    shutil.copy(photos / "red.png", tmp_path / "copy.png")
    new = paint(tmp_path / "g.png", "green")
    meddling = Meddling()
    meddling.meddle = lambda: PhotoIndex.open(folder, retriever).remove([photos / "red.png"])
    index = PhotoIndex.open(folder, meddling)
    report = index.add([tmp_path / "copy.png", new])
    assert (report.added, report.known, report.refused) == (2, 0, [])
    assert "copy.png" in [hit.path.name for hit in index.search("red", k=2)]
    assert index.verify() == []


def test_a_search_overtaken_by_commits(folder, library, retriever, photos, tmp_path):
    """Its rows are gone when it comes to look them up: it must look again, not fail."""
    other = PhotoIndex.open(folder, retriever)
    store = library._folder.state().store
    nearest = store.nearest

    def slowly(query, count, among=None):
        found = nearest(query, count, among)
        other.remove([photos / "half.png"])
        other.remove([photos / "sea"])
        other.add([paint(tmp_path / "g.png", "green")])
        return found

    store.nearest = slowly
    assert [hit.path.name for hit in library.search("red")] == ["red.png", "g.png"]


def test_opening_while_another_commits(folder, library, retriever, photos, monkeypatch):
    """The vectors named by the manifest just read are gone: there is a newer manifest."""
    load = SegmentStore.open

    def late(*args, **kwargs):
        monkeypatch.undo()
        library.remove([photos / "red.png"])
        library.remove([photos / "half.png"])
        return load(*args, **kwargs)

    monkeypatch.setattr(SegmentStore, "open", late)
    index = PhotoIndex.open(folder, retriever)
    assert [hit.path.name for hit in index.search("red")] == ["blue.png"]


def test_a_failure_of_the_model_changes_nothing(folder, retriever, tmp_path):
    class Failing(FakeRetriever):
        def embed_pixels(self, pixels):
            raise RuntimeError("out of memory")

    index = PhotoIndex.open(folder, Failing())
    with pytest.raises(RuntimeError, match="out of memory"):
        index.add([paint(tmp_path / "g.png", "green")])
    assert index.info()["generation"] == 1


def test_manifest_names_what_lies_there(folder, library):
    fields = json.loads((folder / "manifest.json").read_text())
    assert fields["fingerprint"] == "c0ffee"
    assert fields["photos"] == len(library) == 3
    (record,) = fields["store"]["segments"]
    assert record["bytes"] == vectors(folder).stat().st_size and record["photos"] == 3


def test_nothing_to_commit(folder, library):
    nothing = Embedded(np.empty((0, 4, 8), dtype=np.float32))
    assert library._folder.commit(nothing).added == 0
    assert library.info()["generation"] == 1
