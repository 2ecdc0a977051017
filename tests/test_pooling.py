"""Tests of `quee_hf.pooling` on tokens that can be averaged by hand."""

import pytest
import torch

from quee_hf.pooling import pool, pooled_size

# One image: a class token, a register, two patches.
TOKENS = torch.tensor([[[1.0, 2.0], [100.0, 100.0], [3.0, 5.0], [7.0, 9.0]]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("cls", [1.0, 2.0]), ("mean", [5.0, 7.0]), ("cls_and_mean", [1.0, 2.0, 5.0, 7.0])],
)
def test_by_hand_prefix_tokens_are_not_averaged(pooling, expected):
    assert pool(TOKENS, pooling, num_prefix_tokens=2).tolist() == [expected]
    assert pooled_size(2, pooling) == len(expected)


def test_without_registers_every_token_but_the_first_is_a_patch():
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 5.0], [7.0, 9.0]]])
    assert pool(tokens, "mean", num_prefix_tokens=1).tolist() == [[5.0, 7.0]]
