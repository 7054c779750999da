"""How far a long command is: a bar in a terminal, and a line now and then in a file or a pipe."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TextIO

EVERY = 20.0  # seconds between lines


@contextmanager
def progress_bar(
    shown: bool = True, stream: TextIO | None = None
) -> Iterator[Callable[[int, int], None]]:
    """Show how many photos are done, how fast, and how long the others will take.

    Parameters
    ----------
    shown : bool
        Whether to show anything.
    stream : file, optional
        Standard error unless given.

    Yields
    ------
    callable
        Takes (photos done, photos in all).
    """
    from tqdm import tqdm

    stream = stream or sys.stderr
    if shown and not stream.isatty():
        yield _Lines(stream)
        return
    with tqdm(unit="photo", file=stream, disable=not shown, dynamic_ncols=True) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tell


class _Lines:
    """Prints a line at least every 30 seconds, as long as photos take less than ten each."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = self._told = monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = monotonic()
        if now - self._told < EVERY:
            return
        self._told = now
        rate = done / (now - self._began)
        left = f", {(total - done) / rate / 60:.1f} min left" if rate else ""
        print(
            f"{done:,} of {total:,} photos, {rate:.1f} a second{left}",
            file=self._stream,
            flush=True,
        )
