"""What may be handed over as a photo, and the one sentence for everything else."""

import base64
import io
import os
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image

from blip2.photo_sources import photo_list
from blip2.processing import PhotoError, open_photo
from tests.helpers.photos import encoded, quarters

PNG = encoded(quarters(), "PNG")
PIXELS = np.asarray(quarters())  # [H, W, 3]
FLOATS = PIXELS.astype(np.float32) / 255
TENSOR = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)  # [3, H, W]


class Pathlike:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def same(photo: Image.Image) -> bool:
    return photo.mode == "RGB" and np.array_equal(np.asarray(photo), PIXELS)


def test_every_kind_of_file_gives_the_same_photo(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(PNG)
    with path.open("rb") as file, path.open("rb", buffering=0) as raw:
        sources = [path, str(path), Pathlike(path), file, raw, io.BytesIO(PNG), quarters()]
        sources += [PNG, bytearray(PNG), memoryview(PNG)]
        for source in sources:
            assert same(open_photo(source)), source


def test_a_file_is_read_from_where_it_stands() -> None:
    file = io.BytesIO(b"before" + PNG)
    file.seek(6)
    assert same(open_photo(file))


def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[PNG])
    writer.start()
    assert same(open_photo(tmp_path / "pipe"))
    writer.join()


def test_data_urls() -> None:
    plain = base64.b64encode(PNG).decode()
    lines = "\n".join(plain[i : i + 76] for i in range(0, len(plain), 76))
    for url in (
        f"data:image/png;base64,{plain}",
        f"DATA:image/png;BASE64,{plain.rstrip('=')}",
        f"data:;base64,{lines}",
        f"data:image/png;base64,{quote(plain)}",
        f"data:image/png,{quote(PNG)}",
    ):
        assert same(open_photo(url))


@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.float32, np.float64])
def test_arrays(kind: type) -> None:
    scale = 1 if kind is np.uint8 else 255
    clear = np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)])
    clear[:, :24, :] = 0  # the left half, transparent
    for pixels, expected in (
        (PIXELS, PIXELS),
        (clear, np.where(clear[..., 3:] == 0, 255, PIXELS)),
        (PIXELS[..., 0], np.dstack([PIXELS[..., 0]] * 3)),
        (PIXELS[:, ::-1], PIXELS[:, ::-1]),  # not contiguous
    ):
        photo = open_photo((pixels / scale).astype(kind) if scale > 1 else pixels)
        assert np.array_equal(np.asarray(photo), expected)
    given = PIXELS.copy()
    open_photo(given).paste("black", (0, 0, 48, 32))
    assert np.array_equal(given, PIXELS)


def test_tensors() -> None:
    floats = TENSOR.float() / 255
    for tensor in (TENSOR, floats, floats.requires_grad_(), floats.double(), floats.bfloat16()):
        assert same(open_photo(tensor))
    assert same(open_photo(TENSOR.float() / 255 * 1.0005))  # rounding


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (None, "There is no photo; give a path, bytes, an open file, a PIL image, a NumPy array"),
        (7, "A photo cannot be of the type int; give a path"),
        ([PNG], "A photo cannot be of the type list; give a path"),
        ({"path": "a.png"}, "A photo cannot be of the type dict; give a path"),
        ("http://example.org/a.jpg", "not fetched from addresses such as http://example.org/a"),
        ("https://example.org/" + "a" * 9000, r"addresses such as https://example.org/a+\.\.\.a+;"),
        ("file:///home/ann/a.jpg", "addresses such as file:///home/ann/a.jpg; give a file"),
        ("", "The path of the photo is empty; give one"),
        ("a\0b.png", "contains a null character; check the path"),
        (base64.b64encode(bytes(900_000)).decode(), "A text of 1,200,000 characters is no path;"),
        ("a" * 3000, r"The file a+\.\.\.a+ cannot be opened"),
        (Path("b" * 3000), r"The file b+\.\.\.b+ cannot be opened"),
        ("data:image/png;base64,no base64!", "The data: URL is broken"),
        ("data:image/png;base64", "The data: URL is broken"),
        ("data:image/png;base64," + "é" * 2000, "The data: URL is broken"),
        ("data:,", "The given photo is empty"),
        ("data:image/svg+xml,<svg/>", "The given photo is an SVG drawing"),
        (io.StringIO("a photo"), 'was opened as text; open it with mode "rb"'),
        (PIXELS[None], r"has the shape \[1, 32, 48, 3\]; a photo has \[H, W\]"),
        (np.zeros((3, 32, 48), np.uint8), r"has the shape \[3, 32, 48\]"),
        (np.zeros((32, 48, 2), np.uint8), r"has the shape \[32, 48, 2\]"),
        (np.zeros((0, 48, 3), np.uint8), "has no pixels"),
        (PIXELS.astype(np.float32), "has values from 0 to 255; give floats from 0 to 1, or uint8"),
        (FLOATS - 0.5, "has values from -0.5 to 0.5"),
        (np.full((9, 9), np.nan), "has values from nan to nan"),
        (PIXELS.astype(np.int64), "is of the type int64; give uint8, or floats from 0 to 1"),
        (PIXELS > 9, "is of the type bool"),
        (TENSOR[None], r"The given tensor has the shape \[1, 3, 32, 48\]; a photo has \[3, H, W\]"),
        (TENSOR.permute(1, 2, 0), r"The given tensor has the shape \[32, 48, 3\]"),
        (TENSOR.float(), "The given tensor has values from 0 to 255"),
        (TENSOR.long(), "The given tensor is of the type int64"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else type(value).__name__,
)
def test_everything_else_is_refused_in_one_short_sentence(source, sentence: str) -> None:
    with pytest.raises(PhotoError, match=sentence) as error:
        open_photo(source)
    assert len(str(error.value)) < 300 and str(error.value).endswith(".")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    with (tmp_path / "a.png").open() as text, pytest.raises(PhotoError, match="opened as text"):
        open_photo(text)
    file = (tmp_path / "a.png").open("rb")
    file.close()
    with pytest.raises(PhotoError, match=r"cannot be read \(read of closed file\)"):
        open_photo(file)
    with pytest.raises(PhotoError, match=r"gone\.jpg does not exist; check the path\.$"):
        open_photo(tmp_path / "gone.jpg")
    with pytest.raises(PhotoError, match="is a folder; give a photo in it instead"):
        open_photo(tmp_path)
    with pytest.raises(PhotoError, match=r"cannot be opened \(File name too long\); check"):
        open_photo(tmp_path / ("x" * 300))
    closed = quarters()
    closed.close()
    with pytest.raises(PhotoError, match=r"^The given image is damaged"):
        open_photo(closed)


def test_one_photo_is_a_list_of_one() -> None:
    for one in ("a.png", Path("a.png"), PNG, bytearray(PNG), PIXELS, TENSOR, quarters(), None):
        assert photo_list(one)[0] is one and len(photo_list(one)) == 1
    assert photo_list(["a.png", PNG]) == ["a.png", PNG]
    assert photo_list(("a.png",)) == ["a.png"]
    assert photo_list([]) == []
