from collections.abc import Callable
from pathlib import Path

import pytest

from demo.library import Library
from demo.visitors import Visitor
from index import PhotoIndex
from tests.demo.fake_blip2 import FakeBlip2
from tests.index.fake_retriever import FakeRetriever, paint


@pytest.fixture
def blip2() -> FakeBlip2:
    return FakeBlip2()


@pytest.fixture
def visitor() -> Visitor:
    """A visitor whose page has not said which photo it has, as a program's never does."""
    return Visitor()


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict]:
    """Makes what an image or file component sends: a file in the upload folder, and its name."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "received"))

    def send(name: str, content: bytes | str = "red") -> dict:
        number = len(list(tmp_path.glob("received/*")))  # named by content, as Gradio does
        path = tmp_path / "received" / f"{number:064x}" / name
        if isinstance(content, str):
            paint(path, content)
        else:
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
        return {"path": str(path), "url": f"/gradio_api/file={path}", "orig_name": name}

    return send


@pytest.fixture
def retriever() -> FakeRetriever:
    return FakeRetriever()


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """A half red, a red and a blue photo."""
    return [
        paint(tmp_path / "photos" / "half.png", "red", "blue", "red", "blue"),
        paint(tmp_path / "photos" / "red.png", "red"),
        paint(tmp_path / "photos" / "blue.png", "blue"),
    ]


@pytest.fixture
def library(
    tmp_path: Path,
    photos: list[Path],
    retriever: FakeRetriever,
    monkeypatch: pytest.MonkeyPatch,
) -> Library:
    """The photos, indexed; thumbnails lie where received files do, as in the app."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "received"))
    index = PhotoIndex.create(tmp_path / "index", retriever)
    assert index.add(photos).added == 3
    return Library(index, tmp_path / "index", tmp_path / "received" / "thumbnails", photos)
