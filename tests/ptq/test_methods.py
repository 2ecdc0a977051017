"""What every PTQ method must do, whatever it does inside."""

import pytest
import torch
from tests.tiny import VARIANTS, images, wrap

from quee_hf import quantize
from quee_hf.backbones.block import LevelSet
from quee_hf.backbones.trunk import Trunk
from quee_hf.ptq import PTQ_METHODS

LEVELS = [8, 6, 4, 2]


@pytest.fixture(scope="module", params=PTQ_METHODS)
def quantized(request):
    model = wrap(VARIANTS["vit"].build(), levels=LEVELS)
    quantize(model, images(4), method=request.param)
    return model


def test_every_tensor_is_there_in_its_kind(quantized):
    expected = Trunk(quantized.config.backbone_config, LevelSet(LEVELS, is_quantized=True)).state_dict()
    state = quantized.trunk.state_dict()
    assert {name: (t.shape, t.dtype) for name, t in state.items()} == {
        name: (t.shape, t.dtype) for name, t in expected.items()
    }
    for name, tensor in state.items():
        if "scale_" in name and "layer" not in name:
            assert (tensor > 0).all(), name


def test_more_bits_are_nearer_to_the_float_model(quantized):
    pixel_values = images(32, seed=5)
    exact = wrap(VARIANTS["vit"].build())(pixel_values).logits
    errors = [
        (quantized(pixel_values, path=(level,) * 3).logits - exact).square().mean().sqrt().item()
        for level in LEVELS
    ]
    # Two bits fewer make rounding errors four times as large, until they are as large as the logits themselves.
    # Over 32 images of 5 logits the root mean square varies by some 10 %.
    assert errors == sorted(errors)
    assert errors[0] < errors[2] / 4
    assert errors[0] < exact.std(dim=0).mean()


def test_levels_do_not_depend_on_each_other(quantized):
    alone = wrap(VARIANTS["vit"].build(), levels=[6])
    quantize(alone, images(4), method=quantized.config.quantization["method"])
    together = quantized.trunk.state_dict()
    for name, tensor in alone.trunk.state_dict().items():
        assert torch.equal(together[name], tensor), name
