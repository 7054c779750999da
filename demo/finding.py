"""A search, from the raw values of its controls to a gallery and what is said about it."""

import html
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from blip2.display import one_line
from blip2.read_text import UnreadableTextError
from demo.failures import doubt_html, notice_html, sentences
from demo.library import Found, Library, Shown
from demo.uploads import open_received, received_number, received_text
from demo.visitors import Visitor

MAX_SHOWN = 48
Items = list[tuple[str, str]]


@dataclass(frozen=True)
class Filters:
    """Which photos a search looks at, and how it shows them: raw values of the controls.

    Parameters
    ----------
    name, since, until, folder : Any
        See `demo.library.Library.where`.
    fold : Any
        Whether near-duplicates are shown as one.
    """

    name: Any = ""
    since: Any = ""
    until: Any = ""
    folder: Any = ""
    fold: Any = True


def find(
    library: Library, visitor: Visitor, text: Any, count: Any, rerank: Any, filters: Filters
) -> tuple[Items, str]:
    """Find photos by words.

    Parameters
    ----------
    library : Library
        What is searched.
    visitor : Visitor
        Whose own photos are searched, too.
    text, count, rerank : Any
        Raw values of the controls.
    filters : Filters
        Likewise.

    Returns
    -------
    list of (str, str), str
        Thumbnails with captions for the gallery, and a line about the search. Where the model knows
        no word of the text there are none, and the line says so: an error would leave the photos of
        the search before in the page.

    Raises
    ------
    gr.Error
        If the text, the number of photos or a filter cannot be used.
    """
    with sentences():
        words = received_text(text, "search text")
        wanted = received_number(count, "number of photos to show", 1, MAX_SHOWN)
        where = read_where(library, filters)
        start = perf_counter()
        try:
            found = library.search(
                words,
                wanted,
                bool(rerank),
                where=where,
                visit=visitor.uploads,
                fold=bool(filters.fold),
            )
        except UnreadableTextError as error:
            return [], notice_html(str(error))
        took = perf_counter() - start
        words = words if len(words) <= 80 else f"{words[:79]}…"
        about = f"for “{html.escape(words)}”"
        size = library.size(visitor.uploads)
        return gallery_items(found), found_html(about, found, size, took, bool(where))


def find_similar(
    library: Library, visitor: Visitor, photo: Any, count: Any, filters: Filters
) -> tuple[Items, str]:
    """Find photos that are like one; parameters, results and errors as for `find`."""
    with sentences():
        path, _ = visitor.received(photo)
        wanted = received_number(count, "number of photos to show", 1, MAX_SHOWN)
        where = read_where(library, filters)
        start = perf_counter()
        known = library.original(path) is not None
        found = library.similar(
            path if known else open_received(path),
            wanted,
            where=where,
            visit=visitor.uploads,
            fold=bool(filters.fold),
        )
        took = perf_counter() - start
        size = library.size(visitor.uploads)
        return gallery_items(found), found_html("like this one", found, size, took, bool(where))


def read_where(library: Library, filters: Filters) -> Any:
    """Return which files are looked at, from the raw values of the filters."""
    name = received_text(filters.name, "file name", default="")
    since = received_text(filters.since, "first day", default="")
    until = received_text(filters.until, "last day", default="")
    folder = received_text(filters.folder, "folder", default="")
    return library.where(name=name, since=since, until=until, folder=folder)


def gallery_items(found: Found) -> Items:
    """Return what was found in the form that `gr.Gallery` shows."""
    return [(str(shown.thumbnail), caption(shown)) for shown in found.shown]


def caption(shown: Shown) -> str:
    """Return what stands under a photo in the gallery."""
    score = f"{shown.hit.score:.3f}"
    if shown.hit.match is not None:
        score = f"{shown.hit.match:.0%} match"
    alike = f", {len(shown.alike)} more like it" if shown.alike else ""
    return f"{score}{alike} · {one_line(shown.name)}"  # the name last: a long one is cut


def found_html(about: str, found: Found, size: int, took: float, filtered: bool) -> str:
    """Return the line about a search, with sentences on what the visitor should know.

    Parameters
    ----------
    about : str
        What was looked for, as HTML.
    found : Found
        What was found.
    size : int
        Photos that could have been.
    took : float
        Seconds.
    filtered : bool
        Whether filters were set.
    """
    if not size:
        return "<p>The library is empty; add photos below.</p>"
    if not found.shown and not found.lost and not found.away and filtered:
        return notice_html("No photo passes the filters; loosen or clear them.")
    line = f"<p>Best {len(found.shown)} of {size:,} photos {about}, found in {took:.2f} s</p>"
    line += "".join(doubt_html(note) for note in found.notes)
    if found.verdict is not None and not found.verdict.fits:
        line += doubt_html(
            "No good match: the model doubts that any photo here shows this. These come nearest."
        )
    if found.away:
        verb = "is" if len(found.away) == 1 else "are"
        line += notice_html(
            f"{_some(found.away)} matched too but {verb} on a drive that is not connected."
        )
    if found.lost:
        verb = "was" if len(found.lost) == 1 else "were"
        line += notice_html(
            f"{_some(found.lost)} matched too but {verb} deleted or damaged since the library was "
            "made."
        )
    return line


def _some(names: list[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:5]) + (" and others" if len(names) > 5 else "")


def first_items(library: Library, visitor: Visitor | None = None) -> Items:
    """Return the photos that are shown before a search."""
    first = library.first(visitor.uploads if visitor else None)
    return [(str(path), one_line(name)) for path, name in first]


def size_html(library: Library, visitor: Visitor | None = None) -> str:
    """Return the line about the library."""
    size = library.size(visitor.uploads if visitor else None)
    return f"<p>{size:,} photo{'s' * (size != 1)} in the library</p>"
