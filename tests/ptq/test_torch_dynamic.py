"""Tests of `torch_dynamic`: what `torch.ao.quantization.quantize_dynamic` computes, layer by layer."""

import pytest
import torch
from tests.ptq.four_images import LINEARS, quantized
from tests.tiny import VARIANTS, generator, images, wrap
from torch import nn

from quee_hf import quantize
from quee_hf.ptq import TorchDynamic
from quee_hf.ptq.observation import Seen
from quee_hf.quantization.layout import ProductLayout
from quee_hf.quantization.linear import MultiLevelLinear
from quee_hf.schemes import QuantizationScheme

# It still is what LRA-EE uses, and its kernels are what counts.
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.skipif(
        "x86" not in torch.backends.quantized.supported_engines, reason="Its kernels are those for x86."
    ),
]


def torchs(weight, bias):
    """The layer as PyTorch quantizes it."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear}, dtype=torch.qint8)


def ours(weight, bias, product="fc1"):
    method = TorchDynamic()
    scheme = QuantizationScheme(method="torch_dynamic", num_images=1, **method.layout())
    layer = MultiLevelLinear(
        weight.shape[1],
        weight.shape[0],
        has_bias=bias is not None,
        layout=ProductLayout([8], scheme, 1, product),
    )
    if bias is not None:
        layer.bias.copy_(bias)
    codes, parameters = method.prepare_linear(layer, weight, Seen((weight[None],)), 0)(8, None)
    assert parameters == {}
    layer.store(8, codes)
    return layer


def assert_same(found, expected, weight, x):
    """Equal but for float32 rounding, and for at most a few inputs that are near a tie."""
    # A step of an input, times the largest weight, is what one code less or more makes.
    step = (x.amax().clamp(min=0) - x.amin().clamp(max=0)) / 127
    difference = (found - expected).abs()
    assert (difference <= 1.01 * step * weight.abs().max() + 1e-4).all()
    # Scales are rounded in another order: 1e-5 of sums of some 10 products.
    close = difference <= 1e-5 * (1 + expected.abs())
    assert close.float().mean() > 0.99


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("size_in", "size_out"), [(13, 7), (64, 33), (768, 10)])
@pytest.mark.parametrize("seed", range(3))
def test_a_random_layer_at_batch_size_1(size_in, size_out, has_bias, seed):
    random = generator(seed)
    weight = torch.randn(size_out, size_in, generator=random) / size_in**0.5
    bias = torch.randn(size_out, generator=random) if has_bias else None
    x = 2 * torch.randn(1, 17, size_in, generator=random) + 0.3
    assert_same(ours(weight, bias)(x, 8), torchs(weight, bias)(x), weight, x)


@pytest.mark.parametrize("sign", [1, -1])
def test_weight_codes_are_pytorchs(sign):
    """The largest weight is half a step beyond a code: whether a quotient or a product is rounded matters."""
    for seed in range(50):
        weight = sign * torch.randn(33, 64, generator=generator(seed))
        stored = ours(weight, None).load_codes(8)
        packed = torchs(weight, None)[0].weight()
        assert torch.equal(packed.int_repr(), stored.codes)
        assert (stored.scale.double() == packed.q_scale()).all()


@pytest.fixture(scope="module", params=["vit", "dinov2-swiglu", "vit-no-qkv-bias"])
def made(request):
    return quantized("torch_dynamic", request.param, levels=["fp32", 8, 4])


@pytest.mark.parametrize("name", LINEARS)
def test_layers_of_a_model_at_batch_size_1(made, name):
    layer = made.product(name)
    num_matrices = 3 if name == "qkv" else 1
    biases = [None] * 3 if layer.bias is None else layer.bias.chunk(num_matrices)
    theirs = [torchs(w, b) for w, b in zip(layer.weight.chunk(num_matrices), biases, strict=False)]
    for image in made.seen[name].inputs[0].split(1):
        expected = torch.cat([each(image) for each in theirs], dim=-1)
        assert_same(layer(image, 8), expected, layer.weight, image)


def test_queries_keys_and_values_have_a_scale_each(made):
    for bits in (8, 4):
        scales = made.product("qkv").load_codes(bits).scale.view(3, -1)
        weights = made.product("qkv").weight.view(3, -1)
        assert (scales == scales[:, :1]).all()
        torch.testing.assert_close(
            scales[:, 0], weights.abs().amax(dim=1) / ((2**bits - 1) / 2), rtol=1e-6, atol=0
        )
    for name in ("output", "fc1", "fc2"):
        assert len(made.product(name).load_codes(8).scale.unique()) == 1


def test_attention_is_not_quantized(made):
    for name in ("scores", "mix"):
        product = made.product(name)
        assert not product.state_dict()
        left, right = made.seen[name].inputs
        assert torch.equal(product(left, right, 8), left @ right)


def test_calibration_images_do_not_matter():
    one, other = (wrap(VARIANTS["vit"].build(num_blocks=1), levels=[8]) for _ in range(2))
    quantize(one, images(4), method="torch_dynamic")
    quantize(other, images(2, seed=77), method="torch_dynamic")
    for name, tensor in one.trunk.state_dict().items():
        assert torch.equal(other.trunk.state_dict()[name], tensor)
