"""The tab that finds photos by words or by a photo: its components, and what they set off."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from blip2.display import one_line
from blip2.errors import UserError
from demo import adding, library_notes, words
from demo.events import QUIET, RUNS_MODEL
from demo.failures import sentences
from demo.finding import MAX_SHOWN, Filters, Items, find, find_similar, first_items, size_html
from demo.library import Library
from demo.models import Models
from demo.photo import PhotoPanel
from demo.visitors import Visitors

SHOWN = 12
SAMPLE_QUERIES = ("a cat", "a cup of coffee", "a motorcycle", "a wild animal")


def build(
    page: gr.Blocks,
    models: Models,
    library: Library,
    panel: PhotoPanel,
    visitors: Visitors,
    queries: tuple[str, ...] = (),
) -> "ResultActions":
    """Lay out the tab and connect it.

    Parameters
    ----------
    page : gr.Blocks
        The page around it.
    models : Models
        Their retriever searches.
    library : Library
        What is searched.
    panel : PhotoPanel
        The photo.
    visitors : Visitors
        Know who added what.
    queries : tuple of str
        Searches to offer.

    Returns
    -------
    ResultActions
        What can be done with a photo found.
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
        run = gr.Button("Search", variant="primary", min_width=96, elem_id="search-run")
    if queries:
        with gr.Row(elem_classes="chips"):
            chips = [
                gr.Button(query, size="sm", min_width=0, elem_classes="chip") for query in queries
            ]
    with gr.Row(elem_classes="settings"):
        count = gr.Slider(
            1,
            MAX_SHOWN,
            value=SHOWN,
            step=1,
            label="Photos to show",
            buttons=[],
            min_width=200,
            elem_id="search-k",
        )
        rerank = gr.Checkbox(
            label="Re-rank",
            info="Looks at the best candidates again: slower, finer",
            value=False,
            min_width=200,
            elem_id="search-rerank",
        )
    filters = filter_controls(library)
    status = gr.HTML(label="About the search", elem_id="search-status", elem_classes="meta")
    actions = result_actions()
    gallery = gr.Gallery(
        label="Photos",
        show_label=False,
        columns=4,
        height="auto",
        object_fit="cover",
        interactive=False,
        buttons=["fullscreen"],
        elem_id="search-gallery",
        elem_classes="photos",
    )

    # Names and defaults are those that programs see.
    def search(
        request: gr.Request,
        text: Any,
        count: Any = SHOWN,
        rerank: Any = False,
        name: Any = None,
        since: Any = None,
        until: Any = None,
        folder: Any = "",
        fold: Any = True,
    ) -> tuple[Items, str]:
        """Find the photos that a text describes."""
        filters = Filters(name, since, until, folder, fold)
        return find(library, visitors.of(request), text, count, rerank, filters)

    def similar(
        request: gr.Request,
        photo: Any,
        count: Any = SHOWN,
        name: Any = None,
        since: Any = None,
        until: Any = None,
        folder: Any = "",
        fold: Any = True,
    ) -> tuple[Items, str]:
        """Find the photos that are most like one."""
        filters = Filters(name, since, until, folder, fold)
        return find_similar(library, visitors.of(request), photo, count, filters)

    searching: dict[str, Any] = {
        "outputs": [gallery, status],
        **RUNS_MODEL,
    }
    asked = [text, count, rerank, *filters]
    runs = [gr.on([run.click, text.submit], search, asked, api_name="search", **searching)]
    if queries:
        for chip, query in zip(chips, queries, strict=True):
            runs.append(
                chip.click(None, None, text, js=f"() => {query!r}", api_visibility="private").then(
                    search, asked, api_visibility="private", **searching
                )
            )
    runs.append(
        panel.similar.click(
            similar, [panel.photo, count, *filters], api_name="similar", **searching
        )
    )
    runs.append(
        actions.similar.click(
            similar, [actions.chosen, count, *filters], api_visibility="private", **searching
        )
    )
    for event in runs:  # what was chosen among the photos before is no longer there
        event.then(
            lambda: (gr.Row(visible=False), None, gr.Gallery(selected_index=None)),
            None,
            [actions.row, actions.chosen, gallery],
            **QUIET,
        )
    connect_choice(library, gallery, actions)
    library_notes.build(page, library, visitors, gallery, status)
    with gr.Accordion("Which words fit the photo?", open=False, elem_id="search-words"):
        words.build(models, panel, visitors)
    with gr.Accordion("Add photos", open=False, elem_id="search-add"):
        adding.build(library, visitors, gallery, status)

    def begin() -> tuple[Items, str]:
        return first_items(library), size_html(library)

    # Whenever a page is opened: the library grows, and old thumbnails are cleared away.
    page.load(
        begin,
        None,
        [gallery, status],
        **QUIET,
    )
    return actions


def filter_controls(library: Library) -> list[gr.components.Component]:
    """Lay out the filters, in the order of `Filters`."""
    folders = library.folders()
    with gr.Accordion("Filters", open=False, elem_id="search-filters"):
        with gr.Row(elem_classes=["options", "filters"]):
            name = gr.Textbox(
                label="File name",
                info="* stands for anything",
                placeholder="IMG_*",
                max_lines=1,
                min_width=160,
                elem_id="search-name",
            )
            since = gr.Textbox(
                label="From",
                info="Last change of the file",
                placeholder="2024-01-31",
                max_lines=1,
                min_width=120,
                elem_id="search-since",
            )
            until = gr.Textbox(
                label="To",
                info="This day included",
                placeholder="2024-12-31",
                max_lines=1,
                min_width=120,
                elem_id="search-until",
            )
            folder = gr.Dropdown(
                [("All folders", ""), *((name, name) for name in folders)],
                value="",
                label="Folder",
                info="Of the library",
                min_width=160,
                visible=bool(folders),
                elem_id="search-folder",
            )
        fold = gr.Checkbox(
            label="Fold near-duplicates",
            info="Shows photos that are nearly the same as one",
            value=True,
            elem_id="search-fold",
        )
    return [name, since, until, folder, fold]


@dataclass(frozen=True)
class ResultActions:
    """What can be done with a photo that was found and chosen.

    Parameters
    ----------
    row : gr.Row
        Shown once one is chosen.
    name : gr.HTML
        Its name.
    chosen : gr.State
        The photo; its value goes where the raw one of an uploaded photo does.
    describe, ask, similar : gr.Button
        As those of `demo.photo.PhotoPanel`.
    """

    row: gr.Row
    name: gr.HTML
    chosen: gr.State
    describe: gr.Button
    ask: gr.Button
    similar: gr.Button


def result_actions() -> ResultActions:
    """Lay out the buttons for a chosen photo."""
    chosen = gr.State(None)
    with gr.Row(visible=False, elem_classes="chosen", elem_id="search-chosen") as row:
        name = gr.HTML(elem_classes="meta", elem_id="search-chosen-name")
        describe = gr.Button("Caption it", size="sm", min_width=0, elem_id="chosen-caption")
        ask = gr.Button("Chat about it", size="sm", min_width=0, elem_id="chosen-chat")
        similar = gr.Button("Find similar", size="sm", min_width=0, elem_id="chosen-similar")
    return ResultActions(row, name, chosen, describe, ask, similar)


def connect_choice(library: Library, gallery: gr.Gallery, actions: ResultActions) -> None:
    """Show the buttons once a photo of the gallery is chosen."""

    def choose(event: gr.SelectData) -> tuple[gr.Row, str, dict[str, str]]:
        """Take a photo of the gallery."""
        with sentences():
            shown, name = chosen_photo(library, event.value)
            return gr.Row(visible=True), f"<p>{html.escape(name)}</p>", {"path": str(shown)}

    gallery.select(
        choose,
        None,
        [actions.row, actions.name, actions.chosen],
        **QUIET,
    )


def chosen_photo(library: Library, value: Any) -> tuple[Path, str]:
    """Return the thumbnail and the displayed name of a photo that was chosen in the gallery.

    Parameters
    ----------
    library : Library
        Knows its thumbnails: a path from outside is never passed on.
    value : Any
        Of the gallery's event, raw.

    Raises
    ------
    UserError
        If it is no photo of the library.
    """
    image = value.get("image") if isinstance(value, dict) else None
    path = image.get("path") if isinstance(image, dict) else None
    thumbnail = library.thumbnail_named(Path(path).name) if isinstance(path, str) else None
    if thumbnail is None:
        raise UserError("This photo is no longer here; search again.")
    return thumbnail, one_line(library.original(thumbnail).name)
