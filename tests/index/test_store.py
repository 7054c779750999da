"""The store against brute force: same photos, same order, also with ties and crowding siblings."""

import io

import faiss
import numpy as np
import pytest

from index.store import FlatStore


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


@pytest.mark.parametrize("make", [tied, crowded, spread])
def test_random_corpora(make):
    rng = np.random.default_rng(5)
    for _ in range(334):
        photos, queries, dim = rng.integers((1, 1, 4), (60, 17, 20)).tolist()
        embeddings = make(rng, photos, queries, dim=dim)
        doubled = rng.random(photos) < 0.3  # some photos are copies of the first
        embeddings[doubled] = embeddings[0]
        ids = np.sort(rng.choice(1000, photos, replace=False)) + 1
        store = FlatStore(queries, dim).changed(ids, embeddings, [])
        query = make(rng, 1, dim=dim)[0]
        count = int(rng.integers(1, 15))
        assert store.nearest(query, count) == brute_force(query, ids, embeddings, count)


def test_a_tie_wider_than_the_first_candidates():
    """300 equal photos: FAISS returns the youngest first, the answer must be the oldest."""
    embeddings = np.full((300, 4, 4), 0.5, dtype=np.float32)
    store = FlatStore(4, 4).changed(range(1, 301), embeddings, [])
    assert store.nearest(embeddings[0, 0], 3) == [(1, 1.0), (2, 1.0), (3, 1.0)]


def test_siblings_crowding_out_all_candidates():
    """One photo has 500 vectors that all beat the best of any other."""
    near, far = np.zeros((1, 500, 4)), np.zeros((2, 500, 4))
    near[..., 0] = 1
    far[..., 1] = 1
    far[1, 7] = [0.6, 0.8, 0, 0]
    embeddings = np.concatenate([near, far]).astype(np.float32)
    store = FlatStore(500, 4).changed([4, 5, 6], embeddings, [])
    found = store.nearest(embeddings[0, 0], 3)
    assert found == [(4, 1.0), (6, pytest.approx(0.6)), (5, 0.0)]


def test_change_leaves_the_old_store_alone():
    rng = np.random.default_rng(0)
    embeddings = spread(rng, 5, 3, dim=6)
    old = FlatStore(3, 6).changed([1, 2, 3], embeddings[:3], [])
    new = old.changed([7, 9], embeddings[3:], [2])
    assert old.ids().tolist() == [1, 2, 3]
    assert new.ids().tolist() == [1, 3, 7, 9]
    kept = embeddings[[0, 2, 3, 4]]
    query = spread(rng, 1, dim=6)[0]
    assert new.nearest(query, 9) == brute_force(query, [1, 3, 7, 9], kept, 9)
    assert old.nearest(query, 9) == brute_force(query, [1, 2, 3], embeddings[:3], 9)


def test_empty_store():
    assert FlatStore(2, 4).nearest(np.array([1, 0, 0, 0]), 5) == []
    assert FlatStore(2, 4).ids().tolist() == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 2.0])
def test_vectors_that_are_not_of_unit_length(bad):
    embeddings = np.full((1, 2, 4), 0.5, dtype=np.float32)
    embeddings[0, 1] = bad
    with pytest.raises(ValueError, match="unit length"):
        FlatStore(2, 4).changed([1], embeddings, [])


def test_save_and_load(tmp_path):
    rng = np.random.default_rng(1)
    embeddings = spread(rng, 8, 4, dim=5)
    store = FlatStore(4, 5).changed(range(8), embeddings, [])
    size, sha256 = store.save(tmp_path / "vectors")
    expected = {"queries": 4, "dim": 5, "photos": 8, "size": size, "sha256": sha256}
    loaded = FlatStore.load(tmp_path / "vectors", **expected)
    query = spread(rng, 1, dim=5)[0]
    assert loaded.nearest(query, 8) == store.nearest(query, 8)
    assert [entry.name for entry in tmp_path.iterdir()] == ["vectors"]
    reread = faiss.read_index(
        faiss.PyCallbackIOReader(io.BytesIO((tmp_path / "vectors").read_bytes()).read)
    )
    assert reread.ntotal == 32
