"""What visitors send: opened here and nowhere else, and refused in one sentence.

The events of the page take their inputs raw (``preprocess=False``): Gradio's own opening of a photo
knows no pixel limit and no list of formats, and fails without a sentence. It has checked by then
that a path leads into its upload folder.
"""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from blip2.errors import UserError
from blip2.processing import FORMATS, clean_text, open_photo

MAX_UPLOAD = "25mb"  # of one file; enforced while it is received
_SHOWN_BY_BROWSERS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "MPO")


@contextmanager
def sentences() -> Iterator[None]:
    """Show the visitor the sentence of a `UserError`.

    A failure of ours is told as such, with its traceback on the terminal and not in the page.
    """
    try:
        yield
    except UserError as error:
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from error
    except Exception as error:
        raise gr.Error("This failed inside the app; its terminal says why.") from error


def received_file(upload: Any) -> tuple[Path, str]:
    """Find a file that a visitor sent.

    Parameters
    ----------
    upload : Any
        The raw value of an image or file component.

    Returns
    -------
    Path, str
        Where it lies, and the name that it had with the visitor, without any folder.

    Raises
    ------
    UserError
        If there is none, or if it came as text within the request instead of as a file.
    """
    if not upload:
        raise UserError("There is no photo yet; choose one first.")
    path = upload.get("path") if isinstance(upload, dict) else None
    if not path:
        raise UserError("The photo did not come as a file; upload it as a file.")
    name = Path(str(upload.get("orig_name") or path).replace("\\", "/")).name
    return Path(path), name


def received_photo(upload: Any) -> Image.Image:
    """Open a photo that a visitor sent.

    Parameters
    ----------
    upload : Any
        The raw value of an image component.

    Returns
    -------
    PIL.Image.Image
        As `blip2.processing.open_photo` returns it.

    Raises
    ------
    UserError
        If there is none or it cannot be used; the sentence names no path of the server.
    """
    return open_received(received_file(upload)[0])


def open_received(path: Path) -> Image.Image:
    """Open a received file as a photo; errors say "the given photo", not where it lies."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise UserError("The photo is no longer here; upload it again.") from None
    with file:
        return open_photo(file)


def received_text(text: Any, what: str, default: str | None = None) -> str:
    """Clean a text that a visitor wrote.

    Parameters
    ----------
    text : Any
        The raw value of a text box.
    what : str
        How the text is called in an error.
    default : str, optional
        Stands in for an empty text.

    Returns
    -------
    str

    Raises
    ------
    UserError
        If it is no text, empty without a default, or too long.
    """
    if not isinstance(text, str | None):
        raise UserError(f"The {what} is not a text; write a few words.")
    return clean_text(text or "", what, default)


def photo_box(samples: list[Path], name: str) -> gr.Image:
    """Lay out a box for a photo, samples to try, and a line that says why one was refused.

    Parameters
    ----------
    samples : list of Path
        Photos to offer.
    name : str
        Of the tab; makes the ids of its elements, such as ``caption-photo``.

    Returns
    -------
    gr.Image
        Its raw value goes to `received_photo`.
    """
    photo = gr.Image(
        type="filepath",
        image_mode=None,
        label="Photo",
        show_label=False,
        sources=["upload", "webcam", "clipboard"],
        height=380,
        buttons=["fullscreen"],
        placeholder="Drop a photo here\nor click to choose one",
        elem_id=f"{name}-photo",
        elem_classes="photo-box",
    )
    notice = gr.HTML(visible=False, elem_id=f"{name}-notice", elem_classes="notice")
    # Refused on arrival: nobody should write a question first to learn that the photo is damaged.
    photo.upload(
        check_photo,
        photo,
        [photo, notice],
        preprocess=False,
        show_progress="hidden",
        api_visibility="private",
    )
    if samples:
        gr.Examples(
            [[str(sample)] for sample in samples],
            photo,
            label="Or try one of these",
            examples_per_page=len(samples),
            elem_id=f"{name}-samples",
        )
        photo.change(
            lambda upload: gr.HTML(visible=False) if upload else gr.skip(),
            photo,
            notice,
            preprocess=False,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
    return photo


def check_photo(upload: Any) -> tuple[Any, gr.HTML]:
    """Look at a photo as it arrives.

    Parameters
    ----------
    upload : Any
        The raw value of an image component.

    Returns
    -------
    Any, gr.HTML
        What the image component shows from now on: the same photo, a copy where browsers cannot
        show the original, or none where it is refused; and the notice that says why.
    """
    try:
        path, name = received_file(upload)
        photo = open_received(path)
    except UserError as error:
        return None, gr.HTML(notice_html(str(error)), visible=True)
    with Image.open(path, formats=FORMATS) as header:
        shown = header.format in _SHOWN_BY_BROWSERS
    if shown:
        return gr.skip(), gr.HTML(visible=False)
    copy = path.with_name(f"{Path(name).stem[:60]}-shown.png")
    photo.save(copy)
    return str(copy), gr.HTML(visible=False)


def notice_html(sentence: str) -> str:
    """Return a sentence as a notice; whatever it quotes stays text."""
    return f'<p role="alert">{html.escape(sentence)}</p>'
