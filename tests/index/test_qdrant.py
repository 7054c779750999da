"""The same photos in Qdrant: what is found, what readers see, and what a killed writer leaves."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from index import IndexFileError, PhotoIndex, Where
from index.__main__ import main
from index.qdrant_store import IN_MEMORY, QdrantStore, connect
from index.segment_store import SegmentStore
from tests.index.fake_retriever import COLOURS, FakeRetriever, paint
from tests.index.test_store import brute_force, crowded, halves, spread, tied


def stores(tmp_path, name, queries, dim):
    """One of each, empty."""
    return (
        QdrantStore.create(IN_MEMORY, name, queries, dim, "auto"),
        SegmentStore(tmp_path, queries, dim),
    )


@pytest.mark.parametrize("make", [tied, crowded, spread])
def test_both_stores_find_the_same(make, tmp_path):
    """Top 10 of random corpora, some photos equal, some removed, among all or among some."""
    rng = np.random.default_rng(11)
    for number in range(30):
        photos, queries, dim = rng.integers((4, 1, 4), (60, 9, 20)).tolist()
        embeddings = halves(make(rng, photos, queries, dim=dim))
        embeddings[rng.random(photos) < 0.3] = embeddings[0]
        ids = np.sort(rng.choice(1000, photos, replace=False)) + 1
        cut = photos // 2
        removed = ids[:cut][rng.random(cut) < 0.3]
        (tmp_path / str(number)).mkdir()
        both = [
            store.changed(1, ids[:cut], embeddings[:cut], []).changed(
                2, ids[cut:], embeddings[cut:], removed
            )
            for store in stores(tmp_path / str(number), f"{make.__name__}-{number}", queries, dim)
        ]
        left = ~np.isin(ids, removed)
        assert [store.ids().tolist() for store in both] == [ids[left].tolist()] * 2
        assert [len(store) for store in both] == [left.sum()] * 2
        some = ids[left & (rng.random(photos) < 0.5)]
        query = make(rng, 1, dim=dim)[0]
        for asked, among in [(query, None), (query, some), (make(rng, 3, dim=dim), None)]:
            one, other = (store.nearest(asked, 10, among) for store in both)
            assert [photo for photo, _ in one] == [photo for photo, _ in other]
            assert [s for _, s in one] == pytest.approx([s for _, s in other], abs=1e-5)
        expected = brute_force(query, ids[left], embeddings[left], 10)
        assert [photo for photo, _ in both[0].nearest(query, 10)] == [p for p, _ in expected]
        kept = int(ids[left][0])
        assert np.array_equal(both[0].embeddings_of(kept), both[1].embeddings_of(kept))


def test_the_oldest_of_many_equal_photos(tmp_path):
    embeddings = np.full((300, 2, 4), 0.5, dtype=np.float32)
    store = QdrantStore.create(IN_MEMORY, "equal", 2, 4, "auto")
    store = store.changed(1, range(1, 301), embeddings, [])
    assert [photo for photo, _ in store.nearest(embeddings[0, 0], 3)] == [1, 2, 3]


def test_readers_and_killed_writers():
    rng = np.random.default_rng(3)
    embeddings = halves(spread(rng, 8, 2, dim=6))
    old = QdrantStore.create(IN_MEMORY, "lives", 2, 6, "auto").changed(
        1, [1, 2, 3], embeddings[:3], []
    )
    # A writer that died before its manifest was in place: no reader sees its work.
    old.changed(2, [4, 5], embeddings[3:5], [1])
    assert old.ids().tolist() == [1, 2, 3]
    assert len(old.nearest(embeddings[3, 0], 9)) == 3
    # The next writer takes it back: 1 is there again, 4 and 5 are not.
    new = old.changed(2, [6], embeddings[5:6], [2])
    assert new.ids().tolist() == [1, 3, 6] and len(new) == 3
    assert old.ids().tolist() == [1, 2, 3], "a reader one behind"
    after = new.changed(3, [], embeddings[:0], [3])
    assert after.ids().tolist() == [1, 6] and new.ids().tolist() == [1, 3, 6]
    # Two generations later what was removed is deleted.
    after.changed(4, [7], embeddings[6:7], [])
    with pytest.raises(KeyError):
        after.embeddings_of(2)
    assert QdrantStore.open(2, 6, after.manifest()) == after


def test_an_index_of_photos_in_either(photos, tmp_path, retriever):
    """The same folder gives the same ten, through all that a user does."""
    draw = np.random.default_rng(0)
    for number in range(30):
        paint(photos / "more" / f"{number}.png", *draw.choice(list(COLOURS), 4).tolist())
    index = PhotoIndex.create(tmp_path / "far", retriever, address=IN_MEMORY)
    library = PhotoIndex.create(tmp_path / "near", retriever)
    assert index.add([photos]).added == library.add([photos]).added
    again = PhotoIndex.open(tmp_path / "far", retriever)
    assert "Qdrant" in again.info()["store"] and again.info()["photos"] == len(library)

    def same() -> None:
        for colour in COLOURS:
            near = library.search(colour, k=10)
            close = [replace(hit, score=pytest.approx(hit.score, abs=1e-5)) for hit in near]
            assert again.search(colour, k=10) == close and len(close) == 10
        assert [h.path for h in again.similar(photos / "red.png", k=5)] == [
            h.path for h in library.similar(photos / "red.png", k=5)
        ]

    same()
    within = Where(folder=photos / "more", name="1*")
    names = [hit.path.name for hit in again.search("red", where=within)]
    assert names == [hit.path.name for hit in library.search("red", where=within)] and names
    (photos / "more" / "3.png").unlink()
    for one in (index, library):
        assert one.update([photos]).gone == 1
    same()
    assert again.verify() == []
    connect(IN_MEMORY).delete(again._folder.state().store.collection, [1])
    for look in (again.verify, lambda: PhotoIndex.open(tmp_path / "far", retriever)):
        with pytest.raises(IndexFileError, match="holds 31 photos instead of 32"):
            look()


def test_a_server_that_is_not_there(tmp_path, photos, capsys):
    def build(address: str) -> str:
        status = main(
            ["build", str(photos), "--out", str(tmp_path / "far"), "--store", address],
            lambda name: FakeRetriever(),
        )
        assert status == 2
        sentence = capsys.readouterr().err
        assert sentence.count("\n") == 1
        return sentence

    assert "http://127.0.0.1:9 cannot be used" in build("http://127.0.0.1:9")
    for address in ("ftp://host", ":memory:", "http://host:abc"):
        assert f"{address} is not the address of a Qdrant server" in build(address)
    assert not (tmp_path / "far" / "manifest.json").exists()


def test_killed_between_rows_and_points(tmp_path, photos, retriever, monkeypatch):
    """Rows are written before points: ids of a writer that died are not used for other photos."""
    index = PhotoIndex.create(tmp_path / "far", retriever, address=IN_MEMORY)
    index.add([photos / "red.png"])

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("index.manifest.Manifest.write", die)
        with pytest.raises(Killed):
            index.add([photos / "half.png"])
    assert [hit.path.name for hit in index.search("blue")] == ["red.png"]
    assert index.add([photos / "sea"]).added == 1
    assert {hit.path.name for hit in index.search("blue")} == {"red.png", "blue.png"}
    assert index.verify() == []


def test_without_the_client_library(tmp_path, retriever, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "qdrant_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(IndexFileError, match="pip install qdrant-client"):
        PhotoIndex.create(tmp_path / "far", retriever, address="http://127.0.0.1:7")
