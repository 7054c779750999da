import os
from datetime import datetime
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from blip2.errors import UserError
from demo.finding import found_html
from demo.library import Library, library_folder, sample_photos
from demo.library_notes import forget_label, notes_html
from demo.opening import open_library
from demo.thumbnails import THUMBNAIL, Thumbnails
from index import IndexFileError, PhotoIndex
from tests.index.fake_retriever import FakeRetriever, paint
from tests.index.old_index import make_old


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


def test_a_library_of_the_version_before_is_brought_up_to_date(tmp_path, photos, cache):
    open_library(FakeRetriever(), tmp_path / "photos", None, tmp_path / "t")
    (folder,) = (cache / "libraries").iterdir()
    assert folder == library_folder(tmp_path / "photos", FakeRetriever().fingerprint)
    make_old(folder)
    retriever, said = FakeRetriever(), []
    library, report = open_library(
        retriever, tmp_path / "photos", None, tmp_path / "t", say=said.append
    )
    assert (len(library), report.added, report.renewed, retriever.embedded) == (3, 0, 0, 0)
    assert said == [
        "Photos are read differently since this index was made (turned upright once, in their own "
        "colours): 0 of 3 are embedded anew."
    ]


def test_deleted_photos_are_forgotten_at_the_next_start(tmp_path, photos, retriever):
    open_library(retriever, tmp_path / "photos", None, tmp_path / "t")
    photos[1].unlink()
    library, report = open_library(retriever, tmp_path / "photos", None, tmp_path / "t")
    assert (report.gone, len(library)) == (1, 2)
    assert library.search("red", 12, rerank=False).lost == []


def test_a_library_that_has_moved_is_not_embedded_again(tmp_path, photos, retriever):
    open_library(retriever, tmp_path / "photos", None, tmp_path / "t")
    (tmp_path / "photos").rename(tmp_path / "moved")
    paint(tmp_path / "moved" / "new.png", "green")
    before = retriever.embedded
    library, report = open_library(retriever, tmp_path / "moved", None, tmp_path / "t")
    assert (report.added, len(library), retriever.embedded) == (4, 4, before + 1)
    assert names(library, "red")[:2] == ["half.png", "red.png"]
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    library, report = open_library(retriever, tmp_path / "link", None, tmp_path / "t")
    assert (report.added, report.known, retriever.embedded) == (0, 4, before + 1)


def test_most_of_a_library_is_forgotten_only_when_told_to(tmp_path, retriever):
    top = tmp_path / "many"
    for number in range(30):
        path = paint(top / f"{number}.png", "red", size=2 * number + 2)
    open_library(retriever, top, None, tmp_path / "t")
    for path in sorted(top.iterdir())[:25]:
        path.unlink()
    library, report = open_library(retriever, top, None, tmp_path / "t")
    assert (report.gone, report.doubted, len(library)) == (0, {top: 25}, 30)
    assert forget_label(library) == "Forget 25 photos"
    assert "the button below forgets them" in notes_html(library)
    assert library.forget_deleted() == 25
    assert (len(library), library.doubted, notes_html(library)) == (5, 0, "")


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


def test_an_edited_photo_is_read_again_for_similar_ones(library, photos):
    small = library.thumbnail(photos[1])
    paint(photos[1], "blue", size=32)
    assert library.similar(small, 2).shown[0].name == "half.png"


def test_photos_on_a_drive_that_is_away_are_not_called_damaged(tmp_path, photos, retriever):
    library, _ = open_library(retriever, tmp_path / "photos", None, tmp_path / "t")
    (tmp_path / "photos").rename(tmp_path / "away")
    (tmp_path / "photos").mkdir()
    library, report = open_library(retriever, tmp_path / "photos", None, tmp_path / "t")
    assert report.away == 3
    found = library.search("red", 12, rerank=False)
    assert (found.shown, found.lost) == ([], []) and len(found.away) == 3
    said = found_html("for red", found, 3, 0.1, filtered=False)
    assert (
        "half.png, red.png, blue.png matched too but are on a drive that is not connected" in said
    )
    assert "damaged" not in said
    assert "3 files are on a drive or in a folder that is away" in notes_html(library)


def test_reranking_changes_the_order_and_gives_probabilities(library):
    assert names(library, "red") == ["half.png", "red.png", "blue.png"]
    found = library.search("red", 12, rerank=True)
    assert found.shown[0].name == "red.png"
    assert found.shown[0].hit.match == pytest.approx(1)


def test_added_photos_are_copied_and_found(library, sent, tmp_path):
    report, refused = library.add([(Path(sent("my sea!.png", "green")["path"]), "my sea!.png")])
    assert (report.added, refused) == (1, [])
    (kept,) = (tmp_path / "index" / "uploads").rglob("*.*")
    assert kept.name == "my-sea.jpg"
    assert names(library, "green")[0] == "my-sea.jpg"


def test_a_name_cannot_lead_out_of_the_library(library, sent, tmp_path):
    library.add([(Path(sent("a.png", "green")["path"]), "../../../evil/.. .php")])
    (kept,) = (tmp_path / "index" / "uploads").rglob("*.*")
    assert kept.suffix == ".jpg" and "evil" not in str(kept)


def test_refused_files_leave_nothing_behind(library, sent, tmp_path):
    files = [(Path(sent("a.jpg", content)["path"]), "a.jpg") for content in (b"", b"text")]
    report, refused = library.add(files)
    assert report.added == 0
    assert [name for name, _ in refused] == ["a.jpg", "a.jpg"]
    assert "is empty" in refused[0][1] and "not in a format" in refused[1][1]
    assert not (tmp_path / "index" / "uploads").exists()
    assert len(library) == 3


def test_the_same_photo_is_not_added_twice(library, sent):
    first, _ = library.add([(Path(sent("a.png", "green")["path"]), "a.png")])
    again, _ = library.add([(Path(sent("b.png", "green")["path"]), "b.png")])
    assert (first.added, again.added, again.known) == (1, 0, 1)
    assert len(library) == 4


def test_copies_hold_pixels_alone(library, tmp_path):
    """Neither metadata nor the bytes that came are kept, and the picture is upright."""
    photo = Image.new("RGB", (3000, 1000), "red")
    photo.paste("blue", (0, 0, 1500, 1000))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turned to the right: blue comes to lie above
    exif[ExifTags.Base.Model] = "a camera"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 8.0, 0.0)
    photo.save(tmp_path / "sent.jpg", exif=exif, comment=b"at home", dpi=(300, 300))
    report, _ = library.add([(tmp_path / "sent.jpg", "sent.jpg")])
    assert report.added == 1
    (kept,) = (tmp_path / "index" / "uploads").rglob("*.jpg")
    assert b"at home" not in kept.read_bytes() and b"a camera" not in kept.read_bytes()
    with Image.open(kept) as copy:
        assert (copy.format, copy.size) == ("JPEG", (683, 2048))
        assert not copy.getexif() and "comment" not in copy.info and "icc_profile" not in copy.info
        assert copy.getpixel((300, 500))[2] > 240 and copy.getpixel((300, 1500))[0] > 240


def test_a_photo_of_the_operator_is_known_when_it_is_sent(library, photos):
    report, _ = library.add([(photos[1], "again.png")])
    assert (report.added, report.known, len(library)) == (0, 1, 3)


def test_uploads_have_a_limit(library, sent, monkeypatch):
    monkeypatch.setattr("demo.library.MAX_UPLOADS", 1)
    library.add([(Path(sent("a.png", "green")["path"]), "a.png")])
    with pytest.raises(UserError, match="at most 1 photos of visitors and has 1 already"):
        library.add([(Path(sent("b.png", "white")["path"]), "b.png")])


def test_like_photos_are_folded_and_others_take_their_places(tmp_path, retriever):
    for number in range(40):  # more than are looked at first
        paint(tmp_path / "photos" / f"red{number:02}.png", "red", size=16 + 2 * number)
    paint(tmp_path / "photos" / "tinge.png", "red", "red", "red", "blue")
    paint(tmp_path / "photos" / "blue.png", "blue")
    library, _ = open_library(retriever, tmp_path / "photos", None, tmp_path / "t")
    for rerank in (False, True):
        found = library.search("red", 3, rerank=rerank)
        assert [shown.hit.rank for shown in found.shown] == [1, 2, 3]
        (many,) = [shown for shown in found.shown if shown.name.startswith("red")]
        assert {"tinge.png", "blue.png"} < {shown.name for shown in found.shown}
        assert sorted([many.name, *many.alike]) == [f"red{number:02}.png" for number in range(40)]
    flat = library.search("red", 42, rerank=False, fold=False).shown
    assert len(flat) == 42 and not any(shown.alike for shown in flat)
    assert len(library.similar(many.thumbnail, 42, fold=False).shown) == 41


def test_a_deleted_photo_does_not_hide_its_copy(tmp_path, retriever):
    photos = [paint(tmp_path / "photos" / f"{i}.png", "red", size=16 + 2 * i) for i in range(2)]
    library, _ = open_library(retriever, tmp_path / "photos", None, tmp_path / "t")
    photos[0].write_bytes(b"no picture any more")
    found = library.search("red", 1, rerank=False)
    assert ([shown.name for shown in found.shown], found.lost) == (["1.png"], ["0.png"])


def test_what_is_lost_after_the_last_photo_shown_is_not_told(library, photos):
    photos[2].unlink()
    assert library.search("red", 2, rerank=False).lost == []
    assert library.search("red", 3, rerank=False).lost == ["blue.png"]


def test_a_search_tells_whether_anything_fits(library, photos):
    found = library.search("red", 12, rerank=False)
    assert found.verdict.match == pytest.approx(1) and found.verdict.fits
    assert all(shown.hit.match is None for shown in found.shown)
    found = library.search("green", 12, rerank=False)
    assert found.verdict.match < 0.5 and not found.verdict.fits
    assert not library.search("green", 12, rerank=True).verdict.fits
    photos[1].unlink()  # a photo that is gone fits nothing
    assert not library.search("red", 12, rerank=False).verdict.fits
    assert library.similar(Image.open(photos[2]), 12).verdict is None


def test_where_the_first_photo_fits_no_other_is_judged(library, photos, retriever):
    def judged():
        return [Path(photo).name for photo in retriever.matched]

    # By its best query half.png is as like it as the red one, but ITM does not confirm it.
    assert library.search("red", 12, rerank=False).verdict.fits
    assert judged() == ["half.png", "red.png", "blue.png"]
    retriever.matched.clear()
    photos[0].unlink()
    assert library.search("red", 12, rerank=False).verdict.fits
    assert judged() == ["red.png"]
    retriever.matched.clear()
    assert not library.search("green", 12, rerank=False).verdict.fits
    assert sorted(judged()) == ["blue.png", "red.png"]  # nothing fits: all are looked at


def test_without_photos_there_is_no_verdict(tmp_path, retriever):
    index = PhotoIndex.create(tmp_path / "empty", retriever)
    found = Library(index, tmp_path / "empty", tmp_path / "t").search("red", 12, rerank=True)
    assert (found.shown, found.verdict) == ([], None)


def test_similar_by_thumbnail_is_similar_by_photo(library, photos, retriever):
    for shown in library.search("red", 12, rerank=False).shown:
        before = retriever.embedded
        found = library.similar(shown.thumbnail.name, 12)
        assert retriever.embedded == before  # the index's own embeddings are used
        assert [own.hit.path for own in found.shown] == [
            hit.path for hit in library._index.similar(shown.hit.path, 12)
        ]
        with Image.open(shown.hit.path) as photo:
            again = library.similar(photo, 12)
        assert again.shown[0].hit.score == pytest.approx(1, abs=1e-3)
        scores = {own.hit.path: own.hit.score for own in again.shown}
        assert [own.hit.score for own in found.shown] == [
            pytest.approx(scores[own.hit.path], abs=1e-3) for own in found.shown
        ]


def test_only_thumbnails_of_the_library_have_an_original(library, photos):
    small = library.thumbnail(photos[1])
    assert library.original(small) == library.original(Path(small.name)) == photos[1]
    assert library.original(photos[1]) is None
    assert library.thumbnail_named(small.name) == small
    assert library.thumbnail_named("none.jpg") is None
    for stranger in (photos[1], "../../etc/passwd", f"{'0' * 64}.jpg"):
        with pytest.raises(UserError, match="no longer in the library; search again"):
            library.similar(stranger, 12)


def test_thumbnails_are_made_once_and_again_when_they_are_cleared_away(tmp_path, photos):
    thumbnails = Thumbnails(tmp_path / "t")
    (tmp_path / "photos" / "bad.png").write_bytes(b"bad")
    paths = [*photos, tmp_path / "photos" / "bad.png", tmp_path / "none.png"] * 8
    made = thumbnails.make_all(paths)
    assert [small is None for small in made] == [False, False, False, True, True] * 8
    assert sorted(small.name for small in set(made) - {None}) == sorted(os.listdir(tmp_path / "t"))
    made[0].unlink()
    assert thumbnails.make(photos[0]).exists()


def test_a_thumbnail_that_is_made_again_while_it_is_forgotten_can_be_forgotten(
    tmp_path, photos, monkeypatch
):
    """As by a search that was at work when its visit ended; it forgets what it made, too."""
    thumbnails, unlink = Thumbnails(tmp_path / "t"), Path.unlink
    small = thumbnails.make(photos[0])

    def unlink_and_make(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if path == small:
            monkeypatch.setattr(Path, "unlink", unlink)
            thumbnails.make(photos[0])

    monkeypatch.setattr(Path, "unlink", unlink_and_make)
    thumbnails.forget(photos[0].parent)
    assert small.exists()
    thumbnails.forget(photos[0].parent)
    assert not small.exists()


def test_the_first_photos_are_those_of_the_folder_and_new_uploads(library, photos, sent):
    assert [name for _, name in library.first()] == ["half.png", "red.png", "blue.png"]
    for name, colour in (("a.png", "green"), ("b.png", "white")):
        library.add([(Path(sent(name, colour)["path"]), name)])
    shown = [name for _, name in library.first()]
    assert shown == ["b.jpg", "a.jpg", "half.png", "red.png", "blue.png"]
    assert len(shown) == library.size()


def test_a_given_index_shows_its_newest_photos_first(tmp_path, photos, retriever):
    open_library(retriever, tmp_path / "photos", tmp_path / "own", tmp_path / "t")
    library, _ = open_library(retriever, None, tmp_path / "own", tmp_path / "t")
    assert sorted(name for _, name in library.first()) == ["blue.png", "half.png", "red.png"]


@pytest.fixture
def folders(tmp_path, photos, retriever) -> Library:
    """Photos in folders, changed at noon of three days."""
    top = tmp_path / "photos"
    paths = [*photos, paint(top / "sea" / "deep" / "IMG_1.png", "green")]
    paths.append(paint(top / "hills" / "IMG_2.png", "white"))
    (top / "empty").mkdir()
    for day, path in enumerate(paths, start=1):
        os.utime(path, (datetime(2024, 5, day, 12).timestamp(),) * 2)
    return open_library(retriever, top, None, tmp_path / "t")[0]


@pytest.mark.parametrize(
    ("controls", "expected"),
    [
        ({"name": "img"}, ["IMG_1.png", "IMG_2.png"]),
        ({"name": "img*"}, ["IMG_1.png", "IMG_2.png"]),
        ({"name": "*lue.p*g"}, ["blue.png"]),
        ({"name": "?lue.png"}, []),
        ({"name": "[bc]lue"}, []),
        ({"folder": "sea"}, ["IMG_1.png"]),
        ({"since": "2024-05-04"}, ["IMG_1.png", "IMG_2.png"]),
        ({"until": " 2024-05-02 "}, ["half.png", "red.png"]),
        ({"since": "2024-05-03", "until": "2024-05-03"}, ["blue.png"]),
        ({"since": "2024-05-05", "folder": "sea"}, []),
    ],
)
def test_a_search_is_narrowed(folders, controls, expected):
    where = folders.where(**controls)
    assert sorted(s.name for s in folders.search("red", 12, False, where).shown) == sorted(expected)
    assert sorted(
        s.name for s in folders.similar(Image.new("RGB", (9, 9)), 12, where).shown
    ) == sorted(expected)


def test_folders_are_those_with_photos(folders, library):
    assert folders.folders() == ["hills", "sea"]
    assert library.folders() == []
    assert folders.where() is None and folders.where(" ", "", " ", "") is None


@pytest.mark.parametrize(
    ("controls", "sentence"),
    [
        ({"since": "yesterday"}, "first day is not a date: yesterday; write it as 2024-05-31"),
        ({"until": "2024-02-30"}, "last day is not a date: 2024-02-30"),
        ({"until": "9999-12-31x"}, "last day is not a date"),
        ({"since": "2024-05-02", "until": "2024-05-01"}, "first day comes after the last"),
        ({"folder": "../.."}, "no such folder of photos; choose one from the list"),
        ({"folder": "empty"}, "no such folder"),
        ({"name": "x" * 256}, "at most 255 characters"),
    ],
)
def test_wrong_filters_are_refused_in_a_sentence(folders, controls, sentence):
    with pytest.raises(UserError, match=sentence):
        folders.where(**controls)


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31", "1969-12-31"])
def test_days_at_the_end_of_time_do_no_harm(folders, day):
    for controls in ({"since": day}, {"until": day}):
        try:
            where = folders.where(**controls)
        except UserError as error:
            assert "is not a date" in str(error)
        else:
            folders.search("red", 12, False, where)
