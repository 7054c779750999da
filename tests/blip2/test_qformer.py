"""The Q-Former's masks, proven by changing one thing and looking at what moves."""

import pytest
import torch

from blip2.config import PRESETS
from blip2.qformer import ImageStates, KeyValue, QFormer, attention_mask
from blip2.representation import Representation
from tests.tiny import QFORMER, STAGE1, features

IDS = torch.tensor([[1, 5, 9, 12, 2], [1, 6, 8, 2, 0]])
MASK = (IDS != 0).long()


@pytest.fixture
def qformer():
    torch.manual_seed(0)
    return QFormer(QFORMER).eval()


@pytest.fixture
def image(qformer):
    return qformer.image_states(features(2))


def run(qformer, image, kind, ids=IDS):
    with torch.no_grad():
        out = qformer(image, ids, MASK, kind)
    return out.queries, out.text


def changed(position: int) -> torch.Tensor:
    ids = IDS.clone()
    ids[0, position] = 15
    return ids


@pytest.mark.parametrize("kind", ["unimodal", "multimodal_causal"])
def test_queries_do_not_see_the_text(qformer, image, kind):
    before, _ = run(qformer, image, kind)
    after, _ = run(qformer, image, kind, changed(2))
    assert torch.equal(before, after)


def test_queries_see_the_text_in_itm(qformer, image):
    before, _ = run(qformer, image, "bidirectional")
    after, _ = run(qformer, image, "bidirectional", changed(2))
    assert (before[0] - after[0]).abs().amax(-1).min() > 1e-3  # every query moves
    assert torch.equal(before[1], after[1])  # and no other photo's


def test_text_does_not_see_the_queries_in_itc(qformer, image):
    _, before = run(qformer, image, "unimodal")
    _, after = run(qformer, qformer.image_states(features(2, seed=1)), "unimodal")
    assert torch.equal(before, after)


@pytest.mark.parametrize("kind", ["bidirectional", "multimodal_causal"])
def test_text_sees_the_image_through_the_queries(qformer, image, kind):
    _, before = run(qformer, image, kind)
    _, after = run(qformer, qformer.image_states(features(2, seed=1)), kind)
    assert (before - after)[MASK.bool()].abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("position", [1, 2, 3])
def test_no_past_token_sees_a_future_one_in_itg(qformer, image, position):
    _, before = run(qformer, image, "multimodal_causal")
    _, after = run(qformer, image, "multimodal_causal", changed(position))
    assert torch.equal(before[0, :position], after[0, :position])
    assert (before - after)[0, position:].abs().amax(-1).min() > 1e-4


def test_early_text_sees_late_text_in_itm_and_itc(qformer, image):
    for kind in ("bidirectional", "unimodal"):
        _, before = run(qformer, image, kind)
        _, after = run(qformer, image, kind, changed(3))
        assert (before[0, 0] - after[0, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["bidirectional", "unimodal", "multimodal_causal"])
def test_padding_changes_nothing(qformer, image, kind):
    queries, text = run(qformer, image, kind)
    short_ids, short_mask = IDS[1:, :4], MASK[1:, :4]
    with torch.no_grad():
        out = qformer(image.select(torch.tensor([1])), short_ids, short_mask, kind)
    torch.testing.assert_close(out.queries, queries[1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.text, text[1:, :4], rtol=0, atol=1e-5)


def test_masks_written_out():
    text = torch.tensor([[1, 1, 0]])
    seen = {k: attention_mask(k, 2, text)[0, 0].int().tolist() for k in
            ("unimodal", "bidirectional", "multimodal_causal")}  # fmt: skip
    q, t = [1, 1, 0, 0, 0], [0, 0, 1, 1, 0]
    assert seen["unimodal"] == [q, q, t, t, t]
    assert seen["bidirectional"] == [[1, 1, 1, 1, 0]] * 5
    assert seen["multimodal_causal"] == [q, q, [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]


def test_separate_passes_equal_the_joint_pass(qformer, image):
    """ITC runs queries and text apart, ITG reuses the queries' keys: both must change nothing."""
    with torch.no_grad():
        joint = qformer(image, IDS, MASK, "unimodal")
        alone = qformer.encode_image(image)
        text = qformer.encode_text(IDS, MASK).text
        causal = qformer(image, IDS, MASK, "multimodal_causal")
        decoded = qformer.decode(IDS, MASK, alone.cache)
    real = MASK.bool()
    torch.testing.assert_close(alone.queries, joint.queries, rtol=0, atol=1e-5)
    torch.testing.assert_close(text[real], joint.text[real], rtol=0, atol=1e-5)
    torch.testing.assert_close(decoded[real], causal.text[real], rtol=0, atol=1e-5)


def test_an_answer_sees_what_queries_and_question_read(qformer, image):
    """The slow way: the question's padding cut off, the answer behind it in one pass a row."""
    answer = torch.tensor([[9, 6, 8], [9, 7, 2]])
    with torch.no_grad():
        read = qformer(image, IDS, MASK, "bidirectional").cache
        queries = MASK.new_ones(2, QFORMER.num_queries)
        seen = torch.cat([queries, MASK], dim=1)
        decoded = qformer.decode(answer, torch.ones_like(answer), read, seen)
        blind = qformer.decode(answer, torch.ones_like(answer), read)
        for row in range(2):
            length = int(MASK[row].sum())
            own = image.select(torch.tensor([row]))
            ids = IDS[row : row + 1, :length]
            alone = qformer(own, ids, torch.ones_like(ids), "bidirectional").cache
            single = qformer.decode(answer[row : row + 1], torch.ones(1, 3), alone)
            torch.testing.assert_close(decoded[row : row + 1], single, rtol=0, atol=1e-5)
    assert not torch.allclose(blind, decoded, atol=1e-3)  # or padding would not matter


def test_piece_by_piece_equals_the_text_at_once(qformer, image):
    ids = IDS[:, :4]
    with torch.no_grad():
        cache = qformer.encode_image(image).cache
        whole = qformer.decode(ids, torch.ones_like(ids), cache)
        for position in range(4):
            text, cache = qformer.decode_next(ids[:, position : position + 1], position, cache)
            torch.testing.assert_close(text[:, 0], whole[:, position], rtol=0, atol=1e-5)
    assert cache[0].key.shape[2] == QFORMER.num_queries + 4


def test_selecting_image_states_equals_computing_them(qformer):
    photos = features(3)
    index = torch.tensor([2, 0, 2])
    chosen = qformer.image_states(photos).select(index)
    again = qformer.image_states(photos[index])
    for one, other in zip(chosen.layers, again.layers, strict=True):
        torch.testing.assert_close(one.key, other.key, rtol=0, atol=1e-6)
        torch.testing.assert_close(one.value, other.value, rtol=0, atol=1e-6)
    assert len(chosen) == 3


def test_cross_attention_stands_in_every_other_layer(qformer):
    assert [layer.cross_attention is not None for layer in qformer.layers] == [True, False, True]
    layers = qformer.image_states(features(2)).layers
    assert [type(states) for states in layers] == [KeyValue, KeyValue]
    assert layers[0].key.shape == (2, 4, 9, 8)  # [B, heads, N, head_dim]
    assert isinstance(ImageStates(layers), ImageStates)


def test_parameter_count_of_the_paper():
    """Public training logs of stage 1 with ViT-g give this number."""
    with torch.device("meta"):
        model = Representation(PRESETS["pretrain-vit-g"])
    assert sum(p.numel() for p in model.parameters()) == 186_705_470


def test_plain_attention_equals_the_fused_one():
    """In bf16 on a CPU training takes the plain formula; in fp32 the fused kernel."""
    torch.manual_seed(0)
    model = Representation(STAGE1).eval()
    with torch.no_grad():
        fused = model.match_logits(model.image_states(features(2)), IDS, MASK)
    with torch.autocast("cpu", torch.bfloat16):
        plain = model.match_logits(model.image_states(features(2)), IDS, MASK)
    torch.testing.assert_close(plain, fused, rtol=0.05, atol=0.05)
