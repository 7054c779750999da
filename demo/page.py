"""The page: a heading and a tab for each thing that it can do."""

import html

import gradio as gr

from demo import captioning, chat, search
from demo.library import Library, sample_photos
from demo.models import Models

TITLE = "BLIP-2"
# Seconds between cleanings, and how old a visitor's file may become.
DELETE_CACHE = (600, 2 * 3600)
MAX_WAITING = 64  # requests in the queue; further ones are told that the page is busy


def build_page(models: Models, library: Library, samples: bool) -> gr.Blocks:
    """Lay out the whole page.

    Parameters
    ----------
    models : Models
        What answers.
    library : Library
        What is searched.
    samples : bool
        Whether the library is made of the sample photos, so that searches for them are offered.

    Returns
    -------
    gr.Blocks
        To be launched.
    """
    photos = sample_photos()
    with gr.Blocks(title=TITLE, delete_cache=DELETE_CACHE) as page:
        gr.HTML(
            f"<h1>{TITLE}</h1><p>Describe a photo, ask about it, find it again.</p>"
            f'<p class="running">{html.escape(models.describe())}</p>',
            elem_id="masthead",
        )
        with gr.Tabs():
            with gr.Tab("Caption", id="caption"):
                captioning.build(models, photos)
            with gr.Tab("Chat", id="chat"):
                chat.build(models, photos)
            with gr.Tab("Search", id="search"):
                search.build(library, search.SAMPLE_QUERIES if samples else ())
    return page.queue(max_size=MAX_WAITING)
