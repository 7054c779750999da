"""Texts in one tree against the same texts one by one."""

import random

import pytest
import torch

from blip2.prompts import OPT_FORM
from blip2.token_tree import TokenTree, tree_inputs
from tests.tiny import WORDS, language_model


def test_common_beginnings_are_there_once():
    tree = TokenTree.grow([([5, 6], [7, 8]), ([5, 6], [7, 9]), ([5], [6, 7])])
    assert tree.tokens == [5, 6, 7, 8, 9]
    assert tree.parents == [-1, 0, 1, 2, 2]
    assert tree.depths() == [0, 1, 2, 3, 3]
    # What predicts, and what is predicted: 7 is predicted of two texts, and read in the third.
    assert tree.steps == [[(1, 7), (2, 8)], [(1, 7), (2, 9)], [(0, 6), (1, 7)]]
    assert tree.seen().int().tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 1],
    ]  # fmt: skip


def test_an_answer_right_behind_the_root_is_predicted_by_it():
    assert TokenTree.grow([([], [4])]).steps == [[(-1, 4)]]


def test_mask_and_positions_of_trees_of_unequal_size():
    trees = [TokenTree.grow([([1], [2]), ([1], [3])]), TokenTree.grow([([1], [])])]
    mask, positions = tree_inputs(trees, 2, torch.float32)
    assert mask.shape == (2, 1, 5, 5)
    assert positions.tolist() == [[0, 1, 2, 3, 3], [0, 1, 2, 0, 0]]
    seen = (mask[:, 0] == 0).int().tolist()
    assert seen[0] == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 1],
    ]  # fmt: skip
    assert seen[1][2] == [1, 1, 1, 0, 0]
    assert all(sum(row) for row in seen[1])  # padding sees something, or it would be no number


@pytest.mark.parametrize("form", ["chat", "opt"])
def test_likelihoods_are_those_of_each_text_alone(form):
    language = language_model()
    if form == "opt":
        language.form = OPT_FORM
    draw = random.Random(4)
    visual = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(1))

    def sentence(length):
        return " ".join(draw.choices(WORDS, k=length))

    told = []
    for texts in (5, 1, 3):
        opening = [(sentence(3), sentence(2))]
        asked = sentence(4)
        told.append(
            [[*opening, (asked, f"a {sentence(draw.randint(1, 6))}")] for _ in range(texts)]
        )
        told[-1].append([(asked, sentence(2))])  # of another beginning
    expected = []
    for photo, texts in zip(visual, told, strict=True):
        for *past, (asked, answer) in texts:
            before = language.token_ids(language.form.before_photo)
            read = language.token_ids(language.form.text(past, asked))
            said = [*language.token_ids(answer), language.end_token_id]
            row = torch.cat([language.embed(before), photo, language.embed([*read, *said])])
            scores = language.model(inputs_embeds=row[None]).logits[0].log_softmax(-1)
            start = len(row) - len(said)
            expected.append(sum(scores[start + i - 1, token] for i, token in enumerate(said)))
    found = language.log_likelihoods(visual, told)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-4)
    lengths = [len(language.token_ids(turns[-1][1])) + 1 for texts in told for turns in texts]
    assert language.told_length(told) == sum(lengths)
