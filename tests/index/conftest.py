from pathlib import Path

import pytest

from index import PhotoIndex
from tests.index.fake_retriever import FakeRetriever, paint


@pytest.fixture
def retriever() -> FakeRetriever:
    return FakeRetriever()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three photos; in the order of their names a half red, a red and a blue one."""
    folder = tmp_path / "photos"
    paint(folder / "half.png", "red", "blue", "red", "blue")
    paint(folder / "red.png", "red")
    paint(folder / "sea" / "blue.png", "blue")
    return folder


@pytest.fixture
def library(tmp_path: Path, photos: Path, retriever: FakeRetriever) -> PhotoIndex:
    """An index of `photos`."""
    index = PhotoIndex.create(tmp_path / "index", retriever)
    report = index.add([photos])
    assert (report.added, report.known, report.refused) == (3, 0, [])
    return index
