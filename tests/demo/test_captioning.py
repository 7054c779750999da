import io
from itertools import pairwise

import gradio as gr
import pytest
from PIL import Image

from demo.captioning import stream_caption
from demo.decoding import BEAM, GREEDY

PLAIN = (GREEDY, 5, 1.0, 0.9, 30, 1.0)


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def huge() -> bytes:
    """A PNG header that claims 20,000 x 20,000 pixels."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


def test_the_text_grows_and_ends_with_the_time(blip2, sent):
    steps = list(stream_caption(blip2, sent("sky.png", "blue"), " Be brief. ", *PLAIN))
    texts = [text for text, _ in steps]
    assert texts[-1] == "a blue picture: Be brief."
    assert all(later.startswith(earlier.strip()) for earlier, later in pairwise(texts))
    assert "a blue" in texts[:-1], "the text is not shown while it is written"
    assert steps[-1][1].endswith("5 words")
    assert "first word after" in steps[-1][1]


def test_decoding_options_reach_the_model(blip2, sent):
    list(stream_caption(blip2, sent("a.png"), "Look.", BEAM, 7, 1.0, 0.9, 42, 1.2))
    decoding = {"num_beams": 7, "max_new_tokens": 42, "repetition_penalty": 1.2}
    assert blip2.calls == [("Look.", decoding)]


@pytest.mark.parametrize("instruction", ["", "   \n ", None])
def test_without_an_instruction_a_plain_caption_is_asked_for(blip2, sent, instruction):
    steps = list(stream_caption(blip2, sent("a.png", "red"), instruction, *PLAIN))
    assert blip2.calls[0][0] == ""
    assert steps[-1][0] == "a red picture: no instruction"


def test_a_long_instruction_is_refused_before_the_model_sees_it(blip2, sent):
    with pytest.raises(gr.Error) as caught:
        list(stream_caption(blip2, sent("a.png"), "x" * 10_000, *PLAIN))
    assert "instruction has 10,000 characters" in caught.value.message
    assert "2,000" in caught.value.message
    assert blip2.calls == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"hello", "not a picture; use JPEG"),
        (b"", "is empty; choose another"),
        (jpeg()[:700], "damaged or incomplete; choose another"),
        (huge(), "more than the permitted 100,000,000 pixels"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture; use JPEG"),
    ],
)
def test_a_bad_photo_gets_one_sentence_without_a_path(blip2, sent, content, sentence):
    photo = sent("photo.jpg", content)
    with pytest.raises(gr.Error) as caught:
        list(stream_caption(blip2, photo, "", *PLAIN))
    message = caught.value.message
    assert sentence in message
    assert message.startswith("The given photo") and message.endswith(".") and "\n" not in message
    assert "received" not in message, "the sentence tells a path of the server"
    assert caught.value.print_exception is False, "a visitor's mistake fills the terminal"


@pytest.mark.parametrize("photo", [None, {}, {"url": "data:image/png;base64,AAAA"}, "/etc/passwd"])
def test_what_is_no_upload_is_refused(blip2, photo):
    with pytest.raises(gr.Error, match=r"choose one first|upload it as a file"):
        list(stream_caption(blip2, photo, "", *PLAIN))


def test_a_photo_cleared_away_is_asked_for_again(blip2, tmp_path):
    with pytest.raises(gr.Error, match="upload it again"):
        list(stream_caption(blip2, {"path": str(tmp_path / "gone.png")}, "", *PLAIN))


def test_leaving_stops_the_model(blip2, sent):
    steps = stream_caption(blip2, sent("a.png"), "", *PLAIN)
    next(steps)
    next(steps)
    assert blip2.closed == 0
    steps.close()
    assert blip2.closed == 1


def test_silence_of_the_model_is_said(blip2, sent):
    blip2.stream = lambda photo, prompt, **decoding: (piece for piece in [" ", ""])
    assert list(stream_caption(blip2, sent("a.png"), "", *PLAIN))[-1] == (
        "",
        "The model found no words for this; try another instruction.",
    )


def test_a_failure_of_ours_is_no_stack_trace_in_the_page(blip2, sent):
    def fail(photo, prompt, **decoding):
        raise RuntimeError("secret /path")
        yield

    blip2.stream = fail
    with pytest.raises(gr.Error) as caught:
        list(stream_caption(blip2, sent("a.png"), "", *PLAIN))
    assert caught.value.message == "This failed inside the app; its terminal says why."
    assert caught.value.print_exception is True
    assert isinstance(caught.value.__cause__, RuntimeError)
