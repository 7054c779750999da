"""A build split over processes gives the index of one process, or leaves the old one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blip2.errors import UserError
from index import PhotoIndex
from index.grow import UpdateOptions
from index.listing import list_photos
from index.split import Share, _embed_share, _folder, _put_together, _told, build_share
from tests.index.fake_retriever import COLOURS, FakeRetriever, paint

ROOT = Path(__file__).parents[2]
NOTHING = {"refused": [], "notes": [], "unusable": []}


@pytest.fixture
def many(photos) -> Path:
    """A folder of 33 photos, 2 of them with the same content, and one file that is none."""
    draw = np.random.default_rng(0)
    for number in range(29):
        paint(photos / "more" / f"{number:02}.png", *draw.choice(list(COLOURS), 4).tolist())
    paint(photos / "zz.png", "red")
    (photos / "more" / "bad.jpg").write_text("no photo")
    return photos


def build(photos, out, world=2, **environment) -> tuple[int, str, str, list[int]]:
    """Run a split build: exit status, what it printed, and how many photos each embedded."""
    counts = out.with_name("counts")
    command = ["-m", "torch.distributed.run", f"--nproc-per-node={world}", "--standalone"]
    command += ["-m", "tests.index.split_build", "build", photos, "--out", out, "--json"]
    ended = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "COUNTS": str(counts), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    embedded = [int(path.read_text()) for path in sorted(counts.parent.glob("counts.*"))]
    return ended.returncode, ended.stdout, ended.stderr, embedded


def found(index: PhotoIndex) -> list:
    return [(colour, index.search(colour, k=99)) for colour in COLOURS]


def test_two_processes_give_the_index_of_one(many, tmp_path, retriever):
    alone = PhotoIndex.create(tmp_path / "alone", retriever)
    report = alone.update([many])
    status, out, err, embedded = build(many, tmp_path / "split")
    assert status == 0, err
    told = json.loads(out)
    assert told == {
        "added": report.added,
        "known": report.known,
        "gone": 0,
        "renewed": 0,
        "away": 0,
        "doubted": {},
        "photos": len(alone),
        "not_read": {},
        "notes": [],
        "refused": [{"path": str(path), "reason": reason} for path, reason in report.refused],
    }
    assert len(told["refused"]) == 1 and report.known == 1
    assert len(embedded) == 2 and min(embedded) >= 8, "each took a share"
    split = PhotoIndex.open(tmp_path / "split", retriever)
    assert found(split) == found(alone)
    assert [hit.photo for hit in split.search("red", k=99)] == [
        hit.photo for hit in alone.search("red", k=99)
    ], "numbered in the order of the files, so that ties are broken alike"
    assert split.verify() == []
    assert sorted(os.listdir(tmp_path)) == ["alone", "counts.0", "counts.1", "photos", "split"]

    # Again, with news: what is known is not embedded, what is gone is taken out.
    (many / "more" / "05.png").unlink()
    paint(many / "new.png", "white")
    status, out, err, embedded = build(many, tmp_path / "split")
    assert status == 0, err
    told = json.loads(out)
    assert (told["added"], told["gone"]) == (1, 1) and sum(embedded) == 1
    report = alone.update([many])
    assert (told["known"], told["photos"]) == (report.known, len(alone))
    assert found(PhotoIndex.open(tmp_path / "split", retriever)) == found(alone)


def test_a_drive_that_is_away_is_no_deletion(many, tmp_path, retriever):
    """By one process, which does all that the first of several does."""

    def share(**options):
        alone, made = Share(0, 1), ("auto", None)
        how = UpdateOptions(**options)
        return build_share(tmp_path / "split", [many], alone, retriever, made, options=how)

    assert share().added == 32
    many.rename(tmp_path / "drive")
    many.mkdir()
    report = share()
    assert (report.gone, report.away, len(PhotoIndex.open(tmp_path / "split", None))) == (0, 33, 32)
    many.rmdir()
    (tmp_path / "drive").rename(many)
    for number in range(24):
        (many / "more" / f"{number:02}.png").unlink()
    report = share()
    assert (report.gone, report.doubted, report.known) == (0, {many: 24}, 9)
    assert share(forget=True).gone == 24
    assert len(PhotoIndex.open(tmp_path / "split", None)) == 8


def test_an_unreadable_file_takes_its_photo_out(many, tmp_path, retriever):
    for content, found in ((None, (32, 0)), (b"no photo", (0, 1))):
        if content:
            (many / "more" / "05.png").write_bytes(content)
        report = build_share(tmp_path / "split", [many], Share(0, 1), retriever)
        assert (report.added, report.gone) == found
    assert "05.png" in {path.name for path, _ in report.refused}


def test_a_process_that_dies(many, tmp_path, retriever):
    """The index is as it was, and the next start goes on from what was committed."""
    index = PhotoIndex.create(tmp_path / "split", retriever)
    index.add([many / "red.png"])
    before = found(index)
    share = Share(1, 2).of(list_photos([many]).files)
    status, _, _, _ = build(many, tmp_path / "split", DIES_AT="9")
    assert status != 0
    paint(many / "a-new-one-that-comes-first.png", "blue", size=6)
    assert found(PhotoIndex.open(tmp_path / "split", retriever)) == before
    status, _, err, embedded = build(many, tmp_path / "split")
    assert status == 0, err
    assert embedded[1] <= len(share) + 1 - 8, "8 of its photos had been committed"
    alone = PhotoIndex.create(tmp_path / "alone", retriever)
    alone.add([many / "red.png"])
    alone.update([many])
    assert found(PhotoIndex.open(tmp_path / "split", retriever)) == found(alone)
    assert not (tmp_path / "split.parts").exists()


def test_processes_that_see_different_files(many, tmp_path, retriever):
    for rank in range(2):
        share = Share(rank, 2)
        _embed_share(_folder(tmp_path, share), [], retriever, None)
        _told(tmp_path, share).write_text(json.dumps({"files": str(rank), **NOTHING}))
    with pytest.raises(UserError, match="do not see the same files"):
        _put_together(tmp_path, 2, [], retriever)


def test_shares_are_disjoint_and_whole():
    files = [Path(str(number)) for number in range(300)]
    shares = [Share(rank, 3).of(files) for rank in range(3)]
    assert sorted((f for share in shares for f in share), key=lambda p: int(p.name)) == files
    assert min(map(len, shares)) > 70
    assert [set(Share(rank, 3).of(files[1:])) - set(shares[rank]) for rank in range(3)] == [
        set()
    ] * 3, "the others keep their files when one goes"


def test_a_part_of_another_model(tmp_path, retriever):
    """Embeddings of different models are never put together."""
    for rank, model in enumerate([retriever, FakeRetriever(fingerprint="other")]):
        share = Share(rank, 2)
        _embed_share(_folder(tmp_path, share), [], model, None)
        _told(tmp_path, share).write_text(json.dumps({"files": "same", **NOTHING}))
    with pytest.raises(UserError, match="made with other weights of colours"):
        _put_together(tmp_path, 2, [], retriever)
