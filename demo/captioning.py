"""The tab that describes a photo, with or without an instruction."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import gradio as gr

from demo.decoding import decoding_controls, read_decoding
from demo.models import MODEL_QUEUE, Models
from demo.uploads import photo_box, received_photo, received_text, sentences

if TYPE_CHECKING:
    from blip2 import Blip2

PRESETS = (
    "Describe this photo.",
    "Write a short caption.",
    "What does this photo show?",
)


def build(models: Models, samples: list[Path]) -> None:
    """Lay out the tab and connect it.

    Parameters
    ----------
    models : Models
        What answers.
    samples : list of Path
        Photos to offer.
    """
    with gr.Row(equal_height=False, elem_classes="halves"):
        with gr.Column(min_width=320):
            photo = photo_box(samples, "caption")
        with gr.Column(min_width=320):
            instruction = gr.Textbox(
                label="Instruction",
                placeholder="Leave empty for a plain caption, or say what you want to read",
                lines=2,
                max_lines=6,
                submit_btn=False,
                elem_id="caption-instruction",
            )
            with gr.Row(elem_classes="chips"):
                for preset in PRESETS:
                    chip = gr.Button(preset, size="sm", min_width=0, elem_classes="chip")
                    # In the browser alone: a chip answers at once even while the model is busy.
                    chip.click(
                        None, None, instruction, js=f"() => {preset!r}", api_visibility="private"
                    )
            run = gr.Button("Describe", variant="primary", elem_id="caption-run")
            text = gr.Textbox(
                label="What the model says",
                lines=3,
                interactive=False,
                buttons=["copy"],
                elem_id="caption-text",
                elem_classes="answer",
            )
            timing = gr.Markdown(elem_id="caption-timing", elem_classes="meta")
            with gr.Accordion("Decoding options", open=False, elem_id="caption-decoding"):
                options = decoding_controls()

    def caption(photo: Any, instruction: Any, *options: Any) -> Iterator[tuple[str, str]]:
        """Describe a photo, following an instruction if there is one."""
        yield from stream_caption(models.blip2, photo, instruction, *options)

    describing = gr.on(
        [run.click, instruction.submit],
        caption,
        [photo, instruction, *options],
        [text, timing],
        preprocess=False,
        show_progress="minimal",
        show_progress_on=text,
        api_name="caption",
        **MODEL_QUEUE,
    )
    photo.change(
        lambda: ("", ""),
        None,
        [text, timing],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
        cancels=[describing],  # the words still to come are about the photo before
    )


def stream_caption(
    blip2: "Blip2", photo: Any, instruction: Any, *options: Any
) -> Iterator[tuple[str, str]]:
    """Describe a photo piece by piece.

    Parameters
    ----------
    blip2 : Blip2
        The model.
    photo, instruction : Any
        What the visitor sent, raw.
    *options : Any
        Values of the decoding controls, see `read_decoding`.

    Yields
    ------
    str, str
        The text so far, and the time that it took.

    Raises
    ------
    gr.Error
        If the photo, the instruction or an option cannot be used.
    """
    with sentences():
        prompt = received_text(instruction, "instruction", default="")
        decoding = read_decoding(*options)
        picture = received_photo(photo)
        start = perf_counter()
        text, first = "", 0.0
        yield text, "Looking at the photo ..."
        with closing(blip2.stream(picture, prompt, **decoding)) as pieces:
            for piece in pieces:
                first = first or perf_counter() - start
                text += piece
                yield text.lstrip(), "Writing ..."
        text = text.strip()
        if not text:
            yield text, "The model found no words for this; try another instruction."
            return
        took = f"{perf_counter() - start:.1f} s, first word after {first:.1f} s"
        yield text, f"{took}, {len(text.split())} words"
