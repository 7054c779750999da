"""What one visitor may ask of the server: the bounds that Gradio leaves open.

A pure ASGI middleware, which streams pass through untouched. Every refusal is one sentence: text
after an upload and ``{"detail": ...}`` elsewhere, as Gradio's page shows them.
"""

import asyncio
import json
import os
import re
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from anyio import to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demo.received import ReceivedFiles, UploadForm

_API = "/gradio_api/"
# Pages ask nobody else for anything: on Spaces Gradio's would fetch fonts and its header. It runs
# scripts that stand in the page, and our own as text.
_OWN = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"
_PICTURES = {"image/jpeg", "image/png", "image/gif", "image/webp", "image/bmp"}
# Of the forms that a Range may have, those that Gradio takes apart without failing.
_RANGE = re.compile(rb"bytes=(\d+-\d*|-\d+)")


@dataclass(frozen=True)
class Bounds:
    """How much is too much."""

    upload: int = 600_000_000  # bytes of one upload request, which may hold many files
    uploads_a_minute: int = 120  # upload requests of one client address
    received: int = 4_000_000_000  # bytes in the folder of received files, of all visitors
    request: int = 1_000_000  # bytes of any other request
    waiting: int = 8  # events of one visitor that wait or run
    # Of one client address: a program can be many visitors, and a house full of them shares one.
    waiting_at: int = 56
    measure_every: float = 5.0  # seconds between two looks at the size of the folder


DEFAULT = Bounds()


class _Refused(Exception):
    """Ends a request with a status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def middleware(
    page: gr.Blocks, received: Path, proxied: bool = False, bounds: Bounds = DEFAULT
) -> list[Middleware]:
    """Return the middleware for a page.

    Parameters
    ----------
    page : gr.Blocks
        Its queue says how many events a visitor has waiting.
    received : Path
        Folder of received files (``GRADIO_TEMP_DIR``); it need not exist yet.
    proxied : bool
        Whether a proxy stands before the server, as on Spaces; the client's address is then the
        last entry of X-Forwarded-For, which a client can otherwise write itself.
    bounds : Bounds
        How much is too much.

    Returns
    -------
    list of starlette.middleware.Middleware
        For ``launch(app_kwargs={"middleware": ...})``.
    """
    return [Middleware(Limits, page=page, received=received, proxied=proxied, bounds=bounds)]


class Limits:
    """The middleware; see `middleware` for the parameters."""

    def __init__(
        self,
        app: ASGIApp,
        page: gr.Blocks,
        received: Path,
        proxied: bool = False,
        bounds: Bounds = DEFAULT,
    ) -> None:
        self._app = app
        self._page = page
        self._received = received
        self._proxied = proxied
        self._bounds = bounds
        self._folder = ReceivedFiles(received, bounds.measure_every)
        self._uploads: dict[str, deque[float]] = {}  # by address, the times of a minute's uploads
        self._joining = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"].partition(_API)[2].rstrip("/")
        send = _with_headers(send, serves_file=route.startswith(("file=", "file/")))
        scope = {**scope, "headers": [pair for pair in scope["headers"] if not _odd_range(pair)]}
        try:
            _check_address(scope["path"], route)
            if scope["method"] != "POST":
                await self._app(scope, receive, send)
            elif route == "upload":
                await self._upload(scope, receive, send)
            else:
                await self._other(scope, receive, send, route)
        except _Refused as refused:
            answer: Any = JSONResponse({"detail": str(refused)}, refused.status)
            if route == "upload":
                answer = PlainTextResponse(str(refused), refused.status)
            await answer(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let files in as long as they are few and small enough."""
        self._count_upload(_address(scope, self._proxied))
        headers = Headers(scope=scope)
        announced = _announced(scope)
        await self._folder.look()
        if refused := self._too_much(announced, self._folder.size + announced):
            raise refused
        form, taken = UploadForm(headers.get("content-type", "")), 0

        async def counted() -> Message:
            nonlocal taken, refused
            message = await receive()
            chunk = message.get("body", b"")
            taken += len(chunk)
            self._folder.arrived += len(chunk)
            refused = self._too_much(taken, self._folder.size)
            if form.has_text(chunk):
                refused = _Refused(400, "An upload may hold files alone; send nothing else in it.")
            if refused:
                # Gradio's parser deletes what it has written so far when it meets this error.
                raise MultiPartException(str(refused))
            return message

        async def heard(message: Message) -> None:
            if not refused:  # what Gradio makes of the error has another status
                await send(message)

        await self._app(scope, counted, heard)
        if refused:
            raise refused

    async def _other(self, scope: Scope, receive: Receive, send: Send, route: str) -> None:
        """Read the whole body of an event, which is small, and look at it before Gradio does."""
        body = await _read(scope, receive, self._bounds.request)
        try:
            # The parser that FastAPI takes: another one might see another event.
            event = json.loads(body) if body else None
        except ValueError:
            event = None  # a form, or nothing that Gradio can read either
        except RecursionError:
            raise _Refused(400, "The request is nested too deep; flatten it.") from None
        if not await to_thread.run_sync(_names_only_received, event, self._received):
            raise _Refused(
                400, "The photo is not a file that was sent to this page; upload it as a file."
            )
        again = _replayed(body, receive)
        if route == "queue/join" or route.startswith("call/"):
            session = event.get("session_hash") if isinstance(event, dict) else None
            await self._join(scope, again, send, session)
        else:
            await self._app(scope, again, send)

    async def _join(self, scope: Scope, receive: Receive, send: Send, session: Any) -> None:
        """Let an event into the queue unless its visitor has enough there."""
        address = _address(scope, self._proxied)
        visitor, most = str(session or address), self._bounds.waiting
        async with self._joining:  # one at a time, or several would pass before any is counted
            events = self._events()
            if sum(visitor == self._visitor(event) for event in events) >= most:
                sentence = f"You have {most} requests waiting already; wait for one to finish."
                raise _Refused(429, sentence)
            if sum(address == self._from(event) for event in events) >= self._bounds.waiting_at:
                raise _Refused(429, "Too many requests wait from where you are; try again later.")
            await self._app(scope, receive, send)

    def _events(self) -> list[Any]:
        """Return the events that wait or run."""
        queue = self._page._queue  # of the pinned Gradio; test_limits says if it changes
        events = [
            event for line in queue.event_queue_per_concurrency_id.values() for event in line.queue
        ]
        return events + [event for job in queue.active_jobs if job for event in job]

    def _from(self, event: Any) -> str:
        """Return the client address that an event came from."""
        return _address(event.request.scope, self._proxied)

    def _visitor(self, event: Any) -> str:
        """Return the session of an event; without one Gradio puts the event's own id there."""
        if event.session_hash != event._id:
            return event.session_hash
        return self._from(event)

    def _count_upload(self, address: str) -> None:
        """Note an upload, or refuse it if its address has had its share of the last minute."""
        now, most = time.monotonic(), self._bounds.uploads_a_minute
        if len(self._uploads) > 1000:
            self._uploads = {who: at for who, at in self._uploads.items() if now - at[-1] < 60}
        times = self._uploads.setdefault(address, deque(maxlen=most))
        if len(times) == most and now - times[0] < 60:
            raise _Refused(429, f"More than {most} uploads came within a minute; wait a little.")
        times.append(now)

    def _too_much(self, taken: int, stored: int) -> _Refused | None:
        """Return why an upload of so many bytes is refused, if it is."""
        if taken > self._bounds.upload:
            size = f"{self._bounds.upload // 1_000_000:,} MB"
            return _Refused(413, f"The upload is larger than {size}; send fewer photos at once.")
        if stored > self._bounds.received:
            return _Refused(507, "The server has no room for more photos now; try again later.")
        return None


def _address(scope: Scope, proxied: bool) -> str:
    """Return the address of a client; of X-Forwarded-For only the last entry is the proxy's own."""
    passed = ",".join(Headers(scope=scope).getlist("x-forwarded-for")) if proxied else ""
    return passed.rpartition(",")[2].strip() or (scope.get("client") or ("",))[0]


def _announced(scope: Scope) -> int:
    """Return how long a body claims to be; 0 where it does not say."""
    length = Headers(scope=scope).get("content-length", "")
    return int(length) if length.isdecimal() else 0


async def _read(scope: Scope, receive: Receive, most: int) -> bytes:
    """Read a whole body, or refuse it as soon as it is known to be too large."""
    length, body, more = _announced(scope), bytearray(), True
    while more:
        if max(length, len(body)) > most:
            size = f"{most // 1000:,} kB"
            raise _Refused(413, f"The request is larger than {size}; upload photos as files.")
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False) or len(body) > most
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body already read, and then goes on."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _names_only_received(value: Any, received: Path) -> bool:
    """Return whether each file that an event names was received.

    Gradio fetches what is an address, and looks at the folder of a path only where ``meta`` stands
    beside it; without, an event would open any file of the server.
    """
    folder, left = os.path.realpath(received), [value]
    while left:  # no recursion: a visitor decides how deep this is
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            left += value.values()
            # The page sends the address of a file beside its path, so that one may be any.
            address = str(value.get("url")).lstrip().lower()
            # This is how Gradio's page sends an SVG; `demo.uploads` says that it is no photo.
            if address.startswith("data:") and not address.startswith("data:image/svg"):
                return False
            path = value.get("path")
            try:
                real = os.path.realpath(path) if isinstance(path, str) else ""
            except ValueError:  # a null byte
                return False
            if path is not None and not real.startswith(folder + os.sep):
                return False
    return True


def _check_address(path: str, route: str) -> None:
    """Refuse paths that Gradio fails on, and services of it that no page of ours needs."""
    if "\0" in path or any(len(part.encode()) > 255 for part in path.split("/")):
        raise _Refused(400, "The address is not one of this page; open the page anew.")
    # Gradio would fetch any public address for anybody, of any size and without a time limit.
    fetches = route.startswith(("file=", "file/")) and "://" in route
    if fetches or route.startswith("proxy="):
        raise _Refused(403, "Files of other servers are not passed on; open the address itself.")
    if route.startswith("process_recording"):
        raise _Refused(404, "This page takes no recordings; send a photo.")


def _odd_range(header: tuple[bytes, bytes]) -> bool:
    """Return whether a header is a Range that Gradio fails on; a server may ignore any Range."""
    return header[0] == b"range" and not _RANGE.fullmatch(header[1].strip())


def _with_headers(send: Send, serves_file: bool) -> Send:
    """Return a `send` that adds what keeps browsers from running or telling what they get."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
            kind = headers.get("content-type", "").partition(";")[0].strip()
            if kind == "text/html":
                headers["Content-Security-Policy"] = _OWN
            if serves_file and kind not in _PICTURES:
                headers["Content-Security-Policy"] = "sandbox"
                if not headers.get("content-disposition", "").startswith("attachment"):
                    headers["Content-Disposition"] = "attachment"
        await send(message)

    return sent
