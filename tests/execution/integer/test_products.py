"""Tests of products of codes: every kernel gives what whole numbers give."""

import pytest
import torch
from tests.tiny import generator
from torch.nn import functional

from quee_hf.execution.integer import products
from quee_hf.execution.integer.bytes import ByteRange
from quee_hf.execution.integer.products import (
    IntMmProduct,
    OneDnnProduct,
    PlainProduct,
    has_onednn,
    make_product,
    signed_products,
)

ZERO_POINT = 37
onednn = pytest.param(
    OneDnnProduct, marks=pytest.mark.skipif(not has_onednn(), reason="oneDNN does not multiply codes here.")
)
every_kind = pytest.mark.parametrize("kind", [PlainProduct, IntMmProduct, onednn])


def operands(rows=19, size=64, outputs=24):
    random = generator(rows)
    codes = torch.randint(0, 256, (rows, size), generator=random).to(torch.uint8)
    weight = torch.randint(-128, 128, (outputs, size), generator=random).to(torch.int8)
    # Layer scales may make a scale negative.
    scale = 1e-4 * torch.randn(outputs, generator=random)
    return codes, weight, scale, torch.randn(outputs, generator=random)


def exact(codes, weight):
    return (codes.double() - ZERO_POINT) @ weight.double().T


@every_kind
class TestProduct:
    @pytest.mark.parametrize("rows", [1, 19, 300])
    def test_equals_that_of_whole_numbers(self, kind, rows):
        codes, weight, scale, bias = operands(rows)
        found = kind(weight, scale, bias, ZERO_POINT)(codes)
        torch.testing.assert_close(found, (exact(codes, weight) * scale + bias).float(), rtol=1e-5, atol=1e-5)

    def test_is_added_in_place(self, kind):
        codes, weight, scale, bias = operands()
        product = kind(weight, scale, bias, ZERO_POINT)
        x = torch.randn(19, 24, generator=generator(1))
        expected = x + product(codes)
        assert product.add_to(x, codes).data_ptr() == x.data_ptr()
        torch.testing.assert_close(x, expected)

    @pytest.mark.parametrize("bits", [4, 8])
    def test_gelu_differs_by_a_code_at_most(self, kind, bits):
        """Where GELU lies near the middle between two codes; elsewhere not at all."""
        codes, weight, scale, bias = operands(300)
        product = kind(weight, scale, bias, ZERO_POINT)
        found = ByteRange(4 / 2**bits, 2, bits)
        expected = functional.gelu(product(codes)).div(found.scale).round().add(2).clamp(0, 2**bits - 1)
        difference = (product.gelu_codes(codes, found).float() - expected).abs()
        assert difference.max() <= 1
        assert difference.mean() < 1e-3


@pytest.mark.parametrize("rows", [1, 19, 300])
def test_int_mm_is_exact(rows):
    codes, weight, *_ = operands(rows)
    before = codes.clone()
    found = signed_products(codes, weight)
    assert found.dtype == torch.int32
    assert torch.equal(found.double(), (codes.double() - 128) @ weight.double().T)
    assert torch.equal(codes, before)


@pytest.mark.parametrize("rows", [1, 16, 17, 31, 32, 33])
def test_int_mm_is_given_what_cuda_takes(rows, monkeypatch):
    """More than 16 rows, both sizes of the weight multiples of 8, and the weight's transpose a view."""
    given, plain = [], torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda *matrices: given.append(matrices) or plain(*matrices))
    assert len(signed_products(*operands(rows)[:2])) == rows
    (left, right), *_ = given
    assert len(left) > 16
    assert left.dtype == right.dtype == torch.int8
    assert left.is_contiguous()
    assert right.t().is_contiguous()


@pytest.mark.parametrize(("size", "outputs", "kind"), [(64, 24, IntMmProduct), (63, 24, PlainProduct)])
def test_sizes_decide_on_cuda(size, outputs, kind, monkeypatch):
    weight = torch.ones(outputs, size, dtype=torch.int8)
    monkeypatch.setattr(torch.Tensor, "device", torch.device("cuda"))
    assert type(make_product(weight, torch.ones(outputs), torch.ones(outputs), ZERO_POINT)) is kind


def test_without_onednn_products_are_the_models(monkeypatch):
    monkeypatch.setattr(products, "has_onednn", lambda: False)
    assert type(make_product(*operands()[1:], ZERO_POINT)) is PlainProduct


def test_a_processor_without_the_operator_is_noticed(monkeypatch):
    def refuse(*_):
        raise RuntimeError("not implemented for this processor")

    monkeypatch.setattr(OneDnnProduct, "__call__", refuse)
    assert not has_onednn.__wrapped__()
