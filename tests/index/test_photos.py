"""Adding, finding and removing photos."""

import os
import shutil
import sqlite3
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from blip2.errors import UserError
from index import Hit, PhotoIndex
from index.embed import find_photos
from tests.index.fake_retriever import FakeRetriever, paint


def names(hits):
    return [hit.path.name for hit in hits]


def test_best_query_counts_and_ties_go_by_age(library, photos):
    hits = library.search("red")
    assert names(hits) == ["half.png", "red.png", "blue.png"]
    assert hits[0] == Hit(1, photos / "half.png", pytest.approx(1.0, abs=1e-3), None, False)
    assert hits[0].score == hits[1].score > hits[2].score
    assert names(library.search("blue", k=2)) == ["half.png", "blue.png"]


def test_rerank_orders_the_first_by_match(library, retriever, photos):
    hits = library.search("red", rerank=2)
    assert names(hits) == ["red.png", "half.png", "blue.png"]
    assert [hit.match for hit in hits] == [pytest.approx(1), pytest.approx(2 / 3), None]
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert retriever.matched == [photos / "half.png", photos / "red.png"]


def test_rerank_looks_further_than_k(library):
    assert names(library.search("blue", k=1)) == ["half.png"]
    assert names(library.search("blue", k=1, rerank=3)) == ["blue.png"]


def test_rerank_in_batches(tmp_path, retriever):
    for i in range(70):
        paint(tmp_path / f"{i:02}.png", "red", "white", "blue", "green", size=2 * (i + 1))
    index = PhotoIndex.create(tmp_path / "index", retriever)
    assert index.add([tmp_path]).added == 70
    hits = index.search("red", k=70, rerank=70)
    assert [hit.path.name for hit in hits] == [f"{i:02}.png" for i in range(70)]
    assert len(retriever.matched) == 70


def test_known_photos_are_not_embedded_again(library, photos, retriever):
    paint(photos / "white.png", "white")
    shutil.copy(photos / "red.png", photos / "copy of red.png")
    os.utime(photos / "half.png", (1, 1))
    before = retriever.embedded
    report = library.add([photos])
    assert (report.added, report.known, report.refused) == (1, 4, [])
    assert retriever.embedded == before + 1
    assert len(library) == 4
    info = library.info()
    assert (info["photos"], info["files"]) == (4, 5)
    generation = info["generation"]
    assert library.add([photos]).known == 5
    assert library.info()["generation"] == generation, "nothing to change, nothing written"


def test_a_new_date_alone_writes_no_vectors(library, photos):
    vectors = next((photos.parent / "index").glob("embeddings-*"))
    written = vectors.stat().st_mtime_ns
    os.utime(photos / "red.png", (1, 1))
    library.add([photos])
    assert library.info()["generation"] == 2
    assert vectors.stat().st_mtime_ns == written
    assert library.verify() == []


def test_copies_within_one_call(tmp_path, retriever):
    for name in ("a.png", "b.png", "c.png"):
        paint(tmp_path / name, "green")
    index = PhotoIndex.create(tmp_path / "index", retriever)
    report = index.add([tmp_path])
    assert (report.added, report.known, retriever.embedded) == (1, 2, 1)
    (tmp_path / "a.png").unlink()
    assert names(index.search("green")) == ["b.png"]
    assert not index.search("green")[0].missing


def test_a_moved_photo_is_found_at_its_new_place(library, photos):
    (photos / "red.png").rename(photos / "rose.png")
    assert library.search("red")[1] == Hit(
        2, photos / "red.png", pytest.approx(1.0, abs=1e-3), None, True
    )
    report = library.add([photos])
    assert (report.added, report.known) == (0, 3)
    assert library.search("red")[1].path == photos / "rose.png"
    assert not library.search("red")[1].missing


def test_a_changed_file_replaces_its_photo(library, photos):
    paint(photos / "red.png", "green")
    assert library.add([photos / "red.png"]).added == 1
    assert len(library) == 3
    assert names(library.search("green", k=1)) == ["red.png"]
    assert names(library.search("red")) == ["half.png", "blue.png", "red.png"]
    assert library.search("red")[2].score < 0.1
    assert library.verify() == []


def test_deleted_photos_are_shown_as_missing_and_not_matched(library, photos, retriever):
    (photos / "half.png").unlink()
    hits = library.search("red", rerank=3)
    assert [(hit.path.name, hit.missing, hit.match is None) for hit in hits] == [
        ("red.png", False, False),
        ("blue.png", False, False),
        ("half.png", True, True),
    ]
    assert photos / "half.png" not in retriever.matched
    assert library.verify() == [photos / "half.png"]
    assert len(library) == 3


def test_a_photo_spoilt_since_counts_as_missing_and_the_others_are_matched(library, photos):
    (photos / "half.png").write_bytes(b"no longer a photo")
    hits = library.search("red", rerank=3)
    assert [(hit.path.name, hit.missing) for hit in hits] == [
        ("red.png", False),
        ("blue.png", False),
        ("half.png", True),
    ]
    assert hits[0].match == pytest.approx(1)


def test_remove(library, photos):
    assert library.remove([photos / "red.png"]) == 1
    assert names(library.search("red")) == ["half.png", "blue.png"]
    shutil.rmtree(photos / "sea")
    assert library.remove([photos / "sea"]) == 1, "a folder that is gone can be named"
    assert library.remove([photos / "se", photos / "red.png"]) == 0
    assert names(library.search("blue")) == ["half.png"]
    assert library.verify() == []
    assert library.add([photos]).added == 1
    assert names(library.search("red")) == ["half.png", "red.png"]


def test_remove_one_of_two_copies(library, photos):
    shutil.copy(photos / "red.png", photos / "zzz.png")
    library.add([photos])
    assert library.remove([photos / "red.png"]) == 1
    assert library.search("red")[1].path == photos / "zzz.png"
    assert library.remove([photos / "zzz.png"]) == 1
    assert len(library) == 2


def test_bad_files_are_refused_with_the_reason_and_the_rest_is_added(tmp_path, retriever):
    folder = tmp_path / "photos"
    good = paint(folder / "good.png", "red")
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.jpg").touch()
    Image.effect_noise((64, 64), 50).save(folder / "whole.jpeg")
    (folder / "cut.jpeg").write_bytes((folder / "whole.jpeg").read_bytes()[:1500])
    (folder / "whole.jpeg").unlink()
    os.mkfifo(folder / "pipe.png")
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    (folder / "huge.png").write_bytes(huge_png())
    index = PhotoIndex.create(tmp_path / "index", retriever)
    report = index.add([folder, tmp_path / "absent.jpg"])
    assert report.added == 1
    assert names(index.search("red")) == [good.name]
    reasons = {path.name: reason for path, reason in report.refused}
    assert sorted(reasons) == sorted(
        ["text.jpg", "empty.jpg", "cut.jpeg", "pipe.png", "nowhere.png", "huge.png", "absent.jpg"]
    )
    assert "not in a format" in reasons["text.jpg"]
    assert "empty" in reasons["empty.jpg"]
    assert "incomplete" in reasons["cut.jpeg"]
    assert reasons["pipe.png"] == "It is not a file."
    assert reasons["nowhere.png"] == reasons["absent.jpg"] == "It does not exist."
    assert "pixels" in reasons["huge.png"]


def huge_png():
    """A PNG that says it has 20,000 x 20,000 pixels, in a few bytes."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def test_a_photo_without_finite_embedding_is_refused_with_its_copies(tmp_path):
    class Overflowing(FakeRetriever):
        def embed_pixels(self, pixels):
            embeddings = super().embed_pixels(pixels)
            white = (pixels == 1).flatten(1).all(1)
            embeddings[white] = float("nan")
            return embeddings

    for name, colour in [("a.png", "white"), ("b.png", "red"), ("c.png", "white")]:
        paint(tmp_path / name, colour)
    index = PhotoIndex.create(tmp_path / "index", Overflowing())
    report = index.add([tmp_path])
    assert (report.added, report.known) == (1, 0)
    assert [path.name for path, _ in report.refused] == ["a.png", "c.png"]
    assert names(index.search("white")) == ["b.png"]


def test_walking(tmp_path):
    for name in ("b/2.JPG", "b/1.tiff", "a.webp", ".hidden.png", ".cache/x.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "back").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "b")
    found, refused = find_photos([tmp_path, tmp_path / "notes.txt", tmp_path / "a.webp"])
    assert found == [tmp_path / n for n in ("a.webp", "b/1.tiff", "b/2.JPG", "notes.txt")]
    assert refused == []


def test_file_names_that_are_not_unicode(tmp_path, retriever):
    path = tmp_path / os.fsdecode(b"caf\xe9 %20?#\n.png")
    paint(tmp_path / "plain.png", "red").rename(path)
    index = PhotoIndex.create(tmp_path / "index %41?mode=ro", retriever)
    assert index.add([tmp_path]).added == 1
    assert index.search("red")[0].path == path
    assert not index.search("red", rerank=1)[0].missing
    assert index.remove([path]) == 1


def test_metadata(tmp_path, retriever):
    path = tmp_path / "wide.png"
    Image.new("RGB", (30, 20), "red").save(path)
    index = PhotoIndex.create(tmp_path / "index", retriever)
    index.add([path])
    connection = sqlite3.connect(tmp_path / "index" / "library.sqlite")
    row = connection.execute(
        "SELECT width, height, size, mtime_ns, path FROM photos JOIN places ON photo = id"
    ).fetchall()
    connection.close()
    status = path.stat()
    assert row == [(30, 20, status.st_size, status.st_mtime_ns, os.fsencode(path))]


def test_progress_ends_at_all_files(library, photos):
    for i in range(40):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(photos / f"{i}.png")
    (photos / "bad.jpg").touch()
    seen = []
    library.add([photos], lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {44}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (44, 44)


@pytest.mark.parametrize(
    ("text", "k", "rerank", "says"),
    [("  ", 3, 0, "empty"), ("x" * 10_000, 3, 0, "10,000"), ("red", 0, 0, "at least 1")],
)
def test_bad_questions(library, text, k, rerank, says):
    with pytest.raises(UserError, match=says):
        library.search(text, k, rerank)


def test_empty_index(tmp_path, retriever):
    index = PhotoIndex.create(tmp_path / "index", retriever)
    assert index.search("red", rerank=10) == []
    assert len(index) == 0
    assert index.verify() == []
    assert index.add([]).added == 0


def test_searches_during_changes(library, photos, retriever):
    """Each search sees all of a change or nothing: the two greens come and go together."""
    (photos / "more").mkdir()
    paint(photos / "more" / "1.png", "green")
    paint(photos / "more" / "2.png", "green", "white", "green", "white")
    reader = PhotoIndex.open(photos.parent / "index", retriever)
    stop = threading.Event()
    seen, failures = set(), []

    def look():
        while not stop.is_set():
            try:
                hits = reader.search("green", k=10)
            except Exception as error:
                failures.append(error)
                return
            seen.add(tuple(names(hits)))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        library.add([photos / "more"])
        library.remove([photos / "more"])
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    without = tuple(names(library.search("green", k=10)))
    assert without == ("half.png", "red.png", "blue.png")
    assert seen <= {without, ("1.png", "2.png", *without)}


def test_embeddings_reach_the_store_with_their_photo(tmp_path, retriever):
    """More photos than a batch, read by threads: each must keep its own vectors."""
    rng = np.random.default_rng(3)
    colours = rng.integers(0, 256, size=(90, 3))
    for i, colour in enumerate(colours):
        Image.new("RGB", (8, 8), tuple(map(int, colour))).save(tmp_path / f"{i:02}.png")
    index = PhotoIndex.create(tmp_path / "index", retriever)
    index.add([tmp_path])
    wide = np.concatenate([colours / 255, np.full((90, 1), 0.25)], axis=1)
    scores = wide @ [1, 1, 0, 0.25] / np.linalg.norm(wide, axis=1)
    expected = [f"{i:02}.png" for i in np.argsort(-scores, kind="stable")[:20]]
    assert names(index.search("yellow", k=20)) == expected


def test_a_build_that_is_broken_off_goes_on_where_it_was(tmp_path, monkeypatch):
    """Files are committed some at a time; what is committed is not embedded again."""
    monkeypatch.setattr("index.grow.COMMITTED_AT_ONCE", 2)
    for number, colour in enumerate(["red", "green", "blue", "yellow", "white"]):
        paint(tmp_path / "photos" / f"{number}.png", colour)

    class Stopping(FakeRetriever):
        def embed_pixels(self, pixels):
            if self.embedded >= 2:
                raise RuntimeError("killed")
            return super().embed_pixels(pixels)

    index = PhotoIndex.create(tmp_path / "index", Stopping())
    with pytest.raises(RuntimeError, match="killed"):
        index.add([tmp_path / "photos"])
    assert len(index) == 2 and index.verify() == []
    retriever = FakeRetriever()
    index = PhotoIndex.open(tmp_path / "index", retriever)
    told = []
    report = index.add([tmp_path / "photos"], lambda done, total: told.append((done, total)))
    assert (report.added, report.known, retriever.embedded) == (3, 2, 3)
    assert told[-1] == (5, 5) and [done for done, _ in told] == sorted(done for done, _ in told)
    assert index.verify() == [] and index.search("white")[0].path.name == "4.png"


def test_update_leaves_folders_alone_that_cannot_be_read(library, photos, monkeypatch):
    (photos / "red.png").unlink()
    (photos / "sea" / "blue.png").unlink()
    walk = os.walk

    def unreadable(top, onerror=None, followlinks=False):
        for folder, inner, names in walk(top, onerror, followlinks=followlinks):
            if folder.endswith("sea"):
                onerror(PermissionError(13, "Permission denied", folder))
            else:
                yield folder, inner, names

    monkeypatch.setattr("index.embed.os.walk", unreadable)
    report = library.update([photos])
    assert report.gone == 1 and [path.name for path, _ in report.refused] == ["sea"]
    assert [hit.path.name for hit in library.search("blue")] == ["half.png", "blue.png"]


def test_links_to_nothing_and_folders_that_cannot_be_searched(library, photos, monkeypatch):
    """A file that can't be looked at is refused, not known; one that may be there is not gone."""
    (photos / "broken.png").symlink_to(photos / "nowhere.png")
    report = library.update([photos])
    assert report.refused == [(photos / "broken.png", "It does not exist.")]
    assert (report.known, report.gone) == (3, 0)
    real = os.lstat

    def lstat(path, **options):
        if "sea" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr("os.lstat", lstat)
        assert library.update([photos]).gone == 0
    assert len(library) == 3
