"""Folding photos that are nearly the same."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from index import Folded, Hit, PhotoIndex, fold_alike
from index.alike import likeness, look_alike
from index.hits import ranked
from tests.index.fake_retriever import FakeRetriever, paint


def noise(path: Path, seed: int) -> Image.Image:
    """Write a photo with blots of colour, as any scene has them from afar."""
    blots = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    photo = Image.fromarray(blots).resize((480, 360), Image.Resampling.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    photo.save(path)
    return photo


def hit(path: Path, photo: int = 0) -> Hit:
    return Hit(photo, path, 0.5, None, False, path.stat().st_size, "", photo)


def names(folded: list[Folded]) -> list[list[str]]:
    return [[own.hit.path.name, *(other.path.name for other in own.alike)] for own in folded]


def unit(rng, *shape):
    vectors = rng.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_likeness_is_the_mean_of_the_best_cosines_in_both_directions():
    rng = np.random.default_rng(2)
    one, others = unit(rng, 5, 8), unit(rng, 7, 5, 8)
    for other, found in zip(others, likeness(one, others), strict=True):
        there = np.mean([max(a @ b for b in other) for a in one])
        back = np.mean([max(a @ b for a in one) for b in other])
        assert found == pytest.approx((there + back) / 2, abs=1e-6)
        assert likeness(other, one[None])[0] == pytest.approx(found, abs=1e-6)
    assert likeness(one, one[None])[0] == pytest.approx(1, abs=1e-6)


def test_copies_look_alike_and_other_photos_do_not(tmp_path):
    photo = noise(tmp_path / "a.png", 1)
    copies = {
        "quality.jpg": photo,
        "half.png": photo.resize((240, 180)),
        "cropped.png": photo.crop((12, 9, 468, 351)),
        "brighter.png": ImageEnhance.Brightness(photo).enhance(1.1),
    }
    for name, copy in copies.items():
        copy.save(tmp_path / name, quality=40)
        assert look_alike(hit(tmp_path / "a.png"), hit(tmp_path / name)), name
    for seed in range(2, 40):
        noise(tmp_path / f"{seed}.png", seed)
        assert not look_alike(hit(tmp_path / "a.png"), hit(tmp_path / f"{seed}.png")), seed


def test_photos_of_one_colour_look_alike(tmp_path):
    paths = [paint(tmp_path / f"{size}.jpg", "red", size=size) for size in (32, 64)]
    assert look_alike(hit(paths[0]), hit(paths[1]))
    half = paint(tmp_path / "half.png", "red", "blue", "red", "blue")
    assert not look_alike(hit(paths[0]), hit(half))


def test_folding_keeps_the_order_and_every_hit(tmp_path):
    """Copies of three photos, mixed, with embeddings that agree or not."""
    rng = np.random.default_rng(3)
    kinds = rng.integers(0, 3, 12)
    embedded = unit(rng, 3, 4, 16)
    hits = []
    for i, kind in enumerate(kinds):
        noise(tmp_path / f"{i}.png", int(kind))
        hits.append(hit(tmp_path / f"{i}.png", i))
    folded = fold_alike(hits, embedded[kinds])
    leaders = [int(np.flatnonzero(kinds == kind)[0]) for kind in dict.fromkeys(kinds.tolist())]
    assert [own.hit.photo for own in folded] == leaders
    for own in folded:
        members = [own.hit.photo, *(other.photo for other in own.alike)]
        assert members == np.flatnonzero(kinds == kinds[own.hit.photo]).tolist()
    # The same pixels with embeddings that share nothing, and the other way round.
    far = np.eye(16, dtype=np.float32)[:12, None].repeat(4, 1)
    assert len(fold_alike(hits, far)) == 12
    different = [hit(tmp_path / f"{i}.png", i) for i in leaders]
    assert len(fold_alike(different, embedded[[0] * len(leaders)])) == len(leaders)


def test_each_goes_to_the_leader_that_is_most_like_it(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        noise(tmp_path / name, 5)
    corners = np.array([[1, 0], [0.7, 0.714], [0.8, 0.6]], dtype=np.float32)  # b apart from a
    corners /= np.linalg.norm(corners, axis=1, keepdims=True)
    hits = [hit(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    assert names(fold_alike(hits, corners[:, None])) == [["a.png"], ["b.png", "c.png"]]


def test_photos_that_cannot_be_opened_fold_with_none(tmp_path):
    hits = []
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
        hits.append(hit(tmp_path / name))
    same = np.ones((2, 1, 1), dtype=np.float32)
    assert names(fold_alike(hits, same)) == [["a.png"], ["b.png"]]
    assert fold_alike([], np.empty((0, 4, 8), np.float32)) == []
    with pytest.raises(ValueError, match="embeddings of 2 photos, got 1"):
        fold_alike(hits, same[:1])


def test_embeddings_of_hits_are_those_that_were_made(library: PhotoIndex, retriever: FakeRetriever):
    hits = library.search("red", 3)
    found = library.embeddings_of(hits)
    made = retriever.embed_images([hit.path for hit in hits]).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, made, atol=1e-3)  # kept in half precision
    library.remove([hits[1].path])
    gone = library.embeddings_of(hits)
    assert not gone[1].any()
    np.testing.assert_array_equal(gone[[0, 2]], found[[0, 2]])


def test_nearest_is_what_search_and_similar_rank_by(library: PhotoIndex, retriever: FakeRetriever):
    query = retriever.embed_texts(["blue"])[0].numpy()
    assert library.nearest(query, 3) == library.search("blue", 3)
    first = library.search("red", 1)
    (own,) = library.embeddings_of(first)
    others = [other for other in library.nearest(own, 3) if other.photo != first[0].photo]
    assert library.similar(first[0].path, 2) == ranked(others)
