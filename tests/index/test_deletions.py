"""A drive that is away is no deletion, and a deleted file is forgotten."""

import os
import shutil
from pathlib import Path

import pytest

from blip2.processing import PhotoError
from index import PhotoIndex
from index.grow import UpdateOptions
from tests.index.fake_retriever import COLOURS, FakeRetriever, paint


def fill(folder: Path, number: int, start: int = 0) -> Path:
    """Photos of different contents: the quarters are the digits of their numbers."""
    colours = list(COLOURS)
    for i in range(start, start + number):
        four = [colours[i // 5**place % 5] for place in range(4)]
        paint(folder / f"{i:03}.png", *four)
    return folder


@pytest.fixture
def root(tmp_path) -> Path:
    return fill(tmp_path / "photos", 30)


@pytest.fixture
def index(tmp_path, root, retriever) -> PhotoIndex:
    index = PhotoIndex.create(tmp_path / "index", retriever)
    assert index.update([root]).added == 30
    return index


def test_an_empty_root_keeps_its_photos(index, root, retriever):
    shutil.move(root, root.with_name("drive"))
    root.mkdir()
    report = index.update([root])
    assert (report.gone, report.away, len(index)) == (0, 30, 30)
    hits = index.search("red", k=30)
    assert all(hit.missing and hit.away for hit in hits)
    # It comes back: nothing is embedded again.
    root.rmdir()
    shutil.move(root.with_name("drive"), root)
    before = retriever.embedded
    report = index.update([root])
    assert (report.known, report.away, retriever.embedded) == (30, 0, before)
    assert not any(hit.missing or hit.away for hit in index.search("red", k=30))


def test_one_of_two_roots_is_gone(index, root, tmp_path):
    other = fill(tmp_path / "other", 10, 30)
    assert index.update([root, other]).added == 10
    shutil.move(other, tmp_path / "elsewhere")
    (root / "000.png").unlink()
    report = index.update([root, other])
    assert (report.gone, report.away, len(index)) == (1, 10, 39)
    assert report.refused == []


@pytest.mark.parametrize("left", ["an empty folder", "nothing", "a folder with a file"])
def test_a_mounted_folder_that_is_away(index, root, tmp_path, left, shm):
    """A link to another file system stands for a mount point: its device is another one."""
    card = root / "card"
    card.symlink_to(fill(shm / "DCIM", 5, 40))
    assert index.update([root]).added == 5
    card.unlink()
    if left != "nothing":
        card.mkdir()
    if left == "a folder with a file":
        (card / "README.txt").touch()
    report = index.update([root])
    assert (report.gone, report.away, len(index)) == (0, 5, 35)
    shutil.rmtree(card, ignore_errors=True)
    card.symlink_to(shm / "DCIM")
    (shm / "DCIM" / "040.png").unlink()
    report = index.update([root])
    assert (report.gone, report.away, report.added, len(index)) == (1, 0, 0, 34)


@pytest.fixture
def shm():
    """A folder of another file system, which every Linux has."""
    if not os.path.isdir("/dev/shm"):
        pytest.skip("needs a second file system")
    folder = Path(f"/dev/shm/blip2-test-{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_a_mount_point_above_the_root(retriever, tmp_path, shm):
    drive = tmp_path / "drive"
    fill(shm / "photos", 3)
    drive.symlink_to(shm)
    index = PhotoIndex.create(tmp_path / "index", retriever)
    index.update([drive / "photos"])
    hit = index.search("red", k=1)[0]
    assert hit.path.parent == shm / "photos", "the same path, however the folder is reached"
    assert str(Path("/dev/shm")) in index.folder.state().manifest.mounts


def test_a_folder_renamed_while_photos_are_embedded(tmp_path, root):
    """What was listed is no longer there when the commit is made: the next build looks again."""
    fill(root / "holiday", 5, 50)
    index = PhotoIndex.create(tmp_path / "index", FakeRetriever())
    index.update([root])
    paint(root / "zzz.png", "red", "white", "white", "blue", size=32)

    class Renaming(FakeRetriever):
        def embed_pixels(self, pixels):
            (root / "holiday").rename(root / "beach")
            return super().embed_pixels(pixels)

    report = PhotoIndex.open(tmp_path / "index", Renaming()).update([root])
    assert (report.added, report.gone) == (1, 0)
    report = index.update([root])
    assert (report.added, report.gone, len(index)) == (0, 5, 36)
    assert index.search("red", k=36)[-1].path.exists()
    assert not any(hit.missing for hit in index.search("red", k=36))


def test_most_of_a_folder_is_not_forgotten_at_once(index, root):
    for number in range(21):
        (root / f"{number:03}.png").unlink()
    report = index.update([root])
    assert (report.gone, report.doubted, len(index)) == (0, {root: 21}, 30)
    assert report.remarks() == [
        f"21 photos of {root} are no longer there, which is most of it; they are kept, and "
        "--forget forgets them if they were deleted on purpose."
    ]
    report = index.update([root], options=UpdateOptions(forget=True))
    assert (report.gone, report.doubted, len(index)) == (21, {}, 9)


def test_a_few_deletions_are_believed(index, root):
    for number in range(20):
        (root / f"{number:03}.png").unlink()
    report = index.update([root])
    assert (report.gone, report.doubted, len(index)) == (20, {}, 10)


def test_moved_photos_are_not_deletions(index, root, retriever):
    (root / "new").mkdir()
    for path in root.glob("*.png"):
        path.rename(root / "new" / path.name)
    before = retriever.embedded
    report = index.update([root])
    assert (report.gone, report.doubted, len(index)) == (30, {}, 30)
    assert retriever.embedded == before


def test_an_emptied_root_can_be_forgotten(index, root):
    for path in root.glob("*.png"):
        path.unlink()
    assert index.update([root]).away == 30
    assert index.update([root], options=UpdateOptions(forget=True)).gone == 30


def test_a_library_reached_through_a_link(index, root, retriever, tmp_path):
    (tmp_path / "link").symlink_to(root)
    before = retriever.embedded, index.info()["generation"]
    report = index.update([tmp_path / "link"])
    assert (report.known, report.added) == (30, 0)
    assert (retriever.embedded, index.info()["generation"]) == before, "not even read again"


def test_a_library_that_has_moved(index, root, retriever, tmp_path):
    before = retriever.embedded
    moved = shutil.move(root, tmp_path / "moved")
    report = index.update([moved])
    assert (report.known, report.added, retriever.embedded) == (30, 0, before)
    assert all(hit.path.parent == moved for hit in index.search("red", k=30))


def test_a_photo_replaced_by_an_unreadable_file_is_forgotten(index, root):
    (root / "000.png").write_bytes(b"\x89PNG\r\n\x1a\nno longer")
    report = index.update([root])
    assert [path.name for path, _ in report.refused] == ["000.png"]
    assert (report.gone, len(index)) == (1, 29)
    assert "000.png" not in {hit.path.name for hit in index.search("red", k=30)}


def test_an_edit_that_keeps_size_and_time_is_noticed_by_a_check(index, root, retriever):
    path = root / "001.png"
    # Padded to one size: what follows the end of a PNG is not read.
    path.write_bytes(path.read_bytes().ljust(1000, b"\0"))
    index.update([root])
    status = path.stat()
    paint(path, "red", "red", "red", "white")
    path.write_bytes(path.read_bytes().ljust(1000, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert index.update([root]).added == 0
    before = retriever.embedded
    report = index.update([root], options=UpdateOptions(check=True))
    assert (report.added, report.known, retriever.embedded) == (1, 29, before + 1)
    generation = index.info()["generation"]
    assert index.update([root], options=UpdateOptions(check=True)).known == 30
    assert index.info()["generation"] == generation, "nothing to change, nothing written"


def test_a_photo_that_was_edited_is_read_for_similar_ones(index, root, retriever):
    path = root / "000.png"  # all red
    assert index.similar(path, k=1)[0].path.name == "001.png"
    paint(path, "white", size=64)
    nearest = index.similar(path, k=1)[0]
    assert (nearest.path.name, retriever.embedded) == ("004.png", 31)
    path.write_bytes(b"no photo")
    with pytest.raises(PhotoError, match=r"000\.png"):
        index.similar(path)
