from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import pytest

from demo.visitors import STAYS, SWEPT, Visitors
from tests.index.fake_retriever import paint


def page(session: str) -> SimpleNamespace:
    return SimpleNamespace(session_hash=session)


ANN, BOB = page("ann"), page("bob")


@pytest.fixture
def private(library) -> Visitors:
    return Visitors(library.visit)


def test_a_page_is_one_visitor_and_two_are_two():
    visitors = Visitors()
    assert visitors.of(ANN) is visitors.of(ANN) is not visitors.of(BOB)
    assert visitors.count == 2


def test_what_was_received_goes_with_its_visitor(sent):
    visitors = Visitors()
    mine, both = Path(sent("a.png")["path"]), Path(sent("b.png")["path"])
    visitors.of(ANN).files |= {mine, both}
    visitors.of(BOB).files |= {both}
    visitors.leave(ANN)
    assert not mine.parent.exists() and both.exists()
    visitors.leave(ANN)
    visitors.leave(BOB)
    assert not both.parent.exists() and visitors.count == 0


def test_a_sample_that_a_visitor_sent_too_stays(sent):
    """Gradio names files by their content, the page's own samples as well."""
    sample = Path(sent("sample.png")["path"])
    visitors = Visitors()
    visitors.keep_ours()
    mine = Path(sent("mine.png", "blue")["path"])
    visitors.of(ANN).files |= {sample, mine}
    visitors.leave(ANN)
    assert sample.exists() and not mine.exists()


def test_who_gives_no_sign_for_long_has_left(sent, monkeypatch):
    """Programs never say that they leave."""
    visitors, now = Visitors(), monotonic()
    mine, theirs = Path(sent("a.png")["path"]), Path(sent("b.png", "blue")["path"])
    visitors.of(ANN).files.add(mine)
    visitors.of(BOB).files.add(theirs)
    monkeypatch.setattr("demo.visitors.monotonic", lambda: now + STAYS - 10)
    visitors.of(BOB)
    monkeypatch.setattr("demo.visitors.monotonic", lambda: now + STAYS + SWEPT + 10)
    visitors.of(BOB)
    assert visitors.count == 1 and not mine.exists() and theirs.exists()


def test_of_too_many_the_longest_silent_leave(sent, monkeypatch):
    monkeypatch.setattr("demo.visitors.MOST", 3)
    visitors, mine = Visitors(), Path(sent("a.png")["path"])
    visitors.of(ANN).files.add(mine)
    for session in "1234":
        visitors.of(page(session))
    assert visitors.count == 3 and not mine.exists()


def test_what_was_drawn_for_a_visitor_goes_with_them(sent):
    sent("a.png")
    visitors = Visitors()
    place = visitors.of(ANN).place()
    (place / "0.jpg").write_bytes(b"picture")
    visitors.leave(ANN)
    assert not place.exists()


def test_thumbnails_stay_whoever_sends_one(sent, tmp_path):
    sent("a.png")
    thumbnail = tmp_path / "received" / "thumbnails" / "a.jpg"
    paint(thumbnail, "red")
    visitors = Visitors()
    visitors.of(ANN).received({"path": str(thumbnail)})
    visitors.leave(ANN)
    assert thumbnail.exists()


def test_nothing_but_received_files_is_deleted(sent, tmp_path):
    sent("a.png")
    other = tmp_path / "photos" / "red.png"
    other.parent.mkdir()
    other.write_bytes(b"mine")
    visitors = Visitors()
    home = tmp_path / "received"
    visitors.of(ANN).files |= {other, home, home / "loose.png", home / ".." / "photos" / "x.png"}
    visitors.leave(ANN)
    assert other.exists() and home.exists()


def test_private_photos_are_found_by_their_visitor_alone_and_deleted_after(library, sent, private):
    ann, bob = private.of(ANN).uploads, private.of(BOB).uploads
    report, _ = library.add([(Path(sent("sea.png", "green")["path"]), "sea.png")], visit=ann)
    assert report.added == 1

    def names(visit):
        return [shown.name for shown in library.search("green", 9, False, visit=visit).shown]

    assert names(ann)[0] == "sea.jpg" and "sea.jpg" not in names(bob)
    folder = ann.folder
    assert list(folder.rglob("*.jpg"))
    private.leave(ANN)
    assert not folder.exists()
    assert "sea.jpg" not in names(ann)


def test_the_end_of_the_page_ends_all_visits(library, sent, private):
    visit = private.of(ANN).uploads
    library.add([(Path(sent("sea.png", "green")["path"]), "sea.png")], visit=visit)
    private.close()
    assert not visit.folder.exists() and private.count == 0


def test_by_default_added_photos_are_for_all():
    assert not Visitors().private and Visitors().of(ANN).uploads is None
