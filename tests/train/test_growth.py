"""Starting from a model that read less of a photo."""

from dataclasses import replace

import pytest
import torch

from blip2.checkpoint_files import CheckpointError
from blip2.checkpoints import fill
from blip2.config import Blip2Config
from blip2.representation import Representation
from tests.tiny import STAGE1
from train.growth import grown

NARROW = replace(STAGE1, image_positions=81, qformer=replace(STAGE1.qformer, encoder_width=1400))
WIDE = replace(
    NARROW,
    image_encoder="efficientnet-lite2-two-sizes",
    image_positions=250,
    qformer=replace(NARROW.qformer, encoder_width=1411),
)


def filled(config: Blip2Config, start: Representation) -> Representation:
    torch.manual_seed(1)
    model = Representation(config).eval()
    fill(model, grown(start.state_dict(), config), "the start")
    return model


@pytest.fixture
def start() -> Representation:
    torch.manual_seed(0)
    return Representation(NARROW).eval()


def test_what_is_new_counts_for_nothing_at_first(start):
    """The keys of the smaller size's cells are the start's, whatever the new channels say."""
    model = filled(WIDE, start)
    torch.manual_seed(2)
    features = torch.randn(2, 250, 1411)
    features[..., 1400:] = 0
    # As the LayerNorm of 1411 channels leaves them, so that both models read the same.
    known = features[:, :81, :1400]
    own = start.qformer.image_states(start.image_reader.norm(known) + start.image_reader.positions)
    normed = torch.cat([start.image_reader.norm(known), torch.randn(2, 81, 11)], dim=-1)
    told = model.qformer.image_states(normed + model.image_reader.positions[:81])
    for new, old in zip(told.layers, own.layers, strict=True):
        torch.testing.assert_close(new.key, old.key)
        torch.testing.assert_close(new.value, old.value)
    assert (model.image_reader.norm.weight[1400:] == 1).all()
    assert (model.image_reader.norm.bias[1400:] == 0).all()


def test_positions_are_spread_over_the_larger_grid(start):
    rows = torch.arange(9.0).repeat_interleave(9) / 9 + 1 / 18  # the height of each cell's middle
    with torch.no_grad():
        start.image_reader.positions[:] = rows[:, None]
    positions = filled(WIDE, start).image_reader.positions
    torch.testing.assert_close(positions[:81, :1400], start.image_reader.positions)
    larger = positions[81:, 0].unflatten(0, (13, 13))
    middles = torch.arange(13.0) / 13 + 1 / 26
    torch.testing.assert_close(larger[2:-2, 4], middles[2:-2], atol=0.01, rtol=0)
    assert (positions[:, 1400:] == 0).all()


def test_a_model_of_the_same_make_stays_as_it_is(start):
    assert grown(start.state_dict(), NARROW).keys() == start.state_dict().keys()
    for name, value in grown(start.state_dict(), NARROW).items():
        assert value is start.state_dict()[name] or torch.equal(value, start.state_dict()[name])


def test_what_no_encoder_can_spread_is_refused(start):
    other = replace(NARROW, image_encoder="efficientnet-lite0", image_positions=49)
    with pytest.raises(CheckpointError, match=r"positions has shape \[81, 1400\] instead of \[49"):
        filled(other, start)
