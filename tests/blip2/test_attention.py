"""Where the queries looked: true weights, an untouched pass, and maps that lie on the photo."""

import math
import threading
from dataclasses import replace

import pytest
import torch
from PIL import Image

from blip2.attention import photo_maps, watch
from blip2.efficientnet import (
    EfficientNetLite,
    EfficientNetLite0,
    EfficientNetLiteBeforeHead,
    EfficientNetLiteTwoScales,
    EfficientNetLiteTwoSizes,
)
from blip2.errors import UserError
from blip2.generation import Blip2
from blip2.qformer import QFormer
from blip2.tokenization import TextTokenizer
from blip2.vision import ImageEncoder
from blip2.vision_transformers import ClipViT, EvaViT
from blip2.visual_prompt import VisualPrompt
from tests.tiny import QFORMER, STAGE2, Cells, features, language_model, text_tokenizer

IDS = torch.tensor([[1, 5, 9, 12, 2], [1, 6, 8, 2, 0]])
MASK = (IDS != 0).long()


@pytest.fixture
def qformer():
    torch.manual_seed(0)
    return QFormer(QFORMER).eval()


def blip2(tmp_path=None) -> Blip2:
    """A tiny model; with a folder, one whose Q-Former reads questions."""
    torch.manual_seed(0)
    config = replace(STAGE2, reads_question=tmp_path is not None)
    prompt, tokenizer = VisualPrompt(config).eval(), None
    torch.nn.init.zeros_(prompt.image_reader.positions)  # cells of one colour are the same
    if tmp_path is not None:
        text_tokenizer().save(str(tmp_path / "tokenizer.json"))
        tokenizer = TextTokenizer(tmp_path, 16)
    device = torch.device("cpu")
    return Blip2("tiny", "", Cells().freeze(), prompt, language_model(), device, tokenizer)


def photo(row: int, column: int) -> Image.Image:
    """Blue and twice as wide as high, with one red cell of nine."""
    picture = Image.new("RGB", (240, 120), "blue")
    picture.paste("red", (80 * column, 40 * row, 80 * column + 80, 40 * row + 40))
    return picture


def test_weights_equal_the_formula_written_out(qformer):
    cross = qformer.layers[0].cross_attention
    x, photos = torch.randn(2, 4, 32), features(2)
    with torch.no_grad():
        states = cross.key_value(photos)
        weights = cross.weights(x, states)
        query, key = cross.query(x).double(), cross.key(photos).double()
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            for image in range(2):
                for q in range(4):
                    scores = [
                        math.exp(float(query[image, q, part] @ key[image, n, part]) / math.sqrt(8))
                        for n in range(9)
                    ]
                    expected = torch.tensor([score / sum(scores) for score in scores])
                    torch.testing.assert_close(weights[image, head, q], expected, rtol=0, atol=1e-6)
        mixed = (weights @ states.value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(cross(x, states), cross.norm(x + cross.output(mixed)))
    assert weights.std() > 0.02  # weights that tell


def test_weights_of_bf16_are_summed_in_fp32(qformer):
    cross = qformer.layers[0].cross_attention.bfloat16()
    x, photos = torch.randn(1, 4, 32).bfloat16(), features(1).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        weights = cross.weights(x, cross.key_value(photos))
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["alone", "bidirectional", "multimodal_causal"])
def test_watching_changes_no_bit(qformer, kind):
    def queries():
        states = qformer.image_states(features(2))
        if kind == "alone":
            return qformer.encode_image(states).queries
        return qformer(states, IDS, MASK, kind).queries

    with torch.no_grad():
        before = queries()
        with watch(qformer) as seen:
            watched = queries()
        after = queries()
    assert torch.equal(before, watched) and torch.equal(before, after)
    assert [layer.shape for layer in seen] == [(2, 4, 9)] * 2  # layers 0 and 2; text has no row
    for layer in seen:
        torch.testing.assert_close(layer.sum(-1), torch.ones(2, 4), rtol=0, atol=1e-6)
    first = qformer.layers[0]
    with torch.no_grad():
        states = qformer.image_states(features(2)).layers[0]
        if kind != "bidirectional":  # there the text moves what enters cross-attention
            alone = qformer.embed_queries(2)
            alone = first.attention(alone, first.attention.key_value(alone))
            expected = first.cross_attention.weights(alone, states).mean(1)
            torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-5)


def test_hooks_go_also_after_an_error(qformer):
    with pytest.raises(RuntimeError, match="mat1"), watch(qformer) as seen:
        qformer.encode_image(qformer.image_states(torch.zeros(1, 9, 7)))  # not its width
    assert not any(module._forward_hooks for module in qformer.modules())
    qformer.encode_image(qformer.image_states(features(1)))
    assert seen == []


def test_passes_of_other_threads_are_left_out(qformer):
    states = qformer.image_states(features(1))
    with watch(qformer) as seen:
        other = threading.Thread(target=qformer.encode_image, args=[states])
        other.start()
        other.join()
        assert seen == []
        qformer.encode_image(states)
    assert len(seen) == 2


def eva() -> EvaViT:
    from transformers import Blip2VisionConfig, Blip2VisionModel

    return EvaViT(Blip2VisionModel(Blip2VisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=56, patch_size=14,
    )))  # fmt: skip


def clip(image_size: int | None = None) -> ClipViT:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return ClipViT(CLIPVisionModel(CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=56, patch_size=14,
    )), image_size)  # fmt: skip


@pytest.mark.parametrize(
    ("build", "grid", "ahead", "off"),
    [
        (Cells, (3, 3), 0, 0),
        (EfficientNetLite, (9, 9), 0, 1),  # strides and padding may shift by a cell
        (EfficientNetLite0, (7, 7), 0, 1),
        (EfficientNetLiteBeforeHead, (9, 9), 0, 1),
        (EfficientNetLiteTwoScales, (9, 9), 0, 1),
        (EfficientNetLiteTwoSizes, (13, 13), 0, 1),
        (eva, (4, 4), 1, 0),
        (clip, (4, 4), 1, 0),
        (lambda: clip(84), (6, 6), 1, 0),
    ],
)
def test_features_lie_on_the_photo_as_the_encoder_says(build, grid, ahead, off):
    """One cell of noise in an empty photo moves the feature that stands for this cell the most."""
    torch.manual_seed(0)
    encoder = build().freeze()
    assert (encoder.grid, encoder.num_ahead) == (grid, ahead)
    size, cells = encoder.image_size, [(1, grid[1] - 1), (grid[0] - 1, 0)]
    photos = torch.zeros(3, 3, size, size)  # the last stays empty
    for photo, (row, column) in zip(photos, cells, strict=False):
        rows = slice(size * row // grid[0], size * (row + 1) // grid[0])
        columns = slice(size * column // grid[1], size * (column + 1) // grid[1])
        photo[:, rows, columns] = 3 * torch.randn_like(photo[:, rows, columns])
    out = encoder(photos)
    assert out.shape[1:] == (encoder.num_tokens, encoder.width)
    moved = encoder.lay_out((out[:2] - out[2]).norm(dim=-1)).flatten(1)  # [2, rows * columns]
    for most, (row, column) in zip(moved.argmax(1).tolist(), cells, strict=True):
        assert abs(most // grid[1] - row) <= off and abs(most % grid[1] - column) <= off


def test_features_that_make_no_square_ask_for_a_grid():
    encoder = ImageEncoder(8, 10, 24, mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(ValueError, match="10 features make no square"):
        _ = encoder.grid


def test_maps_leave_out_the_class_token_and_the_first_layer():
    encoder = clip()
    layers = [torch.zeros(1, 2, 17) for _ in range(3)]
    layers[0][..., 3] = 1
    layers[1][0, 0, [0, 1]] = torch.tensor([0.5, 0.5])  # class token and the first cell
    layers[2][0, 0, 16] = 1
    layers[1][0, 1, 8] = layers[2][0, 1, 8] = 1
    maps = photo_maps(layers, encoder)
    expected = torch.zeros(1, 2, 4, 4)
    expected[0, 0, 0, 0], expected[0, 0, 3, 3] = 1 / 3, 2 / 3
    expected[0, 1, 1, 3] = 1
    torch.testing.assert_close(maps, expected)
    assert photo_maps(layers[:1], encoder)[0, 0, 0, 2] == 1  # an only layer counts


@pytest.mark.parametrize(("row", "column"), [(0, 2), (2, 1)])
def test_the_one_cell_that_differs_is_seen_where_it_is(row, column):
    model = blip2()
    maps = model.attention(photo(row, column))
    assert maps.shape == (4, 3, 3) and maps.dtype == torch.float32
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(4))
    usual = maps.flatten(1).median(1).values[:, None, None]
    away = (maps - usual).abs()  # [Q, 3, 3]
    assert (away.flatten(1).argmax(1) == 3 * row + column).all()
    assert (away[:, row, column] > 0.01).all()
    assert torch.equal(maps, model.attention(photo(row, column), "what is this"))
    with pytest.raises(UserError, match="instruction has 3,000 characters"):
        model.attention(photo(row, column), "a" * 3000)


def test_a_question_that_is_read_moves_the_maps(tmp_path):
    model = blip2(tmp_path)
    picture = photo(1, 1)
    dog, ball = (model.attention(picture, text) for text in ("a red dog", "what is this"))
    assert (dog - ball).abs().max() > 1e-3
    with watch(model.prompt.qformer) as seen:
        model.visual_prompt([picture], ["a red dog"])
    assert torch.equal(dog, photo_maps(seen, model.encoder)[0])
