"""Image encoders, their features against what they are made of."""

import torch
import torch.nn.functional as F

from blip2.vision import EfficientNetLite, EfficientNetLiteTwoScales


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
