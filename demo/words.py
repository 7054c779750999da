"""Words for the photo: given or written ones, ordered by how well they fit it."""

from typing import Any

import gradio as gr
import numpy as np

from blip2.errors import UserError
from blip2.read_text import UnreadableTextError
from demo.events import QUIET, RUNS_MODEL
from demo.failures import doubt_html, notice_html, sentences
from demo.models import Models
from demo.photo import PhotoPanel
from demo.ranking import ranking_html
from demo.uploads import open_received, received_text
from demo.visitors import Visitor, Visitors

MAX_TEXTS = 48


def build(models: Models, panel: PhotoPanel, visitors: Visitors) -> None:
    """Lay out the choice of words for the photo, and connect it.

    Parameters
    ----------
    models : Models
        What compares and writes.
    panel : PhotoPanel
        The photo.
    visitors : Visitors
        Told what was sent.
    """
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

    fit.click(best_captions, [panel.photo, lines], ranked, api_name="best_captions", **RUNS_MODEL)
    write.click(
        suggest_captions, panel.photo, lines, api_name="suggest_captions", **RUNS_MODEL
    ).then(best_captions, [panel.photo, lines], ranked, api_visibility="private", **RUNS_MODEL)
    panel.photo.change(
        None,
        None,
        ranked,
        js="() => ''",
        **QUIET,
    )


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
        The texts with their probabilities, best first, as HTML; where the model knows no word of
        one, a sentence instead.

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
        if len(texts) > MAX_TEXTS:
            raise UserError(f"These are {len(texts)} texts; give at most {MAX_TEXTS}.")
        path, _ = visitor.received(photo)
        try:
            ranked = best_texts(models.retriever, open_received(path), texts, rerank=True)
        except UnreadableTextError as error:  # in the place of the texts before
            return notice_html(str(error))
        _, similarity, match = zip(*ranked, strict=True)
        fits = joint_score(similarity, match, models.retriever.temperature)
        # Both parts of the joint score are logits, so these are probabilities: of each text, if
        # one of them belongs to the photo.
        odds = np.exp(fits - fits.max())
        shares = odds / odds.sum()
        notes = "".join(doubt_html(note) for note in ranked.notes)
        return notes + ranking_html(
            [
                (text, f"{share:.0%}", share)
                for (text, _, _), share in zip(ranked, shares, strict=True)
            ],
            "How likely each is the text of the photo, if one of them is, by similarity and "
            "matching together.",
        )
