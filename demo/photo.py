"""The photo that all tabs share: chosen once, then captioned, asked about and searched with."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from blip2.errors import UserError
from blip2.processing import SUFFIXES
from demo.events import QUIET
from demo.failures import notice_html
from demo.uploads import open_received, received_file
from demo.visitors import Visitors

_SHOWN_BY_BROWSERS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "MPO")


@dataclass(frozen=True)
class PhotoPanel:
    """The photo, and what can be done with it in one click.

    Parameters
    ----------
    photo : gr.Image
        Its raw value goes to `demo.visitors.Visitor.received`.
    notice : gr.HTML
        Says why a photo was refused.
    describe, ask, similar : gr.Button
        Each goes to its tab; `describe` and `similar` also run there.
    """

    photo: gr.Image
    notice: gr.HTML
    describe: gr.Button
    ask: gr.Button
    similar: gr.Button


def build(samples: list[Path], visitors: Visitors) -> PhotoPanel:
    """Lay out the photo, its buttons, samples to try, and a line that says why one was refused.

    Parameters
    ----------
    samples : list of Path
        Photos to offer.
    visitors : Visitors
        Told which photo is before whom.

    Returns
    -------
    PhotoPanel
    """
    photo = gr.Image(
        type="filepath",
        image_mode=None,
        label="Photo",
        show_label=False,
        sources=["upload", "webcam", "clipboard"],
        height=360,
        buttons=["fullscreen"],
        placeholder="Drop a photo here, paste it,\nor click to choose one",
        elem_id="photo",
        elem_classes="photo-box",
    )
    notice = gr.HTML(visible=False, elem_id="photo-notice", elem_classes="notice")
    with gr.Row(elem_classes="deeds"):
        describe = gr.Button("Caption it", size="md", min_width=80, elem_id="photo-caption")
        ask = gr.Button("Chat about it", size="md", min_width=80, elem_id="photo-chat")
        similar = gr.Button("Find similar", size="md", min_width=80, elem_id="photo-similar")
    if samples:
        gr.Examples(
            [[str(sample)] for sample in samples],
            photo,
            label="Or try one of these",
            examples_per_page=len(samples),
            elem_id="photo-samples",
        )

    def received(upload: Any, request: gr.Request) -> tuple[Any, gr.HTML]:
        """Look at a photo as it arrives."""
        return check_photo(upload, request, visitors)

    # Refused on arrival: nobody should write a question first to learn that the photo is damaged.
    photo.upload(
        received,
        photo,
        [photo, notice],
        preprocess=False,
        **QUIET,
    )
    return PhotoPanel(photo, notice, describe, ask, similar)


def connect_changes(panel: PhotoPanel, visitors: Visitors) -> None:
    """Note which photo is in the page whenever it changes.

    To be called after the tabs have said what they do then, which the page does first, in order.

    Parameters
    ----------
    panel : PhotoPanel
        The photo.
    visitors : Visitors
        Told of it.
    """

    def changed(upload: Any, request: gr.Request) -> Any:
        note_photo(upload, request, visitors)
        return notice_of(upload) if upload else gr.skip()

    panel.photo.change(
        changed,
        panel.photo,
        panel.notice,
        preprocess=False,
        **QUIET,
    )


def name_samples(samples: list[Path]) -> str:
    """Return JavaScript that gives each sample a name, for those who do not see it.

    Gradio shows the pictures in buttons without any, and shows them again when they change.

    Parameters
    ----------
    samples : list of Path
        As they are offered.
    """
    names = json.dumps([sample.stem.replace("_", " ") for sample in samples])
    return f"""() => {{
      const names = {names};
      const name = () => document.querySelectorAll('#photo-samples .gallery-item').forEach(
        (button, i) => button.getAttribute('aria-label') === `Sample: ${{names[i]}}`
          || button.setAttribute('aria-label', `Sample: ${{names[i]}}`));
      name();
      new MutationObserver(name).observe(document.body, {{childList: true, subtree: true}});
    }}"""


def offer_all_formats() -> str:
    """Return JavaScript that lets the page's photo be of every format that is read.

    Gradio asks for ``image/*``, and refuses what the browser gives no such type: HEIC, in most.
    """
    suffixes = sorted(SUFFIXES)
    return f"""() => {{
      const suffixes = {json.dumps(suffixes)};
      const type = Object.getOwnPropertyDescriptor(Blob.prototype, 'type').get;
      Object.defineProperty(File.prototype, 'type', {{configurable: true, get() {{
        const told = type.call(this), name = this.name.toLowerCase();
        const known = suffixes.find((suffix) => name.endsWith(suffix));
        return told.startsWith('image/') || !known ? told : 'image/' + known.slice(1);
      }}}});
      document.addEventListener('click', ({{target}}) => {{
        if (target.matches?.('#photo input[type=file]'))
          target.accept = ['image/*', ...suffixes].join();
      }}, true);
    }}"""


def check_photo(upload: Any, request: gr.Request, visitors: Visitors) -> tuple[Any, gr.HTML]:
    """Look at a photo as it arrives.

    Parameters
    ----------
    upload : Any
        The raw value of an image component.
    request : gr.Request
        Who sent it.
    visitors : Visitors
        Told of the file, so that it goes with its visitor.

    Returns
    -------
    Any, gr.HTML
        What the image component shows from now on: the same photo, a copy where browsers cannot
        show the original, or none where it is refused; and the notice that says why.
    """
    try:
        path, _ = visitors.of(request).received(upload)
        photo = open_received(path)
    except UserError as error:
        return None, gr.HTML(notice_html(str(error)), visible=True)
    if photo.info["format"] in _SHOWN_BY_BROWSERS:
        return gr.skip(), gr.HTML(visible=False)
    copy = path.with_name(f"{path.stem[:60]}-shown.jpg")
    photo.save(copy, "JPEG", quality=95, subsampling=0)
    return str(copy), gr.HTML(visible=False)


def notice_of(upload: Any) -> gr.HTML:
    """Return what is to be said of a photo, as :func:`check_photo` says it.

    A photo that arrives is a change of the page's photo, too. Both events are answered in any
    order, so neither may hide what the other says.

    Parameters
    ----------
    upload : Any
        The raw value of an image component.
    """
    try:
        open_received(received_file(upload)[0])
    except UserError as error:
        return gr.HTML(notice_html(str(error)), visible=True)
    return gr.HTML(visible=False)


def note_photo(upload: Any, request: gr.Request, visitors: Visitors) -> None:
    """Note which photo is in a visitor's page, so that words about the one before end.

    Parameters
    ----------
    upload : Any
        The raw value of an image component.
    request : gr.Request
        Whose page it is.
    visitors : Visitors
        Told of it.
    """
    visitor = visitors.of(request)
    try:
        visitor.photo = received_file(upload)[0]
    except UserError:  # none, or one that is refused on its own
        visitor.photo = Path()
