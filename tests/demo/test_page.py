"""The page as programs see it: served for real, with stand-ins for the models."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from demo.models import Models
from demo.page import build_page
from demo.visitors import Visitors
from tests.demo.fake_blip2 import FakeBlip2
from tests.index.fake_retriever import FakeRetriever, paint

ENDPOINTS = {
    "caption",
    "attention",
    "ask",
    "search",
    "similar",
    "best_captions",
    "suggest_captions",
    "add_photos",
}
RUN_A_MODEL = {
    "caption",
    "where_it_looked",
    "ask",
    "ask_again",
    "ask_otherwise",
    "search",
    "similar",
    "best_captions",
    "suggest_captions",
    "add",
}


@pytest.fixture
def page(library, tmp_path, monkeypatch):
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
    assert {event.api_name for event in page.fns.values()} >= ENDPOINTS
    for event in page.fns.values():
        one_queue = (event.concurrency_id, event.concurrency_limit) == ("model", 1)
        assert one_queue == (event.name in RUN_A_MODEL), f"{event.name} in {event.concurrency_id}"


def test_programs_see_each_thing_to_do_by_name_and_nothing_else(visitor):
    described = visitor().view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(described) == {f"/{name}" for name in ENDPOINTS}
    required = {
        name: [p["parameter_name"] for p in told["parameters"] if not p["parameter_has_default"]]
        for name, told in described.items()
    }
    assert required == {
        "/caption": ["photo"],
        "/attention": ["photo"],
        "/ask": ["photo", "question"],
        "/search": ["text"],
        "/similar": ["photo"],
        "/best_captions": ["photo", "lines"],
        "/suggest_captions": ["photo"],
        "/add_photos": ["files"],
    }


def test_a_caption_by_name(visitor, tmp_path):
    photo = handle_file(paint(tmp_path / "sky.png", "blue"))
    text, timing, _ = visitor().predict(photo, "Be brief.", api_name="/caption")
    assert text == "a blue picture: Be brief."
    assert "first word after" in timing


def test_candidates_heat_maps_and_fitting_words_by_name(visitor, tmp_path):
    photo, client = handle_file(paint(tmp_path / "sky.png", "blue")), visitor()
    text, _, shown = client.predict(
        photo, strategy="Nucleus sampling", candidates=2, api_name="/caption"
    )
    assert text == "a blue picture, take 1" and "take 2" in shown
    (picture,) = client.predict(photo, api_name="/attention")
    assert picture["caption"] == "All 4 queries"
    with Image.open(picture["image"]) as drawn, Image.open(tmp_path / "sky.png") as sky:
        assert drawn.size == sky.size
    ranked = client.predict(photo, "red\nblue", api_name="/best_captions")
    assert ranked.index(">blue<") < ranked.index(">red<")
    lines = client.predict(photo, api_name="/suggest_captions")
    assert lines.splitlines()[0] == "a blue picture, take 1" and len(lines.splitlines()) == 5


def test_a_bad_photo_is_a_sentence_for_programs_too(visitor, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"hello")
    with pytest.raises(AppError, match="The given photo is not in a format that is read here"):
        visitor().predict(handle_file(bad), api_name="/caption")


def test_two_visitors_have_two_conversations(visitor, tmp_path):
    photo = handle_file(paint(tmp_path / "a.png", "red"))
    ann, bob = visitor(), visitor()

    def ask(who: Client, question: str) -> str:
        messages, *_ = who.predict(photo, question, api_name="/ask")
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
    items, line = client.predict("green", api_name="/search")
    assert items[0]["caption"].endswith("· green.jpg")
    assert Path(items[0]["image"]).read_bytes()[:2] == b"\xff\xd8", "no thumbnail came"
    assert "Best 4 of 4 photos" in line
    alike, line = client.predict(handle_file(green), 1, api_name="/similar")
    assert alike[0]["caption"].endswith("· green.jpg") and "like this one" in line


def test_private_photos_are_found_by_their_visitor_alone(library, tmp_path):
    models = Models(FakeBlip2(), FakeRetriever())
    page = build_page(models, library, False, Visitors(library.visit))
    _, local, _ = page.launch(prevent_thread_lock=True, quiet=True)
    try:
        ann, bob = Client(local, verbose=False), Client(local, verbose=False)
        green = handle_file(paint(tmp_path / "new" / "green.png", "green"))
        assert "1 photo added." in ann.predict([green], api_name="/add_photos")[0]
        anns, line = ann.predict("green", api_name="/search")
        assert anns[0]["caption"].endswith("· green.jpg") and "of 4 photos" in line
        bobs, line = bob.predict("green", api_name="/search")
        assert "green" not in str(bobs) and "of 3 photos" in line
        assert len(library) == 3
    finally:
        page.close(verbose=False)


def test_files_of_the_server_are_not_served(address, photos, tmp_path):
    with httpx.Client(base_url=address) as web:
        assert web.get("/").status_code == 200
        for path in (photos[0], tmp_path / "index" / "manifest.json", "/etc/passwd"):
            assert web.get(f"/gradio_api/file={path}").status_code == 403


def test_a_large_upload_is_refused(address):
    with httpx.Client(base_url=address) as web:
        sent = web.post("/gradio_api/upload", files={"files": ("a.jpg", bytes(2_000_000))})
    assert sent.status_code == 413
