"""Image encoders, their features against what they are made of."""

import numpy as np
import torch
import torch.nn.functional as F
from skimage.color import rgb2lab

from blip2.colours import COLOURS, colour_shares
from blip2.efficientnet import (
    EfficientNetLite,
    EfficientNetLiteBeforeHead,
    EfficientNetLiteTwoScales,
    EfficientNetLiteTwoSizes,
)


def test_two_scales_are_the_last_map_and_the_finer_one_cell_by_cell():
    """Each normalised by itself; a cell of the last row or column covers half as much."""
    torch.manual_seed(0)
    two, one = EfficientNetLiteTwoScales().freeze(), EfficientNetLite().freeze()
    one.load_state_dict(two.state_dict())
    finer = []
    two.net._blocks[14].register_forward_hook(lambda _, inputs, output: finer.append(output))
    pixels = torch.randn(2, 3, 260, 260)
    features = two(pixels)
    assert features.shape == (2, two.num_tokens, two.width) == (2, 81, 1400)
    assert finer[0].shape == (2, 120, 17, 17)
    last = F.layer_norm(one(pixels), [1280])
    torch.testing.assert_close(features[..., :1280], last, rtol=1e-4, atol=1e-5)
    for row in range(9):
        for column in range(9):
            part = finer[0][:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            own = part.mean((2, 3))  # [2, 120]
            spread = (own.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
            own = (own - own.mean(1, keepdim=True)) / spread
            found = features[:, 9 * row + column, 1280:]
            torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-5)


def test_two_scales_have_the_layers_of_one():
    """So that fine-tuning gives each the rate of its depth."""
    two, one = EfficientNetLiteTwoScales(), EfficientNetLite()
    assert two.num_layers == one.num_layers
    names = [name for name, _ in one.named_parameters()]
    assert [name for name, _ in two.named_parameters()] == names
    assert [two.layer_of(name) for name in names] == [one.layer_of(name) for name in names]


def test_before_the_head_is_what_the_head_reads():
    torch.manual_seed(0)
    whole, before = EfficientNetLite().freeze(), EfficientNetLiteBeforeHead().freeze()
    before.net.load_state_dict(whole.net.state_dict(), strict=False)
    read = []
    whole.net._conv_head.register_forward_hook(lambda _, inputs, output: read.append(inputs[0]))
    pixels = torch.randn(2, 3, 260, 260)
    whole(pixels)
    expected = read[0].flatten(2).transpose(1, 2)
    assert expected.shape == (2, 81, before.width) == (2, 81, 352)
    torch.testing.assert_close(before(pixels), expected)


def test_two_sizes_are_the_photo_and_its_larger_mirror_image():
    """The cells of the mirror image lie where they are on the photo."""
    torch.manual_seed(0)
    two, scales = EfficientNetLiteTwoSizes().freeze(), EfficientNetLiteTwoScales().freeze()
    scales.load_state_dict(two.state_dict())
    pixels = torch.rand(2, 3, 388, 388) * 2 - 1
    found = two(pixels)
    assert found.shape == (2, two.num_tokens, two.width) == (2, 250, 1411)
    small = F.interpolate(pixels, (260, 260), mode="bicubic", antialias=True)
    torch.testing.assert_close(found[:, :81, :1400], scales(small))
    mirrored = scales(pixels.flip(-1))
    for row in range(13):
        for column in range(13):
            own = found[:, 81 + 13 * row + column, :1400]
            torch.testing.assert_close(own, mirrored[:, 13 * row + 12 - column])
    assert two.transform.size == two.image_size == 388


def test_each_cell_says_which_colours_it_has():
    names = list(COLOURS)
    photo = torch.zeros(1, 3, 130, 130)
    photo[0, :, :, :65] = torch.tensor(COLOURS["red"])[:, None, None]
    photo[0, :, :, 65:] = torch.tensor(COLOURS["blue"])[:, None, None]
    shares = (colour_shares(photo, (2, 1)) / 4 + 0.2) ** 2  # [1, 5, 11]
    torch.testing.assert_close(shares.sum(-1), torch.ones(1, 5), atol=1e-3, rtol=0)
    red, blue = names.index("red"), names.index("blue")
    for cell, colour in enumerate((red, blue, red, blue)):  # row by row
        assert shares[0, cell, colour] > 0.9  # neighbours in Lab get the rest
    halves = torch.tensor([0.5, 0.5])
    torch.testing.assert_close(shares[0, 4, [red, blue]], halves, atol=0.05, rtol=0)


def test_colours_are_compared_in_lab():
    """Each pixel goes to the names by its distance there, as scikit-image has it."""
    torch.manual_seed(0)
    photo = (torch.rand(1, 3, 130, 130) * 255).round()
    lab = rgb2lab(photo[0].permute(1, 2, 0).numpy() / 255)  # [130, 130, 3]
    typical = rgb2lab(np.array(list(COLOURS.values()))[None] / 255)[0]  # [11, 3]
    far = ((lab[:, :, None] - typical) ** 2).sum(-1)
    likely = np.exp(-(far - far.min(-1, keepdims=True)) / (2 * 12**2))
    likely /= likely.sum(-1, keepdims=True)
    expected = np.sqrt(likely[26:52, 104:].mean((0, 1)))
    found = colour_shares(photo, (5,))[0, 5 + 4] / 4 + 0.2
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_weights_of_cells_are_laid_out_where_both_sizes_have_them():
    two = EfficientNetLiteTwoSizes()
    weights = torch.zeros(3, 250)
    weights[0, 0] = 1  # the first of 9 x 9: a 13th of the side and 4 / 9 of the next
    weights[1, 81 + 13 * 12 + 2] = 1
    weights[2] = torch.rand(250)
    maps = two.lay_out(weights)
    assert maps.shape == (3, 13, 13)
    part = torch.tensor([9 / 13, 4 / 13])
    torch.testing.assert_close(maps[0, :2, :2], part[:, None] * part)
    assert maps[0].count_nonzero() == 4
    assert maps[1].nonzero().tolist() == [[12, 2]]
    torch.testing.assert_close(maps.sum((1, 2)), weights.sum(1))
