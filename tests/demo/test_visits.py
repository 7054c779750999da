"""Private photos: found beside the library's as if in one index, by nobody else, and then gone."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from blip2.errors import UserError
from demo.library import Library, Visit
from index import PhotoIndex
from tests.index.fake_retriever import FakeRetriever, paint


class ChanceRetriever(FakeRetriever):
    """Embeddings and probabilities by chance, the same for the same photo and text."""

    def __init__(self) -> None:
        super().__init__(dim=16)

    def embed_pixels(self, pixels):
        return torch.stack([self._draw(own.numpy(), 4) for own in pixels])

    def embed_texts(self, texts, batch_size=64):
        return torch.stack([self._draw(text, 1)[0] for text in texts])

    def match(self, photos, texts, batch_size=32):
        pairs = zip(photos, texts, strict=True)
        seeds = [(self.preprocess(photo).numpy().tobytes(), text) for photo, text in pairs]
        return torch.tensor([np.random.default_rng(_seed(seed)).random() for seed in seeds])

    def _draw(self, what, count):
        what = what.tobytes() if isinstance(what, np.ndarray) else what
        vectors = np.random.default_rng(_seed(what)).normal(size=(count, self.dim))
        return torch.nn.functional.normalize(torch.from_numpy(vectors).float(), dim=-1)


def _seed(what) -> list[int]:
    return list(repr(what).encode())


def blots(path: Path, rng: np.random.Generator) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return path


def names(library: Library, text: str, visit: Visit | None = None) -> list[str]:
    return [shown.name for shown in library.search(text, 12, False, visit=visit).shown]


def send(library: Library, visit: Visit, path: Path):
    return library.add([(path, path.name)], visit=visit)


@pytest.fixture
def green(tmp_path) -> Path:
    return paint(tmp_path / "received" / "green.png", "green")


@pytest.mark.parametrize("seed", range(12))
def test_both_together_are_searched_like_one_index(tmp_path, seed):
    """Same photos in the same order, with and without re-ranking, by words and by photo."""
    rng = np.random.default_rng(seed)
    retriever = ChanceRetriever()
    shared = [blots(tmp_path / "shared" / f"{i}.png", rng) for i in range(rng.integers(0, 60))]
    sent = [blots(tmp_path / "sent" / f"own{i}.png", rng) for i in range(rng.integers(1, 60))]
    index = PhotoIndex.create(tmp_path / "index", retriever)
    index.add(shared)
    library = Library(index, tmp_path / "index", tmp_path / "t", scratch=tmp_path / "scratch")
    visit = library.visit()
    report, refused = library.add([(path, path.name) for path in sent], visit=visit)
    assert (report.added, refused) == (len(sent), [])
    both = PhotoIndex.create(tmp_path / "both", retriever)
    both.add([*shared, *visit.folder.rglob("*.jpg")])
    one = Library(both, tmp_path / "both", tmp_path / "t", scratch=tmp_path / "scratch")
    assert library.size(visit) == one.size() == len(shared) + len(sent)
    count = int(rng.integers(1, 40))
    for rerank in (False, True):
        found = library.search("words", count, rerank, visit=visit)
        expected = one.search("words", count, rerank)
        assert [_told(own) for own in found.shown] == [_told(own) for own in expected.shown]
        assert found.verdict == expected.verdict is not None
        assert len(found.shown) == min(count, one.size())
    for shown in (found.shown[0], found.shown[-1]):
        found = library.similar(shown.thumbnail, count, visit=visit)
        expected = one.similar(shown.thumbnail, count)
        assert [_told(own) for own in found.shown] == [_told(own) for own in expected.shown]
        assert shown.hit.path not in {own.hit.path for own in found.shown}


def _told(shown):
    return shown.hit.rank, shown.hit.path, shown.hit.score, shown.hit.match


def test_nobody_else_finds_what_a_visitor_added(library, green):
    mine, other = library.visit(), library.visit()
    assert not mine.folder.exists()  # nothing on the disk before it is needed
    report, refused = send(library, mine, green)
    assert (report.added, report.known, refused) == (1, 0, [])
    assert names(library, "green", mine)[0] == "green.jpg"
    for visit in (None, other):
        assert "green.jpg" not in names(library, "green", visit)
        assert "green.jpg" not in [name for _, name in library.first(visit)]
        assert library.size(visit) == 3
    assert library.size(mine) == 4
    assert next(name for _, name in library.first(mine)) == "green.jpg"
    small = library.search("green", 1, False, visit=mine).shown[0].thumbnail
    for visit in (None, other):  # even with the name of the thumbnail
        with pytest.raises(UserError, match="no longer in the library"):
            library.similar(small, 12, visit=visit)
    assert len(library.similar(small, 12, visit=mine).shown) == 3


def test_a_closed_visit_leaves_nothing_on_the_disk(library, green, tmp_path):
    visit = library.visit()
    send(library, visit, green)
    (shown,) = library.search("green", 1, False, visit=visit).shown
    thumbnails = set((tmp_path / "received" / "thumbnails").iterdir())
    assert visit.folder.exists() and library.original(shown.thumbnail) == shown.hit.path
    visit.close()
    visit.close()
    assert not visit.folder.exists()
    assert set((tmp_path / "received" / "thumbnails").iterdir()) == thumbnails - {shown.thumbnail}
    assert library.original(shown.thumbnail) is None
    assert names(library, "green", visit) == names(library, "green")
    assert library.first(visit) == library.first() and library.size(visit) == 3
    with pytest.raises(UserError, match="This visit has ended"):
        send(library, visit, green)
    with pytest.raises(UserError, match="no longer in the library"):
        library.similar(shown.thumbnail, 12, visit=visit)
    assert not visit.folder.exists()


def test_a_visit_whose_folder_was_cleared_away_is_empty_and_can_go_on(library, green):
    visit = library.visit()
    send(library, visit, green)
    for path in sorted(visit.folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
        assert {"half.png", "red.png", "blue.png"} <= {*names(library, "red", visit)}
    assert library.size(visit) == 3
    assert send(library, visit, green)[0].added == 1
    assert library.size(visit) == 4


def test_a_photo_of_both_is_shown_once(library, green, photos):
    visit = library.visit()
    report, _ = send(library, visit, photos[1])  # the operator's own file
    assert (report.added, report.known, len(visit)) == (0, 1, 0)
    send(library, visit, green)
    library.add([(green, "green.png")])  # by somebody else, for all
    found = library.search("green", 12, False, visit=visit).shown
    assert [own.name for own in found].count("green.jpg") == 1 and found[0].alike == []
    report, _ = send(library, library.visit(), green)
    assert (report.added, report.known) == (0, 1)


def test_the_same_file_twice_is_one_photo(library, green):
    visit = library.visit()
    report, _ = library.add([(green, "a.png"), (green, "b.png")], visit=visit)
    assert (report.added, report.known) == (1, 1)
    report, _ = library.add([(green, "c.png")], visit=visit)
    assert (report.added, report.known, len(visit)) == (0, 1, 1)
    assert [path.name for path in visit.folder.rglob("*.jpg")] == ["a.jpg"]


def test_a_visit_has_a_limit(library, green, monkeypatch):
    monkeypatch.setattr("demo.visits.MAX_VISIT_PHOTOS", 2)
    visit = library.visit()
    send(library, visit, green)
    with pytest.raises(UserError, match="at most 2 photos and yours has room for 1 more, not 2"):
        library.add([(green, "a.png"), (green, "b.png")], visit=visit)
    assert len(visit) == 1


def test_a_refused_file_is_told_and_the_others_stay(library, sent, green):
    bad = Path(sent("bad.jpg", b"no picture")["path"])
    visit = library.visit()
    report, refused = library.add([(bad, "bad.jpg"), (green, "green.png")], visit=visit)
    assert report.added == 1
    assert [name for name, _ in refused] == ["bad.jpg"] and "not in a format" in refused[0][1]


def test_searches_go_on_while_a_visit_grows_and_ends(tmp_path):
    """Readers see some of the photos or none, never an error; nothing is left behind."""
    rng = np.random.default_rng(0)
    index = PhotoIndex.create(tmp_path / "index", ChanceRetriever())
    index.add([blots(tmp_path / "shared" / f"{i}.png", rng) for i in range(4)])
    library = Library(index, tmp_path / "index", tmp_path / "t", scratch=tmp_path / "scratch")
    visit = library.visit()
    sent = [blots(tmp_path / "sent" / f"{i}.png", rng) for i in range(10)]
    ended, sizes, failures = threading.Event(), [], []

    def search() -> None:
        try:
            while not ended.is_set():
                found = library.search("words", 48, False, visit=visit)
                sizes.append(len(found.shown))
                library.first(visit)
        except Exception as error:  # told by the test's own thread
            failures.append(error)

    readers = [threading.Thread(target=search) for _ in range(3)]
    for reader in readers:
        reader.start()
    for path in sent:
        send(library, visit, path)
    visit.close()
    ended.set()
    for reader in readers:
        reader.join()
    assert failures == [] and set(sizes) <= set(range(4, 15)) and sizes
    assert not visit.folder.exists()
    assert {small for small, _ in library.first()} == set((tmp_path / "t").iterdir())
