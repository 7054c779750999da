"""Who is visiting: the photo before each visitor, what they sent, and its end with their visit."""

import re
import secrets
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from demo.uploads import received_file
from demo.visits import Visit

PATIENCE = 0.5  # seconds that the page may take to say which photo it has
STAYS = 2 * 3600  # seconds without a sign after which a visitor has left, whatever the page says
SWEPT = 60  # seconds between two looks for those
MOST = 1000  # visitors at once; of more, those without a sign for longest have left
_DIGEST = re.compile("[0-9a-f]{64}")  # how Gradio names the folder of a received file


@dataclass
class Visitor:
    """One open page.

    Parameters
    ----------
    photo : Path, optional
        The photo in the page by now. Words about another one are no longer wanted.
    files : set of Path
        What was received from this page, and what was drawn for it.
    uploads : Visit, optional
        The photos that they added, where these are for them alone.
    seen : float
        When they last gave a sign, by `time.monotonic`.
    """

    photo: Path | None = None
    files: set[Path] = field(default_factory=set)
    uploads: Visit | None = None
    seen: float = field(default_factory=monotonic)

    def received(self, upload: Any) -> tuple[Path, str]:
        """As `demo.uploads.received_file`; the file goes with this visitor."""
        path, name = received_file(upload)
        self.files.add(path)
        return path, name

    def place(self) -> Path:
        """Make a folder for pictures that are drawn for this visitor, which are served."""
        folder = Path(get_upload_folder()) / secrets.token_hex(32)  # named as Gradio's are
        folder.mkdir(parents=True)
        self.files.add(folder / "drawn")
        return folder

    def wants(self, photo: Path) -> bool:
        """Tell whether words about a photo are still wanted; programs say of no other photo."""
        return self.photo is None or self.photo == photo

    def comes_to(self, photo: Path) -> bool:
        """As `wants`, at the beginning, when the page may be about to say of its new photo."""
        deadline = monotonic() + PATIENCE
        while not self.wants(photo) and monotonic() < deadline:
            sleep(0.02)
        return self.wants(photo)


class Visitors:
    """All open pages, by the session that Gradio gives each.

    Parameters
    ----------
    make_visit : callable, optional
        Makes the place for the photos that a visitor adds; without it, they go into the library
        for everybody and stay.
    """

    def __init__(self, make_visit: Callable[[], Visit] | None = None) -> None:
        self._make_visit = make_visit
        self._here: dict[str, Visitor] = {}
        self._ours: set[Path] = set()
        self._swept = monotonic()
        self._lock = threading.Lock()

    @property
    def private(self) -> bool:
        """Whether added photos are for their visitor alone and end with the visit."""
        return self._make_visit is not None

    @property
    def count(self) -> int:
        """Visitors that are here."""
        return len(self._here)

    def keep_ours(self) -> None:
        """Keep what lies among the received files by now: the page's own, such as its samples.

        A visitor may send the same photo, which Gradio then finds there already.
        """
        home = Path(get_upload_folder())
        self._ours = set(home.resolve().iterdir()) if home.is_dir() else set()

    def of(self, request: gr.Request) -> Visitor:
        """Return the visitor that a request comes from, known or new.

        One who was taken to have left, such as a laptop that slept, is a new one.
        """
        session, now = getattr(request, "session_hash", None) or "", monotonic()
        with self._lock:
            if now - self._swept > SWEPT:
                self._sweep(now)
            if session not in self._here:
                uploads = self._make_visit() if self._make_visit else None
                self._here[session] = Visitor(uploads=uploads)
                if len(self._here) > MOST:
                    self._end(min(self._here, key=lambda other: self._here[other].seen))
            self._here[session].seen = now
            return self._here[session]

    def leave(self, request: gr.Request) -> None:
        """Forget a visitor who has closed the page, and delete what they sent."""
        with self._lock:
            self._end(getattr(request, "session_hash", None) or "")

    def close(self) -> None:
        """Delete what all visitors sent; the page is closing."""
        with self._lock:
            for session in list(self._here):
                self._end(session)

    def _sweep(self, now: float) -> None:
        """End the visits of those who gave no sign for long: programs never say that they leave."""
        self._swept = now
        for session, visitor in list(self._here.items()):
            if now - visitor.seen > STAYS:
                self._end(session)

    def _end(self, session: str) -> None:
        visitor = self._here.pop(session, None)
        if visitor is None:
            return
        # Gradio names a file by its content: two visitors may have sent the same one.
        kept = {file.parent for other in self._here.values() for file in other.files}
        for folder in {file.parent for file in visitor.files} - kept:
            if folder.resolve() not in self._ours:
                delete_received(folder)
        if visitor.uploads is not None:
            visitor.uploads.close()


def delete_received(folder: Path) -> None:
    """Delete the folder of a received file, and nothing else, whatever the path says."""
    folder = folder.resolve()
    if folder.parent == Path(get_upload_folder()).resolve() and _DIGEST.fullmatch(folder.name):
        shutil.rmtree(folder, ignore_errors=True)
