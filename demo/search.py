"""The tab that finds photos by words, and takes new ones in."""

import html
from time import perf_counter
from typing import Any

import gradio as gr

from blip2.errors import UserError
from demo.library import Found, Library, Shown
from demo.models import MODEL_QUEUE
from demo.uploads import notice_html, received_file, received_text, sentences

MAX_SHOWN = 48
MAX_FILES = 100  # of one upload
SAMPLE_QUERIES = ("a cat", "a cup of coffee", "a rocket launch", "a motorcycle", "a wild animal")
Items = list[tuple[str, str]]
_PROGRESS = gr.Progress()


def build(library: Library, queries: tuple[str, ...] = ()) -> None:
    """Lay out the tab and connect it.

    Parameters
    ----------
    library : Library
        What is searched.
    queries : tuple of str
        Searches to offer.
    """
    with gr.Row(elem_classes="ask-row"):
        text = gr.Textbox(
            label="Search",
            show_label=False,
            placeholder="Describe what to find",
            lines=1,
            max_lines=2,
            scale=8,
            container=False,
            elem_id="search-text",
        )
        run = gr.Button("Search", variant="primary", min_width=104, elem_id="search-run")
    if queries:
        with gr.Row(elem_classes="chips"):
            chips = [
                gr.Button(query, size="sm", min_width=0, elem_classes="chip") for query in queries
            ]
    with gr.Row(elem_classes="settings"):
        count = gr.Slider(
            1,
            MAX_SHOWN,
            value=12,
            step=1,
            label="Photos to show",
            buttons=[],
            min_width=240,
            elem_id="search-k",
        )
        rerank = gr.Checkbox(
            label="Re-rank",
            info="Looks at the best candidates again: slower, finer",
            value=False,
            min_width=240,
            elem_id="search-rerank",
        )
    # Computed whenever a page is opened: the library grows, and old thumbnails are cleared away.
    status = gr.HTML(lambda: size_html(library), elem_id="search-status", elem_classes="meta")
    gallery = gr.Gallery(
        lambda: [(str(path), name) for path, name in library.first()],
        label="Photos",
        show_label=False,
        columns=4,
        height="auto",
        object_fit="cover",
        interactive=False,
        buttons=["fullscreen"],
        elem_id="search-gallery",
    )
    with gr.Accordion("Add photos", open=False, elem_id="search-add"):
        files = gr.File(
            label="Photos to add",
            file_count="multiple",
            height=140,
            elem_id="search-files",
        )
        report = gr.HTML(
            "<p>JPEG, PNG, WebP, GIF, BMP or TIFF. They stay in the library of this computer.</p>",
            elem_id="search-report",
            elem_classes="report",
        )

    def search(text: Any, count: Any, rerank: Any) -> tuple[Items, str]:
        """Find the photos that a text describes."""
        return find(library, text, count, rerank)

    searching: dict[str, Any] = {
        "outputs": [gallery, status],
        "preprocess": False,
        "show_progress": "minimal",
        **MODEL_QUEUE,
    }
    gr.on([run.click, text.submit], search, [text, count, rerank], api_name="search", **searching)
    if queries:
        for chip, query in zip(chips, queries, strict=True):
            chip.click(None, None, text, js=f"() => {query!r}", api_visibility="private").then(
                search, [text, count, rerank], api_visibility="private", **searching
            )

    def add(files: Any, progress: gr.Progress = _PROGRESS) -> tuple[str, str, None]:
        """Add photos to the library."""
        sentence, size = add_photos(library, files, progress)
        return sentence, size, None

    files.upload(
        add,
        files,
        [report, status, files],
        preprocess=False,
        show_progress="full",
        show_progress_on=report,
        api_name="add_photos",
        **MODEL_QUEUE,
    )


def find(library: Library, text: Any, count: Any, rerank: Any) -> tuple[Items, str]:
    """Find photos by words.

    Parameters
    ----------
    library : Library
        What is searched.
    text, count, rerank : Any
        Raw values of the controls.

    Returns
    -------
    list of (str, str), str
        Thumbnails with captions for the gallery, and a line about the search.

    Raises
    ------
    gr.Error
        If the text or the number of photos cannot be used.
    """
    with sentences():
        words = received_text(text, "search text")
        if isinstance(count, bool) or not isinstance(count, int | float):
            raise UserError("The number of photos to show is not a number; choose one.")
        if not 1 <= count <= MAX_SHOWN:
            raise UserError(f"The number of photos to show must be from 1 to {MAX_SHOWN}.")
        start = perf_counter()
        found = library.search(words, int(count), bool(rerank))
        took = perf_counter() - start
        items = [(str(shown.thumbnail), caption(shown)) for shown in found.shown]
        return items, found_html(words, found, len(library), took)


def add_photos(library: Library, uploads: Any, progress: Any) -> tuple[str, str]:
    """Add what a visitor sent to the library.

    Parameters
    ----------
    library : Library
        Takes the photos.
    uploads : Any
        The raw value of a file component.
    progress : callable
        Called as (share done, words), as `gr.Progress` is.

    Returns
    -------
    str, str
        What was added and refused, and the size of the library, as HTML.

    Raises
    ------
    gr.Error
        If nothing came, or too much at once.
    """
    with sentences():
        uploads = uploads if uploads and isinstance(uploads, list) else [uploads]
        if len(uploads) > MAX_FILES:
            raise UserError(f"These are {len(uploads)} files; add at most {MAX_FILES} at once.")
        files = [received_file(upload) for upload in uploads]
        progress(0, "Opening the photos")

        def show(done: int, total: int) -> None:
            progress(done / max(total, 1), f"{done} of {total} photos")

        report, refused = library.add(files, show)
        return report_html(report.added, report.known, refused), size_html(library)


def caption(shown: Shown) -> str:
    """Return what stands under a photo in the gallery."""
    if shown.hit.match is not None:
        return f"{shown.hit.match:.0%} match · {shown.name}"
    return f"{shown.hit.score:.3f} · {shown.name}"


def found_html(words: str, found: Found, size: int, took: float) -> str:
    """Return the line about a search, with a sentence on photos that are gone."""
    if not size:
        return "<p>The library is empty; add photos below.</p>"
    words = words if len(words) <= 80 else f"{words[:79]}…"
    line = (
        f"<p>Best {len(found.shown)} of {size:,} photos for “{html.escape(words)}”, "
        f"found in {took:.2f} s</p>"
    )
    if not found.lost:
        return line
    names = ", ".join(found.lost[:5]) + (" and others" if len(found.lost) > 5 else "")
    verb = "was" if len(found.lost) == 1 else "were"
    return line + notice_html(
        f"{names} matched too but {verb} deleted or damaged since the library was made."
    )


def size_html(library: Library) -> str:
    """Return the line about the library."""
    size = len(library)
    return f"<p>{size:,} photo{'s' * (size != 1)} in the library</p>"


def report_html(added: int, known: int, refused: list[tuple[str, str]]) -> str:
    """Return what came of an upload; file names stay text."""
    parts = [f"{added} photo{'s' * (added != 1)} added." if added else "Nothing was added."]
    if known:
        parts.append(f"{known} {'was' if known == 1 else 'were'} in the library already.")
    if refused:
        parts.append(f"{len(refused)} {'was' if len(refused) == 1 else 'were'} refused:")
    rows = "".join(
        f"<li><b>{html.escape(name)}</b> {html.escape(reason)}</li>" for name, reason in refused
    )
    return f"<p>{' '.join(parts)}</p>" + (f"<ul>{rows}</ul>" if rows else "")
