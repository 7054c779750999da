"""Small copies of photos, the only thing of a library that the page ever serves."""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from blip2.errors import UserError
from blip2.processing import PhotoError, open_photo

THUMBNAIL = 720  # pixels, the longer side; also what a click enlarges
THREADS = 2  # Pillow decodes and scales without Python's lock; the model wants the other cores


class Thumbnails:
    """A folder of thumbnails, and which photo each of them shows.

    Their names tell nothing and cannot be guessed without knowing path, size and date of a photo.

    Parameters
    ----------
    folder : Path
        Made with the first of them; what is cleared away there is made again when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._originals: dict[str, Path] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="thumbnail")

    def make(self, path: Path) -> Path:
        """Return a small copy of a photo, made now if there is none yet.

        Parameters
        ----------
        path : Path
            The photo, a file of the operator or one that `keep_copy` wrote: it is opened here, in
            the process of the page.

        Returns
        -------
        Path
            A JPEG file, at most `THUMBNAIL` pixels on its longer side.

        Raises
        ------
        UserError
            If the photo is gone or damaged.
        """
        try:
            state = path.stat()
        except OSError:
            raise PhotoError(f"The photo {path.name} is no longer there.") from None
        key = os.fsencode(path) + f"|{state.st_size}|{state.st_mtime_ns}".encode()
        name = f"{hashlib.sha256(key).hexdigest()}.jpg"
        small = self._folder / name
        if not small.exists():
            photo = open_photo(path, enough=THUMBNAIL)
            write_jpeg(photo, small, THUMBNAIL, quality=86)
        self._originals[name] = path  # once it is there, so that `forget` misses none
        return small

    def make_all(self, paths: Iterable[Path]) -> list[Path | None]:
        """Return the thumbnails of many photos, made side by side.

        Parameters
        ----------
        paths : iterable of Path
            The photos.

        Returns
        -------
        list of Path or None
            In order; None where a photo is gone or damaged.
        """
        return list(self._pool.map(_or_none(self.make), paths))

    def original(self, thumbnail: Path) -> Path | None:
        """Return the photo that a thumbnail shows.

        Parameters
        ----------
        thumbnail : Path
            As `make` returned it; its name alone is looked at.

        Returns
        -------
        Path or None
            None if no such thumbnail was made since the page was started.
        """
        return self._originals.get(Path(thumbnail).name)

    def named(self, name: str) -> Path | None:
        """Return the thumbnail of this name, None if none such was made."""
        return self._folder / name if name in self._originals else None

    def forget(self, folder: Path) -> None:
        """Delete the thumbnails of all photos of a folder."""
        for name, path in list(self._originals.items()):
            if folder in path.parents:
                self._originals.pop(name, None)  # before: a thread may be making it again
                (self._folder / name).unlink(missing_ok=True)


def write_jpeg(photo: Image.Image, path: Path, longest: int, quality: int) -> None:
    """Write a photo as JPEG: pixels and nothing that came along with them.

    Parameters
    ----------
    photo : PIL.Image.Image
        Mode "RGB"; scaled in place where it is larger.
    path : Path
        The file, there once it is whole; its folder is made.
    longest : int
        Pixels of its longer side at most.
    quality : int
        Of JPEG.
    """
    photo.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    photo.info = {}  # Pillow would write a comment that it found in the original
    path.parent.mkdir(parents=True, exist_ok=True)
    with _aside(path) as part:
        photo.save(part, "JPEG", quality=quality)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Give a name to write to, renamed once it is whole; two writers do not meet."""
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _or_none(make: Callable[[Path], Path]) -> Callable[[Path], Path | None]:
    def made(path: Path) -> Path | None:
        try:
            return make(path)
        except UserError:
            return None

    return made
