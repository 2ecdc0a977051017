"""Tests of `Calibration`: what it collects, and that the network stays what it was."""

import pytest
import torch
from tests.tiny import VARIANTS, Variant, every_variant, images, wrap

from quee_hf import quantize
from quee_hf.ptq import PTQ_METHODS, MinMax, PTQ4ViT, RepQ
from quee_hf.ptq.calibration import Calibration
from quee_hf.quantize import calibrate

every_method = pytest.mark.parametrize("method", PTQ_METHODS)
NUM_BLOCKS = 2


def build(variant=VARIANTS["vit"], **fields):
    return wrap(variant.build(num_blocks=NUM_BLOCKS), levels=[8, 4], **fields)


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal(state, other):
    assert state.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())


@every_variant
@every_method
@pytest.mark.parametrize("smoothing", [None, 0.5])
def test_the_trunk_computes_the_same(variant: Variant, method, smoothing):
    model = build(variant)
    pixel_values = images(4, variant.image_size)
    before = snapshot(model)
    calibration = calibrate(model, pixel_values, method=method, smoothing=smoothing)
    assert_equal(before, model.state_dict())
    fresh = images(3, variant.image_size, seed=8)
    outputs = [
        trunk.run_blocks(trunk.embed(fresh), 0, NUM_BLOCKS, "fp32")
        for trunk in (model.trunk, calibration.trunk)
    ]
    # Re-parameterised: some float32 roundings of numbers of order 10, in sums of 32 and more.
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-3)


def test_hidden_states_are_those_of_the_model():
    model = build()
    calibration = calibrate(model, images(5), method="repq", smoothing=0.5, batch_size=2)
    hidden = model.embed(images(5))
    assert calibration.num_images == 5
    for index in range(NUM_BLOCKS):
        # Other batches, and blocks that are run before they are re-parameterised.
        torch.testing.assert_close(calibration.hidden[index], hidden, rtol=1e-5, atol=1e-5)
        hidden = model.trunk.run_blocks(hidden, index, index + 1, "fp32")


def test_gradients_are_there_if_the_method_needs_them():
    model = build()
    assert calibrate(model, images(2), method="min_max").cotangents is None
    calibration = calibrate(model, images(2), method="ptq4vit")
    assert [c.shape for c in calibration.cotangents] == [h.shape for h in calibration.hidden]
    assert calibration.observe(2)["fc1"].gradient is not None


def test_the_seed_is_of_random_labels():
    model = build()
    first, again, other = (
        calibrate(model, images(4), method="ptq4vit", seed=s).cotangents for s in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="There are no calibration images"):
        Calibration.collect(build().trunk, [], MinMax())


def test_a_method_may_be_given_made():
    one, other = build(), build()
    quantize(one, images(3), method=RepQ(ridge=0.01))
    quantize(other, images(3), method="repq", ridge=0.01)
    assert_equal(one.state_dict(), other.state_dict())
    assert one.config.quantization == other.config.quantization
    assert one.config.quantization["options"] == {"ridge": 0.01, "log": False}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, r"`method` must be one of \['min_max', .*got 'magic'"),
        ({"method": "mse", "ridge": 1}, r"'mse' has no option \['ridge'\]; it has \[\]"),
        ({"method": "repq", "rigde": 1}, r"'repq' has no option \['rigde'\]; it has \['log', 'ridge'\]"),
        ({"method": PTQ4ViT(), "gradient_source": "fisher"}, r"PTQ4ViT has its options already, got \['grad"),
        ({"method": "repq", "ridge": -1}, "`ridge` must be at least 0"),
        ({"smoothing": 2}, "`smoothing` must be"),
        ({"num_images": 0}, "`num_images` must be at least 1"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(build(), images(2), **options)


def test_a_quantized_model_is_refused():
    model = build()
    quantize(model, images(2), method="min_max")
    with pytest.raises(ValueError, match="already quantized; start from the float model"):
        calibrate(model, images(2))
