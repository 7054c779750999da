"""The tab that describes a photo, with or without an instruction."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.events import Dependency

from demo.decoding import GREEDY, OPTIONS, decoding_controls, read_decoding
from demo.events import QUIET, RUNS_MODEL
from demo.failures import sentences
from demo.kept import KeptTexts
from demo.models import Models
from demo.photo import PhotoPanel
from demo.ranking import ranking_html
from demo.stopping import stoppable, stopped_by
from demo.uploads import open_received, received_text
from demo.visitors import Visitor, Visitors

if TYPE_CHECKING:
    from blip2 import Blip2

Step = tuple[str, str, str]


def presets(blip2: "Blip2") -> dict[str, str]:
    """Return instructions to click, by what they ask for, in the form that the model knows."""
    question = blip2.question_form.format("What is in this photo?")
    continued = "A photo of" if blip2.question_form != "{}" else "Complete: this is a photo of"
    return {
        "Short caption": "Write a short caption.",
        "In detail": "Describe this photo in detail.",
        "A question": question,
        "Continue a sentence": continued,
    }


def build(
    models: Models, panel: PhotoPanel, visitors: Visitors, kept: KeptTexts
) -> Callable[[Dependency], None]:
    """Lay out the tab and connect it.

    Parameters
    ----------
    models : Models
        What answers.
    panel : PhotoPanel
        The photo.
    visitors : Visitors
        Know which photo is before whom.
    kept : KeptTexts
        Captions that were written before.

    Returns
    -------
    callable
        Has the photo captioned after an event.
    """
    photo = panel.photo
    instruction = gr.Textbox(
        label="Instruction",
        placeholder="Leave empty for a plain caption, or say what you want to read",
        lines=1,
        max_lines=6,
        submit_btn=False,
        elem_id="caption-instruction",
    )
    with gr.Row(elem_classes="chips"):
        for label, preset in presets(models.blip2).items():
            chip = gr.Button(label, size="sm", min_width=0, elem_classes="chip")
            # In the browser alone: a chip answers at once even while the model is busy.
            chip.click(None, None, instruction, js=f"() => {preset!r}", api_visibility="private")
    with gr.Row(elem_classes="ask-row"):
        run = gr.Button("Describe", variant="primary", scale=6, elem_id="caption-run")
        stop = gr.Button("Stop", min_width=84, interactive=False, elem_id="caption-stop")
    text = gr.Textbox(
        label="What the model says",
        lines=3,
        interactive=False,
        buttons=["copy"],
        elem_id="caption-text",
        elem_classes="answer",
    )
    status = gr.Markdown(label="About it", elem_id="caption-timing", elem_classes="meta")
    candidates = gr.HTML(
        label="All candidates", elem_id="caption-candidates", elem_classes="candidates"
    )
    with gr.Accordion("Decoding options", open=False, elem_id="caption-decoding"):
        options = decoding_controls()
    with gr.Accordion("Where it looked", open=False, elem_id="caption-looked"):
        gr.HTML(
            "<p>How much of each part of the photo the queries of the Q-Former took in; each "
            "picture has a contrast of its own.</p>",
            elem_classes="meta",
        )
        heat = gr.Gallery(
            label="Where it looked",
            show_label=False,
            columns=3,
            height="auto",
            object_fit="contain",
            interactive=False,
            buttons=["fullscreen"],
            elem_id="caption-heat",
            elem_classes="photos",
        )
        look = gr.Button("Show where it looked", size="sm", elem_id="caption-look")

    # Names and defaults are those that programs see.
    def caption(
        request: gr.Request,
        photo: Any,
        instruction: Any = None,
        strategy: Any = GREEDY,
        candidates: Any = OPTIONS["candidates"].default,
        num_beams: Any = OPTIONS["num_beams"].default,
        temperature: Any = OPTIONS["temperature"].default,
        top_p: Any = OPTIONS["top_p"].default,
        min_new_tokens: Any = OPTIONS["min_new_tokens"].default,
        max_new_tokens: Any = OPTIONS["max_new_tokens"].default,
        length_penalty: Any = OPTIONS["length_penalty"].default,
        repetition_penalty: Any = OPTIONS["repetition_penalty"].default,
    ) -> Iterator[Step]:
        """Describe a photo, following an instruction if there is one."""
        options = (
            strategy,
            candidates,
            num_beams,
            temperature,
            top_p,
            min_new_tokens,
            max_new_tokens,
            length_penalty,
            repetition_penalty,
        )
        visitor = visitors.of(request)
        yield from stream_caption(models.blip2, visitor, kept, photo, instruction, *options)

    describing: dict[str, Any] = {
        "fn": caption,
        "inputs": [photo, instruction, *options],
        "outputs": [text, status, candidates],
        "show_progress_on": text,
        **RUNS_MODEL,
    }
    started = [run.click, instruction.submit, panel.describe.click]
    with stopped_by(stop, started) as running:
        running.append(gr.on(started, api_name="caption", **describing))

    stop.click(None, None, status, js="() => 'Stopped.'", queue=False, api_visibility="private")

    def caption_after(event: Dependency) -> None:
        with stopped_by(stop, [event.then]) as running:
            running.append(event.then(api_visibility="private", **describing))

    def where_it_looked(
        request: gr.Request, photo: Any, instruction: Any = None
    ) -> list[tuple[str, str]]:
        """Show where the queries looked, as pictures."""
        return look_at(models.blip2, visitors.of(request), photo, instruction)

    look.click(
        where_it_looked,
        [photo, instruction],
        heat,
        api_name="attention",
        **RUNS_MODEL,
    )
    # In the browser alone, so that it comes before the first words about the new photo.
    photo.change(
        None,
        None,
        [text, status, candidates, heat],
        js="() => ['', '', '', []]",
        **QUIET,
    )
    return caption_after


def stream_caption(
    blip2: "Blip2",
    visitor: Visitor,
    kept: KeptTexts,
    photo: Any,
    instruction: Any,
    *options: Any,
) -> Iterator[Step]:
    """Describe a photo piece by piece.

    Parameters
    ----------
    blip2 : Blip2
        The model.
    visitor : Visitor
        Once they have another photo, the words about this one end.
    kept : KeptTexts
        Looked into first, where the text does not depend on chance.
    photo, instruction : Any
        What the visitor sent, raw.
    *options : Any
        Values of the decoding controls, see `read_decoding`.

    Yields
    ------
    str, str, str
        The text so far, a line about it, and, where several were asked for, all of them as HTML.

    Raises
    ------
    gr.Error
        If the photo, the instruction or an option cannot be used.
    """
    with sentences():
        prompt = received_text(instruction, "instruction", default="")
        number, decoding = read_decoding(*options)
        path, _ = visitor.received(photo)
        if not visitor.comes_to(path):
            yield "", "", ""
            return
        start = perf_counter()
        key = kept.key(path, prompt, decoding) if number == 1 else None
        if (text := kept.get(key)) is not None:
            yield text, f"{word_count(text)}, written before", ""
            return
        picture = open_received(path)
        yield "", "Looking at the photo ...", ""
        if number > 1:
            writing = partial(blip2.candidates, picture, prompt, number, **decoding)
            with closing(stoppable(writing)) as working:
                for found in working:  # noqa: B007
                    if not visitor.wants(path):
                        yield "", "", ""
                        return
                    yield "", f"Writing {number} candidates, {perf_counter() - start:.0f} s ...", ""
            took = f"{perf_counter() - start:.1f} s"
            best = found[0][0]
            yield best, f"{took}, the best of {len(found)}", candidates_html(found, decoding)
            return
        text, first = "", 0.0
        with closing(blip2.stream(picture, prompt, **decoding)) as pieces:
            for piece in pieces:
                if not visitor.wants(path):
                    yield "", "", ""
                    return
                if not piece:  # a sign of life; passed on, so that the page can stop here
                    yield "", f"Following the beams, {perf_counter() - start:.0f} s ...", ""
                    continue
                first = first or perf_counter() - start
                text += piece
                yield text.lstrip(), "Writing ...", ""
        text = text.strip()
        if not text:
            yield text, "The model found no words for this; try another instruction.", ""
            return
        kept.keep(key, text)
        took = f"{perf_counter() - start:.1f} s, first word after {first:.1f} s"
        yield text, f"{took}, {word_count(text)}", ""


def word_count(text: str) -> str:
    """Return how many words a text has, in words."""
    count = len(text.split())
    return f"{count} word{'s' * (count != 1)}"


def candidates_html(found: list[tuple[str, float]], decoding: dict[str, Any]) -> str:
    """Return several texts with their scores, as HTML; bars compare them with the best.

    Parameters
    ----------
    found : list of (str, float)
        Texts with their scores, the best first; see `blip2.Blip2.candidates`.
    decoding : dict
        How they were decoded.
    """
    meaning = "log-probability of a token, on average"
    if decoding.get("num_beams"):
        meaning = "score of the beam, of a plain description with its likeness to the photo"
    best = found[0][1]
    rows = [(text, f"{score:.2f}", math.exp(min(0.0, score - best))) for text, score in found]
    return ranking_html(rows, f"Scores: {meaning}; nearer to 0 is likelier.")


def look_at(
    blip2: "Blip2", visitor: Visitor, photo: Any, instruction: Any
) -> list[tuple[str, str]]:
    """Draw where the queries looked.

    Parameters
    ----------
    blip2 : Blip2
        The model.
    visitor : Visitor
        The pictures go with them.
    photo, instruction : Any
        What the visitor sent, raw.

    Returns
    -------
    list of (str, str)
        Files of the pictures, and what each shows; see `demo.heat.heat_maps`.

    Raises
    ------
    gr.Error
        If the photo or the instruction cannot be used.
    """
    from demo.heat import heat_maps

    with sentences():
        prompt = received_text(instruction, "instruction", default="")
        path, _ = visitor.received(photo)
        drawn, place = heat_maps(blip2, open_received(path), prompt), visitor.place()
        files = [place / f"{number}.jpg" for number in range(len(drawn))]
        for file, (picture, _) in zip(files, drawn, strict=True):
            picture.save(file, quality=90)
        return [(str(file), name) for file, (_, name) in zip(files, drawn, strict=True)]


def caption_samples(blip2: "Blip2", kept: KeptTexts, samples: list[Path]) -> None:
    """Write plain captions of the samples, so that their visitors need not wait.

    Parameters
    ----------
    blip2 : Blip2
        The model.
    kept : KeptTexts
        Keeps them.
    samples : list of Path
        Photos that the page offers.
    """
    _, decoding = read_decoding(GREEDY, *(option.default for option in OPTIONS.values()))
    for sample in samples:
        key = kept.key(sample, "", decoding)
        if kept.get(key) is None:
            kept.keep(key, "".join(blip2.stream(open_received(sample), "", **decoding)).strip())
