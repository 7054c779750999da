"""One writer at a time: the lock of an index folder, and what is said where writing fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index import manifest
from index.manifest import IndexBusyError, IndexFileError

LOCK = "write.lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an index, waiting for it for `index.manifest.BUSY_TIMEOUT` seconds."""
    from filelock import FileLock, Timeout  # late: reading needs no lock

    try:
        with FileLock(folder / LOCK, timeout=manifest.BUSY_TIMEOUT):
            yield
    except Timeout as error:
        raise IndexBusyError(
            f"The index {folder} is busy: another process has been writing it for "
            f"{manifest.BUSY_TIMEOUT:.0f} seconds; try again when it has finished."
        ) from error


@contextmanager
def written(folder: Path, what: str) -> Iterator[None]:
    """Say in a sentence what became of an index where writing it fails."""
    try:
        yield
    except OSError as error:
        raise IndexFileError(
            f"The index {folder} {what} ({error.strerror or error}); "
            "check disk space and permissions."
        ) from error
