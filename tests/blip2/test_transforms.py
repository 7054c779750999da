"""Photos turned into tensors: which pixel goes where, and what the random views cover."""

import random

from PIL import Image

from blip2.transforms import PhotoTransform, TrainTransform

RED, BLUE = (255, 0, 0), (0, 0, 255)


def four_colours() -> Image.Image:
    """Return 48 x 32 pixels: red top left, green top right, blue bottom left, white the rest."""
    image = Image.new("RGB", (48, 32), "white")
    image.paste(RED, (0, 0, 24, 16))
    image.paste((0, 255, 0), (24, 0, 48, 16))
    image.paste(BLUE, (0, 16, 24, 32))
    return image


def test_photo_transform_normalises_each_channel_in_its_place() -> None:
    transform = PhotoTransform(8, mean=(127.0, 100.0, 50.0), std=(128.0, 10.0, 5.0))
    pixels = transform(four_colours())
    assert pixels.shape == (3, 8, 8)
    assert str(pixels.dtype) == "torch.float32"
    assert pixels[:, 0, 0].tolist() == [1.0, -10.0, -10.0]  # red
    assert pixels[:, 0, 7].tolist() == [-127 / 128, 15.5, -10.0]  # green
    assert pixels[:, 7, 0].tolist() == [-127 / 128, -10.0, 41.0]  # blue
    assert pixels[:, 7, 7].tolist() == [1.0, 15.5, 41.0]  # white


def test_photo_transform_keeps_the_borders_of_a_wide_photo() -> None:
    image = Image.new("RGB", (400, 40))
    image.paste(RED, (0, 0, 60, 40))
    image.paste(BLUE, (340, 0, 400, 40))
    pixels = PhotoTransform(20, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))(image)
    assert pixels[:, 10, 0].tolist() == [1.0, 0.0, 0.0]
    assert pixels[:, 10, 19].tolist() == [0.0, 0.0, 1.0]
    assert pixels[:, 10, 10].tolist() == [0.0, 0.0, 0.0]


PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def test_train_transform_follows_its_generator() -> None:
    transform = TrainTransform(16, **PLAIN)
    noise = Image.effect_noise((64, 48), 90).convert("RGB")
    first = [transform(noise, random.Random(seed)) for seed in range(6)]
    again = [transform(noise, random.Random(seed)) for seed in range(6)]
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert len({tuple(view.flatten().tolist()) for view in first}) == 6


def test_train_transform_mirrors_half_of_the_views() -> None:
    transform = TrainTransform(16, **PLAIN)
    image = Image.new("RGB", (64, 64), BLUE)
    image.paste(RED, (0, 0, 32, 64))  # a crop of half the area shows both colours
    rng = random.Random(0)
    mirrored = 0
    for _ in range(400):
        view = transform(image, rng)
        assert view.shape == (3, 16, 16)
        left, right = view[0, :, :8].mean(), view[0, :, 8:].mean()
        mirrored += int(left < right)
    assert 160 < mirrored < 240


def test_crops_keep_to_scale_and_ratio_and_reach_every_part() -> None:
    transform = TrainTransform(16, **PLAIN)
    width, height = 120, 100
    rng = random.Random(0)
    boxes = [transform.crop_box(width, height, rng) for _ in range(2000)]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert (right - left) * (bottom - top) >= 0.5 * width * height - width
        assert 3 / 4 - 0.02 <= (right - left) / (bottom - top) <= 4 / 3 + 0.02
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in boxes]
    assert max(areas) > 0.95 * width * height
    assert min(areas) < 0.53 * width * height
    assert min(box[0] for box in boxes) == min(box[1] for box in boxes) == 0
    assert max(box[2] for box in boxes) == width
    assert max(box[3] for box in boxes) == height


def test_crops_of_extreme_shapes_are_the_largest_central_ones() -> None:
    transform = TrainTransform(16, **PLAIN)
    rng = random.Random(0)
    assert transform.crop_box(900, 30, rng) == (430, 0, 470, 30)
    assert transform.crop_box(30, 900, rng) == (0, 430, 30, 470)
    assert transform.crop_box(1, 1, rng) == (0, 0, 1, 1)
