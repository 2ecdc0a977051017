"""Tests of `quee_hf.quantization.packing`: exact for every width and size, against one large Python integer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference.quantization import pack

from quee_hf.quantization.packing import pack_codes, packed_size, unpack_codes


@st.composite
def codes_and_bits(draw):
    bits = draw(st.integers(2, 8))
    half = 2 ** (bits - 1)
    shape = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
    size = torch.Size(shape).numel()
    values = draw(st.lists(st.integers(-half, half - 1), min_size=size, max_size=size))
    return torch.tensor(values, dtype=torch.int8).reshape(shape), bits


@given(codes_and_bits())
def test_packing_equals_the_reference_and_is_undone_exactly(case):
    codes, bits = case
    packed = pack_codes(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (packed_size(codes.numel(), bits),)
    assert bytes(packed.tolist()) == pack(codes.flatten().tolist(), bits)
    restored = unpack_codes(packed, tuple(codes.shape), bits)
    assert restored.dtype == torch.int8
    assert torch.equal(restored, codes)


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_code_of_every_width(bits):
    half = 2 ** (bits - 1)
    codes = torch.arange(-half, half)
    for count in range(len(codes) + 1):  # every way that a stream may end within a byte
        part = codes[len(codes) - count :]
        assert torch.equal(unpack_codes(pack_codes(part, bits), (count,), bits).long(), part)


@pytest.mark.parametrize("bits", range(2, 9))
def test_packing_saves_what_it_promises(bits):
    assert packed_size(8, bits) == bits
    assert packed_size(9, bits) == bits + (1 if bits == 8 else -(-bits // 8))
    assert packed_size(0, bits) == 0


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("side", [-1, 1], ids=["below", "above"])
def test_a_code_that_does_not_fit_is_refused(bits, side):
    half = 2 ** (bits - 1)
    code = half if side == 1 else -half - 1
    with pytest.raises(ValueError, match=rf"must fit in {bits} signed bits, got .*{code}"):
        pack_codes(torch.tensor([0, code]), bits)
