"""Tests of `code_products`: the integer kernel, the float kernel and Python's integers give the same numbers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference.quantization import integer_linear
from tests.tiny import generator

import quee_hf
from quee_hf.quantization import products
from quee_hf.quantization.products import code_products, has_fast_int8

KERNELS = [True, False]


@pytest.fixture(params=KERNELS, ids=["integers", "floats"])
def kernel(request, monkeypatch):
    if request.param and not has_fast_int8():
        pytest.skip("This CPU multiplies floats.")
    monkeypatch.setattr(products, "has_fast_int8", lambda: request.param)


def codes(shape, low, high, seed=0):
    return torch.randint(low, high + 1, shape, generator=generator(seed))


@pytest.mark.parametrize("zero_point", [0, 1, 127, 128, 200, 255])
@pytest.mark.parametrize("shape", [(5, 13), (2, 3, 13), (1, 13), (2, 2, 2, 13), (0, 13)])
def test_8_bits_with_any_zero_point(kernel, zero_point, shape):
    x, weight = codes(shape, -zero_point, 255 - zero_point), codes((7, 13), -128, 127, seed=1)
    for lowest in (-zero_point, torch.tensor(-zero_point, dtype=torch.int32)):
        found = code_products(x.float(), weight.to(torch.int8), lowest)
        assert found.dtype == torch.float32
        expected = integer_linear(x.reshape(-1, 13).numpy(), weight.numpy()).reshape(*shape[:-1], 7)
        assert np.array_equal(found.numpy(), expected)


def test_each_image_may_have_its_own_lowest(kernel):
    zero_points = torch.tensor([0, 40, 127], dtype=torch.int32)[:, None, None]
    x = codes((3, 4, 13), 0, 127) - zero_points
    weight = codes((7, 13), -128, 127, seed=1)
    found = code_products(x.float(), weight.to(torch.int8), -zero_points)
    expected = [integer_linear(image.numpy(), weight.numpy()) for image in x]
    assert np.array_equal(found.numpy(), np.stack(expected))


@given(data=st.data())
def test_extreme_codes_do_not_overflow(data):
    """Sums of products of two full bytes do not fit in 16 bits, which some kernels add them up in."""
    size = data.draw(st.integers(1, 512))
    zero_point = data.draw(st.sampled_from([0, 128, 255]))
    x = torch.full((3, size), float(data.draw(st.sampled_from([-zero_point, 255 - zero_point]))))
    weight = torch.full((4, size), data.draw(st.sampled_from([-128, 127])), dtype=torch.int8)
    expected = float(int(x[0, 0]) * int(weight[0, 0]) * size)
    assert (code_products(x, weight, -zero_point) == expected).all()


def test_codes_that_span_more_than_a_byte_are_floats(kernel):
    x, weight = codes((5, 13), -300, 1023), codes((7, 13), -128, 127, seed=1)
    found = code_products(x.float(), weight.to(torch.int8))
    assert np.array_equal(found.numpy(), integer_linear(x.numpy(), weight.numpy()))


@pytest.mark.parametrize("size", [1, 17, 257, 768])
def test_both_kernels_agree_at_sizes_of_real_layers(size, monkeypatch):
    if not has_fast_int8():
        pytest.skip("This CPU multiplies floats.")
    x, weight = codes((2, 5, size), -31, 224), codes((33, size), -128, 127, seed=1).to(torch.int8)
    fast = code_products(x.float(), weight, -31)
    monkeypatch.setattr(products, "has_fast_int8", lambda: False)
    # 768 * 224 * 128 is above 2**24, but random signs keep the sums far below it.
    assert torch.equal(fast, code_products(x.float(), weight, -31))


def test_the_inputs_are_not_changed(kernel):
    x, weight = codes((5, 13), -3, 252).float(), codes((7, 13), -128, 127, seed=1).to(torch.int8)
    before = x.clone(), weight.clone()
    code_products(x, weight, -3)
    assert torch.equal(x, before[0])
    assert torch.equal(weight, before[1])


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE", "AVX512_CORE_VNNI", "DEFAULT"])
def test_products_are_exact_on_other_processors(instructions):
    """oneDNN adds up in 16 bits, and clips, where a processor lacks VNNI: integers must not be used there."""
    code = (
        "import torch; from quee_hf.quantization.products import code_products\n"
        "x, w = torch.full((5, 64), 255.0), torch.full((32, 64), 127, dtype=torch.int8)\n"
        "assert (code_products(x, w, 0) == 255 * 127 * 64).all(), code_products(x, w, 0)[0, 0]\n"
    )
    # oneDNN reads it when it starts, hence another process.
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    environment["PYTHONPATH"] = str(Path(quee_hf.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
