"""ITC, ITM and ITG against plain reference implementations, pair by pair in Python."""

import math

import pytest
import torch
import torch.nn.functional as F

from blip2.objectives import (
    diversity_loss,
    hard_negatives,
    itc_loss,
    itc_targets,
    itg_loss,
    itm_loss,
    similarity,
)
from blip2.representation import Representation
from tests.tiny import STAGE1, features

IDS = torch.tensor([[1, 5, 9, 12, 2], [1, 6, 8, 2, 0], [1, 7, 10, 11, 2], [1, 9, 2, 0, 0]])
MASK = (IDS != 0).long()
PHOTOS = torch.tensor([7, 8, 7, 9])  # the first and the third pair share a photo


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def slow_similarity(image, text):
    table = torch.empty(len(image), len(text))
    for i, queries in enumerate(image):
        for t, words in enumerate(text):
            table[i, t] = max(sum(a * b for a, b in zip(q, words, strict=True)) for q in queries)
    return table


def slow_cross_entropy(logits, targets, smoothing):
    """Mean over rows of -sum target * log softmax, each target mixed with a uniform one."""
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        norm = math.log(sum(math.exp(x) for x in row))
        total -= sum(
            ((1 - smoothing) * t + smoothing / len(row)) * (x - norm)
            for x, t in zip(row, target, strict=True)
        )
    return total / len(logits)


def test_similarity_is_that_of_the_best_query():
    image, text = unit(3, 4, 8), unit(5, 8, seed=1)
    torch.testing.assert_close(similarity(image, text), slow_similarity(image, text))


def test_targets_are_shared_over_a_photo():
    half = [0.5, 0, 0.5, 0]
    assert itc_targets(PHOTOS).tolist() == [half, [0, 1, 0, 0], half, [0, 0, 0, 1]]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("each", [1, 3])
def test_itc_against_reference(smoothing, each):
    """With one text a photo, and with three, which share its target."""
    image, text = unit(4, 4, 8), unit(4 * each, 8, seed=1)
    sim = slow_similarity(image, text)
    of_photos, of_texts = torch.zeros(4, 4 * each), torch.zeros(4 * each, 4)
    for i in range(4):
        same = [j for j in range(4 * each) if PHOTOS[j // each] == PHOTOS[i]]
        for j in same:
            of_photos[i, j] = 1 / len(same)
            of_texts[j, i] = each / len(same)
    logits = sim / 0.07
    expected = (
        slow_cross_entropy(logits, of_photos, smoothing)
        + slow_cross_entropy(logits.T, of_texts, smoothing)
    ) / 2
    loss = itc_loss(similarity(image, text), torch.tensor(0.07), PHOTOS, smoothing)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_hard_negatives_follow_the_similarity_and_are_never_of_the_same_photo():
    sim = torch.tensor(
        [[0.9, 0.1, 0.8, 0.3], [0.2, 0.9, 0.1, 0.0], [0.8, 0.3, 0.9, 0.1], [0.4, 0.0, 0.1, 0.9]]
    )
    torch.manual_seed(0)
    draws = 4000
    images = torch.zeros(4, 4)
    texts = torch.zeros(4, 4)
    for _ in range(draws):
        drawn_images, drawn_texts = hard_negatives(sim, torch.tensor(0.3), PHOTOS)
        images[torch.arange(4), drawn_images] += 1
        texts[torch.arange(4), drawn_texts] += 1
    for i in range(4):
        wrong = [j for j in range(4) if PHOTOS[j] != PHOTOS[i]]
        for counts, row in ((images, sim[:, i]), (texts, sim[i])):
            weights = {j: math.exp(row[j] / 0.3) for j in wrong}
            for j in range(4):
                expected = weights.get(j, 0) / sum(weights.values())
                assert counts[i, j] / draws == pytest.approx(expected, abs=0.03)


def test_hardness_zero_draws_uniformly():
    sim = torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0]])
    torch.manual_seed(0)
    drawn = torch.stack(
        [hard_negatives(sim, torch.tensor(0.07), torch.arange(3), 0.0)[1] for _ in range(2000)]
    )
    assert float((drawn[:, 0] == 1).float().mean()) == pytest.approx(0.5, abs=0.04)


def test_hard_negatives_need_two_photos():
    with pytest.raises(ValueError, match="two different photos"):
        hard_negatives(torch.eye(2), torch.tensor(1.0), torch.tensor([3, 3]))


def test_itm_and_itg_against_reference():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 4, 2, 3, 0])
    one_hot = F.one_hot(targets, 5).float()
    expected = slow_cross_entropy(logits, one_hot, 0.1)
    assert float(itg_loss(logits, targets)) == pytest.approx(expected, rel=1e-5)
    matched = torch.tensor([1, 0, 0, 1, 0, 1])
    expected = slow_cross_entropy(logits[:, :2], F.one_hot(matched, 2).float(), 0.0)
    assert float(itm_loss(logits[:, :2], matched)) == pytest.approx(expected, rel=1e-5)
    expected = slow_cross_entropy(logits[:, :2], F.one_hot(matched, 2).float(), 0.2)
    assert float(itm_loss(logits[:, :2], matched, 0.2)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("hidden", [[], [(0, 2), (3, 1)]])
def test_the_losses_of_a_batch_against_pair_by_pair_passes(monkeypatch, hidden):
    """The whole stage: shared image keys, gathered negatives, cached queries, trimmed padding.

    Pieces that are hidden are read as piece 4 by all three, and ITG predicts what they were.
    """
    torch.manual_seed(0)
    read = IDS.clone()
    for row, column in hidden:
        read[row, column] = 4
    model = Representation(STAGE1).eval()
    photos = features(4)
    wrong_images, wrong_texts = torch.tensor([1, 3, 3, 0]), torch.tensor([3, 0, 1, 2])
    monkeypatch.setattr(
        "blip2.representation.hard_negatives", lambda *_: (wrong_images, wrong_texts)
    )
    with torch.no_grad():
        losses = {k: float(v) for k, v in model(photos, IDS, MASK, PHOTOS, read_ids=read).items()}

        def one(i, t, kind, first=None):
            """One pair alone, unpadded, with keys of its own."""
            ids = read[t : t + 1, : int(MASK[t].sum())].clone()
            if first is not None:
                ids[0, 0] = first
            states = model.image_states(photos[i : i + 1])
            return ids, model.qformer(states, ids, torch.ones_like(ids), kind)

        image = torch.cat([one(i, 0, "unimodal")[1].queries for i in range(4)])
        text = torch.cat([one(0, t, "unimodal")[1].text[:, 0] for t in range(4)])
        image = F.normalize(model.image_projection(image), dim=-1)
        text = F.normalize(model.text_projection(text), dim=-1)
        sim = slow_similarity(image, text)
        itc = float(itc_loss(sim, model.temperature, PHOTOS))

        pairs = [(i, i, 1) for i in range(4)]
        pairs += [(int(wrong_images[t]), t, 0) for t in range(4)]
        pairs += [(i, int(wrong_texts[i]), 0) for i in range(4)]
        itm = 0.0
        for i, t, label in pairs:
            queries = one(i, t, "bidirectional")[1].queries[0]
            scores = torch.stack([model.itm_head(query) for query in queries]).mean(0)
            itm -= float(scores.log_softmax(-1)[label]) / len(pairs)

        total, count = 0.0, 0
        for i in range(4):
            ids, out = one(i, i, "multimodal_causal", first=model.dec_token_id)
            for position in range(ids.shape[1] - 1):
                logits = model.lm_logits(out.text[0, position]).log_softmax(-1)
                total -= 0.9 * float(logits[IDS[i, position + 1]]) + 0.1 * float(logits.mean())
                count += 1
    assert losses["itc"] == pytest.approx(itc, rel=1e-4)
    assert losses["itm"] == pytest.approx(itm, rel=1e-4)
    assert losses["itg"] == pytest.approx(total / count, rel=1e-4)


def test_diversity_against_loops_and_its_ends():
    torch.manual_seed(0)
    queries = torch.randn(3, 4, 6)
    total = 0.0
    for photo in range(3):
        said = [queries[photo, q] - sum(queries[p, q] for p in range(3)) / 3 for q in range(4)]
        gram = torch.zeros(4, 4)
        for i in range(4):
            for j in range(4):
                gram[i, j] = (said[i] @ said[j]) / (said[i].norm() * said[j].norm())
            gram[i, i] += 0.01
        total -= float(torch.linalg.det(gram).log()) / 4
    assert float(diversity_loss(queries)) == pytest.approx(total / 3, rel=1e-4)
    # What is the same in every photo does not count, however far apart the queries are.
    same = torch.randn(3, 1, 6).expand(3, 4, 6) + 10 * torch.randn(1, 4, 6)
    assert float(diversity_loss(same)) > 3
    signs = torch.tensor([1.0, -1.0]).view(2, 1, 1)
    assert abs(float(diversity_loss(signs * torch.eye(4, 6)))) < 0.02


def test_diversity_parts_queries_that_have_become_one():
    torch.manual_seed(0)
    queries = (torch.randn(8, 1, 16) + 0.03 * torch.randn(8, 4, 16)).requires_grad_()
    optimizer = torch.optim.Adam([queries], lr=0.02)
    start = float(diversity_loss(queries).detach())
    for _ in range(60):
        optimizer.zero_grad()
        diversity_loss(queries).backward()
        optimizer.step()
    assert start > 2 and float(diversity_loss(queries).detach()) < 0.3
