"""Attacks on the page as it is served: paths, addresses and pictures made to do harm."""

import html
import http.client
import io
import json
import os
import random
import re
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from demo.library import Library
from demo.limits import middleware
from demo.models import Models
from demo.page import build_page
from index import PhotoIndex
from tests.demo.fake_blip2 import FakeBlip2
from tests.helpers.icc import display_p3, grey_profile
from tests.helpers.photos import deep_heic, heic, oriented
from tests.index.fake_retriever import FakeRetriever, paint

ROOT = Path(__file__).parents[2]
SECRET = b"canary-6f1c-of-a-secret-file"
META = {"meta": {"_type": "gradio.FileData"}}


class Site:
    """The page with stand-in models, served with its limits, and secrets around it."""

    def __init__(self, home: Path) -> None:
        self.received = home / "received"
        self.secret = home / "secret.txt"
        self.secret.write_bytes(SECRET)
        original = home / "photos" / "original.png"
        paint(original, "red")
        note = PngInfo()
        note.add_text("Comment", SECRET.decode())
        Image.open(original).save(original, pnginfo=note)
        index = PhotoIndex.create(home / "index", FakeRetriever())
        assert index.add([original]).added == 1
        library = Library(index, home / "index", self.received / "thumbnails", [original])
        # Whose bytes must never be served: path and what is known of its content.
        self.canaries = {
            self.secret: SECRET,
            original: SECRET,
            ROOT / "app.py": (ROOT / "app.py").read_bytes()[-200:],
            Path("/etc/passwd"): Path("/etc/passwd").read_bytes()[:40],
            Path("/proc/self/environ"): max(Path("/proc/self/environ").read_bytes().split(b"\0")),
        }
        for path in (home / "index").rglob("*"):
            if path.name == "manifest.json":
                self.canaries[path] = next(
                    line for line in path.read_bytes().splitlines() if b"c0ffee" in line
                )[:60]
            elif path.is_file() and path.read_bytes().startswith(b"SQLite"):
                self.canaries[path] = b"SQLite format 3\0"
        assert len(self.canaries) >= 7, "no manifest or no database in the index"
        self.page = build_page(Models(FakeBlip2(), FakeRetriever()), library, samples=True)
        _, self.address, _ = self.page.launch(
            prevent_thread_lock=True,
            quiet=True,
            max_file_size="25mb",
            app_kwargs={"middleware": middleware(self.page, self.received)},
        )
        self.web = httpx.Client(base_url=self.address, timeout=120)
        self.endpoints = self.web.get("/gradio_api/info").json()["named_endpoints"]
        self.socket: socket.socket | None = None

    def raw(self, path: bytes) -> tuple[int, bytes]:
        """GET a path exactly as it stands, over one connection for all."""
        request = b"GET " + path + b" HTTP/1.1\r\nHost: page\r\n\r\n"
        for _ in range(2):  # the server closes the connection after what is no HTTP
            if self.socket is None:
                at = urlsplit(self.address)
                self.socket = socket.create_connection((at.hostname, at.port), timeout=10)
            try:
                self.socket.sendall(request)
                answer = http.client.HTTPResponse(self.socket, method="GET")
                answer.begin()
                try:
                    body = answer.read()
                except http.client.IncompleteRead as cut:  # a stream about an unknown event
                    body, self.socket = cut.partial, None
            except (ConnectionError, http.client.BadStatusLine):
                self.socket = None
                continue
            if answer.will_close:
                self.socket = None
            return answer.status, body
        raise AssertionError(f"no answer to {path!r}")

    def upload(self, files: list[tuple[str, bytes]]) -> list[dict]:
        """Send files; returns what an event takes for them."""
        answer = self.web.post("/gradio_api/upload", files=[("files", file) for file in files])
        assert answer.status_code == 200, answer.text
        return [
            {"path": path, "orig_name": name, **META}
            for path, (name, _) in zip(answer.json(), files, strict=True)
        ]

    def call(self, name: str, **values) -> tuple[bool, str]:
        """Run an event; returns whether it ran well, and its last message or the refusal."""
        for parameter in self.endpoints[f"/{name}"]["parameters"]:
            if not parameter["parameter_has_default"]:
                words = parameter["component"] == "Textbox"
                values.setdefault(parameter["parameter_name"], "What is this?" if words else None)
        answer = self.web.post(f"/gradio_api/call/v2/{name}", json=values)
        assert answer.status_code < 500, answer.text
        if answer.status_code != 200:
            return False, answer.json()["detail"]
        event = answer.json()["event_id"]
        stream = self.web.get(f"/gradio_api/call/v2/{name}/{event}").text
        kind, data = re.findall(r"event: (\w+)\ndata: (.*)", stream)[-1]
        return kind == "complete", data

    def file_parameter(self, name: str) -> str:
        """Return how an endpoint calls its photo, or its files."""
        return self.endpoints[f"/{name}"]["parameters"][0]["parameter_name"]

    def close(self) -> None:
        self.web.close()
        if self.socket:
            self.socket.close()
        self.page.close(verbose=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(home / "received"))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        site = Site(home)
        yield site
        site.close()


PREFIXES = [
    *("/gradio_api/file=", "/gradio_api/file/", "/file=", "/file/", "/gradio_api/file%3d"),
    *("/static/", "/assets/", "/svelte/", "/static/img/../", "/theme.css?", "/theme.css/"),
    *("/gradio_api/proxy=", "/proxy=", "/gradio_api/proxy=http://127.0.0.1/gradio_api/file="),
    *("/custom_component/image/client/component/", "/gradio_api/custom_component/image/client/"),
    *("/gradio_api/download/", "/gradio_api/download=", "/gradio_api/stream/", "/manifest.json/"),
    *("/config?deep_link=", "/?deep_link=", "/", "/pwa_icon/", "/gradio_api/heartbeat/../file="),
]
UPS = [
    *("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "%2E%2E%2F", "..\\", "..%5c", "%2e%2e%5c"),
    *("%252e%252e%252f", "..%252f", "..%255c", "..%c0%af", "%c0%ae%c0%ae/", "%c0%ae%c0%ae%c0%af"),
    *("..%e0%80%af", "....//", "..;/", "..%00/", ".%00./", "%uff0e%uff0e%u2215", ".//../"),
    *("%ef%bc%8e%ef%bc%8e%ef%bc%8f", "%e2%80%a5/", "..%e2%88%95", "..%09/", "..%0d%0a/"),
]
WHOLE = [
    *("{}", "/{}", "//{}", "/.{}", "file://{}", "file:{}", "file://localhost{}", "FILE://{}"),
    *("{}%00", "{}%00.png", "{}/.", "{}/", "{}?a.png", "{}#a.png", "{}%23.png", "{}%20", "{}."),
    *("\\{}", "%5c{}", "http:{}", "http://localhost{}", "~/..{}", "data:,{}", "%0a{}", "|{}"),
]


def forms(secret: str, received: str) -> list[str]:
    """Return ways to write a path."""
    inside = [received, f"{received}/thumbnails", f"{received}/none"]
    return [
        *(f"{up * 12}{secret[1:]}" for up in UPS),
        *(form.format(secret) for form in WHOLE),
        quote(secret, safe=""),
        quote(quote(secret, safe="")),
        *(f"{folder}/{'../' * 12}{secret[1:]}" for folder in inside),
        *(f"{quote(folder, safe='')}%2f{'..%2f' * 12}{secret[1:]}" for folder in inside),
    ]


def traversals(site: Site) -> Iterator[bytes]:
    """Write each secret in all ways behind the prefixes that serve files, and in turn elsewhere."""
    secrets, received = list(map(str, site.canaries)), str(site.received)
    for prefix, secret in product(PREFIXES[:2], secrets):
        yield from (f"{prefix}{form}".encode() for form in forms(secret, received))
    ways = list(zip(*(forms(secret, received) for secret in secrets), strict=True))
    for number, (prefix, way) in enumerate(product(PREFIXES[2:], ways)):
        yield f"{prefix}{way[number % len(secrets)]}".encode()


def test_no_path_leads_out_of_the_received_files(site):
    [mine] = site.upload([("mine.png", b"what I sent myself")])
    status, body = site.raw(f"/gradio_api/file={mine['path']}".encode())
    assert (status, body) == (200, b"what I sent myself"), "nothing is served at all"
    tried = 0
    for path in traversals(site):
        status, body = site.raw(path)
        assert status < 500, f"{path!r} fails with {status}: {body[:200]!r}"
        for secret, known in site.canaries.items():
            assert known not in body, f"{path!r} serves {secret}"
        tried += 1
    assert tried >= 2_000


def test_links_to_a_secret_are_not_followed(site):
    links = [site.received / "link.png", site.received / "thumbnails" / "link.jpg"]
    for link in links:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(site.secret)
    folder = site.received / "folder"
    folder.symlink_to(site.secret.parent)
    hard = [folder / "secret.txt", folder / "photos" / "original.png"]
    for path in (*links, *hard):
        status, body = site.raw(f"/gradio_api/file={path}".encode())
        assert status == 403 and SECRET not in body
        well, told = site.call(
            "caption", **{site.file_parameter("caption"): {"path": str(path), **META}}
        )
        assert not well and SECRET.decode() not in told


def test_a_link_in_the_library_is_not_served(tmp_path, site):
    """A link to a picture is a photo of the library: a thumbnail is all that leaves."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "secret.png").symlink_to(site.secret)
    original = next(path for path in site.canaries if path.name == "original.png")
    (tmp_path / "in" / "linked.png").symlink_to(original)
    index = PhotoIndex.create(tmp_path / "index", FakeRetriever())
    report = index.add([tmp_path / "in"])
    library = Library(index, tmp_path / "index", tmp_path / "small", [])
    assert all("secret.png" not in shown.name for shown in library.search("red", 9, False).shown)
    assert report.added <= 1
    for shown in library.search("red", 9, False).shown:
        assert SECRET not in shown.thumbnail.read_bytes()


@pytest.fixture(scope="module")
def canary() -> Iterator[ThreadingHTTPServer]:
    """A server on this computer that nobody should ask; notes who does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.asked.append(self.path)
            self.send_response(302 if self.path == "/redirect" else 200)
            self.send_header("Location", "/x.png")
            self.end_headers()
            self.wfile.write(SECRET)

        do_HEAD = do_POST = do_GET

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def addresses(port: int) -> list[str]:
    """Return ways to write an address of this computer."""
    hosts = ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "2130706433", "0x7f.1", "127.1"]
    hosts += ["[::ffff:127.0.0.1]", "127.0.0.1.nip.io", "user@127.0.0.1"]
    return [f"http://{host}:{port}/x.png" for host in hosts] + [
        f"http://127.0.0.1:{port}/redirect",
        f"HTTP://127.0.0.1:{port}/x.png",
        f"//127.0.0.1:{port}/x.png",
        f"ftp://127.0.0.1:{port}/x.png",
        f" http://127.0.0.1:{port}/x.png",
        "http://169.254.169.254/latest/meta-data/",
    ]


def test_the_server_fetches_nothing_for_a_visitor(site, canary):
    [mine] = site.upload([("mine.png", b"no picture")])
    port = canary.server_port
    for url in addresses(port):
        photos = [
            {"path": url, **META},
            {"url": url, **META},
            {"path": url, "url": url, **META},
            {"path": url},
            {"url": url},
            {"path": None, "url": url, **META},
            {**mine, "url": url},
            {**mine, "path": f"{mine['path']}/../{url}"},
            url,
        ]
        for photo in photos:
            for name in ("caption", "add_photos"):
                value = [photo] if name == "add_photos" else photo
                well, told = site.call(name, **{site.file_parameter(name): value})
                # A good file beside the address is looked at, and is no picture.
                assert not well or "refused" in told, f"{photo} is taken: {told}"
        for prefix in ("gradio_api/file=", "gradio_api/file/", "gradio_api/proxy=", "proxy="):
            for target in (url, quote(url, safe="")):
                status, body = site.raw(f"/{prefix}{target.strip()}".encode())
                assert 400 <= status < 500 and SECRET not in body, f"{prefix}{target}"
    assert canary.asked == []


def test_a_photo_is_not_taken_from_elsewhere_on_the_server(site):
    guesses = [*map(str, site.canaries), "/etc/hostname", str(site.received), "", ".", "app.py"]
    guesses += [f"{site.received}/{'0' * 64}/photo.png", f"{site.received}/../secret.txt"]
    guesses += [f"file://{path}" for path in site.canaries] + ["\0", "a" * 5000]
    for name, path in product(("caption", "ask", "add_photos"), guesses):
        for photo in ({"path": path, **META}, {"path": path}, {"path": path, "meta": "x"}, path):
            values = {site.file_parameter(name): [photo] if name == "add_photos" else photo}
            if name == "ask":
                values["question"] = "What is this?"
            well, told = site.call(name, **values)
            assert not well or "refused" in told or "Nothing was added" in told, f"{path}: {told}"
            for known in site.canaries.values():
                assert known.decode(errors="replace") not in told


def test_the_queue_cannot_be_passed_by(site):
    """Gradio's direct routes would run the model beside the one queue that guards it."""
    [photo] = site.upload([("a.png", png(8, 8))])
    for name, kind in product(("caption", "ask", "search", "add_photos"), ("run", "api")):
        answer = site.web.post(f"/gradio_api/{kind}/{name}", json={"data": [photo]})
        assert answer.status_code in (403, 404), f"/{kind}/{name}: {answer.status_code}"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG that claims a size; its pixels are eight red rows."""
    rows = zlib.compress((b"\0" + b"\xff\0\0" * 8) * 8)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bases() -> dict[str, bytes]:
    """Good pictures of every format, small."""
    rng = random.Random(1)
    image = Image.frombytes("RGB", (24, 16), rng.randbytes(24 * 16 * 3))
    more = [Image.frombytes("RGB", (24, 16), rng.randbytes(24 * 16 * 3)) for _ in range(3)]
    return {
        "a.jpg": saved(image, "JPEG"),
        "progressive.jpg": saved(image, "JPEG", progressive=True, quality=30),
        "a.png": saved(image, "PNG"),
        "palette.png": saved(image.quantize(8), "PNG", transparency=0),
        "deep.png": saved(image.convert("I;16"), "PNG"),
        "a.webp": saved(image, "WEBP"),
        "lossless.webp": saved(image, "WEBP", lossless=True),
        "a.gif": saved(image, "GIF"),
        "frames.gif": saved(image, "GIF", save_all=True, append_images=more),
        "a.bmp": saved(image, "BMP"),
        "a.tif": saved(image, "TIFF"),
        "packed.tif": saved(image, "TIFF", compression="tiff_lzw"),
        "frames.tif": saved(image, "TIFF", save_all=True, append_images=more),
        "two.mpo": saved(image, "MPO", save_all=True, append_images=more),
        "a.avif": saved(image, "AVIF"),
        "frames.avif": saved(image, "AVIF", save_all=True, append_images=more),
        "a.heic": heic(image, quality=50),
        "several.heic": heic(image, *more, quality=50, primary=2),
        "turned.heic": oriented(image, "HEIF", 6),
        "deep.heic": deep_heic(np.asarray(image).astype(np.uint16) * 257, quality=50),
        "tiles.heic": heic(image.resize((320, 200)), tile_size=64, quality=20),
        "profile.jpg": saved(image, "JPEG", icc_profile=display_p3()),
        "profile.png": saved(image, "PNG", icc_profile=grey_profile(1.0)),
    }


def bombs() -> Iterator[tuple[str, bytes]]:
    """Pictures that are small to send and large to open, and files that are something else too."""
    good = bases()
    zeros = zlib.compress(bytes(30_000_000), 9)
    for side in (20_000, 100_000, 2**31 - 1):
        yield f"{side}.png", png(side, side)
        yield f"{side}-wide.png", png(side, 1)
        low = struct.pack("<I", side)
        bmp = bytearray(good["a.bmp"])
        bmp[18:26] = low + low
        yield f"{side}.bmp", bytes(bmp)
        tif = good["a.tif"]
        for tag in (256, 257):
            entry = (
                tif.index(struct.pack("<HHI", tag, 4, 1))
                if struct.pack("<HHI", tag, 4, 1) in tif
                else -1
            )
            if entry >= 0:
                tif = tif[: entry + 8] + low + tif[entry + 12 :]
        yield f"{side}.tif", tif
    for side in (20_000, 65_535):
        gif = good["a.gif"]
        yield f"{side}.gif", gif[:6] + struct.pack("<HH", side, side) + gif[10:]
        jpg = bytearray(good["a.jpg"])
        at = jpg.index(b"\xff\xc0") + 5
        jpg[at : at + 4] = struct.pack(">HH", side, side)
        yield f"{side}.jpg", bytes(jpg)
        for name in ("a.heic", "a.avif", "tiles.heic"):
            heif = good[name]
            for size in re.finditer(rb"ispe\0{4}", heif):
                heif = heif[: size.end()] + struct.pack(">II", side, side) + heif[size.end() + 8 :]
            yield f"{side}-{name}", heif
    size = (16_383 - 1).to_bytes(3, "little")
    vp8x = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size * 2
    body = b"WEBP" + vp8x + good["a.webp"][12:]
    yield "large.webp", b"RIFF" + struct.pack("<I", len(body)) + body
    yield "text.png", png(8, 8, *[chunk(b"zTXt", b"a\0\0" + zeros)] * 3)
    yield "profile.png", png(8, 8, chunk(b"iCCP", b"a\0\0" + zeros))
    yield "international.png", png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + zeros))
    yield "pixels.png", png(8, 8, chunk(b"IDAT", zeros))
    dots = [Image.new("1", (8, 8), number % 2) for number in range(2000)]
    yield "many.gif", saved(dots[0], "GIF", save_all=True, append_images=dots[1:])
    yield "many.tif", saved(dots[0], "TIFF", save_all=True, append_images=dots[1:])
    script = b"<html><script>alert(1)</script></html>"
    yield "page.html.png", good["a.png"] + script
    yield (
        "page.jpg",
        good["a.jpg"][:20] + b"\xff\xfe" + struct.pack(">H", 42) + script + good["a.jpg"][20:],
    )
    yield "zip.gif", good["a.gif"] + b"PK\x03\x04" + bytes(40)
    yield "a.svg", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    yield "a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n"
    yield "a.psd", b"8BPS\0\1" + bytes(60)
    yield "empty.heic", b"\0\0\0\x18ftypheic" + bytes(60)
    yield "a.mp4", b"\0\0\0\x18ftypmp42" + bytes(60)
    yield "a.pdf", b"%PDF-1.4\n" + good["a.jpg"]
    yield "empty.png", b""
    for name, other in zip(good, reversed(good.values()), strict=True):
        yield f"wrong-{name}", other


def mutants(count: int) -> Iterator[tuple[str, bytes]]:
    """The bombs, and good pictures cut short, with bits flipped, bytes lost or repeated."""
    rng = random.Random(20)
    made = 0
    for name, content in bombs():
        yield f"{made}-{name}", content
        made += 1
    good = list(bases().items())
    while made < count:
        name, content = rng.choice(good)
        data = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data)) if data else 0
            match rng.randrange(6):
                case 0:
                    del data[at:]
                case 1 if data:
                    data[at] ^= 1 << rng.randrange(8)
                case 2:
                    data[at : at + 4] = rng.randbytes(4)
                case 3:
                    data[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])
                case 4:
                    del data[at : at + rng.randint(1, 40)]
                case 5:
                    data[at:at] = data[at : at + 60] * rng.randint(1, 5)
        yield f"{made}-{name}", bytes(data)
        made += 1


def numbers(report: str) -> tuple[int, int, dict[str, str]]:
    """Return from a report how many were added, how many known, and why each other was refused."""
    added = re.search(r"(\d+) photos? (?:was |were )?added", report)
    known = re.search(r"(\d+) (?:was|were) in the library already", report)
    rows = re.findall(r"<li><b>(.*?)</b>\s*(.*?)</li>", report)
    refused = {html.unescape(name): html.unescape(reason) for name, reason in rows}
    return int(added[1]) if added else 0, int(known[1]) if known else 0, refused


def test_five_thousand_mutated_pictures(site):
    files = list(mutants(5_000))
    assert len(files) == 5_000
    total = [0, 0, 0]
    for start in range(0, len(files), 100):
        batch = files[start : start + 100]
        sent = site.upload(batch)
        well, told = site.call("add_photos", **{site.file_parameter("add_photos"): sent})
        assert well, f"files {start} to {start + 99}: {told}"
        added, known, refused = numbers(
            next(text for text in json.loads(told) if "added" in str(text))
        )
        assert added + known + len(refused) == len(batch), told
        assert set(refused) <= {name for name, _ in batch}
        for name, reason in refused.items():
            assert re.search(r"\w+ .+\.$", reason) and "Traceback" not in reason, (
                f"{name}: {reason}"
            )
            assert str(site.received) not in reason
        total = [sum(pair) for pair in zip(total, (added, known, len(refused)), strict=True)]
    assert sum(total) == 5_000 and total[0] > 500 and total[2] > 500, total

    [photo] = site.upload(
        [("good.png", paint(site.received.parent / "good.png", "blue").read_bytes())]
    )
    well, told = site.call("caption", **{site.file_parameter("caption"): photo})
    assert well and "blue" in told
    well, told = site.call("add_photos", **{site.file_parameter("add_photos"): [photo]})
    assert well and "1 photo added" in told


def test_a_canary_would_be_seen(site):
    """The checks above look for the right bytes."""
    for path, known in site.canaries.items():
        assert len(known) >= 8 and known in path.read_bytes()
    assert os.fspath(site.secret).startswith("/")
