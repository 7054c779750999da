"""The store against brute force: same photos, same order, also with ties and crowding siblings."""

import numpy as np
import pytest

from index.manifest import IndexFileError
from index.segment_store import FANOUT, SegmentStore


def brute_force(query, ids, embeddings, count):
    """Score everything in double precision, one photo at a time."""
    scored = []
    for photo, vectors in zip(ids, embeddings, strict=True):
        best = max(float(np.dot(v.astype(np.float64), query.astype(np.float64))) for v in vectors)
        scored.append((-np.float32(best), photo))
    scored.sort()
    return [(int(photo), float(-score)) for score, photo in scored[:count]]


def tied(rng, *shape, dim):
    """Unit vectors with four entries of one half: scores are multiples of 1/4, so most are tied."""
    vectors = np.zeros((int(np.prod(shape)), dim), dtype=np.float32)
    for vector in vectors:
        vector[rng.choice(dim, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return vectors.reshape(*shape, dim)


def crowded(rng, *shape, dim):
    """Photos whose vectors lie so close together that one photo fills the first places."""
    centres = rng.normal(size=(*shape[:-1], 1, dim))
    vectors = centres + 1e-3 * rng.normal(size=(*shape, dim))
    return unit(vectors)


def spread(rng, *shape, dim):
    return unit(rng.normal(size=(*shape, dim)))


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def store_of(folder, ids, embeddings, **settings):
    """A store of photos, in one segment."""
    queries, dim = embeddings.shape[1:]
    store = SegmentStore(folder, queries, dim, **settings)
    return store.changed(1, list(ids), embeddings, [])


def halves(vectors):
    """Unit vectors as they are stored."""
    return vectors.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("make", [tied, crowded, spread])
def test_random_corpora(make, tmp_path):
    """In one segment or in several, with some removed, among all photos or among some."""
    rng = np.random.default_rng(5)
    for number in range(334):
        photos, queries, dim = rng.integers((1, 1, 4), (60, 17, 20)).tolist()
        embeddings = halves(make(rng, photos, queries, dim=dim))
        doubled = rng.random(photos) < 0.3  # some photos are copies of the first
        embeddings[doubled] = embeddings[0]
        ids = np.sort(rng.choice(1000, photos, replace=False)) + 1
        (tmp_path / str(number)).mkdir()
        cut = int(rng.integers(0, photos))
        store = SegmentStore(tmp_path / str(number), queries, dim)
        store = store.changed(1, ids[:cut], embeddings[:cut], [])
        removed = ids[:cut][rng.random(cut) < 0.2]
        store = store.changed(1, ids[cut:], embeddings[cut:], removed)
        left = ~np.isin(ids, removed)
        assert store.ids().tolist() == ids[left].tolist()
        query = make(rng, 1, dim=dim)[0]
        count = int(rng.integers(1, 15))
        expected = brute_force(query, ids[left], embeddings[left], count)
        assert store.nearest(query, count) == expected
        some = left & (rng.random(photos) < 0.5)
        expected = brute_force(query, ids[some], embeddings[some], count)
        assert store.nearest(query, count, among=ids[some]) == expected


def test_several_vectors_ask_for_what_is_best_for_each(tmp_path):
    """Photo to photo: the mean over the vectors asked of the best cosine of each."""
    rng = np.random.default_rng(4)
    embeddings = halves(spread(rng, 40, 3, dim=6))
    store = store_of(tmp_path, range(40), embeddings)
    asked = spread(rng, 5, dim=6)
    cosines = np.einsum("nqd,ad->naq", embeddings.astype(np.float64), asked.astype(np.float64))
    expected = cosines.max(-1).mean(-1)
    found = store.nearest(asked, 40)
    assert [photo for photo, _ in found] == np.argsort(-expected).tolist()
    assert [score for _, score in found] == pytest.approx(np.sort(expected)[::-1].tolist())


def test_a_tie_wider_than_a_block(tmp_path):
    """3,000 equal photos: the answer must be the oldest."""
    embeddings = np.full((3000, 4, 4), 0.5, dtype=np.float32)
    store = store_of(tmp_path, range(1, 3001), embeddings)
    assert store.nearest(embeddings[0, 0], 3) == [(1, 1.0), (2, 1.0), (3, 1.0)]


def test_siblings_crowding_out_all_others(tmp_path):
    """One photo has 500 vectors that all beat the best of any other."""
    near, far = np.zeros((1, 500, 4)), np.zeros((2, 500, 4))
    near[..., 0] = 1
    far[..., 1] = 1
    far[1, 7] = [0.6, 0.8, 0, 0]
    embeddings = np.concatenate([near, far]).astype(np.float32)
    store = store_of(tmp_path, [4, 5, 6], embeddings)
    found = store.nearest(embeddings[0, 0], 3)
    assert found == [(4, 1.0), (6, pytest.approx(0.6, abs=1e-3)), (5, 0.0)]


def test_change_leaves_the_old_store_alone(tmp_path):
    rng = np.random.default_rng(0)
    embeddings = halves(spread(rng, 5, 3, dim=6))
    old = store_of(tmp_path, [1, 2, 3], embeddings[:3])
    new = old.changed(1, [7, 9], embeddings[3:], [2])
    assert old.ids().tolist() == [1, 2, 3]
    assert new.ids().tolist() == [1, 3, 7, 9]
    kept = embeddings[[0, 2, 3, 4]]
    query = spread(rng, 1, dim=6)[0]
    assert new.nearest(query, 9) == brute_force(query, [1, 3, 7, 9], kept, 9)
    assert old.nearest(query, 9) == brute_force(query, [1, 2, 3], embeddings[:3], 9)
    assert np.array_equal(new.embeddings_of(9), embeddings[4])
    with pytest.raises(KeyError):
        new.embeddings_of(8)


def test_empty_store(tmp_path):
    assert SegmentStore(tmp_path, 2, 4).nearest(np.array([1, 0, 0, 0]), 5) == []
    assert SegmentStore(tmp_path, 2, 4).ids().tolist() == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 2.0])
def test_vectors_that_are_not_of_unit_length(tmp_path, bad):
    embeddings = np.full((1, 2, 4), 0.5, dtype=np.float32)
    embeddings[0, 1] = bad
    with pytest.raises(ValueError, match="unit length"):
        store_of(tmp_path, [1], embeddings)
    assert not list(tmp_path.iterdir())


def test_segments_are_put_together_and_nothing_is_lost(tmp_path):
    """A hundred additions leave few segments; photos keep their embeddings and their order."""
    rng = np.random.default_rng(2)
    embeddings = halves(spread(rng, 300, 3, dim=8))
    store = SegmentStore(tmp_path, 3, 8)
    for start in range(0, 300, 3):
        removed = [start - 2] if start % 30 == 0 and start else []
        store = store.changed(1, range(start, start + 3), embeddings[start : start + 3], removed)
        assert len(store.segments) <= 2 * FANOUT
    gone = [start - 2 for start in range(30, 300, 30)]
    ids = [photo for photo in range(300) if photo not in gone]
    assert store.ids().tolist() == ids
    query = spread(rng, 1, dim=8)[0]
    assert store.nearest(query, 300) == brute_force(query, ids, embeddings[ids], 300)
    # Removing most of a segment writes it anew without them.
    store = store.changed(1, [], np.empty((0, 3, 8), np.float32), [i for i in ids if i % 4])
    assert sum(len(segment) for segment in store.segments) < 150
    assert store.ids().tolist() == [i for i in ids if i % 4 == 0]


def clustered(rng, photos, queries, dim):
    """Photos in topics, as a retriever's embeddings lie, each with vectors around its own."""
    topics = rng.normal(size=(40, dim))
    own = unit(topics[rng.integers(40, size=photos)]) + 0.7 * unit(rng.normal(size=(photos, dim)))
    return unit(unit(own)[:, None] + 0.6 * unit(rng.normal(size=(photos, queries, dim))))


def test_candidates_find_what_comparing_all_finds(tmp_path):
    """Recall at 10 of FAISS's candidates, compared exactly, against comparing every photo."""
    rng = np.random.default_rng(3)
    embeddings = clustered(rng, 6000, 8, 32)
    for name in ("all", "fast"):
        (tmp_path / name).mkdir()
    exhaustive = store_of(tmp_path / "all", range(6000), embeddings)
    fast = store_of(tmp_path / "fast", range(6000), embeddings, search="candidates")
    assert "IVF" in fast.kind and "IVF" not in exhaustive.kind
    asked = unit(embeddings[::61, 0] + 0.9 * unit(rng.normal(size=(99, 32))))
    found = [(exhaustive.nearest(query, 10), fast.nearest(query, 10)) for query in asked]
    recall = np.mean([len({p for p, _ in a} & {p for p, _ in b}) / 10 for a, b in found])
    assert recall > 0.98
    for one, other in found:  # a photo that both find has the same score
        assert dict(one).items() >= {pair for pair in other if pair[0] in dict(one)}
    some = np.arange(0, 6000, 3)
    both = [s.nearest(asked[0], 50, among=some) for s in (exhaustive, fast)]
    assert both[0][:10] == both[1][:10] and len(both[1]) == 50
    few = np.array([5, 1234, 4321])
    assert exhaustive.nearest(asked[0], 9, few) == fast.nearest(asked[0], 9, few)
    kept = fast.manifest()
    again = SegmentStore.open(tmp_path / "fast", 8, 32, kept, None)
    assert again.nearest(asked[5], 10) == fast.nearest(asked[5], 10) and again.kind == fast.kind


def test_a_segment_opened_again_and_a_damaged_row(tmp_path):
    rng = np.random.default_rng(1)
    embeddings = spread(rng, 8, 4, dim=5)
    store = store_of(tmp_path, range(8), embeddings)
    kept = store.manifest()
    again = SegmentStore.open(tmp_path, 4, 5, kept, None)
    query = spread(rng, 1, dim=5)[0]
    assert again.nearest(query, 8) == store.nearest(query, 8) and not again.damage()
    assert {path.name for path in tmp_path.iterdir()} == store.files()
    path = tmp_path / "embeddings-1.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # in the last photo
    path.write_bytes(data)
    again = SegmentStore.open(tmp_path, 4, 5, kept, None)
    assert again.nearest(query, 2, among=np.arange(7)) == store.nearest(
        query, 2, among=np.arange(7)
    )
    with pytest.raises(IndexFileError, match="photo 7 is not what was written"):
        again.nearest(query, 2)
    assert again.damage() == ["embeddings-1.npy is not what was written"]


def test_small_segments_that_are_many_photos_together_get_candidates(tmp_path, monkeypatch):
    """However an index has grown: what a build commits some at a time is searched as one."""
    monkeypatch.setattr("index.segment_store.CANDIDATES_FROM", 600)
    rng = np.random.default_rng(6)
    embeddings = halves(clustered(rng, 1500, 8, 16))
    store = SegmentStore(tmp_path, 8, 16)
    for start in range(0, 1500, 50):
        store = store.changed(
            1,
            range(start, start + 50),
            embeddings[start : start + 50],
            [start - 9] if start else [],
        )
        plain = sum(len(s) for s in store.segments if s.candidates is None)
        assert plain < 600 + 50
    assert store.kind.startswith("IVF") and sum(map(len, store.segments)) >= len(store)
    gone = np.arange(50, 1500, 50) - 9
    assert store.ids().tolist() == np.setdiff1d(np.arange(1500), gone).tolist()
    assert plain < 600 and len(store.segments) < 2 * FANOUT
    left = store.ids()
    for query in unit(embeddings[::300, 0] + 0.5 * unit(rng.normal(size=(5, 16)))):
        expected = brute_force(query, left, embeddings[left], 10)
        assert len(dict(expected).keys() & dict(store.nearest(query, 10)).keys()) >= 9
