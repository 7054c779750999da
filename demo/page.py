"""The page: a photo, and a tab for each thing that it can do with photos."""

import html
from typing import Any

import gradio as gr
from gradio.events import Dependency

from demo import captioning, chat, photo, search
from demo.events import QUIET
from demo.failures import sentences
from demo.kept import KeptTexts
from demo.library import Library, sample_photos
from demo.models import Models
from demo.uploads import received_file
from demo.visitors import Visitors

TITLE = "BLIP-2"
# Seconds between cleanings, and how old a visitor's file may become.
DELETE_CACHE = (600, 2 * 3600)
# The tab may be built only now, when it is first looked at.
FOCUS_QUESTION = """() => {
  setTimeout(() => document.querySelector('#chat-question textarea')?.focus(), 200);
}"""
MAX_WAITING = 64  # requests in the queue; further ones are told that the page is busy


def build_page(
    models: Models,
    library: Library,
    samples: bool,
    visitors: Visitors | None = None,
    kept: KeptTexts | None = None,
) -> gr.Blocks:
    """Lay out the whole page.

    Parameters
    ----------
    models : Models
        What answers.
    library : Library
        What is searched.
    samples : bool
        Whether the library is made of the sample photos, so that searches for them are offered.
    visitors : Visitors, optional
        Know who is here; by default the photos that they add stay in the library.
    kept : KeptTexts, optional
        Captions that were written before.

    Returns
    -------
    gr.Blocks
        To be launched.
    """
    visitors = Visitors() if visitors is None else visitors
    kept = KeptTexts() if kept is None else kept
    with gr.Blocks(title=TITLE, delete_cache=DELETE_CACHE) as page:
        gr.HTML(
            f"<h1>{TITLE}</h1><p>Describe a photo, ask about it, find it again.</p>"
            f'<p class="running">{html.escape(models.describe())}</p>',
            elem_id="masthead",
        )
        with gr.Row(equal_height=False, elem_id="desk"):
            with gr.Column(scale=4, min_width=300, elem_id="photo-panel"):
                panel = photo.build(sample_photos(), visitors)
            with (
                gr.Column(scale=7, min_width=320, elem_id="work"),
                gr.Tabs(elem_id="tabs") as tabs,
            ):
                # Before the tabs: what one click starts is done in the order of its declaration.
                connect_panel(panel, tabs)
                with gr.Tab("Caption", id="caption", elem_id="tab-caption"):
                    caption_after = captioning.build(models, panel, visitors, kept)
                with gr.Tab("Chat", id="chat", elem_id="tab-chat"):
                    chat.build(models, panel, visitors)
                with gr.Tab("Search", id="search", elem_id="tab-search"):
                    queries = search.SAMPLE_QUERIES if samples else ()
                    found = search.build(page, models, library, panel, visitors, queries)
        photo.connect_changes(panel, visitors)
        taken = connect_found(found, panel, tabs, visitors)
        caption_after(taken["caption"])
        page.load(None, None, None, js=photo.name_samples(sample_photos()), **QUIET)
        page.load(None, None, None, js=photo.offer_all_formats(), **QUIET)
        page.unload(visitors.leave)
    visitors.keep_ours()
    # Not past the queue: `run` would let programs have the model at once, beside those who wait.
    return page.queue(max_size=MAX_WAITING, api_open=False)


def connect_panel(panel: photo.PhotoPanel, tabs: gr.Tabs) -> None:
    """Let the buttons under the photo go to their tabs.

    Parameters
    ----------
    panel : PhotoPanel
        The photo.
    tabs : gr.Tabs
        Of the page.
    """
    for button, tab in (
        (panel.describe, "caption"),
        (panel.ask, "chat"),
        (panel.similar, "search"),
    ):
        button.click(None, None, tabs, js=_select(tab), **QUIET)
    panel.ask.click(None, None, None, js=FOCUS_QUESTION, **QUIET)


def connect_found(
    found: search.ResultActions, panel: photo.PhotoPanel, tabs: gr.Tabs, visitors: Visitors
) -> dict[str, Dependency]:
    """Let a photo that was found become the photo of the page.

    Parameters
    ----------
    found : ResultActions
        The photo, and its buttons.
    panel : PhotoPanel
        Takes the photo.
    tabs : gr.Tabs
        Of the page.
    visitors : Visitors
        Told of it.

    Returns
    -------
    dict
        By tab, the event after which its photo is there and the tab shown.
    """

    def take(request: gr.Request, chosen: Any) -> str:
        with sentences():
            visitor = visitors.of(request)
            visitor.photo = path = received_file(chosen)[0]
            return str(path)

    shown = {}
    for tab, button in (("caption", found.describe), ("chat", found.ask)):
        taken = button.click(take, found.chosen, panel.photo, preprocess=False, **QUIET)
        shown[tab] = taken.then(None, None, tabs, js=_select(tab), **QUIET)
    shown["chat"].then(None, None, None, js=FOCUS_QUESTION, **QUIET)
    return shown


def _select(tab: str) -> str:
    """JavaScript that goes to a tab."""
    return f"() => ({{__type__: 'update', selected: '{tab}'}})"
