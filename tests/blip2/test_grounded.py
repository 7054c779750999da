"""The Q-Former writing by itself: against the plain loop, and who writes what."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from blip2.attention import photo_maps, watch
from blip2.decoding import Decoding
from blip2.errors import UserError
from blip2.generation import Blip2
from blip2.grounded import LIKENESS, QFormerWriter, Sentences, _word_streamer
from blip2.qformer import ImageStates
from blip2.representation import Representation
from blip2.retrieval import Blip2Retriever
from blip2.tokenization import TextTokenizer
from blip2.visual_prompt import VisualPrompt
from tests.tiny import STAGE1, STAGE2, Cells, features, language_model, text_tokenizer

CPU = torch.device("cpu")
COLOURS = ["red", "green", "blue", "white"]


@pytest.fixture
def tokenizer(tmp_path) -> TextTokenizer:
    text_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return TextTokenizer(tmp_path, 16)


def representation(seed: int = 1) -> Representation:
    """Random, and alive enough to write other words about other photos."""
    torch.manual_seed(seed)
    model = Representation(STAGE1).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "cross_attention" in name or "lm_transform" in name:
                parameter.mul_(3)
        model.lm_bias[[0, 1, 3, 4, model.dec_token_id]] = -100.0  # pieces that no text shows
        model.lm_bias[2] += 1  # [SEP], so that captions end
    return model


def retriever(tokenizer, **settings) -> Blip2Retriever:
    model = representation()
    model.config = replace(model.config, **settings)
    return Blip2Retriever("tiny-itm", "", Cells().freeze(), model, tokenizer, CPU, torch.float32)


def photos() -> list[Image.Image]:
    return [Image.new("RGB", (24, 24), colour) for colour in COLOURS]


def seen(model: Representation, batch: int = 6) -> ImageStates:
    return model.image_states(features(batch))


def test_greedy_captions_are_those_of_the_plain_loop(tokenizer):
    model = representation()
    with torch.no_grad():
        states = seen(model)
        plain = tokenizer.decode(model.caption(states, tokenizer.sep_token_id, max_length=9))
    greedy = Decoding(max_new_tokens=9, min_new_tokens=0)
    said = QFormerWriter(model, tokenizer).generate(states, [""] * 6, greedy)
    assert [text.lower() for text in said] == plain
    assert len(set(said)) > 2


@pytest.mark.parametrize("ends", [0.0, 3.0, -9.0])
def test_a_description_is_what_is_said_greedily(tokenizer, ends):
    """Also where captions end at once, and where none does."""
    model = representation()
    model.lm_bias.data[tokenizer.sep_token_id] += ends
    states, writer = seen(model), QFormerWriter(model, tokenizer)
    said = writer.describe(states)
    assert said == writer.generate(states, [""] * 6, Decoding())
    assert said[:1] == writer.describe(states.select(torch.tensor([0])))
    assert len(set(said)) > 2 and all(said)


def test_beams_are_scored_by_what_the_text_branch_gives_each_piece_and_by_itc(tokenizer):
    model = representation()
    model.temperature.data.fill_(0.01)  # what is random differs little
    states = seen(model)
    writer = QFormerWriter(model, tokenizer)
    beams = Decoding(num_beams=4, max_new_tokens=9, length_penalty=0.0)
    found = writer.candidates(states, [""] * 6, beams, 4)
    greedy = writer.generate(states, [""] * 6, Decoding(max_new_tokens=9))
    checked = better = moved = 0
    for row in range(6):
        own = states.select(torch.tensor([row]))
        with torch.no_grad():
            encoded = model.qformer.encode_image(own)

        def likelihood(text, kept=encoded.cache):
            ids, mask = tokenizer([text.lower()])
            ids[:, 0] = model.dec_token_id
            with torch.no_grad():
                logits = model.lm_logits(model.qformer.decode(ids, mask, kept)).log_softmax(-1)
            return float(logits[0, :-1].gather(1, ids[0, 1:, None]).sum())

        def unlike(text, queries=encoded.queries[0]):
            with torch.no_grad():
                words = model.embed_texts(*tokenizer([text]))[0]
                near = max(float(model.project_queries(query) @ words) for query in queries)
            return (1 - near) / model.temperature.item()

        ended = [(text, score) for text, score in found[row] if len(text.split()) < 9]
        checked += len(ended)
        for text, score in ended:
            assert score == pytest.approx(likelihood(text) - LIKENESS * unlike(text), abs=1e-4)
        scores = [score for _, score in found[row]]
        assert scores == sorted(scores, reverse=True) and scores[0] <= 0
        likely = [likelihood(text) for text, _ in ended]
        moved += likely != sorted(likely, reverse=True)
        if ended and len(greedy[row].split()) < 9:
            assert max(likely) >= likelihood(greedy[row]) - 1e-4
            better += ended[likely.index(max(likely))][0] != greedy[row]
    assert checked > 8 and better and moved  # or beams and ITC would prove nothing
    assert [group[0] for group in found] == [
        group[0] for group in writer.candidates(states, [""] * 6, beams, 1)
    ]
    assert writer.generate(states, [""] * 6, beams) == [group[0][0] for group in found]


def blip2(grounding=None) -> Blip2:
    torch.manual_seed(0)
    parts = Cells().freeze(), VisualPrompt(STAGE2).eval(), language_model(), CPU
    return Blip2("tiny", "", *parts, grounding=grounding)


def test_each_part_answers_what_it_was_trained_for(tokenizer):
    stage1 = retriever(tokenizer)
    model, alone, short = blip2(stage1), blip2(), {"max_new_tokens": 8}
    described = stage1.caption(photos(), **short)
    assert len(set(described)) > 1
    match = stage1.match(photos(), ["a dog"] * 4)
    model.judge.threshold = float(match.sort().values[1:3].mean())  # two are above it
    said = model.generate(photos(), ["", "is there a dog ?", "what is this ?", "a dog"], **short)
    assert said[0] == described[0] != alone.generate(photos()[0], **short)
    assert said[1] == ("yes" if match[1] > model.judge.threshold else "no")
    # The language model reads a description before what it is asked, and nothing else changes.
    before = stage1.caption(photos()[2])
    visual = alone.visual_prompt([photos()[2]])
    text = alone.language.prompt("what is this ?", [(alone.default_prompt, before)])
    assert [said[2]] == alone.language.generate(visual, [text], Decoding(**short))
    assert model.generate(photos(), "is there a dog ?") == [
        "yes" if p > model.judge.threshold else "no" for p in match
    ]  # fmt: skip
    assert sorted(model.generate(photos(), "is there a dog ?")) == ["no", "no", "yes", "yes"]


def test_streams_and_candidates_say_the_same(tokenizer):
    model, short = blip2(retriever(tokenizer)), {"max_new_tokens": 8}
    first = photos()[0]
    for prompt in ("", "is there a dog ?", "what is this ?"):
        assert "".join(model.stream(first, prompt, **short)) == model.caption(
            first, prompt, **short
        )
        best = model.candidates(first, prompt, number=2, num_beams=3, **short)
        assert best[0][0] == model.generate(first, prompt, num_beams=3, **short)
        assert best[0][1] >= best[1][1]


def test_a_conversation_is_answered_as_single_questions_are(tokenizer):
    model, short = blip2(retriever(tokenizer)), {"max_new_tokens": 8}
    chat = model.chat(photos()[1])
    questions = ["is there a dog ?", model.default_prompt]
    assert [chat.ask(question) for question in questions] == [
        model.generate(photos()[1], question) for question in questions
    ]
    chat.turns = []
    assert chat.ask("what is this ?", **short) == model.generate(
        photos()[1], "what is this ?", **short
    )
    past, chat.forgotten = list(chat.turns), 3
    assert "".join(chat.stream("is there a dog ?")) == chat.turns[-1][1]
    assert chat.turns[:-1] == past and chat.turns[-1][0] == "is there a dog ?"
    assert chat.forgotten == 0  # nothing was left out for this one


def test_heat_maps_are_of_who_answers(tokenizer):
    stage1 = retriever(tokenizer)
    model = blip2(stage1)
    split = Image.new("RGB", (24, 24), "red")
    split.paste("blue", (0, 0, 8, 8))
    with watch(stage1.model.qformer) as looked:
        stage1.embed_images([split])
    assert torch.equal(model.attention(split), photo_maps(looked, stage1.encoder)[0])
    with watch(stage1.model.qformer) as looked:
        stage1.match([split], ["a dog"])
    there = model.attention(split, "is there a dog ?")
    assert torch.equal(there, photo_maps(looked, stage1.encoder)[0])
    assert not torch.allclose(there, model.attention(split), atol=1e-4)
    assert not torch.allclose(model.attention(split), model.attention(split, "a dog"), atol=1e-4)


def test_what_writes_can_be_trained_on(tokenizer):
    stage1 = retriever(tokenizer)
    assert stage1.caption(photos()[0], max_new_tokens=8)
    assert all(parameter.requires_grad for parameter in stage1.model.parameters())


def test_without_the_head_of_itg_nothing_is_written(tokenizer):
    with pytest.raises(UserError, match="tiny-itm has no head of ITG"):
        blip2(retriever(tokenizer, lm_head=False))
    with pytest.raises(UserError, match="tiny-itm has no head of ITG, so it can't write"):
        retriever(tokenizer, lm_head=False).caption(photos()[0])
    assert retriever(tokenizer).caption([]) == []


def test_a_stream_never_takes_back_what_it_said(tmp_path):
    from tokenizers import Tokenizer, models

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "a", "-", "shirt", "t", "dog"]
    pieces = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    pieces.add_special_tokens(words[:5])
    pieces.save(str(tmp_path / "tokenizer.json"))
    streamer = _word_streamer(Sentences(TextTokenizer(tmp_path, 16)), None)
    for piece in [len(words), *map(words.index, ["a", "t", "-", "shirt", "a", "dog", "[SEP]"])]:
        streamer.put(torch.tensor([piece]))
    streamer.end()
    said = [piece for piece in streamer if piece]
    assert "".join(said) == "A t-shirt a dog" and len(said) > 2


def test_pieces_become_words_as_people_write_them(tmp_path):
    from tokenizers import Tokenizer, models

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "a", "man", "'", "s", "t", "-", "shirt"]
    pieces = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    pieces.add_special_tokens(words[:5])
    pieces.save(str(tmp_path / "tokenizer.json"))
    said = ["a", "man", "'", "s", "t", "-", "shirt", "[SEP]", "[PAD]"]
    ids = torch.tensor([[len(words), *map(words.index, said)]])  # [DEC] is the last of all
    assert Sentences(TextTokenizer(tmp_path, 16)).batch_decode(ids) == ["A man's t-shirt"]
