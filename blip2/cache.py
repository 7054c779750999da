"""The cache: folders that are built once, whole or not at all, and shared between processes.

A folder is built aside and renamed into place, with a marker that was written last. A folder with
a whole marker is used as it is; an unfinished or damaged one is built anew.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from blip2.errors import AssetError

MARKER = "complete.json"
CACHE_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT),  # full
    *(errno.EACCES, errno.EPERM, errno.EROFS),  # protected
    *(errno.ENOTDIR, errno.EEXIST),  # a file stands where a folder should
}


def cache_dir() -> Path:
    """Return where the frozen parts are kept: `BLIP2_CACHE`, or blip2 in the user's cache folder.

    Returns
    -------
    Path
        Absolute; it need not exist.
    """
    if own := os.environ.get("BLIP2_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "blip2"
    return Path.home() / ".cache" / "blip2"


def cached_folder(name: str, source: str, build: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, built now if it is absent, unfinished or damaged.

    Parameters
    ----------
    name : str
        Of the folder.
    source : str
        Identifies what it was built from; another value in the marker means building again.
    build : callable
        Fills the empty folder that it is given; runs in one process at a time.

    Returns
    -------
    Path
        The finished folder.

    Raises
    ------
    AssetError
        If `build` raises it, or if the cache cannot be written.
    """
    from filelock import FileLock

    cache = cache_dir()
    folder = cache / name
    with _advice(cache):
        if _is_whole(folder, source):
            return folder
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{name}.lock"):
            if _is_whole(folder, source):  # another process was faster
                return folder
            for stale in cache.glob(f".{name}-*"):  # of a process that was killed
                shutil.rmtree(stale)
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}-") as aside:
                built = Path(aside) / name
                built.mkdir()
                build(built)
                _mark(built, source)
                if folder.exists():
                    shutil.rmtree(folder)
                built.rename(folder)
            sync(cache)
    return folder


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as hex digits.

    Parameters
    ----------
    path : Path
        The file.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _mark(folder: Path, source: str) -> None:
    """Record every file of a finished folder, then make all of it durable."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): {
            "size": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in paths
    }
    for path in paths:
        sync(path)
    marker = folder / MARKER
    marker.write_text(json.dumps({"source": source, "files": files}, indent=2) + "\n")
    sync(marker)
    sync(folder)


def _is_whole(folder: Path, source: str) -> bool:
    """Check the sizes of all files, and the content of those changed since the marker was written.

    Hashing everything at each start would cost more than loading it.
    """
    marker = folder / MARKER
    try:
        record = json.loads(marker.read_text())
        written = marker.stat().st_mtime_ns
        if record["source"] != source:
            return False
        for name, expected in record["files"].items():
            path = folder / name
            state = path.stat()
            if state.st_size != expected["size"]:
                return False
            if state.st_mtime_ns > written and sha256_of(path) != expected["sha256"]:
                return False
    # Absent, unfinished or a damaged marker: the caller builds it anew.
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def sync(path: Path) -> None:
    """Make a file's content, or new names in a folder, survive a power cut."""
    if os.name == "nt" and path.is_dir():  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _advice(cache: Path) -> Iterator[None]:
    """Turn the errors of a full, protected or misplaced cache into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in CACHE_ERRORS:
            raise
        raise AssetError(
            f"The cache folder {cache} cannot be used ({error.strerror}); "
            "make room or set BLIP2_CACHE to another folder."
        ) from error
