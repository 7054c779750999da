"""The bounds of `demo.limits`, on a small page that is really served."""

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from demo.limits import Bounds, _address, middleware

SMALL = Bounds(
    upload=100_000,
    uploads_a_minute=12,
    received=400_000,
    request=5_000,
    waiting=3,
    waiting_at=7,
    measure_every=0,
)
SESSION = "visitor-1"


class Small:
    """A page with an event that waits to be let go, and one that takes a photo."""

    def __init__(self, received: Path, proxied: bool = False, auth=None) -> None:
        self.received = received
        self.go = threading.Event()
        with gr.Blocks() as self.page:
            text, photo = gr.Textbox(), gr.Image(type="filepath")
            text.submit(self.wait, text, text, api_name="wait", concurrency_limit=1)
            photo.change(str, photo, text, preprocess=False, api_name="photo")
        self.page.queue(max_size=64)
        _, self.address, _ = self.page.launch(
            prevent_thread_lock=True,
            quiet=True,
            auth=auth,
            app_kwargs={"middleware": middleware(self.page, received, proxied, SMALL)},
        )
        self.web = httpx.Client(base_url=self.address, timeout=30)
        self.functions = {event.api_name: key for key, event in self.page.fns.items()}

    def wait(self, text: str) -> Iterator[str]:
        yield "so far"
        assert self.go.wait(30)
        yield f"waited for {text}"

    def upload(self, content: bytes, name: str = "a.png", **headers: str) -> httpx.Response:
        return self.web.post(
            "/gradio_api/upload", files={"files": (name, content)}, headers=headers
        )

    def join(self, data: list, name: str = "wait", session: str = SESSION) -> httpx.Response:
        body = {"data": data, "fn_index": self.functions[name], "session_hash": session}
        return self.web.post("/gradio_api/queue/join", json=body)

    def close(self) -> None:
        self.go.set()
        self.web.close()
        self.page.close(verbose=False)


@pytest.fixture
def received(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "received"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    return tmp_path / "received"


@pytest.fixture
def small(received) -> Iterator[Small]:
    page = Small(received)
    yield page
    page.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Small]:
    """A page for tests that leave nothing behind."""
    received = tmp_path_factory.mktemp("shared") / "received"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(received))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        page = Small(received)
        yield page
        page.close()


def is_sentence(text: str) -> bool:
    return re.fullmatch(r"[A-Z][^\n{}]+; [^\n{}]+\.", text) is not None


def detail(answer: httpx.Response) -> str:
    assert is_sentence(answer.json()["detail"]), answer.text
    return answer.json()["detail"]


def test_an_event_streams_through_and_a_file_goes_both_ways(small, tmp_path):
    client = Client(small.address, verbose=False)
    job = client.submit("a", api_name="/wait")
    deadline = time.monotonic() + 20
    while not job.outputs():  # while the event still runs: nothing holds the stream back
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert job.outputs() == ["so far"]
    small.go.set()
    assert job.result(20) == "waited for a"
    [path] = small.upload(b"picture").json()
    assert small.web.get(f"/gradio_api/file={path}").content == b"picture"


def test_an_upload_of_too_many_bytes_is_refused_announced_or_not(small):
    answer = small.upload(bytes(150_000))
    assert answer.status_code == 413
    assert is_sentence(answer.text) and "larger than 0 MB" in answer.text
    form = httpx.Request("POST", "http://page/", files={"files": ("a.png", bytes(150_000))})

    def chunks() -> Iterator[bytes]:
        body = form.read()
        yield from (body[start : start + 9_000] for start in range(0, len(body), 9_000))

    kind = {"content-type": form.headers["content-type"]}
    answer = small.web.post("/gradio_api/upload", content=chunks(), headers=kind)
    assert (answer.status_code, answer.headers["content-type"][:10]) == (413, "text/plain")
    assert is_sentence(answer.text)
    assert not list(small.received.glob("*")), "a half received file stayed"
    assert small.upload(b"small").status_code == 200


def test_a_full_folder_takes_no_more(small):
    for number in range(4):
        assert small.upload(bytes([number]) * 80_000).status_code == 200
    answer = small.upload(b"x" * 80_000)
    assert answer.status_code == 507 and is_sentence(answer.text)
    for file in small.received.glob("*/*"):
        file.unlink()
    assert small.upload(b"x" * 80_000).status_code == 200


def test_parts_that_broke_off_are_deleted_after_a_while(small):
    small.received.mkdir()
    old, new = small.received / "tmpold", small.received / "tmpnew"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    assert small.upload(b"a").status_code == 200
    assert (old.exists(), new.exists()) == (False, True)


def test_uploads_of_one_address_are_counted(small):
    answers = [small.upload(b"a").status_code for _ in range(SMALL.uploads_a_minute)]
    assert answers == [200] * SMALL.uploads_a_minute
    answer = small.upload(b"a")
    assert answer.status_code == 429 and is_sentence(answer.text)


@pytest.mark.parametrize("form", [{"data": {"files": "x" * 50_000}}, {"data": {"note": ""}}])
def test_a_part_that_is_no_file_is_not_kept_in_memory(small, form):
    answer = small.web.post(
        "/gradio_api/upload?upload_id=1", files={"files": ("a.png", b"a")}, **form
    )
    assert answer.status_code == 400 and is_sentence(answer.text)
    assert not [file for file in small.received.glob("*") if file.is_file()]


def test_a_visitor_has_few_events_waiting_and_others_have_theirs(small):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(small.join, [[str(n)] for n in range(8)]))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 5
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert detail(refused).startswith("You have 3 requests waiting already")
    assert small.join(["b"], session="visitor-2").status_code == 200
    for _ in range(3):  # without a session the address counts
        assert small.web.post("/gradio_api/call/wait", json={"data": ["c"]}).status_code == 200
    answer = small.web.post("/gradio_api/call/wait", json={"data": ["c"]})
    assert answer.status_code == 429 and detail(answer)
    answer = small.web.post("/gradio_api/call/v2/wait", json={"text": "c"})
    assert answer.status_code == 429 and detail(answer)

    small.go.set()
    deadline = time.monotonic() + 20
    while (answer := small.join(["d"])).status_code == 429:
        assert time.monotonic() < deadline, "finished events still count"
        time.sleep(0.05)
    assert answer.status_code == 200


def test_an_address_has_a_bound_whatever_it_calls_itself(small):
    """`small` lets seven wait."""
    answers = [small.join([str(n)], session=f"invented-{n}") for n in range(9)]
    assert [answer.status_code for answer in answers] == [200] * 7 + [429] * 2
    assert detail(answers[-1]).startswith("Too many requests wait from where you are")
    small.go.set()


def test_a_program_gets_the_refusal(small):
    client = Client(small.address, verbose=False)
    jobs = [client.submit(str(n), api_name="/wait") for n in range(5)]
    deadline = time.monotonic() + 20
    while sum(job.done() for job in jobs) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    refused = [job.exception() for job in jobs if job.done()]
    assert all(isinstance(error, httpx.HTTPStatusError) for error in refused)
    assert detail(refused[0].response).startswith("You have 3 requests")
    small.go.set()
    assert sum(job.exception(20) is None for job in jobs) == 3


def test_a_large_event_is_refused(shared):
    answer = shared.join(["x" * 6_000])
    assert answer.status_code == 413 and "5 kB" in detail(answer)
    answer = shared.web.post(
        "/gradio_api/queue/join", content=(b"x" * 1_000 for _ in range(6)), timeout=10
    )
    assert answer.status_code == 413 and detail(answer)
    answer = shared.web.post("/gradio_api/run/wait", json={"data": ["x" * 6_000]})
    assert answer.status_code == 413 and detail(answer)
    answer = shared.web.post("/gradio_api/queue/join", content=b"[" * 4_900)
    assert answer.status_code in (400, 422)


META = {"meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize(
    "photo",
    [
        {"path": "http://127.0.0.1:1/a.png", **META},
        {"path": "https://example.org/a.png", **META},
        {"path": " HTTP://example.org/a.png", **META},
        {"path": "data:image/png;base64,aaaa", **META},
        {"path": "a.png", "url": "data:image/png;base64,aaaa", **META},
        {"url": "data:image/png;base64,aaaa"},
        {"path": "/etc/passwd", **META},
        {"path": "/etc/passwd"},
        {"path": "app.py"},
        {"path": "a\0b"},
        {"path": 7},
        [[{"deep": [{"path": "http://127.0.0.1:1/a.png", "size": float("nan"), **META}]}]],
    ],
)
def test_a_photo_by_address_is_refused(shared, photo):
    body = {"data": [photo], "fn_index": shared.functions["photo"], "session_hash": SESSION}
    for encoding in ("utf-8", "utf-16"):
        content = json.dumps(body).encode(encoding)
        kind = {"content-type": "application/json"}
        answer = shared.web.post("/gradio_api/queue/join", content=content, headers=kind)
        assert answer.status_code == 400 and "upload it as a file" in detail(answer)


def test_a_photo_by_path_arrives(shared, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    client = Client(shared.address, verbose=False)
    assert "a.png" in client.predict(handle_file(tmp_path / "a.png"), api_name="/photo")


def test_files_are_never_run_as_pages(small):
    script = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    for name in ("a.svg", "a.html", "a.xhtml", "a.txt", "a.pdf", "a.js", "a"):
        [path] = small.upload(script, name).json()
        for headers in ({}, {"range": "bytes=0-9"}):
            answer = small.web.get(f"/gradio_api/file={path}", headers=headers)
            assert answer.status_code in (200, 206), answer.text
            assert answer.headers["content-disposition"].startswith("attachment")
            assert answer.headers["content-security-policy"] == "sandbox"
            assert answer.headers["x-content-type-options"] == "nosniff"
    [path] = small.upload(b"picture", "a.png").json()
    answer = small.web.get(f"/gradio_api/file={path}")
    assert answer.headers["content-type"] == "image/png"
    assert not answer.headers.get("content-disposition", "").startswith("attachment")
    assert "content-security-policy" not in answer.headers


def test_the_page_may_be_embedded_and_says_nothing_to_others(shared):
    answer = shared.web.get("/")
    assert answer.status_code == 200
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "x-frame-options" not in answer.headers
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self' data: blob:") and "://" not in policy
    assert "frame-ancestors" not in policy


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", b"bytes=\xb2-\xb3", "bytes=x-y", "lines=1-2"])
def test_an_odd_range_is_no_failure(shared, asked):
    [path] = shared.upload(b"picture").json()
    answer = shared.web.get(f"/gradio_api/file={path}", headers={"range": asked})
    assert (answer.status_code, answer.content) == (200, b"picture")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/static/%00", 400),
        ("GET", f"/static/{'a' * 300}", 400),
        ("GET", "/gradio_api/file=http://example.org/a.png", 403),
        ("GET", "/gradio_api/file=http%3A%2F%2Fexample.org/a.png", 403),
        ("HEAD", "/gradio_api/file/https://example.org/a.png", 403),
        ("POST", "/gradio_api/process_recording", 404),
    ],
)
def test_addresses_that_are_refused(shared, method, path, status):
    answer = shared.web.request(method, path)
    assert answer.status_code == status
    if method != "HEAD":
        assert detail(answer)


def test_it_works_with_a_login(received):
    small = Small(received, auth=("ann", "secret"))
    try:
        assert small.upload(b"a").status_code == 401
        assert small.join(["a"]).status_code == 401
        small.go.set()
        client = Client(small.address, verbose=False, auth=("ann", "secret"))
        assert client.predict("a", api_name="/wait") == "waited for a"
    finally:
        small.close()


def test_the_address_behind_a_proxy_is_the_one_that_the_proxy_saw():
    headers = [(b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-for", b"7.7.7.7, 8.8.8.8")]
    scope = {"type": "http", "headers": headers, "client": ("10.0.0.1", 5)}
    assert _address(scope, True) == "8.8.8.8"
    assert _address(scope, False) == "10.0.0.1"
    assert _address({**scope, "headers": []}, True) == "10.0.0.1"
    assert _address({"type": "http", "headers": [], "client": None}, False) == ""
