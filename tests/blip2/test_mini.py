"""The embedded checkpoints on photos that come with the installed packages: words, not shapes."""

import base64
import re

import numpy as np
import pytest
import torch
from PIL import Image

from blip2 import Blip2, Blip2Retriever, UserError
from blip2.checkpoint_files import EMBEDDED
from blip2.checkpoints import read_tensors
from blip2.processing import open_photo
from demo.library import sample_photos
from index import PhotoIndex, best_texts
from index.verdict import judge_hits
from tests.helpers import icc
from tests.helpers.icc import in_profile
from tests.helpers.photos import encoded, exif_of

PHOTOS = {path.stem: path for path in sample_photos()}


@pytest.fixture(scope="module")
def mini():
    # In fp32: rounding to bf16 depends on the size of a batch.
    return Blip2.from_pretrained("mini", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def retriever():
    return Blip2Retriever.from_pretrained("mini-itm", device="cpu")


def test_captions_name_what_is_there(mini):
    assert re.search(r"\b(woman|girl|man|boy|person|lady)\b", mini.caption(PHOTOS["astronaut"]))
    assert re.search(r"\b(bike|motorcycle|motorbike|bicycle)\b",
                     mini.caption(PHOTOS["motorcycle_left"], num_beams=5))  # fmt: skip


def test_stream_batch_and_single_say_the_same(mini):
    photos = [PHOTOS["astronaut"], PHOTOS["motorcycle_left"]]
    prompts = ["Describe this photo.", "What is in this picture, in one sentence?"]
    single = [mini.generate(photo, text) for photo, text in zip(photos, prompts, strict=True)]
    assert mini.generate(photos, prompts) == single
    pieces = list(mini.stream(photos[0], prompts[0]))
    assert len(pieces) > 3 and "".join(pieces).strip() == single[0]


def test_what_is_not_there_is_denied(mini):
    """By stage 1's matching; stage 2's language model alone affirmed a dog in every photo."""
    there = {"chelsea": "a cat", "motorcycle_left": "a motorcycle", "astronaut": "a woman"}
    for stem, thing in there.items():
        chat = mini.chat(PHOTOS[stem])
        assert chat.ask(f"Is there {thing} in this photo?") == "yes"
        assert chat.ask("Is there a beach in this photo?") == "no"
        assert mini.generate(PHOTOS[stem], "Are there any skiers?") == "no"


def test_descriptions_are_stage_1s_and_instructions_the_language_models(mini, retriever):
    photo = PHOTOS["chelsea"]
    described = mini.caption(photo, num_beams=5)
    assert described == retriever.caption(photo, num_beams=5) and "cat" in described
    with_name, without = mini.candidates(photo, number=2, num_beams=5)
    assert with_name[0] == described and with_name[1] >= without[1]
    assert mini.caption(photo, "Write a short caption.") != described


def test_chat_keeps_its_turns(mini):
    chat = mini.chat(PHOTOS["astronaut"])
    first, second = chat.ask("What is in this photo?"), chat.ask("What is she wearing?")
    assert chat.turns == [("What is in this photo?", first), ("What is she wearing?", second)]
    assert first and second


def test_an_empty_instruction_describes_and_a_long_one_is_refused(mini):
    photo = PHOTOS["astronaut"]
    assert mini.caption(photo, "") == mini.caption(photo, "Describe this photo.")
    with pytest.raises(UserError, match="instruction has 10,000 characters"):
        mini.caption(photo, "a" * 10_000)
    with pytest.raises(UserError, match="question is empty"):
        mini.chat(photo).ask("  ")


def test_stage_1_answers_no_question_that_it_cannot_read(mini):
    """The language model spells whatever there is; to stage 1 all unknown words are one."""
    read, unread = "What color is the cat?", "What color is the 猫?"
    assert mini.witness(read) == (mini.grounding.answerer, read) and mini.witness(unread) is None
    assert mini.witness("Is there a dog?") == (mini.judge, "a dog")
    for thing in ("狗", "🐶", "собака", "dog with a " + "very " * 20 + "long tail"):
        assert mini.witness(f"Is there a {thing}?") is None
    assert mini.witness("Is the dog red?") and mini.witness("Is the 狗 red?") is None
    chat = mini.chat(PHOTOS["chelsea"])
    assert chat.ask("What color is the 猫?", max_new_tokens=5)
    with pytest.raises(UserError, match="question is empty"):
        chat.ask("\u200b")
    assert mini.caption(PHOTOS["chelsea"], "\u2060\ufeff") == mini.caption(PHOTOS["chelsea"])


@pytest.mark.parametrize("text", ["狗", "🐶", "собака", "狗!", "\u200b", "...", "x" * 120])
def test_a_text_without_a_known_word_is_refused(retriever, text):
    with pytest.raises(UserError, match=r"^mini-itm knows no word of this; it reads English\.$"):
        retriever.read_text(text)


def test_a_search_of_the_real_model_says_what_it_did_not_read(retriever, tmp_path):
    index = PhotoIndex.create(tmp_path / "index", retriever)
    index.add([PHOTOS["chelsea"], PHOTOS["coffee"], PHOTOS["rocket"]])
    for text in ("狗", "🐶"):
        with pytest.raises(UserError, match="knows no word of this"):
            index.search(text)
        with pytest.raises(UserError, match=f"^“{text}” cannot be compared: mini-itm knows no"):
            best_texts(retriever, PHOTOS["chelsea"], ["a cat", text])
    found = index.search("a cat")
    assert found.notes == () and found[0].path == PHOTOS["chelsea"]
    assert index.search("a cat 狗").notes == ("The model does not know “狗”.",)
    # Of 22 tokens: "saucer" has two.
    long = "a cup of coffee on a saucer with a spoon " + "that stands on a table " * 4
    assert index.search(long).notes == ("Only the first 21 of 30 words were read.",)
    assert best_texts(retriever, PHOTOS["chelsea"], ["a cat", long]).notes == (
        "“a cup of coffee on a saucer w…”: Only the first 21 of 30 words were read.",
    )
    assert judge_hits(retriever, found, "a cat").fits
    volcano = "a helicopter landing on a volcano"
    assert not judge_hits(retriever, index.search(volcano), volcano).fits
    assert not judge_hits(retriever, index.search(volcano, rerank=3), volcano).fits


@pytest.mark.parametrize(
    ("text", "stem"),
    [("a woman smiling", "astronaut"), ("a red motorcycle", "motorcycle_left")],
)
def test_words_find_their_photo(retriever, text, stem):
    image = retriever.embed_images(list(PHOTOS.values()))  # [9, Q, d]
    scores = torch.einsum("iqd,d->iq", image, retriever.embed_texts([text])[0]).amax(-1)
    order = [list(PHOTOS)[i] for i in scores.argsort(descending=True)]
    assert stem in order[:2]


def test_matching_tells_photos_apart(retriever):
    photos = [PHOTOS["motorcycle_left"], PHOTOS["coffee"], PHOTOS["rocket"]]
    match = retriever.match(photos, ["A red motorcycle"] * 3)
    assert match.argmax() == 0 and ((match > 0) & (match < 1)).all()


def test_the_other_stage_is_refused_with_a_hint():
    with pytest.raises(UserError, match=r"mini-itm is a retriever .* try mini\."):
        Blip2.from_pretrained("mini-itm")
    with pytest.raises(UserError, match=r"mini is a generator .* try mini-itm\."):
        Blip2Retriever.from_pretrained("mini")
    with pytest.raises(UserError, match="no model 'maxi'"):
        Blip2.from_pretrained("maxi")


def test_checkpoints_are_small_and_hold_no_frozen_part():
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100e6
    assert max(path.stat().st_size for path in files) < 50e6
    for name in ("mini", "mini-itm"):
        tensors = read_tensors(EMBEDDED / name)
        assert {value.dtype for value in tensors.values()} == {torch.float16}
        assert not [key for key in tensors if key.startswith(("encoder", "language"))]


def cosines(one, other):
    """Cosines of the embeddings of photos, query by query: ``[B, Q]``."""
    return (one * other).sum(-1)


@pytest.mark.parametrize(
    ("size", "shown", "worst"),
    [((2048, 1536), (1024, 768), 0.005), ((1281, 961), (641, 481), 0.02)],
)
def test_a_photo_decoded_at_less_than_its_size_is_the_same_to_search(size, shown, worst, retriever):
    """At nearly twice the side that the model sees, and at little more than that side."""
    moved = []
    for stem in ("astronaut", "coffee", "rocket", "lion"):
        data = encoded(open_photo(PHOTOS[stem]).resize(size), "JPEG", quality=92)
        part = open_photo(data, retriever.photo_side)
        assert part.size == shown and part.info["full_size"] == size
        moved.append(1 - cosines(*retriever.embed_images([data, part])).min())
    assert sum(moved) / len(moved) < 0.005 and max(moved) < worst


def test_photos_in_other_colour_spaces_are_the_same_to_search(retriever):
    originals = [open_photo(PHOTOS[stem]) for stem in ("coffee", "lion")]
    expected = retriever.embed_images(originals)
    for profile in (icc.swapped(), icc.display_p3(), icc.adobe_rgb(), icc.prophoto()):
        shown = [in_profile(photo, profile) for photo in originals]
        options = {"quality": 95, "subsampling": 0, "icc_profile": profile}
        data = [encoded(photo, "JPEG", **options) for photo in shown]
        assert cosines(retriever.embed_images(data), expected).min() > 0.99
    swapped = [in_profile(photo, icc.swapped()) for photo in originals]
    assert cosines(retriever.embed_images(swapped), expected).min() < 0.97  # without the profile


def test_a_turned_photo_reads_alike_however_often_it_is_opened(mini, retriever):
    """By its path, opened, and opened twice, as an index does it."""
    photo = open_photo(PHOTOS["astronaut"])
    for orientation, back in ((3, "ROTATE_180"), (8, "ROTATE_270"), (6, "ROTATE_90")):
        turned = photo.transpose(Image.Transpose[back])
        data = encoded(turned, "PNG", exif=exif_of(orientation))
        once = open_photo(data)
        ways = [retriever.preprocess(way) for way in (data, once, open_photo(once), photo)]
        assert all(torch.equal(way, ways[0]) for way in ways)
    assert mini.caption(data) == mini.caption(once) == mini.caption(photo)


def test_one_photo_in_every_form_gives_one_embedding(retriever):
    photo = open_photo(PHOTOS["coffee"])
    pixels = np.asarray(photo)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)  # [3, H, W]
    png = encoded(photo, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    for form in (png, pixels, pixels / 255, tensor, tensor / 255, url):
        assert torch.equal(retriever.preprocess(form), retriever.preprocess(photo))


def test_one_array_is_one_photo(mini):
    pixels = np.asarray(open_photo(PHOTOS["coffee"]))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    said = mini.caption(PHOTOS["coffee"])
    assert mini.generate(pixels) == said and mini.generate([tensor]) == [said]
    assert mini.chat(pixels).ask("Is there a cup?") == "yes"
