"""A batch in parts, over processes or turns, has the losses and gradients of the whole batch."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import blip2.objectives as losses_module
from blip2.errors import UserError
from blip2.objectives import JointBatch, hard_negatives, itc_loss, itm_loss, joint_itc_loss
from blip2.objectives import similarity as cosines
from blip2.qformer import KeyValue
from blip2.representation import Representation
from blip2.vision import IMAGE_ENCODERS
from tests.tiny import QFORMER, STAGE1, Cells
from tests.train import tiny_ranks, tiny_stage
from tests.train.tiny_ranks import BATCH
from train.inputs import draw_tokens, hide_pieces
from train.loop import seed_step
from train.parts import Part

ROOT = Path(__file__).parents[2]


def test_parts_cover_the_batch_in_order():
    parts = [Part(number, 6, ranks=3) for number in range(6)]
    assert [part.rows(12) for part in parts] == [slice(i, i + 2) for i in range(0, 12, 2)]
    assert [part.turn for part in parts] == [0, 0, 0, 1, 1, 1] and parts[0].turns == 2
    assert Part(1, 6, 3).of_turn(1) == Part(4, 6, 3)


def test_itc_of_parts_sums_to_that_of_the_batch():
    torch.manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(6, 4, 8), dim=-1).requires_grad_()
    texts = torch.nn.functional.normalize(torch.randn(6, 8), dim=-1).requires_grad_()
    temperature = torch.tensor(0.07, requires_grad=True)
    ids = torch.tensor([1, 2, 3, 2, 5, 6])  # a photo with two of its captions, in two parts
    whole = itc_loss(cosines(images, texts), temperature, ids)
    expected = torch.autograd.grad(whole, [images, texts, temperature])
    total = 0
    for start in range(0, 6, 2):
        own = slice(start, start + 2)
        joint = JointBatch(images.detach(), texts.detach(), ids, start)
        loss = joint_itc_loss(images[own], texts[own], temperature, joint)
        loss.backward()
        total += float(loss.detach())
    assert total == pytest.approx(float(whole.detach()), rel=1e-5)
    for tensor, gradient in zip((images, texts, temperature), expected, strict=True):
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    tiny_stage.prepare(folder)
    IMAGE_ENCODERS["cells"] = Cells
    yield folder
    del IMAGE_ENCODERS["cells"]


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_turns_embed_again_what_they_embedded(folder, precision):
    """The embeddings of the whole batch hold what a turn computes: same draws, same precision."""
    torch.manual_seed(0)
    config = replace(STAGE1, qformer=replace(QFORMER, dropout=0.1, attention_dropout=0.1))
    model = Representation(config).train()
    if precision == "bf16":  # as accelerate does it: around `forward` alone
        model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    _, losses = tiny_ranks.stage1(folder, 2)
    losses.recipe = replace(losses.recipe, precision=precision)
    found = []
    join = losses_module.JointBatch

    class Watched(join):
        def __init__(self, images, texts, ids, start):
            super().__init__(images, texts, ids, start)
            found.append((images, texts, start))

    seen = []
    project, embed = model.project_queries, model.embed_texts
    model.project_queries = lambda queries: seen.append(project(queries)) or seen[-1]
    model.embed_texts = lambda ids, mask: seen.append(embed(ids, mask)) or seen[-1]
    losses_module.JointBatch = Watched
    try:
        for number in range(2):
            seed_step(0, 0, number)
            seen.clear()
            losses(model, 0, torch.device("cpu"), Part(number, 2))
            images, texts, start = found[-1]
            own = slice(start, start + BATCH // 2)
            torch.testing.assert_close(images[own], seen[-2], rtol=0, atol=0)
            torch.testing.assert_close(texts[own], seen[-1], rtol=0, atol=0)
    finally:
        losses_module.JointBatch = join
    assert len(found) == 2


def test_a_batch_is_described_with_its_questions(folder):
    """Else the file that a loss without a number leaves would name photos of another step."""
    _, losses = tiny_ranks.stage1(folder, 1, ("asked",))
    told = losses.describe(3, BATCH, Part(0, 1))
    names = [pair["image_id"] for pair in told["pairs"]]
    read = losses.photos.batch_at(3, BATCH)
    assert [pair["caption"] for pair in told["pairs"]] == read.captions
    assert len(set(names)) == BATCH and not any("question" in pair for pair in told["pairs"])
    asked = losses.questions.batch_at(3, 12)
    assert [pair["question"] for pair in told["questions"]] == asked.questions
    assert losses.digest == losses.photos.digest == losses.questions.digest


def test_unreadable_photos_of_all_questions_end_the_run(folder):
    """While captions of other photos could still be read."""
    _, losses = tiny_ranks.stage1(folder, 1, ("asked",))
    asked = {row.photo for row in losses.questions.rows}
    losses.questions.features.broken |= dict.fromkeys(asked, "it can't be opened")
    with pytest.raises(UserError, match="No photo of the data can be opened"):
        losses.questions.batch_at(0, 12)


def whole_stage1(folder, parts, settings=()):
    """Stage 1 on the whole batch at once, but for ITM, whose negatives stay within a part."""
    model, losses = tiny_ranks.stage1(folder, 1, settings)
    answered, answers, rewards = [], [], []
    images, texts, every_id, itm, hidden, targets, hides = [], [], [], [], [], [], 0
    for number in range(parts):
        if losses.questions:
            seed_step(0, 0, number)
            batch = losses.questions.batch_at(0, 12, Part(number, parts))
            states = model.image_states(batch.features, draw_tokens(12 // parts, 9, 0.7))
            ids, mask = losses.tokenizer(batch.questions)
            cache = model.qformer(states, ids, mask, "bidirectional").cache
            seen = torch.cat([mask.new_ones(len(mask), 4), mask], 1)
            words = [text.removeprefix("a ").removeprefix("the ") for text in batch.captions]
            ids, mask = losses.tokenizer(words)
            read = ids.clone()
            read[:, 0] = model.dec_token_id
            decoded = model.qformer.decode(read, mask, cache, seen)
            kept = mask[:, 1:].bool()
            answered.append(model.lm_logits(decoded[:, :-1][kept]))
            answers.append(ids[:, 1:][kept])
        seed_step(0, 0, number)
        batch = losses.photos.batch_at(0, BATCH, Part(number, parts))
        drawn = None
        if losses.critic:
            half = BATCH // parts // 2
            drawn = losses.critic(model, batch.features[:half], batch.references)
            seed_step(0, 0, number)
        states = model.image_states(batch.features, draw_tokens(len(batch.captions), 9, 0.7))
        several = losses.recipe.captions_at_once
        told = [[talk[0][1] for talk in talks][:several] for talks in batch.told]
        ids, mask = losses.tokenizer([text for texts in told for text in texts])
        read = hide_pieces(ids, mask, 0.3, losses.tokenizer.mask_token_id)
        hides += int((read != ids).sum())
        encoded = model.qformer.encode_image(states)
        image, every = model.project_queries(encoded.queries), model.embed_texts(read, mask)
        text, ids, mask, read = (t[::several] for t in (every, ids, mask, read))
        wrong = hard_negatives(cosines(image, text), model.temperature, batch.image_ids)
        order = torch.arange(len(ids))
        photos, words = torch.cat([order, wrong[0], order]), torch.cat([order, order, wrong[1]])
        logits = model.match_logits(states.select(photos), read[words], mask[words])
        judged = torch.arange(3 * len(ids)) % len(ids) < losses.recipe.match_share * len(ids)
        matched = (torch.arange(3 * len(ids)) < len(ids)).long()
        itm.append(itm_loss(logits[judged], matched[judged]))
        if drawn:
            rewards.append(slow_reward(model, drawn, encoded.cache))
        inputs = read.clone()
        inputs[:, 0] = model.dec_token_id
        decoded = model.qformer.decode(inputs, mask, encoded.cache)
        kept = mask[:, 1:].bool()
        hidden.append(model.lm_logits(decoded[:, :-1][kept]))
        targets.append(ids[:, 1:][kept])
        images.append(image)
        texts.append(every)
        every_id.append(batch.image_ids)
    assert hides
    found = {
        "itc": itc_loss(cosines(torch.cat(images), torch.cat(texts)), model.temperature,
                        torch.cat(every_id)),
        "itm": torch.stack(itm).mean(),
        "itg": torch.nn.functional.cross_entropy(
            torch.cat(hidden), torch.cat(targets), label_smoothing=0.1
        ),
    }  # fmt: skip
    if answered:
        found["answer"] = torch.nn.functional.cross_entropy(
            torch.cat(answered), torch.cat(answers), label_smoothing=0.1
        )
    if rewards:
        found["reward"] = torch.stack(rewards).mean()
        assert found["reward"].abs() > 1e-5
    sum(found.values()).backward()
    return model, found


def slow_reward(model, drawn, cache):
    """Caption by caption: each piece's log-likelihood by the caption's worth."""
    worths = []
    for row, worth in enumerate(drawn.worth):
        photo = row // drawn.samples
        own = [KeyValue(*(states[photo : photo + 1] for states in layer)) for layer in cache]
        length = int(drawn.mask[row].sum())
        ids = drawn.ids[row : row + 1, :length]
        text = model.qformer.decode(ids, torch.ones_like(ids), own)
        likely = model.lm_logits(text[0, :-1]).log_softmax(-1)
        worths.append(worth * likely.gather(1, ids[0, 1:, None])[:, 0])
    return -torch.cat(worths).mean()


def whole_stage2(folder, words):
    model, losses = tiny_ranks.stage2(folder, 1, words)
    found = losses(model, 0, torch.device("cpu"), Part())
    sum(found.values()).backward()
    return model, found


@pytest.mark.parametrize(
    ("stage", "ranks", "accumulate"),
    [("stage1", 1, 1), ("stage1", 2, 1), ("stage1", 1, 2), ("stage1", 2, 2), ("stage2", 2, 2),
     ("stage1 asked", 1, 1), ("stage1 asked several", 2, 2),
     ("stage1 judged drawn", 1, 1), ("stage1 judged drawn", 2, 1),
     ("stage1 shard", 2, 2), ("stage2 shard", 2, 2), ("stage2 split", 1, 2)],
)  # fmt: skip
def test_ranks_and_turns_give_the_gradients_of_the_whole_batch(folder, stage, ranks, accumulate):
    stage, *words = stage.split()
    name = f"{stage}-{ranks}x{accumulate}{''.join(words)}"
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command += ["-m", "tests.train.tiny_ranks", str(folder), stage, str(accumulate), name]
    command += words
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_file(folder / f"{name}.safetensors")
    if stage == "stage1":
        model, losses = whole_stage1(folder, ranks * accumulate, tuple(words))
    else:
        model, losses = whole_stage2(folder, tuple(words))
    for loss, value in losses.items():
        assert float(found[f"loss {loss}"]) == pytest.approx(float(value.detach()), rel=1e-5)
    large = 0
    for parameter, value in model.named_parameters():
        if value.requires_grad:
            own = found[parameter]
            torch.testing.assert_close(own, value.grad, rtol=1e-3, atol=2e-6, msg=parameter)
            large += bool(own.abs().max() > 1e-4)
    assert large > 40  # gradients that are not nearly nothing
