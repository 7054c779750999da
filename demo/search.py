"""The tab that finds photos by words or by a photo, and words for a photo."""

import html
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import gradio as gr
import numpy as np

from blip2.errors import UserError
from demo.adding import MAX_FILES, add_photos
from demo.failures import notice_html, sentences
from demo.library import Found, Library, Shown
from demo.models import MODEL_QUEUE, Models
from demo.photo import PhotoPanel
from demo.uploads import open_received, received_number, received_text
from demo.visitors import Visitor, Visitors

MAX_SHOWN = 48
SHOWN = 12
SAMPLE_QUERIES = ("a cat", "a cup of coffee", "a motorcycle", "a wild animal")
Items = list[tuple[str, str]]
_PROGRESS = gr.Progress()


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
        "preprocess": False,
        "show_progress": "minimal",
        "trigger_mode": "once",
        **MODEL_QUEUE,
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
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
    connect_choice(library, gallery, actions)
    with gr.Accordion("Which words fit the photo?", open=False, elem_id="search-words"):
        build_words(models, panel, visitors)
    with gr.Accordion("Add photos", open=False, elem_id="search-add"):
        build_adding(library, visitors, gallery, status)

    def begin() -> tuple[Items, str]:
        return first_items(library), size_html(library)

    # Whenever a page is opened: the library grows, and old thumbnails are cleared away.
    page.load(
        begin,
        None,
        [gallery, status],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
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
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )


def chosen_photo(library: Library, value: Any) -> tuple[Path, str]:
    """Return the thumbnail and the name of a photo that was chosen in the gallery.

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
    return thumbnail, library.original(thumbnail).name


def build_words(models: Models, panel: PhotoPanel, visitors: Visitors) -> None:
    """Lay out the choice of words for the photo."""
    lines = gr.Textbox(
        label="Texts, one a line",
        placeholder="a cat on a sofa\na dog in the snow\nan empty street at night",
        lines=4,
        max_lines=12,
        elem_id="words-lines",
    )
    with gr.Row(elem_classes="pair"):
        fit = gr.Button("Order them by how well they fit", elem_id="words-run")
        write = gr.Button("Let the model write some", elem_id="words-write")
    ranked = gr.HTML(label="Texts, best first", elem_id="words-ranked", elem_classes="candidates")

    def best_captions(request: gr.Request, photo: Any, lines: Any) -> str:
        """Order texts by how well they describe a photo, best first, with probabilities."""
        return order_words(models, visitors.of(request), photo, lines)

    def suggest_captions(request: gr.Request, photo: Any) -> str:
        """Write captions of a photo, one a line."""
        with sentences():
            path, _ = visitors.of(request).received(photo)
            found = models.blip2.candidates(open_received(path), "", 5, num_beams=5)
            return "\n".join(dict.fromkeys(text for text, _ in found))

    running: dict[str, Any] = {
        "preprocess": False,
        "show_progress": "minimal",
        "trigger_mode": "once",
        **MODEL_QUEUE,
    }
    fit.click(best_captions, [panel.photo, lines], ranked, api_name="best_captions", **running)
    write.click(suggest_captions, panel.photo, lines, api_name="suggest_captions", **running).then(
        best_captions, [panel.photo, lines], ranked, api_visibility="private", **running
    )
    panel.photo.change(
        None,
        None,
        ranked,
        js="() => ''",
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )


def build_adding(
    library: Library, visitors: Visitors, gallery: gr.Gallery, status: gr.HTML
) -> None:
    """Lay out the box for new photos."""
    files = gr.File(
        label="Photos to add", file_count="multiple", height=140, elem_id="search-files"
    )
    where = (
        "Only you can find them, and they are deleted when you close the page."
        if visitors.private
        else "They stay in the library of this computer."
    )
    report = gr.HTML(
        f"<p>JPEG, PNG, WebP, GIF, BMP or TIFF, at most {MAX_FILES} at once. {where}</p>",
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
        Thumbnails with captions for the gallery, and a line about the search.

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
        found = library.search(
            words,
            wanted,
            bool(rerank),
            where=where,
            visit=visitor.uploads,
            fold=bool(filters.fold),
        )
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


def order_words(models: Models, visitor: Visitor, photo: Any, lines: Any) -> str:
    """Order texts by how well they describe a photo.

    Parameters
    ----------
    models : Models
        Their retriever compares.
    visitor : Visitor
        Who asks.
    photo, lines : Any
        What the visitor sent, raw; a text a line.

    Returns
    -------
    str
        The texts with their probabilities, best first, as HTML.

    Raises
    ------
    gr.Error
        If there is no photo or no text, or there are too many.
    """
    from blip2.retrieval import joint_score
    from index import best_texts

    with sentences():
        texts = list(dict.fromkeys(received_text(lines, "list of texts").splitlines()))
        texts = [text.strip() for text in texts if text.strip()]
        if len(texts) > MAX_SHOWN:
            raise UserError(f"These are {len(texts)} texts; give at most {MAX_SHOWN}.")
        path, _ = visitor.received(photo)
        ranked = best_texts(models.retriever, open_received(path), texts, rerank=True)
        _, similarity, match = zip(*ranked, strict=True)
        fits = joint_score(similarity, match, models.retriever.temperature)
        # Both parts of the joint score are logits, so these are probabilities: of each text, if
        # one of them belongs to the photo.
        shares = np.exp(fits - fits.max()) / np.exp(fits - fits.max()).sum()
        rows = "".join(
            f'<li><span class="text">{html.escape(text)}</span>'
            f'<span class="score">{share:.0%}</span>'
            f'<span class="bar" style="width:{share:.0%}"></span></li>'
            for (text, _, _), share in zip(ranked, shares, strict=True)
        )
        return (
            f"<ol>{rows}</ol><p>How likely each is the text of the photo, if one of them is, by "
            "similarity and matching together.</p>"
        )


def gallery_items(found: Found) -> Items:
    """Return what was found in the form that `gr.Gallery` shows."""
    return [(str(shown.thumbnail), caption(shown)) for shown in found.shown]


def caption(shown: Shown) -> str:
    """Return what stands under a photo in the gallery."""
    score = f"{shown.hit.score:.3f}"
    if shown.hit.match is not None:
        score = f"{shown.hit.match:.0%} match"
    alike = f", {len(shown.alike)} more like it" if shown.alike else ""
    return f"{score}{alike} · {shown.name}"  # the name last: a long one is cut


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
    if not found.shown and not found.lost and filtered:
        return notice_html("No photo passes the filters; loosen or clear them.")
    line = f"<p>Best {len(found.shown)} of {size:,} photos {about}, found in {took:.2f} s</p>"
    if found.poor:
        line += (
            '<p class="doubt" role="status">No good match: the model doubts that any photo here '
            "shows this. These come nearest.</p>"
        )
    if not found.lost:
        return line
    names = ", ".join(found.lost[:5]) + (" and others" if len(found.lost) > 5 else "")
    verb = "was" if len(found.lost) == 1 else "were"
    return line + notice_html(
        f"{names} matched too but {verb} deleted or damaged since the library was made."
    )


def first_items(library: Library, visitor: Visitor | None = None) -> Items:
    """Return the photos that are shown before a search."""
    first = library.first(visitor.uploads if visitor else None)
    return [(str(path), name) for path, name in first]


def size_html(library: Library, visitor: Visitor | None = None) -> str:
    """Return the line about the library."""
    size = library.size(visitor.uploads if visitor else None)
    return f"<p>{size:,} photo{'s' * (size != 1)} in the library</p>"
