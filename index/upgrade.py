"""Photos that were embedded by an earlier version of how photos are read, found again."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from blip2.processing import READING_VERSION
from blip2.reading_version import reading_differs
from index.folder import IndexFolder

if TYPE_CHECKING:
    from blip2 import Blip2Retriever

OLD_ENOUGH = 2  # times the encoder's side, to which version 1 decoded photos


def stale_photos(index: IndexFolder) -> list[tuple[int, Path]]:
    """Return photos that were read by an earlier version, each with a file that is as it was."""
    with index.reading() as library:
        held = library.read_before(READING_VERSION)
    found: dict[int, Path] = {}
    for photo, place in held:
        if photo not in found and file_mark(place.path) == (place.size, place.mtime_ns):
            found[photo] = place.path
    return list(found.items())


def read_differently(
    index: IndexFolder,
    retriever: "Blip2Retriever",
    stale: Sequence[tuple[int, Path]],
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """Return the files of those photos that would be read differently today; note the others.

    Parameters
    ----------
    index : IndexFolder
        Holds the photos.
    retriever : Blip2Retriever
        Its image encoder's side says at which size photos are decoded.
    stale : sequence of (int, Path)
        From `stale_photos`.
    say : callable, optional
        Gets a sentence on what will be done.
    """
    side = retriever.photo_side

    def differs(path: Path) -> bool:
        return reading_differs(path, OLD_ENOUGH * side, side, 1)

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="read-header") as pool:
        answers = list(pool.map(differs, [path for _, path in stale]))
    anew = [path for (_, path), other in zip(stale, answers, strict=True) if other]
    if say:
        say(
            "Photos are read differently since this index was made (turned upright once, in their "
            f"own colours): {len(anew):,} of {len(stale):,} are embedded anew."
        )
    same = [photo for (photo, _), other in zip(stale, answers, strict=True) if not other]
    if same:
        index.confirm_reading(same)
    return anew


def file_mark(path: Path) -> tuple[int, int] | None:
    """Return the size and the date of a file in nanoseconds, None where it can't be looked at."""
    try:
        status = os.stat(path)
    except OSError:  # whoever reads it says what is the matter
        return None
    return status.st_size, status.st_mtime_ns
