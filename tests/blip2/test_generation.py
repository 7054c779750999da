"""Stage 2: gradients, the loss against a plain one, overfitting, words out."""

import pytest
import torch

from blip2.decoding import Decoding
from blip2.errors import UserError
from blip2.language import MEMORIES
from blip2.memory import Memory
from tests.tiny import features, stage2, told

PROMPTS = ["describe this photo", "what is this ?"] * 4
CAPTIONS = [
    "a dog runs on the grass",
    "a cat sits in the snow",
    "a boy jumps in the water",
    "a girl plays",
    "the man sits on a red bike",
    "a blue ball in the grass",
    "the dog jumps on the green ball",
    "a boy runs",
]


def test_gradient_reaches_the_trained_part_and_no_frozen_one():
    model = stage2()
    model(features(2), told(PROMPTS[:2], CAPTIONS[:2]))["lm"].backward()
    without = [n for n, p in model.prompt.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in without if not name.endswith("key.bias")] == []
    assert all(not p.requires_grad and p.grad is None for p in model.language.parameters())
    model.train()
    assert not model.language.training and not model.language.model.training


def test_loss_against_one_pair_at_a_time():
    """The reference joins plain embeddings, asks for all logits and sums answer tokens only."""
    model = stage2().eval()
    language = model.language
    words = language.model.get_input_embeddings()
    total, count = 0.0, 0
    with torch.no_grad():
        loss = float(model(features(8), told(PROMPTS, CAPTIONS))["lm"])
        visual = model.prompt(features(8))
        for photo, prompt, caption in zip(visual, PROMPTS, CAPTIONS, strict=True):
            head = language.tokenizer.encode("<|im_start|>user\n", add_special_tokens=False)
            asked = language.tokenizer.encode(
                f"\n{prompt}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False
            )
            answer = language.tokenizer.encode(caption, add_special_tokens=False)
            answer.append(1)
            row = torch.cat(
                [words(torch.tensor(head)), photo, words(torch.tensor([*asked, *answer]))]
            )
            logits = language.model(inputs_embeds=row[None]).logits[0].log_softmax(-1)
            start = len(row) - len(answer)
            for offset, token in enumerate(answer):
                total -= float(logits[start + offset - 1, token])
                count += 1
    assert loss == pytest.approx(total / count, rel=1e-4)


def fit(model, parameters, photos, steps):
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0)
    for _ in range(steps):
        loss = model.language.loss(photos(), PROMPTS, CAPTIONS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_overfits_eight_pairs_and_writes_them():
    model = stage2()
    photos = features(8)
    # A random language model can't be steered, so it learns the language first, seeing noise.
    model.language.model.requires_grad_(True)
    blind = fit(model, model.language.model.parameters(), lambda: torch.randn(8, 4, 32), 150)
    model.language.model.requires_grad_(False)
    assert blind > 0.15
    assert fit(model, model.prompt.parameters(), lambda: model.prompt(photos), 200) < 0.06
    model.eval()
    with torch.no_grad():
        visual = model.prompt(photos)
    texts = [model.language.prompt(prompt) for prompt in PROMPTS]
    assert model.language.generate(visual, texts, Decoding(max_new_tokens=12)) == CAPTIONS
    # One by one without padding, piece by piece, and with beams: the same words.
    for photo, text, caption in zip(visual, texts, CAPTIONS, strict=True):
        pieces = list(model.language.stream(photo[None], text, Decoding(max_new_tokens=12)))
        assert "".join(pieces).strip() == caption
        assert len(pieces) > 1
    beams = model.language.generate(visual, texts, Decoding(num_beams=3, max_new_tokens=12))
    assert beams == CAPTIONS


def test_a_prompt_holds_the_turns_and_no_typed_special_token():
    language = stage2().language
    text = language.prompt("why<|im_<|im_end|>end|>?", [("what<|im_end|>", "a dog")])
    assert text == (
        "\nwhat<|im_end|>\n<|im_start|>assistant\na dog<|im_end|>\n<|im_start|>user\n"
        "why?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_closed_stream_stops_the_model():
    model = stage2().eval()
    with torch.no_grad():
        visual = model.prompt(features(1))
    calls = []
    model.language.model.register_forward_hook(lambda *_: calls.append(1))
    stream = model.language.stream(
        visual, model.language.prompt("describe"), Decoding(max_new_tokens=200, min_new_tokens=200)
    )
    next(stream)
    stream.close()
    assert len(calls) < 150


@pytest.mark.parametrize("photos", [1, 2])
def test_the_head_reads_rows_without_gaps(photos):
    """Of a slice, torch would multiply each row with a copy of the frozen head."""
    model = stage2().eval()
    with torch.no_grad():
        visual = model.prompt(features(photos))
    strides = []
    head = model.language.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, rows: strides.append(rows[0].stride()))
    texts = [model.language.prompt("describe")] * photos
    model.language.generate(visual, texts, Decoding(max_new_tokens=2, min_new_tokens=2))
    assert strides == [(32, 32, 1)] * 2


def test_an_error_while_streaming_reaches_the_reader():
    model = stage2().eval()
    wide = torch.zeros(1, 4, 7)  # not the language model's width
    with pytest.raises(RuntimeError, match="size"):
        list(model.language.stream(wide, model.language.prompt("describe"), Decoding()))


def test_the_same_seed_samples_the_same_words():
    model = stage2().eval()
    with torch.no_grad():
        visual = model.prompt(features(1))
    text = model.language.prompt("describe")
    draw = [
        model.language.generate(
            visual, [text], Decoding(do_sample=True, top_p=1.0, seed=seed, min_new_tokens=20)
        )
        for seed in (1, 1, 2)
    ]
    assert draw[0] == draw[1] != draw[2]


def test_a_conversation_reads_only_what_is_new_and_says_the_same():
    model = stage2().eval()
    language = model.language
    with torch.no_grad():
        visual = model.prompt(features(1))
    lengths = []
    hook = language.model.get_decoder().register_forward_pre_hook(
        lambda module, args, given: lengths.append(given["inputs_embeds"].shape[1])
        if given.get("inputs_embeds") is not None else None,
        with_kwargs=True,
    )  # fmt: skip
    memory, turns = Memory(), []
    for question in ("what is this ?", "a red dog ?", "what is the man on ?"):
        text = language.prompt(question, turns)
        asked = Decoding(max_new_tokens=6, min_new_tokens=6)
        lengths.clear()
        answer = language.generate(visual, [text], asked, memory)[0]
        read = lengths[0]
        lengths.clear()
        assert language.generate(visual, [text], asked)[0] == answer  # all read anew
        assert read == lengths[0] if not turns else read < lengths[0] - 4
        turns.append((question, answer))
    # Another question in the place of the last: what differs is read again.
    text = language.prompt("a boy ?", turns[:1])
    assert language.generate(visual, [text], asked, memory) == language.generate(
        visual, [text], asked
    )
    hook.remove()


def test_only_the_latest_conversations_are_remembered():
    model = stage2().eval()
    language = model.language
    with torch.no_grad():
        visual = model.prompt(features(1))
    memories = [Memory() for _ in range(MEMORIES + 2)]
    for memory in memories:
        language.generate(visual, [language.prompt("what ?")], Decoding(), memory)
    assert [memory._cache is None for memory in memories] == [True, True] + [False] * MEMORIES


@pytest.mark.parametrize(
    "options", [{"num_beams": 0}, {"temperature": 0}, {"top_p": 2}, {"min_new_tokens": 40}]
)
def test_options_out_of_range_are_one_sentence(options):
    name = next(iter(options))
    with pytest.raises(UserError, match=f"option {name} is .*; choose a value from"):
        Decoding(**options)


@pytest.mark.parametrize("how", [{"num_beams": 3}, {"do_sample": True, "seed": 5}])
def test_a_prompt_is_read_once_for_all_its_beams(how):
    """Against transformers' own way, which reads it for each of them."""
    model = stage2().eval()
    language, decoding = model.language, Decoding(max_new_tokens=6, **how)
    with torch.no_grad():
        visual = model.prompt(features(3))
    texts = [language.prompt(text) for text in ("what is this", "a dog", "describe this photo ?")]
    torch.manual_seed(5)
    plain = language.model.generate(
        **language.inputs(visual, texts), **decoding.arguments(), num_return_sequences=3,
        eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    read = []
    language.model.base_model.layers[0].register_forward_pre_hook(
        lambda _, inputs: read.append(inputs[0].shape[:2])
    )
    said = language.samples(visual, texts, decoding, 3)
    expected = language.tokenizer.batch_decode(plain, skip_special_tokens=True)
    assert [text for texts in said for text in texts] == [text.strip() for text in expected]
    assert read[0][0] == 3 and read[0][1] > 10  # photos, and all of a prompt but its last token
    assert {tuple(shape) for shape in read[1:]} == {(9, 1)}
