"""Photos that visitors add to what is searched, and what came of each."""

import html
from typing import Any

import gradio as gr

from blip2.display import one_line
from blip2.errors import UserError
from blip2.photo_formats import READABLE
from demo.events import MODEL_QUEUE
from demo.failures import sentences
from demo.finding import Items, first_items, size_html
from demo.library import Library
from demo.visitors import Visitor, Visitors

MAX_FILES = 100  # of one upload
_PROGRESS = gr.Progress()


def build(library: Library, visitors: Visitors, gallery: gr.Gallery, status: gr.HTML) -> None:
    """Lay out the box for new photos, and connect it.

    Parameters
    ----------
    library : Library
        Takes the photos.
    visitors : Visitors
        Say whether these are for their visitor alone.
    gallery, status : gr.Gallery, gr.HTML
        Show the library afterwards.
    """
    files = gr.File(
        label="Photos to add", file_count="multiple", height=140, elem_id="search-files"
    )
    where = (
        "Only you can find them, and they are deleted when you close the page."
        if visitors.private
        else "They stay in the library of this computer."
    )
    report = gr.HTML(
        f"<p>{READABLE}, at most {MAX_FILES} at once. {where}</p>",
        label="What came of each photo",
        elem_id="search-report",
        elem_classes="report",
    )

    def add(
        request: gr.Request, files: Any, progress: gr.Progress = _PROGRESS
    ) -> tuple[str, Items, str, None]:
        """Add photos to the library."""
        visitor = visitors.of(request)
        sentence = add_photos(library, visitor, files, progress)
        return sentence, first_items(library, visitor), size_html(library, visitor), None

    files.upload(
        add,
        files,
        [report, gallery, status, files],
        preprocess=False,
        show_progress="full",
        show_progress_on=report,
        api_name="add_photos",
        **MODEL_QUEUE,
    )


def add_photos(library: Library, visitor: Visitor, uploads: Any, progress: Any) -> str:
    """Add what a visitor sent to the library, or to what they alone can find.

    Parameters
    ----------
    library : Library
        Takes the photos.
    visitor : Visitor
        Who sent them.
    uploads : Any
        The raw value of a file component.
    progress : callable
        Called as (share done, words), as `gr.Progress` is.

    Returns
    -------
    str
        What was added and refused, as HTML.

    Raises
    ------
    gr.Error
        If nothing came, or too much at once.
    """
    with sentences():
        uploads = uploads if uploads and isinstance(uploads, list) else [uploads]
        files = [visitor.received(upload) for upload in uploads]  # noted, also where refused
        if len(files) > MAX_FILES:
            raise UserError(f"These are {len(files)} files; add at most {MAX_FILES} at once.")

        def show(done: int, total: int) -> None:
            what = "Opening" if 2 * done < total else "Embedding"
            progress(done / max(total, 1), f"{what} {len(files)} photo{'s' * (len(files) != 1)}")

        report, refused = library.add(files, show, visit=visitor.uploads)
        return report_html(report.added, report.known, refused)


def report_html(added: int, known: int, refused: list[tuple[str, str]]) -> str:
    """Return what came of an upload; file names stay text."""
    parts = [f"{added} photo{'s' * (added != 1)} added." if added else "Nothing was added."]
    if known:
        parts.append(f"{known} {'was' if known == 1 else 'were'} in the library already.")
    if refused:
        parts.append(f"{len(refused)} {'was' if len(refused) == 1 else 'were'} refused:")
    rows = "".join(
        f"<li><b>{html.escape(one_line(name))}</b> {html.escape(one_line(reason))}</li>"
        for name, reason in refused
    )
    return f"<p>{' '.join(parts)}</p>" + (f"<ul>{rows}</ul>" if rows else "")
