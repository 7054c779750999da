"""The page as programs see it: served for real, with stand-ins for the models."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from demo.models import Models
from demo.page import build_page
from tests.demo.fake_blip2 import FakeBlip2
from tests.index.fake_retriever import FakeRetriever, paint

GREEDY = ("Greedy", 5, 1.0, 0.9, 30, 1.0)


@pytest.fixture
def page(library, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    return build_page(Models(FakeBlip2(), FakeRetriever()), library, samples=True)


@pytest.fixture
def address(page) -> Iterator[str]:
    _, local, _ = page.launch(prevent_thread_lock=True, quiet=True, max_file_size="1mb")
    yield local
    page.close(verbose=False)


@pytest.fixture
def visitor(address):
    return lambda: Client(address, verbose=False)


def test_every_event_that_runs_a_model_stands_in_one_queue(page):
    named = {"caption", "ask", "search", "add_photos"}
    assert named <= {event.api_name for event in page.fns.values()}
    for event in page.fns.values():
        one_queue = (event.concurrency_id, event.concurrency_limit) == ("model", 1)
        touches_a_model = event.name in {"caption", "ask", "search", "add"}
        assert one_queue == touches_a_model, f"{event.name} is in queue {event.concurrency_id}"


def test_a_caption_by_name(visitor, tmp_path):
    photo = handle_file(paint(tmp_path / "sky.png", "blue"))
    text, timing = visitor().predict(photo, "Be brief.", *GREEDY, api_name="/caption")
    assert text == "a blue picture: Be brief."
    assert "first word after" in timing


def test_a_bad_photo_is_a_sentence_for_programs_too(visitor, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"hello")
    with pytest.raises(AppError, match="The given photo is not a picture; use JPEG"):
        visitor().predict(handle_file(bad), "", *GREEDY, api_name="/caption")


def test_two_visitors_have_two_conversations(visitor, tmp_path):
    photo = handle_file(paint(tmp_path / "a.png", "red"))
    ann, bob = visitor(), visitor()

    def ask(who: Client, question: str) -> str:
        messages, _ = who.predict(photo, question, api_name="/ask")
        content = messages[-1]["content"]
        return content if isinstance(content, str) else content[0]["text"]

    assert ask(ann, "Ann asks?") == "red; before you asked nothing"
    assert ask(bob, "Bob asks?") == "red; before you asked nothing"
    assert ask(ann, "And?") == "red; before you asked Ann asks?"
    assert ask(bob, "And?") == "red; before you asked Bob asks?"


def test_a_search_by_name_and_photos_added_by_name(visitor, tmp_path):
    green, bad = paint(tmp_path / "new" / "green.png", "green"), tmp_path / "bad.png"
    bad.write_bytes(b"")
    client = visitor()
    report, *_ = client.predict([handle_file(green), handle_file(bad)], api_name="/add_photos")
    assert "1 photo added. 1 was refused:" in report and "bad.png" in report
    items, line = client.predict("green", 12, False, api_name="/search")
    assert items[0]["caption"].endswith("· green.png")
    assert Path(items[0]["image"]).read_bytes()[:2] == b"\xff\xd8", "no thumbnail came"
    assert "Best 4 of 4 photos" in line


def test_files_of_the_server_are_not_served(address, photos, tmp_path):
    with httpx.Client(base_url=address) as web:
        assert web.get("/").status_code == 200
        for path in (photos[0], tmp_path / "index" / "manifest.json", "/etc/passwd"):
            assert web.get(f"/gradio_api/file={path}").status_code == 403


def test_a_large_upload_is_refused(address):
    with httpx.Client(base_url=address) as web:
        sent = web.post("/gradio_api/upload", files={"files": ("a.jpg", bytes(2_000_000))})
    assert sent.status_code == 413
