"""The page over folders and photos of odd names: everything works, and names stay names."""

import hashlib
import html
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from gradio_client import Client
from PIL import Image

import app
from blip2.display import one_line
from blip2.errors import UserError
from demo.failures import notice_html, sentences
from demo.filters import named_folders
from demo.finding import Filters, find
from demo.library import Library, library_folder
from demo.models import Models
from demo.opening import open_library
from demo.page import build_page
from demo.photo import check_photo
from demo.search import chosen_photo
from demo.thumbnails import Thumbnails
from demo.visitors import Visitor, Visitors
from demo.visits import keep_copy
from tests.demo.fake_blip2 import FakeBlip2
from tests.demo.test_app import free_port
from tests.index.fake_retriever import FakeRetriever, paint
from tests.odd_names import COMPOSED, DECOMPOSED, LATIN, ODD, paint_odd

DISPLAYED = [one_line(name) for name in ODD]


@pytest.fixture
def odd(tmp_path, monkeypatch) -> dict[str, Path]:
    """Photos of odd names, and one in a folder of each of these names."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "received"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("BLIP2_CACHE", str(tmp_path / "cache"))
    for number, name in enumerate(ODD):
        paint(tmp_path / "photos" / name / f"in {number}.png", "blue", size=100 + 2 * number)
    return paint_odd(tmp_path / "photos")


@pytest.fixture
def library(odd, tmp_path) -> Library:
    thumbnails = tmp_path / "received" / "thumbnails"
    opened, report = open_library(FakeRetriever(), tmp_path / "photos", None, thumbnails)
    assert (report.added, report.refused) == (2 * len(ODD), [])
    return opened


@pytest.fixture
def address(library) -> Iterator[str]:
    page = build_page(Models(FakeBlip2(), FakeRetriever(LATIN)), library, samples=False)
    _, local, _ = page.launch(prevent_thread_lock=True, quiet=True)
    yield local.rstrip("/")
    page.close(verbose=False)


@pytest.fixture
def search(address):
    """Search the page; gives the names under the photos, and the line about it."""
    client = Client(address, verbose=False, download_files=False)

    def found(**controls) -> tuple[list[str], str]:
        items, line = client.predict("red", 48, fold=False, api_name="/search", **controls)
        return sorted(item["caption"].partition(" · ")[2] for item in items), line

    return found


def test_photos_of_odd_names_are_found_and_when_they_are_gone_they_are_named(search, odd):
    names, _ = search(name="*.png")
    assert {f"{name}.png" for name in DISPLAYED} < set(names)
    for path in odd.values():
        path.unlink()
    names, line = search()
    assert len(names) == len(ODD) and all(name.startswith("in ") for name in names)
    assert "matched too but were deleted" in line
    names, line = search(name=r"caf\xe9")
    assert names == [] and r"caf\xe9.png matched too but was deleted" in line
    names, line = search(name="<b>")
    assert "&lt;b&gt;bold&lt;.png matched too" in line


def test_the_page_works_once_odd_names_are_mended(tmp_path, odd, library):
    """An index may keep the old name, which must not stand in the way."""
    odd[LATIN].rename(tmp_path / "photos" / "mended.png")
    again, report = open_library(FakeRetriever(), tmp_path / "photos", None, tmp_path / "t")
    assert report.added == 0
    for name in ("mended", ""):
        items, line = find(again, Visitor(), "red", 48, False, Filters(name=name, fold=False))
        captions = [caption for _, caption in items]
        assert any(caption.endswith(" · mended.png") for caption in captions)
        assert not any(caption.endswith(r" · caf\xe9.png") for caption in captions)
        assert "".join([line, *captions]).encode()


def test_the_name_filter_takes_what_is_displayed(library):
    for name in (f"{displayed}.png" for displayed in DISPLAYED):
        for part in (name.strip(), name.upper().strip(), name[:100].strip()):
            where = library.where(name=part)
            found = library.search("red", 99, False, where, fold=False).shown
            names = [one_line(own.name) for own in found]
            assert name in names
            assert all(part.casefold() in own.casefold() for own in names)


def test_only_the_star_is_special_in_the_name_filter(tmp_path):
    for number, name in enumerate(["what?", "whats", "[1]", "1", "a]b", "a*b"]):
        paint(tmp_path / "photos" / f"{name}.png", "red", size=16 + 2 * number)
    library, _ = open_library(FakeRetriever(), tmp_path / "photos", tmp_path / "i", tmp_path / "t")

    def shown(name: str) -> set[str]:
        found = library.search("red", 99, False, library.where(name=name), fold=False).shown
        return {own.name for own in found}

    assert shown("what?") == {"what?.png"} == shown("w*?.png")
    assert shown("[1]") == {"[1].png"} and shown("[1") == {"[1].png"}
    assert shown("a]") == {"a]b.png"}
    assert shown("a*b*") == {"a]b.png", "a*b.png"}


def test_names_and_folders_are_found_in_every_normal_form(tmp_path):
    paint(tmp_path / "photos" / DECOMPOSED / "e\u0301te\u0301.png", "red")
    paint(tmp_path / "photos" / "Berlin" / "other.png", "red", size=20)
    library, _ = open_library(FakeRetriever(), tmp_path / "photos", tmp_path / "i", tmp_path / "t")
    assert library.folders() == ["Berlin", COMPOSED]
    for controls in ({"folder": COMPOSED}, {"name": "\u00e9t\u00e9"}, {"name": "E\u0301T*"}):
        found = library.search("red", 9, False, library.where(**controls), fold=False).shown
        assert [own.name for own in found] == ["e\u0301te\u0301.png"]


def test_folders_of_odd_names_are_offered_and_lead_back(address, search, library):
    offered = library.folders()
    assert len(offered) == len(set(offered)) == len(ODD)
    assert {r"caf\xe9", r"caf\xe8", r"two\nlines", '" space "', "\U0001f389" * 62} < set(offered)
    served = httpx.get(f"{address}/config").json()
    components = {own["id"]: own["props"] for own in served["components"]}
    choices = [own["choices"] for own in components.values() if own.get("label") == "Folder"]
    assert choices == [[["All folders", ""], *([name, name] for name in offered)]]
    for name in (r"caf\xe9", r"two\nlines"):
        assert len(search(folder=name)[0]) == 1
    seen = []
    for name in offered:
        (own,) = library.search("red", 9, False, library.where(folder=name)).shown
        seen.append(own.hit.path.parent.name)
    assert sorted(seen) == sorted(ODD)


def test_folders_that_look_alike_are_told_apart(tmp_path):
    looks = [tmp_path / name for name in (LATIN, r"caf\xe9", DECOMPOSED, COMPOSED, " ", "a")]
    named = named_folders(looks)
    assert list(named.values()) == [path for path in looks if path.name != COMPOSED]
    assert list(named) == [r"caf\xe9", r"b'caf\\xe9'", COMPOSED, '" "', "a"]


def test_the_folder_filter_works_through_links(tmp_path):
    paint(tmp_path / "real" / "sea" / "a.png", "red")
    paint(tmp_path / "real" / "b.png", "red", size=20)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    open_library(FakeRetriever(), tmp_path / "real", tmp_path / "i", tmp_path / "t")
    index = open_library(FakeRetriever(), None, tmp_path / "i", tmp_path / "t")[0]._index
    library = Library(index, tmp_path / "i", tmp_path / "t", photos=tmp_path / "link")
    assert library.folders() == ["sea"]
    found = library.search("red", 9, False, library.where(folder="sea")).shown
    assert [own.name for own in found] == ["a.png"]


def test_a_chosen_photo_is_named_as_it_is_displayed(library, odd):
    for name, path in odd.items():
        small = library.thumbnail(path)
        value = {"image": {"path": str(small)}, "caption": "any"}
        assert chosen_photo(library, value) == (small, f"{one_line(name)}.png")


def test_names_that_differ_in_a_byte_have_a_thumbnail_each(tmp_path):
    photos = [tmp_path / os.fsdecode(name) for name in (b"\xe9.bmp", b"\xe8.bmp", b"?.bmp")]
    for path, colour in zip(photos, ("red", "blue", "green"), strict=True):
        paint(path, colour)
        os.utime(path, ns=(1, 1))
    assert len({path.stat().st_size for path in photos}) == 1
    small = [Thumbnails(tmp_path / "t").make(path) for path in photos]
    colours = [Image.open(path).getpixel((8, 8)) for path in small]
    assert [max(range(3), key=lambda channel: own[channel]) for own in colours] == [0, 2, 1]


def test_folders_that_differ_in_a_byte_have_an_index_each_and_others_keep_theirs(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("BLIP2_CACHE", str(tmp_path / "cache"))
    odd = [tmp_path / os.fsdecode(name) for name in (b"\xe9", b"\xe8", b"?")]
    assert len({library_folder(path, "c0ffee") for path in odd}) == 3
    plain = tmp_path / "\u00e9t\u00e9"
    key = hashlib.sha256(f"{plain}|c0ffee|3".encode()).hexdigest()[:16]
    assert library_folder(plain, "c0ffee").name == f"\u00e9t\u00e9-{key}"


@pytest.mark.parametrize("name", [*ODD, "\ud800", "a\0b", "..", "/", "", "\U0001f389" * 200])
def test_uploads_of_any_name_are_kept_and_shown(name, tmp_path, sent):
    copy = keep_copy(paint(tmp_path / "sent.png", "red"), f"{name}.png", tmp_path / "copies")
    assert copy.parent == tmp_path / "copies" and copy.is_file()
    assert len(os.fsencode(copy.name)) <= 255 and copy.suffix == ".jpg"
    assert copy.name.isprintable()
    assert name != DECOMPOSED or copy.name == f"{COMPOSED}.jpg"
    upload = sent("scan.tiff") | {"orig_name": f"{name}.tiff"}
    shown, notice = check_photo(upload, SimpleNamespace(session_hash="ann"), Visitors())
    assert notice.visible is False and Image.open(shown).format == "JPEG"


def test_uploads_are_reported_by_name(address, tmp_path):
    """Whatever a program calls its files: as the bytes of a form, and in a request."""
    paint(tmp_path / "ok.png", "green")
    content = (tmp_path / "ok.png").read_bytes()
    with httpx.Client(base_url=f"{address}/gradio_api", timeout=30) as web:

        def upload(name: bytes, content: bytes) -> str:
            head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="'
            body = head + name + b'"\r\n\r\n' + content + b"\r\n--x--\r\n"
            kind = {"Content-Type": "multipart/form-data; boundary=x"}
            return web.post("/upload", content=body, headers=kind).json()[0]

        files = [
            {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
            for path, name in (
                (upload(b"caf\xe9.png", content), f"{LATIN}.png"),
                (upload(b"<b>.jpg", b"bad"), f"<b>{LATIN}\n\u202e.jpg"),
                (upload("\U0001f389".encode() * 60 + b".jpg", b"worse"), "\ud800.jpg"),
            )
        ]
        request, kind = json.dumps({"data": [files]}), {"Content-Type": "application/json"}
        event = web.post("/call/add_photos", content=request, headers=kind)
        answer = web.get(f"/call/add_photos/{event.json()['event_id']}").text
    event, data = answer.strip().rpartition("event: ")[2].split("\ndata: ")
    report, items, *_ = json.loads(data)
    assert event == "complete" and "1 photo added. 2 were refused:" in report
    assert r"<b>&lt;b&gt;caf\xe9\n\u202e.jpg</b> The given photo is not in a format" in report
    assert r"<b>\ud800.jpg</b> The given photo is not in a format" in report
    assert items[0]["caption"] == "caf.jpg"


def test_sentences_that_quote_a_name_reach_the_browser():
    with pytest.raises(gr.Error) as raised, sentences():
        raise UserError(f"The file <b>{LATIN}\n is empty; choose another photo.")
    expected = r"The file &lt;b&gt;caf\xe9\n is empty; choose another photo."
    assert raised.value.message == expected
    assert html.unescape(notice_html(f"{LATIN}\u202e is gone.")) == (
        r'<p role="alert">caf\xe9\u202e is gone.</p>'
    )


def test_the_terminal_of_the_app_names_everything_on_one_line(capsys, tmp_path):
    app.say(f"Left out {tmp_path / LATIN}\n.jpg: It is a pipe.")
    assert capsys.readouterr().out == f"Left out {tmp_path}/caf\\xe9\\n.jpg: It is a pipe.\n"
    assert app.main(["--photos", f"{tmp_path / LATIN}", "--port", str(free_port())]) == 2
    assert capsys.readouterr().err == (
        f"error: The folder {tmp_path}/caf\\xe9 does not exist; give --photos a folder of photos.\n"
    )
