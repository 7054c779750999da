"""Who is visiting: the photo before each visitor, what they sent, and its end with their visit."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import gradio as gr
from gradio.utils import get_upload_folder

from demo.visits import Visit

PATIENCE = 0.5  # seconds that the page may take to say which photo it has


@dataclass
class Visitor:
    """One open page.

    Parameters
    ----------
    photo : Path, optional
        The photo in the page by now. Words about another one are no longer wanted.
    files : set of Path
        What was received from this page.
    uploads : Visit, optional
        The photos that they added, where these are for them alone.
    """

    photo: Path | None = None
    files: set[Path] = field(default_factory=set)
    uploads: Visit | None = None

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
        self._lock = threading.Lock()

    @property
    def private(self) -> bool:
        """Whether added photos are for their visitor alone and end with the visit."""
        return self._make_visit is not None

    def __len__(self) -> int:
        return len(self._here)

    def keep_ours(self) -> None:
        """Keep what lies among the received files by now: the page's own, such as its samples.

        A visitor may send the same photo, which Gradio then finds there already.
        """
        home = Path(get_upload_folder())
        self._ours = set(home.resolve().iterdir()) if home.is_dir() else set()

    def of(self, request: gr.Request) -> Visitor:
        """Return the visitor that a request comes from, known or new."""
        session = getattr(request, "session_hash", None)
        if not session:  # a program that calls without one; it has nothing to come back to
            return self._new()
        with self._lock:
            if session not in self._here:
                self._here[session] = self._new()
            return self._here[session]

    def leave(self, request: gr.Request) -> None:
        """Forget a visitor who has closed the page, and delete what they sent."""
        with self._lock:
            visitor = self._here.pop(getattr(request, "session_hash", None) or "", None)
            if visitor is None:
                return
            # Gradio names a file by its content: two visitors may have sent the same one.
            kept = {file for other in self._here.values() for file in other.files}
        for file in visitor.files - kept:
            if file.resolve().parent not in self._ours:
                delete_received(file)
        if visitor.uploads is not None:
            visitor.uploads.close()

    def close(self) -> None:
        """Delete what all visitors added; the page is closing."""
        with self._lock:
            here, self._here = list(self._here.values()), {}
        for visitor in here:
            if visitor.uploads is not None:
                visitor.uploads.close()

    def _new(self) -> Visitor:
        return Visitor(uploads=self._make_visit() if self._make_visit else None)


def delete_received(file: Path) -> None:
    """Delete a received file with the folder that Gradio made for it."""
    home = Path(get_upload_folder()).resolve()
    folder = file.resolve().parent
    if folder.parent == home:  # and nothing else, whatever the path says
        shutil.rmtree(folder, ignore_errors=True)
