import os
from pathlib import Path

import pytest
from PIL import Image

from demo.library import THUMBNAIL, library_folder, open_library, sample_photos
from index import IndexFileError
from tests.index.fake_retriever import FakeRetriever, paint


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BLIP2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def names(library, text: str) -> list[str]:
    return [shown.name for shown in library.search(text, 12, rerank=False).shown]


def test_a_folder_is_indexed_once(tmp_path, photos, retriever):
    steps: list[tuple[int, int]] = []
    library, report = open_library(
        retriever, tmp_path / "photos", None, tmp_path / "t", lambda *step: steps.append(step)
    )
    assert (len(library), report.added, steps[-1]) == (3, 3, (3, 3))
    library, report = open_library(retriever, tmp_path / "photos", None, tmp_path / "t")
    assert (len(library), report.added, retriever.embedded) == (3, 0, 3)
    paint(tmp_path / "photos" / "new.png", "green")
    library, report = open_library(retriever, tmp_path / "photos", None, tmp_path / "t")
    assert (len(library), report.added, retriever.embedded) == (4, 1, 4)
    assert names(library, "green")[0] == "new.png"


def test_an_index_of_an_older_version_does_not_stand_in_the_way(
    tmp_path, photos, retriever, monkeypatch
):
    monkeypatch.setattr("index.manifest.FORMAT", 1)
    open_library(retriever, tmp_path / "photos", None, tmp_path / "t")
    monkeypatch.undo()
    monkeypatch.setenv("BLIP2_CACHE", str(tmp_path / "cache"))
    library, report = open_library(retriever, tmp_path / "photos", None, tmp_path / "t")
    assert (len(library), report.added) == (3, 3)


def test_folders_and_models_have_an_index_each(tmp_path, cache):
    one, two = tmp_path / "a" / "photos", tmp_path / "b" / "photos"
    folders = {library_folder(place, mark) for place in (one, two, None) for mark in ("x", "y")}
    assert len(folders) == 6
    assert all(folder.is_relative_to(cache) for folder in folders)


def test_a_given_index_is_used_as_it_is(tmp_path, photos, retriever):
    open_library(retriever, tmp_path / "photos", tmp_path / "own", tmp_path / "t")
    library, report = open_library(retriever, None, tmp_path / "own", tmp_path / "t")
    assert (len(library), report.added) == (3, 0)


def test_an_index_of_another_model_is_refused(tmp_path, photos, retriever):
    open_library(retriever, tmp_path / "photos", tmp_path / "own", tmp_path / "t")
    other = FakeRetriever(fingerprint="0dd")
    with pytest.raises(IndexFileError):
        open_library(other, tmp_path / "photos", tmp_path / "own", tmp_path / "t")


def test_there_are_samples_to_search_without_any_folder(tmp_path, retriever):
    found = {path.stem for path in sample_photos()}
    assert {"cheetah", "lion", "tower", "chelsea", "astronaut", "coffee", "rocket"} <= found
    library, report = open_library(retriever, None, None, tmp_path / "t")
    assert len(library) == report.added == len(sample_photos())
    assert [name for _, name in library.first()] == [path.name for path in sample_photos()]


def test_results_are_small_copies_in_order(tmp_path, retriever):
    paint(tmp_path / "photos" / "large.png", "red", size=2000)
    library, _ = open_library(retriever, tmp_path / "photos", None, tmp_path / "t")
    (shown,) = library.search("red", 12, rerank=False).shown
    assert shown.thumbnail.parent == tmp_path / "t"
    with Image.open(shown.thumbnail) as small:
        assert (small.format, small.size) == ("JPEG", (THUMBNAIL, THUMBNAIL))
        red, green, _ = small.getpixel((9, 9))
    assert red > 240 and green < 15


def test_a_changed_photo_gets_a_new_thumbnail(library, photos):
    before = library.thumbnail(photos[1])
    assert library.thumbnail(photos[1]) == before
    paint(photos[1], "green", size=32)
    os.utime(photos[1], ns=(1, 1))
    assert library.thumbnail(photos[1]) != before


def test_a_deleted_photo_is_named_and_the_others_are_shown(library, photos):
    photos[1].unlink()
    found = library.search("red", 12, rerank=False)
    assert [shown.name for shown in found.shown] == ["half.png", "blue.png"]
    assert found.lost == ["red.png"]


def test_a_photo_damaged_since_is_named_too(library, photos):
    photos[2].write_bytes(b"no picture any more")
    assert library.search("blue", 12, rerank=False).lost == ["blue.png"]


def test_reranking_changes_the_order_and_gives_probabilities(library):
    assert names(library, "red") == ["half.png", "red.png", "blue.png"]
    found = library.search("red", 12, rerank=True)
    assert found.shown[0].name == "red.png"
    assert found.shown[0].hit.match == pytest.approx(1)


def test_added_photos_are_copied_and_found(library, sent, tmp_path):
    report, refused = library.add([(Path(sent("my sea!.png", "green")["path"]), "my sea!.png")])
    assert (report.added, refused) == (1, [])
    (kept,) = (tmp_path / "index" / "uploads").rglob("*.*")
    assert kept.name == "my-sea.png"
    assert names(library, "green")[0] == "my-sea.png"


def test_a_name_cannot_lead_out_of_the_library(library, sent, tmp_path):
    library.add([(Path(sent("a.png", "green")["path"]), "../../../evil/.. .php")])
    (kept,) = (tmp_path / "index" / "uploads").rglob("*.*")
    assert kept.suffix == ".png" and "evil" not in str(kept)


def test_refused_files_leave_nothing_behind(library, sent, tmp_path):
    files = [(Path(sent("a.jpg", content)["path"]), "a.jpg") for content in (b"", b"text")]
    report, refused = library.add(files)
    assert report.added == 0
    assert [name for name, _ in refused] == ["a.jpg", "a.jpg"]
    assert "is empty" in refused[0][1] and "not a picture" in refused[1][1]
    assert not (tmp_path / "index" / "uploads").exists()
    assert len(library) == 3


def test_the_same_photo_is_not_added_twice(library, sent):
    first, _ = library.add([(Path(sent("a.png", "green")["path"]), "a.png")])
    again, _ = library.add([(Path(sent("b.png", "green")["path"]), "b.png")])
    assert (first.added, again.added, again.known) == (1, 0, 1)
    assert len(library) == 4
