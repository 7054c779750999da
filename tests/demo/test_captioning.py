import io
import threading
from itertools import pairwise
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from demo.captioning import candidates_html, caption_samples, look_at, presets, stream_caption
from demo.decoding import BEAM, GREEDY, NUCLEUS, OPTIONS
from demo.kept import KeptTexts
from demo.visitors import Visitor

DEFAULTS = {name: option.default for name, option in OPTIONS.items()}
PLAIN = (GREEDY, *DEFAULTS.values())


def describe(blip2, photo, instruction="", options=PLAIN, visitor=None, kept=None):
    """All that a visitor sees, step by step: text, line, candidates."""
    visitor, kept = visitor or Visitor(), kept or KeptTexts()
    yield from stream_caption(blip2, visitor, kept, photo, instruction, *options)


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
    steps = list(describe(blip2, sent("sky.png", "blue"), " Be brief. "))
    texts = [text for text, *_ in steps]
    assert texts[-1] == "a blue picture: Be brief."
    assert all(later.startswith(earlier.strip()) for earlier, later in pairwise(texts))
    assert "a blue" in texts[:-1], "the text is not shown while it is written"
    assert steps[-1][1].endswith("5 words")
    assert "first word after" in steps[-1][1]


def test_decoding_options_reach_the_model(blip2, sent):
    options = DEFAULTS | {"num_beams": 7, "max_new_tokens": 42, "repetition_penalty": 1.2}
    list(describe(blip2, sent("a.png"), "Look.", (BEAM, *options.values())))
    decoding = {
        "num_beams": 7,
        "length_penalty": 1.0,
        "min_new_tokens": 1,
        "max_new_tokens": 42,
        "repetition_penalty": 1.2,
    }
    assert blip2.calls == [("Look.", decoding)]


@pytest.mark.parametrize("instruction", ["", "   \n ", None])
def test_without_an_instruction_a_plain_caption_is_asked_for(blip2, sent, instruction):
    steps = list(describe(blip2, sent("a.png", "red"), instruction))
    assert blip2.calls[0][0] == ""
    assert steps[-1][0] == "a red picture: no instruction"


def test_a_long_instruction_is_refused_before_the_model_sees_it(blip2, sent):
    with pytest.raises(gr.Error) as caught:
        list(describe(blip2, sent("a.png"), "x" * 10_000))
    assert "instruction has 10,000 characters" in caught.value.message
    assert "2,000" in caught.value.message
    assert blip2.calls == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"hello", "not in a format that is read here; use JPEG"),
        (b"", "is empty; choose another"),
        (jpeg()[:700], "damaged or incomplete; choose another"),
        (huge(), "pixels, more than the permitted 100,000,000; make it smaller"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing; save it as JPEG"),
    ],
)
def test_a_bad_photo_gets_one_sentence_without_a_path(blip2, sent, content, sentence):
    photo = sent("photo.jpg", content)
    with pytest.raises(gr.Error) as caught:
        list(describe(blip2, photo, ""))
    message = caught.value.message
    assert sentence in message
    assert message.startswith("The given photo") and message.endswith(".") and "\n" not in message
    assert "received" not in message, "the sentence tells a path of the server"
    assert caught.value.print_exception is False, "a visitor's mistake fills the terminal"


@pytest.mark.parametrize("photo", [None, {}, {"url": "data:image/png;base64,AAAA"}, "/etc/passwd"])
def test_what_is_no_upload_is_refused(blip2, photo):
    with pytest.raises(gr.Error, match=r"choose one first|upload it as a file"):
        list(describe(blip2, photo, ""))


def test_a_photo_cleared_away_is_asked_for_again(blip2, sent):
    photo = sent("a.png")
    Path(photo["path"]).unlink()
    with pytest.raises(gr.Error, match="upload it again"):
        list(describe(blip2, photo, ""))


def test_leaving_stops_the_model(blip2, sent):
    steps = describe(blip2, sent("a.png"), "")
    next(steps)
    next(steps)
    assert blip2.closed == 0
    steps.close()
    assert blip2.closed == 1


def test_silence_of_the_model_is_said(blip2, sent):
    blip2.stream = lambda photo, prompt, **decoding: (piece for piece in [" ", ""])
    assert list(describe(blip2, sent("a.png"), ""))[-1] == (
        "",
        "The model found no words for this; try another instruction.",
        "",
    )


def test_a_failure_of_ours_is_no_stack_trace_in_the_page(blip2, sent):
    def fail(photo, prompt, **decoding):
        raise RuntimeError("secret /path")
        yield

    blip2.stream = fail
    with pytest.raises(gr.Error) as caught:
        list(describe(blip2, sent("a.png"), ""))
    assert caught.value.message == (
        "The app failed over this (RuntimeError), and its terminal says where; try again, with "
        "another photo or text if it stays."
    )
    assert caught.value.print_exception is True
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 1 bytes."
        ),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."),
    ],
)
def test_too_little_memory_is_said_with_a_way_out(blip2, sent, error):
    def fail(photo, prompt, **decoding):
        raise error
        yield

    blip2.stream = fail
    with pytest.raises(gr.Error, match="not enough memory for this; try again with fewer beams"):
        list(describe(blip2, sent("a.png")))


@pytest.mark.parametrize("strategy", [BEAM, NUCLEUS])
def test_several_candidates_come_with_their_scores_best_first(blip2, sent, strategy):
    options = (strategy, *(DEFAULTS | {"candidates": 3}).values())
    text, line, shown = list(describe(blip2, sent("a.png", "red"), options=options))[-1]
    assert text == "a red picture, take 1"
    assert "the best of 3" in line
    assert [shown.index(f"take {n}") for n in (1, 2, 3)] == sorted(
        shown.index(f"take {n}") for n in (1, 2, 3)
    )
    assert "-0.50" in shown and "-1.50" in shown


def test_stopping_reaches_candidates_that_are_being_written(blip2, sent):
    told = []

    def write(photo, prompt, number, *, stopped, **decoding):
        told.append(stopped.wait(10))
        return []

    blip2.candidates = write
    options = (BEAM, *(DEFAULTS | {"candidates": 3}).values())
    steps = describe(blip2, sent("a.png"), options=options)
    assert [next(steps)[1] for _ in range(2)][1].startswith("Writing 3 candidates")
    steps.close()
    assert told == [True], "the model goes on"


def test_a_failure_while_candidates_are_written_is_told(blip2, sent):
    def fail(*given, **named):
        raise MemoryError

    blip2.candidates = fail
    with pytest.raises(gr.Error, match="not enough memory"):
        list(
            describe(blip2, sent("a.png"), options=(BEAM, *(DEFAULTS | {"candidates": 2}).values()))
        )


def test_what_another_part_says_to_visitors_reaches_them(blip2, sent):
    """As ZeroGPU does when their share is used up."""

    def refuse(photo, prompt, **decoding):
        raise gr.Error("You have used up your share of the GPU.")
        yield

    blip2.stream = refuse
    with pytest.raises(gr.Error, match="used up your share"):
        list(describe(blip2, sent("a.png")))


def test_samples_are_captioned_as_they_will_be_asked_for(blip2, photos):
    kept = KeptTexts()
    caption_samples(blip2, kept, photos)
    asked = len(blip2.calls)
    assert asked == 3
    caption_samples(blip2, kept, photos)
    assert len(blip2.calls) == asked, "they are captioned twice"
    assert kept.get(kept.key(photos[1], "", blip2.calls[0][1])) == "a red picture: no instruction"


def test_scores_are_named_for_what_they_are_and_texts_stay_text():
    shown = candidates_html([("<b>x", -1.0), ("y", -2.0)], {"num_beams": 5, "length_penalty": 2.0})
    assert "&lt;b&gt;x" in shown and "score of the beam" in shown
    assert "width:100%" in shown and "width:37%" in shown, "bars are not the ratio of odds"
    assert "of a token" in candidates_html([("x", -1.0)], {"do_sample": True})


def test_what_does_not_depend_on_chance_is_written_once(blip2, sent):
    kept = KeptTexts()
    photo = sent("a.png", "red")
    first = list(describe(blip2, photo, "Look.", kept=kept))[-1][0]
    again = list(describe(blip2, sent("other name.png", "red"), "Look.", kept=kept))
    assert again == [(first, "4 words, written before", "")]
    assert len(blip2.calls) == 1
    for changed in (
        {"instruction": "Look again."},
        {"options": (GREEDY, *(DEFAULTS | {"max_new_tokens": 9}).values())},
        {"options": (NUCLEUS, *DEFAULTS.values())},
        {"options": (NUCLEUS, *DEFAULTS.values())},
    ):
        before = len(blip2.calls)
        list(describe(blip2, photo, **{"instruction": "Look.", "kept": kept} | changed))
        assert len(blip2.calls) == before + 1, changed


def test_kept_texts_give_way_to_later_ones(tmp_path):
    kept = KeptTexts(room=2)
    keys = []
    for name in "abc":
        (tmp_path / name).write_text(name)
        keys.append(kept.key(tmp_path / name, "", {}))
        kept.keep(keys[-1], name)
        kept.get(keys[0])
    assert [kept.get(key) for key in keys] == ["a", None, "c"]
    assert kept.key(tmp_path / "none", "", {}) is None and kept.get(None) is None


def test_words_about_a_photo_that_has_gone_end(blip2, sent):
    red, blue = sent("a.png", "red"), sent("b.png", "blue")
    visitor = Visitor(photo=Path(red["path"]))
    steps = describe(blip2, red, "one two three four", visitor=visitor)
    next(steps)
    assert next(steps)[0] == "a"
    visitor.photo = Path(blue["path"])
    assert list(steps) == [("", "", "")]
    assert blip2.closed == 1, "the model goes on"


def test_a_page_may_say_a_little_late_which_photo_it_has(blip2, sent):
    red, blue = sent("a.png", "red"), sent("b.png", "blue")
    visitor = Visitor(photo=Path(red["path"]))
    late = threading.Timer(0.1, lambda: setattr(visitor, "photo", Path(blue["path"])))
    late.start()
    assert list(describe(blip2, blue, visitor=visitor))[-1][0] == "a blue picture: no instruction"


def test_presets_take_the_form_of_the_model(blip2):
    assert presets(blip2)["A question"] == "What is in this photo?"
    blip2.question_form = "Question: {} Answer:"
    assert presets(blip2)["A question"] == "Question: What is in this photo? Answer:"
    assert presets(blip2)["Continue a sentence"] == "A photo of"


def test_where_it_looked_is_drawn_over_the_photo(blip2, sent):
    ((picture, name),) = look_at(blip2, Visitor(), sent("a.png", "blue"), "")
    assert name == "All 4 queries"
    with Image.open(picture) as drawn:
        corner, opposite = drawn.getpixel((1, 1)), drawn.getpixel((14, 14))
    assert sum(corner) > sum(opposite) + 50, "the corner where all looked does not glow"
    with pytest.raises(gr.Error, match="choose one first"):
        look_at(blip2, Visitor(), None, "")
