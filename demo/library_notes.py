"""What the library lacks: files that are away or not read, and a button that forgets deleted ones.

Only for whoever runs the page: where visitors are kept apart, they read nothing of it.
"""

import html

import gradio as gr

from blip2.display import one_line
from demo.events import QUIET
from demo.failures import sentences
from demo.finding import Items, first_items, size_html
from demo.library import Library
from demo.visitors import Visitors


def build(
    page: gr.Blocks, library: Library, visitors: Visitors, gallery: gr.Gallery, status: gr.HTML
) -> None:
    """Lay out the notes and the button, and connect it.

    Parameters
    ----------
    page : gr.Blocks
        The page around them.
    library : Library
        Knows what it lacks.
    visitors : Visitors
        Say whether anybody but whoever runs the page may read it.
    gallery, status : gr.Gallery, gr.HTML
        Show the library afterwards.
    """
    if visitors.private:
        return
    notes = gr.HTML(
        visible=False,
        label="What the library lacks",
        elem_id="library-notes",
        elem_classes="meta",
    )
    button = gr.Button(visible=False, size="sm", elem_id="library-forget")

    def show() -> tuple[gr.HTML, gr.Button]:
        text = notes_html(library)
        label = forget_label(library)
        return gr.HTML(text, visible=bool(text)), gr.Button(label, visible=library.doubted > 0)

    def forget() -> tuple[gr.HTML, gr.Button, Items, str]:
        """Forget photos of the library that are no longer there."""
        with sentences():
            library.forget_deleted()
            return (*show(), first_items(library), size_html(library))

    page.load(show, None, [notes, button], **QUIET)

    button.click(
        forget,
        None,
        [notes, button, gallery, status],
        api_visibility="private",
    )


def notes_html(library: Library) -> str:
    """Return what the library lacks as HTML; empty where it lacks nothing."""
    if library.report is None:
        return ""
    remarks = library.report.remarks(forget="the button below")
    return "".join(f"<p>{html.escape(one_line(remark))}</p>" for remark in remarks)


def forget_label(library: Library) -> str:
    """Return what the button says."""
    return f"Forget {library.doubted:,} photo{'s' * (library.doubted != 1)}"
