"""Captions that a model draws itself, and what they are worth."""

import random

import pytest
import torch

from blip2.visual_prompt import Stage2
from tests.tiny import WORDS, features, stage2, told
from train.rewards import CiderReward, SelfCritical


def sentences(draw, count):
    return [" ".join(draw.choices(WORDS[:16], k=draw.randint(3, 9))) for _ in range(count)]


def test_the_reward_is_the_official_cider():
    """The official code takes its document frequencies from the photos that it scores."""
    from pycocoevalcap.cider.cider import Cider

    draw = random.Random(0)
    references = [sentences(draw, 5) for _ in range(40)]
    captions = [
        draw.choice([texts[0], *sentences(draw, 1), "", f"{texts[1]} {texts[2]}"])
        for texts in references
    ]
    official, each = Cider().compute_score(
        dict(enumerate(references)), {n: [text] for n, text in enumerate(captions)}
    )
    reward = CiderReward(references, end="")
    found = [reward([text], truth)[0] for text, truth in zip(captions, references, strict=True)]
    assert found == pytest.approx(list(each), rel=1e-9, abs=1e-12)
    assert official > 1


def test_a_caption_that_breaks_off_is_worth_less():
    references = [["a dog runs on the grass"], ["a cat sits"], ["a man jumps on the snow"]]
    reward = CiderReward(references)
    whole, broken = reward(["a dog runs on the grass", "a dog runs on the"], references[0])
    assert whole == pytest.approx(10)
    assert broken < CiderReward(references, end="")(["a dog runs on the"], references[0])[0]


def critic(model: Stage2, samples: int = 4) -> SelfCritical:
    references = [["a red dog"], ["a blue cat"], ["the snow"]]
    return SelfCritical(model, CiderReward(references), samples)


def test_worth_is_the_score_above_that_of_the_others():
    model = stage2().train()
    judge = critic(model)
    torch.manual_seed(0)
    truth = [["a red dog"], ["a blue cat"]]
    drawn, worth, mean = judge(features(2), ["describe", "describe"], truth)
    assert model.prompt.training
    assert [len(captions) for captions in drawn] == [4, 4]
    scores = [judge.reward(own, of) for own, of in zip(drawn, truth, strict=True)]
    for row, own in zip(worth.unflatten(0, (2, 4)).tolist(), scores, strict=True):
        for number, value in enumerate(row):
            others = [score for other, score in enumerate(own) if other != number]
            assert value == pytest.approx(own[number] - sum(others) / 3, abs=1e-5)
    assert mean == pytest.approx(sum(map(sum, scores)) / 8, abs=1e-6)


def test_a_step_makes_worthy_captions_likelier_and_the_others_less():
    model = stage2()
    photos, said = features(2), told(["describe"] * 2, ["a dog", "a cat"])
    drawn = [[[("describe", "the red ball")], [("describe", "a street")]], [[("describe", "snow")]]]
    worth = torch.tensor([1.0, -1.0, 0.0])
    losses = model(photos, said, drawn=drawn, worth=worth)
    alone = model(photos, said)
    torch.testing.assert_close(losses["lm"], alone["lm"])
    with torch.no_grad():
        before = model.language.log_likelihoods(model.prompt(photos), drawn)
    assert float(losses["reward"]) == pytest.approx(
        float(-(worth * before).sum()) / model.language.told_length(drawn), rel=1e-5
    )
    losses["reward"].backward()
    with torch.no_grad():
        for parameter in model.prompt.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
        after = model.language.log_likelihoods(model.prompt(photos), drawn)
    assert after[0] > before[0] and after[1] < before[1]


def test_learning_from_samples_raises_the_score():
    """Some fifty steps on two photos, from a model that says anything."""
    model = stage2()
    model.language.model.requires_grad_(True)
    photos, truth = features(2), [["a red dog"], ["a blue cat"]]
    judge = critic(model, samples=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    scores = []
    for step in range(60):
        torch.manual_seed(step)
        drawn, worth, score = judge(photos, ["describe"] * 2, truth)
        own = [[[("describe", text)] for text in texts] for texts in drawn]
        losses = model(photos, told(["describe"] * 2, ["a", "a"]), drawn=own, worth=worth)
        optimizer.zero_grad()
        losses["reward"].backward()
        optimizer.step()
        scores.append(score)
    assert sum(scores[-10:]) > 2 * sum(scores[:10]) > 0
