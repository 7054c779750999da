"""Heat over a photo: in the right place, and queries in groups that say something."""

import numpy as np
import pytest
import torch
from PIL import Image

from demo.heat import DARK, GROUPS, group_name, group_queries, heat_maps, overlay


class Looks:
    """A model whose queries look where the test says."""

    def __init__(self, maps: np.ndarray) -> None:
        self.maps, self.asked = maps, []

    def attention(self, photo: Image.Image, prompt: str = "") -> torch.Tensor:
        self.asked.append((photo.size, prompt))
        return torch.from_numpy(self.maps / self.maps.sum((1, 2), keepdims=True))


def spots(*cells: tuple[int, int], even: float = 0.1) -> np.ndarray:
    """One map of 6 x 6 for each cell, hot there."""
    maps = np.full((len(cells), 6, 6), even, np.float32)
    for one, cell in zip(maps, cells, strict=True):
        one[cell] = 5
    return maps


def hottest(picture: Image.Image) -> tuple[float, float]:
    """Centre of the brightest hundredth, as parts of width and height."""
    light = np.asarray(picture.convert("L"), np.float32)
    rows, columns = np.nonzero(light >= np.percentile(light, 99))
    height, width = light.shape
    return (columns.mean() + 0.5) / width, (rows.mean() + 0.5) / height


@pytest.mark.parametrize("size", [(900, 300), (200, 500), (1280, 1280), (2000, 3)])
def test_pictures_keep_the_shape_and_stay_small(size):
    model = Looks(spots((0, 0), (5, 5)))
    pictures = heat_maps(model, Image.new("RGB", size, "grey"), "why")
    assert [name for _, name in pictures] == ["All 2 queries", "Query 1", "Query 2"]
    scale = min(1, 640 / max(size))
    for picture, _ in pictures:
        assert picture.mode == "RGB"
        assert picture.size == tuple(max(1, round(side * scale)) for side in size)
    assert model.asked == [(size, "why")]  # the model reads the photo whole


@pytest.mark.parametrize("size", [(900, 300), (200, 500)])
@pytest.mark.parametrize("cell", [(1, 4), (4, 0), (2, 2)])
def test_heat_lies_where_the_query_looked(size, cell):
    picture = heat_maps(Looks(spots(cell)), Image.new("RGB", size, "grey"))[0][0]
    x, y = hottest(picture)
    assert abs(x - (cell[1] + 0.5) / 6) < 0.05 and abs(y - (cell[0] + 0.5) / 6) < 0.05


def test_the_photo_is_dim_and_grey_where_nobody_looked_and_warm_where_they_did():
    photo = Image.new("RGB", (120, 60), (40, 160, 200))
    pixels = np.asarray(overlay(photo, spots((1, 1))[0])).astype(int)
    cold, hot = pixels[50, 110], pixels[15, 30]
    dim = DARK * photo.convert("L").getpixel((0, 0))
    assert cold.max() - cold.min() <= 1 and abs(cold[0] - dim) <= 1
    assert hot[0] > 150 and hot.mean() > 2 * cold.mean()  # the photo has 40 of red


def test_an_even_map_shows_no_heat():
    photo = Image.new("RGB", (60, 60), "white")
    maps = np.full((1, 6, 6), 1.0) + np.random.default_rng(0).normal(0, 1e-4, (1, 6, 6))
    pixels = np.asarray(overlay(photo, maps[0])).astype(int)
    assert pixels.max() < 255 * DARK + 5


def test_queries_that_look_alike_are_one_group():
    maps = spots((0, 0), (5, 5), (0, 0), (3, 1), (5, 5), (0, 0))
    maps /= maps.sum((1, 2), keepdims=True)
    maps[2, 0, 1] += 0.01  # alike, not the same
    assert group_queries(maps) == [[0, 2, 5], [1, 4], [3]]
    names = [name for _, name in heat_maps(Looks(maps), Image.new("RGB", (60, 60)))]
    assert names == ["All 6 queries", "Queries 1, 3, 6", "Queries 2, 5", "Query 4"]


def test_identical_maps_are_one_group_and_one_picture():
    maps = spots(*[(2, 3)] * 8)
    assert group_queries(maps) == [list(range(8))]
    names = [name for _, name in heat_maps(Looks(maps), Image.new("RGB", (60, 60)))]
    assert names == ["All 8 queries"]


@pytest.mark.parametrize("seed", range(5))
def test_groups_share_out_the_queries_always_the_same(seed):
    maps = np.random.default_rng(seed).random((32, 16, 16)) ** 4
    maps /= maps.sum((1, 2), keepdims=True)
    groups = group_queries(maps)
    assert 1 < len(groups) <= GROUPS
    assert sorted(query for group in groups for query in group) == list(range(32))
    assert [len(group) for group in groups] == sorted(map(len, groups), reverse=True)
    assert groups == group_queries(maps.copy())


def test_names_are_short():
    assert group_name([4]) == "Query 5"
    assert group_name([0, 3, 6, 8]) == "Queries 1, 4, 7, 9"
    assert group_name([0, 3, 6, 8, 15]) == "5 queries: 1, 4, 7 ..."
