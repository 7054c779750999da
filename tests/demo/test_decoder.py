"""The processes that open strangers' photos, for real."""

import io
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip2.processing import PhotoError, open_photo
from demo.decoder import LONGEST, Decoders
from tests.helpers.photos import TURNED, assert_colours, exif_of, heic, quarters, striped_jpeg
from tests.index.fake_retriever import paint


@pytest.fixture
def decoders():
    made: list[Decoders] = []

    def make(**options) -> Decoders:
        made.append(Decoders(**options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def children(decoders: Decoders) -> list[int]:
    """Process ids of those that are idle."""
    return [each._process.pid for each in list(decoders._idle.queue) if each is not None]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff", "a.bmp", "a.gif", "a.avif"])
def test_pixels_are_those_of_the_photo(decoders, tmp_path, name):
    path = paint(tmp_path / name, "red", "blue", "green", "white")
    photo = decoders().open(path)
    assert np.array_equal(np.asarray(photo), np.asarray(open_photo(path)))
    kind = Path(name).suffix[1:].upper().replace("JPG", "JPEG")
    assert (photo.mode, photo.info["format"]) == ("RGB", kind)


def test_a_large_photo_comes_smaller_and_upright(decoders, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right
    Image.new("RGB", (6000, 4000), "red").save(tmp_path / "a.png", exif=exif)
    photo = decoders().open(tmp_path / "a.png")
    assert photo.size == (round(LONGEST * 2 / 3), LONGEST)
    assert photo.getpixel((5, 5)) == (255, 0, 0)


def test_a_telephones_heic_comes_upright_with_its_first_image_alone(decoders, tmp_path):
    """12 million pixels, within the memory that a process may have."""
    image = quarters().resize((4032, 3024), Image.Resampling.NEAREST)
    data = heic(image, Image.new("RGB", (64, 48)), quality=40, chroma=420, exif=exif_of(6))
    (tmp_path / "IMG_1.HEIC").write_bytes(data)
    photo = decoders().open(tmp_path / "IMG_1.HEIC")
    assert photo.size == (1536, LONGEST) and photo.info["format"] == "HEIF"
    assert_colours(photo, *TURNED[6], within=6)


def test_visitors_may_not_send_what_owners_may_open(decoders, tmp_path):
    (tmp_path / "large.jpg").write_bytes(striped_jpeg(12_000, 9_000))
    assert open_photo(tmp_path / "large.jpg", 1024).size == (1500, 1125)
    with pytest.raises(PhotoError, match=r"has 12,000 x 9,000 pixels, more than the permitted"):
        decoders().open(tmp_path / "large.jpg")


def test_a_refusal_is_the_sentence_of_the_package(decoders, tmp_path):
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(PhotoError, match=r"^The given photo is not in a format that is read"):
        decoders().open(tmp_path / "a.jpg")
    with pytest.raises(PhotoError, match="no longer here; upload it again"):
        decoders().open(tmp_path / "none.jpg")


def test_too_much_memory_is_a_sentence_and_the_next_photo_opens(decoders, tmp_path):
    """9,000 x 9,000 pixels in a file of a few kilobytes, in a process that has 512 MB."""
    file = io.BytesIO()
    Image.new("RGBA", (9000, 9000)).save(file, "PNG")
    assert len(file.getvalue()) < 500_000
    (tmp_path / "large.png").write_bytes(file.getvalue())
    good = paint(tmp_path / "good.png", "blue")
    small = decoders(count=1, memory=512 << 20)
    with pytest.raises(PhotoError, match=r"too much memory; make it smaller|cannot be opened safe"):
        small.open(tmp_path / "large.png")
    assert small.open(good).getpixel((0, 0)) == (0, 0, 255)


def test_a_process_that_dies_is_replaced(decoders, tmp_path):
    good = paint(tmp_path / "good.png", "blue")
    one = decoders(count=1)
    one.open(good)
    (first,) = children(one)
    os.kill(first, signal.SIGKILL)
    time.sleep(0.2)
    assert one.open(good).getpixel((0, 0)) == (0, 0, 255)
    assert children(one) != [first]


def test_a_process_that_dies_over_a_photo_says_so(decoders, tmp_path):
    good = paint(tmp_path / "good.png", "blue")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # opening it waits for a writer, for ever
    one = decoders(count=1)
    one.open(good)
    (first,) = children(one)
    threading.Timer(0.3, lambda: os.kill(first, signal.SIGSEGV)).start()
    with pytest.raises(PhotoError, match="cannot be opened safely; choose another"):
        one.open(pipe)
    assert one.open(good).size == open_photo(good).size


def test_patience_ends(decoders, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    one = decoders(count=1, patience=0.5)
    start = time.monotonic()
    with pytest.raises(PhotoError, match="takes too long to open; choose another"):
        one.open(pipe)
    assert time.monotonic() - start < 5


def test_many_at_once_get_their_own_photo(decoders, tmp_path):
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    paths = {name: paint(tmp_path / f"{name}.png", name) for name in colours}
    shared, wrong = decoders(count=2), []

    def look(name: str) -> None:
        for _ in range(20):
            if shared.open(paths[name]).getpixel((3, 3)) != colours[name]:
                wrong.append(name)

    threads = [threading.Thread(target=look, args=(name,)) for name in colours for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(children(shared)) == 2


def test_closing_leaves_no_process(decoders, tmp_path):
    two = decoders(count=2)
    two.start()
    running = children(two)
    assert len(running) == 2
    two.close()
    for pid in running:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert two.open(paint(tmp_path / "a.png", "red")).getpixel((0, 0)) == (255, 0, 0)
